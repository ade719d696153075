//! The report, in Markdown: where it was made, the goals, a table for each case.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::ValueEnum;

use crate::apps;
use crate::case::{Case, Load};
use crate::goals;
use crate::machine::Machine;
use crate::measure::Effort;
use crate::metric::Metric;
use crate::results::{Results, Row};
use crate::subject::Subject;

/// The whole report.
pub(crate) fn markdown(results: &Results, machine: &Machine, effort: Effort) -> String {
    let mut text = String::from("# Weft beside others\n\n");
    let _ = writeln!(
        text,
        "Written by `make bench`; `bench/README.md` says how it is measured, how to repeat it, and what it does not show. \
         {} turns of at least {} s for each subject, {} of at least {} s where latency is measured, medians. Absolute figures move from \
         machine to machine by half, and ratios too: whoever has more code and data suffers more where a cache is shared. In round brackets: \
         how many times better than Envoy, above 1 is better; the median of the rounds' ratios, for added latency the ratio of the medians. \
         In square brackets: the least and the most that a turn gave. What each turn gave is in the `.json` of the same name beside this file.\n",
        effort.repeats,
        effort.seconds,
        effort.latency_repeats,
        effort.latency_seconds()
    );
    text.push_str("| | |\n|---|---|\n");
    for (what, value) in &machine.0 {
        let _ = writeln!(text, "| {what} | {value} |");
    }
    text.push_str(
        "\n## Goals\n\n| goal (`docs/PERFORMANCE.md`) | must | | aim | | seen |\n|---|---|---|---|---|---|\n",
    );
    let verdicts = goals::verdicts(results);
    for verdict in &verdicts {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            verdict.what,
            verdict.must,
            word(verdict.must_met),
            verdict.aim,
            word(verdict.aim_met),
            verdict.seen
        );
    }
    let missed: Vec<_> = verdicts.iter().filter(|verdict| verdict.aim_met == Some(false)).collect();
    if !missed.is_empty() {
        text.push_str("\nAims that were missed: where it goes, and what was tried (more in `docs/PERFORMANCE.md`).\n");
        for verdict in missed {
            let note = verdict.note().unwrap_or("Not looked into yet.").replace('\n', " ");
            let _ = writeln!(text, "- **{}**: {note}", verdict.what);
        }
    }
    for case in Case::value_variants() {
        let rows: Vec<_> = results.rows.iter().filter(|row| row.case == *case).collect();
        if !rows.is_empty() {
            table(&mut text, *case, &rows, effort);
        }
    }
    text
}

/// What `make test-cluster` measured, by name.
pub(crate) fn cluster(figures: &BTreeMap<String, String>) -> String {
    let mut text = String::from(
        "\n## On a cluster\n\nNot by `make bench` but by `make test-cluster`, on a single-node Kubernetes that shares the machine's \
         cores with all that it tests; from `bench/cluster-figures.json`, which is its `target/cluster-figures.json`.\n\n\
         | | |\n|---|---|\n",
    );
    for (name, value) in figures {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    text
}

const fn word(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "met",
        Some(false) => "**missed**",
        None => "–",
    }
}

fn table(text: &mut String, case: Case, rows: &[&Row], effort: Effort) {
    let mut metrics: Vec<Metric> = rows.iter().map(|row| row.metric).collect();
    metrics.sort_unstable();
    metrics.dedup();
    let help = case.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default();
    let few = few_samples(case, effort);
    let _ = writeln!(text, "\n## `{}`\n\n{help}.{few}\n", case.name());
    let names: Vec<_> = metrics.iter().map(|metric| format!("`{}`", metric.name())).collect();
    let _ = writeln!(text, "| | {} |\n|---|{}", names.join(" | "), "---|".repeat(metrics.len()));
    let subjects: Vec<Subject> = case.plan().subjects.to_vec();
    for subject in subjects {
        let of = |metric: &Metric| rows.iter().find(|row| row.subject == subject && row.metric == *metric);
        if metrics.iter().all(|metric| of(metric).is_none()) {
            continue;
        }
        let cells: Vec<_> = metrics.iter().map(|metric| of(metric).map_or("–".to_owned(), |row| cell(row))).collect();
        let _ = writeln!(text, "| {subject} | {} |", cells.join(" | "));
    }
}

/// What is to be said of a p99 that is one of a turn's few slowest; empty where it is of more.
fn few_samples(case: Case, effort: Effort) -> String {
    let Load::OpenLoop(rate) = case.plan().load else { return String::new() };
    let samples = (effort.latency_seconds() * f64::from(rate)) as usize;
    let which = match samples - apps::place(samples, 0.99) {
        1 => "slowest",
        2 => "second slowest",
        3 => "third slowest",
        _ => return String::new(),
    };
    format!(" A turn has {samples} of them, so its p99 is the {which}.")
}

fn cell(row: &Row) -> String {
    let digits = match row.value.abs() {
        1000.0.. => 0,
        100.0.. => 1,
        _ => 2,
    };
    let mut cell = format!("{:.digits$}", row.value);
    if let Some(ratio) = row.ratio_vs_envoy.filter(|_| row.subject.reference() != row.subject) {
        let _ = write!(cell, " ({ratio:.2})");
    }
    if row.metric.is_chief() && row.runs.len() > 1 {
        let (least, most) = (row.runs.iter().copied().reduce(f64::min), row.runs.iter().copied().reduce(f64::max));
        let _ = write!(cell, " [{:.digits$}–{:.digits$}]", least.unwrap_or_default(), most.unwrap_or_default());
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Runs;
    use crate::metric::Unit;
    use crate::subject::{ENVOY, NO_PROXY, WEFT};

    #[test]
    fn a_table_has_a_row_for_each_subject_and_the_goals_say_met_or_missed() {
        let (cpu, rate) = (Metric::Cpu(Unit::Request), Metric::Rate(Unit::Request));
        let runs = Runs::from([
            ((NO_PROXY, rate), vec![90_000.0]),
            ((WEFT, rate), vec![60_000.0]),
            ((ENVOY, rate), vec![20_000.0]),
            ((WEFT, cpu), vec![15.0, 14.25, 16.0]),
            ((ENVOY, cpu), vec![45.0, 43.0, 48.0]),
        ]);
        let results = Results { rows: Row::of(Case::H1, &runs) };
        let effort = Effort { seconds: 10.0, repeats: 3, latency_repeats: 15, warm_up: 2.0 };
        let text = markdown(&results, &Machine(vec![("kernel", "6.1".to_owned())]), effort);
        for line in [
            "| kernel | 6.1 |",
            "| no-proxy | – | 90000 (4.50) |",
            "3 turns of at least 10 s for each subject, 15 of at least 5 s where latency is measured",
            "| weft | 15.00 (3.00) [14.25–16.00] | 60000 (3.00) |",
            "| envoy | 45.00 [43.00–48.00] | 20000 |",
            "| HTTP/1.1 one hop, CPU per request | 2× better | met | 2.6× better | met | 3.00× (15.00 to 45.00) |",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("## `h2`"));
    }

    #[test]
    fn a_p99_of_few_samples_is_said_to_be_one() {
        let effort = |seconds| Effort { seconds, repeats: 5, latency_repeats: 25, warm_up: 2.0 };
        for (case, seconds, expected) in [
            (Case::LatencyLow, 4.0, " A turn has 200 of them, so its p99 is the third slowest."),
            (Case::LatencyLow, 0.8, " A turn has 40 of them, so its p99 is the slowest."),
            (Case::LatencyLow, 40.0, ""),
            (Case::LatencyH1, 4.0, ""),
            (Case::H1, 4.0, ""),
        ] {
            assert_eq!(few_samples(case, effort(seconds)), expected, "{case:?} {seconds}");
        }
    }
}
