//! The objects users write, parsed once: what `source/` yields and `translate/` reads. They hold what Weft uses, in
//! types that cannot be wrong, whatever YAML or API version they came from.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use weft_proto::v1::Protocol;

use super::backend_policy::BackendPolicy;
use super::backend_tls::{BackendTlsPolicy, ConfigMap};
use super::connection_routes::{TcpRoute, TlsRoute};
use super::fault_injection::FaultInjection;
use super::grpc_route::GrpcRoute;
use super::http_route::HttpRoute;
use super::rate_limit::RateLimit;
use super::store::ObjectKey;
use super::traffic_policy::TrafficPolicy;

/// `namespace/name` of an object. Cluster-scoped objects have an empty namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectName {
    /// A name from its parts, which are taken as they are.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// The kinds Weft reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// v1
    Namespace,
    /// v1
    Service,
    /// weft.dev/v1alpha1
    BackendPolicy,
    /// discovery.k8s.io/v1
    EndpointSlice,
    /// v1
    Pod,
    /// v1
    Node,
    /// weft.dev/v1alpha1
    FaultInjection,
    /// weft.dev/v1alpha1
    RateLimit,
    /// gateway.networking.k8s.io/v1
    GrpcRoute,
    /// gateway.networking.k8s.io/v1
    HttpRoute,
    /// gateway.networking.k8s.io/v1
    TlsRoute,
    /// gateway.networking.k8s.io/v1
    TcpRoute,
    /// gateway.networking.k8s.io/v1
    BackendTlsPolicy,
    /// gateway.networking.x-k8s.io/v1alpha1
    TrafficPolicy,
    /// v1, only those that a BackendTLSPolicy names.
    ConfigMap,
    /// security.istio.io/v1
    PeerAuthentication,
}

/// What every object carries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Meta {
    /// Its name.
    pub name: ObjectName,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Counts changes of content; copied to `observedGeneration`.
    pub generation: i64,
    /// Older objects compare less; ties are broken by name (Gateway API precedence).
    pub age: Age,
}

/// When an object was made, as far as precedence cares: seconds since 1970 from the API server, or the position in the
/// manifests directory (file, then document).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Age(pub i64, pub String, pub u32);

/// One object.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum Object {
    /// A Namespace.
    Namespace(Namespace),
    /// A Service.
    Service(Service),
    /// A BackendPolicy.
    BackendPolicy(BackendPolicy),
    /// An EndpointSlice, given or derived.
    EndpointSlice(EndpointSlice),
    /// A Pod.
    Pod(Pod),
    /// A Node.
    Node(Node),
    /// A FaultInjection.
    FaultInjection(FaultInjection),
    /// A RateLimit.
    RateLimit(RateLimit),
    /// A GRPCRoute.
    GrpcRoute(GrpcRoute),
    /// An HTTPRoute.
    HttpRoute(HttpRoute),
    /// A TLSRoute.
    TlsRoute(TlsRoute),
    /// A TCPRoute.
    TcpRoute(TcpRoute),
    /// A BackendTLSPolicy.
    BackendTlsPolicy(BackendTlsPolicy),
    /// An XBackendTrafficPolicy.
    TrafficPolicy(TrafficPolicy),
    /// A ConfigMap.
    ConfigMap(ConfigMap),
    /// A PeerAuthentication.
    PeerAuthentication(PeerAuthentication),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Service(_) => Kind::Service,
            Self::BackendPolicy(_) => Kind::BackendPolicy,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Pod(_) => Kind::Pod,
            Self::Node(_) => Kind::Node,
            Self::FaultInjection(_) => Kind::FaultInjection,
            Self::RateLimit(_) => Kind::RateLimit,
            Self::GrpcRoute(_) => Kind::GrpcRoute,
            Self::HttpRoute(_) => Kind::HttpRoute,
            Self::TlsRoute(_) => Kind::TlsRoute,
            Self::TcpRoute(_) => Kind::TcpRoute,
            Self::BackendTlsPolicy(_) => Kind::BackendTlsPolicy,
            Self::TrafficPolicy(_) => Kind::TrafficPolicy,
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::PeerAuthentication(_) => Kind::PeerAuthentication,
        }
    }

    /// Its metadata.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Namespace(object) => &object.meta,
            Self::Service(object) => &object.meta,
            Self::BackendPolicy(object) => &object.meta,
            Self::EndpointSlice(object) => &object.meta,
            Self::Pod(object) => &object.meta,
            Self::Node(object) => &object.meta,
            Self::FaultInjection(object) => &object.meta,
            Self::RateLimit(object) => &object.meta,
            Self::GrpcRoute(object) => &object.meta,
            Self::HttpRoute(object) => &object.meta,
            Self::TlsRoute(object) => &object.meta,
            Self::TcpRoute(object) => &object.meta,
            Self::BackendTlsPolicy(object) => &object.meta,
            Self::TrafficPolicy(object) => &object.meta,
            Self::ConfigMap(object) => &object.meta,
            Self::PeerAuthentication(object) => &object.meta,
        }
    }

    /// Kind and name.
    pub fn key(&self) -> ObjectKey {
        ObjectKey { kind: self.kind(), name: self.meta().name.clone() }
    }
}

/// A Namespace.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Namespace {
    /// Metadata.
    pub meta: Meta,
}

/// A Node: only its zone matters.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Node {
    /// Metadata (`topology.kubernetes.io/zone` among the labels).
    pub meta: Meta,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Service {
    /// Metadata.
    pub meta: Meta,
    /// What kind of Service it is.
    pub kind: ServiceKind,
    /// Cluster, external and load-balancer IPs.
    pub vips: Vec<IpAddr>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Empty means none: endpoints are given by hand.
    pub selector: BTreeMap<String, String>,
    /// `publishNotReadyAddresses`
    pub publish_not_ready: bool,
    /// `sessionAffinity: ClientIP` and its timeout.
    pub client_ip_affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`
    pub node_local: bool,
    /// `trafficDistribution`, unless annotation `service.kubernetes.io/topology-mode` goes before it.
    pub traffic_distribution: Option<TrafficDistribution>,
}

/// Which endpoints clients should prefer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrafficDistribution {
    /// `PreferSameZone`, formerly `PreferClose`
    SameZone,
    /// `PreferSameNode`
    SameNode,
}

/// What kind of Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServiceKind {
    /// With a cluster IP (ClusterIP, NodePort, LoadBalancer).
    ClusterIp,
    /// `clusterIP: None`
    Headless,
    /// `type: ExternalName`
    ExternalName(String),
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// Its name, or empty.
    pub name: String,
    /// The port.
    pub port: u16,
    /// Where it goes in the pod.
    pub target: TargetPort,
    /// From `appProtocol`, then Istio's port-name prefixes; AUTO where neither says.
    pub protocol: Protocol,
}

/// A `targetPort`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the container port's name, which may differ per pod.
    Name(String),
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct EndpointSlice {
    /// Metadata.
    pub meta: Meta,
    /// `kubernetes.io/service-name`, in the same namespace.
    pub service: String,
    /// Ports, by the Service port's name.
    pub ports: Vec<SlicePort>,
    /// Endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One port of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SlicePort {
    /// The Service port's name, or empty.
    pub name: String,
    /// The endpoints' port.
    pub port: u16,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SliceEndpoint {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The Pod behind it, if `targetRef` names one.
    pub pod: Option<String>,
    /// `ready` (nil is true).
    pub ready: bool,
    /// `serving` (nil is `ready`).
    pub serving: bool,
    /// `terminating` (nil is false).
    pub terminating: bool,
    /// Node, or empty.
    pub node: String,
    /// Zone, or empty.
    pub zone: String,
    /// Whose clients it is meant for; none: it is not said.
    pub hints: Hints,
}

/// `hints` of an endpoint, sorted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Hints {
    /// `forZones`
    pub zones: Vec<String>,
    /// `forNodes`
    pub nodes: Vec<String>,
}

/// A Pod.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Pod {
    /// Metadata.
    pub meta: Meta,
    /// Its addresses; empty before it has one.
    pub addresses: Vec<IpAddr>,
    /// `spec.serviceAccountName`, `default` where not given.
    pub service_account: String,
    /// Shares its node's network.
    pub host_network: bool,
    /// Node, or empty.
    pub node: String,
    /// Container ports, for named `targetPort`s.
    pub ports: Vec<ContainerPort>,
    /// Succeeded or Failed: its address may be another's by now.
    pub finished: bool,
    /// Ready condition.
    pub ready: bool,
    /// Being deleted.
    pub terminating: bool,
    /// Its owner's name: the Deployment behind the ReplicaSet, or the pod's own name.
    pub owner: String,
}

impl Pod {
    /// Whose it is. Owners of one name and several kinds are one.
    pub fn owner_name(&self) -> ObjectName {
        ObjectName::new(&*self.meta.name.namespace, &*self.owner)
    }
}

/// A container port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContainerPort {
    /// Name, or empty.
    pub name: String,
    /// Port.
    pub port: u16,
}

/// An Istio PeerAuthentication.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct PeerAuthentication {
    /// Metadata.
    pub meta: Meta,
    /// Empty: the whole namespace (or mesh, in the root namespace).
    pub selector: BTreeMap<String, String>,
    /// Mode.
    pub mode: MtlsMode,
    /// `portLevelMtls`, by the workload's port; only with a selector.
    pub ports: BTreeMap<u16, MtlsMode>,
}

/// A PeerAuthentication mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    /// Inherit.
    Unset,
    /// Plain text only.
    Disable,
    /// Either.
    Permissive,
    /// Mesh TLS only.
    Strict,
}
