//! RateLimit of `weft.dev`: how often clients may ask the workloads of a Service, or by a route.

use std::time::Duration;

use super::{Meta, ObjectKey};

/// A RateLimit.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct RateLimit {
    /// Metadata.
    pub meta: Meta,
    /// Services and routes of its namespace.
    pub targets: Vec<RateTarget>,
    /// So many ...
    pub requests: u32,
    /// ... in so long; both above zero.
    pub per: Duration,
    /// At once after a pause; `requests` where not given.
    pub burst: u32,
    /// What tells clients apart.
    pub key: RateKey,
}

/// A targetRef.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RateTarget {
    /// A Service, an HTTPRoute or a GRPCRoute, in the RateLimit's namespace.
    pub object: ObjectKey,
    /// `sectionName`: the one port of a Service, or rule of a route, of this name.
    pub section: Option<String>,
}

/// Which requests share a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RateKey {
    /// All of them.
    All,
    /// Those of one identity.
    Identity,
    /// Those from one address.
    SourceIp,
    /// Those with one value of this header (lower case).
    Header(String),
}
