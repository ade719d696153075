//! Election and status against a real API server. Ignored unless asked for: `WEFT_TEST_KUBECONFIG` names the kubeconfig of an
//! administrator of a cluster made for tests, with the Gateway API's kinds in it. It needs no node. Each test has its own
//! namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::ApiResource;
use kube::{Api, Client, Config};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_control_plane::leader::{self, Election, LEASE, Times};
use weft_control_plane::model::{
    Age, BackendRef, Batch, HttpRoute, HttpRouteMatch, HttpRouteRule, Kind, Meta, Object, ObjectKey, ObjectName,
    ParentRef, PathMatch, Service, ServiceKind, ServicePort, TargetPort,
};
use weft_control_plane::replicas::{Gathered, Progresses};
use weft_control_plane::source::{Problem, Severity};
use weft_control_plane::status::{CONTROLLER_NAME, KubernetesStatus, Metrics, PROGRAMMED, StatusSink as _};
use weft_control_plane::translate::{MeshConfig, Translator};
use weft_proto::v1::{Laggard, Progress, ProgressRequest, ProgressResponse, Protocol};

const PATIENCE: Duration = Duration::from_secs(30);
const OTHER: &str = "example.com/other";

/// A namespace of a test's own.
struct Cluster {
    config: Config,
    client: Client,
    namespace: String,
}

impl Cluster {
    async fn new(test: &str) -> Self {
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
        Self { config, client, namespace }
    }

    fn election(&self, holder: &str) -> Election {
        // Each with a connection of its own, as processes have.
        let client = Client::try_from(self.config.clone()).unwrap();
        Election::begin(client, &self.namespace, LEASE, holder, Times::default(), leader::Metrics::default())
    }

    fn routes(&self) -> Api<DynamicObject> {
        let resource = ApiResource {
            group: "gateway.networking.k8s.io".into(),
            version: "v1".into(),
            api_version: "gateway.networking.k8s.io/v1".into(),
            kind: "HTTPRoute".into(),
            plural: "httproutes".into(),
        };
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    async fn holder(&self) -> String {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        leases.get(LEASE).await.unwrap().spec.unwrap().holder_identity.unwrap()
    }

    async fn end(self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
    }
}

/// Waits until `found` finds something, and says how long that took.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut found: impl FnMut() -> F) -> (T, Duration) {
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

async fn leads(election: &Election) -> Duration {
    let began = Instant::now();
    let mut leads = election.leads();
    tokio::time::timeout(PATIENCE, leads.wait_for(|leads| *leads)).await.expect("nobody leads").unwrap();
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn one_leads_and_is_replaced_when_it_gives_up_and_when_it_is_killed() {
    let cluster = Cluster::new("leader").await;
    let first = cluster.election("a");
    leads(&first).await;
    let (second, third) = (cluster.election("b"), cluster.election("c"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((*second.leads().borrow(), *third.leads().borrow(), &*cluster.holder().await), (false, false, "a"));

    let mut old = first.leads();
    let began = Instant::now();
    first.resign().await;
    assert!(!*old.borrow_and_update(), "who gives it up leads no more");
    let next = tokio::select! {
        _ = leads(&second) => "b",
        _ = leads(&third) => "c",
    };
    println!("given up: {next} leads after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(cluster.holder().await, next);

    let (killed, left) = if next == "b" { (second, third) } else { (third, second) };
    let began = Instant::now();
    drop(killed);
    leads(&left).await;
    println!("killed: the last leads after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(11), "{:?}", began.elapsed());
    left.resign().await;
    assert_eq!(cluster.holder().await, "");
    cluster.end().await;
}

/// Replicas whose proxies are as a test says.
struct Proxies(Mutex<Progress>);

impl Proxies {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    fn are(&self, proxies: u32, acked: u32, waiting: &[&str]) {
        let laggard = |pod: &&str| Laggard { pod: (*pod).into(), refused: String::new() };
        *self.0.lock() = Progress { proxies, acked, laggards: waiting.iter().map(laggard).collect() };
    }
}

impl Progresses for Proxies {
    fn ask(&self, request: ProgressRequest, _: bool) -> BoxFuture<'_, Gathered> {
        let services = vec![self.0.lock().clone(); request.services.len()];
        let answers = vec![ProgressResponse { services, trust_bundle: None }];
        Box::pin(std::future::ready(Gathered { answers, silent: Vec::new() }))
    }
}

/// A replica: translation, and the writer of status.
struct Replica {
    translator: Translator,
    status: KubernetesStatus,
    proxies: Arc<Proxies>,
    registry: Registry,
    leads: watch::Sender<bool>,
    _writer: JoinSet<()>,
}

impl Replica {
    fn new(cluster: &Cluster, leads: bool) -> Self {
        let (mut registry, metrics, proxies) = (Registry::default(), Metrics::default(), Proxies::new());
        metrics.register(&mut registry);
        let replicas = Arc::clone(&proxies) as Arc<dyn Progresses>;
        let (status, writer) = KubernetesStatus::new(cluster.client.clone(), replicas, metrics);
        let leads = watch::Sender::new(leads);
        let mut task = JoinSet::new();
        task.spawn(writer.run(leads.subscribe()));
        let translator = Translator::new(MeshConfig::default());
        let mut replica = Self { translator, status, proxies, registry, leads, _writer: task };
        let services = ["reviews", "ratings"].map(|name| Object::Service(service(&cluster.namespace, name)));
        replica.take(Batch { upserts: services.into(), ..Batch::default() });
        replica
    }

    fn take(&mut self, batch: Batch) {
        let (state, touched) = self.translator.apply(batch);
        self.status.on_state(state, touched.statuses, false);
    }

    /// As a source does that sees the object.
    fn see(&mut self, routes: &[DynamicObject]) {
        self.take(Batch {
            upserts: routes.iter().map(|route| Object::HttpRoute(model(route))).collect(),
            ..Batch::default()
        });
    }

    fn writes(&self, outcome: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = format!("weft_status_writes_total{{outcome=\"{outcome}\"}} ");
        text.lines().find_map(|text| text.strip_prefix(&line)).unwrap().parse().unwrap()
    }
}

fn meta(namespace: &str, name: &str, generation: i64) -> Meta {
    Meta {
        name: ObjectName::new(namespace, name),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        generation,
        age: Age(0, String::new(), 0),
    }
}

fn service(namespace: &str, name: &str) -> Service {
    let vip = if name == "reviews" { "10.96.0.7" } else { "10.96.0.8" };
    Service {
        meta: meta(namespace, name, 1),
        kind: ServiceKind::ClusterIp,
        vips: vec![vip.parse().unwrap()],
        ports: vec![ServicePort {
            name: "http".into(),
            port: 80,
            target: TargetPort::Number(8080),
            protocol: Protocol::Http,
        }],
        selector: BTreeMap::new(),
        publish_not_ready: false,
        client_ip_affinity: None,
        node_local: false,
    }
}

fn model(route: &DynamicObject) -> HttpRoute {
    let namespace = route.metadata.namespace.clone().unwrap();
    let backend = BackendRef {
        group: String::new(),
        kind: "Service".into(),
        namespace: namespace.clone(),
        name: "ratings".into(),
        port: Some(80),
        weight: 1,
        filters: Vec::new(),
    };
    let anything = HttpRouteMatch {
        path: PathMatch::Prefix("/".into()),
        headers: Vec::new(),
        query_params: Vec::new(),
        method: None,
    };
    HttpRoute {
        meta: meta(&namespace, route.metadata.name.as_deref().unwrap(), route.metadata.generation.unwrap()),
        parents: serde_json::from_value::<Vec<ParentRef>>(route.data["spec"]["parentRefs"].clone()).unwrap(),
        rules: vec![HttpRouteRule {
            name: None,
            matches: vec![anything],
            filters: Vec::new(),
            backends: vec![backend],
            request_timeout: None,
            backend_request_timeout: None,
        }],
    }
}

fn route(name: &str, parents: &[&str]) -> DynamicObject {
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
fn entries(route: &DynamicObject) -> Vec<String> {
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

fn ours(parent: &str, accepted: bool, generation: i64) -> String {
    let accepted = if accepted { "True" } else { "False" };
    format!(
        "{CONTROLLER_NAME} {parent}: Accepted={accepted}({generation}) ResolvedRefs=True({generation}) \
         {PROGRAMMED}=True({generation})"
    )
}

async fn until(what: &str, routes: &Api<DynamicObject>, name: &str, expected: &[String]) -> Duration {
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

fn of_another(parent: &str) -> Value {
    json!({
        "controllerName": OTHER,
        "parentRef": {"group": "", "kind": "Service", "name": parent},
        "conditions": [{
            "type": "Accepted", "status": "False", "reason": "Other", "message": "not mine", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    })
}

/// Another controller, which does as one must: reads, changes its own entry, and replaces what it read.
async fn another_writes(routes: &Api<DynamicObject>, name: &str) {
    loop {
        let mut route = routes.get(name).await.unwrap();
        let mut parents = route.data["status"]["parents"].as_array().cloned().unwrap_or_default();
        parents.retain(|entry| entry["controllerName"] != OTHER);
        parents.push(of_another("reviews"));
        route.data["status"] = json!({"parents": parents});
        match routes.replace_status(name, &PostParams::default(), &route).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn status_is_there_within_a_second_and_goes_with_its_parent() {
    let cluster = Cluster::new("status").await;
    let (routes, params) = (cluster.routes(), PostParams::default());
    let mut replica = Replica::new(&cluster, true);
    let created = routes.create(&params, &route("canary", &["reviews"])).await.unwrap();
    replica.see(&[created]);
    let took = until("the first status", &routes, "canary", &[ours("reviews", true, 1)]).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let written = routes.get("canary").await.unwrap();
    let entry = &written.data["status"]["parents"][0];
    assert_eq!(entry["parentRef"], written.data["spec"]["parentRefs"][0], "verbatim");
    let since = entry["conditions"][0]["lastTransitionTime"].clone();

    // A second controller writes beside us, and a second parent comes.
    another_writes(&routes, "canary").await;
    let foreign = format!("{OTHER} reviews: Accepted=False(1)");
    let more = json!({"spec": {"parentRefs": [
        {"group": "", "kind": "Service", "name": "reviews"}, {"group": "", "kind": "Service", "name": "ratings"},
    ]}});
    tokio::time::sleep(Duration::from_millis(1100)).await; // A transition time has seconds.
    let changed = routes.patch("canary", &PatchParams::default(), &Patch::Merge(&more)).await.unwrap();
    replica.see(&[changed]);
    let expected = [ours("reviews", true, 2), foreign.clone(), ours("ratings", true, 2)];
    let took = until("a second parent", &routes, "canary", &expected).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let parents = routes.get("canary").await.unwrap().data["status"]["parents"].clone();
    assert_eq!(parents[0]["conditions"][0]["lastTransitionTime"], since, "it was true all the time");
    assert_eq!(parents[1], of_another("reviews"), "untouched");

    // The first parentRef goes, then the last.
    for (parents, expected) in [
        (json!([{"group": "", "kind": "Service", "name": "ratings"}]), vec![foreign.clone(), ours("ratings", true, 3)]),
        (json!([{"name": "a-gateway"}]), vec![foreign.clone()]),
    ] {
        let less = json!({"spec": {"parentRefs": parents}});
        let changed = routes.patch("canary", &PatchParams::default(), &Patch::Merge(&less)).await.unwrap();
        replica.see(&[changed]);
        until("a parentRef went", &routes, "canary", &expected).await;
    }
    assert_eq!(replica.writes("failed"), 0);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn two_controllers_that_write_at_once_lose_nothing_of_each_other() {
    let cluster = Cluster::new("both").await;
    let routes = cluster.routes();
    let mut replica = Replica::new(&cluster, true);
    let created = routes.create(&PostParams::default(), &route("canary", &["reviews"])).await.unwrap();
    replica.see(&[created]);
    let theirs = async {
        for _ in 0..30 {
            another_writes(&routes, "canary").await;
        }
    };
    let us = async {
        for round in 0..30 {
            let path =
                json!({"spec": {"rules": [{"matches": [{"path": {"type": "Exact", "value": format!("/{round}")}}]}]}});
            let changed = routes.patch("canary", &PatchParams::default(), &Patch::Merge(&path)).await.unwrap();
            replica.see(&[changed]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(theirs, us);
    let generation = routes.get("canary").await.unwrap().metadata.generation.unwrap();
    let sorted = async || {
        let mut entries = entries(&routes.get("canary").await.unwrap());
        entries.sort();
        let expected = [format!("{OTHER} reviews: Accepted=False(1)"), ours("reviews", true, generation)];
        (entries == expected).then_some(())
    };
    let (_, took) = eventually("both have their say", sorted).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    println!("{} writes, {} conflicts", replica.writes("written"), replica.writes("conflict"));

    // Who throws our entry away is put right, too.
    let wiped = json!({"status": {"parents": [of_another("reviews")]}});
    routes.patch_status("canary", &PatchParams::default(), &Patch::Merge(&wiped)).await.unwrap();
    eventually("our entry is back", sorted_again(&routes, generation)).await;
    cluster.end().await;
}

fn sorted_again(routes: &Api<DynamicObject>, generation: i64) -> impl FnMut() -> BoxFuture<'static, Option<()>> {
    let routes = routes.clone();
    move || {
        let routes = routes.clone();
        Box::pin(async move {
            // What was said of the proxies is said again: nobody asks them a second time.
            let entries = entries(&routes.get("canary").await.unwrap());
            entries.contains(&ours("reviews", true, generation)).then_some(())
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn three_hundred_routes_are_written_once_and_a_new_leader_writes_nothing() {
    const ROUTES: usize = 300;
    let cluster = Cluster::new("many").await;
    let routes = cluster.routes();
    let mut made = Vec::new();
    for index in 0..ROUTES {
        made.push(routes.create(&PostParams::default(), &route(&format!("r{index}"), &["reviews"])).await.unwrap());
    }
    let (mut first, mut second) = (Replica::new(&cluster, false), Replica::new(&cluster, false));
    first.see(&made);
    second.see(&made);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(first.writes("written"), 0, "it does not lead");
    first.leads.send_replace(true);
    let began = Instant::now();
    let all = async || (first.writes("written") >= ROUTES as u64).then_some(());
    eventually("300 routes", all).await;
    println!("300 routes in {:?}, {} conflicts", began.elapsed(), first.writes("conflict"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let list = routes.list(&Default::default()).await.unwrap();
    assert!(list.items.iter().all(|route| entries(route) == [ours("reviews", true, 1)]));
    assert_eq!(first.writes("written"), ROUTES as u64, "each once");

    first.leads.send_replace(false);
    second.leads.send_replace(true);
    let changed = json!({"spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "ratings"}]}});
    let changed = routes.patch("r7", &PatchParams::default(), &Patch::Merge(&changed)).await.unwrap();
    first.see(std::slice::from_ref(&changed));
    second.see(&[changed]);
    until("by the new leader", &routes, "r7", &[ours("ratings", true, 2)]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((first.writes("written"), second.writes("written")), (ROUTES as u64, 1), "only what differs");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn an_object_that_cannot_be_taken_says_so_until_it_can() {
    let cluster = Cluster::new("refused").await;
    let routes = cluster.routes();
    let mut replica = Replica::new(&cluster, true);
    let created = routes.create(&PostParams::default(), &route("canary", &["reviews"])).await.unwrap();
    replica.see(&[created]);
    until("good", &routes, "canary", &[ours("reviews", true, 1)]).await;
    let path = |value: &str| json!({"spec": {"rules": [{"matches": [{"path": {"type": "Exact", "value": value}}]}]}});
    routes.patch("canary", &PatchParams::default(), &Patch::Merge(&path("/a"))).await.unwrap();
    replica.status.on_problems(vec![Problem {
        file: String::new(),
        line: 0,
        column: 0,
        field: "spec.rules[0]".into(),
        severity: Severity::Error,
        message: "is beyond us".into(),
        object: Some(ObjectKey { kind: Kind::HttpRoute, name: ObjectName::new(&*cluster.namespace, "canary") }),
    }]);
    let refused = format!("{CONTROLLER_NAME} reviews: Accepted=False(2)");
    let took = until("refused", &routes, "canary", &[refused]).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let condition = routes.get("canary").await.unwrap().data["status"]["parents"][0]["conditions"][0].clone();
    assert_eq!(condition["message"], "spec.rules[0]: is beyond us; generation 1 stays in effect");
    let mended = routes.patch("canary", &PatchParams::default(), &Patch::Merge(&path("/b"))).await.unwrap();
    replica.see(&[mended]);
    replica.status.on_problems(vec![]);
    until("mended", &routes, "canary", &[ours("reviews", true, 3)]).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn programmed_waits_for_the_proxies_and_is_written_when_it_changes() {
    let cluster = Cluster::new("programmed").await;
    let routes = cluster.routes();
    let mut replica = Replica::new(&cluster, true);
    replica.proxies.are(3, 2, &["shop/slow-1"]);
    let created = routes.create(&PostParams::default(), &route("canary", &["reviews"])).await.unwrap();
    replica.see(&[created]);
    let base = format!("{CONTROLLER_NAME} reviews: Accepted=True(1) ResolvedRefs=True(1)");
    let took = until("accepted, whatever proxies do", &routes, "canary", std::slice::from_ref(&base)).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let took = until("too late", &routes, "canary", &[format!("{base} {PROGRAMMED}=False(1)")]).await;
    assert!((8.5..11.0).contains(&took.as_secs_f64()), "{took:?}");
    let programmed = async || {
        let route = routes.get("canary").await.unwrap();
        let conditions = route.data["status"]["parents"][0]["conditions"].as_array().unwrap().clone();
        conditions.into_iter().find(|condition| condition["type"] == PROGRAMMED).unwrap()
    };
    assert_eq!(programmed().await["message"], "2 of 3 proxies have it; waiting for shop/slow-1");
    replica.proxies.are(3, 3, &[]);
    until("after all", &routes, "canary", &[ours("reviews", true, 1)]).await;
    assert_eq!(
        programmed().await["message"],
        format!("all 3 proxies that use Service {}/reviews have it", cluster.namespace)
    );
    let writes = replica.writes("written");
    replica.proxies.are(3, 0, &["shop/slow-1"]);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!((writes, replica.writes("written")), (3, 3), "it is not taken back");
    let names: BTreeSet<_> = entries(&routes.get("canary").await.unwrap()).into_iter().collect();
    assert_eq!(names.len(), 1);
    cluster.end().await;
}
