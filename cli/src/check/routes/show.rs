//! Routes for people: a line for each problem, and one for each route that has none. Pure.

use super::judge::{At, Problem};
use super::{Report, worst};
use crate::check::finding::{Level, count};
use crate::output::{Colours, Paint, Table};

/// The whole report, of the routes of namespace `only` or of all.
pub(super) fn show(report: &Report, only: Option<&str>, colours: Colours) -> String {
    let mut text = String::new();
    if !report.routes.is_empty() {
        let mut table = Table::new(&["", "ROUTE", "PARENT", "PROXIES", "CONDITION", "REASON", "MESSAGE", "WHAT TO DO"]);
        for at in &report.routes {
            if at.problems.is_empty() {
                table.row(cells(at, None));
            }
            at.problems.iter().for_each(|problem| table.row(cells(at, Some(problem))));
        }
        let lines = table.render(0);
        lines.lines().for_each(|line| text.push_str(&painted(line, colours)));
        text.push('\n');
    }
    for unknown in &report.unknown {
        text.push_str(&format!("{} {unknown}\n", colours.paint(Paint::Bad, "✗")));
    }
    if let Some(why) = &report.counts_unknown {
        text.push_str(&format!(
            "{} how many proxies have them is not known: {why}\n",
            colours.paint(Paint::Warning, "!")
        ));
    }
    text.push_str(&summary(report, only, colours));
    text.push('\n');
    text
}

fn cells(at: &At, problem: Option<&Problem>) -> Vec<String> {
    let proxies = at.proxies.as_ref().map(|proxies| format!("{} of {}", proxies.acked, proxies.all));
    let level = problem.map_or(Level::Ok, |problem| problem.level);
    let mut cells = vec![sign(level).to_owned(), at.route(), at.parent(), proxies.unwrap_or_default()];
    if let Some(Problem { condition, reason, message, fix, .. }) = problem {
        cells.extend([condition, reason, message, fix].map(|cell| cell.replace('\n', " ")));
    }
    cells
}

fn sign(level: Level) -> &'static str {
    match level {
        Level::Ok => "✓",
        Level::Warning => "!",
        Level::Error => "✗",
    }
}

/// A line of the table, its sign in colour.
fn painted(line: &str, colours: Colours) -> String {
    for (level, paint) in [(Level::Ok, Paint::Good), (Level::Warning, Paint::Warning), (Level::Error, Paint::Bad)] {
        if let Some(rest) = line.strip_prefix(sign(level)) {
            return format!("{}{rest}\n", colours.paint(paint, sign(level)));
        }
    }
    format!("{line}\n")
}

/// `2 problems in 1 of 12 routes`
fn summary(report: &Report, only: Option<&str>, colours: Colours) -> String {
    let mut named: Vec<String> = report.routes.iter().map(At::route).collect();
    named.sort_unstable();
    named.dedup();
    let mut troubled: Vec<String> = report.routes.iter().filter(|at| !at.problems.is_empty()).map(At::route).collect();
    troubled.sort_unstable();
    troubled.dedup();
    let place = only.map(|only| format!(" in namespace {only}")).unwrap_or_default();
    let paint = match worst(&report.routes) {
        Level::Error => Paint::Bad,
        Level::Warning => Paint::Warning,
        Level::Ok => Paint::Good,
    };
    let text = match (named.len(), report.problems) {
        (0, _) => return format!("no route{place} has a Service as its parent"),
        (1, 0) => format!("the one route{place} is in effect"),
        (all, 0) => format!("all {all} routes{place} are in effect"),
        (all, problems) => {
            format!("{} in {} of {}{place}", count(problems, "problem"), troubled.len(), count(all, "route"))
        }
    };
    colours.paint(paint, &text)
}

#[cfg(test)]
mod tests {
    use weft_control_plane::status::counts::Counts;

    use super::super::tests::{at, count as counted};
    use super::*;

    #[test]
    fn a_problem_is_a_line_and_columns_line_up() {
        let counts = Counts { routes: vec![counted("well", 37, 37)], silent: vec!["cp-b".to_owned()] };
        let report = Report::new(vec![at("well", true), at("lost", false)], Vec::new(), Ok(counts));
        let expected = "    \
ROUTE                 PARENT              PROXIES    CONDITION        REASON             MESSAGE                            WHAT TO DO
✗   HTTPRoute shop/lost   shop/reviews:9080              Accepted=False   NoMatchingParent   there is no Service shop/reviews   correct spec.parentRefs, or the Service: kubectl -n shop edit httproute lost
✓   HTTPRoute shop/well   shop/reviews:9080   37 of 37

! how many proxies have them is not known: not heard from cp-b
1 problem in 1 of 2 routes
";
        assert_eq!(show(&report, None, Colours::NONE), expected);
    }

    #[test]
    fn the_last_line_says_all_of_it() {
        for (routes, only, expected) in [
            (vec![], None, "no route has a Service as its parent"),
            (vec![], Some("shop"), "no route in namespace shop has a Service as its parent"),
            (vec![at("a", true)], None, "the one route is in effect"),
            (vec![at("a", true), at("b", true)], Some("shop"), "all 2 routes in namespace shop are in effect"),
            (vec![at("a", false), at("b", false)], None, "2 problems in 2 of 2 routes"),
        ] {
            let report = Report::new(routes, Vec::new(), Ok(Counts::default()));
            let text = show(&report, only, Colours::NONE);
            assert_eq!(text.lines().last(), Some(expected), "{text}");
        }
    }
}
