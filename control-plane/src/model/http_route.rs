//! HTTPRoute, parsed once, with its defaults. Its filters are in [`filters`](super::filters).

use std::time::Duration;

use super::fault_injection::ExtensionRef;
use super::filters::{HttpRouteFilter, RouteRetry, SessionPersistence};
use super::grpc_route::MethodMatch;
use super::objects::Meta;

/// An HTTPRoute.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct HttpRoute {
    /// Metadata.
    pub meta: Meta,
    /// As written: status copies each verbatim.
    pub parents: Vec<ParentRef>,
    /// Rules, defaults filled in.
    pub rules: Vec<HttpRouteRule>,
}

/// A parentRef, as written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// `gateway.networking.k8s.io` where not given; `""` and `core` are the core group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `Gateway` where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The route's own where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Section name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Narrows to one port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl ParentRef {
    /// Whether it is ours to answer: of kind Service, in the group of Services or in the one that is meant where none is
    /// written, which has no Services, so that nobody else would tell the user.
    pub fn names_a_service(&self) -> bool {
        let group = self.group.as_deref();
        self.kind.as_deref() == Some("Service")
            && matches!(group, None | Some("" | "core" | "gateway.networking.k8s.io"))
    }
}

/// A rule of an HTTPRoute.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct HttpRouteRule {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// At least one (the CRD's default is a `/` prefix).
    pub matches: Vec<HttpRouteMatch>,
    /// Filters.
    pub filters: Vec<HttpRouteFilter>,
    /// Backends.
    pub backends: Vec<BackendRef>,
    /// `timeouts.request`; zero is off.
    pub request_timeout: Option<Duration>,
    /// `timeouts.backendRequest`; zero is off.
    pub backend_request_timeout: Option<Duration>,
    /// `retry`.
    pub retry: Option<RouteRetry>,
    /// `sessionPersistence`.
    pub session: Option<SessionPersistence>,
}

impl HttpRouteRule {
    /// Every backend it names: those that get its requests, and those that get copies of them.
    pub fn backend_refs(&self) -> impl Iterator<Item = &BackendRef> {
        let mirrors = self.all_filters().filter_map(|filter| match filter {
            HttpRouteFilter::Mirror(mirror) => Some(&mirror.backend),
            _ => None,
        });
        self.backends.iter().chain(mirrors)
    }

    /// Every extension it names.
    pub fn extension_refs(&self) -> impl Iterator<Item = &ExtensionRef> {
        self.all_filters().filter_map(|filter| match filter {
            HttpRouteFilter::Extension(reference) => Some(reference),
            _ => None,
        })
    }

    fn all_filters(&self) -> impl Iterator<Item = &HttpRouteFilter> {
        self.backends.iter().flat_map(|backend| &backend.filters).chain(&self.filters)
    }
}

/// A match of a rule. All conditions must hold.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct HttpRouteMatch {
    /// Path.
    pub path: PathMatch,
    /// Header conditions, names lower case, first of equal names only.
    pub headers: Vec<KeyMatch>,
    /// Query conditions.
    pub query_params: Vec<KeyMatch>,
    /// Method.
    pub method: Option<String>,
}

/// A path condition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// By segment.
    Prefix(String),
    /// RE2, the whole path.
    Regex(String),
    /// `/SERVICE/METHOD` (only of a GRPCRoute).
    Call(MethodMatch),
}

/// A header or query condition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyMatch {
    /// Header names are lower case.
    pub name: String,
    /// The text or RE2 expression.
    pub value: String,
    /// `RegularExpression`
    pub regex: bool,
}

/// A backendRef with its defaults.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackendRef {
    /// Core group is `""`.
    pub group: String,
    /// `Service` where not given.
    pub kind: String,
    /// Namespace, the route's own where not given.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Port; a Service needs one.
    pub port: Option<u16>,
    /// 1 where not given.
    pub weight: u32,
    /// Filters on this backend only.
    pub filters: Vec<HttpRouteFilter>,
}
