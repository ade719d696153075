//! How fast an endpoint's change reaches two hundred proxies, each on a connection of its own, in a mesh of a thousand
//! Services. From the moment the change is known (the source is not in it) until a proxy has read it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use weft_control_plane::discovery::{Ages, Discovery, Feed, Server};
use weft_control_plane::identity::{Authenticator, Certifier, FileAuthority, JoinTokens, OwnSvid, server_config};
use weft_control_plane::line_limit::Lines;
use weft_control_plane::model::{
    Age, Batch, EndpointSlice, Hints, Kind, Meta, Object, ObjectKey, ObjectName, Pod, Service, ServiceKind,
    ServicePort, SliceEndpoint, SlicePort, TargetPort,
};
use weft_control_plane::translate::{MeshConfig, Translator};
use weft_e2e::wire::Svid;
use weft_proto::type_url::{ENDPOINTS, INBOUND_POLICY, MESH_SETTINGS, SERVICE, TRUST_BUNDLE, WORKLOAD};
use weft_proto::v1::{Endpoints, Protocol};

use super::harness::{Proxy, RESERVED_NOT_FOR_ANYBODY, open, roots, signed_by};

const SERVICES: u32 = 1_000;
/// Of each Service.
const PODS: u32 = 5;
const PROXIES: u32 = 200;
/// The Services that every proxy uses, and as many that it shares with few.
const SHARED: u32 = 5;
const CHANGES: u32 = 200;
const BETWEEN: Duration = Duration::from_millis(50);
const AT_MOST: Duration = Duration::from_millis(100);

/// Clients at 10.32, pods of Services at 10.64, pods that come in their place at 10.128.
const CLIENTS: u32 = 0x0a20_0000;
const FIRST: u32 = 0x0a40_0000;
const LATER: u32 = 0x0a80_0000;

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(number).into()
}

fn meta(name: String) -> Meta {
    Meta {
        name: ObjectName::new("shop", name),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        generation: 1,
        age: Age(0, String::new(), 0),
    }
}

fn pod(number: u32) -> Object {
    let name = format!("p{number}");
    let mut meta = meta(name.clone());
    meta.labels.insert("weft.dev/mesh-tls".into(), "1".into());
    Object::Pod(Pod {
        meta,
        addresses: vec![address(number)],
        service_account: "client".into(),
        host_network: false,
        node: "node".into(),
        ports: Vec::new(),
        finished: false,
        ready: true,
        terminating: false,
        owner: name,
    })
}

fn service(index: u32) -> Object {
    Object::Service(Service {
        meta: meta(format!("s{index}")),
        kind: ServiceKind::ClusterIp,
        vips: vec![address(0x0a60_0000 + index)],
        ports: vec![ServicePort {
            name: "http".into(),
            port: 80,
            target: TargetPort::Number(8080),
            protocol: Protocol::Http,
        }],
        selector: BTreeMap::from([("app".into(), format!("s{index}"))]),
        publish_not_ready: false,
        client_ip_affinity: None,
        node_local: false,
        traffic_distribution: None,
    })
}

fn slice(index: u32, pods: &[u32]) -> Object {
    let endpoint = |number: &u32| SliceEndpoint {
        addresses: vec![address(*number)],
        pod: Some(format!("p{number}")),
        ready: true,
        serving: true,
        terminating: false,
        node: "node".into(),
        zone: String::new(),
        hints: Hints::default(),
    };
    Object::EndpointSlice(EndpointSlice {
        meta: meta(format!("s{index}")),
        service: format!("s{index}"),
        ports: vec![SlicePort { name: "http".into(), port: 8080 }],
        endpoints: pods.iter().map(endpoint).collect(),
    })
}

/// The cluster's Services and who is behind each.
struct World {
    translator: Translator,
    feed: Arc<Feed>,
    pods: Vec<Vec<u32>>,
    later: u32,
}

impl World {
    fn new(roots: Vec<Vec<u8>>) -> Self {
        let mut translator = Translator::new(MeshConfig::default());
        translator.set_trust_roots(roots);
        let feed = Arc::new(Feed::new(translator.translated()));
        let pods: Vec<Vec<u32>> =
            (0..SERVICES).map(|index| (0..PODS).map(|pod| FIRST + index * PODS + pod).collect()).collect();
        let mut upserts: Vec<Object> = (0..PROXIES).map(|index| pod(CLIENTS + index)).collect();
        for (index, pods) in (0..).zip(&pods) {
            upserts.extend([service(index), slice(index, pods)]);
            upserts.extend(pods.iter().copied().map(pod));
        }
        let (state, touched) = translator.apply(Batch { upserts, ..Batch::default() });
        feed.publish(state, touched);
        feed.set_synced();
        Self { translator, feed, pods, later: 0 }
    }

    /// Another pod in place of one of a Service's; which, and when that was known.
    fn replace(&mut self, service: u32) -> (u32, Instant) {
        let began = Instant::now();
        let new = LATER + self.later;
        self.later += 1;
        let pods = &mut self.pods[usize::try_from(service).unwrap()];
        let old = std::mem::replace(&mut pods[0], new);
        let gone = ObjectKey { kind: Kind::Pod, name: ObjectName::new("shop", format!("p{old}")) };
        let batch = Batch { upserts: vec![pod(new), slice(service, pods)], removes: vec![gone] };
        let (state, touched) = self.translator.apply(batch);
        self.feed.publish(state, touched);
        (new, began)
    }
}

async fn serve(directory: &std::path::Path, authority: &Arc<FileAuthority>, feed: &Arc<Feed>) -> SocketAddr {
    let (now, ttl) = (SystemTime::now(), Duration::from_secs(3600));
    let own = OwnSvid::issue(&**authority, RESERVED_NOT_FOR_ANYBODY.parse().unwrap(), ttl, now).unwrap();
    let tls = server_config(&**authority, Arc::new(own)).unwrap();
    let discovery = Discovery {
        feed: Arc::clone(feed),
        proxies: Arc::default(),
        metrics: Default::default(),
        lines: Lines::default(),
        pod_appears: Duration::from_secs(1),
    };
    let certifier = Certifier {
        authority: Arc::clone(authority) as _,
        authenticator: Authenticator::JoinTokens(JoinTokens::open(directory).unwrap()),
        trust_domain: "cluster.local".into(),
        ttl,
        metrics: Default::default(),
        lines: Lines::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Server::new(discovery, certifier, tls, Ages::default()).run(listener, std::future::pending()));
    address
}

/// A proxy that has asked for all that a sidecar asks for, and has it.
async fn connect(server: SocketAddr, svid: &Svid, index: u32) -> Proxy {
    let mut proxy = open(server, svid, &address(CLIENTS + index).to_string()).await;
    let own = (0..SHARED).map(|other| SHARED + (index * SHARED + other) % (SERVICES - SHARED));
    let services: Vec<u32> = (0..SHARED).chain(own).collect();
    let (vips, endpoints): (Vec<_>, Vec<_>) = services
        .into_iter()
        .map(|service| (address(0x0a60_0000 + service).to_string(), format!("shop/s{service}:80")))
        .unzip();
    let named = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    for (type_url, names) in [
        (WORKLOAD, named(&["self"])),
        (INBOUND_POLICY, named(&["self"])),
        (MESH_SETTINGS, named(&["mesh"])),
        (TRUST_BUNDLE, named(&["cluster.local"])),
        (SERVICE, vips),
        (ENDPOINTS, endpoints),
    ] {
        proxy.subscribe(type_url, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        while proxy.has(type_url).len() < names.len() {
            proxy.next().await.unwrap();
        }
    }
    proxy
}

/// Reads for ever, and says which new pods it has heard of when.
async fn follow(mut proxy: Proxy, heard: mpsc::UnboundedSender<(u32, Instant)>) {
    while let Ok(response) = proxy.next().await {
        let now = Instant::now();
        for resource in response.resources.iter().filter(|_| response.type_url == ENDPOINTS) {
            let body: Endpoints = prost::Message::decode(&*resource.resource.as_ref().unwrap().value).unwrap();
            for endpoint in body.endpoints {
                let number = u32::from(endpoint.address.parse::<Ipv4Addr>().unwrap());
                if number >= LATER && heard.send((number, now)).is_err() {
                    return;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures time: run it alone, and as a release build for the figure"]
async fn an_endpoint_reaches_two_hundred_proxies_within_100_ms() {
    let directory = tempfile::tempdir().unwrap();
    let authority = FileAuthority::open(directory.path(), "cluster.local", SystemTime::now()).unwrap();
    let svid = signed_by(&authority, super::CLIENT, Duration::from_secs(3600));
    let mut world = World::new(roots(&svid));
    let server = serve(directory.path(), &Arc::new(authority), &world.feed).await;
    let (heard, mut hearing) = mpsc::unbounded_channel();
    let mut connecting = JoinSet::new();
    for index in 0..PROXIES {
        let svid = svid.clone();
        connecting.spawn(async move { connect(server, &svid, index).await });
    }
    let mut following = JoinSet::new();
    while let Some(proxy) = connecting.join_next().await {
        following.spawn(follow(proxy.unwrap(), heard.clone()));
    }

    let mut known = BTreeMap::new();
    let mut ticks = tokio::time::interval(BETWEEN);
    for change in 0..CHANGES {
        ticks.tick().await;
        // The rest of the cluster changes, too, where no or few proxies look.
        for other in 0..4 {
            world.replace(SHARED + (change * 4 + other) % (SERVICES - SHARED));
        }
        let (new, began) = world.replace(change % SHARED);
        known.insert(new, began);
    }
    let expected = usize::try_from(PROXIES * CHANGES).unwrap();
    let mut took: BTreeMap<(u32, usize), Duration> = BTreeMap::new();
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    while took.len() < expected {
        let next = tokio::time::timeout(Duration::from_secs(30), hearing.recv()).await;
        let (new, at) = next.unwrap_or_else(|_| panic!("{} of {expected} were heard of", took.len())).unwrap();
        let Some(began) = known.get(&new) else { continue };
        let nth = counts.entry(new).or_default();
        took.insert((new, *nth), at.duration_since(*began));
        *nth += 1;
    }
    let mut took: Vec<Duration> = took.into_values().collect();
    took.sort_unstable();
    let at = |parts: usize| took[(took.len() - 1) * parts / 1000];
    println!("{expected} arrivals: p50 {:?}, p99 {:?}, p99.9 {:?}, last {:?}", at(500), at(990), at(999), at(1000));
    assert!(at(990) < AT_MOST, "p99 {:?}", at(990));
}
