//! What the bytes on a port are (SEMANTICS.md §1 "protocol"). In this order, first that speaks: the Service port's own
//! declaration (`appProtocol`, then Istio's name prefixes: `source/` read them); an attached accepted route, by its
//! kind; the list of opaque ports; otherwise AUTO, and whoever speaks first decides.

use weft_proto::v1::Protocol;

use super::super::MeshConfig;
use crate::model::ServicePort;

/// A declaration on the port itself, if there is one.
pub(in super::super) fn declared(port: &ServicePort) -> Option<Protocol> {
    (port.protocol != Protocol::Auto).then_some(port.protocol)
}

/// Whether a port number is on the list of opaque ports.
pub(in super::super) fn is_opaque(port: u16, config: &MeshConfig) -> bool {
    config.opaque_ports.contains(&port)
}

/// A declaration, then what the attached routes stand for, then the opaque list.
pub(in super::super) fn with_defaults(
    declared: Option<Protocol>,
    routed: Option<Protocol>,
    port: u16,
    config: &MeshConfig,
) -> Protocol {
    match declared.or(routed) {
        Some(protocol) => protocol,
        None if is_opaque(port, config) => Protocol::Tcp,
        None => Protocol::Auto,
    }
}

/// Whether a port declared so may carry what a route speaks. What speaks HTTP does not speak TLS, and everything is bytes.
pub(in super::super) fn may_carry(declared: Protocol, route: Protocol) -> bool {
    match route {
        Protocol::Tcp => true,
        Protocol::Tls => matches!(declared, Protocol::Auto | Protocol::Tls | Protocol::Tcp),
        Protocol::Auto | Protocol::Http | Protocol::Http2 | Protocol::Grpc => may_carry_http(declared),
    }
}

/// Whether HTTP requests can be routed on a port declared so.
pub(in super::super) fn may_carry_http(protocol: Protocol) -> bool {
    match protocol {
        Protocol::Auto | Protocol::Http | Protocol::Http2 | Protocol::Grpc => true,
        Protocol::Tls | Protocol::Tcp => false,
    }
}
