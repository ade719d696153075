//! Whether what users wrote is in effect: routes, by their status, and objects that this version does not enforce. Pure.

use std::collections::BTreeMap;

use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::Value;
use weft_control_plane::status::CONTROLLER_NAME;

use super::facts::{Facts, Foreign, Health};
use super::finding::{Finding, Group, Level, count, some};
use crate::seen::Seen;

const GROUP: Group = Group::Objects;
const NAMED: usize = 5;
/// Routes in `weft check`; all of them are in the JSON of `kubectl`.
const ROUTES: usize = 20;

/// A kind that this version does not enforce.
#[derive(Debug)]
pub(super) struct ForeignKind {
    /// API group.
    pub(super) group: &'static str,
    /// Kind.
    pub(super) kind: &'static str,
    /// As in URLs.
    pub(super) plural: &'static str,
    /// Whether ignoring it may let somebody in, or send a secret in the clear.
    pub(super) level: Level,
    /// What does not happen.
    pub(super) effect: &'static str,
    /// Counts only when a Service is its parent: others are for gateways.
    pub(super) by_parent: bool,
}

const fn kind(
    (group, kind, plural): (&'static str, &'static str, &'static str),
    level: Level,
    effect: &'static str,
) -> ForeignKind {
    ForeignKind { group, kind, plural, level, effect, by_parent: false }
}

const ISTIO_SECURITY: &str = "security.istio.io";
const ISTIO_NETWORKING: &str = "networking.istio.io";
const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// What this version reads is Service, HTTPRoute, GRPCRoute, TLSRoute, TCPRoute, BackendTLSPolicy and PeerAuthentication
/// (`control-plane/src/model`);
/// of what else meshes are configured with, this is said.
pub(super) static FOREIGN_KINDS: [ForeignKind; 8] = [
    kind((ISTIO_SECURITY, "AuthorizationPolicy", "authorizationpolicies"), Level::Error, "what they deny is allowed"),
    kind((ISTIO_SECURITY, "RequestAuthentication", "requestauthentications"), Level::Error, "no token is checked"),
    kind((ISTIO_NETWORKING, "VirtualService", "virtualservices"), Level::Warning, "they route nothing"),
    kind((ISTIO_NETWORKING, "DestinationRule", "destinationrules"), Level::Warning, "their policies are not in effect"),
    kind((ISTIO_NETWORKING, "ServiceEntry", "serviceentries"), Level::Warning, "their hosts are not known"),
    kind((ISTIO_NETWORKING, "EnvoyFilter", "envoyfilters"), Level::Warning, "there is no Envoy to filter"),
    kind(("telemetry.istio.io", "Telemetry", "telemetries"), Level::Warning, "they change nothing"),
    ForeignKind {
        by_parent: true,
        ..kind((GATEWAY_API, "UDPRoute", "udproutes"), Level::Warning, "they route nothing")
    },
];

/// What such an object asks for that matters more than its kind, or none if it is not for a mesh at all.
pub(super) fn asks(kind: &ForeignKind, object: &DynamicObject) -> Option<Option<String>> {
    if kind.by_parent {
        return has_service_parent(object).then_some(None);
    }
    // ISTIO_MUTUAL is what Weft does anyway.
    let tls = if kind.kind == "DestinationRule" { tls_mode(&object.data) } else { None };
    Some(tls.filter(|mode| mode != "ISTIO_MUTUAL").map(|mode| format!("tls: {mode}")))
}

/// The first `tls.mode` anywhere in it.
fn tls_mode(value: &Value) -> Option<String> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("tls").and_then(|tls| tls.get("mode")).and_then(Value::as_str).map(str::to_owned);
            own.or_else(|| fields.values().find_map(tls_mode))
        }
        Value::Array(items) => items.iter().find_map(tls_mode),
        _ => None,
    }
}

/// All checks of objects.
pub(super) fn check(facts: &Facts, health: &Health) -> Vec<Finding> {
    let mut findings = foreign(facts, health);
    match &health.routes {
        Seen::Found(all) => findings.extend(routes(all)),
        Seen::Absent => {}
        Seen::Unknown(why) => findings.push(Finding::unknown(GROUP, "routes", "routes of the Gateway API", why)),
    }
    findings
}

/// Only where they would count: in opted-in namespaces, and in ours, which is the root namespace. Elsewhere they may well
/// be another mesh's.
fn foreign(facts: &Facts, health: &Health) -> Vec<Finding> {
    let opted_in: Vec<&str> = health.opted_in(&facts.mesh).iter().map(|namespace| &*namespace.name).collect();
    let counts = |object: &&Foreign| {
        opted_in.contains(&&*object.namespace) || (object.namespace == facts.mesh.namespace && !opted_in.is_empty())
    };
    let mut by_kind: BTreeMap<(&str, bool), Vec<&Foreign>> = BTreeMap::new();
    for object in health.foreign.iter().filter(counts) {
        by_kind.entry((object.kind, object.asks.is_some())).or_default().push(object);
    }
    let mut findings = Vec::new();
    for kind in &FOREIGN_KINDS {
        for asks in [true, false] {
            let Some(objects) = by_kind.get(&(kind.kind, asks)) else { continue };
            let names: Vec<String> = objects
                .iter()
                .map(|object| {
                    let asks = object.asks.as_ref().map(|asks| format!(" ({asks})")).unwrap_or_default();
                    format!("{}/{}{asks}", object.namespace, object.name)
                })
                .collect();
            let effect = if asks { "connections are not made as they say" } else { kind.effect };
            let what = format!(
                "{} in the mesh, which this version does not enforce: {effect}: {}",
                count(objects.len(), kind.kind),
                some(&names, NAMED)
            );
            let level = if asks { Level::Error } else { kind.level };
            let fix = if level == Level::Error {
                "do not rely on them: keep these workloads out of the mesh, or protect them otherwise, and delete the objects"
            } else {
                "delete them, or say the same with an HTTPRoute whose parent is the Service"
            };
            findings.push(Finding { level, ..Finding::ok(GROUP, "not-enforced", what).fix(fix) });
        }
    }
    findings
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    parents: Vec<Parent>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Parent {
    parent_ref: ParentRef,
    controller_name: String,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct ParentRef {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    port: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
    observed_generation: i64,
}

impl ParentRef {
    fn is_service(&self) -> bool {
        self.kind.as_deref() == Some("Service") && matches!(self.group.as_deref(), Some("" | "core"))
    }
}

fn read<T: for<'de> Deserialize<'de> + Default>(value: Option<&Value>) -> T {
    value.and_then(|value| T::deserialize(value).ok()).unwrap_or_default()
}

fn parents_of(route: &DynamicObject) -> Vec<ParentRef> {
    read(route.data.get("spec").and_then(|spec| spec.get("parentRefs")))
}

fn has_service_parent(route: &DynamicObject) -> bool {
    parents_of(route).iter().any(ParentRef::is_service)
}

fn routes(all: &[DynamicObject]) -> Vec<Finding> {
    let ours: Vec<&DynamicObject> = all.iter().filter(|route| has_service_parent(route)).collect();
    let mut findings: Vec<Finding> = ours.iter().flat_map(|route| problems(route)).collect();
    if findings.is_empty() && !ours.is_empty() {
        findings.push(Finding::ok(GROUP, "routes", format!("{} in effect", count(ours.len(), "route"))));
    }
    let more = findings.len().saturating_sub(ROUTES);
    findings.truncate(ROUTES);
    if more > 0 {
        findings.push(Finding::error(GROUP, "routes", format!("and {more} more problems of routes")));
    }
    findings
}

/// What keeps a route from being in effect at its parents.
fn problems(route: &DynamicObject) -> Vec<Finding> {
    let namespace = route.metadata.namespace.clone().unwrap_or_default();
    let kind = route.types.as_ref().map_or("HTTPRoute", |types| &*types.kind);
    let name = route.metadata.name.clone().unwrap_or_default();
    let look = format!("kubectl -n {namespace} describe {} {name}", kind.to_ascii_lowercase());
    let name = format!("{kind} {namespace}/{name}");
    let generation = route.metadata.generation.unwrap_or(0);
    let status: Status = read(route.data.get("status"));
    let written: Vec<&Parent> = status.parents.iter().filter(|p| p.controller_name == CONTROLLER_NAME).collect();
    if written.is_empty() {
        return vec![
            Finding::warning(GROUP, "routes", format!("{name}: no status yet"))
                .fix("the leader of the control plane writes it within a second: see Control plane above"),
        ];
    }
    let mut findings = Vec::new();
    for parent in written {
        let port = parent.parent_ref.port.map(|port| format!(":{port}")).unwrap_or_default();
        let at = format!("{name} at Service {}{port}", parent.parent_ref.name);
        for condition in &parent.conditions {
            let Condition { kind, reason, message, .. } = condition;
            let level = match (&**kind, &*condition.status) {
                ("Accepted" | "ResolvedRefs", "False") => Level::Error,
                ("weft.dev/Programmed", "False") | ("PartiallyInvalid", "True") => Level::Warning,
                _ => continue,
            };
            let what = format!("{at}: {kind}={}, {reason}: {message}", condition.status);
            findings.push(Finding { level, ..Finding::ok(GROUP, "routes", what).fix(&*look) });
        }
        let stale = parent.conditions.iter().any(|c| c.kind == "Accepted" && c.observed_generation < generation);
        if stale {
            let what = format!("{at}: its status is of an earlier generation");
            findings.push(
                Finding::warning(GROUP, "routes", what).fix("weft check --wait 60s; else see Control plane above"),
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use kube::core::TypeMeta;
    use serde_json::json;

    use super::super::fixtures::{facts, health, namespace};
    use super::*;
    use crate::names::INJECT;

    fn route(parents: Value, status: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "metadata": {"name": "r", "namespace": "shop", "generation": 3},
            "spec": {"parentRefs": parents},
            "status": {"parents": status},
        }))
        .unwrap()
    }

    fn ours(conditions: Value) -> Value {
        json!([{"controllerName": CONTROLLER_NAME, "parentRef": {"group": "", "kind": "Service", "name": "web"}, "conditions": conditions}])
    }

    fn condition(kind: &str, status: &str, generation: i64) -> Value {
        json!({"type": kind, "status": status, "reason": "Why", "message": "what to do", "observedGeneration": generation})
    }

    #[test]
    fn a_route_tells_why_it_is_not_in_effect() {
        let service = json!([{"group": "", "kind": "Service", "name": "web"}]);
        let rows = [
            (
                "in effect",
                service.clone(),
                ours(json!([condition("Accepted", "True", 3), condition("ResolvedRefs", "True", 3)])),
                vec![Level::Ok],
            ),
            ("not accepted", service.clone(), ours(json!([condition("Accepted", "False", 3)])), vec![Level::Error]),
            (
                "a backend missing",
                service.clone(),
                ours(json!([condition("Accepted", "True", 3), condition("ResolvedRefs", "False", 3)])),
                vec![Level::Error],
            ),
            (
                "not yet everywhere",
                service.clone(),
                ours(json!([condition("Accepted", "True", 3), condition("weft.dev/Programmed", "False", 3)])),
                vec![Level::Warning],
            ),
            (
                "in part",
                service.clone(),
                ours(json!([condition("Accepted", "True", 3), condition("PartiallyInvalid", "True", 3)])),
                vec![Level::Warning],
            ),
            (
                "of an earlier generation",
                service.clone(),
                ours(json!([condition("Accepted", "True", 2)])),
                vec![Level::Warning],
            ),
            ("no status", service.clone(), json!([]), vec![Level::Warning]),
            (
                "only somebody else's status",
                service.clone(),
                json!([{"controllerName": "istio.io/gateway-controller"}]),
                vec![Level::Warning],
            ),
            ("a gateway's", json!([{"name": "gateway"}]), json!([]), vec![]),
        ];
        for (row, parents, status, expected) in rows {
            let found = routes(&[route(parents, status)]);
            assert_eq!(found.iter().map(|f| f.level).collect::<Vec<_>>(), expected, "{row}: {found:?}");
        }
        let mut refused = route(service, ours(json!([condition("Accepted", "False", 3)])));
        for kind in ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"] {
            refused.types =
                Some(TypeMeta { api_version: "gateway.networking.k8s.io/v1".to_owned(), kind: kind.to_owned() });
            let found = routes(std::slice::from_ref(&refused));
            assert_eq!(found[0].what, format!("{kind} shop/r at Service web: Accepted=False, Why: what to do"));
            let look = format!("kubectl -n shop describe {} r", kind.to_ascii_lowercase());
            assert_eq!(found[0].fix.as_deref(), Some(&*look));
        }
    }

    #[test]
    fn what_is_not_enforced_counts_only_in_the_mesh() {
        let object = |kind, namespace: &str, asks: Option<&str>| Foreign {
            kind,
            namespace: namespace.to_owned(),
            name: "o".to_owned(),
            asks: asks.map(str::to_owned),
        };
        let rows = [
            ("denies, in an opted-in namespace", object("AuthorizationPolicy", "shop", None), Some(Level::Error)),
            ("denies, for the whole mesh", object("AuthorizationPolicy", "weft-system", None), Some(Level::Error)),
            ("denies, elsewhere", object("AuthorizationPolicy", "other", None), None),
            ("routes", object("VirtualService", "shop", None), Some(Level::Warning)),
            ("balances", object("DestinationRule", "shop", None), Some(Level::Warning)),
            ("wants TLS", object("DestinationRule", "shop", Some("tls: SIMPLE")), Some(Level::Error)),
        ];
        for (row, object, expected) in rows {
            let mut health = health();
            health.namespaces = Seen::Found(vec![namespace("shop", &[(INJECT, "enabled")]), namespace("other", &[])]);
            health.foreign = vec![object];
            let found = foreign(&facts(), &health);
            assert_eq!(found.first().map(|f| f.level), expected, "{row}: {found:?}");
        }
    }

    #[test]
    fn a_destination_rule_says_what_tls_it_wants() {
        let rule = FOREIGN_KINDS.iter().find(|kind| kind.kind == "DestinationRule").unwrap();
        let udp = FOREIGN_KINDS.iter().find(|kind| kind.kind == "UDPRoute").unwrap();
        let rows = [
            (rule, json!({"spec": {"host": "a"}}), Some(None)),
            (rule, json!({"spec": {"trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}}), Some(None)),
            (
                rule,
                json!({"spec": {"subsets": [{"trafficPolicy": {"tls": {"mode": "DISABLE"}}}]}}),
                Some(Some("tls: DISABLE")),
            ),
            (udp, json!({"spec": {"parentRefs": [{"name": "gateway"}]}}), None),
            (udp, json!({"spec": {"parentRefs": [{"name": "s", "kind": "Service", "group": ""}]}}), Some(None)),
        ];
        for (kind, spec, expected) in rows {
            let object: DynamicObject = serde_json::from_value(spec.clone()).unwrap();
            assert_eq!(asks(kind, &object), expected.map(|asks| asks.map(str::to_owned)), "{spec}");
        }
    }
}
