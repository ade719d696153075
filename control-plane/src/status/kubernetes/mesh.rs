//! XMesh (`gateway.networking.x-k8s.io/v1alpha1`): an object that names this controller is told that it is accepted, and what of
//! the Gateway API this mesh does, by the names of the conformance suite's features. The leader writes it, as all status;
//! where the kind is not installed, nothing happens.
//!
//! The object configures nothing: one with `parametersRef` is not accepted, since nobody would read them.

use std::convert::Infallible;
use std::time::SystemTime;

use futures_util::StreamExt as _;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, Object};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::CONTROLLER_NAME;
use super::super::dir::rfc3339;
use super::TIME_LIMIT;
use super::kinds::Pauses;
use crate::identity::FIELD_MANAGER;

/// In ascending order, as the API wants them. `e2e/conformance` holds every one of them.
const FEATURES: [&str; 12] = [
    "GRPCRoute",
    "HTTPRoute",
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

type XMesh = Object<Spec, Value>;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    controller_name: String,
    parameters_ref: Option<Value>,
}

/// Keeps the status of every XMesh of ours, for as long as it is polled.
pub(super) async fn lead(client: &Client) -> Infallible {
    let meshes = Api::<XMesh>::all_with(client.clone(), &resource());
    let mut events = watcher(meshes.clone(), watcher::Config::default()).backoff(Pauses::default()).boxed();
    loop {
        match events.next().await {
            Some(Ok(watcher::Event::Apply(mesh) | watcher::Event::InitApply(mesh))) => write(&meshes, mesh).await,
            Some(Ok(_)) => {}
            // A kind that is not installed is no fault.
            Some(Err(error)) => tracing::debug!(%error, "the watch on XMesh; trying again"),
            None => std::future::pending().await,
        }
    }
}

fn resource() -> ApiResource {
    ApiResource {
        group: "gateway.networking.x-k8s.io".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "gateway.networking.x-k8s.io/v1alpha1".to_owned(),
        kind: "XMesh".to_owned(),
        plural: "xmeshes".to_owned(),
    }
}

async fn write(meshes: &Api<XMesh>, mesh: XMesh) {
    let (Some(name), Some(version)) = (mesh.metadata.name, mesh.metadata.resource_version) else { return };
    let generation = mesh.metadata.generation.unwrap_or_default();
    let before = mesh.status.unwrap_or_default();
    let Some(status) = wanted(&mesh.spec, generation, &before, SystemTime::now()) else { return };
    // Refused when anybody wrote since: the watch brings what it is then.
    let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "status": status}));
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match tokio::time::timeout(TIME_LIMIT, meshes.patch_status(&name, &params, &patch)).await {
        Ok(Ok(_)) => tracing::debug!(mesh = name, "status written"),
        Ok(Err(error)) => tracing::warn!(mesh = name, %error, "cannot write the status of an XMesh"),
        Err(_) => tracing::warn!(mesh = name, "no answer to a write of the status of an XMesh"),
    }
}

/// What the status should be; `None` where it is so, or the object is not ours. Conditions of other types stay.
fn wanted(spec: &Spec, generation: i64, before: &Value, now: SystemTime) -> Option<Value> {
    if spec.controller_name != CONTROLLER_NAME {
        return None;
    }
    let (status, reason, message) = match &spec.parameters_ref {
        None => ("True", "Accepted", "routes whose parent is a Service are this mesh's"),
        Some(_) => ("False", "InvalidParameters", "parametersRef refers to nothing that Weft reads; remove it"),
    };
    let mut conditions = before.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let position = conditions.iter().position(|condition| condition.get("type").is_some_and(|of| of == "Accepted"));
    let since = position
        .and_then(|position| conditions.get(position))
        .filter(|before| before.get("status").is_some_and(|before| before == status));
    let since = since.and_then(|before| before.get("lastTransitionTime")).cloned();
    let accepted = json!({
        "type": "Accepted",
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": since.unwrap_or_else(|| rfc3339(now).into()),
    });
    match position {
        Some(position) => conditions[position] = accepted,
        None => conditions.push(accepted),
    }
    let features: Vec<_> = FEATURES.iter().map(|name| json!({"name": name})).collect();
    let after = json!({"conditions": conditions, "supportedFeatures": features});
    let same = |key: &str| before.get(key) == after.get(key);
    (!same("conditions") || !same("supportedFeatures")).then_some(after)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ours() -> Spec {
        Spec { controller_name: CONTROLLER_NAME.to_owned(), parameters_ref: None }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn an_xmesh_of_ours_is_accepted_once_and_told_what_is_supported() {
        let pending = json!({"conditions": [
            {"type": "Accepted", "status": "Unknown", "reason": "Pending", "message": "", "lastTransitionTime": "x"},
            {"type": "example.com/Other", "status": "True"},
        ]});
        let status = wanted(&ours(), 1, &pending, at(7)).unwrap();
        let accepted = &status["conditions"][0];
        assert_eq!((accepted["status"].as_str(), accepted["reason"].as_str()), (Some("True"), Some("Accepted")));
        assert_eq!(accepted["lastTransitionTime"], "1970-01-01T00:00:07Z");
        assert_eq!(status["conditions"][1], pending["conditions"][1], "another's stays");
        assert_eq!(status["supportedFeatures"][2]["name"], "Mesh");
        assert_eq!(wanted(&ours(), 1, &status, at(9)), None, "it is as it should be");
        let next = wanted(&ours(), 2, &status, at(9)).unwrap();
        assert_eq!(next["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:07Z", "it did not change");

        let parameters = Spec { parameters_ref: Some(json!({"name": "x"})), ..ours() };
        let refused = wanted(&parameters, 3, &status, at(9)).unwrap();
        assert_eq!(refused["conditions"][0]["reason"], "InvalidParameters");
        let others = Spec { controller_name: "example.com/mesh".to_owned(), ..ours() };
        assert_eq!(wanted(&others, 1, &Value::Null, at(1)), None);
    }

    #[test]
    fn features_are_sorted_and_those_that_conformance_holds() {
        assert!(FEATURES.is_sorted());
        let held = include_str!("../../../../e2e/conformance/conformance_test.go");
        let extended = FEATURES.iter().filter(|name| name.starts_with("Mesh") && **name != "Mesh");
        for name in extended.clone() {
            assert!(held.contains(&format!("features.Support{name}")), "{name}");
        }
        assert_eq!(held.matches("\n\tfeatures.SupportMesh").count(), extended.count());
    }
}
