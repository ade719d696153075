//! Accepted of BackendPolicies. The kind must be installed (`charts/weft/kinds`).

use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use serde_json::{Value, json};

use crate::cluster::{Cluster, eventually};
use crate::replica::Replica;

fn policies(cluster: &Cluster) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: "weft.dev".into(),
        version: "v1alpha1".into(),
        api_version: "weft.dev/v1alpha1".into(),
        kind: "BackendPolicy".into(),
        plural: "backendpolicies".into(),
    };
    Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource)
}

fn policy(name: &str, service: &str) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "weft.dev/v1alpha1",
        "kind": "BackendPolicy",
        "metadata": {"name": name},
        "spec": {"targetRefs": [{"kind": "Service", "name": service}], "connectTimeout": "1s"},
    }))
    .unwrap()
}

/// Waits until the policy's only condition has the reason and names `what`.
async fn says(policies: &Api<DynamicObject>, name: &str, reason: &str, what: &str) {
    let found = || async {
        let object = policies.get(name).await.unwrap();
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
    let (policies, params) = (policies(&cluster), PostParams::default());
    let replica = Replica::new(&cluster, true);
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
    assert_eq!(replica.writes("failed"), 0);
    // Nobody empties a namespace where an API server is alone, and others' leaders would write of what is left.
    for name in ["b", "c"] {
        policies.delete(name, &DeleteParams::default()).await.unwrap();
    }
    cluster.end().await;
}
