//! Accepted of the kinds that are Weft's own, as `status.conditions` of each object, while this replica leads.
//!
//! Whether an object is right is asked of the decoder that the source asks, so both say the same of one generation. One
//! that is not right stays in effect as it was before, or is in none: the message says why, as `weft check` does. Whether there is
//! what a targetRef names is asked of translation, again every [`AGAIN`]. Who names a FaultInjection is in the status of routes.
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
const KINDS: [(Kind, &str, &str); 2] = [
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
    let mut held: BTreeMap<(String, String), DynamicObject> = BTreeMap::new();
    let mut due = BTreeSet::new();
    let mut again: Option<Instant> = None;
    loop {
        let later = again.map(tokio::time::sleep_until);
        tokio::select! {
            Some(event) = events.next() => match event {
                Ok(watcher::Event::Init) => held.clear(),
                Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                    due.insert(key(&object.metadata));
                    held.insert(key(&object.metadata), object);
                }
                Ok(watcher::Event::Delete(object)) => drop(held.remove(&key(&object.metadata))),
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
            if let Some(conditions) = wanted((kind, means), &value, &missing, &rfc3339(SystemTime::now())) {
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
    let targets = object.pointer("/spec/targetRefs").and_then(Value::as_array).into_iter().flatten();
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
    targets.filter_map(lacks).collect()
}

fn key(metadata: &ObjectMeta) -> (String, String) {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// One try.
async fn write(
    writer: &Writer,
    resource: &ApiResource,
    (namespace, name): &(String, String),
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
fn wanted((kind, means): (Kind, &str), object: &Value, missing: &[String], now: &str) -> Option<Vec<Value>> {
    let generation = object.pointer("/metadata/generation").cloned().unwrap_or_default();
    let mut errors = errors_in(kind, object);
    errors.truncate(MAX_QUOTED);
    let (status, reason, message) = if !errors.is_empty() {
        let errors = errors.join("; ");
        ("False", INVALID, format!("{errors}. What it was before, if it was ever right, stays in effect"))
    } else if !missing.is_empty() {
        let missing = missing.join(", ");
        let message = format!("there is no {missing}: make it, or mend spec.targetRefs; others that it names count");
        ("False", "TargetNotFound", message)
    } else {
        ("True", "Accepted", means.to_owned())
    };
    let before = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let (ours, others): (Vec<_>, Vec<_>) = before.into_iter().partition(|it| it["type"] == "Accepted");
    let said = ours.first();
    // What one generation was found right for is not taken back: so the control planes of two revisions, one of which knows
    // fewer fields, do not overwrite each other for ever.
    let stands = |it: &Value| reason == INVALID || (it["status"] == status && it["reason"] == reason);
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
        let first = wanted(FAULT, &object(1, good.clone(), None), &[], "t1").unwrap();
        assert_eq!((&first[0]["status"], &first[0]["observedGeneration"], first.len()), (&json!("True"), &json!(1), 1));
        assert_eq!(wanted(FAULT, &object(1, good.clone(), Some(first.clone())), &[], "t2"), None, "it is said");

        let second = wanted(FAULT, &object(2, good, Some(first.clone())), &[], "t2").unwrap();
        assert_eq!((&second[0]["observedGeneration"], &second[0]["lastTransitionTime"]), (&json!(2), &json!("t1")));

        let bad = json!({"delay": {"fixedDelay": "0s"}, "abort": {}});
        let other = json!({"type": "Other", "status": "True"});
        let third = wanted(FAULT, &object(3, bad, Some(vec![other.clone(), second[0].clone()])), &[], "t3").unwrap();
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
            assert_eq!(wanted(FAULT, &object(3, spec.clone(), Some(say(said))), &[], "t4").is_some(), writes, "{row}");
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
        let said = wanted(LIMIT, &object(None), &gone, "t1").unwrap();
        assert_eq!((&said[0]["status"], &said[0]["reason"]), (&json!("False"), &json!("TargetNotFound")));
        assert!(said[0]["message"].as_str().unwrap().contains("no Service shop/b"), "{said:?}");
        assert_eq!(wanted(LIMIT, &object(Some(said.clone())), &gone, "t2"), None);
        let found = wanted(LIMIT, &object(Some(said)), &[], "t3").unwrap();
        assert_eq!((&found[0]["status"], &found[0]["lastTransitionTime"]), (&json!("True"), &json!("t3")));
        assert!(wanted(LIMIT, &object(Some(found)), &gone, "t4").is_some(), "and gone again");
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
