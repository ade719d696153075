//! Routes and objects of Weft's own kinds from the status directory of a control plane without a cluster (`--status-dir` of
//! `weft-control-plane`). A file has an object's name and status, and nothing of its spec: that a route has a parent follows
//! from what is said of it there.
//!
//! Bound: the directory.

use std::path::Path;

use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::gather::Gathered;
use super::own;
use crate::error::Error;

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
        let missing = objects(&directory.path().join("none"), None).unwrap_err();
        assert!(missing.to_string().contains("--status-dir"), "{missing}");
    }
}
