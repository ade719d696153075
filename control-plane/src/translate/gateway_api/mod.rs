//! Gateway API routes whose parent is a Service (GAMMA; SEMANTICS.md §2 "Gateway API").
//!
//! A route is analysed once, whatever it is attached to ([`analyse`]): its rules become wire rules (`rules`), its parentRefs
//! become Service ports or refusals (`parents`; `conflicts` where a route of another kind goes before it), and both become
//! conditions (`conditions`). Then each Service port collects what is attached to it, for each view, in match order
//! ([`routed_port`], `precedence`).
//!
//! HTTPRoute and GRPCRoute are one thing here but for their kind: which goes before the other, what a port without a
//! declaration is taken to speak, and what status calls an answer that is an error. A TLSRoute or TCPRoute has one rule, for
//! whole connections (`connections`).
//!
//! Producer routes (in the Service's namespace) are for all clients. Consumer routes are for clients in the route's own
//! namespace; on a port that has one, producers do not count there.

mod conditions;
mod conflicts;
mod connections;
mod fault;
mod filters;
mod matches;
mod parents;
mod precedence;
mod rules;
mod session;
#[cfg(test)]
mod tests;
mod url;

use std::collections::BTreeSet;

use weft_proto::ServiceName;
use weft_proto::v1::RouteEntry;

pub(super) use self::conflicts::{PRECEDENCE, goes_before};
use self::precedence::Precedence;
pub(super) use self::rules::millis;
use self::rules::{Rule, undeclared};
pub(super) use self::session::wire_backend_session;
use super::MeshConfig;
use super::kubernetes::RoutedPort;
use crate::model::{Age, Kind, Model, ObjectKey, Route};
use crate::status::RouteStatus;

/// What a route means, wherever it is attached.
#[derive(Debug, PartialEq)]
pub(super) struct Analysis {
    age: Age,
    key: ObjectKey,
    /// Of a TLSRoute.
    hostnames: Vec<String>,
    /// Empty unless the route is accepted there.
    attached: BTreeSet<(ServiceName, u16)>,
    /// Usable ones, in their order. Shared by all attachments.
    rules: Vec<Rule>,
    /// `None` when no parent is ours.
    pub(super) status: Option<RouteStatus>,
}

impl Analysis {
    /// Services on which this route acts.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.attached.iter().map(|(service, _)| service)
    }

    /// All that routes of other kinds have to know of it.
    pub(super) fn claim(&self) -> (&Age, &BTreeSet<(ServiceName, u16)>) {
        (&self.age, &self.attached)
    }
}

/// Analyses a route against the objects as they are. `rivals` are the routes with a parentRef to a Service; of those whose
/// kind goes before this one's the analysis must be there.
pub(super) fn analyse<'a>(
    route: Route<'_>,
    model: &Model,
    config: &MeshConfig,
    rivals: impl Fn(&ServiceName) -> Vec<&'a Analysis>,
) -> Analysis {
    let compiled = rules::compile(route, model);
    let parents: Vec<_> = route
        .parents
        .iter()
        .filter_map(|parent| {
            let selected = parents::resolve(parent, route, model, config)?;
            Some((parent, selected.and_then(|ports| conflicts::settle(route, ports, &rivals))))
        })
        .collect();
    let attached = if compiled.usable() {
        let attached = parents.iter().filter_map(|(_, resolved)| resolved.as_ref().ok());
        attached.flat_map(|attached| &attached.ports).cloned().collect()
    } else {
        BTreeSet::new()
    };
    let status = (!parents.is_empty()).then(|| conditions::status(route, &parents, &compiled));
    let hostnames = route.hostnames.to_vec();
    Analysis { age: route.meta.age.clone(), key: route.key(), hostnames, attached, rules: compiled.rules, status }
}

/// Client namespaces other than the Service's own for which some of these routes are consumer routes.
pub(super) fn consumer_namespaces<'a>(service: &ServiceName, routes: &[&'a Analysis]) -> BTreeSet<&'a str> {
    let consumers = routes.iter().filter(|route| route.services().any(|name| name == service));
    consumers.map(|route| &*route.key.name.namespace).filter(|namespace| *namespace != service.namespace).collect()
}

/// What routes make of a Service's port for clients of a namespace (`None`: of one without consumer routes);
/// `None` when no route is attached.
pub(super) fn routed_port(
    service: &ServiceName,
    port: u16,
    client: Option<&str>,
    routes: &[&Analysis],
) -> Option<RoutedPort> {
    let key = (service.clone(), port);
    let attached_in = |namespace: &str| -> Vec<&Analysis> {
        let here = |route: &&&Analysis| route.key.name.namespace == namespace && route.attached.contains(&key);
        routes.iter().filter(here).copied().collect()
    };
    let mut attached = client.map(attached_in).unwrap_or_default();
    if attached.is_empty() {
        attached = attached_in(&service.namespace);
    }
    attached.sort_by(|a, b| (&a.age, &a.key.name).cmp(&(&b.age, &b.key.name)));
    // They are of one kind (`conflicts`).
    let kind = attached.first()?.key.kind;
    let protocol = undeclared(kind);
    let mut out = RoutedPort { protocol, entries: Vec::new(), rules: Vec::new(), connections: None };
    if matches!(kind, Kind::TlsRoute | Kind::TcpRoute) {
        out.connections = Some(connections::routes(&attached));
        return Some(out);
    }

    let mut entries: Vec<(&Precedence, RouteEntry)> = Vec::new();
    for rule in attached.iter().flat_map(|route| &route.rules) {
        // A proxy refuses what it cannot index; far below 2^32 by the API server's limits.
        let Ok(index) = u32::try_from(out.rules.len()) else { break };
        out.rules.push(rule.wire.clone());
        entries.extend(
            rule.matches.iter().map(|(precedence, condition)| {
                (precedence, RouteEntry { r#match: Some(condition.clone()), rule: index })
            }),
        );
    }
    // Stable: on a tie the oldest route stays first, then its name, its first rule, its first match.
    entries.sort_by_key(|(precedence, _)| *precedence);
    out.entries = entries.into_iter().map(|(_, entry)| entry).collect();
    Some(out)
}

/// As much of a user's text as fits into a message.
fn short(text: &str) -> String {
    const MOST: usize = 80;
    let mut short: String = text.chars().take(MOST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
