//! What the filters of an HTTPRoute say, parsed once. Whether a proxy can do it is found out in `translate/`.

use super::fault_injection::ExtensionRef;
use super::http_route::BackendRef;

/// A filter. Kinds this version does not do are kept by name: the rule answers 500 and status says why.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HttpRouteFilter {
    /// RequestHeaderModifier
    RequestHeaders(HeaderModifier),
    /// ResponseHeaderModifier
    ResponseHeaders(HeaderModifier),
    /// RequestRedirect
    Redirect(Redirect),
    /// URLRewrite
    Rewrite(UrlRewrite),
    /// RequestMirror
    Mirror(Box<Mirror>),
    /// CORS
    Cors(Cors),
    /// ExtensionRef
    Extension(ExtensionRef),
    /// Any other, by its `type`.
    Unsupported(String),
}

impl HttpRouteFilter {
    /// Its `type`.
    pub fn kind(&self) -> &str {
        match self {
            Self::RequestHeaders(_) => "RequestHeaderModifier",
            Self::ResponseHeaders(_) => "ResponseHeaderModifier",
            Self::Redirect(_) => "RequestRedirect",
            Self::Rewrite(_) => "URLRewrite",
            Self::Mirror(_) => "RequestMirror",
            Self::Cors(_) => "CORS",
            Self::Extension(_) => "ExtensionRef",
            Self::Unsupported(kind) => kind,
        }
    }
}

/// A header filter: remove, then set, then add.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct HeaderModifier {
    /// Replaces.
    pub set: Vec<(String, String)>,
    /// Appends.
    pub add: Vec<(String, String)>,
    /// Removes.
    pub remove: Vec<String>,
}

/// Answers with a `Location`. What is `None` is as in the request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host, without a port.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifier>,
    /// Port; where there is none the specification says which it is.
    pub port: Option<u16>,
    /// 302 where not given.
    pub status: u16,
}

/// Changes what the server is asked for. What is `None` stays.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct UrlRewrite {
    /// Host, without a port.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifier>,
}

/// What becomes of a path. The query is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathModifier {
    /// ReplaceFullPath
    Full(String),
    /// ReplacePrefixMatch: what stands where the match's prefix stood.
    Prefix(String),
}

/// Sends some requests to another backend as well.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mirror {
    /// Where to; its weight and filters mean nothing.
    pub backend: BackendRef,
    /// So many ...
    pub numerator: u32,
    /// ... of so many. 100 of 100 where not given.
    pub denominator: u32,
}

/// Who may read responses from another origin, as the CRD has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cors {
    /// `*`, or `scheme://host[:port]`.
    pub allow_origins: Vec<String>,
    /// Whether requests may carry credentials.
    pub allow_credentials: bool,
    /// Methods, or `*`.
    pub allow_methods: Vec<String>,
    /// Request headers, or `*`.
    pub allow_headers: Vec<String>,
    /// Response headers, or `*`.
    pub expose_headers: Vec<String>,
    /// Seconds; 5 where not given.
    pub max_age: u32,
}

/// `sessionPersistence` of a rule (GEP-1619).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct SessionPersistence {
    /// `sessionName`
    pub name: Option<String>,
    /// Type `Header`, not `Cookie`.
    pub header: bool,
    /// `absoluteTimeout`
    pub absolute_timeout: Option<std::time::Duration>,
    /// `lifetimeType: Permanent`
    pub permanent: bool,
}

/// `retry` of a rule (GEP-1731).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct RouteRetry {
    /// Statuses to retry.
    pub codes: Vec<u16>,
    /// Tries after the first.
    pub attempts: Option<u32>,
    /// The least wait before each.
    pub backoff: Option<std::time::Duration>,
}
