//! The whole room against a control plane played over in-memory pipes: real gRPC, real mesh TLS, paused clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use weft_proto::discovery::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer, Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    DiscoveryRequest, DiscoveryResponse, Resource,
};
use weft_proto::v1;

use super::*;
use crate::identity::testing::{PipeDial, TestCa, serve};

/// What the played control plane knows and has heard.
#[derive(Default)]
struct World {
    resources: BTreeMap<(Kind, String), Held>,
    version: u32,
    requests: Vec<DeltaDiscoveryRequest>,
    /// (kind, resource) of everything sent.
    sent: Vec<(Kind, String)>,
    silent: bool,
}

/// Version, aliases, payload.
type Held = (u32, Vec<String>, Vec<u8>);

struct Fake {
    world: Mutex<World>,
    changed: watch::Sender<()>,
}

impl Fake {
    fn set(&self, kind: Kind, name: &str, aliases: &[&str], payload: &impl Message) {
        let mut world = self.world.lock();
        world.version += 1;
        let version = world.version;
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        world.resources.insert((kind, name.to_owned()), (version, aliases, payload.encode_to_vec()));
    }

    fn remove(&self, kind: Kind, name: &str) {
        self.world.lock().resources.remove(&(kind, name.to_owned()));
    }

    /// Sends what has been set since the last time.
    fn push(&self) {
        self.changed.send_replace(());
    }

    fn service(&self, name: &str, vips: &[&str], routes: Option<&[(&str, u32)]>) {
        self.set(Kind::Service, &format!("shop/{name}"), vips, &service(name, vips, routes));
    }

    fn endpoints(&self, name: &str, addresses: &[&str]) {
        let endpoints = addresses.iter().map(|address| v1::Endpoint {
            address: (*address).into(),
            port: 8080,
            ..v1::Endpoint::default()
        });
        self.set(Kind::Endpoints, name, &[], &v1::Endpoints { endpoints: endpoints.collect() });
    }

    fn subscribed(&self, kind: Kind) -> BTreeSet<String> {
        let world = self.world.lock();
        let mut names = BTreeSet::new();
        for request in world.requests.iter().filter(|request| request.type_url == kind.type_url()) {
            names.extend(request.resource_names_subscribe.iter().cloned());
            for name in &request.resource_names_unsubscribe {
                names.remove(name);
            }
        }
        names
    }

    fn sent(&self, kind: Kind, name: &str) -> usize {
        self.world.lock().sent.iter().filter(|sent| **sent == (kind, name.to_owned())).count()
    }

    fn nacks(&self) -> Vec<String> {
        self.world.lock().requests.iter().filter_map(|request| Some(request.error_detail.clone()?.message)).collect()
    }
}

fn service(name: &str, vips: &[&str], routes: Option<&[(&str, u32)]>) -> v1::Service {
    let targets = routes.unwrap_or_default().iter().map(|(backend, weight)| v1::WeightedTarget {
        weight: *weight,
        target: Some(v1::weighted_target::Target::Backend(v1::Backend {
            service: (*backend).into(),
            port: 80,
            ..v1::Backend::default()
        })),
        filters: Vec::new(),
    });
    let rule = v1::RouteRule {
        route: format!("HTTPRoute/shop/{name}"),
        rule: "0".into(),
        targets: targets.collect(),
        ..v1::RouteRule::default()
    };
    let port = v1::ServicePort {
        port: 80,
        protocol: v1::Protocol::Http.into(),
        routed: routes.is_some(),
        entries: routes.iter().map(|_| v1::RouteEntry { r#match: None, rule: 0 }).collect(),
        rules: routes.iter().map(|_| rule.clone()).collect(),
        ..v1::ServicePort::default()
    };
    v1::Service {
        namespace: "shop".into(),
        name: name.into(),
        hosts: vec![format!("{name}.shop.svc.cluster.local")],
        vips: vips.iter().map(|vip| (*vip).to_owned()).collect(),
        ports: vec![port],
    }
}

type Responses<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for FakeService {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: tonic::Request<Streaming<DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        requests: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(converse(Arc::clone(&self.0), requests.into_inner(), sender));
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

struct FakeService(Arc<Fake>);

/// One stream: answers whoever asks, sends what changes.
async fn converse(
    fake: Arc<Fake>,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    sender: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) {
    let mut names: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
    let mut has: BTreeMap<(Kind, String), u32> = BTreeMap::new();
    let mut changed = fake.changed.subscribe();
    let mut nonce = 0;
    loop {
        let mut newly: BTreeSet<(Kind, String)> = BTreeSet::new();
        tokio::select! {
            request = requests.message() => {
                let Ok(Some(request)) = request else { return };
                fake.world.lock().requests.push(request.clone());
                let kind = Kind::from_type_url(&request.type_url).unwrap();
                let initial = !request.initial_resource_versions.is_empty();
                for (name, version) in request.initial_resource_versions {
                    has.insert((kind, name), version.parse().unwrap());
                }
                let names = names.entry(kind).or_default();
                for name in request.resource_names_unsubscribe {
                    names.remove(&name);
                }
                for name in request.resource_names_subscribe {
                    names.insert(name.clone());
                    if !initial {
                        has.remove(&(kind, name.clone()));
                    }
                    newly.insert((kind, name));
                }
            }
            _ = changed.changed() => {}
        }
        for kind in Kind::ALL {
            let mut response = DeltaDiscoveryResponse { type_url: kind.type_url().into(), ..Default::default() };
            {
                let mut world = fake.world.lock();
                if world.silent {
                    continue;
                }
                for name in names.get(&kind).into_iter().flatten() {
                    let found = world.resources.iter().find(|((of, resource), (_, aliases, _))| {
                        *of == kind && (resource == name || aliases.contains(name))
                    });
                    let Some(((_, resource), (version, aliases, payload))) = found else {
                        if newly.contains(&(kind, name.clone())) {
                            response.removed_resources.push(name.clone());
                        }
                        continue;
                    };
                    if has.insert((kind, resource.clone()), *version) != Some(*version) {
                        response.resources.push(Resource {
                            name: resource.clone(),
                            version: version.to_string(),
                            aliases: aliases.clone(),
                            resource: Some(Any { type_url: kind.type_url().into(), value: payload.clone() }),
                            ..Default::default()
                        });
                    }
                }
                has.retain(|(of, resource), _| {
                    let there = *of != kind || world.resources.contains_key(&(*of, resource.clone()));
                    if !there {
                        response.removed_resources.push(resource.clone());
                    }
                    there
                });
                world.sent.extend(response.resources.iter().map(|resource| (kind, resource.name.clone())));
            }
            if !response.resources.is_empty() || !response.removed_resources.is_empty() {
                nonce += 1;
                response.nonce = nonce.to_string();
                if sender.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// A proxy and the control plane it may or may not reach.
struct Mesh {
    ca: TestCa,
    fake: Arc<Fake>,
    dial: PipeDial,
    config: Config,
    client: tokio::task::JoinHandle<()>,
    server: Option<tokio::task::JoinHandle<()>>,
}

impl Mesh {
    /// Running, and nobody answers.
    fn alone() -> Self {
        Self::with(ConfigSettings::default())
    }

    fn with(settings: ConfigSettings) -> Self {
        let ca = TestCa::new("weft.local");
        let identity = ca.manager("shop", "web");
        let dial = PipeDial::down();
        let settings = ConfigSettings { pod_address: "10.1.0.5".into(), ..settings };
        let dns = Dns::fixed([("db.example.com", "192.0.2.7".parse().unwrap())]);
        let config = Config::new(settings, identity.clone(), dns);
        let control_plane = dial.control_plane(identity);
        let client = {
            let config = config.clone();
            tokio::spawn(async move { config.run(&control_plane).await })
        };
        let fake = Arc::new(Fake { world: Mutex::default(), changed: watch::Sender::new(()) });
        Self { ca, fake, dial, config, client, server: None }
    }

    /// With a control plane that knows the mesh's settings and two services.
    async fn new() -> Self {
        let mut this = Self::alone();
        this.fake.set(Kind::MeshSettings, "mesh", &[], &settings());
        this.fake.set(Kind::InboundPolicy, "self", &[], &v1::InboundPolicy::default());
        this.fake.set(Kind::Workload, "self", &["10.1.0.5"], &workload("web-1", "10.1.0.5"));
        this.fake.service("reviews", &["10.96.0.1", "fd00::1"], None);
        this.fake.endpoints("shop/reviews:80", &["10.1.0.7", "10.1.0.8"]);
        this.up();
        this.config.ready().await;
        this
    }

    fn up(&mut self) {
        let tls = self.ca.control_plane_tls(&self.ca.id("weft-system", "weft-control-plane"));
        let service = AggregatedDiscoveryServiceServer::new(FakeService(Arc::clone(&self.fake)));
        self.server = Some(serve(self.dial.up(), tls, service));
    }

    fn down(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }

    async fn to(&self, dst: &str) -> Destination {
        self.config.destination(dst.parse().unwrap()).await
    }

    /// Lets everything under way arrive.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.client.abort();
        self.down();
    }
}

fn settings() -> v1::MeshSettings {
    v1::MeshSettings {
        cluster_cidrs: vec!["10.0.0.0/8".into(), "fd00::/8".into()],
        known_hosts: vec!["*.wild.org".into(), "db.example.com".into()],
        ..v1::MeshSettings::default()
    }
}

fn workload(name: &str, address: &str) -> v1::Workload {
    v1::Workload {
        namespace: "shop".into(),
        name: name.into(),
        identity: "spiffe://weft.local/ns/shop/sa/web".into(),
        addresses: vec![address.into()],
        mesh_tls: true,
        ..v1::Workload::default()
    }
}

#[track_caller]
fn served(destination: &Destination) -> (&Service, &ServicePort) {
    match destination {
        Destination::Service { service, port } => (service, port),
        other => panic!("{other:?}"),
    }
}

fn addresses(backend: &Backend) -> Vec<String> {
    backend.balancer.endpoints().iter().map(|endpoint| endpoint.addr().ip().to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_use_of_a_vip_asks_once_and_comes_back_with_endpoints() {
    let mesh = Mesh::new().await;
    let (first, second) = tokio::join!(mesh.to("10.96.0.1:80"), mesh.to("10.96.0.1:80"));
    let (service, port) = served(&first);
    assert_eq!(service.name.to_string(), "shop/reviews");
    assert_eq!(addresses(&port.backend), ["10.1.0.7", "10.1.0.8"]);
    assert!(port.routes.is_none());
    assert!(Arc::ptr_eq(&served(&second).1.backend, &port.backend));
    assert_eq!(mesh.fake.sent(Kind::Service, "shop/reviews"), 1);

    let asked = mesh.fake.world.lock().requests.len();
    let v6 = mesh.to("[fd00::1]:80").await;
    assert_eq!(served(&v6).0.name, service.name, "its other address is known by now");
    assert!(matches!(mesh.to("10.96.0.1:81").await, Destination::NoPort(_)));
    assert_eq!(mesh.fake.world.lock().requests.len(), asked, "without asking");
}

#[tokio::test(start_paused = true)]
async fn a_pod_address_leads_to_its_workload_and_to_one_endpoint() {
    let mesh = Mesh::new().await;
    mesh.fake.set(Kind::Workload, "10.1.0.7", &[], &workload("reviews-1", "10.1.0.7"));
    let destination = mesh.to("10.1.0.7:8080").await;
    let Destination::Workload(workload) = &destination else { panic!("{destination:?}") };
    let dst: SocketAddr = "10.1.0.7:8080".parse().unwrap();
    let direct = mesh.config.direct(workload, dst);
    let endpoints = direct.balancer.endpoints();
    assert_eq!(endpoints.len(), 1);
    assert_eq!(endpoints[0].mesh().map(|(addr, id)| (addr, id.service_account())), Some((dst, "web")));
    assert!(endpoints[0].plain().is_none() && direct.is_known());
    assert!(Arc::ptr_eq(&direct, &mesh.config.direct(workload, dst)), "the same one each time");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_exist_is_remembered_thirty_seconds() {
    let mesh = Mesh::new().await;
    let asks = |mesh: &Mesh| {
        let world = mesh.fake.world.lock();
        world.requests.iter().filter(|r| r.resource_names_subscribe.contains(&"10.9.9.9".to_owned())).count()
    };
    for seconds in [0, 10, 19] {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert!(matches!(mesh.to("10.9.9.9:80").await, Destination::Outside), "+{seconds} s");
    }
    assert_eq!(asks(&mesh), 2, "once as a service, once as a workload");
    tokio::time::sleep(Duration::from_secs(8)).await;
    mesh.fake.service("late", &["10.9.9.9"], None);
    mesh.fake.endpoints("shop/late:80", &["10.1.0.9"]);
    let destination = mesh.to("10.9.9.9:80").await;
    assert_eq!(served(&destination).0.name.name, "late");
    assert_eq!(asks(&mesh), 4);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_appears_where_nothing_was_is_pushed() {
    let mesh = Mesh::new().await;
    assert!(matches!(mesh.to("10.9.9.9:80").await, Destination::Outside));
    mesh.fake.service("late", &["10.9.9.9"], None);
    mesh.fake.push();
    mesh.settle().await;
    served(&mesh.to("10.9.9.9:80").await);
}

/// One row per address: what becomes of it when nobody answers, and how long that takes.
#[tokio::test(start_paused = true)]
async fn with_the_control_plane_dead_at_the_first_connection() {
    let told = ConfigSettings { cluster_cidrs: vec!["172.20.0.0/16".parse().unwrap()], ..ConfigSettings::default() };
    let rows: [(&str, ConfigSettings, &str, bool); 8] = [
        ("external passes at once", ConfigSettings::default(), "93.184.216.34:443", true),
        ("external v6 passes at once", ConfigSettings::default(), "[2606:2800::1]:443", true),
        ("link-local passes at once", ConfigSettings::default(), "169.254.169.254:80", true),
        ("private may be of the cluster", ConfigSettings::default(), "10.96.0.1:80", false),
        ("unique local may be of the cluster", ConfigSettings::default(), "[fd00::1]:80", false),
        ("mapped is what it maps", ConfigSettings::default(), "[::ffff:10.96.0.1]:80", false),
        ("told: inside", told.clone(), "172.20.0.1:80", false),
        ("told: outside", told, "10.96.0.1:80", true),
    ];
    for (what, settings, dst, outside) in rows {
        let mesh = Mesh::with(settings);
        let began = Instant::now();
        let destination = mesh.to(dst).await;
        if outside {
            assert!(matches!(destination, Destination::Outside), "{what}: {destination:?}");
            assert_eq!(began.elapsed(), Duration::ZERO, "{what}");
        } else {
            assert!(matches!(destination, Destination::Unavailable), "{what}: {destination:?}");
            assert_eq!(began.elapsed(), LOOKUP_TIMEOUT, "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn registry_only_refuses_what_is_outside() {
    let mesh = Mesh::new().await;
    let policy = v1::OutboundPolicy::RegistryOnly.into();
    mesh.fake.set(Kind::MeshSettings, "mesh", &[], &v1::MeshSettings { outbound_policy: policy, ..settings() });
    mesh.fake.push();
    mesh.settle().await;
    for dst in ["93.184.216.34:443", "10.9.9.9:80"] {
        let destination = mesh.to(dst).await;
        assert!(matches!(destination, Destination::Refused(Reason::RegistryOnly)), "{dst}: {destination:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_never_answers_costs_one_second_and_is_taken_up_when_it_does() {
    let mesh = Mesh::new().await;
    mesh.fake.world.lock().silent = true;
    let began = Instant::now();
    assert!(matches!(mesh.to("10.96.0.1:80").await, Destination::Unavailable));
    assert_eq!(began.elapsed(), LOOKUP_TIMEOUT);
    assert_eq!(mesh.config.stats().lookups_unanswered.load(Ordering::Relaxed), 1);
    mesh.fake.world.lock().silent = false;
    let (destination, ()) = tokio::join!(mesh.to("10.96.0.1:80"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        mesh.fake.push();
    });
    served(&destination);
}

#[tokio::test(start_paused = true)]
async fn a_route_brings_its_backends_and_takes_them_along() {
    let mesh = Mesh::new().await;
    served(&mesh.to("10.96.0.1:80").await);
    mesh.fake.service("reviews", &["10.96.0.1"], Some(&[("shop/reviews-v1", 90), ("shop/reviews-v2", 10)]));
    mesh.fake.endpoints("shop/reviews-v1:80", &["10.1.1.1"]);
    mesh.fake.endpoints("shop/reviews-v2:80", &["10.1.2.1"]);
    mesh.fake.push();
    mesh.settle().await;
    let destination = mesh.to("10.96.0.1:80").await;
    let port = served(&destination).1;
    assert!(port.routes.is_some());
    let of = |port: &ServicePort| {
        port.backends().map(|backend| (backend.name.to_string(), addresses(backend))).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(of(port)["shop/reviews-v2:80"], ["10.1.2.1"]);
    assert_eq!(of(port).len(), 3);
    let v2 = Arc::clone(port.backends().find(|backend| backend.name.service.name == "reviews-v2").unwrap());

    mesh.fake.service("reviews", &["10.96.0.1"], Some(&[("shop/reviews-v1", 0), ("shop/reviews-v2", 100)]));
    mesh.fake.push();
    mesh.settle().await;
    let destination = mesh.to("10.96.0.1:80").await;
    let kept = served(&destination).1.backends().find(|backend| backend.name == v2.name).unwrap();
    assert!(Arc::ptr_eq(kept, &v2), "what a backend has learnt outlives a change of weights");

    mesh.fake.service("reviews", &["10.96.0.1"], None);
    mesh.fake.push();
    mesh.settle().await;
    assert_eq!(mesh.fake.subscribed(Kind::Endpoints), BTreeSet::from(["shop/reviews:80".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_backend_whose_endpoints_are_not_answered_is_waited_for() {
    let mesh = Mesh::new().await;
    served(&mesh.to("10.96.0.1:80").await);
    mesh.fake.world.lock().resources.remove(&(Kind::Endpoints, "shop/reviews:80".into()));
    mesh.fake.push();
    mesh.settle().await;
    let destination = mesh.to("10.96.0.1:80").await;
    let backend = &served(&destination).1.backend;
    assert!(backend.is_known() && addresses(backend).is_empty(), "none, and that is an answer");
}

#[tokio::test(start_paused = true)]
async fn endpoints_change_in_place() {
    let mesh = Mesh::new().await;
    let destination = mesh.to("10.96.0.1:80").await;
    let backend = Arc::clone(&served(&destination).1.backend);
    let before = mesh.config.snapshot().clone();
    mesh.fake.endpoints("shop/reviews:80", &["10.1.0.9"]);
    mesh.fake.push();
    mesh.settle().await;
    assert_eq!(addresses(&backend), ["10.1.0.9"], "for those who hold the backend already");
    let service = |snapshot: &Snapshot| Arc::clone(snapshot.service_at("10.96.0.1".parse().unwrap()).unwrap());
    assert!(Arc::ptr_eq(&service(&before), &service(&mesh.config.snapshot())), "without touching the routes");
    assert_eq!(mesh.fake.sent(Kind::Service, "shop/reviews"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bad_resource_is_refused_by_name_and_field_and_its_last_good_version_stays() {
    let mesh = Mesh::new().await;
    served(&mesh.to("10.96.0.1:80").await);
    let mut bad = service("reviews", &["10.96.0.1"], None);
    bad.ports[0].protocol = 99;
    mesh.fake.set(Kind::Service, "shop/reviews", &["10.96.0.1"], &bad);
    mesh.fake.push();
    mesh.settle().await;
    assert_eq!(mesh.fake.nacks(), ["shop/reviews: ports[0].protocol: 99 is not known to this version of the sidecar"]);
    let destination = mesh.to("10.96.0.1:80").await;
    assert_eq!(served(&destination).1.protocol, Protocol::Http);

    mesh.fake.set(Kind::Service, "shop/broken", &["10.96.0.2"], &bad);
    let began = Instant::now();
    assert!(matches!(mesh.to("10.96.0.2:80").await, Destination::Unavailable), "never good: never passed through");
    assert!(began.elapsed() < LOOKUP_TIMEOUT, "and nobody waits for it");

    mesh.fake.service("reviews", &["10.96.0.1"], None);
    mesh.fake.push();
    mesh.settle().await;
    assert_eq!(mesh.config.view(now()).version("Service", "shop/reviews"), Some(mesh.fake.world.lock().version));
}

#[tokio::test(start_paused = true)]
async fn an_inbound_policy_that_never_compiled_lets_nothing_in() {
    let mut mesh = Mesh::alone();
    let bad = v1::InboundPolicy { mode: 42, ports: Vec::new() };
    mesh.fake.set(Kind::InboundPolicy, "self", &[], &bad);
    mesh.fake.set(Kind::Workload, "self", &[], &workload("web-1", "10.1.0.5"));
    mesh.up();
    mesh.config.ready().await;
    assert_eq!(mesh.config.inbound_policy().unwrap().mode(80), MtlsMode::Refuse);

    let strict = v1::PortMtls { port: 80, mode: v1::MtlsMode::Strict.into() };
    mesh.fake.set(Kind::InboundPolicy, "self", &[], &v1::InboundPolicy { mode: 0, ports: vec![strict] });
    mesh.fake.push();
    mesh.settle().await;
    let policy = mesh.config.inbound_policy().unwrap();
    assert_eq!((policy.mode(80), policy.mode(81)), (MtlsMode::Strict, MtlsMode::Permissive));
    mesh.fake.set(Kind::InboundPolicy, "self", &[], &bad);
    mesh.fake.push();
    mesh.settle().await;
    assert_eq!(mesh.config.inbound_policy().unwrap(), policy, "the last good one stays");
    mesh.fake.remove(Kind::InboundPolicy, "self");
    mesh.fake.push();
    mesh.settle().await;
    assert_eq!(mesh.config.inbound_policy().unwrap(), policy, "also when the pod is gone and still drains");
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_of_the_control_plane_nothing_unchanged_is_sent_again() {
    let mut mesh = Mesh::new().await;
    served(&mesh.to("10.96.0.1:80").await);
    mesh.down();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!mesh.config.stats().connected.load(Ordering::Relaxed));
    served(&mesh.to("10.96.0.1:80").await);

    mesh.fake.endpoints("shop/reviews:80", &["10.1.0.9"]);
    mesh.fake.world.lock().requests.clear();
    mesh.fake.world.lock().sent.clear();
    mesh.up();
    let began = Instant::now();
    while !mesh.config.stats().connected.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    mesh.settle().await;
    assert_eq!(mesh.fake.world.lock().sent, [(Kind::Endpoints, "shop/reviews:80".to_owned())]);
    let destination = mesh.to("10.96.0.1:80").await;
    assert_eq!(addresses(&served(&destination).1.backend), ["10.1.0.9"]);
    assert_eq!(mesh.fake.world.lock().requests[0].node.as_ref().unwrap().id, "10.1.0.5");
}

#[tokio::test(start_paused = true)]
async fn a_vip_that_moves_to_another_service_moves_in_one_snapshot() {
    let mesh = Mesh::new().await;
    served(&mesh.to("10.96.0.1:80").await);
    mesh.fake.service("reviews", &["fd00::1"], None);
    mesh.fake.service("ratings", &["10.96.0.1"], None);
    mesh.fake.push();
    let mut changes = mesh.config.changes();
    loop {
        match mesh.config.snapshot().service_at("10.96.0.1".parse().unwrap()) {
            Some(service) if service.name.name == "ratings" => break,
            Some(_) => {}
            None => panic!("the address is nobody's in between"),
        }
        changes.changed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_service_is_no_longer_answered_for() {
    let mesh = Mesh::new().await;
    served(&mesh.to("10.96.0.1:80").await);
    mesh.fake.remove(Kind::Service, "shop/reviews");
    mesh.fake.push();
    mesh.settle().await;
    assert!(matches!(mesh.to("10.96.0.1:80").await, Destination::Outside));
    assert_eq!(mesh.fake.subscribed(Kind::Endpoints), BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn only_hosts_that_the_mesh_knows_are_asked_about() {
    let mesh = Mesh::new().await;
    let mut external = service("db", &[], None);
    external.hosts = vec!["db.example.com".into()];
    mesh.fake.set(Kind::Service, "shop/db", &["db.example.com"], &external);
    let named = v1::Endpoint { address: "db.example.com".into(), port: 5432, ..v1::Endpoint::default() };
    mesh.fake.set(Kind::Endpoints, "shop/db:80", &[], &v1::Endpoints { endpoints: vec![named] });
    let mut wild = service("wild", &[], None);
    wild.hosts = vec!["*.wild.org".into()];
    mesh.fake.set(Kind::Service, "shop/wild", &["*.wild.org", "a.wild.org"], &wild);

    for (host, service) in [
        ("db.example.com", "db"),
        ("DB.Example.com.", "db"),
        ("a.wild.org", "wild"),
        // By the wildcard that it lists.
        ("b.wild.org", "wild"),
    ] {
        let found = mesh.config.host(host, 80).await.unwrap_or_else(|| panic!("{host}"));
        let (found, port) = served(&found);
        assert_eq!(found.name.name, service, "{host}");
        if service == "db" {
            assert_eq!(addresses(&port.backend), ["192.0.2.7"], "an endpoint that is a name is resolved");
        }
    }
    assert!(mesh.config.host("db.example.com", 81).await.is_none(), "not on this port");
    served(&mesh.to("10.96.0.1:80").await);
    let asked = mesh.fake.world.lock().requests.len();
    for host in ["example.org", "reviews.shop.svc.cluster.local", "wild", ""] {
        assert!(mesh.config.host(host, 80).await.is_none(), "{host}");
    }
    assert_eq!(mesh.fake.world.lock().requests.len(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_known_host_that_nobody_can_say_more_about_is_unavailable() {
    let mut mesh = Mesh::new().await;
    assert!(mesh.config.host("db.example.com", 80).await.is_none(), "the control plane says: no such Service");
    served(&mesh.to("10.96.0.1:80").await);
    mesh.down();
    mesh.settle().await;
    let destination = mesh.config.host("never.wild.org", 80).await;
    assert!(matches!(destination, Some(Destination::Unavailable)), "{destination:?}");
}

#[tokio::test(start_paused = true)]
async fn a_trust_bundle_reaches_the_identity_room() {
    let mesh = Mesh::new().await;
    let next = TestCa::new("weft.local");
    let roots = vec![mesh.ca.root.to_vec(), next.root.to_vec()];
    let bundle = v1::TrustBundle { trust_domain: "weft.local".into(), roots };
    mesh.fake.set(Kind::TrustBundle, "weft.local", &[], &bundle);
    mesh.fake.push();
    mesh.settle().await;
    let identity = &mesh.config.0.identity;
    assert_eq!(identity.roots().unwrap().certificates().len(), 2);
    mesh.fake.set(Kind::TrustBundle, "weft.local", &[], &v1::TrustBundle { roots: Vec::new(), ..bundle });
    mesh.fake.push();
    mesh.settle().await;
    assert_eq!(identity.roots().unwrap().certificates().len(), 2, "an empty one is refused");
    assert_eq!(mesh.fake.nacks(), ["weft.local: roots: there is no root certificate"]);
}

#[tokio::test(start_paused = true)]
async fn the_view_is_readable_and_holds_no_secret() {
    let mesh = Mesh::new().await;
    mesh.fake.service("reviews", &["10.96.0.1"], Some(&[("shop/reviews-v1", 90), ("shop/reviews-v2", 10)]));
    mesh.fake.endpoints("shop/reviews-v1:80", &["10.1.1.1"]);
    served(&mesh.to("10.96.0.1:80").await);
    let view = serde_json::to_value(mesh.config.view(now())).unwrap();
    let port = &view["services"]["shop/reviews"]["ports"]["80"];
    assert_eq!(port["rules"][0]["targets"], serde_json::json!(["90: shop/reviews-v1:80", "10: shop/reviews-v2:80"]));
    assert_eq!(port["rules"][0]["matches"], serde_json::json!(["0: any path"]));
    assert_eq!(port["backends"]["shop/reviews-v1:80"]["balancer"]["endpoints"][0]["addr"], "10.1.1.1:8080");
    assert_eq!(view["own"]["identity"], "spiffe://weft.local/ns/shop/sa/web");
    assert_eq!(view["inbound_policy"]["mode"], "permissive");
    let text = view.to_string().to_lowercase();
    for secret in ["private", "begin", "token"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

/// The control plane ends a stream that subscribes to more names than it allows, of all kinds together.
#[tokio::test(start_paused = true)]
async fn no_stream_ever_subscribes_to_more_names_than_the_bound() {
    let max = 40;
    let bounds = Bounds { max, ..Bounds::default() };
    let mut mesh = Mesh::with(ConfigSettings { bounds, ..ConfigSettings::default() });
    mesh.fake.set(Kind::MeshSettings, "mesh", &[], &settings());
    mesh.up();
    for n in 0..60 {
        let vip = format!("10.96.1.{n}");
        mesh.fake.service(&format!("s{n}"), &[&vip], None);
        mesh.fake.endpoints(&format!("shop/s{n}:80"), &["10.1.0.7"]);
        let destination = mesh.to(&format!("{vip}:80")).await;
        assert!(served(&destination).1.backend.is_known(), "{vip}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut names = BTreeSet::new();
    for request in &mesh.fake.world.lock().requests {
        let named = |name: &String| (request.type_url.clone(), name.clone());
        names.extend(request.resource_names_subscribe.iter().map(named));
        assert!(names.len() <= max, "{}", names.len());
        for name in &request.resource_names_unsubscribe {
            names.remove(&named(name));
        }
    }
    assert_eq!(mesh.config.stats().connects.load(Ordering::Relaxed), 1);
    let services = mesh.config.0.tables.lock().store.services().count();
    assert!((5..max).contains(&services), "{services} are kept");
}

#[tokio::test(start_paused = true)]
async fn direct_backends_are_bounded() {
    let mesh = Mesh::alone();
    let workload = compile::compile_workload(&workload("w", "10.1.0.7")).unwrap();
    for n in 0..u16::try_from(MAX_DIRECT + 100).unwrap() {
        tokio::time::advance(Duration::from_millis(1)).await;
        mesh.config.direct(&workload, SocketAddr::from(([10, 1, 0, 7], n + 1)));
        assert!(mesh.config.0.direct.lock().len() <= MAX_DIRECT);
    }
}
