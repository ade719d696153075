//! Injection against a real API server. Ignored unless asked for: `WEFT_TEST_KUBECONFIG` names the kubeconfig of an
//! administrator of a cluster made for tests, whose API server reaches Services (by kube-proxy, or
//! `--enable-aggregator-routing`) and this machine. It needs no node: nothing here runs a pod. Each test has its own
//! namespaces, and its own revision, so that no other test's pods come to its webhook.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Pod, ResourceQuota, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_control_plane::inject::certificate::{Certificate, Names, Times};
use weft_control_plane::inject::webhook::{Metrics, Webhook};
use weft_control_plane::inject::{ClusterFacts, InjectSettings};

const PATIENCE: Duration = Duration::from_secs(30);

/// A control plane's part of a cluster: its namespace, Service and configuration, and two replicas that answer for it.
struct Mesh {
    client: Client,
    address: IpAddr,
    system: String,
    revision: String,
    names: Names,
    settings: watch::Sender<Arc<InjectSettings>>,
    namespaces: Vec<String>,
    tasks: JoinSet<()>,
}

impl Mesh {
    async fn new(test: &str) -> Self {
        let path = std::env::var("WEFT_TEST_KUBECONFIG").expect(
            "WEFT_TEST_KUBECONFIG must name the kubeconfig of a cluster made for tests: run `make test-cluster`",
        );
        let kubeconfig = Kubeconfig::read_from(path).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let address = own_address(&config);
        let client = Client::try_from(config).unwrap();
        let id = format!("{:08x}", rand::random::<u32>());
        let (system, revision) = (format!("weft-{test}-{id}"), format!("r{id}"));
        let names = Names::new(&system, &revision);
        let settings = settings(&system, &revision, "");
        let mut mesh = Self {
            client,
            address,
            system: system.clone(),
            revision,
            names,
            settings: watch::Sender::new(settings),
            namespaces: Vec::new(),
            tasks: JoinSet::new(),
        };
        mesh.namespace(&system, json!({})).await;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": mesh.names.service },
            "spec": { "ports": [{ "name": "https-webhook", "port": 443, "targetPort": 15017 }] },
        });
        mesh.api::<Service>(&system).create(&PostParams::default(), &from(service)).await.unwrap();
        let configuration = mesh.configuration();
        mesh.configurations().create(&PostParams::default(), &configuration).await.unwrap();
        mesh
    }

    /// As the chart renders it: without a `caBundle`. A pod with the label in a namespace with the label comes twice.
    fn configuration(&self) -> MutatingWebhookConfiguration {
        let ours = json!({ "matchLabels": { "weft.dev/revision": self.revision } });
        let service = json!({ "name": self.names.service, "namespace": self.system, "path": "/inject" });
        let rule = json!({ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] });
        let webhook = |name: &str, namespaces: &Value, objects: &Value| {
            json!({
                "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 10,
                "failurePolicy": "Fail", "reinvocationPolicy": "IfNeeded", "clientConfig": { "service": service },
                "rules": [rule], "namespaceSelector": namespaces, "objectSelector": objects,
            })
        };
        let webhooks = [webhook("namespaces.weft.dev", &ours, &json!({})), webhook("pods.weft.dev", &json!({}), &ours)];
        from(json!({ "metadata": { "name": self.names.configuration }, "webhooks": webhooks }))
    }

    fn configurations(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.client.clone())
    }

    async fn bundles(&self) -> Vec<Option<Vec<u8>>> {
        let configuration = self.configurations().get(&self.names.configuration).await.unwrap();
        let webhooks = configuration.webhooks.unwrap_or_default();
        webhooks.into_iter().map(|webhook| webhook.client_config.ca_bundle.map(|ByteString(bytes)| bytes)).collect()
    }

    async fn secret(&self) -> BTreeMap<String, ByteString> {
        self.api::<Secret>(&self.system).get(&self.names.secret).await.unwrap().data.unwrap_or_default()
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn namespace(&mut self, name: &str, labels: Value) {
        let namespace = from::<Namespace>(json!({ "metadata": { "name": name, "labels": labels } }));
        Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        // Where no controller makes it, a pod could not be made.
        let account = from::<ServiceAccount>(json!({ "metadata": { "name": "web" } }));
        self.api(name).create(&PostParams::default(), &account).await.unwrap();
        self.namespaces.push(name.to_owned());
    }

    /// A namespace whose pods come to us.
    async fn meshed(&mut self, suffix: &str, more: &[(&str, &str)]) -> String {
        let name = format!("{}-{suffix}", self.system);
        let mut labels = json!({ "weft.dev/revision": self.revision });
        more.iter().for_each(|(key, value)| labels[*key] = json!(value));
        self.namespace(&name, labels).await;
        name
    }

    fn set(&self, yaml: &str) {
        self.settings.send_replace(settings(&self.system, &self.revision, yaml));
    }

    /// Another replica, which the API server asks as it asks the others.
    async fn replica(&mut self, times: Times, leader: watch::Receiver<bool>) -> (Arc<Certificate>, Metrics) {
        let client = self.client.clone();
        let certificate = Certificate::open(client, self.names.clone(), times, SystemTime::now()).await.unwrap();
        let certificate = Arc::new(certificate);
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let metrics = Metrics::default();
        let webhook = Webhook {
            namespaces: self.client.clone(),
            settings: self.settings.subscribe(),
            cluster: watch::Sender::new(ClusterFacts::SUPPORTED).subscribe(),
            unenforced: watch::Sender::new(Arc::default()).subscribe(),
            metrics: metrics.clone(),
        };
        self.tasks.spawn(webhook.run(certificate.server_config().unwrap(), listener, std::future::pending()));
        let kept = Arc::clone(&certificate);
        self.tasks.spawn(async move { kept.keep(leader).await });
        let slice = json!({
            "metadata": { "name": format!("replica-{port}"), "labels": { "kubernetes.io/service-name": self.names.service } },
            "addressType": "IPv4",
            "endpoints": [{ "addresses": [self.address], "conditions": { "ready": true } }],
            "ports": [{ "name": "https-webhook", "port": port, "protocol": "TCP" }],
        });
        self.api::<EndpointSlice>(&self.system).create(&PostParams::default(), &from(slice)).await.unwrap();
        (certificate, metrics)
    }

    /// Makes a pod as far as the API server would, or for good.
    async fn make(&self, namespace: &str, pod: &Value, dry_run: bool) -> Result<Value, String> {
        let params = PostParams { dry_run, ..PostParams::default() };
        let made = self.api::<Pod>(namespace).create(&params, &from(pod.clone())).await;
        made.map(|pod| serde_json::to_value(pod).unwrap()).map_err(|error| error.to_string())
    }

    async fn end(mut self) {
        self.tasks.shutdown().await;
        let params = DeleteParams::default();
        self.configurations().delete(&self.names.configuration, &params).await.unwrap();
        for name in &self.namespaces {
            Api::<Namespace>::all(self.client.clone()).delete(name, &params).await.unwrap();
        }
    }
}

fn settings(namespace: &str, revision: &str, yaml: &str) -> Arc<InjectSettings> {
    let text = format!("namespace: {namespace}\nrevision: {revision}\n{yaml}");
    Arc::new(InjectSettings::parse(&text).unwrap())
}

fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// By which the API server reaches this machine: a Service's endpoint must not be a loopback address.
fn own_address(config: &Config) -> IpAddr {
    let (host, port) = (config.cluster_url.host().unwrap_or_default(), config.cluster_url.port_u16().unwrap_or(443));
    let server = host.parse().map(|host: IpAddr| SocketAddr::new(host, port));
    let targets = server.into_iter().chain(["198.51.100.1:9".parse().unwrap()]);
    let by_route = |target: SocketAddr| {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect(target).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback())
    };
    targets.into_iter().find_map(by_route).expect("this machine has an address that is not a loopback address")
}

/// Waits until `found` finds something, and says how long that took.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut found: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = found().await {
            println!("{what}: after {:?}", began.elapsed());
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A pod that nothing schedules, clean by the restricted standard.
fn pod(more: impl FnOnce(&mut Value)) -> Value {
    let security = json!({
        "runAsNonRoot": true, "runAsUser": 1000, "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    let mut pod = json!({
        "metadata": { "generateName": "web-" },
        "spec": {
            "serviceAccountName": "web", "schedulerName": "none",
            "initContainers": [{ "name": "migrate", "image": "none", "securityContext": security }],
            "containers": [{
                "name": "app", "image": "none", "securityContext": security,
                "readinessProbe": { "httpGet": { "port": 8080, "path": "/ready" } },
            }],
        },
    });
    more(&mut pod);
    pod
}

fn injected(metrics: &Metrics) -> u64 {
    let (mut registry, mut text) = (Registry::default(), String::new());
    metrics.register(&mut registry, Gauge::default());
    encode(&mut text, &registry).unwrap();
    let count =
        text.lines().find_map(|line| line.strip_prefix("weft_injection_admissions_total{result=\"injected\"} "));
    count.unwrap().parse().unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn a_pod_of_a_namespace_that_asks_gets_its_sidecar_from_replicas_that_nobody_leads() {
    let mut mesh = Mesh::new("inject").await;
    let shop = mesh.meshed("shop", &[]).await;
    let quiet = format!("{}-quiet", mesh.system);
    mesh.namespace(&quiet, json!({})).await;
    assert_eq!(mesh.bundles().await, [None, None]);
    let refused = mesh.make(&shop, &pod(|_| ()), true).await.unwrap_err();
    assert!(refused.contains("failed calling webhook"), "Fail: {refused}");

    // No one is elected (yet): pods cannot wait for it.
    let (_nobody, leader) = watch::channel(false);
    let (first, one) = mesh.replica(Times::default(), leader.clone()).await;
    let (second, other) = mesh.replica(Times::default(), leader.clone()).await;
    for (what, replica) in [("the first replica is trusted", first), ("the second replica is trusted", second)] {
        eventually(what, async || replica.trusted().borrow().then_some(())).await;
    }
    assert_eq!(mesh.secret().await.keys().collect::<Vec<_>>(), ["ca.pem"], "one CA, whoever made it");
    let bundles = mesh.bundles().await;
    assert!(bundles[0].is_some() && bundles[0] == bundles[1], "{bundles:?}");
    // API servers learn of the configuration by their own watch.
    eventually("the first injected pod", async || mesh.make(&shop, &pod(|_| ()), true).await.ok()).await;

    let labelled = |pod: &mut Value| pod["metadata"]["labels"] = json!({ "weft.dev/revision": mesh.revision });
    for (what, namespace, pod) in [
        ("asked once", &shop, pod(|_| ())),
        ("asked twice", &shop, pod(labelled)),
        ("by its own label", &quiet, pod(labelled)),
    ] {
        let made = mesh.make(namespace, &pod, false).await.unwrap_or_else(|why| panic!("{what}: {why}"));
        assert_eq!(names(&made["spec"]["initContainers"]), ["weft-redirect", "weft-sidecar", "migrate"], "{what}");
        assert_eq!(made["spec"]["initContainers"][1]["restartPolicy"], "Always", "{what}");
        let path = made["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"].as_str().unwrap();
        assert!(path.starts_with("/probe/") && path.ends_with(".app/readiness"), "{what}: {path}");
        assert_eq!(made["metadata"]["labels"]["weft.dev/mesh-tls"], "1", "{what}");
        // After what the API server itself has added by then.
        assert!(names(&made["spec"]["volumes"]).ends_with(&["weft-ca-roots", "weft-token"]), "{what}");
    }
    mesh.set("sidecarMode: classic");
    let made = mesh.make(&shop, &pod(|_| ()), false).await.unwrap();
    assert_eq!(names(&made["spec"]["initContainers"]), ["migrate", "weft-redirect"]);
    assert_eq!(names(&made["spec"]["containers"]), ["weft-sidecar", "app"]);
    mesh.set("");

    let left_alone = [
        ("opted out", pod(|pod| pod["metadata"]["labels"] = json!({ "weft.dev/inject": "disabled" }))),
        ("the node's network", pod(|pod| pod["spec"]["hostNetwork"] = json!(true))),
    ];
    for (what, pod) in left_alone {
        let made = mesh.make(&shop, &pod, true).await.unwrap();
        assert_eq!(names(&made["spec"]["initContainers"]), ["migrate"], "{what}");
    }
    let annotated =
        |key: &'static str, value: &'static str| pod(|pod| pod["metadata"]["annotations"] = json!({ key: value }));
    let refused = [
        (
            "the sidecar's UID",
            pod(|pod| pod["spec"]["containers"][0]["securityContext"]["runAsUser"] = json!(1337)),
            "denied the request: weft: container `app` runs as UID 1337",
        ),
        (
            "an annotation",
            annotated("weft.dev/log-level", "loud"),
            "weft: annotation weft.dev/log-level of the pod is `loud`: ",
        ),
        (
            "a name of ours",
            pod(|pod| pod["spec"]["containers"][0]["name"] = json!("weft-sidecar")),
            "weft: the pod has a container named `weft-sidecar` of its own: rename it",
        ),
    ];
    for (what, pod, message) in refused {
        let why = mesh.make(&shop, &pod, true).await.unwrap_err();
        assert!(why.contains(message), "{what}: {why}");
    }
    let counts = [one, other].map(|metrics| injected(&metrics));
    println!("injected by each replica: {counts:?}");
    assert!(counts.iter().sum::<u64>() >= 5);

    // A chart that is applied again has no caBundle.
    let held = mesh.configurations().get(&mesh.names.configuration).await.unwrap();
    let mut again = mesh.configuration();
    again.metadata.resource_version = held.metadata.resource_version;
    mesh.configurations().replace(&mesh.names.configuration, &PostParams::default(), &again).await.unwrap();
    eventually("caBundle is back after an upgrade", async || (mesh.bundles().await == bundles).then_some(())).await;
    eventually("and pods are injected", async || mesh.make(&shop, &pod(|_| ()), true).await.ok()).await;
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn pods_of_strict_namespaces_are_admitted_or_refused_with_the_way_out() {
    const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
    let mut mesh = Mesh::new("strict").await;
    let restricted = mesh.meshed("restricted", &[(ENFORCE, "restricted")]).await;
    let quota = mesh.meshed("quota", &[]).await;
    let (_nobody, leader) = watch::channel(false);
    let _replica = mesh.replica(Times::default(), leader).await;
    eventually("the webhook answers", async || mesh.make(&quota, &pod(|_| ()), true).await.ok()).await;

    let why = mesh.make(&restricted, &pod(|_| ()), true).await.unwrap_err();
    assert!(why.contains("weft: its namespace enforces the Pod Security Standard `restricted`"), "{why}");
    for mode in ["native", "classic"] {
        mesh.set(&format!("cni: true\nsidecarMode: {mode}"));
        let made = mesh.make(&restricted, &pod(|_| ()), true).await.unwrap_or_else(|why| panic!("{mode}: {why}"));
        let lists = ["initContainers", "containers"].map(|list| names(&made["spec"][list]).contains(&"weft-sidecar"));
        assert_eq!(lists, [mode == "native", mode == "classic"]);
    }
    mesh.set("");

    let amounts = |cpu_limit: &str| {
        let mut hard = json!({ "requests.cpu": "1", "requests.memory": "1Gi", "limits.memory": "2Gi" });
        if !cpu_limit.is_empty() {
            hard["limits.cpu"] = json!(cpu_limit);
        }
        hard
    };
    let app = |pod: &mut Value| {
        let all = json!({ "cpu": "50m", "memory": "64Mi" });
        for list in ["initContainers", "containers"] {
            pod["spec"][list][0]["resources"] = json!({ "requests": all, "limits": all });
        }
    };
    let quotas = mesh.api::<ResourceQuota>(&quota);
    let hold = async |hard: Value| {
        let object = json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "all" }, "spec": { "hard": hard } });
        let params = PatchParams::apply("test").force();
        quotas.patch("all", &params, &Patch::Apply(&object)).await.unwrap();
        // As its controller does, where there is one.
        let used: BTreeMap<_, _> = hard.as_object().unwrap().keys().map(|key| (key.clone(), "0")).collect();
        let status = json!({ "status": { "hard": hard, "used": used } });
        quotas.patch_status("all", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    };
    hold(amounts("")).await;
    eventually("the quota is in force", async || mesh.make(&quota, &pod(|_| ()), true).await.err()).await;
    mesh.make(&quota, &pod(app), true).await.unwrap();
    hold(amounts("2")).await;
    let why = eventually("the CPU limit's, too", async || mesh.make(&quota, &pod(app), true).await.err()).await;
    assert!(why.contains("must specify limits.cpu for: ") && why.contains("weft-sidecar"), "{why}");
    let annotated = pod(|pod| {
        app(pod);
        pod["metadata"]["annotations"] = json!({ "weft.dev/proxy-cpu-limit": "500m" });
    });
    mesh.make(&quota, &annotated, true).await.unwrap();
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn no_pod_is_refused_while_the_certificates_authority_is_renewed() {
    let times = Times { life: Duration::from_secs(15), settle: Duration::from_secs(3), leaf: Duration::from_secs(3) };
    let mut mesh = Mesh::new("renewal").await;
    let shop = mesh.meshed("shop", &[]).await;
    let ((_leads, yes), (_follows, no)) = (watch::channel(true), watch::channel(false));
    // Both open at once, and one CA results.
    let _leader = mesh.replica(times, yes).await;
    let _follower = mesh.replica(times, no).await;
    eventually("the webhook answers", async || mesh.make(&shop, &pod(|_| ()), true).await.ok()).await;
    let old = mesh.secret().await.remove("ca.pem").unwrap();

    let mesh = Arc::new(mesh);
    let (done, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let maker = tokio::spawn({
        let (mesh, done, made, shop) = (Arc::clone(&mesh), Arc::clone(&done), Arc::clone(&made), shop.clone());
        async move {
            let mut refused = Vec::new();
            while !done.load(Ordering::Relaxed) {
                match mesh.make(&shop, &pod(|_| ()), true).await {
                    Ok(pod) => assert_eq!(names(&pod["spec"]["initContainers"])[1], "weft-sidecar"),
                    Err(why) => refused.push(why),
                }
                made.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            refused
        }
    });
    let keys = async || mesh.secret().await.into_keys().collect::<Vec<_>>();
    let roots = async || {
        let count =
            |bundle: Option<Vec<u8>>| String::from_utf8_lossy(&bundle.unwrap_or_default()).matches("BEGIN").count();
        mesh.bundles().await.into_iter().map(count).collect::<Vec<_>>()
    };
    eventually("the next CA is there", async || (keys().await == ["ca.pem", "next.pem"]).then_some(())).await;
    eventually("and trusted beside the one that signs", async || (roots().await == [2, 2]).then_some(())).await;
    eventually("it signs", async || (keys().await == ["ca.pem", "previous.pem"]).then_some(())).await;
    assert_eq!(roots().await, [2, 2], "the one before is still trusted");
    let new = mesh.secret().await.remove("ca.pem").unwrap();
    assert_ne!(new, old);
    eventually("the one before is gone", async || (roots().await == [1, 1]).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    done.store(true, Ordering::Relaxed);
    let refused = maker.await.unwrap();
    println!("{} pods through a renewal, {} refused", made.load(Ordering::Relaxed), refused.len());
    assert!(refused.is_empty(), "{refused:?}");
    assert!(made.load(Ordering::Relaxed) > 100);

    // The Secret is deleted: another CA, from whichever replica sees it, without anybody's help.
    mesh.api::<Secret>(&mesh.system).delete(&mesh.names.secret, &DeleteParams::default()).await.unwrap();
    eventually("another Secret", async || mesh.api::<Secret>(&mesh.system).get_opt(&mesh.names.secret).await.unwrap())
        .await;
    eventually("is trusted", async || mesh.make(&shop, &pod(|_| ()), true).await.ok()).await;
    Arc::into_inner(mesh).unwrap().end().await;
}
