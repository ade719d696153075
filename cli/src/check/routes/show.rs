//! Routes and objects of Weft's own kinds for people: a line for each problem, and one for each that has none. Pure.

use std::collections::BTreeSet;

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
        push(&mut text, &table, colours);
    }
    if !report.objects.is_empty() {
        let mut table = Table::new(&["", "OBJECT", "CONDITION", "REASON", "MESSAGE", "WHAT TO DO"]);
        for own in &report.objects {
            if own.problems.is_empty() {
                table.row(vec![sign(Level::Ok).to_owned(), own.object()]);
            }
            for problem in &own.problems {
                let mut cells = vec![sign(problem.level).to_owned(), own.object()];
                cells.extend(of_problem(problem));
                table.row(cells);
            }
        }
        push(&mut text, &table, colours);
    }
    for refused in &report.refused {
        text.push_str(&format!("{} {}\n", colours.paint(Paint::Bad, "✗"), refused.line()));
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

fn push(text: &mut String, table: &Table, colours: Colours) {
    table.render(0).lines().for_each(|line| text.push_str(&painted(line, colours)));
    text.push('\n');
}

fn of_problem(problem: &Problem) -> [String; 4] {
    let Problem { condition, reason, message, fix, .. } = problem;
    [condition, reason, message, fix].map(|cell| cell.replace('\n', " "))
}

fn cells(at: &At, problem: Option<&Problem>) -> Vec<String> {
    let proxies = at.proxies.as_ref().map(|proxies| format!("{} of {}", proxies.acked, proxies.all));
    let level = problem.map_or(Level::Ok, |problem| problem.level);
    let mut cells = vec![sign(level).to_owned(), at.route(), at.parent(), proxies.unwrap_or_default()];
    cells.extend(problem.map(of_problem).into_iter().flatten());
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

/// `2 problems in 1 of 12 routes`, or of so many objects where some are of other kinds; and what is refused of manifests, whose
/// objects stay as they were.
fn summary(report: &Report, only: Option<&str>, colours: Colours) -> String {
    let routes = report.routes.iter().map(|at| (at.route(), at.problems.is_empty()));
    let own = report.objects.iter().map(|own| (own.object(), own.problems.is_empty()));
    let all: Vec<(String, bool)> = routes.chain(own).collect();
    let named: BTreeSet<&str> = all.iter().map(|(name, _)| &**name).collect();
    let troubled: BTreeSet<&str> = all.iter().filter(|(_, well)| !well).map(|(name, _)| &**name).collect();
    let noun = if report.objects.is_empty() { "route" } else { "object" };
    let place = only.map(|only| format!(" in namespace {only}")).unwrap_or_default();
    let paint = match worst(report) {
        Level::Error => Paint::Bad,
        Level::Warning => Paint::Warning,
        Level::Ok => Paint::Good,
    };
    let refused = match report.refused.len() {
        0 => String::new(),
        errors => format!("; {} in manifests", count(errors, "error")),
    };
    let text = match (named.len(), report.problems) {
        (0, _) => return format!("no route{place} has a Service as its parent{refused}"),
        (1, 0) => format!("the one {noun}{place} is in effect"),
        (all, 0) => format!("all {all} {noun}s{place} are in effect"),
        (all, problems) => {
            format!("{} in {} of {}{place}", count(problems, "problem"), troubled.len(), count(all, noun))
        }
    };
    colours.paint(paint, &format!("{text}{refused}"))
}

#[cfg(test)]
mod tests {
    use weft_control_plane::status::counts::Counts;

    use super::super::files::Refused;
    use super::super::tests::{at, count as counted, own};
    use super::*;

    #[test]
    fn a_problem_is_a_line_and_columns_line_up() {
        let counts = Counts { routes: vec![counted("well", 37, 37)], silent: vec!["cp-b".to_owned()] };
        let report = Report::of(vec![at("well", true), at("lost", false)], Vec::new(), Vec::new(), Ok(counts));
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
    fn an_object_of_our_own_has_a_table_of_its_own() {
        let report = Report::of(vec![], vec![own(false)], Vec::new(), Ok(Counts::default()));
        let expected = "    \
OBJECT                 CONDITION        REASON    MESSAGE              WHAT TO DO
✗   RateLimit shop/limit   Accepted=False   Invalid   spec.per: is wrong   correct the fields that the message names: kubectl -n shop edit ratelimit limit

1 problem in 1 of 1 object
";
        assert_eq!(show(&report, None, Colours::NONE), expected);
    }

    #[test]
    fn what_is_refused_of_manifests_is_named_by_file_and_line_and_is_not_well() {
        let refused = Refused {
            place: "reviews.yaml:14".to_owned(),
            field: "spec.rules[0].backendRefs[0].weight".to_owned(),
            message: "must be between 0 and 1000000".to_owned(),
            object: None,
        };
        let report = |routes| {
            Report::of(routes, Vec::new(), Vec::new(), Ok(Counts::default())).with_refused(vec![refused.clone()])
        };
        let line = "✗ reviews.yaml:14: spec.rules[0].backendRefs[0].weight: must be between 0 and 1000000";
        for (routes, last) in [
            (vec![], "no route has a Service as its parent; 1 error in manifests"),
            (vec![at("a", true)], "the one route is in effect; 1 error in manifests"),
            (vec![at("a", false)], "1 problem in 1 of 1 route; 1 error in manifests"),
        ] {
            let report = report(routes);
            assert!(!report.ok, "{last}");
            let text = show(&report, None, Colours::NONE);
            assert!(text.ends_with(&format!("{line}\n{last}\n")), "{text}");
        }
    }

    #[test]
    fn the_last_line_says_all_of_it() {
        for (routes, objects, only, expected) in [
            (vec![], vec![], None, "no route has a Service as its parent"),
            (vec![], vec![], Some("shop"), "no route in namespace shop has a Service as its parent"),
            (vec![at("a", true)], vec![], None, "the one route is in effect"),
            (vec![at("a", true), at("b", true)], vec![], Some("shop"), "all 2 routes in namespace shop are in effect"),
            (vec![at("a", false), at("b", false)], vec![], None, "2 problems in 2 of 2 routes"),
            (vec![], vec![own(true)], None, "the one object is in effect"),
            (vec![at("a", true)], vec![own(true)], None, "all 2 objects are in effect"),
            (vec![at("a", true)], vec![own(false)], None, "1 problem in 1 of 2 objects"),
        ] {
            let report = Report::of(routes, objects, Vec::new(), Ok(Counts::default()));
            let text = show(&report, only, Colours::NONE);
            assert_eq!(text.lines().last(), Some(expected), "{text}");
        }
    }
}
