//! Wire resource → tables, or the field that is wrong (ARCHITECTURE.md "Rules": a resource that does not compile is
//! NACKed by name with the reason; its last good version stays).
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | services, workloads, and what the mesh has one of |
//! | `routes.rs` | a port's route rules |
//! | `connections.rs` | a port's rules for whole connections |
//! | `filters.rs` | what a rule does to requests and responses |
//! | `backend.rs` | what ports and rules send to, and its policy |
//! | `balancing.rs` | of that, how endpoints are chosen among and ejected |
//! | `endpoints.rs` | where a backend's requests may go |
//! | `values.rs` | single fields |
//! | `error.rs` | the error, which names the field |
//! | `cost.rs` | a test: how long the largest tables take |
//!
//! Pure, and without effect when it fails: backends come from an [`Intern`] whose owner commits them only after the whole
//! resource has compiled.

mod backend;
mod balancing;
mod connections;
#[cfg(test)]
pub(super) mod cost;
mod endpoints;
mod error;
mod filters;
mod outlier;
mod routes;
#[cfg(test)]
mod tests;
mod values;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use weft_proto::{ServiceName, SpiffeId, v1};

pub(super) use self::backend::Intern;
pub(super) use self::endpoints::{CompiledEndpoints, compile_endpoints};
pub use self::error::CompileError;
pub(super) use self::error::In;

use self::backend::policy;
use self::connections::compile_connections;
use self::routes::compile_routes;
use self::values::{health, port_number, protocol, unknown};
use super::model::{
    InboundPolicy, MeshSettings, MtlsMode, OutboundPolicy, Service, ServicePort, Workload, WorkloadPort,
};
use super::rate_limit::compile_rate_limit;

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
    let label = name.to_string().into();
    let mut ports = foldhash::HashMap::default();
    for (index, port) in resource.ports.iter().enumerate() {
        let port = compile_port(port, &name, &label, node, backends).field(format_args!("ports[{index}]"))?;
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
    label: &Arc<str>,
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
    let connections = match &port.connections {
        None => None,
        Some(_) if routes.is_some() => {
            return Err(CompileError::new("routes of requests are attached as well")).field("connections");
        }
        Some(wire) => {
            let compiled = compile_connections(wire, number, node, backends).field("connections")?;
            routed = compiled.backends;
            rules = compiled.rules;
            Some(compiled.table)
        }
    };
    routed.retain(|routed| routed.name != backend.name);
    let (service, label) = (service.clone(), Arc::clone(label));
    Ok(ServicePort { service, label, port: number, protocol, backend, routes, connections, routed, rules })
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
        callers: resource.callers.iter().map(|one| (one.zone.as_str().into(), one.callers)).collect(),
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
    let limits = resource.rate_limits.iter().enumerate();
    let limits = limits.map(|(index, limit)| compile_rate_limit(limit).field(format_args!("rate_limits[{index}]")));
    Ok(InboundPolicy {
        mode: mode(resource.mode).field("mode")?,
        ports,
        rate_limits: limits.collect::<Result<_, _>>()?,
    })
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
