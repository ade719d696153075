//! `weft-bench run`: one case after another, then the results.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::case::{Case, Load};
use crate::error::{Context, Error, Result};
use crate::machine::Machine;
use crate::measure::{Effort, progress};
use crate::results::{Results, Row};
use crate::subject::{Family, Subject};
use crate::{cpu, interrupt, measure, memory, report};

/// What to measure, and how long.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Which cases. Default: all.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<Case>,
    /// Whom. Default: all who take part in a case.
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<Family>,
    /// How long each turn takes at least, in s: `wrk` and `h2load` count in whole ones.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// How many turns each subject gets; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    repeats: u32,
    /// How many where latency is measured, half as long each; beside a stalled stream 2 s at least.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=499))]
    latency_repeats: u32,
    /// How long each subject is warmed up before its first turn, in s.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// The results, as JSON.
    #[arg(long, default_value = "target/bench/results.json")]
    results: PathBuf,
    /// The report. The results go beside it as well, under its name: `bench/RESULTS.md` has `bench/results.json`.
    #[arg(long, default_value = "target/bench/RESULTS.md")]
    report: PathBuf,
    /// Figures of `make test-cluster`, quoted at the report's end
    #[arg(long, default_value = "bench/cluster-figures.json", value_name = "FILE")]
    cluster_figures: PathBuf,
    /// The virtual environment with Envoy in it (`bench/setup/peers.sh`).
    #[arg(long, default_value = "target/bench/venv")]
    venv: PathBuf,
}

/// Measures and writes.
///
/// # Errors
/// The first thing that fails ends everything: figures of a run that went wrong are not for keeping.
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    interrupt::listen()?;
    cpu::leave_the_proxy_core()?;
    let envoy = envoy(&args.venv);
    let machine = Machine::look(&envoy);
    let effort = Effort {
        seconds: args.seconds,
        repeats: args.repeats,
        latency_repeats: args.latency_repeats,
        warm_up: args.warm_up,
    };
    let cases = if args.cases.is_empty() { Case::value_variants() } else { &args.cases };
    let wanted = |subject: &&Subject| args.subjects.is_empty() || args.subjects.contains(&subject.family);
    let planned: Vec<(Case, Vec<Subject>)> =
        cases.iter().map(|case| (*case, case.plan().subjects.iter().filter(wanted).copied().collect())).collect();
    // Often the same.
    let files = BTreeSet::from([args.results.clone(), beside(&args.report)]);
    for file in &files {
        let lost = lost(&std::fs::read_to_string(file).unwrap_or_default(), &planned);
        if !lost.is_empty() {
            let (file, lost) = (file.display(), lost.join(", "));
            return Err(Error::Machine(format!(
                "{file} holds results that this run leaves out, and they would be lost: {lost}. Name other files by --results and \
                 --report, or remove it"
            )));
        }
    }
    let mut rows = Vec::new();
    for (case, subjects) in planned {
        if subjects.is_empty() {
            progress(format_args!("{}: none of the chosen subjects takes part", case.name()));
            continue;
        }
        progress(format_args!("{}: starting {} subjects", case.name(), subjects.len()));
        let runs = match case.plan().load {
            Load::Memory => memory::measure(case, &subjects, effort.repeats, &envoy)?,
            _ => measure::case(case, &subjects, effort, &envoy)?,
        };
        rows.extend(Row::of(case, &runs));
    }
    let results = Results { rows };
    for file in &files {
        results.write(file)?;
    }
    let report = report::markdown(&results, &machine, effort) + &cluster_figures(&args.cluster_figures)?;
    write(&args.report, &report)?;
    let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    progress(format_args!("wrote {} and {}", files.join(", "), args.report.display()));
    Ok(())
}

/// Where the results go beside the report: kept with it, they say what its medians are of. Under its name, so that the report of a part
/// or of a quick run does not bring its results over those of the whole, which are in the same folder.
fn beside(report: &Path) -> PathBuf {
    let name = report.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    report.with_file_name(format!("{name}.json"))
}

/// What results on disk have and a run of `planned` would not, as `case subject`: half an hour of work.
fn lost(before: &str, planned: &[(Case, Vec<Subject>)]) -> Vec<String> {
    let rows: Vec<serde_json::Value> = serde_json::from_str(before).unwrap_or_default();
    let before: BTreeSet<_> =
        rows.iter().filter_map(|row| Some((row["case"].as_str()?, row["subject"].as_str()?))).collect();
    let is_planned = |case: &str, subject: &str| {
        planned
            .iter()
            .any(|(known, subjects)| known.name() == case && subjects.iter().any(|known| known.to_string() == subject))
    };
    let lost = before.into_iter().filter(|(case, subject)| !is_planned(case, subject));
    lost.map(|(case, subject)| format!("{case} {subject}")).collect()
}

/// The section about the cluster; empty where nobody measured.
fn cluster_figures(path: &Path) -> Result<String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error).context(|| format!("reading {}", path.display())),
    };
    let figures =
        serde_json::from_str(&text).map_err(std::io::Error::other).context(|| format!("reading {}", path.display()))?;
    Ok(report::cluster(&figures))
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).context(|| format!("creating {}", folder.display()))?;
    }
    std::fs::write(path, text).context(|| format!("writing {}", path.display()))
}

/// The program itself: what the package puts into `bin/` is a script that starts it.
fn envoy(venv: &Path) -> PathBuf {
    let versions = std::fs::read_dir(venv.join("lib")).into_iter().flatten().flatten();
    let mut programs = versions.map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    let found = programs.find(|program| program.is_file()).unwrap_or_else(|| venv.join("bin/envoy"));
    found.canonicalize().unwrap_or(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::{NO_PROXY, WEFT};

    #[test]
    fn a_report_has_its_results_beside_it() {
        for (report, results) in [
            ("bench/RESULTS.md", "bench/results.json"),
            ("target/bench/RESULTS-quick.md", "target/bench/results-quick.json"),
            ("RESULTS.md", "results.json"),
        ] {
            assert_eq!(beside(Path::new(report)), Path::new(results));
        }
    }

    #[test]
    fn results_of_cases_that_are_left_out_are_not_overwritten() {
        let row =
            |case, subject: Subject| serde_json::json!({"case": case, "subject": subject.to_string(), "value": 1.0});
        let before = serde_json::json!([row("h1", WEFT), row("h1", NO_PROXY), row("mesh", WEFT), row("h1", WEFT)]);
        let before = before.to_string();
        let both = || vec![WEFT, NO_PROXY];
        for (what, before, planned, wanted) in [
            ("one of two cases", &*before, &[(Case::H1, both())][..], &["mesh weft"][..]),
            ("both", &before, &[(Case::H1, both()), (Case::Mesh, both())], &[]),
            ("one of two subjects", &before, &[(Case::H1, vec![WEFT]), (Case::Mesh, vec![WEFT])], &["h1 no-proxy"]),
            ("none yet", "", &[(Case::H1, both())], &[]),
            ("not results", "half a fi", &[(Case::H1, both())], &[]),
        ] {
            assert_eq!(lost(before, planned), wanted, "{what}");
        }
    }
}
