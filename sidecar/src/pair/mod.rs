//! Two sidecars in one process: the whole proxy but its threads and its control plane, over loopback.
//!
//! ```text
//! Wire (the client app) ── Outbound(web) ══ mesh TLS, loopback ══ Inbound(reviews) ── App (the server app)
//!                              ▲                                      ▲
//!                              └────── World: a control plane each ───┘
//! ```
//!
//! [`Sidecar`] holds a real `Outbound`, `Inbound`, `Config` and `IdentityManager`, wired as the runtime wires them; its
//! [`World`] answers what its `Config` asks for, in the same task, so that what a test pushes acts when [`Sidecar::set`]
//! returns. There is no redirection here, so connections are handed over with the destination they would have had.
//! `wire.rs` has the apps.
//!
//! Each other file is one row of the contract (SEMANTICS.md). Most tests run on the real clock and wait for nothing but
//! loopback; those about time run paused.

mod backend_tls;
mod balancing;
mod calls;
mod control_plane;
mod cost;
mod detection;
mod drain;
mod ejection;
mod explain;
mod fairness;
mod faults;
mod filters;
mod grpc;
mod hosts;
mod http1;
mod idle;
mod lifetimes;
mod limits;
mod measured;
mod opaque;
mod ratelimits;
mod routing;
mod ruled;
mod streams;
mod timeouts;
mod traffic_policies;
mod truth;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use clap::Parser;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use weft_proto::discovery::{Any, DeltaDiscoveryResponse, Resource};
use weft_proto::v1;

use crate::config::{Config, ConfigSettings, Kind};
use crate::dns::Dns;
use crate::identity::IdentityManager;
use crate::identity::testing::{Leaf, TestCa};
use crate::inbound::Inbound;
use crate::listen::{Accept, Scope, drain as draining};
use crate::outbound::Outbound;
use crate::runtime::directions;
use crate::settings::{RunArgs, Settings};
use crate::telemetry::{Local, Metrics, Parts, Telemetry};

use wire::{App, Wire};

/// The Service most tests call.
const VIP: &str = "10.96.0.1:80";
/// Its backend.
const REVIEWS: &str = "shop/reviews:80";

/// One workload's sidecar.
struct Sidecar {
    account: String,
    identity: String,
    config: Config,
    inbound: Arc<Inbound>,
    outbound: Arc<Outbound>,
    inbound_drain: draining::Signal,
    outbound_drain: draining::Signal,
    world: Arc<World>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What the control plane tells one sidecar.
#[derive(Default)]
struct World {
    resources: Mutex<BTreeMap<(Kind, String), Held>>,
    subscribed: Mutex<BTreeSet<(Kind, String)>>,
    version: AtomicU64,
}

struct Held {
    version: u64,
    aliases: Vec<String>,
    payload: Vec<u8>,
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
}

impl Sidecar {
    /// With a control plane that knows the mesh's settings and this workload.
    fn new(ca: &TestCa, account: &str) -> Self {
        Self::with(ca, account, &[], true)
    }

    /// With a control plane that never says a word.
    fn alone(ca: &TestCa, account: &str) -> Self {
        Self::with(ca, account, &[], false)
    }

    /// `web` and `reviews`: the certificate of `short` lasts for two seconds.
    fn one_ends(short: &str) -> [Self; 2] {
        let ca = TestCa::new("weft.local");
        ["web", "reviews"].map(|account| {
            let lasts = Duration::from_secs(if account == short { 2 } else { 3600 });
            let leaf = Leaf { not_after: SystemTime::now() + lasts, ..Leaf::of(&ca.id("shop", account)) };
            let identity = ca.manager_with(&ca.id("shop", account), &leaf);
            Self::identified(&ca, account, identity, &[], true)
        })
    }

    fn with(ca: &TestCa, account: &str, flags: &[&str], connected: bool) -> Self {
        Self::identified(ca, account, ca.manager("shop", account), flags, connected)
    }

    fn identified(ca: &TestCa, account: &str, identity: IdentityManager, flags: &[&str], connected: bool) -> Self {
        static PODS: AtomicU64 = AtomicU64::new(1);
        // Every pod has a loopback address of its own.
        let pod = PODS.fetch_add(1, Ordering::Relaxed);
        let address = Ipv4Addr::from(0x7f01_0000 + u32::try_from(pod).unwrap());
        let own = [
            "sidecar".to_owned(),
            "--ca-roots=/dev/null".to_owned(),
            "--join-token=/dev/null".to_owned(),
            "--cluster-cidr=10.0.0.0/8".to_owned(),
            "--namespace=shop".to_owned(),
            format!("--pod-address={address}"),
            format!("--trust-domain={}", ca.trust_domain),
            format!("--service-account={account}"),
        ];
        let flags = own.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned()));
        let settings = Arc::new(Settings::check(Cli::parse_from(flags).run).unwrap());
        let telemetry = Telemetry::from(Parts {
            metrics: Arc::new(Metrics::default()),
            access_log: None,
            spans: false,
            local: Arc::new(Local {
                namespace: "shop".into(),
                pod: format!("{account}-1").into(),
                workload: account.into(),
                identity: settings.identity.clone(),
            }),
        });
        let config_settings = ConfigSettings {
            pod_address: address.to_string(),
            cluster_cidrs: settings.args.cluster_cidr.clone(),
            ..ConfigSettings::default()
        };
        let config = Config::new(
            config_settings,
            identity.clone(),
            Dns::fixed([("reviews", Ipv4Addr::new(10, 96, 0, 1).into())]),
        );
        let (inbound, outbound, drains) = directions(&settings, &config, &identity, &telemetry);
        let this = Self {
            account: account.to_owned(),
            identity: settings.identity.to_string(),
            config,
            inbound,
            outbound,
            inbound_drain: drains.inbound,
            outbound_drain: drains.outbound,
            world: Arc::default(),
            tasks: Mutex::default(),
        };
        this.outbound.register_metrics();
        let local = Arc::clone(&this.outbound.telemetry.local);
        this.tasks.lock().push(tokio::spawn(crate::runtime::follow_owner(this.config.clone(), local)));
        if connected {
            this.connect_control_plane(address);
        }
        this
    }

    fn connect_control_plane(&self, address: Ipv4Addr) {
        self.config.on_connected();
        let mesh = v1::MeshSettings { cluster_cidrs: vec!["10.0.0.0/8".into()], ..v1::MeshSettings::default() };
        self.set(Kind::MeshSettings, "mesh", &[], &mesh);
        self.set(Kind::InboundPolicy, "self", &[], &v1::InboundPolicy::default());
        let workload = v1::Workload {
            namespace: "shop".into(),
            name: format!("{}-1", self.account),
            identity: self.identity.clone(),
            addresses: vec![address.to_string()],
            mesh_tls: true,
            ..v1::Workload::default()
        };
        self.set(Kind::Workload, "self", &[], &workload);
        let (config, world) = (self.config.clone(), Arc::clone(&self.world));
        self.tasks.lock().push(tokio::spawn(async move {
            loop {
                config.requested().await;
                world.answer(&config);
            }
        }));
    }

    /// Pushes a resource. It acts when this returns.
    fn set(&self, kind: Kind, name: &str, aliases: &[&str], payload: &impl Message) {
        let version = self.world.version.fetch_add(1, Ordering::Relaxed);
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        let held = Held { version, aliases, payload: payload.encode_to_vec() };
        self.world.resources.lock().insert((kind, name.to_owned()), held);
        self.world.answer(&self.config);
        self.world.push(&self.config, kind, name);
    }

    /// The Service behind [`VIP`], changed by `change`.
    fn service(&self, change: impl FnOnce(&mut v1::ServicePort)) {
        let mut port = v1::ServicePort { port: 80, protocol: v1::Protocol::Http.into(), ..v1::ServicePort::default() };
        change(&mut port);
        let service = v1::Service {
            namespace: "shop".into(),
            name: "reviews".into(),
            hosts: vec!["reviews.shop.svc.cluster.local".into()],
            vips: vec!["10.96.0.1".into()],
            ports: vec![port],
        };
        self.set(Kind::Service, "shop/reviews", &["10.96.0.1"], &service);
    }

    fn endpoints(&self, backend: &str, endpoints: &[v1::Endpoint]) {
        self.set(Kind::Endpoints, backend, &[], &v1::Endpoints { endpoints: endpoints.to_vec() });
    }

    /// What this workload says of its own ports, and how they are protected.
    fn own_port(&self, port: u16, protocol: v1::Protocol, mode: v1::MtlsMode) {
        let address = self.outbound.settings.args.pod_address.to_string();
        let workload = v1::Workload {
            namespace: "shop".into(),
            name: format!("{}-1", self.account),
            identity: self.identity.clone(),
            addresses: vec![address],
            mesh_tls: true,
            ports: vec![v1::WorkloadPort { port: port.into(), protocol: protocol.into(), mesh_tls: true }],
            ..v1::Workload::default()
        };
        self.set(Kind::Workload, "self", &[], &workload);
        let policy = v1::InboundPolicy { mode: mode.into(), ..v1::InboundPolicy::default() };
        self.set(Kind::InboundPolicy, "self", &[], &policy);
    }

    /// Takes connections for the app at `app`; where it does is what is left of redirection.
    async fn listen_for(&self, app: SocketAddr) -> SocketAddr {
        let (mut accept, address) = accept();
        let inbound = Arc::clone(&self.inbound);
        self.tasks.lock().push(tokio::spawn(async move {
            // They die with this task, as connections do with a sidecar that is killed.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, client) = accept.next().await;
                connections.spawn(Arc::clone(&inbound).serve_to(stream, client, app));
            }
        }));
        address
    }

    /// An endpoint: the app at `app`, behind this sidecar, reached by mesh TLS.
    async fn meshed(&self, app: SocketAddr) -> v1::Endpoint {
        let address = self.listen_for(app).await;
        v1::Endpoint { mesh_tls: true, identity: self.identity.clone(), ..plain(address) }
    }

    /// The local app's connection to `destination`.
    async fn connect(&self, destination: &str) -> Wire {
        let (mut accept, address) = accept();
        let client = TcpStream::connect(address).await.unwrap();
        let (stream, address) = accept.next().await;
        let destination = destination.parse().unwrap();
        let served = Arc::clone(&self.outbound).serve_to(stream, address, destination);
        self.tasks.lock().push(tokio::spawn(served));
        Wire::new(client)
    }

    /// A connection that reaches this sidecar's inbound side as it is, for the app at `app`.
    async fn connect_inbound(&self, app: SocketAddr) -> Wire {
        Wire::new(TcpStream::connect(self.listen_for(app).await).await.unwrap())
    }

    /// The value of the metric whose line starts with `name` and holds `labels`, summed.
    fn metric(&self, name: &str, labels: &str) -> u64 {
        let text = self.outbound.telemetry.metrics.encode();
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

impl World {
    /// Answers everything that is asked.
    fn answer(&self, config: &Config) {
        while let Some(request) = config.next_request() {
            assert_eq!(request.error, None, "a resource made by a test does not compile");
            for name in request.unsubscribe {
                self.subscribed.lock().remove(&(request.kind, name));
            }
            for name in request.subscribe {
                self.subscribed.lock().insert((request.kind, name.clone()));
                self.send(config, request.kind, &name);
            }
        }
    }

    /// Sends a resource to whoever asked for it, and answers what follows from it.
    fn push(&self, config: &Config, kind: Kind, resource: &str) {
        let names: Vec<_> = {
            let resources = self.resources.lock();
            let Some(held) = resources.get(&(kind, resource.to_owned())) else { return };
            held.aliases.iter().cloned().chain([resource.to_owned()]).collect()
        };
        let subscribed = names.into_iter().any(|name| self.subscribed.lock().contains(&(kind, name)));
        if subscribed {
            self.send(config, kind, resource);
            self.answer(config);
        }
    }

    fn send(&self, config: &Config, kind: Kind, asked: &str) {
        let mut response = DeltaDiscoveryResponse { type_url: kind.type_url().into(), ..Default::default() };
        {
            let resources = self.resources.lock();
            let found = resources
                .iter()
                .find(|((of, name), held)| *of == kind && (name == asked || held.aliases.iter().any(|a| a == asked)));
            match found {
                Some(((_, name), held)) => response.resources.push(Resource {
                    name: name.clone(),
                    version: held.version.to_string(),
                    aliases: held.aliases.clone(),
                    resource: Some(Any { type_url: kind.type_url().into(), value: held.payload.clone() }),
                    ..Default::default()
                }),
                None => response.removed_resources.push(asked.to_owned()),
            }
        }
        response.nonce = self.version.fetch_add(1, Ordering::Relaxed).to_string();
        config.apply(response);
    }
}

/// A listener as the real ones are, and its IPv4 address.
fn accept() -> (Accept, SocketAddr) {
    let accept = Accept::bind(Scope::Loopback, 0).unwrap();
    let address = accept.local_addrs().next().unwrap();
    (accept, address)
}

/// An endpoint without a sidecar.
fn plain(address: SocketAddr) -> v1::Endpoint {
    v1::Endpoint { address: address.ip().to_string(), port: address.port().into(), ..v1::Endpoint::default() }
}

/// An address where nobody listens, and no test that runs beside this one will: its port is never given out.
fn nobody() -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, 9), 9).into()
}

/// A rule that sends everything to these backends.
fn rule(targets: &[(&str, u32)]) -> v1::RouteRule {
    let targets = targets.iter().map(|(backend, weight)| v1::WeightedTarget {
        weight: *weight,
        target: Some(v1::weighted_target::Target::Backend(v1::Backend {
            service: (*backend).into(),
            port: 80,
            protocol: v1::Protocol::Http.into(),
            ..v1::Backend::default()
        })),
        filters: Vec::new(),
    });
    v1::RouteRule {
        route: "HTTPRoute/shop/reviews".into(),
        rule: "0".into(),
        targets: targets.collect(),
        ..v1::RouteRule::default()
    }
}

/// Attaches one rule for everything.
fn routed(port: &mut v1::ServicePort, rule: v1::RouteRule) {
    port.routed = true;
    port.entries = vec![v1::RouteEntry { r#match: None, rule: 0 }];
    port.rules = vec![rule];
}

/// The usual: `web` calls `reviews`, which is one app behind one sidecar.
struct Pair {
    web: Sidecar,
    reviews: Sidecar,
    app: App,
}

impl Pair {
    async fn new(app: App) -> Self {
        let ca = TestCa::new("weft.local");
        let (web, reviews) = (Sidecar::new(&ca, "web"), Sidecar::new(&ca, "reviews"));
        let endpoint = reviews.meshed(app.addr).await;
        web.service(|_| {});
        web.endpoints(REVIEWS, &[endpoint]);
        Self { web, reviews, app }
    }

    async fn connect(&self) -> Wire {
        self.web.connect(VIP).await
    }
}
