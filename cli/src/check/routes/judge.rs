//! What a route's status says, at each Service that is its parent. Pure, and all there is to decide about routes: `weft check`
//! and `weft check routes` show the same problems.
//!
//! A route is as it should be where our controller has accepted it in its present generation, every reference is resolved,
//! every rule is in effect, and the proxies have it. Parents that are Gateways are somebody else's.

use kube::core::DynamicObject;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_control_plane::status::counts::Waiting;
use weft_control_plane::status::{CONTROLLER_NAME, PROGRAMMED};

use super::advice::{self, Who};
use super::own;
use crate::check::finding::Level;

/// The kinds whose routes are in effect; of others with a Service as parent it is said that they are not.
pub(in crate::check) const IN_EFFECT: [&str; 4] = ["GRPCRoute", "HTTPRoute", "TCPRoute", "TLSRoute"];

/// A route at one of its parents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::check) struct At {
    /// The route's kind.
    pub(in crate::check) kind: String,
    /// Its namespace.
    pub(in crate::check) namespace: String,
    /// Its name.
    pub(in crate::check) name: String,
    /// `namespace/name` of the Service.
    pub(in crate::check) service: String,
    /// The parentRef's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::check) port: Option<u16>,
    /// The parentRef's section: the port's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::check) section_name: Option<String>,
    /// How far the proxies are, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::check) proxies: Option<Proxies>,
    /// What is not as it should be; the worst first.
    pub(in crate::check) problems: Vec<Problem>,
}

/// "36 of 37".
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::check) struct Proxies {
    /// Those that use the Service.
    pub(in crate::check) all: u32,
    /// Those that have ACKed it as it is served.
    pub(in crate::check) acked: u32,
    /// Some of the others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(in crate::check) waiting_for: Vec<Waiting>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::check) struct Problem {
    /// Whether the route, or a part of it, is not in effect, or only late.
    pub(in crate::check) level: Level,
    /// The condition, as `ResolvedRefs=False`; empty where it is missing.
    pub(in crate::check) condition: String,
    /// Its reason.
    pub(in crate::check) reason: String,
    /// Its message.
    pub(in crate::check) message: String,
    /// What to do.
    pub(in crate::check) fix: String,
}

impl At {
    /// `HTTPRoute shop/reviews`
    pub(in crate::check) fn route(&self) -> String {
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }

    /// `shop/reviews:9080`; a port that the parentRef has by its name stands behind `#`.
    pub(in crate::check) fn parent(&self) -> String {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let section = self.section_name.as_ref().map(|section| format!("#{section}")).unwrap_or_default();
        format!("{}{port}{section}", self.service)
    }

    /// The worst of its problems.
    pub(in crate::check) fn level(&self) -> Level {
        self.problems.iter().map(|problem| problem.level).max().unwrap_or(Level::Ok)
    }
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
#[serde(default, rename_all = "camelCase")]
struct ParentRef {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    section_name: Option<String>,
    port: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
    observed_generation: i64,
}

impl ParentRef {
    /// Of whatever group: one that forgot to write it is told so in its status.
    fn is_service(&self) -> bool {
        self.kind.as_deref() == Some("Service")
    }
}

pub(super) fn read<T: for<'de> Deserialize<'de> + Default>(value: Option<&Value>) -> T {
    value.and_then(|value| T::deserialize(value).ok()).unwrap_or_default()
}

fn parents_of(route: &DynamicObject) -> Vec<ParentRef> {
    read(route.data.get("spec").and_then(|spec| spec.get("parentRefs")))
}

/// Whether it is for meshes at all.
pub(in crate::check) fn has_service_parent(route: &DynamicObject) -> bool {
    parents_of(route).iter().any(ParentRef::is_service)
}

/// The route at each of its parents that is a Service.
pub(in crate::check) fn judge(route: &DynamicObject) -> Vec<At> {
    judge_in(route, false)
}

/// The same; `files`: as a control plane without a cluster wrote it.
pub(super) fn judge_in(route: &DynamicObject, files: bool) -> Vec<At> {
    let kind = route.types.as_ref().map_or("HTTPRoute", |types| &*types.kind);
    let namespace = route.metadata.namespace.clone().unwrap_or_default();
    let name = route.metadata.name.clone().unwrap_or_default();
    let generation = route.metadata.generation.unwrap_or(0);
    let status: Status = read(route.data.get("status"));
    let ours: Vec<&Parent> = status.parents.iter().filter(|p| p.controller_name == CONTROLLER_NAME).collect();
    let at = |parent: ParentRef| {
        let written = ours.iter().find(|written| written.parent_ref == parent);
        let service = format!("{}/{}", parent.namespace.as_ref().unwrap_or(&namespace), parent.name);
        let mut at = At {
            kind: kind.to_owned(),
            namespace: namespace.clone(),
            name: name.clone(),
            service,
            port: parent.port,
            section_name: parent.section_name,
            proxies: None,
            problems: Vec::new(),
        };
        let who = Who { kind, namespace: &namespace, name: &name, files };
        at.problems = match written {
            Some(written) => problems(&who, &written.conditions, generation),
            None => vec![unwritten(&who)],
        };
        // Stable: of one level they stay as they come.
        at.problems.sort_by_key(|problem| std::cmp::Reverse(problem.level));
        at
    };
    parents_of(route).into_iter().filter(ParentRef::is_service).map(at).collect()
}

/// What is wrong by these conditions of an object in this generation.
pub(super) fn problems(who: &Who<'_>, conditions: &[Condition], generation: i64) -> Vec<Problem> {
    let bad = |condition: &Condition| {
        let level = match (&*condition.kind, &*condition.status) {
            ("PartiallyInvalid", "True") => Level::Warning,
            ("PartiallyInvalid", _) | (_, "True") => return None,
            ("Accepted" | "ResolvedRefs", "False") => Level::Error,
            // Programmed, what a later version writes, and what is not known.
            _ => Level::Warning,
        };
        let Condition { kind, status, reason, message, .. } = condition;
        Some(Problem {
            level,
            condition: format!("{kind}={status}"),
            reason: reason.clone(),
            message: message.clone(),
            fix: advice::fix(who, kind, reason),
        })
    };
    let mut found: Vec<Problem> = conditions.iter().filter_map(bad).collect();
    if conditions.iter().all(|condition| condition.kind != "Accepted") {
        found.push(unwritten(who));
    }
    let oldest =
        conditions.iter().filter(|condition| condition.kind != PROGRAMMED).map(|c| c.observed_generation).min();
    if let Some(observed) = oldest.filter(|observed| *observed < generation) {
        found.push(Problem {
            level: Level::Warning,
            condition: String::new(),
            reason: "Stale".to_owned(),
            message: format!("its status is of generation {observed}, and it is at {generation}"),
            fix: advice::WAIT.to_owned(),
        });
    }
    found
}

/// Nobody has said anything about it.
fn unwritten(who: &Who<'_>) -> Problem {
    let known = IN_EFFECT.contains(&who.kind) || own::KINDS.iter().any(|(kind, _)| *kind == who.kind);
    let (reason, message, fix) = if known {
        ("NoStatus", "no status yet".to_owned(), advice::WAIT.to_owned())
    } else {
        (
            "NotEnforced",
            format!("this version of Weft does not read {}s: it routes nothing", who.kind),
            advice::instead(who),
        )
    };
    Problem { level: Level::Warning, condition: String::new(), reason: reason.to_owned(), message, fix }
}

#[cfg(test)]
mod tests {
    use kube::core::TypeMeta;
    use serde_json::json;

    use super::*;

    fn route(parents: Value, status: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "metadata": {"name": "r", "namespace": "shop", "generation": 3},
            "spec": {"parentRefs": parents},
            "status": {"parents": status},
        }))
        .unwrap()
    }

    fn ours(parent: &Value, conditions: Value) -> Value {
        json!([{"controllerName": CONTROLLER_NAME, "parentRef": parent, "conditions": conditions}])
    }

    fn condition(kind: &str, status: &str, generation: i64) -> Value {
        json!({"type": kind, "status": status, "reason": "Why", "message": "what happened", "observedGeneration": generation})
    }

    fn text(at: &At) -> String {
        let problem = |problem: &Problem| format!(" {:?} {} {}", problem.level, problem.condition, problem.reason);
        format!("{}:{}", at.parent(), at.problems.iter().map(problem).collect::<String>())
    }

    #[test]
    fn every_condition_that_is_not_as_it_should_be_is_a_problem() {
        let web = json!({"group": "", "kind": "Service", "name": "web"});
        let accepted = condition("Accepted", "True", 3);
        let rows = [
            ("in effect", json!([accepted, condition("ResolvedRefs", "True", 3)]), ""),
            ("programmed", json!([accepted, condition(PROGRAMMED, "True", 3)]), ""),
            ("not partially invalid", json!([accepted, condition("PartiallyInvalid", "False", 3)]), ""),
            ("not accepted", json!([condition("Accepted", "False", 3)]), " Error Accepted=False Why"),
            (
                "the worst comes first",
                json!([accepted, condition("PartiallyInvalid", "True", 3), condition("ResolvedRefs", "False", 3)]),
                " Error ResolvedRefs=False Why Warning PartiallyInvalid=True Why",
            ),
            (
                "not everywhere",
                json!([accepted, condition(PROGRAMMED, "False", 3)]),
                " Warning weft.dev/Programmed=False Why",
            ),
            ("not known", json!([condition("Accepted", "Unknown", 3)]), " Warning Accepted=Unknown Why"),
            ("a later version's", json!([accepted, condition("X", "False", 3)]), " Warning X=False Why"),
            ("stale", json!([condition("Accepted", "True", 2)]), " Warning  Stale"),
            ("stale in one condition", json!([accepted, condition("ResolvedRefs", "True", 2)]), " Warning  Stale"),
            (
                "programmed in the generation before: the next verdict takes seconds",
                json!([accepted, condition(PROGRAMMED, "True", 2)]),
                "",
            ),
            ("an entry without a verdict", json!([]), " Warning  NoStatus"),
        ];
        for (row, conditions, expected) in rows {
            let found = judge(&route(json!([web]), ours(&web, conditions)));
            assert_eq!(found.iter().map(text).collect::<Vec<_>>(), [format!("shop/web:{expected}")], "{row}");
        }
    }

    #[test]
    fn each_parent_has_a_verdict_of_its_own() {
        let one = json!({"group": "", "kind": "Service", "name": "web", "port": 80});
        let two = json!({"group": "", "kind": "Service", "name": "web", "namespace": "other", "sectionName": "grpc"});
        let without_group = json!({"kind": "Service", "name": "web", "group": "gateway.networking.k8s.io"});
        let gateway = json!({"name": "front"});
        let good = json!([condition("Accepted", "True", 3)]);
        let theirs = json!([{"controllerName": "example.com/gateway", "parentRef": one, "conditions": []}]);
        let rows = [
            ("a gateway's", json!([gateway]), theirs.clone(), vec![]),
            (
                "one of two",
                json!([one, two]),
                ours(&one, good.clone()),
                vec!["shop/web:80:", "other/web#grpc: Warning  NoStatus"],
            ),
            ("somebody else's status", json!([one]), theirs, vec!["shop/web:80: Warning  NoStatus"]),
            (
                "a group forgotten",
                json!([without_group, gateway]),
                ours(&without_group, json!([condition("Accepted", "False", 3)])),
                vec!["shop/web: Error Accepted=False Why"],
            ),
        ];
        for (row, parents, status, expected) in rows {
            let found = judge(&route(parents, status));
            assert_eq!(found.iter().map(text).collect::<Vec<_>>(), expected, "{row}");
        }
    }

    #[test]
    fn a_kind_that_is_not_read_is_said_to_route_nothing() {
        let mut route = route(json!([{"group": "", "kind": "Service", "name": "web"}]), json!([]));
        for (kind, reason, fix) in [("UDPRoute", "NotEnforced", "HTTPRoute"), ("TCPRoute", "NoStatus", "weft check")] {
            let api_version = "gateway.networking.k8s.io/v1".to_owned();
            route.types = Some(TypeMeta { api_version, kind: kind.to_owned() });
            let found = judge(&route);
            assert_eq!((found[0].route(), &*found[0].problems[0].reason), (format!("{kind} shop/r"), reason));
            assert!(found[0].problems[0].fix.contains(fix), "{found:?}");
        }
    }
}
