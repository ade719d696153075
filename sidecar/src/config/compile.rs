//! Wire resource → tables, or the field that is wrong (ARCHITECTURE.md "Rules": a resource that does not compile is
//! NACKed by name with the reason; its last good version stays).
//!
//! Pure, and without effect when it fails: backends come from an [`Intern`] whose owner commits them only after the whole
//! resource has compiled. Route rules are in `compile_routes.rs`.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use rustls::pki_types::CertificateDer;
use weft_proto::{EndpointsName, ServiceName, SpiffeId, v1};

use super::compile_routes::compile_routes;
use super::model::{
    Backend, InboundPolicy, MeshSettings, MtlsMode, OutboundPolicy, Policy, Protocol, Service, ServicePort, Workload,
    WorkloadPort,
};
use crate::balance::{BalancePolicy, EndpointKey, EndpointSpec, Health, OutlierPolicy, Reach};
use crate::resilience::{Limits, RetryPolicy};

/// Longest time span a resource may hold: beyond it lie typing errors and clock overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// Most endpoints in one resource; Kubernetes' own tested limit is far below.
const MAX_ENDPOINTS: usize = 50_000;

/// What is wrong, and in which field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    field: String,
    why: String,
}

impl CompileError {
    pub(super) fn new(why: impl fmt::Display) -> Self {
        Self { field: String::new(), why: why.to_string() }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.why) } else { write!(f, "{}: {}", self.field, self.why) }
    }
}

impl std::error::Error for CompileError {}

/// Names the field an error is in, from the inside out.
pub(super) trait In<T> {
    fn field(self, name: impl fmt::Display) -> Result<T, CompileError>;
}

impl<T, E: Into<CompileError>> In<T> for Result<T, E> {
    fn field(self, name: impl fmt::Display) -> Result<T, CompileError> {
        self.map_err(|error| {
            let mut error = error.into();
            error.field = match (name.to_string(), error.field) {
                (outer, inner) if inner.is_empty() => outer,
                (outer, inner) => format!("{outer}.{inner}"),
            };
            error
        })
    }
}

/// A foreign error is the reason; the field comes from [`In::field`].
macro_rules! reasons {
    ($($error:ty),*) => { $(impl From<$error> for CompileError {
        fn from(error: $error) -> Self { Self::new(error) }
    })* };
}
reasons!(
    std::net::AddrParseError,
    weft_proto::InvalidName,
    weft_proto::InvalidSpiffeId,
    ipnet::AddrParseError,
    http::header::InvalidHeaderName,
    http::header::InvalidHeaderValue,
    http::method::InvalidMethod,
    http::status::InvalidStatusCode
);

/// Gives a [`Backend`] for a name: the one that exists if it says the same, or a new one around the same state.
pub(super) trait Intern {
    fn intern(&mut self, name: EndpointsName, protocol: Protocol, policy: Policy) -> Arc<Backend>;
}

pub(super) fn compile_service(
    resource: &v1::Service,
    node: &str,
    backends: &mut dyn Intern,
) -> Result<Service, CompileError> {
    let name: ServiceName = format!("{}/{}", resource.namespace, resource.name).parse().field("name")?;
    let mut vips = Vec::with_capacity(resource.vips.len());
    for (index, vip) in resource.vips.iter().enumerate() {
        vips.push(vip.parse::<IpAddr>().field(format_args!("vips[{index}]"))?.to_canonical());
    }
    let mut ports = HashMap::with_capacity(resource.ports.len());
    for (index, port) in resource.ports.iter().enumerate() {
        let port = compile_port(port, &name, node, backends).field(format_args!("ports[{index}]"))?;
        if ports.insert(port.port, Arc::new(port)).is_some() {
            return Err(CompileError::new("the port is listed twice")).field(format_args!("ports[{index}].port"));
        }
    }
    let hosts = resource.hosts.iter().map(|host| host.to_ascii_lowercase().into()).collect();
    Ok(Service { name, hosts, vips, ports, used: Arc::default() })
}

fn compile_port(
    port: &v1::ServicePort,
    service: &ServiceName,
    node: &str,
    backends: &mut dyn Intern,
) -> Result<ServicePort, CompileError> {
    let number = port_number(port.port).field("port")?;
    let protocol = protocol(port.protocol).field("protocol")?;
    let policy = policy(port.policy.as_ref(), node).field("policy")?;
    let backend = backends.intern(service.endpoints(number), protocol, policy);
    let mut routed = Vec::new();
    let mut rules = Vec::new();
    let routes = if port.routed {
        let compiled = compile_routes(port, node, backends)?;
        routed = compiled.backends;
        rules = compiled.rules;
        Some(compiled.table)
    } else if port.entries.is_empty() && port.rules.is_empty() {
        None
    } else {
        return Err(CompileError::new("there are rules although no route is attached")).field("routed");
    };
    routed.retain(|routed| routed.name != backend.name);
    Ok(ServicePort { port: number, protocol, backend, routes, routed, rules })
}

/// What a rule's target names.
pub(super) fn compile_backend(
    backend: &v1::Backend,
    node: &str,
    backends: &mut dyn Intern,
) -> Result<Arc<Backend>, CompileError> {
    let service: ServiceName = backend.service.parse().field("service")?;
    let port = port_number(backend.port).field("port")?;
    let protocol = protocol(backend.protocol).field("protocol")?;
    let policy = policy(backend.policy.as_ref(), node).field("policy")?;
    Ok(backends.intern(service.endpoints(port), protocol, policy))
}

/// Endpoints whose address is a name, to be resolved by `client.rs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedEndpoint {
    pub(super) host: Box<str>,
    pub(super) port: u16,
    pub(super) weight: u32,
}

impl NamedEndpoint {
    /// An endpoint at one of the name's addresses. Outside the mesh, hence plain.
    pub(super) fn at(&self, address: IpAddr) -> EndpointSpec {
        EndpointSpec {
            key: EndpointKey { addr: SocketAddr::new(address.to_canonical(), self.port), reach: Reach::Plain },
            pod: self.host.clone(),
            health: Health::Ready,
            weight: self.weight,
            zone: "".into(),
            node: "".into(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CompiledEndpoints {
    pub(super) endpoints: Vec<EndpointSpec>,
    pub(super) named: Vec<NamedEndpoint>,
}

pub(super) fn compile_endpoints(resource: &v1::Endpoints) -> Result<CompiledEndpoints, CompileError> {
    if resource.endpoints.len() > MAX_ENDPOINTS {
        let why = format!("{} are more than {MAX_ENDPOINTS}", resource.endpoints.len());
        return Err(CompileError::new(why)).field("endpoints");
    }
    let mut compiled = CompiledEndpoints::default();
    for (index, endpoint) in resource.endpoints.iter().enumerate() {
        compile_endpoint(endpoint, &mut compiled).field(format_args!("endpoints[{index}]"))?;
    }
    Ok(compiled)
}

fn compile_endpoint(endpoint: &v1::Endpoint, into: &mut CompiledEndpoints) -> Result<(), CompileError> {
    let port = port_number(endpoint.port).field("port")?;
    let reach = reach(endpoint.mesh_tls, &endpoint.identity)?;
    let weight = endpoint.weight.max(1);
    let Ok(address) = endpoint.address.parse::<IpAddr>() else {
        let host = host_name(&endpoint.address).field("address")?;
        if reach != Reach::Plain {
            return Err(CompileError::new("a name cannot speak mesh TLS: give its address")).field("mesh_tls");
        }
        into.named.push(NamedEndpoint { host, port, weight });
        return Ok(());
    };
    into.endpoints.push(EndpointSpec {
        key: EndpointKey { addr: SocketAddr::new(address.to_canonical(), port), reach },
        pod: endpoint.pod.as_str().into(),
        health: health(endpoint.health).field("health")?,
        weight,
        zone: endpoint.zone.as_str().into(),
        node: endpoint.node.as_str().into(),
    });
    Ok(())
}

pub(super) fn compile_workload(resource: &v1::Workload) -> Result<Workload, CompileError> {
    let identity = match resource.identity.as_str() {
        "" => None,
        identity => Some(identity.parse::<SpiffeId>().field("identity")?),
    };
    let needs_identity = |mesh_tls: bool| {
        if mesh_tls && identity.is_none() {
            return Err(CompileError::new("it speaks mesh TLS and has no identity"));
        }
        Ok(mesh_tls)
    };
    let mut addresses = Vec::with_capacity(resource.addresses.len());
    for (index, address) in resource.addresses.iter().enumerate() {
        addresses.push(address.parse::<IpAddr>().field(format_args!("addresses[{index}]"))?.to_canonical());
    }
    let mut ports = HashMap::with_capacity(resource.ports.len());
    for (index, port) in resource.ports.iter().enumerate() {
        let compile = || {
            let number = port_number(port.port).field("port")?;
            let protocol = protocol(port.protocol).field("protocol")?;
            Ok::<_, CompileError>((number, WorkloadPort { protocol, mesh_tls: needs_identity(port.mesh_tls)? }))
        };
        let (number, port) = compile().field(format_args!("ports[{index}]"))?;
        ports.insert(number, port);
    }
    Ok(Workload {
        mesh_tls: needs_identity(resource.mesh_tls).field("mesh_tls")?,
        namespace: resource.namespace.as_str().into(),
        name: resource.name.as_str().into(),
        service_account: resource.service_account.as_str().into(),
        identity,
        addresses,
        ports,
        zone: resource.zone.as_str().into(),
        node: resource.node.as_str().into(),
        labels: resource.labels.iter().map(|label| (label.name.as_str().into(), label.value.as_str().into())).collect(),
        owner: resource.owner.as_str().into(),
        health: health(resource.health).field("health")?,
    })
}

pub(super) fn compile_inbound_policy(resource: &v1::InboundPolicy) -> Result<InboundPolicy, CompileError> {
    let mode = |mode: i32| match v1::MtlsMode::try_from(mode) {
        Ok(v1::MtlsMode::Permissive) => Ok(MtlsMode::Permissive),
        Ok(v1::MtlsMode::Strict) => Ok(MtlsMode::Strict),
        Ok(v1::MtlsMode::Disable) => Ok(MtlsMode::Disable),
        Err(_) => Err(unknown(mode)),
    };
    let mut ports = HashMap::with_capacity(resource.ports.len());
    for (index, port) in resource.ports.iter().enumerate() {
        let number = port_number(port.port).field(format_args!("ports[{index}].port"))?;
        ports.insert(number, mode(port.mode).field(format_args!("ports[{index}].mode"))?);
    }
    Ok(InboundPolicy { mode: mode(resource.mode).field("mode")?, ports })
}

/// `local` are the cluster's ranges by our own settings, used where the control plane names none.
pub(super) fn compile_settings(
    resource: &v1::MeshSettings,
    local: Option<&[ipnet::IpNet]>,
) -> Result<MeshSettings, CompileError> {
    let outbound_policy = match v1::OutboundPolicy::try_from(resource.outbound_policy) {
        Ok(v1::OutboundPolicy::AllowAny) => OutboundPolicy::AllowAny,
        Ok(v1::OutboundPolicy::RegistryOnly) => OutboundPolicy::RegistryOnly,
        Err(_) => return Err(unknown(resource.outbound_policy)).field("outbound_policy"),
    };
    let mut cidrs = Vec::with_capacity(resource.cluster_cidrs.len());
    for (index, cidr) in resource.cluster_cidrs.iter().enumerate() {
        cidrs.push(cidr.parse().field(format_args!("cluster_cidrs[{index}]"))?);
    }
    let mut known_hosts: Vec<Box<str>> =
        resource.known_hosts.iter().map(|host| host.to_ascii_lowercase().into()).collect();
    known_hosts.sort_unstable();
    let mut opaque_ports = Vec::with_capacity(resource.opaque_ports.len());
    for (index, &port) in resource.opaque_ports.iter().enumerate() {
        opaque_ports.push(port_number(port).field(format_args!("opaque_ports[{index}]"))?);
    }
    opaque_ports.sort_unstable();
    if resource.tracing_sample_per_10000 > 10_000 {
        return Err(CompileError::new("more than 10,000 parts of 10,000")).field("tracing_sample_per_10000");
    }
    Ok(MeshSettings {
        outbound_policy,
        cluster_cidrs: if cidrs.is_empty() { local.map(<[_]>::to_vec) } else { Some(cidrs) },
        known_hosts,
        tracing_sample_per_10000: resource.tracing_sample_per_10000,
        opaque_ports,
    })
}

pub(super) fn compile_trust_bundle(
    resource: v1::TrustBundle,
    trust_domain: &str,
) -> Result<Vec<CertificateDer<'static>>, CompileError> {
    if resource.trust_domain != trust_domain {
        let why = format!("`{}` is not ours, which is {trust_domain}", resource.trust_domain);
        return Err(CompileError::new(why)).field("trust_domain");
    }
    Ok(resource.roots.into_iter().map(CertificateDer::from).collect())
}

pub(super) fn policy(policy: Option<&v1::BackendPolicy>, node: &str) -> Result<Policy, CompileError> {
    let Some(policy) = policy else { return Ok(Policy::default()) };
    let defaults = Policy::default();
    let limits = policy.limits.as_ref().map_or_else(Limits::default, |limits| Limits {
        max_connections: NonZeroU32::new(limits.max_connections),
        max_pending: NonZeroU32::new(limits.max_pending),
        max_requests: NonZeroU32::new(limits.max_requests),
        max_requests_per_connection: NonZeroU32::new(limits.max_requests_per_connection),
    });
    let retry = match &policy.retry {
        None => defaults.retry,
        Some(retry) => RetryPolicy {
            max_retries: retry.max_retries,
            status_codes: status_codes(&retry.status_codes).field("retry")?,
            backoff_floor: span(retry.backoff.as_ref()).field("retry.backoff")?.unwrap_or_default(),
            ..defaults.retry
        },
    };
    let affinity = policy.client_ip_affinity_seconds;
    Ok(Policy {
        balance: BalancePolicy {
            outlier: outlier(policy.outlier_detection.as_ref()).field("outlier_detection")?,
            publish_not_ready: policy.publish_not_ready,
            only_node: policy.node_local.then(|| node.into()),
            client_ip_affinity: (affinity > 0).then(|| Duration::from_secs(affinity.into())),
        },
        limits,
        retry,
        connect_timeout: at_least_1_ms(policy.connect_timeout.as_ref())
            .field("connect_timeout")?
            .unwrap_or(defaults.connect_timeout),
    })
}

fn outlier(outlier: Option<&v1::OutlierDetection>) -> Result<OutlierPolicy, CompileError> {
    let defaults = OutlierPolicy::default();
    let Some(outlier) = outlier else { return Ok(defaults) };
    let base = at_least_1_ms(outlier.base_ejection.as_ref()).field("base_ejection")?.unwrap_or(defaults.base);
    let max = at_least_1_ms(outlier.max_ejection.as_ref()).field("max_ejection")?.unwrap_or(defaults.max.max(base));
    if max < base {
        return Err(CompileError::new("shorter than base_ejection")).field("max_ejection");
    }
    if outlier.max_ejection_percent > 100 {
        return Err(CompileError::new("more than 100 %")).field("max_ejection_percent");
    }
    let or_default = NonZeroU32::new(outlier.consecutive_failures).or(defaults.consecutive_failures);
    Ok(OutlierPolicy {
        consecutive_failures: if outlier.disabled { None } else { or_default },
        base,
        max,
        max_percent: NonZeroU32::new(outlier.max_ejection_percent).map_or(defaults.max_percent, NonZeroU32::get),
    })
}

pub(super) fn status_codes(codes: &[u32]) -> Result<Arc<[StatusCode]>, CompileError> {
    let compile = |(index, &code): (usize, &u32)| {
        let valid = u16::try_from(code).ok().filter(|code| (100..600).contains(code));
        let valid = valid.ok_or_else(|| CompileError::new(format_args!("{code} is not an HTTP status")));
        valid.and_then(|code| Ok(StatusCode::from_u16(code)?)).field(format_args!("status_codes[{index}]"))
    };
    codes.iter().enumerate().map(compile).collect()
}

/// A time span; `None` when it is not set.
pub(super) fn span(span: Option<&v1::Millis>) -> Result<Option<Duration>, CompileError> {
    let Some(span) = span else { return Ok(None) };
    let span = Duration::from_millis(span.value);
    if span > LONGEST { Err(CompileError::new("longer than a year")) } else { Ok(Some(span)) }
}

fn at_least_1_ms(millis: Option<&v1::Millis>) -> Result<Option<Duration>, CompileError> {
    match span(millis)? {
        Some(Duration::ZERO) => Err(CompileError::new("zero")),
        other => Ok(other),
    }
}

fn reach(mesh_tls: bool, identity: &str) -> Result<Reach, CompileError> {
    match (mesh_tls, identity) {
        (false, _) => Ok(Reach::Plain),
        (true, "") => Err(CompileError::new("it speaks mesh TLS and has no identity")).field("identity"),
        (true, identity) => Ok(Reach::Mesh(identity.parse().field("identity")?)),
    }
}

fn health(health: i32) -> Result<Health, CompileError> {
    match v1::Health::try_from(health) {
        Ok(v1::Health::Ready) => Ok(Health::Ready),
        Ok(v1::Health::Draining) => Ok(Health::Draining),
        Ok(v1::Health::NotReady) => Ok(Health::NotReady),
        Err(_) => Err(unknown(health)),
    }
}

fn protocol(protocol: i32) -> Result<Protocol, CompileError> {
    match v1::Protocol::try_from(protocol) {
        Ok(v1::Protocol::Auto) => Ok(Protocol::Auto),
        Ok(v1::Protocol::Http) => Ok(Protocol::Http),
        Ok(v1::Protocol::Http2) => Ok(Protocol::Http2),
        Ok(v1::Protocol::Grpc) => Ok(Protocol::Grpc),
        Ok(v1::Protocol::Tls) => Ok(Protocol::Tls),
        Ok(v1::Protocol::Tcp) => Ok(Protocol::Tcp),
        Err(_) => Err(unknown(protocol)),
    }
}

fn unknown(value: i32) -> CompileError {
    CompileError::new(format_args!("{value} is not known to this version of the sidecar"))
}

fn port_number(port: u32) -> Result<u16, CompileError> {
    let valid = u16::try_from(port).ok().filter(|&port| port != 0);
    valid.ok_or_else(|| CompileError::new(format_args!("{port} is not a port")))
}

/// A DNS name (RFC 1123): what is neither this nor an address is a typing error, not something to look up.
fn host_name(text: &str) -> Result<Box<str>, CompileError> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // All-numeric last labels are addresses gone wrong (RFC 3696 §2).
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if name.len() <= 253 && !numeric && name.split('.').all(label) {
        Ok(name.into())
    } else {
        Err(CompileError::new(format_args!("`{text}` is neither an address nor a DNS name")))
    }
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
