//! FaultInjection of `weft.dev`: what a filter of a route may have a client's sidecar do to some requests.

use std::time::Duration;

use super::{Meta, ObjectName};

/// A FaultInjection. It says a delay, an abort, or both.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct FaultInjection {
    /// Metadata.
    pub meta: Meta,
    /// Some requests wait.
    pub delay: Option<FaultDelay>,
    /// Some requests are answered.
    pub abort: Option<FaultAbort>,
}

/// How long, and which share of requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FaultDelay {
    /// `fixedDelay`, above zero.
    pub fixed: Duration,
    /// Of all requests.
    pub share: Share,
}

/// With what, and which share of requests. At least one of the statuses is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FaultAbort {
    /// `httpStatus`, 200 to 599.
    pub http_status: Option<u16>,
    /// `grpcStatus` by its number, 1 to 16.
    pub grpc_status: Option<u8>,
    /// Of all requests.
    pub share: Share,
}

/// `percent` or `fraction` of requests: the numerator is at most the denominator, which is not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Share {
    /// So many ...
    pub numerator: u32,
    /// ... of so many. 100 of 100 where neither is given.
    pub denominator: u32,
}

/// What an ExtensionRef filter names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExtensionRef {
    /// `weft.dev`, or somebody else's.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// In the route's namespace.
    pub name: ObjectName,
}

impl ExtensionRef {
    /// Whether it names a [`FaultInjection`].
    pub fn is_fault_injection(&self) -> bool {
        self.group == "weft.dev" && self.kind == "FaultInjection"
    }
}
