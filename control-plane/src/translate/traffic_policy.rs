//! XBackendTrafficPolicy: a budget of retries and session persistence for a Service, whoever leads there, and the conditions of
//! policies.
//!
//! Of the policies for a Service the oldest acts, on a tie the first by `namespace/name` (GEP-713); there is nothing to merge, since a
//! policy says all that it says of a Service or nothing. One that cannot be as written keeps its place, and none of it acts: no
//! younger one takes its place unseen.
//!
//! An ancestor is the Service itself, as of a BackendTLSPolicy.

use std::borrow::Cow;

use weft_proto::ServiceName;
use weft_proto::v1;

use super::gateway_api::{millis, wire_backend_session};
use crate::model::{LocalRef, Model, ObjectName, ParentRef, Service, ServicePort, TrafficPolicy};
use crate::status::{Condition, ParentStatus, RouteStatus};

/// What a policy says of one port.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Says {
    pub(super) budget: Option<v1::RetryBudget>,
    pub(super) session: Option<v1::SessionPersistence>,
}

/// What the acting policy says of a Service's port; nothing where none acts.
pub(super) fn of_port(service: &Service, port: &ServicePort, model: &Model) -> Says {
    let name = &service.meta.name;
    let backend = ServiceName::new(&*name.namespace, &*name.name).endpoints(port.port).to_string();
    first(name, model).and_then(|policy| meaning(policy, &backend).ok()).unwrap_or_default()
}

fn first<'a>(service: &ObjectName, model: &'a Model) -> Option<&'a TrafficPolicy> {
    let policies = model.traffic_policies_for(service);
    policies.min_by(|a, b| (&a.meta.age, &a.meta.name).cmp(&(&b.meta.age, &b.meta.name)))
}

/// # Errors
/// Says what cannot be as written.
fn meaning(policy: &TrafficPolicy, backend: &str) -> Result<Says, String> {
    let budget = policy.retries.map(|retries| v1::RetryBudget {
        percent: retries.percent,
        interval: Some(millis(retries.interval)),
        min_count: retries.min_count,
        min_interval: Some(millis(retries.min_interval)),
    });
    let session = policy.session.as_ref().map(|session| wire_backend_session(session, backend)).transpose()?;
    Ok(Says { budget, session })
}

/// One entry for each target that is a Service; `None` where there is none.
pub(super) fn status(policy: &TrafficPolicy, model: &Model) -> Option<RouteStatus> {
    let targets = policy.targets.iter().filter(|target| target.is_service());
    let parents: Vec<_> = targets
        .map(|target| {
            let (status, reason, message) = match attached(policy, target, model) {
                Ok(message) => (true, "Accepted", message),
                Err((reason, message)) => (false, reason, message),
            };
            let accepted = Condition {
                kind: "Accepted",
                status,
                reason: Cow::Borrowed(reason),
                message,
                observed_generation: policy.meta.generation,
            };
            let ancestor = ParentRef {
                group: Some(target.group.clone()),
                kind: Some(target.kind.clone()),
                namespace: Some(policy.meta.name.namespace.clone()),
                name: target.name.clone(),
                section_name: None,
                port: None,
            };
            ParentStatus { parent_ref: ancestor, conditions: vec![accepted] }
        })
        .collect();
    (!parents.is_empty()).then_some(RouteStatus { parents })
}

/// That a policy acts on a target, in words.
///
/// # Errors
/// A reason of the Accepted condition and a message where it does not.
fn attached(policy: &TrafficPolicy, target: &LocalRef, model: &Model) -> Result<String, (&'static str, String)> {
    let name = ObjectName::new(&*policy.meta.name.namespace, &*target.name);
    if model.service(&name).is_none() {
        return Err(("TargetNotFound", format!("there is no Service {name}; create it, or correct the targetRef")));
    }
    if let Some(other) = first(&name, model).filter(|other| other.meta.name != policy.meta.name) {
        let message = format!(
            "XBackendTrafficPolicy {} is older, or first by name, and acts on Service {name}; say it there, or delete one",
            other.meta.name
        );
        return Err(("Conflicted", message));
    }
    match meaning(policy, "") {
        Ok(says) if says == Says::default() => {
            Ok(format!("for Service {name}, and says nothing: give it retryConstraint or sessionPersistence"))
        }
        Ok(_) => Ok(format!("in effect for Service {name}")),
        Err(why) => Err(("Invalid", format!("nothing of it is in effect for Service {name}: {why}"))),
    }
}

#[cfg(test)]
mod tests;
