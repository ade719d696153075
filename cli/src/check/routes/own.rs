//! What the status of an object of Weft's own kinds says. Pure. Such an object has one condition, Accepted, of its own and not of a
//! parent: whether it does all that it says.

use kube::core::DynamicObject;
use serde::Serialize;

use super::advice::Who;
use super::judge::{Condition, Problem, problems, read};
use crate::check::finding::Level;

/// The kinds, and what they are called in URLs.
pub(super) const KINDS: [(&str, &str); 3] =
    [("BackendPolicy", "backendpolicies"), ("FaultInjection", "faultinjections"), ("RateLimit", "ratelimits")];

/// An object, and what is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Own {
    /// Its kind.
    pub(super) kind: String,
    /// Its namespace.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
    /// The worst first.
    pub(super) problems: Vec<Problem>,
}

impl Own {
    /// `RateLimit shop/reviews`
    pub(super) fn object(&self) -> String {
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }

    /// The worst of its problems.
    pub(super) fn level(&self) -> Level {
        self.problems.iter().map(|problem| problem.level).max().unwrap_or(Level::Ok)
    }
}

/// What its status says; `files`: as a control plane without a cluster wrote it.
pub(super) fn judge(object: &DynamicObject, files: bool) -> Own {
    let kind = object.types.as_ref().map(|types| types.kind.clone()).unwrap_or_default();
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    let who = Who { kind: &kind, namespace: &namespace, name: &name, files };
    let conditions: Vec<Condition> = read(object.data.pointer("/status/conditions"));
    let mut problems = problems(&who, &conditions, object.metadata.generation.unwrap_or(0));
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.level));
    Own { kind, namespace, name, problems }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn limit(generation: i64, conditions: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "weft.dev/v1alpha1",
            "kind": "RateLimit",
            "metadata": {"name": "l", "namespace": "shop", "generation": generation},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn every_reason_is_said_with_what_to_do() {
        let says = |status: &str, reason: &str| json!([{"type": "Accepted", "status": status, "reason": reason, "message": "m", "observedGeneration": 2}]);
        let edit = "kubectl -n shop edit ratelimit l";
        let rows = [
            ("as it should be", 2, says("True", "Accepted"), None),
            ("wrong", 2, says("False", "Invalid"), Some((Level::Error, "Invalid", edit))),
            ("lost", 2, says("False", "TargetNotFound"), Some((Level::Error, "TargetNotFound", edit))),
            ("second", 2, says("False", "Conflicted"), Some((Level::Error, "Conflicted", edit))),
            ("edited since", 3, says("True", "Accepted"), Some((Level::Warning, "Stale", "weft check"))),
            ("nothing yet", 1, json!([]), Some((Level::Warning, "NoStatus", "weft check"))),
        ];
        for (row, generation, conditions, expected) in rows {
            let found = judge(&limit(generation, conditions), false);
            assert_eq!(found.object(), "RateLimit shop/l", "{row}");
            let first = found.problems.first().map(|problem| (problem.level, &*problem.reason, &*problem.fix));
            assert_eq!(first.map(|(level, reason, _)| (level, reason)), expected.map(|(l, r, _)| (l, r)), "{row}");
            let (fix, part) = (first.map_or("", |(.., fix)| fix), expected.map_or("", |(.., part)| part));
            assert!(fix.contains(part), "{row}: {fix}");
        }
        let files = judge(&limit(0, says("False", "Invalid")), true);
        assert_eq!(files.problems[0].fix, "correct the fields that the message names, in its manifest");
    }
}
