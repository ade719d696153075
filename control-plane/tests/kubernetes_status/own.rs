//! Accepted of Weft's own kinds. They must be installed (`charts/weft/kinds`).

use std::sync::Arc;

use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use weft_control_plane::source::kubernetes::{self, WatchSettings};

use crate::cluster::{Cluster, eventually};
use crate::replica::Replica;

pub(crate) fn of_kind(cluster: &Cluster, kind: &str, plural: &str) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: "weft.dev".into(),
        version: "v1alpha1".into(),
        api_version: "weft.dev/v1alpha1".into(),
        kind: kind.into(),
        plural: plural.into(),
    };
    Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource)
}

pub(crate) fn object(kind: &str, name: &str, spec: Value) -> DynamicObject {
    let object = json!({"apiVersion": "weft.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    serde_json::from_value(object).unwrap()
}

fn policy(name: &str, service: &str) -> DynamicObject {
    let spec = json!({"targetRefs": [{"kind": "Service", "name": service}], "connectTimeout": "1s"});
    object("BackendPolicy", name, spec)
}

/// A leader that translates what it reads of this cluster; Services `reviews` and `ratings` it has been told of.
fn following(cluster: &Cluster) -> (Arc<Mutex<Replica>>, JoinSet<()>) {
    let replica = Arc::new(Mutex::new(Replica::new(cluster, true)));
    let source = kubernetes::watch(cluster.config(), WatchSettings::default(), kubernetes::Metrics::default());
    let (mut edits, theirs) = (source.unwrap().edits, Arc::clone(&replica));
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Some(edit) = edits.recv().await {
            theirs.lock().take(edit.objects);
        }
    });
    (replica, task)
}

/// Waits until the object's only condition has the reason and names `what`.
async fn says(objects: &Api<DynamicObject>, name: &str, reason: &str, what: &str) {
    let found = || async {
        let object = objects.get(name).await.unwrap();
        let condition = object.data.pointer("/status/conditions/0")?;
        let named = condition["message"].as_str().is_some_and(|message| message.contains(what));
        let status = if reason == "Accepted" { "True" } else { "False" };
        let current = condition["observedGeneration"] == Value::from(object.metadata.generation);
        (current && condition["reason"] == reason && condition["status"] == status && named).then_some(())
    };
    eventually(&format!("{name}: {reason}"), found).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn a_backend_policy_is_told_whether_it_counts() {
    let cluster = Cluster::new("own").await;
    let (policies, params) = (of_kind(&cluster, "BackendPolicy", "backendpolicies"), PostParams::default());
    let (replica, _following) = following(&cluster);
    // Born in one second: the first by name counts.
    for (name, service) in [("a", "reviews"), ("b", "reviews"), ("c", "nowhere")] {
        policies.create(&params, &policy(name, service)).await.unwrap();
    }
    says(&policies, "a", "Accepted", "").await;
    says(&policies, "b", "Conflicted", &format!("{}/a", cluster.namespace)).await;
    says(&policies, "c", "TargetNotFound", &format!("{}/nowhere", cluster.namespace)).await;

    // What the kind's schema lets pass and the decoder does not.
    let wrong = json!({"spec": {"connectTimeout": "0s"}});
    policies.patch("c", &PatchParams::default(), &Patch::Merge(&wrong)).await.unwrap();
    says(&policies, "c", "Invalid", "spec.connectTimeout").await;

    policies.delete("a", &DeleteParams::default()).await.unwrap();
    says(&policies, "b", "Accepted", "").await;
    assert_eq!(replica.lock().writes("failed"), 0);
    // Nobody empties a namespace where an API server is alone, and others' leaders would write of what is left.
    for name in ["b", "c"] {
        policies.delete(name, &DeleteParams::default()).await.unwrap();
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn limits_and_faults_are_told_whether_they_can_do_what_they_say() {
    let cluster = Cluster::new("own-more").await;
    let (params, patch) = (PostParams::default(), PatchParams::default());
    let limits = of_kind(&cluster, "RateLimit", "ratelimits");
    let faults = of_kind(&cluster, "FaultInjection", "faultinjections");
    let (replica, _following) = following(&cluster);
    let on = |kind: &str, group: &str, name: &str| json!({"targetRefs": [{"group": group, "kind": kind, "name": name}], "requests": 1000});
    let route = on("HTTPRoute", "gateway.networking.k8s.io", "nobody");
    for (name, spec) in [("a", on("Service", "", "reviews")), ("b", on("Service", "", "nowhere")), ("c", route)] {
        limits.create(&params, &object("RateLimit", name, spec)).await.unwrap();
    }
    faults.create(&params, &object("FaultInjection", "a", json!({"delay": {"fixedDelay": "1s"}}))).await.unwrap();
    says(&limits, "a", "Accepted", "count requests").await;
    says(&limits, "b", "TargetNotFound", &format!("{}/nowhere", cluster.namespace)).await;
    says(&limits, "c", "TargetNotFound", "nobody with a Service as parent").await;
    says(&faults, "a", "Accepted", "routes may name it").await;

    // An edit is said of its own generation.
    let slower = json!({"spec": {"delay": {"fixedDelay": "2s"}}});
    faults.patch("a", &patch, &Patch::Merge(&slower)).await.unwrap();
    says(&faults, "a", "Accepted", "").await;
    let mended = json!({"spec": on("Service", "", "ratings")});
    limits.patch("b", &patch, &Patch::Merge(&mended)).await.unwrap();
    says(&limits, "b", "Accepted", "").await;

    assert_eq!(replica.lock().writes("failed"), 0);
    for name in ["a", "b", "c"] {
        limits.delete(name, &DeleteParams::default()).await.unwrap();
    }
    faults.delete("a", &DeleteParams::default()).await.unwrap();
    cluster.end().await;
}
