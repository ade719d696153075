//! Where desired state comes from. Every source yields the same thing: [`Batch`]es of typed objects, each batch one
//! edit, to be taken in one stroke, so that nobody ever sees half of what a user changed together.
//!
//! - [`files`]: a watched directory of ordinary Kubernetes YAML, for a laptop, a VM, or a test.
//! - [`protocol`]: what a Service port speaks by `appProtocol` and name, which every source has to decide alike.
//!
//! Not here: what objects mean together (`translate/`) and where they are indexed (`model/`).
//! Bound: at most [`MAX_PROBLEMS`] problems a batch; what a source holds is bounded where it is read.

use std::fmt;

use crate::model::{Kind, Meta, Object, ObjectName};

pub mod files;
pub mod protocol;

/// Most problems one batch lists; a last one says how many more there are.
pub const MAX_PROBLEMS: usize = 1_000;

/// An object's identity across kinds.
pub type Key = (Kind, ObjectName);

/// What one edit changed. The first batch of a source is everything there is, and always comes, even if empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// New objects and new forms of old ones.
    pub upserts: Vec<Object>,
    /// Objects that are gone. Never names an object that is also in `upserts`.
    pub removes: Vec<Key>,
    /// All that is wrong now, not only what this edit broke: replaces the list of the batch before.
    pub problems: Vec<Problem>,
}

/// Something wrong with what a user wrote.
///
/// Displays as `reviews.yaml:14: spec.rules[0].backendRefs[0].weight: must be between 0 and 1000000`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// File, relative to the manifests directory; empty where the directory itself is the problem.
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
    pub object: Option<Key>,
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
        Kind::EndpointSlice => "EndpointSlice",
        Kind::Pod => "Pod",
        Kind::Node => "Node",
        Kind::HttpRoute => "HTTPRoute",
        Kind::PeerAuthentication => "PeerAuthentication",
    }
}

/// `Service default/reviews`, `Node a`.
pub fn describe((kind, name): &Key) -> String {
    let kind = kind_name(*kind);
    if name.namespace.is_empty() {
        format!("{kind} {}", name.name)
    } else {
        format!("{kind} {}/{}", name.namespace, name.name)
    }
}

/// The identity of an object.
pub fn key_of(object: &Object) -> Key {
    let kind = match object {
        Object::Namespace(_) => Kind::Namespace,
        Object::Service(_) => Kind::Service,
        Object::EndpointSlice(_) => Kind::EndpointSlice,
        Object::Pod(_) => Kind::Pod,
        Object::Node(_) => Kind::Node,
        Object::HttpRoute(_) => Kind::HttpRoute,
        Object::PeerAuthentication(_) => Kind::PeerAuthentication,
    };
    (kind, meta_of(object).name.clone())
}

/// The metadata of an object.
pub fn meta_of(object: &Object) -> &Meta {
    match object {
        Object::Namespace(o) => &o.meta,
        Object::Service(o) => &o.meta,
        Object::EndpointSlice(o) => &o.meta,
        Object::Pod(o) => &o.meta,
        Object::Node(o) => &o.meta,
        Object::HttpRoute(o) => &o.meta,
        Object::PeerAuthentication(o) => &o.meta,
    }
}

/// The metadata of an object, to be filled in by the source.
pub(crate) fn meta_mut(object: &mut Object) -> &mut Meta {
    match object {
        Object::Namespace(o) => &mut o.meta,
        Object::Service(o) => &mut o.meta,
        Object::EndpointSlice(o) => &mut o.meta,
        Object::Pod(o) => &mut o.meta,
        Object::Node(o) => &mut o.meta,
        Object::HttpRoute(o) => &mut o.meta,
        Object::PeerAuthentication(o) => &mut o.meta,
    }
}
