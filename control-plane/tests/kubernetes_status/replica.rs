//! A replica of the control plane, as far as status cares: translation, the writer, and what it hears of proxies.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use kube::api::DynamicObject;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_control_plane::model::{
    Age, BackendRef, Batch, HttpRoute, HttpRouteMatch, HttpRouteRule, Meta, Object, ObjectName, ParentRef, PathMatch,
    Service, ServiceKind, ServicePort, TargetPort,
};
use weft_control_plane::replicas::{Gathered, Progresses};
use weft_control_plane::status::{KubernetesStatus, Metrics, StatusSink as _};
use weft_control_plane::translate::{MeshConfig, Translator};
use weft_proto::v1::{Laggard, Progress, ProgressRequest, ProgressResponse, Protocol};

use crate::cluster::Cluster;

/// Replicas whose proxies are as a test says.
pub(crate) struct Proxies(Mutex<Progress>);

impl Proxies {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    pub(crate) fn are(&self, proxies: u32, acked: u32, waiting: &[&str]) {
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
pub(crate) struct Replica {
    translator: Translator,
    pub(crate) status: KubernetesStatus,
    pub(crate) proxies: Arc<Proxies>,
    registry: Registry,
    pub(crate) leads: watch::Sender<bool>,
    _writer: JoinSet<()>,
}

impl Replica {
    pub(crate) fn new(cluster: &Cluster, leads: bool) -> Self {
        let proxies = Proxies::new();
        Self::asking(cluster, leads, Arc::clone(&proxies) as Arc<dyn Progresses>, proxies)
    }

    /// Asks `replicas` about proxies.
    pub(crate) fn asking(cluster: &Cluster, leads: bool, replicas: Arc<dyn Progresses>, proxies: Arc<Proxies>) -> Self {
        let (mut registry, metrics) = (Registry::default(), Metrics::default());
        metrics.register(&mut registry);
        let (status, writer) = KubernetesStatus::new(cluster.client.clone(), replicas, metrics);
        let leads = watch::Sender::new(leads);
        let mut task = JoinSet::new();
        task.spawn(writer.run(leads.subscribe()));
        let translator = Translator::new(MeshConfig::default());
        let mut replica = Self { translator, status, proxies, registry, leads, _writer: task };
        replica.take(Batch { upserts: services(&cluster.namespace), ..Batch::default() });
        replica
    }

    pub(crate) fn take(&mut self, batch: Batch) {
        let (state, touched) = self.translator.apply(batch);
        self.status.on_state(state, touched.statuses, false);
    }

    /// As a source does that sees the object.
    pub(crate) fn see(&mut self, routes: &[DynamicObject]) {
        self.take(seen(routes));
    }

    pub(crate) fn writes(&self, outcome: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = format!("weft_status_writes_total{{outcome=\"{outcome}\"}} ");
        text.lines().find_map(|text| text.strip_prefix(&line)).unwrap().parse().unwrap()
    }
}

pub(crate) fn services(namespace: &str) -> Vec<Object> {
    ["reviews", "ratings"].map(|name| Object::Service(service(namespace, name))).into()
}

pub(crate) fn seen(routes: &[DynamicObject]) -> Batch {
    Batch { upserts: routes.iter().map(|route| Object::HttpRoute(model(route))).collect(), ..Batch::default() }
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
        traffic_distribution: None,
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
            retry: None,
            session: None,
        }],
    }
}
