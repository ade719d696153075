//! Accepted of the kinds that are Weft's own, as `status.conditions` of each object, while this replica leads.
//!
//! What is said of an object is translation's to decide (`translate/own.rs`); whether it is right is asked of the decoder that the
//! source asks, so both say the same of one generation. Of one that has not been translated nothing is said yet. What could not be
//! written is tried again every [`AGAIN`]. An object is written at `pace`'s: the control planes of two revisions may see different
//! objects and say different things of one, and neither is to keep the API server busy with that.
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
use super::kinds::Pauses;
use super::pace::Pace;
use super::{MAX_WRITES, TIME_LIMIT, Writer};
use crate::identity::FIELD_MANAGER;
use crate::model::{Kind, ObjectKey, ObjectName};
use crate::source::kubernetes::errors_in;
use crate::source::{kind_name, quoted};
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
    let mut lead = Lead::default();
    let mut again: Option<Instant> = None;
    loop {
        let later = again.into_iter().chain(lead.next_time()).min().map(tokio::time::sleep_until);
        tokio::select! {
            Some((kind, event)) = events.next() => lead.on_event(kind, event),
            () = writer.shared.own_changed.notified() => {
                lead.due.append(&mut writer.shared.news.lock().own_changed);
            }
            Some(()) = OptionFuture::from(later) => {}
        }
        let now = Instant::now();
        if again.is_some_and(|again| again <= now) {
            again = None;
            lead.due.extend(lead.held.keys().cloned());
        }
        let state = writer.shared.news.lock().state.clone();
        let said = |key: &ObjectKey| state.as_ref().and_then(|state| state.own_condition(key)).map(|said| &**said);
        let decided = lead.decide(said, SystemTime::now(), now);
        let write = |(key, object, conditions)| write(writer, key, object, conditions);
        stream::iter(decided).for_each_concurrent(MAX_WRITES, write).await;
        if again.is_none() && !lead.held.is_empty() {
            again = Some(Instant::now() + AGAIN);
        }
    }
}

/// What there is, and what of it is to be looked at.
#[derive(Default)]
struct Lead {
    held: BTreeMap<ObjectKey, DynamicObject>,
    due: BTreeSet<ObjectKey>,
    later: BTreeSet<(Instant, ObjectKey)>,
    pace: Pace,
}

impl Lead {
    fn on_event(&mut self, kind: Kind, event: Event) {
        match event {
            Ok(watcher::Event::Init) => {
                let gone: Vec<_> = self.held.keys().filter(|key| key.kind == kind).cloned().collect();
                gone.iter().for_each(|key| self.forget(key));
            }
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                let key = key(kind, &object);
                self.due.insert(key.clone());
                self.held.insert(key, object);
            }
            Ok(watcher::Event::Delete(object)) => self.forget(&key(kind, &object)),
            Ok(watcher::Event::InitDone) => {}
            // A kind that is not installed is no fault.
            Err(error) => tracing::debug!(%error, "the watch on the status of our own kinds; trying again"),
        }
    }

    fn forget(&mut self, key: &ObjectKey) {
        self.held.remove(key);
        self.pace.forget(key);
    }

    fn next_time(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }

    /// Of what is due, what is to be written now; `said` is translation's word, `date` what a changed condition is dated.
    fn decide<'a>(
        &mut self,
        said: impl Fn(&ObjectKey) -> Option<&'a Condition>,
        date: SystemTime,
        now: Instant,
    ) -> Vec<(ObjectKey, &DynamicObject, Vec<Value>)> {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            self.due.extend(self.later.pop_first().map(|(_, key)| key));
        }
        let Self { held, due, later, pace } = self;
        let (date, mut decided) = (rfc3339(date), Vec::new());
        for key in std::mem::take(due) {
            let Some(object) = held.get(&key) else { continue };
            let Ok(value) = serde_json::to_value(object) else { continue };
            let Some(conditions) = wanted(key.kind, &value, said(&key), &date) else { continue };
            match pace.go(&key, digest(&conditions), now) {
                Ok(()) => decided.push((key, object, conditions)),
                Err(until) => drop(later.insert((until, key))),
            }
        }
        decided
    }
}

/// Tells one content from another, whatever the time. Ours is the first.
fn digest(conditions: &[Value]) -> u64 {
    let said =
        ["status", "reason", "message", "observedGeneration"].map(|field| conditions.first().map(|it| &it[field]));
    xxhash_rust::xxh3::xxh3_64(format!("{said:?}").as_bytes())
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

    /// The control planes of two revisions that say different things of one object, each as soon as it may, for a minute.
    #[test]
    fn two_revisions_that_do_not_agree_write_seldom() {
        let ours = ObjectKey { kind: FAULT, name: ObjectName::new("shop", "faults") };
        let words = [says("Conflicted", "b counts", 1), says("Accepted", "fine", 1)];
        let mut leads = [Lead::default(), Lead::default()];
        let mut object = object(1, json!({"delay": {"fixedDelay": "1s"}}), None);
        let typed = |object: &Value| serde_json::from_value::<DynamicObject>(object.clone()).unwrap();
        leads.iter_mut().for_each(|lead| lead.on_event(FAULT, Ok(watcher::Event::Apply(typed(&object)))));
        let (start, mut now, mut writes) = (Instant::now(), Instant::now(), 0);
        while now < start + Duration::from_secs(60) {
            let mut written = false;
            for at in 0..2 {
                let decided = leads[at].decide(|_| Some(&words[at]), SystemTime::UNIX_EPOCH, now);
                let Some((key, _, conditions)) = decided.into_iter().next() else { continue };
                assert_eq!(key, ours);
                object["status"] = json!({"conditions": conditions});
                (writes, written) = (writes + 1, true);
                leads.iter_mut().for_each(|lead| lead.on_event(FAULT, Ok(watcher::Event::Apply(typed(&object)))));
            }
            if !written {
                now = leads.iter().filter_map(Lead::next_time).min().unwrap();
            }
        }
        assert!((4..30).contains(&writes), "{writes}");
        // What is new is said at once.
        object["metadata"]["generation"] = json!(2);
        leads[0].on_event(FAULT, Ok(watcher::Event::Apply(typed(&object))));
        let news = says("Conflicted", "b counts", 2);
        assert_eq!(leads[0].decide(|_| Some(&news), SystemTime::UNIX_EPOCH, now).len(), 1);
        leads[0].on_event(FAULT, Ok(watcher::Event::Delete(typed(&object))));
        assert!(leads[0].decide(|_| Some(&news), SystemTime::UNIX_EPOCH, now + Duration::from_secs(99)).is_empty());
    }

    #[test]
    fn each_kind_is_called_as_in_its_definition() {
        let plurals = OWN_KINDS.map(|kind| resource(kind).plural);
        assert_eq!(plurals, ["backendpolicies", "faultinjections", "ratelimits"]);
    }
}
