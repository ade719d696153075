//! A thousand Services of five endpoints each, with the Pods behind them, made through the API; two hundred proxies connected
//! that speak the real protocol; and one real pod that talks to five of the Services.
//!
//! What is measured: the control plane's memory, how long an endpoint's change takes from the moment it is written to the
//! moment each proxy has it, and the real sidecar's memory. The Services are marked as another proxy's, which keeps the
//! node's kube-proxy out of it, and the Pods as another scheduler's, so that no kubelet runs them: the API server and the
//! control plane see no difference.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Barrier, mpsc};
use weft_e2e::cluster::{Cluster, Workload, figure, figure_within, service};
use weft_e2e::stats;
use weft_e2e::wire::{self, Proxy, Svid};
use weft_proto::{type_url, v1};

use crate::world::{World, text};

const NAMESPACE: &str = "scale";
const SERVICES: usize = 1_000;
const ENDPOINTS: usize = 5;
const PROXIES: usize = 200;
/// Changes of an endpoint that are timed.
const CHANGES: usize = 25;
/// Services that each proxy, and the real pod, uses.
const USED: usize = 5;
const AT_ONCE: usize = 24;

const CONTROL_PLANE_MB: f64 = 150.0;
const SIDECAR_MB: f64 = 20.0;
const P99_MS: f64 = 100.0;

pub(crate) fn a_thousand_services_and_two_hundred_proxies() {
    let world = World::plain(NAMESPACE);
    let cluster = world.cluster();
    let began = Instant::now();
    within(cluster, |client| async move { objects(&client).await });
    let made = SERVICES * (2 + ENDPOINTS);
    println!("  {made} objects made after {:.0?}", began.elapsed());

    let real = real_pod();
    cluster
        .wait_for("the control plane to know them all", Duration::from_secs(60), || {
            let page = format!("/debug/resources?type=Endpoints&name={NAMESPACE}/s{}:80", SERVICES - 1);
            let last = address(SERVICES - 1, ENDPOINTS - 1);
            Ok(world.weft.admin(&page)?.iter().all(|page| page.contains(&last)).then_some(()))
        })
        .unwrap();

    let pem = cluster.get(&["-n", &real.namespace, "configmap", "weft-ca-roots"]).unwrap();
    let roots = wire::roots_of(text(&pem, "/data/roots.pem").as_bytes()).unwrap();
    let discovery = discovery(cluster);
    let mut waits = within(cluster, |client| async move {
        let token = token(&client).await;
        let id = format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/default");
        let svid = wire::certify(discovery, &roots, &token, &id).await.unwrap();
        changes(&client, discovery, svid).await
    });
    assert_eq!(waits.len(), CHANGES * PROXIES, "a change that did not reach everybody");
    let ms = |waits: &mut [u64], q| stats::quantile(waits, q) as f64 / 1000.0;
    figure("scale/endpoint-change-p50", format!("{:.1} ms", ms(&mut waits, 0.5)));
    figure_within("scale/endpoint-change-p99", ms(&mut waits, 0.99), P99_MS, "ms");

    for pod in world.weft.control_plane().unwrap() {
        let pids = cluster.processes_in_pod(&pod, "weft-control-plane");
        let memory = Cluster::memory(*pids.first().expect("a control plane that runs"));
        figure("scale/control-plane-anonymous", format!("{:.1} MB", memory.anonymous as f64 / 1024.0));
        figure_within("scale/control-plane-rss", memory.rss as f64 / 1024.0, CONTROL_PLANE_MB, "MB");
    }
    let pod = real.pod("client");
    let pids = cluster.processes_in_pod(&pod, "weft-sidecar");
    let memory = Cluster::memory(*pids.first().expect("a sidecar that runs"));
    figure("scale/sidecar-anonymous", format!("{:.1} MB", memory.anonymous as f64 / 1024.0));
    figure_within("scale/sidecar-rss", memory.rss as f64 / 1024.0, SIDECAR_MB, "MB");
    real.remove();
    world.remove();
}

/// A pod with a sidecar that talks to five Services, of five endpoints each, among all those.
fn real_pod() -> World {
    let world = World::meshed("scale-real");
    let mut objects = vec![
        Workload::server("scale-real", "web").label("weft.dev/inject", "disabled").replicas(5).deployment(),
        Workload::idle("scale-real", "client").deployment(),
    ];
    let names: Vec<String> = (0..USED).map(|n| format!("used-{n}")).collect();
    objects.extend(names.iter().map(|name| service("scale-real", name, "web", &[("http", 80, "http")])));
    world.deploy(&objects);
    for name in &names {
        world.until_answered(&format!("http://{name}/"));
        for got in world.ask(&[&format!("http://{name}/"), "--repeat", "50"]) {
            assert_eq!(got.status, 200, "{got:?}");
        }
    }
    world
}

/// Runs `job` in the node's network with a client of its administrator.
fn within<T: Send, F: Future<Output = T>>(cluster: &Cluster, job: impl FnOnce(Client) -> F + Send) -> T {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
            job(Client::try_from(config).unwrap()).await
        })
    };
    cluster.in_node(run).unwrap()
}

fn discovery(cluster: &Cluster) -> SocketAddr {
    let service = cluster.get(&["-n", "weft-system", "service", "weft-control-plane"]).unwrap();
    format!("{}:15012", text(&service, "/spec/clusterIP")).parse().unwrap()
}

fn address(service: usize, endpoint: usize) -> String {
    let n = service * ENDPOINTS + endpoint;
    format!("10.{}.{}.{}", 200 + n / 65_000, n / 250 % 250, n % 250 + 1)
}

async fn objects(client: &Client) {
    let services: Vec<usize> = (0..SERVICES).collect();
    stream::iter(services)
        .for_each_concurrent(AT_ONCE, |n| async move {
            create::<Service>(client, service_of(n)).await;
            for endpoint in 0..ENDPOINTS {
                pod(client, n, endpoint).await;
            }
            create::<EndpointSlice>(client, slice(n, None)).await;
        })
        .await;
}

async fn create<K>(client: &Client, object: Value)
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
    K: Clone + serde::Serialize + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

fn service_of(n: usize) -> Value {
    json!({
        "metadata": {"name": format!("s{n}"), "labels": {"service.kubernetes.io/service-proxy-name": "nobody"}},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

async fn pod(client: &Client, service: usize, endpoint: usize) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let name = format!("s{service}-{endpoint}");
    let pod = json!({
        "metadata": {
            "name": name,
            "labels": {
                "app": format!("s{service}"), "pod-template-hash": "6d4cf56db6", "weft.dev/mesh-tls": "1",
                "app.kubernetes.io/version": "1.4.2", "app.kubernetes.io/part-of": "shop",
            },
        },
        "spec": {
            "schedulerName": "nobody",
            "automountServiceAccountToken": false,
            "containers": [{"name": "app", "image": "weft.test/apps:1", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
    });
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let address = address(service, endpoint);
    let status = json!({"status": {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

/// A Service's slice; with one more endpoint, whose address is marked by `change`.
fn slice(n: usize, change: Option<usize>) -> Value {
    let mut endpoints: Vec<Value> = (0..ENDPOINTS)
        .map(|endpoint| {
            json!({
                "addresses": [address(n, endpoint)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": "node",
                "zone": "zone-a",
                "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": format!("s{n}-{endpoint}")},
            })
        })
        .collect();
    endpoints.extend(change.map(|change| json!({"addresses": [marker(change)], "conditions": {"ready": true}})));
    json!({
        "metadata": {"name": format!("s{n}"), "labels": {"kubernetes.io/service-name": format!("s{n}")}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

fn marker(change: usize) -> String {
    format!("10.240.0.{}", change + 1)
}

async fn token(client: &Client) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let request: TokenRequest =
        serde_json::from_value(json!({"metadata": {}, "spec": {"audiences": ["weft-ca"], "expirationSeconds": 3600}}))
            .unwrap();
    let answer = accounts.create_token_request("default", &PostParams::default(), &request).await.unwrap();
    answer.status.unwrap().token.unwrap()
}

/// Connects the proxies, changes an endpoint of a Service that all of them use again and again, and times in µs when each
/// proxy had each change, from before it was written.
async fn changes(client: &Client, discovery: SocketAddr, svid: Svid) -> Vec<u64> {
    let ready = Arc::new(Barrier::new(PROXIES + 1));
    let (heard, mut hearing) = mpsc::channel(PROXIES * 2);
    for n in 0..PROXIES {
        tokio::spawn(proxy(n, discovery, svid.clone(), ready.clone(), heard.clone()));
    }
    drop(heard);
    tokio::time::timeout(Duration::from_secs(60), ready.wait()).await.expect("all proxies have what they asked for");

    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let mut waits = Vec::new();
    for change in 0..CHANGES {
        let object = json!({"endpoints": slice(0, Some(change))["endpoints"]});
        let began = Instant::now();
        slices.patch("s0", &PatchParams::default(), &Patch::Merge(object)).await.unwrap();
        for _ in 0..PROXIES {
            let heard = tokio::time::timeout(Duration::from_secs(10), hearing.recv()).await;
            let (of, at): (String, Instant) = heard.expect("a change that is heard of").expect("a proxy");
            assert_eq!(of, marker(change));
            waits.push(u64::try_from((at - began).as_micros()).unwrap());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    waits
}

/// One proxy: what every sidecar asks for, and the Services its pod would use, `s0` among them.
async fn proxy(
    n: usize,
    discovery: SocketAddr,
    svid: Svid,
    ready: Arc<Barrier>,
    heard: mpsc::Sender<(String, Instant)>,
) {
    let mut proxy = Proxy::connect(discovery, &svid, &address(n, 0)).await.unwrap();
    proxy.subscribe(type_url::TRUST_BUNDLE, &["cluster.local"]).await;
    proxy.subscribe(type_url::MESH_SETTINGS, &[weft_proto::MESH_SETTINGS]).await;
    proxy.subscribe(type_url::WORKLOAD, &[weft_proto::SELF]).await;
    proxy.subscribe(type_url::INBOUND_POLICY, &[weft_proto::SELF]).await;
    let used: Vec<usize> = (0..USED).map(|k| k * (n + 1) % SERVICES).collect();
    let names: Vec<String> = used.iter().map(|service| format!("{NAMESPACE}/s{service}")).collect();
    let endpoints: Vec<String> = names.iter().map(|name| format!("{name}:80")).collect();
    let as_str = |names: &'_ [String]| names.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let (names, endpoints) = (as_str(&names), as_str(&endpoints));
    proxy.subscribe(type_url::SERVICE, &names.split(' ').collect::<Vec<_>>()).await;
    proxy.subscribe(type_url::ENDPOINTS, &endpoints.split(' ').collect::<Vec<_>>()).await;
    let mut waiting = Some(ready);
    while let Some(response) = proxy.next().await.unwrap() {
        let at = Instant::now();
        let of_all = |name: &str| response.resources.iter().find(|resource| resource.name == name);
        let Some(resource) = of_all(&format!("{NAMESPACE}/s0:80")) else { continue };
        if let Some(ready) = waiting.take() {
            // In its own time: the stream is read on meanwhile.
            tokio::spawn(async move {
                ready.wait().await;
            });
        }
        let body = resource.resource.as_ref().map(|any| &any.value[..]).unwrap_or_default();
        let endpoints = <v1::Endpoints as prost::Message>::decode(body).unwrap().endpoints;
        let marked = endpoints.iter().find(|endpoint| endpoint.address.starts_with("10.240.0."));
        if let Some(endpoint) = marked
            && heard.send((endpoint.address.clone(), at)).await.is_err()
        {
            return;
        }
    }
}
