//! The Kubernetes source against a real API server. Ignored unless asked for: `WEFT_TEST_KUBECONFIG` names the kubeconfig of
//! an administrator of a cluster made for tests, with the kinds of the Gateway API. Each test has its own namespace; those
//! of a cluster as a whole also need `WEFT_TEST_RESTART`, a shell command that restarts the API server.
//!
//! Most outages are made by a relay between us and the API server, so that they are exact and disturb nobody else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use weft_control_plane::model::{Batch, HttpRouteFilter, Kind, Model, Object, ObjectKey, ObjectName};
use weft_control_plane::source::kubernetes::{Metrics, WatchSettings, watch as watch_cluster};

#[path = "source_kubernetes/known.rs"]
mod known;
#[path = "source_kubernetes/token.rs"]
mod token;

use known::{Known, Relay};

const PATIENCE: Duration = Duration::from_secs(30);
/// From the API server being ready again to the last stale endpoint being gone.
const STALE: Duration = Duration::from_secs(2);

async fn config() -> Config {
    let path = std::env::var("WEFT_TEST_KUBECONFIG")
        .expect("WEFT_TEST_KUBECONFIG must name the kubeconfig of a cluster made for tests: run `make test-cluster`");
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
}

/// A namespace of a test's own.
struct Cluster {
    config: Config,
    client: Client,
    namespace: String,
}

impl Cluster {
    async fn new(test: &str) -> Self {
        let _ =
            tracing_subscriber::fmt().with_env_filter("info,weft_control_plane=debug").with_test_writer().try_init();
        let config = config().await;
        let client = Client::try_from(config.clone()).unwrap();
        let namespace = format!("weft-{test}-{:08x}", rand::random::<u32>());
        let object = Namespace { metadata: named(&namespace), ..Namespace::default() };
        Api::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        Self { config, client, namespace }
    }

    async fn apply(&self, objects: &[Value]) {
        for object in objects {
            self.try_apply(object).await.unwrap();
        }
    }

    async fn try_apply(&self, object: &Value) -> Result<DynamicObject, kube::Error> {
        let name = object["metadata"]["name"].as_str().unwrap();
        self.dynamic(object).patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await
    }

    fn dynamic(&self, object: &Value) -> Api<DynamicObject> {
        let api_version = object["apiVersion"].as_str().unwrap();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap());
        Api::namespaced_with(self.client.clone(), &self.namespace, &ApiResource::from_gvk(&kind))
    }

    /// A service account. That one is there already is well: `default` is made by a controller, where one runs.
    async fn account(&self, name: &str) {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let account = ServiceAccount { metadata: named(name), ..ServiceAccount::default() };
        match accounts.create(&PostParams::default(), &account).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            made => drop(made.unwrap()),
        }
    }

    async fn delete(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        self.dynamic(object).delete(name, &DeleteParams::default()).await.unwrap();
    }

    fn key(&self, kind: Kind, name: &str) -> ObjectKey {
        ObjectKey { kind, name: ObjectName::new(&*self.namespace, name) }
    }

    async fn end(self) {
        Api::<Namespace>::all(self.client.clone()).delete(&self.namespace, &DeleteParams::default()).await.unwrap();
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]},
    })
}

fn slice(name: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> =
        addresses.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{name}-x"), "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 80}], "endpoints": endpoints,
    })
}

fn route(name: &str, rule: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}], "rules": [rule]},
    })
}

fn to(name: &str, weight: u32) -> Value {
    json!({"backendRefs": [{"name": name, "port": 80, "weight": weight}]})
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn objects_come_change_and_go() {
    let cluster = Cluster::new("objects").await;
    cluster.apply(&[service("web"), slice("web", &["10.9.0.1"]), route("web", &to("web", 90))]).await;
    let mut known = Known::new(cluster.config.clone()).await;
    let (endpoints, route_key) = (cluster.key(Kind::EndpointSlice, "web-x"), cluster.key(Kind::HttpRoute, "web"));
    assert_eq!(known.addresses(&endpoints), ["10.9.0.1"], "the first edit is everything");
    assert_eq!(known.weight(&route_key), Some(90));
    assert!(known.watch.oldest_kubelet.borrow().is_none_or(|(major, minor)| major == 1 && minor > 20));
    let mut model = Model::default();
    model.apply(Batch { upserts: known.objects.values().cloned().collect(), ..Batch::default() });
    assert_eq!(model.slices_of(&cluster.key(Kind::Service, "web").name).count(), 1);
    let meta = known.objects[&route_key].meta();
    assert!(meta.generation == 1 && meta.age.0 > 1_700_000_000 && meta.age.1.ends_with("/web"), "{meta:?}");

    cluster.apply(&[slice("web", &["10.9.0.1", "10.9.0.2"])]).await;
    let took = known.until("an endpoint", |known| known.addresses(&endpoints).len() == 2).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    cluster.apply(&[route("web", &to("web", 50))]).await;
    known.until("a weight", |known| known.weight(&route_key) == Some(50)).await;
    assert_eq!(known.objects[&route_key].meta().generation, 2);

    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let label = json!({"metadata": {"labels": {"weft.dev/inject": "enabled"}}});
    namespaces.patch(&cluster.namespace, &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    known.until("opted in", |known| known.watch.opted_in.borrow().contains(&cluster.namespace)).await;

    cluster.delete(&route("web", &to("web", 50))).await;
    known.until("a route that went", |known| !known.objects.contains_key(&route_key)).await;
    // Status and annotations of others change nothing: no edit comes of them.
    let edits = known.edits;
    let note = json!({"metadata": {"annotations": {"example.com/seen": "1"}}});
    let services: Api<Service> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    services.patch("web", &PatchParams::default(), &Patch::Merge(&note)).await.unwrap();
    cluster.apply(&[slice("web", &["10.9.0.3"])]).await;
    known.until("another endpoint", |known| known.addresses(&endpoints) == ["10.9.0.3"]).await;
    assert!(known.edits - edits <= 2, "{} edits", known.edits - edits);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn a_route_that_cannot_be_used_is_named_and_keeps_its_last_good_form() {
    let cluster = Cluster::new("bad").await;
    cluster.apply(&[service("web"), route("web", &to("web", 90))]).await;
    let mut known = Known::new(cluster.config.clone()).await;
    let key = cluster.key(Kind::HttpRoute, "web");
    let ours = |known: &Known| -> Vec<String> {
        known.problems.iter().filter(|p| p.object.as_ref() == Some(&key)).map(ToString::to_string).collect()
    };
    let mut bad = to("web", 10);
    // The API server's schema lets it pass.
    bad["filters"] =
        json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-a", "value": " a"}]}}]);
    cluster.apply(&[route("web", &bad)]).await;
    known.until("a problem", |known| !ours(known).is_empty()).await;
    let expected = format!(
        "HTTPRoute {}/web: spec.rules[0].filters[0].requestHeaderModifier.set[0].value: must not begin or end",
        cluster.namespace
    );
    assert!(ours(&known)[0].starts_with(&expected), "{:?}", ours(&known));
    assert_eq!(known.weight(&key), Some(90), "the last good form stays");

    let mut extended = to("web", 20);
    extended["filters"] =
        json!([{"type": "ExtensionRef", "extensionRef": {"group": "example.com", "kind": "Other", "name": "web"}}]);
    cluster.apply(&[route("web", &extended)]).await;
    known.until("usable again", |known| known.weight(&key) == Some(20)).await;
    let Object::HttpRoute(route_now) = &known.objects[&key] else { panic!() };
    let [HttpRouteFilter::Extension(named)] = &route_now.rules[0].filters[..] else { panic!("{route_now:?}") };
    assert_eq!((&named.group[..], &named.kind[..], named.name.name.as_ref()), ("example.com", "Other", "web"));
    cluster.delete(&route("web", &extended)).await;
    known.until("gone", |known| !known.objects.contains_key(&key) && ours(known).is_empty()).await;
    cluster.end().await;
}

/// The CRD of a kind whose schema does not matter here.
fn crd(kind: &str, plural: &str) -> CustomResourceDefinition {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    serde_json::from_value(json!({
        "metadata": {"name": format!("{plural}.security.istio.io")},
        "spec": {
            "group": "security.istio.io", "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn a_crd_may_be_installed_and_removed_while_we_run() {
    let cluster = Cluster::new("crd").await;
    let crds: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let kinds = [("PeerAuthentication", "peerauthentications"), ("AuthorizationPolicy", "authorizationpolicies")];
    for (_, plural) in kinds {
        let _ = crds.delete(&format!("{plural}.security.istio.io"), &DeleteParams::default()).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut known = Known::new(cluster.config.clone()).await;
    let key = cluster.key(Kind::PeerAuthentication, "strict");
    for round in ["installed", "installed again"] {
        let began = Instant::now();
        for (kind, plural) in kinds {
            crds.create(&PostParams::default(), &crd(kind, plural)).await.unwrap();
        }
        let object = |kind: &str, spec: Value| json!({"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {"name": "strict"}, "spec": spec});
        let objects = [
            object("PeerAuthentication", json!({"mtls": {"mode": "STRICT"}})),
            object("AuthorizationPolicy", json!({"action": "DENY"})),
        ];
        for object in &objects {
            while cluster.try_apply(object).await.is_err() {
                assert!(began.elapsed() < PATIENCE);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        println!("{round}: objects written {:?} after the CRDs", began.elapsed());
        known.until(round, |known| known.objects.contains_key(&key)).await;
        known
            .until("what is not enforced", |known| {
                let named = known.watch.unenforced.borrow();
                named.get(&cluster.namespace).is_some_and(|names| names == &["AuthorizationPolicy strict"])
                    && known.problems.iter().any(|problem| problem.to_string().contains("is not enforced"))
            })
            .await;
        for (_, plural) in kinds {
            crds.delete(&format!("{plural}.security.istio.io"), &DeleteParams::default()).await.unwrap();
        }
        known.until("removed", |known| !known.objects.contains_key(&key)).await;
        known.until("no warning", |known| known.watch.unenforced.borrow().is_empty()).await;
        // Until the API server has forgotten the kind, it cannot be made again.
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn while_the_api_server_is_away_nothing_goes_and_when_it_is_back_all_is_as_it_says() {
    let cluster = Cluster::new("away").await;
    let objects = [
        service("web"),
        slice("web", &["10.9.0.1"]),
        route("web", &to("web", 90)),
        service("goes"),
        slice("goes", &["10.9.0.9"]),
    ];
    cluster.apply(&objects).await;
    let (relay, through) = Relay::new(&cluster.config).await;
    let mut known = Known::new(through).await;
    let endpoints = cluster.key(Kind::EndpointSlice, "web-x");
    for (round, away) in [("a moment", 300), ("ten seconds", 10_000)] {
        relay.up.send_replace(false);
        tokio::time::sleep(Duration::from_millis(100)).await;
        // What was still on its way, of the round before too, is taken first.
        while known.take(Duration::from_millis(50)).await {}
        let before = known.objects.clone();
        cluster.apply(&[slice("web", &["10.9.1.1", "10.9.1.2"]), service("came"), route("web", &to("web", 10))]).await;
        cluster.delete(&service("goes")).await;
        cluster.delete(&slice("goes", &[])).await;
        tokio::time::sleep(Duration::from_millis(away)).await;
        while known.take(Duration::from_millis(1)).await {}
        assert!(known.objects == before, "{round}: nothing changes while it is away");
        relay.up.send_replace(true);
        let took = known.until("endpoints", |known| known.addresses(&endpoints) == ["10.9.1.1", "10.9.1.2"]).await;
        assert!(took < STALE, "{round}: {took:?}");
        let gone = cluster.key(Kind::EndpointSlice, "goes-x");
        let took = known.until("what went", |known| !known.objects.contains_key(&gone)).await;
        assert!(took < STALE, "{round}: {took:?}");
        known.assert_is_fresh(cluster.config.clone()).await;
        cluster.apply(&objects).await;
        cluster.delete(&service("came")).await;
        known
            .until("as before", |known| {
                known.addresses(&endpoints) == ["10.9.0.1"] && known.objects.contains_key(&gone)
            })
            .await;
    }
    cluster.end().await;
}

/// Compacts the history of the etcd behind the API server, by its JSON interface.
async fn compact(etcd: &str, revision: &str) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut connection = TcpStream::connect(etcd).await.unwrap();
    let body = json!({"revision": revision, "physical": true}).to_string();
    let request = format!(
        "POST /v3/kv/compaction HTTP/1.1\r\nHost: {etcd}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG and WEFT_TEST_RESTART"]
async fn a_restart_and_a_lost_history_leave_no_stale_endpoint() {
    let restart =
        std::env::var("WEFT_TEST_RESTART").expect("WEFT_TEST_RESTART must be a command that restarts the API server");
    let cluster = Cluster::new("restart").await;
    cluster.apply(&[service("web"), slice("web", &["10.9.0.1"]), service("goes"), slice("goes", &["10.9.0.9"])]).await;
    let (relay, through) = Relay::new(&cluster.config).await;
    let mut known = Known::new(through).await;
    let (endpoints, gone) = (cluster.key(Kind::EndpointSlice, "web-x"), cluster.key(Kind::EndpointSlice, "goes-x"));
    for compacted in [false, true] {
        let away = Arc::new(Instant::now());
        if compacted {
            // We are away while things change, and the history of the change is lost.
            relay.up.send_replace(false);
            cluster.apply(&[slice("web", &["10.9.2.2"])]).await;
            cluster.delete(&slice("goes", &[])).await;
            let pods: Api<Pod> = Api::all(cluster.client.clone());
            let revision = pods.list(&ListParams::default().limit(1)).await.unwrap().metadata.resource_version.unwrap();
            let etcd = std::env::var("WEFT_TEST_ETCD").unwrap_or("127.0.0.1:12379".to_owned());
            compact(&etcd, &revision).await;
        }
        let status = tokio::process::Command::new("sh").args(["-c", &restart]).status().await.unwrap();
        assert!(status.success(), "{restart}: {status}");
        tokio::time::sleep(Duration::from_millis(300)).await;
        ready(&cluster.config).await;
        println!("ready again {:?} after it began", away.elapsed());
        relay.up.send_replace(true);
        if !compacted {
            cluster.apply(&[slice("web", &["10.9.2.1"])]).await;
        }
        let expected = if compacted { "10.9.2.2" } else { "10.9.2.1" };
        let took = known.until("endpoints", |known| known.addresses(&endpoints) == [expected]).await;
        assert!(took < STALE, "{took:?}");
        if compacted {
            let took = known.until("what went", |known| !known.objects.contains_key(&gone)).await;
            assert!(took < STALE, "{took:?}");
        }
        known.assert_is_fresh(cluster.config.clone()).await;
    }
    cluster.end().await;
}

async fn ready(config: &Config) {
    let mut config = config.clone();
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    let began = Instant::now();
    while client.request_text(http::Request::get("/readyz").body(Vec::new()).unwrap()).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "the API server is not ready again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn without_permission_it_waits_and_never_shows_half_a_cluster() {
    let cluster = Cluster::new("rbac").await;
    cluster.account("watcher").await;
    let mut config = cluster.config.clone();
    config.auth_info.impersonate = Some(format!("system:serviceaccount:{}:watcher", cluster.namespace));
    let name = format!("{}-watcher", cluster.namespace);
    let all = json!([
        {"apiGroups": [""], "resources": ["namespaces", "services", "pods", "nodes"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["backendtlspolicies", "grpcroutes", "httproutes", "tcproutes", "tlsroutes"], "verbs": ["list", "watch"]},
        {"apiGroups": ["gateway.networking.x-k8s.io"], "resources": ["xbackendtrafficpolicies"], "verbs": ["list", "watch"]},
        {"apiGroups": ["security.istio.io"], "resources": ["peerauthentications", "authorizationpolicies", "requestauthentications"],
         "verbs": ["list", "watch"]},
        {"apiGroups": ["weft.dev"], "resources": ["backendpolicies", "faultinjections", "ratelimits"], "verbs": ["list", "watch"]},
    ]);
    let mut less = all.clone();
    less.as_array_mut().unwrap().remove(2);
    let role = |rules: &Value| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "watcher", "namespace": cluster.namespace}],
    });
    let roles = |object: &Value| {
        let kind = GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", object["kind"].as_str().unwrap());
        Api::<DynamicObject>::all_with(cluster.client.clone(), &ApiResource::from_gvk(&kind))
    };
    for object in [&role(&less), &binding] {
        roles(object).patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await.unwrap();
    }
    let mut watch = watch_cluster(config, WatchSettings::default(), Metrics::default()).unwrap();
    let early = tokio::time::timeout(Duration::from_secs(5), watch.edits.recv()).await;
    assert!(early.is_err(), "half a cluster: {early:?}");
    let object = role(&all);
    roles(&object).patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
    let began = Instant::now();
    let edit = tokio::time::timeout(PATIENCE, watch.edits.recv()).await.expect("an edit once it may").unwrap();
    println!("allowed: {} objects after {:?}", edit.objects.upserts.len(), began.elapsed());
    for object in [&object, &binding] {
        roles(object).delete(&name, &DeleteParams::default()).await.unwrap();
    }
    cluster.end().await;
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Reports what 1,000 Services of 5 endpoints cost, and asserts nothing but that they are all there.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn measured_a_thousand_services_of_five_endpoints() {
    const SERVICES: usize = 1_000;
    const PODS: usize = 5;
    let cluster = Cluster::new("large").await;
    cluster.account("default").await;
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let (client, namespace) = (cluster.client.clone(), cluster.namespace.clone());
        tasks.spawn(async move {
            let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
            let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &namespace);
            let pods: Api<Pod> = Api::namespaced(client, &namespace);
            for n in (worker..SERVICES).step_by(8) {
                let name = format!("service-{n}");
                let addresses: Vec<_> = (0..PODS).map(|pod| format!("10.{}.{}.{pod}", 128 + n / 250, n % 250)).collect();
                let mut slice = slice(&name, &addresses.iter().map(|a| &**a).collect::<Vec<_>>());
                for pod in 0..PODS {
                    slice["endpoints"][pod]["targetRef"] = json!({"kind": "Pod", "name": format!("{name}-{pod}"), "namespace": namespace});
                    let pod = json!({
                        "metadata": {"name": format!("{name}-{pod}"), "labels": {"app": name, "weft.dev/mesh-tls": "1", "pod-template-hash": "5d4f8c7b9"}},
                        "spec": {"schedulerName": "none", "containers": [{"name": "app", "image": "none", "ports": [{"containerPort": 80}]}]},
                    });
                    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
                }
                services.create(&PostParams::default(), &serde_json::from_value(service(&name)).unwrap()).await.unwrap();
                slices.create(&PostParams::default(), &serde_json::from_value(slice).unwrap()).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    println!("{} objects made in {:?}", SERVICES * (PODS + 2), began.elapsed());
    let before = resident();
    let config = cluster.config.clone();
    let settings = WatchSettings::default();
    let mut watch = watch_cluster(config, settings, Metrics::default()).unwrap();
    let began = Instant::now();
    let first = watch.edits.recv().await.unwrap();
    let (took, peak, count) = (began.elapsed(), resident(), first.objects.upserts.len());
    let mut model = Model::default();
    model.apply(first.objects);
    println!(
        "the first edit: {count} objects after {took:?}; resident {before} KiB before, {peak} KiB with the edit, {} KiB with the model",
        resident()
    );
    assert!(count >= SERVICES * (PODS + 2), "{count}");
    cluster.end().await;
}
