//! What to do about a condition of a route, or of an object of Weft's own kinds. The message of the condition says what is wrong; this says where to turn. Pure.

use weft_control_plane::status::PROGRAMMED;

/// Whom a condition is of.
#[derive(Debug, Clone, Copy)]
pub(in crate::check) struct Who<'a> {
    /// Its kind.
    pub(in crate::check) kind: &'a str,
    /// Its namespace.
    pub(in crate::check) namespace: &'a str,
    /// Its name.
    pub(in crate::check) name: &'a str,
    /// Whether it is in a manifest, of a mesh without a cluster.
    pub(in crate::check) files: bool,
}

/// Whoever writes status has not yet, or not again.
pub(in crate::check) const WAIT: &str =
    "the leader of the control plane writes it within a second: weft check says whether one leads";

/// For condition `kind` with this reason; one that is not known has the command that shows all of it.
pub(in crate::check) fn fix(who: &Who<'_>, kind: &str, reason: &str) -> String {
    let of = who.kind.to_ascii_lowercase();
    let edit = |what: &str| match who.files {
        true => format!("{what}, in its manifest"),
        false => format!("{what}: kubectl -n {} edit {of} {}", who.namespace, who.name),
    };
    match (kind, reason) {
        ("Accepted", "NoMatchingParent") => edit("correct spec.parentRefs, or the Service"),
        ("Accepted", "InvalidKind") => edit("write group: \"\" in the parentRef"),
        ("Accepted", "RouteReasonConflicted") => edit("give each kind of route a port of its own (parentRefs[].port)"),
        ("Accepted" | "PartiallyInvalid", "IncompatibleFilters") => edit("leave one of these filters out"),
        ("Accepted" | "PartiallyInvalid", "UnsupportedValue") => edit("correct the rules that the message names"),
        ("ResolvedRefs", "BackendNotFound") => edit("create that Service, or correct the backendRef"),
        ("ResolvedRefs", "InvalidKind") => edit("let backendRefs name Services"),
        ("ResolvedRefs", "UnsupportedValue") => edit("correct the backendRef"),
        ("Accepted", "Invalid") => edit("correct the fields that the message names"),
        ("Accepted", "TargetNotFound") => edit("create what it names, or correct spec.targetRefs"),
        ("Accepted", "Conflicted") => edit("put both policies into one, or take the Service from spec.targetRefs"),
        (PROGRAMMED, "Refused") => {
            "a sidecar older than the control plane may not know it (weft version): restart that workload".to_owned()
        }
        (PROGRAMMED, _) => "look at those pods: weft check; kubectl logs POD -c weft-sidecar".to_owned(),
        _ if who.files => "the message says what is wrong with its manifest".to_owned(),
        _ => format!("kubectl -n {} describe {of} {}", who.namespace, who.name),
    }
}

/// For a kind that no sidecar routes by.
pub(in crate::check) fn instead(who: &Who<'_>) -> String {
    let kind = who.kind.to_ascii_lowercase();
    format!(
        "say the same with an HTTPRoute or GRPCRoute, or delete it: kubectl -n {} delete {kind} {}",
        who.namespace, who.name
    )
}
