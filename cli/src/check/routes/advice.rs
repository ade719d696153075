//! What to do about a condition of a route. The message of the condition says what is wrong; this says where to turn. Pure.

use weft_control_plane::status::PROGRAMMED;

use super::judge::At;

/// Whoever writes status has not yet, or not again.
pub(in crate::check) const WAIT: &str =
    "the leader of the control plane writes it within a second: weft check says whether one leads";

/// For condition `kind` with this reason; one that is not known has the command that shows all of it.
pub(in crate::check) fn fix(at: &At, kind: &str, reason: &str) -> String {
    let edit =
        |what: &str| format!("{what}: kubectl -n {} edit {} {}", at.namespace, at.kind.to_ascii_lowercase(), at.name);
    match (kind, reason) {
        ("Accepted", "NoMatchingParent") => edit("correct spec.parentRefs, or the Service"),
        ("Accepted", "InvalidKind") => edit("write group: \"\" in the parentRef"),
        ("Accepted", "RouteReasonConflicted") => edit("give each kind of route a port of its own (parentRefs[].port)"),
        ("Accepted" | "PartiallyInvalid", "IncompatibleFilters") => edit("leave one of these filters out"),
        ("Accepted" | "PartiallyInvalid", "UnsupportedValue") => edit("correct the rules that the message names"),
        ("ResolvedRefs", "BackendNotFound") => edit("create that Service, or correct the backendRef"),
        ("ResolvedRefs", "InvalidKind") => edit("let backendRefs name Services"),
        ("ResolvedRefs", "UnsupportedValue") => edit("correct the backendRef"),
        (PROGRAMMED, "Refused") => {
            "a sidecar older than the control plane may not know it (weft version): restart that workload".to_owned()
        }
        (PROGRAMMED, _) => "look at those pods: weft check; kubectl logs POD -c weft-sidecar".to_owned(),
        _ => format!("kubectl -n {} describe {} {}", at.namespace, at.kind.to_ascii_lowercase(), at.name),
    }
}

/// For a kind that no sidecar routes by.
pub(in crate::check) fn instead(at: &At) -> String {
    let kind = at.kind.to_ascii_lowercase();
    format!(
        "say the same with an HTTPRoute or GRPCRoute, or delete it: kubectl -n {} delete {kind} {}",
        at.namespace, at.name
    )
}
