//! Endpoints: addresses, and names to be resolved. Bound: [`MAX_ENDPOINTS`] in one resource.

use std::net::{IpAddr, SocketAddr};

use weft_proto::v1;

use super::error::{CompileError, In};
use super::values::{health, host_name, port_number};
use crate::balance::{EndpointKey, EndpointSpec, Health, Hints, Reach};

/// Most endpoints in one resource; Kubernetes' own tested limit is far below.
const MAX_ENDPOINTS: usize = 50_000;

/// Endpoints whose address is a name, to be resolved by `client.rs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct NamedEndpoint {
    pub(in crate::config) host: Box<str>,
    pub(in crate::config) port: u16,
    pub(in crate::config) weight: u32,
    pub(in crate::config) priority: u32,
}

impl NamedEndpoint {
    /// An endpoint at one of the name's addresses. Outside the mesh, hence plain.
    pub(in crate::config) fn at(&self, address: IpAddr) -> EndpointSpec {
        EndpointSpec {
            key: EndpointKey { addr: SocketAddr::new(address.to_canonical(), self.port), reach: Reach::Plain },
            pod: self.host.clone(),
            health: Health::Ready,
            weight: self.weight,
            zone: "".into(),
            node: "".into(),
            priority: self.priority,
            hints: None,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::config) struct CompiledEndpoints {
    pub(in crate::config) endpoints: Vec<EndpointSpec>,
    pub(in crate::config) named: Vec<NamedEndpoint>,
}

pub(in crate::config) fn compile_endpoints(resource: &v1::Endpoints) -> Result<CompiledEndpoints, CompileError> {
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
        into.named.push(NamedEndpoint { host, port, weight, priority: endpoint.priority });
        return Ok(());
    };
    into.endpoints.push(EndpointSpec {
        key: EndpointKey { addr: SocketAddr::new(address.to_canonical(), port), reach },
        pod: endpoint.pod.as_str().into(),
        health: health(endpoint.health).field("health")?,
        weight,
        zone: endpoint.zone.as_str().into(),
        node: endpoint.node.as_str().into(),
        priority: endpoint.priority,
        hints: hints(endpoint),
    });
    Ok(())
}

fn hints(endpoint: &v1::Endpoint) -> Option<Box<Hints>> {
    let names = |of: &[String]| of.iter().map(|name| name.as_str().into()).collect();
    let hints = Hints { zones: names(&endpoint.hint_zones), nodes: names(&endpoint.hint_nodes) };
    (hints != Hints::default()).then(|| Box::new(hints))
}

fn reach(mesh_tls: bool, identity: &str) -> Result<Reach, CompileError> {
    match (mesh_tls, identity) {
        (false, _) => Ok(Reach::Plain),
        (true, "") => Err(CompileError::new("it speaks mesh TLS and has no identity")).field("identity"),
        (true, identity) => Ok(Reach::Mesh(identity.parse().field("identity")?)),
    }
}
