//! What it came to: each promise with what was seen, one line, and the same as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{Broken, DemoArgs};

/// More tries at a dead app than these mean that nobody was ejected: 5 in a row, those already under way, and a probe
/// every so often (1 s, doubling).
const ATTEMPTS_WHEN_EJECTED: u64 = 60;

/// Read from apps and from the wire.
#[derive(Debug, Default, Serialize)]
pub(super) struct Figures {
    pub(super) requests: usize,
    pub(super) failed: usize,
    pub(super) failures: BTreeMap<String, usize>,
    pub(super) p50_micros: u64,
    pub(super) p99_micros: u64,
    pub(super) split_90_10: (usize, usize),
    pub(super) split_50_50: (usize, usize),
    pub(super) split_0_100: (usize, usize),
    pub(super) config_to_effect_ms: u64,
    pub(super) attempts_at_dead: u64,
    pub(super) answered_by_dead_after_kill: usize,
    pub(super) served: usize,
    pub(super) served_to_verified: usize,
    pub(super) identities: Vec<String>,
    pub(super) connections: usize,
    pub(super) mesh_tls_connections: usize,
    pub(super) other_connections: usize,
    pub(super) marker_seen: usize,
    pub(super) packets: usize,
    pub(super) redis: bool,
    pub(super) grpc: bool,
    pub(super) nginx: bool,
    pub(super) plain_allowed: bool,
    pub(super) strict_refused: bool,
    pub(super) strict_allowed: bool,
}

/// One promise.
#[derive(Debug, Serialize)]
struct Row {
    promise: &'static str,
    seen: String,
    holds: bool,
}

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    holds: bool,
    /// Share of v1 and of v2 in percent, of `split_requests` under the 90/10 split.
    split_observed: (f64, f64),
    split_requests: usize,
    requests: usize,
    failed: usize,
    /// Requests that the app saw come from a verified peer, of all.
    mtls: (usize, usize),
    ejections: u32,
    config_to_effect_ms: u64,
    redis: bool,
    grpc: bool,
    strict_refused: bool,
    broken: Option<&'static str>,
    figures: Figures,
    rows: Vec<Row>,
}

fn share((v1, v2): (usize, usize)) -> (f64, f64) {
    let all = (v1 + v2).max(1) as f64;
    ((v1 as f64 / all * 1000.0).round() / 10.0, (v2 as f64 / all * 1000.0).round() / 10.0)
}

impl Report {
    pub(super) fn new(args: &DemoArgs, figures: Figures) -> Self {
        let split = share(figures.split_90_10);
        let halves = share(figures.split_50_50);
        let split_requests = figures.split_90_10.0 + figures.split_90_10.1;
        let ejected = figures.attempts_at_dead <= ATTEMPTS_WHEN_EJECTED;
        let clean = figures.marker_seen == 0 && figures.connections > 0 && figures.other_connections == 0;
        let row = |promise, seen: String, holds| Row { promise, seen, holds };
        let yes = |seen: bool| if seen { "ok" } else { "NO" }.to_owned();
        let rows = vec![
            row(
                "90/10 at the servers, within 1.5",
                format!("{}/{} over {split_requests}", split.0, split.1),
                (split.0 - 90.0).abs() <= 1.5,
            ),
            row(
                "at least 20,000 requests, at a fixed rate",
                format!("{} at {}/s", figures.requests, args.rate),
                figures.requests >= 20_000,
            ),
            row("no request failed", format!("{} {:?}", figures.failed, figures.failures), figures.failed == 0),
            row("50/50 after the edit, within 4", format!("{}/{}", halves.0, halves.1), (halves.0 - 50.0).abs() <= 4.0),
            row(
                "nothing to v1 after 0/100",
                format!("{} of {}", figures.split_0_100.0, figures.split_0_100.0 + figures.split_0_100.1),
                figures.split_0_100.0 == 0 && figures.split_0_100.1 > 0,
            ),
            row(
                "an edit is in effect within 1 s",
                format!("{} ms", figures.config_to_effect_ms),
                figures.config_to_effect_ms < 1000,
            ),
            row("the killed app is left alone", format!("{} tries in all", figures.attempts_at_dead), ejected),
            row(
                "every request from a verified peer",
                format!("{} of {}", figures.served_to_verified, figures.served),
                figures.served > 0 && figures.served_to_verified == figures.served,
            ),
            row(
                "TLS 1.3 with X25519MLKEM768 on the wire",
                format!("{} of {} connections", figures.mesh_tls_connections, figures.connections),
                clean,
            ),
            row(
                "nothing readable on the wire",
                format!("marker in {} connections, {} packets", figures.marker_seen, figures.packets),
                figures.marker_seen == 0 && figures.packets > 0,
            ),
            row("redis through the mesh", yes(figures.redis), figures.redis),
            row("gRPC through the mesh, all four forms", yes(figures.grpc), figures.grpc),
            row("nginx through the mesh", yes(figures.nginx), figures.nginx),
            row("a plain client where it is allowed", yes(figures.plain_allowed), figures.plain_allowed),
            row("a plain client refused by STRICT", yes(figures.strict_refused), figures.strict_refused),
            row("a meshed client answered by STRICT", yes(figures.strict_allowed), figures.strict_allowed),
        ];
        Self {
            holds: rows.iter().all(|row| row.holds),
            split_observed: split,
            split_requests,
            requests: figures.requests,
            failed: figures.failed,
            mtls: (if clean { figures.served_to_verified } else { 0 }, figures.served),
            ejections: u32::from(ejected),
            config_to_effect_ms: figures.config_to_effect_ms,
            redis: figures.redis,
            grpc: figures.grpc,
            strict_refused: figures.strict_refused && figures.strict_allowed,
            broken: args.broken.map(|broken| match broken {
                Broken::Retries => "retries",
                Broken::Mtls => "mtls",
                Broken::Eject => "eject",
            }),
            figures,
            rows,
        }
    }

    pub(super) fn holds(&self) -> bool {
        self.holds
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for Row { promise, seen, holds } in &self.rows {
            writeln!(f, "  {}  {promise:<42} {seen}", if *holds { "ok  " } else { "FAIL" })?;
        }
        for identity in &self.figures.identities {
            writeln!(f, "        seen by the app: {identity}")?;
        }
        let (p50, p99) = (self.figures.p50_micros as f64 / 1e3, self.figures.p99_micros as f64 / 1e3);
        writeln!(f, "        latency at the client: p50 {p50:.1} ms, p99 {p99:.1} ms")?;
        if let Some(broken) = self.broken {
            writeln!(f, "        with {broken} switched off, this has to fail")?;
        }
        let word = |good: bool, yes| if good { yes } else { "FAILED" };
        write!(
            f,
            "\ndemo: split 90/10 observed {}/{} over {} requests; failed {}; mtls {}/{}; ejected {}; redis {}; grpc {}; strict {}",
            self.split_observed.0,
            self.split_observed.1,
            self.split_requests,
            self.failed,
            self.mtls.0,
            self.mtls.1,
            self.ejections,
            word(self.redis, "ok"),
            word(self.grpc, "ok"),
            word(self.strict_refused, "refused ok"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> DemoArgs {
        DemoArgs { broken: None, hold: false, rate: 600, requests: 20_400, json: "x".into() }
    }

    fn good() -> Figures {
        Figures {
            requests: 27_000,
            split_90_10: (18_300, 2_100),
            split_50_50: (1_500, 1_500),
            split_0_100: (0, 3_000),
            config_to_effect_ms: 40,
            attempts_at_dead: 12,
            served: 27_000,
            served_to_verified: 27_000,
            connections: 6,
            mesh_tls_connections: 6,
            packets: 1,
            redis: true,
            grpc: true,
            nginx: true,
            plain_allowed: true,
            strict_refused: true,
            strict_allowed: true,
            ..Figures::default()
        }
    }

    #[test]
    fn the_last_line_is_the_one_promised() {
        let report = Report::new(&args(), good());
        assert!(report.holds());
        let text = report.to_string();
        assert_eq!(
            text.lines().last().unwrap(),
            "demo: split 90/10 observed 89.7/10.3 over 20400 requests; failed 0; mtls 27000/27000; ejected 1; redis ok; grpc ok; \
             strict refused ok"
        );
        assert!(report.json().contains("\"split_observed\""));
    }

    #[test]
    fn each_promise_broken_alone_is_noticed() {
        type Break = (&'static str, fn(&mut Figures));
        let breaks: [Break; 14] = [
            ("the split", |f| f.split_90_10 = (19_000, 1_400)),
            ("too few", |f| f.requests = 19_999),
            ("a failure", |f| f.failed = 1),
            ("the second split", |f| f.split_50_50 = (900, 100)),
            ("v1 after 0/100", |f| f.split_0_100 = (1, 3_000)),
            ("a slow edit", |f| f.config_to_effect_ms = 1_000),
            ("no ejection", |f| f.attempts_at_dead = 900),
            ("one unverified", |f| f.served_to_verified -= 1),
            ("one plain connection", |f| f.other_connections = 1),
            ("no connection seen", |f| f.connections = 0),
            ("the marker", |f| f.marker_seen = 1),
            ("redis", |f| f.redis = false),
            ("grpc", |f| f.grpc = false),
            ("strict", |f| f.strict_refused = false),
        ];
        for (what, break_it) in breaks {
            let mut figures = good();
            break_it(&mut figures);
            assert!(!Report::new(&args(), figures).holds(), "{what}");
        }
    }
}
