//! Which kind of route acts on a Service port where there are several (GEP-1294 "Route types"): one kind does, the first of
//! [`PRECEDENCE`]. The others are refused there, whoever was first; how many routes of one kind there are does not matter.
//!
//! Producers are held against producers and consumers against the consumers of the same namespace: a consumer route is for
//! other clients than a producer, so of two that never meet none has to go.

use std::fmt;

use weft_proto::ServiceName;

use super::Analysis;
use super::parents::Refusal;
use crate::model::{Kind, ObjectKey, Route};
use crate::source::{describe, kind_name};

/// Kinds of routes, the one that goes before all others first.
pub(in super::super) const PRECEDENCE: [Kind; 4] = [Kind::GrpcRoute, Kind::HttpRoute, Kind::TlsRoute, Kind::TcpRoute];

/// Whether a route of kind `a` on a port leaves none of kind `b` there.
pub(in super::super) fn goes_before(a: Kind, b: Kind) -> bool {
    let rank = |kind| PRECEDENCE.iter().position(|ranked| *ranked == kind);
    rank(a) < rank(b)
}

/// A kind with its article, read letter by letter.
pub(super) fn a(kind: Kind) -> String {
    let article = if kind == Kind::HttpRoute { "an" } else { "a" };
    format!("{article} {}", kind_name(kind))
}

/// What a parentRef attaches to: some ports at least, and those that a route of another kind has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) ports: Vec<(ServiceName, u16)>,
    pub(super) taken: Vec<Taken>,
}

/// A port, and the oldest route that has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    port: u16,
    by: ObjectKey,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {} has {}", self.port, describe(&self.by))
    }
}

/// Leaves of the ports that a parentRef selects those that `route` may act on. `rivals` are the routes with a parentRef to
/// a Service, where their kind is analysed before this one.
///
/// # Errors
/// When none is left.
pub(super) fn settle<'a>(
    route: Route<'_>,
    selected: Vec<(ServiceName, u16)>,
    rivals: impl Fn(&ServiceName) -> Vec<&'a Analysis>,
) -> Result<Attached, Refusal> {
    let mut attached = Attached { ports: Vec::new(), taken: Vec::new() };
    for place in selected {
        let rivals = rivals(&place.0).into_iter().filter(|rival| {
            goes_before(rival.key.kind, route.kind)
                && rival.key.name.namespace == route.meta.name.namespace
                && rival.attached.contains(&place)
        });
        match rivals.min_by(|a, b| (&a.age, &a.key.name).cmp(&(&b.age, &b.key.name))) {
            Some(rival) => attached.taken.push(Taken { port: place.1, by: rival.key.clone() }),
            None => attached.ports.push(place),
        }
    }
    match attached.taken.first() {
        Some(taken) if attached.ports.is_empty() => Err(Refusal {
            reason: "RouteReasonConflicted",
            message: format!(
                "{taken}, and one kind of route acts on a port: {} goes before {}; give each a port of its own \
                 (parentRefs[].port), or say all of it in one kind",
                a(taken.by.kind),
                a(route.kind)
            ),
        }),
        _ => Ok(attached),
    }
}
