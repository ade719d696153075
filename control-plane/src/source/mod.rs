//! Where desired state comes from. Every source yields the same thing: [`Edit`]s, each to be taken in one stroke, so that
//! nobody ever sees half of what a user changed together.
//!
//! - [`files`]: a watched directory of ordinary Kubernetes YAML, for a laptop, a VM, or a test.
//! - [`kubernetes`]: the API server of a cluster.
//! - [`protocol`]: what a Service port speaks by `appProtocol` and name, which every source has to decide alike.
//!
//! Not here: what objects mean together (`translate/`) and where they are indexed (`model/`).
//! Bound: at most [`MAX_PROBLEMS`] problems an edit, and a few words for each object that is refused; what a source holds
//! is bounded where it is read.

use std::collections::BTreeMap;
use std::fmt;

use crate::model::{Batch, Kind, Meta, Object, ObjectKey};

pub mod files;
pub mod kubernetes;
pub mod protocol;
mod refused;

pub(crate) use refused::quoted;
pub use refused::refused;

/// Most problems one edit lists; a last one says how many more there are.
pub const MAX_PROBLEMS: usize = 1_000;

/// The field of the [`Problem`] of a second document of an object: the first is in force.
pub const TWICE: &str = "metadata.name";

/// What one edit changed. The first of a source is everything there is, and always comes, even if empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Edit {
    /// The objects. Nothing is both removed and upserted.
    pub objects: Batch,
    /// All that is wrong now, not only what this edit broke: replaces the list of the edit before.
    pub problems: Vec<Problem>,
    /// All objects that are refused now, and why, in a few words: also by problems that are not listed.
    pub refused: BTreeMap<ObjectKey, String>,
}

/// Something wrong with what a user wrote.
///
/// Displays as `reviews.yaml:14: spec.rules[0].backendRefs[0].weight: must be between 0 and 1000000`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// File, relative to the manifests directory; empty where the directory itself is the problem. In a cluster, the
    /// object: `HTTPRoute shop/reviews`.
    pub file: String,
    /// Line, from 1; 0 where the problem is with the file as a whole.
    pub line: u32,
    /// Column, from 1; 0 where there is no line.
    pub column: u32,
    /// Path of the field, `spec.rules[0].matches[1].path.value`; empty for a document or file as a whole.
    pub field: String,
    /// Whether the document is refused.
    pub severity: Severity,
    /// What is wrong and what would be right.
    pub message: String,
    /// The object, where its identity could be read.
    pub object: Option<ObjectKey>,
}

/// Whether the object works in spite of the problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The document is refused; the last good version of its object stays.
    Error,
    /// The object works; something in it has no effect.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            f.write_str(&self.file)?;
            if self.line > 0 {
                write!(f, ":{}", self.line)?;
            }
            f.write_str(": ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// The `kind` of an object as users write it.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "Namespace",
        Kind::Service => "Service",
        Kind::BackendPolicy => "BackendPolicy",
        Kind::EndpointSlice => "EndpointSlice",
        Kind::Pod => "Pod",
        Kind::Node => "Node",
        Kind::FaultInjection => "FaultInjection",
        Kind::RateLimit => "RateLimit",
        Kind::GrpcRoute => "GRPCRoute",
        Kind::HttpRoute => "HTTPRoute",
        Kind::TlsRoute => "TLSRoute",
        Kind::TcpRoute => "TCPRoute",
        Kind::BackendTlsPolicy => "BackendTLSPolicy",
        Kind::TrafficPolicy => "XBackendTrafficPolicy",
        Kind::ConfigMap => "ConfigMap",
        Kind::PeerAuthentication => "PeerAuthentication",
    }
}

/// `Service default/reviews`, `Node a`.
pub fn describe(key: &ObjectKey) -> String {
    format!("{} {}", kind_name(key.kind), key.name)
}

/// The metadata of an object, to be filled in by the source.
pub(crate) fn meta_mut(object: &mut Object) -> &mut Meta {
    match object {
        Object::Namespace(o) => &mut o.meta,
        Object::Service(o) => &mut o.meta,
        Object::BackendPolicy(o) => &mut o.meta,
        Object::EndpointSlice(o) => &mut o.meta,
        Object::Pod(o) => &mut o.meta,
        Object::Node(o) => &mut o.meta,
        Object::FaultInjection(o) => &mut o.meta,
        Object::RateLimit(o) => &mut o.meta,
        Object::GrpcRoute(o) => &mut o.meta,
        Object::HttpRoute(o) => &mut o.meta,
        Object::TlsRoute(o) => &mut o.meta,
        Object::TcpRoute(o) => &mut o.meta,
        Object::BackendTlsPolicy(o) => &mut o.meta,
        Object::TrafficPolicy(o) => &mut o.meta,
        Object::ConfigMap(o) => &mut o.meta,
        Object::PeerAuthentication(o) => &mut o.meta,
    }
}
