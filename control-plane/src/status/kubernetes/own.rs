//! Accepted of the kinds that are Weft's own, as `status.conditions` of each object, while this replica leads.
//!
//! Whether an object is right is asked of the decoder that the source asks, so both say the same of one generation. One
//! that is not right stays in effect as it was before, or is in none: the message says why, as `weft check` does. Whether there is
//! what a targetRef names is asked of translation, again every [`AGAIN`]. Of several BackendPolicies for a Service the oldest counts, and
//! the others say so. Who names a FaultInjection is in the status of routes.
//!
//! Bound: the objects.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::future::{OptionFuture, join_all};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use tokio::time::Instant;
use weft_proto::type_url;

use super::super::dir::rfc3339;
use super::kinds::Pauses;
use super::{MAX_QUOTED, TIME_LIMIT, Writer};
use crate::identity::FIELD_MANAGER;
use crate::model::{Kind, ObjectKey, ObjectName};
use crate::source::kind_name;
use crate::source::kubernetes::errors_in;
use crate::translate::{Lookup, Translated, View};

/// Between looks at all of them: for writes that failed, and targets that came or went.
const AGAIN: Duration = Duration::from_secs(5);
/// Reason of what the source does not take.
const INVALID: &str = "Invalid";

/// Each, by its name in URLs, and what it means that it is accepted.
const KINDS: [(Kind, &str, &str); 3] = [
    (Kind::BackendPolicy, "backendpolicies", "clients call its Services as it says"),
    (Kind::FaultInjection, "faultinjections", "routes may name it"),
    (Kind::RateLimit, "ratelimits", "the pods of its Services, and the clients of its routes, count requests"),
];

fn resource(kind: Kind, plural: &str) -> ApiResource {
    ApiResource {
        group: "weft.dev".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "weft.dev/v1alpha1".to_owned(),
        kind: kind_name(kind).to_owned(),
        plural: plural.to_owned(),
    }
}

/// Leads until it is dropped.
pub(super) async fn lead(writer: &Writer) {
    join_all(KINDS.map(|kind| lead_one(writer, kind))).await;
}

async fn lead_one(writer: &Writer, (kind, plural, means): (Kind, &'static str, &'static str)) {
    let resource = resource(kind, plural);
    let all = Api::<DynamicObject>::all_with(writer.client.clone(), &resource);
    let mut events = watcher(all, watcher::Config::default()).backoff(Pauses::default()).boxed();
    let mut held: BTreeMap<Key, DynamicObject> = BTreeMap::new();
    let mut due = BTreeSet::new();
    let mut again: Option<Instant> = None;
    loop {
        let later = again.map(tokio::time::sleep_until);
        tokio::select! {
            Some(event) = events.next() => match event {
                Ok(watcher::Event::Init) => held.clear(),
                Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                    let key = key(&object.metadata);
                    due.extend(rivals(kind, &key, &held));
                    due.insert(key.clone());
                    held.insert(key, object);
                }
                Ok(watcher::Event::Delete(object)) => {
                    let key = key(&object.metadata);
                    held.remove(&key);
                    due.extend(rivals(kind, &key, &held));
                }
                Ok(watcher::Event::InitDone) => {}
                // A kind that is not installed is no fault.
                Err(error) => tracing::debug!(%error, "the watch on the status of our own kinds; trying again"),
            },
            Some(()) = OptionFuture::from(later) => {
                again = None;
                due.extend(held.keys().cloned());
            }
        }
        for key in std::mem::take(&mut due) {
            let Some((object, value)) = held.get(&key).and_then(|it| Some((it, serde_json::to_value(it).ok()?))) else {
                continue;
            };
            let missing = missing(&value, writer.shared.news.lock().state.as_deref());
            let hindered = hindered(&missing, &outranked(kind, object, held.values()));
            if let Some(conditions) = wanted((kind, means), &value, hindered, &rfc3339(SystemTime::now())) {
                write(writer, &resource, &key, object, &conditions).await;
            }
        }
        if again.is_none() && !held.is_empty() {
            again = Some(Instant::now() + AGAIN);
        }
    }
}

/// Services and routes that an object names and that there are not.
fn missing(object: &Value, state: Option<&Translated>) -> Vec<String> {
    let Some(state) = state else { return Vec::new() };
    let view =
        View { namespace: object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("").to_owned() };
    let lacks = |target: &Value| {
        let name = ObjectName::new(&*view.namespace, target.get("name")?.as_str()?);
        let route = |kind| {
            let key = ObjectKey { kind, name: name.clone() };
            // One whose parents are others' would never be asked.
            state.lacks_route(&key).then(|| format!("{} {name} with a Service as parent", kind_name(kind)))
        };
        match target.get("kind").and_then(Value::as_str) {
            Some("HTTPRoute") => route(Kind::HttpRoute),
            Some("GRPCRoute") => route(Kind::GrpcRoute),
            _ => {
                let absent = state.lookup(type_url::SERVICE, &name.to_string(), &view) == Lookup::Absent;
                absent.then(|| format!("Service {name}"))
            }
        }
    };
    targets(object).filter_map(lacks).collect()
}

/// What an object is for, which is of its own namespace.
fn targets(object: &Value) -> impl Iterator<Item = &Value> {
    object.pointer("/spec/targetRefs").and_then(Value::as_array).into_iter().flatten()
}

/// The names of those, where they are Services all.
fn services(object: &Value) -> impl Iterator<Item = &str> {
    targets(object).filter_map(|target| target.get("name")?.as_str())
}

/// Whose status may change with an object's: those of its namespace, of a kind of which one alone counts for a Service.
fn rivals(kind: Kind, key: &Key, held: &BTreeMap<Key, DynamicObject>) -> Vec<Key> {
    let others = held.keys().filter(|other| kind == Kind::BackendPolicy && other.0 == key.0);
    others.cloned().collect()
}

/// Services for which another object counts, and its name: the oldest, then the first by name, as translation has it.
fn outranked<'a>(
    kind: Kind,
    object: &DynamicObject,
    all: impl Iterator<Item = &'a DynamicObject>,
) -> Vec<(String, String)> {
    if kind != Kind::BackendPolicy {
        return Vec::new();
    }
    let age = |it: &DynamicObject| (it.metadata.creation_timestamp.clone(), it.metadata.name.clone());
    let older = all.filter(|it| it.metadata.namespace == object.metadata.namespace && age(it) < age(object));
    let mut first = BTreeMap::new();
    for it in older {
        for target in services(&it.data).filter(|target| services(&object.data).any(|ours| ours == *target)) {
            let held = first.entry(target).or_insert(it);
            if age(it) < age(held) {
                *held = it;
            }
        }
    }
    let named = |name: &str| format!("{}/{name}", object.metadata.namespace.as_deref().unwrap_or_default());
    let pair =
        |(target, it): (&str, &DynamicObject)| (named(target), named(it.metadata.name.as_deref().unwrap_or_default()));
    first.into_iter().map(pair).collect()
}

/// Why an object that is right does not do all that it says.
fn hindered(missing: &[String], outranked: &[(String, String)]) -> Option<(&'static str, String)> {
    if !missing.is_empty() {
        let missing = missing.join(", ");
        let message = format!("there is no {missing}: make it, or mend spec.targetRefs; others that it names count");
        return Some(("TargetNotFound", message));
    }
    if outranked.is_empty() {
        return None;
    }
    let names: Vec<_> = outranked.iter().map(|(service, by)| format!("for Service {service} that is {by}")).collect();
    let message = format!(
        "of several policies the oldest counts, whole, as soon as it is right: {}. Put both into one, or take the Service from \
         spec.targetRefs; others that it names count",
        names.join(", ")
    );
    Some(("Conflicted", message))
}

/// Namespace and name.
type Key = (String, String);

fn key(metadata: &ObjectMeta) -> Key {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// One try.
async fn write(
    writer: &Writer,
    resource: &ApiResource,
    (namespace, name): &Key,
    object: &DynamicObject,
    conditions: &[Value],
) {
    let objects = Api::<DynamicObject>::namespaced_with(writer.client.clone(), namespace, resource);
    // Named versions make it a replace of exactly what was read.
    let version = &object.metadata.resource_version;
    let patch = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(&patch);
    let error = match tokio::time::timeout(TIME_LIMIT, objects.patch_status(name, &params, &patch)).await {
        Ok(Ok(_)) => return writer.metrics.on_write("written"),
        // The watch brings what it is now.
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => return writer.metrics.on_write("conflict"),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {TIME_LIMIT:?}"),
    };
    writer.metrics.on_write("failed");
    tracing::warn!(kind = %resource.kind, namespace, name, error, "cannot write the status; trying again");
}

/// The conditions as they should be; `None` where they are.
fn wanted(
    (kind, means): (Kind, &str),
    object: &Value,
    hindered: Option<(&'static str, String)>,
    now: &str,
) -> Option<Vec<Value>> {
    let generation = object.pointer("/metadata/generation").cloned().unwrap_or_default();
    let mut errors = errors_in(kind, object);
    errors.truncate(MAX_QUOTED);
    let (status, reason, message) = if !errors.is_empty() {
        let errors = errors.join("; ");
        ("False", INVALID, format!("{errors}. What it was before, if it was ever right, stays in effect"))
    } else if let Some((reason, message)) = hindered {
        ("False", reason, message)
    } else {
        ("True", "Accepted", means.to_owned())
    };
    let before = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let (ours, others): (Vec<_>, Vec<_>) = before.into_iter().partition(|it| it["type"] == "Accepted");
    let said = ours.first();
    // What one generation was found right for is not taken back: so the control planes of two revisions, one of which knows
    // fewer fields, do not overwrite each other for ever.
    let same =
        |it: &Value| it["status"] == status && it["reason"] == reason && (status == "True" || it["message"] == message);
    let stands = |it: &Value| reason == INVALID || same(it);
    if said.is_some_and(|it| it["observedGeneration"] == generation && stands(it)) {
        return None;
    }
    let since = said.filter(|it| it["status"] == status).map(|it| it["lastTransitionTime"].clone());
    let condition = json!({
        "type": "Accepted",
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": since.unwrap_or_else(|| json!(now)),
    });
    Some(std::iter::once(condition).chain(others).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Age, Batch, HttpRoute, Meta, Object, ParentRef, Service, ServiceKind};
    use crate::translate::{MeshConfig, Translator};

    const FAULT: (Kind, &str) = (Kind::FaultInjection, "fine");

    fn object(generation: i64, spec: Value, conditions: Option<Vec<Value>>) -> Value {
        json!({
            "apiVersion": "weft.dev/v1alpha1",
            "kind": "FaultInjection",
            "metadata": {"name": "faults", "namespace": "shop", "generation": generation, "uid": "u", "resourceVersion": "7"},
            "spec": spec,
            "status": conditions.map(|conditions| json!({"conditions": conditions})),
        })
    }

    #[test]
    fn what_is_right_is_accepted_once_and_what_is_wrong_says_why() {
        let good = json!({"delay": {"fixedDelay": "1s"}});
        let first = wanted(FAULT, &object(1, good.clone(), None), None, "t1").unwrap();
        assert_eq!((&first[0]["status"], &first[0]["observedGeneration"], first.len()), (&json!("True"), &json!(1), 1));
        assert_eq!(wanted(FAULT, &object(1, good.clone(), Some(first.clone())), None, "t2"), None, "it is said");

        let second = wanted(FAULT, &object(2, good, Some(first.clone())), None, "t2").unwrap();
        assert_eq!((&second[0]["observedGeneration"], &second[0]["lastTransitionTime"]), (&json!(2), &json!("t1")));

        let bad = json!({"delay": {"fixedDelay": "0s"}, "abort": {}});
        let other = json!({"type": "Other", "status": "True"});
        let third = wanted(FAULT, &object(3, bad, Some(vec![other.clone(), second[0].clone()])), None, "t3").unwrap();
        assert_eq!((&third[0]["status"], &third[0]["lastTransitionTime"]), (&json!("False"), &json!("t3")));
        let message = third[0]["message"].as_str().unwrap();
        for field in ["spec.delay.fixedDelay: must be more than 0s", "spec.abort: needs httpStatus"] {
            assert!(message.contains(field), "{message}");
        }
        assert_eq!(third[1], other, "somebody else's stays");

        let say = |status: &str| vec![json!({"type": "Accepted", "status": status, "observedGeneration": 3})];
        let (good, bad) = (json!({"delay": {"fixedDelay": "1s"}}), json!({}));
        for (row, spec, said, writes) in [
            ("another version knew less", &good, "False", true),
            ("another version knows more", &bad, "True", false),
            ("they agree", &bad, "False", false),
        ] {
            assert_eq!(wanted(FAULT, &object(3, spec.clone(), Some(say(said))), None, "t4").is_some(), writes, "{row}");
        }
    }

    fn meta(namespace: &str, name: &str) -> Meta {
        Meta {
            name: ObjectName::new(namespace, name),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            generation: 1,
            age: Age(0, String::new(), 0),
        }
    }

    fn service(namespace: &str, name: &str) -> Object {
        Object::Service(Service {
            meta: meta(namespace, name),
            kind: ServiceKind::Headless,
            vips: Vec::new(),
            ports: Vec::new(),
            selector: BTreeMap::new(),
            publish_not_ready: false,
            client_ip_affinity: None,
            node_local: false,
            traffic_distribution: None,
        })
    }

    #[test]
    fn a_target_that_is_not_there_is_named_until_it_is() {
        const LIMIT: (Kind, &str) = (Kind::RateLimit, "fine");
        let spec =
            json!({"targetRefs": [{"kind": "Service", "name": "a"}, {"kind": "Service", "name": "b"}], "requests": 1});
        let object = |conditions| object(1, spec.clone(), conditions);
        let mut translator = Translator::new(MeshConfig::default());
        let before = translator.translated();
        assert_eq!(missing(&object(None), Some(&before)), [""; 0], "nobody knows yet");
        let upserts = vec![service("shop", "a"), service("else", "b")];
        let (world, _) = translator.apply(Batch { upserts, ..Batch::default() });
        let gone = missing(&object(None), Some(&world));
        assert_eq!(gone, ["Service shop/b"]);
        let said = wanted(LIMIT, &object(None), hindered(&gone, &[]), "t1").unwrap();
        assert_eq!((&said[0]["status"], &said[0]["reason"]), (&json!("False"), &json!("TargetNotFound")));
        assert!(said[0]["message"].as_str().unwrap().contains("no Service shop/b"), "{said:?}");
        assert_eq!(wanted(LIMIT, &object(Some(said.clone())), hindered(&gone, &[]), "t2"), None);
        let found = wanted(LIMIT, &object(Some(said)), None, "t3").unwrap();
        assert_eq!((&found[0]["status"], &found[0]["lastTransitionTime"]), (&json!("True"), &json!("t3")));
        assert!(wanted(LIMIT, &object(Some(found)), hindered(&gone, &[]), "t4").is_some(), "and gone again");
    }

    #[test]
    fn of_several_policies_for_a_service_all_but_the_oldest_say_who_counts() {
        let policy = |name: &str, created: &str, services: &[&str]| -> DynamicObject {
            let targets: Vec<_> = services.iter().map(|name| json!({"kind": "Service", "name": name})).collect();
            serde_json::from_value(json!({
                "apiVersion": "weft.dev/v1alpha1", "kind": "BackendPolicy",
                "metadata": {"name": name, "namespace": "shop", "creationTimestamp": created},
                "spec": {"targetRefs": targets},
            }))
            .unwrap()
        };
        let all = [
            policy("b", "2026-01-02T00:00:00Z", &["web", "db"]),
            policy("c", "2026-01-02T00:00:00Z", &["web"]),
            policy("old", "2026-01-01T00:00:00Z", &["db"]),
            policy("d", "2026-01-03T00:00:00Z", &["web", "cache"]),
        ];
        let said = |index: usize| outranked(Kind::BackendPolicy, &all[index], all.iter());
        let pair = |service: &str, by: &str| (format!("shop/{service}"), format!("shop/{by}"));
        assert_eq!(said(0), [pair("db", "old")]);
        assert_eq!(said(1), [pair("web", "b")], "of one age the first by name");
        assert_eq!(said(2), []);
        assert_eq!(said(3), [pair("web", "b")], "not c, which does not count either");
        assert_eq!(outranked(Kind::RateLimit, &all[3], all.iter()), [], "several limits hold at once");

        const POLICY: (Kind, &str) = (Kind::BackendPolicy, "fine");
        let object = object(1, json!({"targetRefs": [{"kind": "Service", "name": "web"}]}), None);
        let first = wanted(POLICY, &object, hindered(&[], &said(3)), "t1").unwrap();
        assert_eq!((&first[0]["status"], &first[0]["reason"]), (&json!("False"), &json!("Conflicted")));
        assert!(
            first[0]["message"].as_str().unwrap().contains("for Service shop/web that is shop/b. Put both into one")
        );
        let mut again = object;
        again["status"] = json!({"conditions": first});
        assert_eq!(wanted(POLICY, &again, hindered(&[], &said(3)), "t2"), None);
        assert!(wanted(POLICY, &again, hindered(&[], &said(0)), "t2").is_some(), "another one counts");
        assert!(wanted(POLICY, &again, None, "t2").is_some());
    }

    #[test]
    fn a_route_that_is_not_there_or_has_another_parent_is_named() {
        let spec = json!({"targetRefs": [
            {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "a"},
            {"group": "gateway.networking.k8s.io", "kind": "GRPCRoute", "name": "a"},
            {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "b"},
        ], "requests": 1});
        let object = object(1, spec, None);
        let route = |name: &str, kind: &str| {
            let parent = ParentRef {
                group: Some(String::new()),
                kind: Some(kind.to_owned()),
                namespace: None,
                name: "reviews".to_owned(),
                section_name: None,
                port: None,
            };
            Object::HttpRoute(HttpRoute { meta: meta("shop", name), parents: vec![parent], rules: Vec::new() })
        };
        let mut translator = Translator::new(MeshConfig::default());
        assert_eq!(missing(&object, Some(&translator.translated())), [""; 0], "nobody knows yet");
        let upserts = vec![route("a", "Service"), route("b", "Gateway")];
        let (world, _) = translator.apply(Batch { upserts, ..Batch::default() });
        let gone = ["GRPCRoute shop/a with a Service as parent", "HTTPRoute shop/b with a Service as parent"];
        assert_eq!(missing(&object, Some(&world)), gone);
    }
}
