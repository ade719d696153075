//! Why the source does not take an object, in a few words. Pure.

use std::collections::BTreeMap;

use super::{Problem, Severity, TWICE};
use crate::model::ObjectKey;

/// Problems of one object that its status quotes.
const MAX_QUOTED: usize = 3;

/// Of every object that is refused: why.
pub fn refused<'a>(problems: impl IntoIterator<Item = &'a Problem>) -> BTreeMap<ObjectKey, String> {
    let mut said: BTreeMap<ObjectKey, Vec<String>> = BTreeMap::new();
    // The first of two documents is in force, and it is that which has the status.
    let errors = problems.into_iter().filter(|problem| problem.severity == Severity::Error && problem.field != TWICE);
    for problem in errors {
        let Some(key) = problem.object.as_ref() else { continue };
        said.entry(key.clone()).or_default().push(match &*problem.field {
            "" => problem.message.clone(),
            field => format!("{field}: {}", problem.message),
        });
    }
    said.into_iter().map(|(key, said)| (key, quoted(said))).collect()
}

/// The first few of what is said of an object.
pub(crate) fn quoted(mut said: Vec<String>) -> String {
    let more = said.len().saturating_sub(MAX_QUOTED);
    said.truncate(MAX_QUOTED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    said.join("; ") + &more
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, ObjectName};

    fn problem(field: &str, severity: Severity) -> Problem {
        Problem {
            file: String::new(),
            line: 0,
            column: 0,
            field: field.into(),
            severity,
            message: "must be right".into(),
            object: Some(ObjectKey { kind: Kind::HttpRoute, name: ObjectName::new("shop", "canary") }),
        }
    }

    #[test]
    fn only_errors_are_quoted_and_three_of_each() {
        let error = |field: &str| problem(field, Severity::Error);
        let rows = [
            ("none", vec![], None),
            ("a warning", vec![problem("spec", Severity::Warning)], None),
            ("a second document", vec![error(TWICE)], None),
            ("of nobody", vec![Problem { object: None, ..error("spec") }], None),
            ("one", vec![error("spec.x")], Some("spec.x: must be right")),
            ("of the whole", vec![error("")], Some("must be right")),
            (
                "five",
                ["a", "b", "c", "d", "e"].map(error).into(),
                Some("a: must be right; b: must be right; c: must be right; and 2 more"),
            ),
        ];
        for (row, problems, expected) in rows {
            let refused = refused(&problems);
            assert_eq!(refused.values().next().map(String::as_str), expected, "{row}");
        }
    }
}
