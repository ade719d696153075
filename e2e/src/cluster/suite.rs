//! The order of the cluster tests. They share one cluster, so which come first and which may run at once is decided here and
//! not by their names: a phase's tests run together, each in namespaces of its own, and the next phase begins when all have
//! ended. Two cores carry some of them at a time ([`AT_ONCE`]).
//!
//! `cluster [FILTER...]` runs those whose names contain one of the filters; `--list` names them all.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Cluster, write_figures};

/// Tests of one phase that run at the same time.
const AT_ONCE: usize = 6;

/// One test: a claim, and what shows it.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// The claim, as `theme::claim`.
    pub name: &'static str,
    /// Panics when it does not hold.
    pub run: fn(),
}

/// Tests that may run at once.
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    /// What they have in common.
    pub name: &'static str,
    /// The tests.
    pub tests: &'static [Test],
}

struct Ended {
    name: &'static str,
    took: Duration,
    ok: bool,
}

/// Runs them, says how each ended and what was measured. Fails when one fails, or when no name contains a filter.
pub fn run(phases: &[Phase]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (flags, filters): (Vec<_>, Vec<_>) = arguments.iter().partition(|argument| argument.starts_with("--"));
    let wanted = |test: &&Test| filters.is_empty() || filters.iter().any(|filter| test.name.contains(filter.as_str()));
    if flags.iter().any(|flag| *flag == "--list") {
        phases.iter().flat_map(|phase| phase.tests).for_each(|test| println!("{}: test", test.name));
        return ExitCode::SUCCESS;
    }
    let cluster = match Cluster::of_environment() {
        Ok(cluster) => cluster,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let began = Instant::now();
    let mut ended = Vec::new();
    for phase in phases {
        let tests: VecDeque<Test> = phase.tests.iter().filter(wanted).copied().collect();
        if tests.is_empty() {
            continue;
        }
        println!("== {}: {} tests, after {:.0?}", phase.name, tests.len(), began.elapsed());
        ended.extend(together(tests, &cluster));
    }
    println!("\nfigures:");
    let file = cluster.folder().with_file_name("cluster-figures.json");
    if let Err(error) = write_figures(&file) {
        eprintln!("{error}");
    }
    println!("\ntests:");
    for test in &ended {
        println!("  {:<7} {:>6.1} s  {}", if test.ok { "ok" } else { "FAILED" }, test.took.as_secs_f64(), test.name);
    }
    let failed = ended.iter().filter(|test| !test.ok).count();
    println!("\n{} passed, {failed} failed, in {:.0?}", ended.len() - failed, began.elapsed());
    if failed == 0 && !ended.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn together(tests: VecDeque<Test>, cluster: &Cluster) -> Vec<Ended> {
    let (waiting, ended) = (Mutex::new(tests), Mutex::new(Vec::new()));
    let next = || waiting.lock().ok()?.pop_front();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(test) = next() {
                    let outcome = one(test, cluster);
                    if let Ok(mut ended) = ended.lock() {
                        ended.push(outcome);
                    }
                }
            });
        }
    });
    ended.into_inner().unwrap_or_default()
}

/// In a thread of its name, which is what a panic's message begins with.
fn one(test: Test, cluster: &Cluster) -> Ended {
    let began = Instant::now();
    let thread = std::thread::Builder::new().name(test.name.to_owned());
    let spawned = thread.spawn(move || catch_unwind(AssertUnwindSafe(test.run)).is_ok());
    let ok = spawned.is_ok_and(|thread| thread.join().unwrap_or(false));
    let took = began.elapsed();
    let verdict = if ok { "ok    " } else { "FAILED" };
    let mut said = format!("{verdict} {} ({:.1} s)\n", test.name, took.as_secs_f64());
    if !ok {
        said += &match cluster.keep_evidence(test.name) {
            Ok(folder) => format!("       what the cluster had to say then: {}\n", folder.display()),
            Err(error) => format!("       nothing could be learned from the cluster: {error}\n"),
        };
        said += &cluster.complaints();
    }
    // At once, or those of tests that run at the same time would mix.
    print!("{said}");
    Ended { name: test.name, took, ok }
}
