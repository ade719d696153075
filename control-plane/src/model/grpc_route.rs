//! GRPCRoute, and what it has in common with an HTTPRoute.
//!
//! gRPC is HTTP: a call is a POST of `/SERVICE/METHOD`. So a GRPCRoute's rules are those of an HTTPRoute whose matches ask for
//! that method and such a path, and whoever translates rules has no second sort of them. What differs is the object
//! itself: its kind, which goes before an HTTPRoute on one Service port, and what its schema allows.

use super::{HttpRoute, HttpRouteRule, Kind, Meta, ObjectKey, ParentRef};

/// A GRPCRoute.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct GrpcRoute {
    /// Metadata.
    pub meta: Meta,
    /// As written: status copies each verbatim.
    pub parents: Vec<ParentRef>,
    /// Rules, defaults filled in. Each match has the method POST, and a path that is any or a
    /// [`PathMatch::Call`](super::PathMatch::Call).
    pub rules: Vec<HttpRouteRule>,
}

/// A condition on a call's service and method. The schema wants one of them at least.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MethodMatch {
    /// With its package; `None` is any.
    pub service: Option<String>,
    /// `None` is any.
    pub method: Option<String>,
    /// `RegularExpression`: both are RE2, each for the whole of its part.
    pub regex: bool,
}

/// A route of any kind.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// Which.
    pub kind: Kind,
    /// Metadata.
    pub meta: &'a Meta,
    /// As written.
    pub parents: &'a [ParentRef],
    /// Server names, where they say which connections it is for (TLSRoute).
    pub hostnames: &'a [String],
    /// Rules.
    pub rules: &'a [HttpRouteRule],
}

impl Route<'_> {
    /// Kind and name.
    pub fn key(&self) -> ObjectKey {
        ObjectKey { kind: self.kind, name: self.meta.name.clone() }
    }
}

impl<'a> From<&'a HttpRoute> for Route<'a> {
    fn from(route: &'a HttpRoute) -> Self {
        let HttpRoute { meta, parents, rules } = route;
        Self { kind: Kind::HttpRoute, meta, parents, hostnames: &[], rules }
    }
}

impl<'a> From<&'a GrpcRoute> for Route<'a> {
    fn from(route: &'a GrpcRoute) -> Self {
        let GrpcRoute { meta, parents, rules } = route;
        Self { kind: Kind::GrpcRoute, meta, parents, hostnames: &[], rules }
    }
}
