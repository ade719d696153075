//! Accepted of the kinds that are Weft's own (`weft.dev`): whether an object does all that it says. Pure, and the same whoever writes it
//! down: the leader into `status.conditions`, or the files source into the status directory.
//!
//! | reason | when |
//! |---|---|
//! | `Invalid` | the source does not take the object; what it was before, if it was ever right, stays in effect ([`refused`]) |
//! | `TargetNotFound` | a targetRef names nothing that there is; the others count |
//! | `Conflicted` | of a BackendPolicy: an older one counts for a Service that it names |
//! | `Accepted` | none of these |
//!
//! Who names a FaultInjection is in the status of routes. Bound: nothing is kept.

use std::borrow::Cow;

use super::backend_policy;
use crate::model::{BackendPolicy, Kind, Model, ObjectKey, RateLimit};
use crate::source::kind_name;
use crate::status::Condition;

/// The kinds.
pub const OWN_KINDS: [Kind; 3] = [Kind::BackendPolicy, Kind::FaultInjection, Kind::RateLimit];

/// Accepted of an object that the source takes; `None` where there is none, and of other kinds. `routed` says whether a route
/// has a Service as parent.
pub(super) fn accepted(key: &ObjectKey, model: &Model, routed: impl Fn(&ObjectKey) -> bool) -> Option<Condition> {
    let (generation, hindered, means) = match key.kind {
        Kind::BackendPolicy => {
            let policy = model.backend_policy(&key.name)?;
            let hindered = without_services(policy, model).or_else(|| outranked(policy, model));
            (policy.meta.generation, hindered, "clients call its Services as it says")
        }
        Kind::FaultInjection => (model.fault_injection(&key.name)?.meta.generation, None, "routes may name it"),
        Kind::RateLimit => {
            let limit = model.rate_limit(&key.name)?;
            let means = "the pods of its Services, and the clients of its routes, count requests";
            (limit.meta.generation, without_targets(limit, model, routed), means)
        }
        _ => return None,
    };
    Some(match hindered {
        Some((reason, message)) => condition(false, reason, message, generation),
        None => condition(true, "Accepted", means.to_owned(), generation),
    })
}

/// Accepted of an object that the source does not take in this generation. `why` names the fields.
pub fn refused(why: &str, generation: i64) -> Condition {
    let message = format!("{why}. What it was before, if it was ever right, stays in effect");
    condition(false, "Invalid", message, generation)
}

fn condition(status: bool, reason: &'static str, message: String, generation: i64) -> Condition {
    let reason = Cow::Borrowed(reason);
    Condition { kind: "Accepted", status, reason, message, observed_generation: generation }
}

fn without_services(policy: &BackendPolicy, model: &Model) -> Option<(&'static str, String)> {
    let missing = policy.services().filter(|name| model.service(name).is_none());
    not_found(missing.map(|name| format!("Service {name}")).collect())
}

fn without_targets(
    limit: &RateLimit,
    model: &Model,
    routed: impl Fn(&ObjectKey) -> bool,
) -> Option<(&'static str, String)> {
    let missing = limit.targets.iter().map(|target| &target.object).filter_map(|object| match object.kind {
        Kind::Service => model.service(&object.name).is_none().then(|| format!("Service {}", object.name)),
        // One whose parents are others' would never be asked.
        kind => (!routed(object)).then(|| format!("{} {} with a Service as parent", kind_name(kind), object.name)),
    });
    not_found(missing.collect())
}

fn not_found(mut missing: Vec<String>) -> Option<(&'static str, String)> {
    // Several sections of one target are missed once.
    missing.dedup();
    let message =
        format!("there is no {}: make it, or mend spec.targetRefs; others that it names count", missing.join(", "));
    (!missing.is_empty()).then_some(("TargetNotFound", message))
}

/// For some of its Services another policy counts.
fn outranked(policy: &BackendPolicy, model: &Model) -> Option<(&'static str, String)> {
    let by = |name| {
        let service = model.service(&name)?;
        let first = backend_policy::in_effect(service, model).filter(|it| it.meta.name != policy.meta.name)?;
        Some(format!("for Service {name} that is {}", first.meta.name))
    };
    let names: Vec<_> = policy.services().filter_map(by).collect();
    let message = format!(
        "of several policies the oldest counts, whole: {}. Put both into one, or take the Service from spec.targetRefs; others that \
         it names count",
        names.join(", ")
    );
    (!names.is_empty()).then_some(("Conflicted", message))
}

#[cfg(test)]
mod tests;
