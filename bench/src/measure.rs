//! One case, measured: every subject is started, warmed up, and then they take turns.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use crate::apps::Outcome;
use crate::case::{Case, Load};
use crate::cpu::CpuTime;
use crate::error::{Error, Result};
use crate::load;
use crate::metric::{Metric, Unit};
use crate::subject::{NO_PROXY, Subject};
use crate::world::{Stage, World, proof};

/// Every value of every repeat, in the order of the repeats.
pub(crate) type Runs = BTreeMap<(Subject, Metric), Vec<f64>>;

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) seconds: f64,
    pub(crate) repeats: u32,
    /// How many turns each subject gets where latency is measured.
    pub(crate) latency_repeats: u32,
    /// Before the first turn of each subject: pools fill, code and tables come into the caches.
    pub(crate) warm_up: f64,
}

impl Effort {
    /// What one case gets. Percentiles of latency are the machine's as much as the subject's: a moment in which it does
    /// something else is the p99 of that turn. So there, turns are shorter and many more: such moments spoil fewer than half of
    /// them, and the median is of the others.
    fn for_case(self, case: Case) -> Self {
        let seconds = match case.plan().load {
            Load::OpenLoop(_) => self.latency_seconds(),
            // Of a shorter turn the moment in which the one begins to stall is more than the last percent.
            Load::Stalled => self.latency_seconds().max(2.0),
            _ => return self,
        };
        Self { repeats: self.latency_repeats, seconds, ..self }
    }

    /// How long a turn is where latency is measured, in s: at 2,000 requests a second, the slowest 20 of each second are its last percent.
    pub(crate) fn latency_seconds(self) -> f64 {
        self.seconds / 2.0
    }
}

/// Measures `case` for `subjects`.
///
/// # Errors
/// When anything fails, a single request included.
pub(crate) fn case(case: Case, subjects: &[Subject], effort: Effort, envoy: &Path) -> Result<Runs> {
    let effort = effort.for_case(case);
    let world = World::start(case, subjects, envoy, load::probe)?;
    for stage in &world.stages {
        turn(case, stage, effort.warm_up)?;
    }
    let mut runs = Runs::new();
    for repeat in 1..=effort.repeats {
        for place in order(repeat, world.stages.len()) {
            let stage = &world.stages[place];
            let metrics = turn(case, stage, effort.seconds)?;
            let shown: Vec<_> = metrics.iter().map(|(metric, value)| format!("{} {value:.2}", metric.name())).collect();
            progress(format_args!(
                "{} {repeat}/{}: {:<14} {}",
                case.name(),
                effort.repeats,
                stage.subject.to_string(),
                shown.join("  ")
            ));
            for (metric, value) in metrics {
                runs.entry((stage.subject, metric)).or_default().push(value);
            }
        }
    }
    proof::check_resumed(&world)?;
    add_differences(&mut runs);
    Ok(runs)
}

/// In which order the subjects have their turns in a round: each begins one after the other, and rounds go forwards and backwards in
/// turn, or one of them would always run after the same other, whose caches and clock it inherits.
fn order(round: u32, subjects: usize) -> impl Iterator<Item = usize> {
    let forwards = round % 2 == 1;
    (0..subjects).map(move |nth| (round as usize + if forwards { nth } else { subjects - nth }) % subjects)
}

/// A line of progress, for people.
pub(crate) fn progress(line: std::fmt::Arguments<'_>) {
    eprintln!("{line}");
}

/// One turn of a subject; what it came to.
///
/// # Errors
/// When the load generator fails, or a single request.
pub(crate) fn turn(case: Case, stage: &Stage, seconds: f64) -> Result<Vec<(Metric, f64)>> {
    let before = CpuTime::read(&stage.proxies);
    let started = Instant::now();
    let outcome = load::run(stage, seconds)?;
    let wall = started.elapsed().as_secs_f64();
    let cpu = CpuTime::read(&stage.proxies).since(&before).as_secs_f64();
    if outcome.failed > 0 || outcome.operations == 0 {
        return Err(Error::Failed {
            case: case.name(),
            subject: stage.subject.to_string(),
            failed: outcome.failed,
            all: outcome.operations + outcome.failed,
            unit: stage.plan.unit.plural(),
            detail: outcome.detail,
        });
    }
    let mut metrics = rates(stage.plan.load, stage.plan.unit, &outcome);
    if !stage.proxies.is_empty() {
        metrics.extend(costs(stage.plan.load, stage.plan.unit, &outcome, cpu));
        metrics.push((Metric::CoreUse, cpu / wall));
    }
    Ok(metrics)
}

fn rates(load: Load, unit: Unit, outcome: &Outcome) -> Vec<(Metric, f64)> {
    match load {
        Load::Bulk => vec![(Metric::GbPerSecond, outcome.bytes as f64 / 1e9 / outcome.seconds)],
        Load::OpenLoop(_) => vec![(Metric::P50, outcome.p50_us), (Metric::P99, outcome.p99_us)],
        Load::Stalled => vec![
            (Metric::P99, outcome.p99_us),
            (Metric::P99Clear, outcome.p99_clear_us),
            (Metric::P99Grows, outcome.p99_us / outcome.p99_clear_us),
        ],
        _ => vec![(Metric::Rate(unit), outcome.operations as f64 / outcome.seconds)],
    }
}

fn costs(load: Load, unit: Unit, outcome: &Outcome, cpu: f64) -> Option<(Metric, f64)> {
    match load {
        Load::Bulk => Some((Metric::CpuPerGb, cpu / (outcome.bytes as f64 / 1e9))),
        _ => Some((Metric::Cpu(unit), cpu * 1e6 / outcome.operations as f64)),
    }
}

/// What a proxy adds, round by round: the machine's mood of the moment is in both figures of a round.
fn add_differences(runs: &mut Runs) {
    for (of, added) in [(Metric::P50, Metric::AddedP50), (Metric::P99, Metric::AddedP99)] {
        let Some(direct) = runs.get(&(NO_PROXY, of)).cloned() else { continue };
        let differences: Vec<_> = runs
            .iter()
            .filter(|((subject, metric), _)| *metric == of && *subject != NO_PROXY)
            .map(|((subject, _), values)| {
                let values = values.iter().zip(&direct).map(|(value, direct)| value - direct).collect();
                ((*subject, added), values)
            })
            .collect();
        runs.extend(differences);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::WEFT;

    #[test]
    fn each_subject_begins_a_round_and_nobody_follows_the_same_one_in_two_rounds_running() {
        let rounds: Vec<Vec<_>> = (1..=3).map(|round| order(round, 3).collect()).collect();
        assert_eq!(rounds, [[1, 2, 0], [2, 1, 0], [0, 1, 2]]);
        for subjects in 1..=6 {
            let rounds: Vec<Vec<_>> = (1..).take(subjects).map(|round| order(round, subjects).collect()).collect();
            let sorted = |mut places: Vec<usize>| {
                places.sort_unstable();
                places
            };
            let all: Vec<_> = (0..subjects).collect();
            assert_eq!(sorted(rounds.iter().map(|round| round[0]).collect()), all, "who begins: {rounds:?}");
            for round in &rounds {
                assert_eq!(sorted(round.clone()), all, "a turn each: {rounds:?}");
            }
            // Of two, one follows the other or begins.
            for (one, next) in rounds.iter().zip(&rounds[1..]).filter(|_| subjects > 2) {
                assert!(!one.windows(2).any(|pair| next.windows(2).any(|other| pair == other)), "{rounds:?}");
            }
        }
    }

    #[test]
    fn what_a_proxy_adds_is_taken_within_a_round() {
        let mut runs =
            Runs::from([((NO_PROXY, Metric::P50), vec![50.0, 150.0]), ((WEFT, Metric::P50), vec![130.0, 240.0])]);
        add_differences(&mut runs);
        assert_eq!(runs[&(WEFT, Metric::AddedP50)], [80.0, 90.0]);
        assert!(!runs.contains_key(&(NO_PROXY, Metric::AddedP50)));
    }
}
