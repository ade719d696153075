//! Accepted of the kinds that are Weft's own, as `status.conditions` of each object, while this replica leads.
//!
//! What is said of an object is translation's to decide (`translate/own.rs`); whether it is right is asked of the decoder that the
//! source asks, so both say the same of one generation. Of one that has not been translated nothing is said yet. What could not be
//! written is tried again every [`AGAIN`].
//!
//! Bound: the objects; [`MAX_WRITES`] requests under way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::future::OptionFuture;
use futures_util::stream::{self, BoxStream, select_all};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::dir::rfc3339;
use super::super::refused::quoted;
use super::kinds::Pauses;
use super::{MAX_WRITES, TIME_LIMIT, Writer};
use crate::identity::FIELD_MANAGER;
use crate::model::{Kind, ObjectKey, ObjectName};
use crate::source::kind_name;
use crate::source::kubernetes::errors_in;
use crate::status::Condition;
use crate::translate::{OWN_KINDS, refused};

/// Between looks at all of them, for writes that failed.
const AGAIN: Duration = Duration::from_secs(5);

type Event = watcher::Result<watcher::Event<DynamicObject>>;

fn resource(kind: Kind) -> ApiResource {
    ApiResource {
        group: "weft.dev".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "weft.dev/v1alpha1".to_owned(),
        kind: kind_name(kind).to_owned(),
        plural: match kind {
            Kind::BackendPolicy => "backendpolicies".to_owned(),
            other => format!("{}s", kind_name(other).to_ascii_lowercase()),
        },
    }
}

fn watch(client: &Client, kind: Kind) -> BoxStream<'static, (Kind, Event)> {
    let all = Api::<DynamicObject>::all_with(client.clone(), &resource(kind));
    watcher(all, watcher::Config::default()).backoff(Pauses::default()).map(move |event| (kind, event)).boxed()
}

/// Leads until it is dropped.
pub(super) async fn lead(writer: &Writer) {
    let mut events = select_all(OWN_KINDS.map(|kind| watch(&writer.client, kind)));
    let mut held: BTreeMap<ObjectKey, DynamicObject> = BTreeMap::new();
    let mut due = BTreeSet::new();
    let mut again: Option<Instant> = None;
    loop {
        let later = again.map(tokio::time::sleep_until);
        tokio::select! {
            Some((kind, event)) = events.next() => match event {
                Ok(watcher::Event::Init) => held.retain(|key, _| key.kind != kind),
                Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                    let key = key(kind, &object);
                    due.insert(key.clone());
                    held.insert(key, object);
                }
                Ok(watcher::Event::Delete(object)) => drop(held.remove(&key(kind, &object))),
                Ok(watcher::Event::InitDone) => {}
                // A kind that is not installed is no fault.
                Err(error) => tracing::debug!(%error, "the watch on the status of our own kinds; trying again"),
            },
            () = writer.shared.own_changed.notified() => {
                due.append(&mut writer.shared.news.lock().own_changed);
            }
            Some(()) = OptionFuture::from(later) => {
                again = None;
                due.extend(held.keys().cloned());
            }
        }
        let now = rfc3339(SystemTime::now());
        let state = writer.shared.news.lock().state.clone();
        let decided = std::mem::take(&mut due).into_iter().filter_map(|key| {
            let object = held.get(&key)?;
            let value = serde_json::to_value(object).ok()?;
            let said = state.as_ref().and_then(|state| state.own_condition(&key));
            let conditions = wanted(key.kind, &value, said.map(|said| &**said), &now)?;
            Some((key, object, conditions))
        });
        let writes = stream::iter(decided.collect::<Vec<_>>());
        let write = |(key, object, conditions)| write(writer, key, object, conditions);
        writes.for_each_concurrent(MAX_WRITES, write).await;
        if again.is_none() && !held.is_empty() {
            again = Some(Instant::now() + AGAIN);
        }
    }
}

fn key(kind: Kind, object: &DynamicObject) -> ObjectKey {
    let (namespace, name) = (object.metadata.namespace.as_deref(), object.metadata.name.as_deref());
    ObjectKey { kind, name: ObjectName::new(namespace.unwrap_or_default(), name.unwrap_or_default()) }
}

/// One try.
async fn write(writer: &Writer, key: ObjectKey, object: &DynamicObject, conditions: Vec<Value>) {
    let ObjectName { namespace, name } = &key.name;
    let objects = Api::<DynamicObject>::namespaced_with(writer.client.clone(), namespace, &resource(key.kind));
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
    tracing::warn!(kind = kind_name(key.kind), namespace, name, error, "cannot write the status; trying again");
}

/// The conditions as they should be; `None` where they are, and where that is not known yet. `said` is translation's word.
fn wanted(kind: Kind, object: &Value, said: Option<&Condition>, now: &str) -> Option<Vec<Value>> {
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default();
    let errors = errors_in(kind, object);
    let right = errors.is_empty();
    let condition = match said.filter(|said| said.observed_generation == generation) {
        _ if !right => refused(&quoted(errors), generation),
        Some(said) => said.clone(),
        None => return None,
    };
    let status = if condition.status { "True" } else { "False" };
    let before = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let (ours, others): (Vec<_>, Vec<_>) = before.into_iter().partition(|it| it["type"] == condition.kind);
    let written = ours.first();
    // What one generation was found right for is not taken back: so the control planes of two revisions, one of which knows
    // fewer fields, do not overwrite each other for ever.
    let same = |it: &Value| {
        it["status"] == status
            && it["reason"] == *condition.reason
            && (condition.status || it["message"] == condition.message)
    };
    if written.is_some_and(|it| it["observedGeneration"] == generation && (!right || same(it))) {
        return None;
    }
    let since = written.filter(|it| it["status"] == status).map(|it| it["lastTransitionTime"].clone());
    let condition = json!({
        "type": condition.kind,
        "status": status,
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": generation,
        "lastTransitionTime": since.unwrap_or_else(|| json!(now)),
    });
    Some(std::iter::once(condition).chain(others).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULT: Kind = Kind::FaultInjection;

    fn object(generation: i64, spec: Value, conditions: Option<Vec<Value>>) -> Value {
        json!({
            "apiVersion": "weft.dev/v1alpha1",
            "kind": "FaultInjection",
            "metadata": {"name": "faults", "namespace": "shop", "generation": generation, "uid": "u", "resourceVersion": "7"},
            "spec": spec,
            "status": conditions.map(|conditions| json!({"conditions": conditions})),
        })
    }

    /// Translation's word.
    fn says(reason: &'static str, message: &str, generation: i64) -> Condition {
        let condition = refused(message, generation);
        Condition { status: reason == "Accepted", reason: reason.into(), message: message.to_owned(), ..condition }
    }

    #[test]
    fn what_is_right_is_accepted_once_and_what_is_wrong_says_why() {
        let good = json!({"delay": {"fixedDelay": "1s"}});
        let fine = |generation| says("Accepted", "fine", generation);
        let first = wanted(FAULT, &object(1, good.clone(), None), Some(&fine(1)), "t1").unwrap();
        assert_eq!((&first[0]["status"], &first[0]["observedGeneration"], first.len()), (&json!("True"), &json!(1), 1));
        let written = object(1, good.clone(), Some(first.clone()));
        assert_eq!(wanted(FAULT, &written, Some(&fine(1)), "t2"), None, "it is said");

        let edited = object(2, good, Some(first.clone()));
        assert_eq!(wanted(FAULT, &edited, Some(&fine(1)), "t2"), None, "it is not translated yet");
        assert_eq!(wanted(FAULT, &edited, None, "t2"), None, "nor known at all");
        let second = wanted(FAULT, &edited, Some(&fine(2)), "t2").unwrap();
        assert_eq!((&second[0]["observedGeneration"], &second[0]["lastTransitionTime"]), (&json!(2), &json!("t1")));

        let bad = json!({"delay": {"fixedDelay": "0s"}, "abort": {}});
        let other = json!({"type": "Other", "status": "True"});
        let broken = object(3, bad, Some(vec![other.clone(), second[0].clone()]));
        let third = wanted(FAULT, &broken, Some(&fine(2)), "t3").unwrap();
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
            let object = object(3, spec.clone(), Some(say(said)));
            assert_eq!(wanted(FAULT, &object, Some(&fine(3)), "t4").is_some(), writes, "{row}");
        }
    }

    #[test]
    fn a_generation_is_told_again_when_something_else_hinders_it() {
        let good = json!({"delay": {"fixedDelay": "1s"}});
        let mut written = object(1, good, None);
        let story = [
            ("TargetNotFound", "no a", Some("t1")),
            ("TargetNotFound", "no a", None),
            ("TargetNotFound", "no b", Some("t1")),
            ("Accepted", "fine", Some("t4")),
            ("Conflicted", "b counts", Some("t5")),
        ];
        for (at, (reason, message, since)) in story.into_iter().enumerate() {
            let said = wanted(FAULT, &written, Some(&says(reason, message, 1)), &format!("t{}", at + 1));
            assert_eq!(
                said.as_ref().map(|said| &said[0]["lastTransitionTime"]),
                since.map(|t| json!(t)).as_ref(),
                "{at}"
            );
            if let Some(said) = said {
                assert_eq!((&said[0]["reason"], &said[0]["message"]), (&json!(reason), &json!(message)), "{at}");
                written["status"] = json!({"conditions": said});
            }
        }
    }

    #[test]
    fn each_kind_is_called_as_in_its_definition() {
        let plurals = OWN_KINDS.map(|kind| resource(kind).plural);
        assert_eq!(plurals, ["backendpolicies", "faultinjections", "ratelimits"]);
    }
}
