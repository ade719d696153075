//! What happens: load at a fixed rate over a 90/10 split, a process killed, the split edited to 50/50 and to 0/100, and
//! meanwhile redis, gRPC, nginx and a client outside the mesh.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::DemoArgs;
use super::report::Figures;
use super::screen::Screen;
use super::world::{World, route};
use crate::apps::grpc::GrpcReport;
use crate::apps::now_ms;
use crate::capture::{Capture, Spoke, TLS_1_3, Traffic, X25519_MLKEM768};
use crate::stats::{self, Sent, Served};
use crate::{Pod, Result};

/// In every request's header, and nowhere else in the world.
const MARKER: &str = "weft-demo-marker-7f3a9c51";
const XFCC: &str = "x-forwarded-client-cert";
/// How long 50/50 and 0/100 last.
const SHORT: Duration = Duration::from_secs(6);

pub(super) fn play(args: &DemoArgs, world: &mut World) -> Result<Figures> {
    let mut figures = Figures::default();
    count_attempts(&world.reviews[0].0)?;
    let rate = args.rate.to_string();
    let header = format!("x-demo: {MARKER}");
    let load = ["load", "--address", "reviews:80", "--rate", &rate, "--header", &header, "--id", "demo"];
    let mut load = world.client.app("load", &load)?;
    let mut screen = Screen::new(&load, world.reviews.iter().map(|(pod, app)| (pod.name(), app)));

    // 90/10, long enough for the number of requests asked for; two thirds in, one of the two v1 apps dies.
    let long = Duration::from_secs_f64(f64::from(args.requests) / f64::from(args.rate));
    let started = now_ms();
    screen.watch("90/10", Duration::from_secs(2));
    checks(world, &mut figures);
    screen.watch("90/10", (long * 2 / 3).saturating_sub(since(started)));
    let attempts_before = attempts(&world.reviews[0].0)?;
    world.kill_v1();
    let killed = now_ms();
    screen.watch("90/10, one v1 killed", long.saturating_sub(since(started)));
    figures.attempts_at_dead = attempts(&world.reviews[0].0)?.saturating_sub(attempts_before);

    let halves = now_ms();
    route(&world.mesh, 50, 50)?;
    screen.watch("50/50", SHORT);
    let none = now_ms();
    route(&world.mesh, 0, 100)?;
    screen.watch("0/100", SHORT);

    load.signal(Signal::SIGTERM);
    load.wait(Duration::from_secs(20))?;
    screen.done();
    let traffic = world.capture.take().map_or_else(|| Ok(Traffic::default()), Capture::finish)?;

    let sent: Vec<Sent> = stats::lines(load.log());
    let served: Vec<Served> = world.reviews.iter().flat_map(|(_, app)| stats::lines(app.log())).collect();
    figures.requests = sent.len();
    for one in sent.iter().filter(|one| !one.ok()) {
        figures.failed += 1;
        *figures.failures.entry(one.error.clone()).or_default() += 1;
    }
    let mut latencies: Vec<_> = sent.iter().map(|one| one.micros).collect();
    figures.p50_micros = stats::quantile(&mut latencies, 0.5);
    figures.p99_micros = stats::quantile(&mut latencies, 0.99);

    // The split, read at the servers: a request that was tried twice counts where it was answered.
    let last_seen: HashMap<&str, &Served> = served.iter().map(|one| (one.id.as_str(), one)).collect();
    let shares = |from: u64, to: u64| {
        let (mut v1, mut v2) = (0, 0);
        for one in last_seen.values().filter(|one| one.id.starts_with("demo-") && (from..to).contains(&one.at_ms)) {
            if one.server.contains("-v1-") { v1 += 1 } else { v2 += 1 }
        }
        (v1, v2)
    };
    // A second around each edit belongs to neither.
    figures.split_90_10 = shares(started, halves);
    figures.split_50_50 = shares(halves + 1000, none);
    figures.split_0_100 = shares(none + 1000, u64::MAX);
    let late = served.iter().filter(|one| one.at_ms >= none && one.server.contains("-v1-")).map(|one| one.at_ms).max();
    figures.config_to_effect_ms = late.map_or(0, |late| late - none);
    figures.answered_by_dead_after_kill =
        served.iter().filter(|one| one.server == world.reviews[0].0.name() && one.at_ms > killed).count();

    // Who each side knows the other to be, as the apps were told.
    let expected = format!("By={};URI={}", world.reviews[0].0.identity(), world.client.identity());
    let cert = |one: &Served| one.headers.iter().find(|(name, _)| name == XFCC).map(|(_, value)| value.clone());
    let ours: Vec<_> = served.iter().filter(|one| one.id.starts_with("demo-")).collect();
    figures.served = ours.len();
    figures.served_to_verified = ours.iter().filter(|one| cert(one).as_deref() == Some(&expected)).count();
    figures.identities = ours.iter().filter_map(|one| cert(one)).collect::<BTreeSet<_>>().into_iter().collect();

    // What was on the wire.
    let meshed: Vec<IpAddr> = world.reviews.iter().flat_map(|(pod, _)| [pod.v4(), pod.v6()]).collect();
    let client = [world.client.v4(), world.client.v6()];
    let between = traffic.to(&meshed, |port| port == 8080).filter(|c| client.contains(&c.client.ip()));
    for connection in between {
        figures.connections += 1;
        match connection.spoke() {
            Spoke::MeshTls { version: TLS_1_3, group: X25519_MLKEM768 } => figures.mesh_tls_connections += 1,
            _ => figures.other_connections += 1,
        }
    }
    figures.marker_seen = traffic.with(MARKER.as_bytes());
    figures.packets = traffic.packets;
    Ok(figures)
}

fn since(start_ms: u64) -> Duration {
    Duration::from_millis(now_ms().saturating_sub(start_ms))
}

/// Everything that is not load.
fn checks(world: &World, figures: &mut Figures) {
    let redis =
        |args: &[&str]| world.try_in(&world.client, "redis-cli", &[&["redis-cli", "-h", "redis"], args].concat());
    let set = redis(&["SET", "demo", "woven"]).is_some_and(|answer| answer.contains("OK"));
    figures.redis = set && redis(&["GET", "demo"]).is_some_and(|answer| answer.contains("woven"));

    let client = ["/run/weft/bin/weft-e2e", "grpc-client", "--url", "http://grpc:50051", "--count", "50"];
    let answer = world.try_in(&world.client, "grpc", &client).unwrap_or_default();
    figures.grpc = answer.lines().filter_map(|line| serde_json::from_str::<GrpcReport>(line).ok()).any(|report| {
        let GrpcReport { unary, server_stream, client_stream, bidi, trailers } = report;
        [unary, server_stream, client_stream, bidi] == [50; 4] && trailers
    });

    let curl =
        |pod: &Pod, url: &str| world.try_in(pod, "curl", &["curl", "-s", "-i", "-m", "5", url]).unwrap_or_default();
    figures.nginx = curl(&world.client, "http://web/").to_lowercase().contains("server: nginx");

    // The plain client is answered where it is allowed, refused where it is not; a meshed one is answered there too.
    figures.plain_allowed = curl(&world.outsider, "http://reviews/").contains("reviews-v1-b");
    let before = stats::lines::<Served>(world.vault.1.log()).len();
    figures.strict_refused = curl(&world.outsider, "http://vault/").is_empty()
        && stats::lines::<Served>(world.vault.1.log()).len() == before;
    figures.strict_allowed = curl(&world.client, "http://vault/").contains("vault");
}

/// Counts, in the pod's own kernel, how often its sidecar tries to reach its app: what is seen of ejection from
/// outside.
fn count_attempts(pod: &Pod) -> Result<()> {
    pod.sh(&format!(
        "nft -f - <<'END'\ntable inet attempts {{\n counter app {{ }}\n chain output {{\n  type filter hook output priority 0;\n  ip \
         daddr {} tcp dport 8080 tcp flags & (syn | ack) == syn counter name app\n }}\n}}\nEND",
        pod.v4()
    ))
    .map(drop)
}

/// How many so far.
fn attempts(pod: &Pod) -> Result<u64> {
    let text = pod.sh("nft list counters table inet attempts")?;
    let packets = text.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    Ok(packets.and_then(|count| count.parse().ok()).unwrap_or(0))
}
