//! Accepted of the kinds that are Weft's own, as `status.conditions` of each object, while this replica leads. What an object
//! refers to, and who refers to it, is in the status of routes.
//!
//! Whether an object is right is asked of the decoder that the source asks, so both say the same of one generation. One
//! that is not right stays in effect as it was before, or is in none: the message says why, as `weft check` does.
//!
//! Bound: the objects whose status is to be written.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::future::OptionFuture;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::dir::rfc3339;
use super::kinds::pauses;
use super::{MAX_QUOTED, TIME_LIMIT, Writer};
use crate::identity::FIELD_MANAGER;
use crate::model::Kind;
use crate::source::kubernetes::errors_in;

/// Between tries of a write that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// A kind of ours: so far there is one.
const KIND: Kind = Kind::FaultInjection;

fn resource() -> ApiResource {
    ApiResource {
        group: "weft.dev".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "weft.dev/v1alpha1".to_owned(),
        kind: "FaultInjection".to_owned(),
        plural: "faultinjections".to_owned(),
    }
}

/// Leads until it is dropped.
pub(super) async fn lead(writer: &Writer) {
    let all = Api::<DynamicObject>::all_with(writer.client.clone(), &resource());
    let mut events = watcher(all, watcher::Config::default()).backoff(pauses()).boxed();
    let mut due: BTreeMap<(String, String), DynamicObject> = BTreeMap::new();
    let mut again: Option<Instant> = None;
    loop {
        let later = again.map(tokio::time::sleep_until);
        tokio::select! {
            Some(event) = events.next() => match event {
                Ok(watcher::Event::Init) => due.clear(),
                Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                    due.insert(key(&object.metadata), object);
                }
                Ok(watcher::Event::Delete(object)) => drop(due.remove(&key(&object.metadata))),
                Ok(watcher::Event::InitDone) => {}
                // A kind that is not installed is no fault.
                Err(error) => tracing::debug!(%error, "the watch on the status of our own kinds; trying again"),
            },
            Some(()) = OptionFuture::from(later) => again = None,
        }
        if again.is_some() {
            continue;
        }
        for (key, object) in std::mem::take(&mut due) {
            if !write(writer, &key, &object).await {
                again = Some(Instant::now() + AGAIN);
                due.insert(key, object);
            }
        }
    }
}

fn key(metadata: &ObjectMeta) -> (String, String) {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// Writes what is to be written; whether nothing is left to do.
async fn write(writer: &Writer, (namespace, name): &(String, String), object: &DynamicObject) -> bool {
    let now = rfc3339(SystemTime::now());
    let Some(conditions) = serde_json::to_value(object).ok().and_then(|object| wanted(&object, &now)) else {
        return true;
    };
    let objects = Api::<DynamicObject>::namespaced_with(writer.client.clone(), namespace, &resource());
    // Named versions make it a replace of exactly what was read.
    let version = &object.metadata.resource_version;
    let patch = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(&patch);
    let error = match tokio::time::timeout(TIME_LIMIT, objects.patch_status(name, &params, &patch)).await {
        Ok(Ok(_)) => {
            writer.metrics.on_write("written");
            return true;
        }
        // The watch brings what it is now.
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
            writer.metrics.on_write("conflict");
            return true;
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => return true,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {TIME_LIMIT:?}"),
    };
    writer.metrics.on_write("failed");
    tracing::warn!(kind = "FaultInjection", namespace, name, error, "cannot write the status; trying again");
    false
}

/// The conditions as they should be; `None` where they are.
fn wanted(object: &Value, now: &str) -> Option<Vec<Value>> {
    let generation = object.pointer("/metadata/generation").cloned().unwrap_or_default();
    let mut errors = errors_in(KIND, object);
    errors.truncate(MAX_QUOTED);
    let (status, reason, message) = if errors.is_empty() {
        ("True", "Accepted", "routes may name it".to_owned())
    } else {
        (
            "False",
            "Invalid",
            format!("{}. What it was before, if it was ever right, stays in effect", errors.join("; ")),
        )
    };
    let before = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let (ours, others): (Vec<_>, Vec<_>) = before.into_iter().partition(|it| it["type"] == "Accepted");
    let said = ours.first();
    // In one generation False may become True and nothing else changes: so the control planes of two revisions, which may not
    // know the same fields, do not overwrite each other for ever.
    if said.is_some_and(|it| it["observedGeneration"] == generation && (it["status"] == "True" || status == "False")) {
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
        let first = wanted(&object(1, good.clone(), None), "t1").unwrap();
        assert_eq!((&first[0]["status"], &first[0]["observedGeneration"], first.len()), (&json!("True"), &json!(1), 1));
        assert_eq!(wanted(&object(1, good.clone(), Some(first.clone())), "t2"), None, "it is said");

        let second = wanted(&object(2, good, Some(first.clone())), "t2").unwrap();
        assert_eq!((&second[0]["observedGeneration"], &second[0]["lastTransitionTime"]), (&json!(2), &json!("t1")));

        let bad = json!({"delay": {"fixedDelay": "0s"}, "abort": {}});
        let other = json!({"type": "Other", "status": "True"});
        let third = wanted(&object(3, bad, Some(vec![other.clone(), second[0].clone()])), "t3").unwrap();
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
            assert_eq!(wanted(&object(3, spec.clone(), Some(say(said))), "t4").is_some(), writes, "{row}");
        }
    }
}
