//! Whether labels ask for a sidecar of this control plane. The pod's labels go before its namespace's, each label for itself:
//! a pod that only says `enabled` in a namespace of revision `canary` gets its sidecar from `canary`. Pure.

use std::collections::BTreeMap;

use super::{Refusal, Why};

/// `enabled` or `disabled`.
pub const INJECT: &str = "weft.dev/inject";
/// Asks for the control plane of that revision, in place of `weft.dev/inject: enabled`.
pub const REVISION: &str = "weft.dev/revision";

/// Why not, if not.
///
/// # Errors
/// When a label says what it cannot say.
pub(super) fn refuse(
    pod: Option<&BTreeMap<String, String>>,
    namespace: &BTreeMap<String, String>,
    revision: &str,
) -> Result<Option<Why>, Refusal> {
    let of_pod = |key: &str| pod.and_then(|labels| labels.get(key)).map(String::as_str);
    let of_namespace = |key: &str| namespace.get(key).map(String::as_str);
    let named = |name: Option<&'static str>, named: Option<&str>| {
        (name, named.filter(|name| !name.is_empty()).map(str::to_owned))
    };
    let pod_says = named(says("pod", of_pod(INJECT))?, of_pod(REVISION));
    let namespace_says = match pod_says {
        // A namespace's bad label is none of a pod's business that has decided for itself.
        (Some("disabled"), _) => return Ok(Some(Why::NotAsked)),
        (Some(_), _) | (None, Some(_)) => named(None, of_namespace(REVISION)),
        (None, None) => named(says("namespace", of_namespace(INJECT))?, of_namespace(REVISION)),
    };
    if namespace_says.0 == Some("disabled") {
        return Ok(Some(Why::NotAsked));
    }
    let wanted = pod_says.1.or(namespace_says.1);
    if wanted.is_none() && pod_says.0.is_none() && namespace_says.0.is_none() {
        return Ok(Some(Why::NotAsked));
    }
    let wanted = wanted.unwrap_or_default();
    Ok((wanted != revision).then_some(Why::OtherRevision(wanted)))
}

fn says(whose: &'static str, value: Option<&str>) -> Result<Option<&'static str>, Refusal> {
    match value {
        None => Ok(None),
        Some("enabled") => Ok(Some("enabled")),
        Some("disabled") => Ok(Some("disabled")),
        Some(other) => Err(Refusal::Label { whose, value: other.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
        pairs.map(|(key, value)| (format!("weft.dev/{key}"), value.to_owned())).collect()
    }

    #[test]
    fn the_pods_labels_go_before_the_namespaces() {
        #[rustfmt::skip]
        let rows = [
            // ("what", namespace, pod, our revision, outcome)
            ("nobody asked",                      "",                                  "",                 "",       "not-asked"),
            ("the namespace asked",               "inject=enabled",                    "",                 "",       "yes"),
            ("the pod asked",                     "",                                  "inject=enabled",   "",       "yes"),
            ("the pod opts out",                  "inject=enabled",                    "inject=disabled",  "",       "not-asked"),
            ("the pod opts in",                   "inject=disabled",                   "inject=enabled",   "",       "yes"),
            ("the namespace says no",             "inject=disabled",                   "",                 "",       "not-asked"),
            ("a namespace of a revision",         "revision=canary",                   "",                 "canary", "yes"),
            ("asked another control plane",       "revision=canary",                   "",                 "",       "other-revision"),
            ("asked the default control plane",   "inject=enabled",                    "",                 "canary", "other-revision"),
            ("both labels: the revision counts",  "inject=enabled revision=canary",    "",                 "canary", "yes"),
            ("disabled goes before a revision",   "inject=disabled revision=canary",   "",                 "canary", "not-asked"),
            ("the pod's revision",                "inject=enabled",                    "revision=canary",  "canary", "yes"),
            ("the pod's, not the namespace's",    "revision=stable",                   "revision=canary",  "stable", "other-revision"),
            ("enabled keeps the revision",        "revision=canary",                   "inject=enabled",   "canary", "yes"),
            ("a pod's revision in a disabled one","inject=disabled",                   "revision=canary",  "canary", "yes"),
            ("the pod opts out of a revision",    "revision=canary",                   "inject=disabled",  "canary", "not-asked"),
            ("an empty revision is none",         "revision=",                         "",                 "",       "not-asked"),
            ("a bad label of the pod",            "inject=enabled",                    "inject=true",      "",       "label pod true"),
            ("a bad label of the namespace",      "inject=yes",                        "",                 "",       "label namespace yes"),
            ("which the pod overrides",           "inject=yes",                        "inject=enabled",   "",       "yes"),
        ];
        for (what, namespace, pod, revision, expected) in rows {
            let found = match refuse(Some(&labels(pod)), &labels(namespace), revision) {
                Ok(None) => "yes".to_owned(),
                Ok(Some(why)) => why.reason().to_owned(),
                Err(Refusal::Label { whose, value }) => format!("label {whose} {value}"),
                Err(other) => other.to_string(),
            };
            assert_eq!(found, expected, "{what}");
        }
    }
}
