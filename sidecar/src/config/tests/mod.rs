//! The whole room against a control plane played over in-memory pipes: real gRPC, real mesh TLS, paused clock.

mod changes;
mod compiling;
mod control_plane;
mod lookups;
mod refusals;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use weft_proto::discovery::AggregatedDiscoveryServiceServer;
use weft_proto::v1;

use self::control_plane::{Fake, FakeService, service};
use super::*;
use crate::identity::testing::{PipeDial, TestCa, serve};

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
        let fake = Arc::default();
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
fn served(destination: &Destination) -> (&ServiceName, &ServicePort) {
    match destination {
        Destination::Service { port } => (&port.service, port),
        other => panic!("{other:?}"),
    }
}

fn addresses(backend: &Backend) -> Vec<String> {
    backend.balancer.endpoints().iter().map(|endpoint| endpoint.addr().ip().to_string()).collect()
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
