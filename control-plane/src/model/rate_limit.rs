//! RateLimit of `weft.dev`: how often clients may ask the workloads of a Service.

use std::time::Duration;

use super::{Meta, ObjectName};

/// A RateLimit.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct RateLimit {
    /// Metadata.
    pub meta: Meta,
    /// Services of its namespace.
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
    /// The Service, in the RateLimit's namespace.
    pub service: ObjectName,
    /// `sectionName`: the one port of this name.
    pub port: Option<String>,
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
