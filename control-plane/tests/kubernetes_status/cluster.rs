//! A namespace of a test's own in a real cluster, and what routes say in it.

use std::future::Future;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, DynamicObject, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::ApiResource;
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use weft_control_plane::leader::{self, Election, LEASE, Times};
use weft_control_plane::status::{CONTROLLER_NAME, PROGRAMMED};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Who writes status sees all routes of the cluster, so one test at a time counts writes.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A namespace of a test's own.
pub(crate) struct Cluster {
    config: Config,
    pub(crate) client: Client,
    pub(crate) namespace: String,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    pub(crate) async fn new(test: &str) -> Self {
        let path = std::env::var("WEFT_TEST_KUBECONFIG").expect(
            "WEFT_TEST_KUBECONFIG must name the kubeconfig of a cluster made for tests: run `make test-cluster`",
        );
        let kubeconfig = Kubeconfig::read_from(path).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config.clone()).unwrap();
        let namespace = format!("weft-{test}-{:08x}", rand::random::<u32>());
        let metadata = ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() };
        let object = Namespace { metadata, ..Namespace::default() };
        Api::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        Self { config, client, namespace, _alone: ONE_AT_A_TIME.lock().await }
    }

    pub(crate) fn config(&self) -> Config {
        self.config.clone()
    }

    pub(crate) fn election(&self, holder: &str) -> Election {
        // Each with a connection of its own, as processes have.
        let client = Client::try_from(self.config.clone()).unwrap();
        Election::begin(client, &self.namespace, LEASE, holder, Times::default(), leader::Metrics::default())
    }

    pub(crate) fn routes(&self) -> Api<DynamicObject> {
        let resource = ApiResource {
            group: "gateway.networking.k8s.io".into(),
            version: "v1".into(),
            api_version: "gateway.networking.k8s.io/v1".into(),
            kind: "HTTPRoute".into(),
            plural: "httproutes".into(),
        };
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    pub(crate) async fn holder(&self) -> String {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        leases.get(LEASE).await.unwrap().spec.unwrap().holder_identity.unwrap()
    }

    pub(crate) async fn end(self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
    }
}

/// Waits until `found` finds something, and says how long that took.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut found: impl FnMut() -> F,
) -> (T, Duration) {
    let began = Instant::now();
    loop {
        if let Some(found) = found().await {
            let took = began.elapsed();
            println!("{what}: after {took:?}");
            return (found, took);
        }
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn route(name: &str, parents: &[&str]) -> DynamicObject {
    let parents: Vec<_> = parents.iter().map(|name| json!({"group": "", "kind": "Service", "name": name})).collect();
    serde_json::from_value(json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name},
        "spec": {"parentRefs": parents, "rules": [{"backendRefs": [{"name": "ratings", "port": 80}]}]},
    }))
    .unwrap()
}

/// `controller parent: Type=Status(generation) ...` for each entry.
pub(crate) fn entries(route: &DynamicObject) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = route.data["status"]["parents"].as_array().cloned().unwrap_or_default();
    let entry = |entry: Value| {
        let conditions = entry["conditions"].as_array().cloned().unwrap_or_default();
        let conditions = conditions.iter().map(|condition| {
            format!(" {}={}({})", text(&condition["type"]), text(&condition["status"]), condition["observedGeneration"])
        });
        let (controller, parent) = (text(&entry["controllerName"]), text(&entry["parentRef"]["name"]));
        format!("{controller} {parent}:{}", conditions.collect::<String>())
    };
    entries.into_iter().map(entry).collect()
}

pub(crate) fn ours(parent: &str, accepted: bool, generation: i64) -> String {
    let accepted = if accepted { "True" } else { "False" };
    format!(
        "{CONTROLLER_NAME} {parent}: Accepted={accepted}({generation}) ResolvedRefs=True({generation}) \
         {PROGRAMMED}=True({generation})"
    )
}

pub(crate) async fn until(what: &str, routes: &Api<DynamicObject>, name: &str, expected: &[String]) -> Duration {
    let mut last = Vec::new();
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        last = entries(&routes.get(name).await.unwrap());
        if last == expected {
            println!("{what}: after {:?}", began.elapsed());
            return began.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within {PATIENCE:?}: {last:#?} instead of {expected:#?}");
}
