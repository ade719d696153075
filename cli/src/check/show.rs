//! Findings for people: a line each, by group. Pure.

use super::finding::{Finding, Level, Report, count};
use crate::output::{Colours, Paint};

/// The whole report.
pub(super) fn show(report: &Report, colours: Colours) -> String {
    let mut text = String::new();
    let mut group = None;
    for finding in &report.checks {
        if group != Some(finding.group) {
            if group.is_some() {
                text.push('\n');
            }
            text.push_str(&colours.paint(Paint::Heading, finding.group.title()));
            text.push('\n');
            group = Some(finding.group);
        }
        text.push_str(&line(finding, colours));
    }
    text.push('\n');
    text.push_str(&summary(report, colours));
    text.push('\n');
    text
}

fn line(finding: &Finding, colours: Colours) -> String {
    let (sign, paint) = match finding.level {
        Level::Ok => ("✓", Paint::Good),
        Level::Warning => ("!", Paint::Warning),
        Level::Error => ("✗", Paint::Bad),
    };
    let mut text = format!("  {} {}\n", colours.paint(paint, sign), finding.what);
    for detail in &finding.details {
        text.push_str(&format!("      {detail}\n"));
    }
    if let Some(fix) = &finding.fix {
        text.push_str(&format!("    {} {fix}\n", colours.paint(Paint::Quiet, "→")));
    }
    text
}

/// `2 errors and 1 warning in 21 checks`.
pub(super) fn summary(report: &Report, colours: Colours) -> String {
    let all = count(report.checks.len(), "check");
    let warnings = count(report.warnings, "warning");
    match (report.errors, report.warnings) {
        (0, 0) => colours.paint(Paint::Good, &format!("all is well ({all})")),
        (0, _) => colours.paint(Paint::Warning, &format!("nothing is wrong, {warnings} in {all}")),
        (errors, 0) => colours.paint(Paint::Bad, &format!("{} in {all}", count(errors, "error"))),
        (errors, _) => colours.paint(Paint::Bad, &format!("{} and {warnings} in {all}", count(errors, "error"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Group;
    use super::*;

    #[test]
    fn each_finding_is_a_line_with_its_fix_below() {
        let report = Report::new(vec![
            Finding::error(Group::Workloads, "a", "2 sidecars not ready").details(["one".to_owned()]).fix("look"),
            Finding::ok(Group::Kubernetes, "b", "API server v1.36.2"),
            Finding::warning(Group::Kubernetes, "c", "a clock is wrong").fix("NTP"),
        ]);
        assert_eq!(
            show(&report, Colours::NONE),
            "Kubernetes\n  ✓ API server v1.36.2\n  ! a clock is wrong\n    → NTP\n\nWorkloads\n  ✗ 2 sidecars not ready\n      \
             one\n    → look\n\n1 error and 1 warning in 3 checks\n"
        );
        assert!(!report.ok);
        assert_eq!(report.first_error(), "2 sidecars not ready");
    }
}
