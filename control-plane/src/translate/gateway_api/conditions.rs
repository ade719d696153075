//! Conditions of a route at each of its parents: Accepted, ResolvedRefs, and PartiallyInvalid where some rules are not what
//! they say. Every message says what to do. `weft.dev/Programmed` is added by those who know what proxies ACKed.

use std::borrow::Cow;

use super::conflicts::{Attached, a};
use super::parents::Refusal;
use super::rules::{Compiled, Costs};
use crate::model::{Kind, ParentRef, Route};
use crate::status::{Condition, ParentStatus, RouteStatus};

/// A message names this many problems of a kind; more are counted.
const NAMED: usize = 5;

/// One entry per parentRef of ours, in the order of the spec.
pub(super) fn status(
    route: Route<'_>,
    parents: &[(&ParentRef, Result<Attached, Refusal>)],
    compiled: &Compiled,
) -> RouteStatus {
    let generation = route.meta.generation;
    // What a client of this kind of route sees instead of an answer.
    let failure = match route.kind {
        Kind::GrpcRoute => "UNAVAILABLE",
        Kind::TlsRoute | Kind::TcpRoute => "a reset",
        _ => "500",
    };
    let condition = |kind, status, reason: &'static str, message| Condition {
        kind,
        status,
        reason: Cow::Borrowed(reason),
        message,
        observed_generation: generation,
    };
    let invalid = invalid(compiled, failure);
    let parents = parents.iter().map(|(parent, resolved)| {
        let accepted = match resolved {
            Err(refusal) => condition("Accepted", false, refusal.reason, refusal.message.clone()),
            Ok(_) if !compiled.usable() => condition(
                "Accepted",
                false,
                reason_of(compiled),
                format!("no rule can be used, so the route is not in effect. {invalid}"),
            ),
            Ok(to) => condition("Accepted", true, "Accepted", format!("attached to {}", attached(to, route.kind))),
        };
        let resolved_refs = match compiled.bad_refs.first() {
            None => condition("ResolvedRefs", true, "ResolvedRefs", "every backendRef is valid".to_owned()),
            Some(first) => condition("ResolvedRefs", false, first.reason, bad_refs(compiled, route.kind, failure)),
        };
        let partially_invalid = (accepted.status && !invalid.is_empty())
            .then(|| condition("PartiallyInvalid", true, reason_of(compiled), invalid.clone()));
        let conditions = [accepted, resolved_refs].into_iter().chain(partially_invalid).collect();
        ParentStatus { parent_ref: (*parent).clone(), conditions }
    });
    RouteStatus { parents: parents.collect() }
}

/// Names what is not valid, and what becomes of it.
fn bad_refs(compiled: &Compiled, kind: Kind, failure: &str) -> String {
    let of = if matches!(kind, Kind::TlsRoute | Kind::TcpRoute) { "connections" } else { "requests" };
    let part = |costs: Costs| {
        let bad: Vec<_> = compiled.bad_refs.iter().filter(|bad| bad.costs == costs).map(|bad| &*bad.message).collect();
        let what = match costs {
            Costs::Share => format!("their share of {of} gets {failure}"),
            Costs::Copies => "nothing is mirrored there".to_owned(),
            Costs::Rule => format!("all requests of their rules get {failure}"),
        };
        (!bad.is_empty()).then(|| format!("{} ({what})", list(bad.into_iter())))
    };
    let parts = [Costs::Rule, Costs::Share, Costs::Copies].into_iter().filter_map(part);
    parts.collect::<Vec<_>>().join(". ")
}

/// Incompatible filters are named as such where nothing else is wrong.
fn reason_of(compiled: &Compiled) -> &'static str {
    match compiled.answering.first() {
        Some(first) if compiled.dropped.is_empty() && compiled.answering.iter().all(|it| it.reason == first.reason) => {
            first.reason
        }
        _ => "UnsupportedValue",
    }
}

/// The prefix "Dropped Rule" is the specification's.
fn invalid(compiled: &Compiled, failure: &str) -> String {
    let mut parts = Vec::new();
    if !compiled.dropped.is_empty() {
        parts.push(format!("Dropped Rule {}", list(compiled.dropped.iter().map(String::as_str))));
    }
    if !compiled.answering.is_empty() {
        let wrong = list(compiled.answering.iter().map(|wrong| &*wrong.message));
        parts.push(format!("Answering {failure}: rule {wrong}"));
    }
    parts.join(". ")
}

fn attached(to: &Attached, kind: Kind) -> String {
    let Some((service, _)) = to.ports.first() else { return String::new() };
    let ports: Vec<_> = to.ports.iter().map(|(_, port)| port.to_string()).collect();
    let mut text = format!("Service {service}, port {}", ports.join(", "));
    if !to.taken.is_empty() {
        let taken: Vec<_> = to.taken.iter().map(ToString::to_string).collect();
        let taken = list(taken.iter().map(String::as_str));
        text.push_str(&format!(". Not in effect where a route goes before {}: {taken}", a(kind)));
    }
    text
}

fn list<'a>(mut items: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = items.len().saturating_sub(NAMED);
    let mut text = items.by_ref().take(NAMED).collect::<Vec<_>>().join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}
