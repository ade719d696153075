//! Routes and objects of Weft's own kinds from the status directory of a control plane without a cluster (`--status-dir` of
//! `weft-control-plane`). A file has an object's name and status, and nothing of its spec: that a route has a parent follows
//! from what is said of it there. What is refused of the manifests, of whatever kind, is in `problems.json`.
//!
//! Bound: the directory.

use std::path::Path;

use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::gather::Gathered;
use super::own;
use crate::error::Error;

const PROBLEMS: &str = "problems.json";

/// Something in a manifest that is refused; the last good version of its object stays in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Refused {
    /// The file, with its line where that is known: `reviews.yaml:14`.
    pub(super) place: String,
    /// The path of the field; empty for a document or a file as a whole.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) field: String,
    /// What would be right.
    pub(super) message: String,
    /// As `HTTPRoute shop/reviews`, where that can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) object: Option<String>,
}

impl Refused {
    /// `reviews.yaml:14: spec.rules[0].backendRefs[0].weight: must be between 0 and 1000000`
    pub(super) fn line(&self) -> String {
        let parts = [&self.place, &self.field, &self.message].map(|part| part.replace('\n', " "));
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
    }
}

/// An entry of [`PROBLEMS`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    severity: String,
    file: String,
    line: u32,
    field: String,
    message: String,
    object: Option<Named>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    kind: String,
    namespace: String,
    name: String,
}

impl Named {
    /// Nodes and the like have no namespace.
    fn text(&self) -> String {
        let Self { kind, namespace, name } = self;
        if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
    }
}

/// What the files say, or those of namespace `only`. One that cannot be read is said, and the others are read.
///
/// # Errors
/// When the directory cannot be listed.
pub(super) fn objects(directory: &Path, only: Option<&str>) -> Result<Gathered, Error> {
    let failed = |why: std::io::Error| Error::StatusDirectory { path: directory.to_owned(), why };
    let mut names = std::fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>())
        .map_err(failed)?;
    names.sort();
    let mut gathered = Gathered::default();
    match refused(directory, only) {
        Ok(refused) => gathered.refused = refused,
        Err(why) => gathered.unknown.push(format!("cannot read {PROBLEMS}: {why}")),
    }
    for name in names.iter().filter_map(|name| name.to_str()) {
        // A file that is being written begins with a dot; problems are no object's.
        let Some((kind, rest)) = name.strip_suffix(".yaml").and_then(|name| name.split_once('.')) else { continue };
        let own = own::KINDS.iter().any(|(known, _)| *known == kind);
        let ours = own || kind.ends_with("Route");
        let here = rest.split_once('.').is_some_and(|(namespace, _)| only.is_none_or(|only| only == namespace));
        if !ours || !here {
            continue;
        }
        let read = std::fs::read_to_string(directory.join(name)).map_err(|error| error.to_string());
        match read.and_then(|text| object(&text)) {
            Ok(object) if own => gathered.own.push(object),
            Ok(object) => gathered.routes.push(object),
            Err(why) => gathered.unknown.push(format!("cannot read {name}: {why}")),
        }
    }
    Ok(gathered)
}

/// What is refused of the manifests: of objects of namespace `only`, and where it cannot be told of which.
fn refused(directory: &Path, only: Option<&str>) -> Result<Vec<Refused>, String> {
    let text = match std::fs::read_to_string(directory.join(PROBLEMS)) {
        Ok(text) => text,
        // A control plane that has not read its manifests yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let problems: Vec<Problem> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let here = |problem: &Problem| {
        let named = problem.object.as_ref().filter(|named| !named.namespace.is_empty());
        only.is_none_or(|only| named.is_none_or(|named| named.namespace == only))
    };
    let errors = problems.into_iter().filter(|problem| problem.severity == "error" && here(problem));
    let refused = |Problem { file, line, field, message, object, .. }: Problem| Refused {
        place: if line > 0 { format!("{file}:{line}") } else { file },
        field,
        message,
        object: object.map(|named| named.text()),
    };
    Ok(errors.map(refused).collect())
}

fn object(text: &str) -> Result<DynamicObject, String> {
    let mut object: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let parents = object.pointer("/status/parents").and_then(Value::as_array);
    let parents: Vec<Value> =
        parents.into_iter().flatten().filter_map(|entry| entry.get("parentRef").cloned()).collect();
    object["spec"] = json!({"parentRefs": parents});
    serde_json::from_value(object).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::judge::judge_in;
    use super::*;
    use crate::check::finding::Level;

    const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: shop}
status:
  parents:
  - parentRef: {group: '', kind: Service, name: reviews, port: 80}
    controllerName: weft.dev/mesh-controller
    conditions:
    - {type: Accepted, status: 'False', reason: NoMatchingParent, message: there is no Service, observedGeneration: 7, lastTransitionTime: ''}
";

    const LIMIT: &str = "apiVersion: weft.dev/v1alpha1
kind: RateLimit
metadata: {name: l, namespace: shop}
status:
  conditions:
  - {type: Accepted, status: 'False', reason: TargetNotFound, message: no a, observedGeneration: 7, lastTransitionTime: ''}
";

    const PROBLEMS_FOUND: &str = r#"[
  {"severity": "error", "file": "reviews.yaml", "line": 14, "column": 9, "field": "spec.rules[0].backendRefs[0].weight",
   "message": "must be between 0 and 1000000", "object": {"kind": "HTTPRoute", "namespace": "shop", "name": "reviews"}},
  {"severity": "warning", "file": "a.yaml", "line": 1, "column": 1, "field": "spec.x", "message": "has no effect",
   "object": {"kind": "Service", "namespace": "shop", "name": "a"}},
  {"severity": "error", "file": "b.yaml", "line": 1, "column": 1, "field": "spec.per", "message": "is wrong",
   "object": {"kind": "RateLimit", "namespace": "other", "name": "l"}},
  {"severity": "error", "file": "c.yaml", "line": 0, "column": 0, "field": "", "message": "is not UTF-8 text (line 2)"}
]"#;

    #[test]
    fn status_files_are_read_and_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("HTTPRoute.shop.reviews.yaml", ROUTE),
            ("RateLimit.shop.l.yaml", LIMIT),
            ("RateLimit.other.l.yaml", LIMIT),
            ("BackendPolicy.shop.half.yaml", "kind: ["),
            (".RateLimit.shop.m.yaml.tmp", LIMIT),
            ("BackendTLSPolicy.shop.p.yaml", LIMIT),
            ("problems.txt", "error"),
            ("problems.json", PROBLEMS_FOUND),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let found = objects(directory.path(), Some("shop")).unwrap();
        assert_eq!((found.routes.len(), found.own.len(), found.unknown.len()), (1, 1, 1));
        assert!(found.unknown[0].starts_with("cannot read BackendPolicy.shop.half.yaml: "), "{:?}", found.unknown);
        let at = judge_in(&found.routes[0], true).remove(0);
        assert_eq!((at.parent(), at.level()), ("shop/reviews:80".to_owned(), Level::Error));
        assert_eq!(at.problems[0].fix, "correct spec.parentRefs, or the Service, in its manifest");
        assert_eq!(own::judge(&found.own[0], true).problems[0].reason, "TargetNotFound");
        assert_eq!(objects(directory.path(), None).unwrap().own.len(), 2);
        let lines = |found: &Gathered| found.refused.iter().map(Refused::line).collect::<Vec<_>>();
        let weight = "reviews.yaml:14: spec.rules[0].backendRefs[0].weight: must be between 0 and 1000000";
        let (other, file) = ("b.yaml:1: spec.per: is wrong", "c.yaml: is not UTF-8 text (line 2)");
        assert_eq!(lines(&found), [weight, file], "of its namespace, and what may be of any");
        assert_eq!(found.refused[0].object.as_deref(), Some("HTTPRoute shop/reviews"));
        assert_eq!(lines(&objects(directory.path(), None).unwrap()), [weight, other, file]);
        std::fs::write(directory.path().join("problems.json"), "[").unwrap();
        let half = objects(directory.path(), None).unwrap();
        assert!(half.unknown[0].starts_with("cannot read problems.json: "), "{:?}", half.unknown);
        let missing = objects(&directory.path().join("none"), None).unwrap_err();
        assert!(missing.to_string().contains("--status-dir"), "{missing}");
    }
}
