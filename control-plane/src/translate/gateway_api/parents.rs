//! parentRefs: which are ours, and which Service ports each one attaches a route to.
//!
//! Ours are those of kind Service. A parent must exist, have a VIP (a route acts on VIPs: headless and ExternalName
//! Services have none), and have a port that the reference selects and that can carry HTTP. `sectionName` is a port's
//! name, `port` its number; both must hold.
//!
//! For TLSRoutes and TCPRoutes alike, with TLS and bytes in the place of HTTP: [`attaches`] has the rows.
//!
//! Without either, a route attaches to every port but those that are opaque: declared TCP or TLS, or undeclared and on
//! the list of opaque ports. A route for a Service with ports 80 and 3306 must not turn its MySQL into HTTP. Naming an
//! undeclared port of that list attaches to it.

use weft_proto::ServiceName;

use super::super::MeshConfig;
use super::super::kubernetes::{declared, is_opaque, may_carry, may_carry_http};
use super::rules::{declaration, undeclared};
use weft_proto::v1::Protocol;

use crate::model::{Model, ObjectName, ParentRef, Route, Service, ServiceKind, ServicePort};

/// Why a parent does not take the route.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// A reason of the Accepted condition.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

const NO_MATCHING_PARENT: &str = "NoMatchingParent";
const INVALID_KIND: &str = "InvalidKind";

/// The ports a parentRef attaches to, never none, or why there are none.
pub(super) type Resolved = Result<Vec<(ServiceName, u16)>, Refusal>;

/// `None` when the parent is another controller's.
pub(super) fn resolve(parent: &ParentRef, route: Route<'_>, model: &Model, config: &MeshConfig) -> Option<Resolved> {
    parent.names_a_service().then(|| match parent.group.as_deref() {
        Some("" | "core") => service_ports(parent, route, model, config),
        _ => Err(Refusal {
            reason: INVALID_KIND,
            message: "there is no Service in group gateway.networking.k8s.io; write `group: \"\"` in the parentRef"
                .to_owned(),
        }),
    })
}

fn service_ports(parent: &ParentRef, route: Route<'_>, model: &Model, config: &MeshConfig) -> Resolved {
    let refuse = |message: String| Refusal { reason: NO_MATCHING_PARENT, message };
    let name = ObjectName::new(parent.namespace.as_deref().unwrap_or(&route.meta.name.namespace), &*parent.name);
    let service = model.service(&name).ok_or_else(|| {
        refuse(format!("there is no Service {name}; create it, or correct the parentRef's name and namespace"))
    })?;
    match &service.kind {
        ServiceKind::ClusterIp => {}
        ServiceKind::Headless => {
            return Err(refuse(format!(
                "Service {name} is headless and a route acts on a cluster IP; make a Service with a cluster IP for the same pods \
                 the parent"
            )));
        }
        ServiceKind::ExternalName(external) => {
            return Err(refuse(format!(
                "Service {name} is an ExternalName for {external} and a route acts on a cluster IP; make a Service with a \
                 cluster IP the parent"
            )));
        }
    }
    let wanted = undeclared(route.kind);
    let named = parent.port.is_some() || parent.section_name.is_some();
    let selected: Vec<&ServicePort> = service
        .ports
        .iter()
        .filter(|port| parent.port.is_none_or(|number| number == port.port))
        .filter(|port| parent.section_name.as_ref().is_none_or(|section| *section == port.name))
        .collect();
    if selected.is_empty() {
        return Err(refuse(format!("Service {name} has no {}; it has {}", selection(parent), ports_of(service))));
    }
    let ports: Vec<_> = selected
        .iter()
        .filter(|port| attaches(wanted, declared(port), named, is_opaque(port.port, config)))
        .map(|port| (ServiceName::new(&*name.namespace, &*name.name), port.port))
        .collect();
    if ports.is_empty() {
        let (what, app_protocol) = declaration(wanted);
        let by_name = |port: &&ServicePort| attaches(wanted, declared(port), true, false);
        let hint = if selected.iter().any(by_name) {
            format!("name the port in the parentRef if it does carry {what}")
        } else {
            format!("set its appProtocol to {app_protocol} if it does carry {what}")
        };
        return Err(refuse(format!("Service {name} has no port that carries {what} ({}); {hint}", ports_of(service))));
    }
    Ok(ports)
}

/// Whether a route that speaks `wanted` attaches to a port with this declaration: `named` by the parentRef or not, on the
/// list of `opaque` ports or not.
fn attaches(wanted: Protocol, declared: Option<Protocol>, named: bool, opaque: bool) -> bool {
    match (wanted, declared) {
        // A port for HTTP would lose its requests.
        (Protocol::Tcp, Some(protocol)) => named || !may_carry_http(protocol),
        (Protocol::Tcp, None) => true,
        (Protocol::Tls, Some(Protocol::Tcp)) => named,
        (_, Some(protocol)) => may_carry(protocol, wanted),
        (_, None) => named || !opaque,
    }
}

fn selection(parent: &ParentRef) -> String {
    match (parent.port, &parent.section_name) {
        (Some(port), Some(section)) => format!("port {port} named {section}"),
        (Some(port), None) => format!("port {port}"),
        (None, Some(section)) => format!("port named {section}"),
        (None, None) => "port".to_owned(),
    }
}

/// For a message: the ports a Service does have.
pub(super) fn ports_of(service: &Service) -> String {
    let ports = service.ports.iter().map(|port| {
        let name = if port.name.is_empty() { String::new() } else { format!(" {}", port.name) };
        format!("{}{name}", port.port)
    });
    match ports.collect::<Vec<_>>() {
        ports if ports.is_empty() => "no ports".to_owned(),
        ports => ports.join(", "),
    }
}
