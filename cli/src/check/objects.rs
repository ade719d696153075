//! Whether what users wrote is in effect: routes, by their status, and objects that this version does not enforce. Pure.

use std::collections::BTreeMap;

use kube::core::DynamicObject;
use serde_json::Value;

use super::facts::{Facts, Foreign, Health};
use super::finding::{Finding, Group, Level, count, some};
use super::routes::{At, Problem, has_service_parent, judge};
use crate::seen::Seen;

const GROUP: Group = Group::Objects;
const NAMED: usize = 5;
/// Problems of routes in `weft check`; all of them are in `weft check routes`.
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

/// What this version reads is Service, HTTPRoute, GRPCRoute, TLSRoute, TCPRoute, BackendTLSPolicy, XBackendTrafficPolicy and PeerAuthentication
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

fn routes(all: &[DynamicObject]) -> Vec<Finding> {
    let ours: Vec<&DynamicObject> = all.iter().filter(|route| has_service_parent(route)).collect();
    let mut findings: Vec<Finding> = ours.iter().flat_map(|route| problems(route)).collect();
    if findings.is_empty() && !ours.is_empty() {
        findings.push(Finding::ok(GROUP, "routes", format!("{} in effect", count(ours.len(), "route"))));
    }
    let more = findings.len().saturating_sub(ROUTES);
    findings.truncate(ROUTES);
    if more > 0 {
        findings.push(
            Finding::error(GROUP, "routes", format!("and {more} more problems of routes")).fix("weft check routes"),
        );
    }
    findings
}

/// What keeps a route from being in effect at its parents.
fn problems(route: &DynamicObject) -> Vec<Finding> {
    let findings = |at: At| {
        let place = format!("{} at Service {}", at.route(), at.parent());
        at.problems.into_iter().map(move |problem| {
            let Problem { level, condition, reason, message, fix } = problem;
            let said = if condition.is_empty() { message } else { format!("{condition}, {reason}: {message}") };
            Finding { level, ..Finding::ok(GROUP, "routes", format!("{place}: {said}")).fix(fix) }
        })
    };
    judge(route).into_iter().flat_map(findings).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_control_plane::status::CONTROLLER_NAME;

    use super::super::fixtures::{facts, health, namespace};
    use super::*;
    use crate::names::INJECT;

    #[test]
    fn a_route_tells_why_it_is_not_in_effect() {
        let service = json!({"group": "", "kind": "Service", "name": "web", "port": 80});
        let route = |parent: &Value, status: &str| -> DynamicObject {
            let condition =
                json!({"type": "Accepted", "status": status, "reason": "NoMatchingParent", "message": "no web"});
            let parents = json!([{"controllerName": CONTROLLER_NAME, "parentRef": parent, "conditions": [condition]}]);
            serde_json::from_value(json!({
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "GRPCRoute",
                "metadata": {"name": "r", "namespace": "shop"},
                "spec": {"parentRefs": [parent]},
                "status": {"parents": parents},
            }))
            .unwrap()
        };
        let found = routes(&[route(&service, "True"), route(&json!({"name": "gateway"}), "True")]);
        assert_eq!((found.len(), found[0].level, &*found[0].what), (1, Level::Ok, "1 route in effect"));
        let found = routes(&[route(&service, "False")]);
        let what = "GRPCRoute shop/r at Service shop/web:80: Accepted=False, NoMatchingParent: no web";
        assert_eq!((found[0].level, &*found[0].what), (Level::Error, what));
        assert!(found[0].fix.as_deref().is_some_and(|fix| fix.contains("kubectl -n shop edit grpcroute r")));
        let many: Vec<_> = std::iter::repeat_n(route(&service, "False"), 25).collect();
        let found = routes(&many);
        assert_eq!((found.len(), &*found[20].what), (21, "and 5 more problems of routes"));
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
