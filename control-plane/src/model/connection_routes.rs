//! TCPRoute and TLSRoute: routes of whole connections.
//!
//! Their one rule has backends and nothing else, so it is an HTTPRoute's that matches everything, and whoever translates
//! backends has no second sort of rules. What a TLSRoute matches by, the server name, is the route's and not the rule's.

use super::{HttpRouteRule, Kind, Meta, ParentRef, Route};

/// A TCPRoute.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct TcpRoute {
    /// Metadata.
    pub meta: Meta,
    /// As written: status copies each verbatim.
    pub parents: Vec<ParentRef>,
    /// One, without filters, timeouts or retries.
    pub rules: Vec<HttpRouteRule>,
}

/// A TLSRoute.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct TlsRoute {
    /// Metadata.
    pub meta: Meta,
    /// As written: status copies each verbatim.
    pub parents: Vec<ParentRef>,
    /// At least one, each a DNS name in lower case, or `*.` and one.
    pub hostnames: Vec<String>,
    /// One, without filters, timeouts or retries.
    pub rules: Vec<HttpRouteRule>,
}

impl<'a> From<&'a TcpRoute> for Route<'a> {
    fn from(route: &'a TcpRoute) -> Self {
        let TcpRoute { meta, parents, rules } = route;
        Self { kind: Kind::TcpRoute, meta, parents, hostnames: &[], rules }
    }
}

impl<'a> From<&'a TlsRoute> for Route<'a> {
    fn from(route: &'a TlsRoute) -> Self {
        let TlsRoute { meta, parents, hostnames, rules } = route;
        Self { kind: Kind::TlsRoute, meta, parents, hostnames, rules }
    }
}
