//! The goal table of `docs/PERFORMANCE.md`, against what was seen.

use crate::case::Case;
use crate::metric::{Metric, Unit};
use crate::results::Results;
use crate::subject::{ENVOY, WEFT};

/// What a goal asks for.
#[derive(Debug, Clone, Copy)]
enum Limit {
    /// At least so many times better than Envoy.
    TimesBetter(f64),
    /// At most this part of Envoy's.
    PartOfEnvoy(f64),
    /// At most this, in the metric's unit.
    AtMost(f64),
}

struct Goal {
    what: &'static str,
    case: Case,
    metric: Metric,
    must: Limit,
    aim: Limit,
}

/// Where the time goes, and what was tried, of aims that have been missed: a section for each, called as the goal is.
const NOTES: &str = include_str!("aims.md");

/// One line of the comparison.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) what: &'static str,
    pub(crate) must: String,
    pub(crate) aim: String,
    pub(crate) seen: String,
    /// `None`: not measured in this run.
    pub(crate) must_met: Option<bool>,
    pub(crate) aim_met: Option<bool>,
}

const fn goal(what: &'static str, case: Case, metric: Metric, must: Limit, aim: Limit) -> Goal {
    Goal { what, case, metric, must, aim }
}

const fn times(what: &'static str, case: Case, metric: Metric, must: f64, aim: f64) -> Goal {
    goal(what, case, metric, Limit::TimesBetter(must), Limit::TimesBetter(aim))
}

const fn latency(what: &'static str, case: Case, metric: Metric, part: f64, aim: f64) -> Goal {
    goal(what, case, metric, Limit::PartOfEnvoy(part), Limit::AtMost(aim))
}

const fn memory(what: &'static str, metric: Metric, must: f64, aim: f64) -> Goal {
    goal(what, Case::Memory, metric, Limit::AtMost(must), Limit::AtMost(aim))
}

const REQUEST: Metric = Metric::Cpu(Unit::Request);
const CONNECTION: Metric = Metric::Cpu(Unit::Connection);
const HANDSHAKE: Metric = Metric::Cpu(Unit::Handshake);

#[rustfmt::skip]
const GOALS: [Goal; 16] = [
    times("HTTP/1.1 one hop, CPU per request", Case::H1, REQUEST, 2.0, 2.6),
    times("HTTP/2 one hop, CPU per request", Case::H2, REQUEST, 1.7, 2.2),
    times("mesh mTLS path, CPU per request", Case::Mesh, REQUEST, 1.9, 2.5),
    latency("added p50, one hop", Case::LatencyH1, Metric::AddedP50, 0.65, 110.0),
    latency("added p99, one hop", Case::LatencyH1, Metric::AddedP99, 0.6, 250.0),
    latency("added p50, mesh", Case::LatencyMesh, Metric::AddedP50, 0.65, 170.0),
    latency("added p99, mesh", Case::LatencyMesh, Metric::AddedP99, 0.6, 400.0),
    goal("p99 of 99 streams when one more stalls, times", Case::HeadOfLine, Metric::P99Grows, Limit::AtMost(2.0), Limit::AtMost(1.2)),
    memory("idle memory, MB", Metric::RssIdle, 20.0, 12.0),
    memory("memory for each idle connection, KB", Metric::RssPerConnection, 8.0, 4.5),
    memory("memory with 1,000 services × 5 endpoints in use, MB", Metric::RssServices, 60.0, 35.0),
    times("full mTLS handshake, CPU", Case::MtlsHandshake, HANDSHAKE, 1.15, 1.25),
    times("connections through two sidecars, CPU", Case::MeshConn, CONNECTION, 1.3, 1.45),
    times("plain TCP connections, CPU", Case::TcpConn, CONNECTION, 1.3, 1.5),
    times("plain TCP bulk, CPU", Case::TcpBulk, Metric::CpuPerGb, 1.0, 1.5),
    times("mTLS bulk through two sidecars, CPU", Case::MeshBulk, Metric::CpuPerGb, 0.95, 1.1),
];

/// Every goal, in the order of the table.
pub(crate) fn verdicts(results: &Results) -> Vec<Verdict> {
    GOALS.iter().map(|goal| goal.verdict(results)).collect()
}

impl Verdict {
    /// What is known of why an aim is missed.
    pub(crate) fn note(&self) -> Option<&'static str> {
        notes().find(|(what, _)| *what == self.what).map(|(_, text)| text)
    }
}

/// Of each section of the notes what it is about, and its text.
fn notes() -> impl Iterator<Item = (&'static str, &'static str)> {
    NOTES.split("### ").filter_map(|section| section.split_once('\n')).map(|(what, text)| (what, text.trim()))
}

impl Goal {
    fn verdict(&self, results: &Results) -> Verdict {
        let ours = results.get(self.case, WEFT, self.metric);
        let envoy = results.get(self.case, ENVOY, self.metric);
        let value = ours.map(|row| row.value);
        let times = ours.and_then(|row| row.ratio_vs_envoy);
        let met = |limit: Limit| match limit {
            Limit::TimesBetter(least) => times.map(|times| times >= least),
            // Nothing added at all is no part of anything, and as good as can be.
            Limit::PartOfEnvoy(most) => {
                let envoy = envoy.map(|row| row.value).filter(|envoy| *envoy > 0.0)?;
                value.map(|value| value <= most * envoy)
            }
            Limit::AtMost(most) => value.map(|value| value <= most),
        };
        let seen = match (value, envoy, self.must) {
            (Some(value), Some(envoy), Limit::PartOfEnvoy(_)) if envoy.value > 0.0 => {
                format!("{value:.0} µs, {:.2}× Envoy's {:.0}", value / envoy.value, envoy.value)
            }
            (Some(value), Some(envoy), Limit::TimesBetter(_)) => match times {
                Some(times) => format!("{times:.2}× ({value:.2} to {:.2})", envoy.value),
                None => format!("{value:.2}"),
            },
            (Some(value), _, _) => format!("{value:.1}"),
            (None, _, _) => "not measured".to_owned(),
        };
        Verdict {
            what: self.what,
            must: self.must.to_string(),
            aim: self.aim.to_string(),
            seen,
            must_met: met(self.must),
            aim_met: met(self.aim),
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TimesBetter(least) => write!(f, "{least}× better"),
            Self::PartOfEnvoy(most) => write!(f, "≤ {most}× Envoy's"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Runs;
    use crate::results::Row;

    #[test]
    fn each_note_is_of_a_goal() {
        let goals: Vec<_> = GOALS.iter().map(|goal| goal.what).collect();
        for (what, text) in notes() {
            assert!(goals.contains(&what) && !text.is_empty(), "{what}");
        }
        assert_eq!(notes().count(), NOTES.matches("### ").count());
        for verdict in verdicts(&Results::default()) {
            let own = notes().find(|(what, _)| *what == verdict.what).map(|(_, text)| text);
            assert_eq!(verdict.note(), own, "{}", verdict.what);
        }
    }

    #[test]
    fn each_form_of_goal_is_met_and_missed_on_the_right_side() {
        let rows = [
            (Case::H1, REQUEST, 20.0, 41.0, true, false),
            (Case::H1, REQUEST, 10.0, 41.0, true, true),
            (Case::H1, REQUEST, 30.0, 41.0, false, false),
            (Case::LatencyH1, Metric::AddedP50, 100.0, 178.0, true, true),
            (Case::LatencyH1, Metric::AddedP50, 120.0, 178.0, false, false),
            (Case::LatencyH1, Metric::AddedP50, -2.0, 178.0, true, true),
            (Case::Memory, Metric::RssIdle, 15.0, 64.0, true, false),
            (Case::MeshBulk, Metric::CpuPerGb, 1.4, 1.4, true, false),
        ];
        for (case, metric, weft, envoy, must, aim) in rows {
            let runs = Runs::from([((WEFT, metric), vec![weft]), ((ENVOY, metric), vec![envoy])]);
            let results = Results { rows: Row::of(case, &runs) };
            let goal = GOALS.iter().find(|goal| goal.case == case && goal.metric == metric).unwrap();
            let verdict = goal.verdict(&results);
            assert_eq!(
                (verdict.must_met, verdict.aim_met),
                (Some(must), Some(aim)),
                "{case:?} {weft} to {envoy}: {verdict:?}"
            );
        }
        assert!(verdicts(&Results::default()).iter().all(|verdict| verdict.must_met.is_none()));
    }
}
