//! A world in a few words, for tests: objects by builder functions, resources decoded.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_proto::v1::Protocol;
use weft_proto::{MESH_TLS_LABEL, type_url, v1};

use super::{Lookup, MeshConfig, Resource, Translated, Translator, View};
use crate::model::{
    Age, BackendPolicy, BackendRef, BackendTlsPolicy, Batch, ConfigMap, ContainerPort, EndpointSlice, FaultAbort,
    FaultDelay, FaultInjection, GrpcRoute, Hints, HttpRoute, HttpRouteMatch, HttpRouteRule, Kind, LocalRef, Meta,
    MethodMatch, MtlsMode, Node, Object, ObjectKey, ObjectName, ParentRef, PathMatch, PeerAuthentication, Pod, RateKey,
    RateLimit, RateTarget, RetryConstraint, Service, ServiceKind, ServicePort, SessionPersistence, Share,
    SliceEndpoint, SlicePort, TargetPort, TcpRoute, TlsRoute, TrafficPolicy,
};
use crate::status::{Condition, RouteStatus};

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn view(namespace: &str) -> View {
    View { namespace: namespace.to_owned() }
}

/// `namespace/name`
pub(super) fn named(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap_or(("", text));
    ObjectName::new(namespace, name)
}

pub(super) fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Age 0: tests that care set another.
pub(super) fn meta(name: &str) -> Meta {
    Meta {
        name: named(name),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        generation: 1,
        age: Age(0, String::new(), 0),
    }
}

pub(super) fn aged(mut meta: Meta, seconds: i64) -> Meta {
    meta.age = Age(seconds, String::new(), 0);
    meta
}

/// An unnamed, undeclared port that leads to the same port of a pod.
pub(super) fn port(number: u16) -> ServicePort {
    ServicePort { name: String::new(), port: number, target: TargetPort::Number(number), protocol: Protocol::Auto }
}

/// A Service with a VIP and one port, 80, undeclared. Selects `app: NAME`.
pub(super) fn service(name: &str, vip: &str) -> Service {
    let meta = meta(name);
    Service {
        kind: ServiceKind::ClusterIp,
        vips: vec![ip(vip)],
        ports: vec![port(80)],
        selector: map(&[("app", &meta.name.name)]),
        publish_not_ready: false,
        client_ip_affinity: None,
        node_local: false,
        traffic_distribution: None,
        meta,
    }
}

/// A ready, meshed pod labelled `app: APP` with service account `APP`.
pub(super) fn pod(name: &str, app: &str, addr: &str) -> Pod {
    let mut meta = meta(name);
    meta.labels = map(&[("app", app), (MESH_TLS_LABEL, "1")]);
    Pod {
        addresses: vec![ip(addr)],
        service_account: app.to_owned(),
        host_network: false,
        node: "n1".to_owned(),
        ports: vec![ContainerPort { name: "web".to_owned(), port: 80 }],
        finished: false,
        ready: true,
        terminating: false,
        owner: app.to_owned(),
        meta,
    }
}

/// A ready endpoint of a pod.
pub(super) fn endpoint(pod: &str, addr: &str) -> SliceEndpoint {
    SliceEndpoint {
        addresses: vec![ip(addr)],
        pod: (!pod.is_empty()).then(|| pod.to_owned()),
        ready: true,
        serving: true,
        terminating: false,
        node: String::new(),
        zone: String::new(),
        hints: Hints::default(),
    }
}

/// A slice for port 80, unnamed.
pub(super) fn slice(name: &str, service: &str, endpoints: Vec<SliceEndpoint>) -> EndpointSlice {
    let ports = vec![SlicePort { name: String::new(), port: 80 }];
    EndpointSlice { meta: meta(name), service: service.to_owned(), ports, endpoints }
}

pub(super) fn node(name: &str, zone: &str) -> Node {
    let mut meta = meta(name);
    meta.labels = map(&[("topology.kubernetes.io/zone", zone)]);
    Node { meta }
}

pub(super) fn peer_authentication(name: &str, mode: MtlsMode) -> PeerAuthentication {
    PeerAuthentication { meta: meta(name), selector: BTreeMap::new(), mode, ports: BTreeMap::new() }
}

/// A second for a tenth, 503 for a hundredth.
pub(super) fn fault_injection(name: &str) -> FaultInjection {
    let share = |numerator| Share { numerator, denominator: 100 };
    FaultInjection {
        meta: meta(name),
        delay: Some(FaultDelay { fixed: Duration::from_secs(1), share: share(10) }),
        abort: Some(FaultAbort { http_status: Some(503), grpc_status: None, share: share(1) }),
    }
}

/// All ports of a Service.
pub(super) fn rate_target(service: &str) -> RateTarget {
    RateTarget { object: ObjectKey { kind: Kind::Service, name: named(service) }, section: None }
}

/// 100 a second of all clients of the Service of its name, 200 at once.
pub(super) fn rate_limit(name: &str) -> RateLimit {
    RateLimit {
        meta: meta(name),
        targets: vec![rate_target(name)],
        requests: 100,
        per: Duration::from_secs(1),
        burst: 200,
        key: RateKey::All,
    }
}

/// The default budget, and a session, for the Service of its name.
pub(super) fn traffic_policy(name: &str) -> TrafficPolicy {
    let meta = meta(name);
    let target = LocalRef { group: String::new(), kind: "Service".to_owned(), name: meta.name.name.clone() };
    let second = Duration::from_secs(1);
    TrafficPolicy {
        meta,
        targets: vec![target],
        retries: Some(RetryConstraint { percent: 20, interval: 10 * second, min_count: 10, min_interval: second }),
        session: Some(SessionPersistence::default()),
    }
}

/// A parentRef to a Service in the route's namespace.
pub(super) fn parent(name: &str) -> ParentRef {
    ParentRef {
        group: Some(String::new()),
        kind: Some("Service".to_owned()),
        namespace: None,
        name: name.to_owned(),
        section_name: None,
        port: None,
    }
}

/// Port 80 of a Service, weight 1.
pub(super) fn backend(name: &str) -> BackendRef {
    let name = named(name);
    BackendRef {
        group: String::new(),
        kind: "Service".to_owned(),
        namespace: name.namespace,
        name: name.name,
        port: Some(80),
        weight: 1,
        filters: Vec::new(),
    }
}

pub(super) fn path(path: PathMatch) -> HttpRouteMatch {
    HttpRouteMatch { path, headers: Vec::new(), query_params: Vec::new(), method: None }
}

pub(super) fn prefix(text: &str) -> HttpRouteMatch {
    path(PathMatch::Prefix(text.to_owned()))
}

/// A rule that matches everything.
pub(super) fn rule(backends: Vec<BackendRef>) -> HttpRouteRule {
    HttpRouteRule {
        name: None,
        matches: vec![prefix("/")],
        filters: Vec::new(),
        backends,
        request_timeout: None,
        backend_request_timeout: None,
        retry: None,
        session: None,
    }
}

/// A call of gRPC; empty is any.
pub(super) fn call(service: &str, method: &str) -> HttpRouteMatch {
    let part = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let call = MethodMatch { service: part(service), method: part(method), regex: false };
    HttpRouteMatch { method: Some("POST".to_owned()), ..path(PathMatch::Call(call)) }
}

/// Its rules should match [`call`]s.
pub(super) fn grpc_route(name: &str, parents: Vec<ParentRef>, rules: Vec<HttpRouteRule>) -> GrpcRoute {
    GrpcRoute { meta: meta(name), parents, rules }
}

pub(super) fn tcp_route(name: &str, parents: Vec<ParentRef>, backends: Vec<BackendRef>) -> TcpRoute {
    TcpRoute { meta: meta(name), parents, rules: vec![rule(backends)] }
}

pub(super) fn tls_route(
    name: &str,
    parents: Vec<ParentRef>,
    hostnames: &[&str],
    backends: Vec<BackendRef>,
) -> TlsRoute {
    let hostnames = hostnames.iter().map(|name| (*name).to_owned()).collect();
    TlsRoute { meta: meta(name), parents, hostnames, rules: vec![rule(backends)] }
}

pub(super) fn route(name: &str, parents: Vec<ParentRef>, rules: Vec<HttpRouteRule>) -> HttpRoute {
    HttpRoute { meta: meta(name), parents, rules }
}

macro_rules! into_object {
    ($($variant:ident($ty:ty))*) => {$(
        impl From<$ty> for Object {
            fn from(object: $ty) -> Self {
                Object::$variant(object)
            }
        }
    )*};
}
into_object! {
    Service(Service) Pod(Pod) EndpointSlice(EndpointSlice) Node(Node) HttpRoute(HttpRoute)
    GrpcRoute(GrpcRoute) TlsRoute(TlsRoute) TcpRoute(TcpRoute) BackendTlsPolicy(BackendTlsPolicy) ConfigMap(ConfigMap)
    TrafficPolicy(TrafficPolicy) PeerAuthentication(PeerAuthentication)
    FaultInjection(FaultInjection) RateLimit(RateLimit) BackendPolicy(BackendPolicy)
}

/// A batch of upserts.
macro_rules! upserts {
    ($($object:expr),* $(,)?) => {
        crate::model::Batch { upserts: vec![$(crate::model::Object::from($object.clone())),*], ..Default::default() }
    };
}
pub(super) use upserts;

/// Everything translated from nothing.
pub(super) fn world(batch: Batch) -> Arc<Translated> {
    Translator::new(MeshConfig::default()).apply(batch).0
}

pub(super) fn found(lookup: Lookup) -> Arc<Resource> {
    match lookup {
        Lookup::Found(resource) => resource,
        other => panic!("not found: {other:?}"),
    }
}

pub(super) fn decode<M: prost::Message + Default>(lookup: Lookup) -> M {
    M::decode(found(lookup).body.clone()).unwrap()
}

impl Translated {
    pub(super) fn service_for(&self, client: &str, name: &str) -> v1::Service {
        decode(self.lookup(type_url::SERVICE, name, &view(client)))
    }

    pub(super) fn endpoints_of(&self, name: &str) -> Vec<v1::Endpoint> {
        decode::<v1::Endpoints>(self.lookup(type_url::ENDPOINTS, name, &view("any"))).endpoints
    }

    pub(super) fn workload(&self, addr: &str) -> v1::Workload {
        decode(self.own(type_url::WORKLOAD, ip(addr)))
    }

    /// Of an HTTPRoute.
    pub(super) fn status_of(&self, route: &str) -> RouteStatus {
        self.status_of_kind(Kind::HttpRoute, route)
    }

    pub(super) fn status_of_kind(&self, kind: Kind, route: &str) -> RouteStatus {
        let key = ObjectKey { kind, name: named(route) };
        self.route_status(&key).map(|status| (**status).clone()).unwrap_or_default()
    }
}

/// A condition of the first parent.
pub(super) fn condition(status: &RouteStatus, kind: &str) -> Option<Condition> {
    status.parents.first()?.conditions.iter().find(|condition| condition.kind == kind).cloned()
}
