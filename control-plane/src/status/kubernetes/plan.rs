//! What a route's `status.parents[]` should be, from what it is. Pure.
//!
//! The list is everybody's: other controllers write their entries into it. So ours are changed in place, new ones go
//! to the end, those whose parentRef went are taken out, and no other is touched. Its parentRef is copied from the
//! object as it stands there, fields we do not know included.
//!
//! Nothing is said of a generation that has not been translated: an `observedGeneration` that lags tells users just that.

use std::hash::{Hash as _, Hasher as _};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::super::dir::rfc3339;
use super::super::{CONTROLLER_NAME, Condition, Known, PROGRAMMED, ParentStatus, RouteStatus};
use crate::model::ParentRef;

/// Bytes of a message that the API takes.
const MAX_MESSAGE: usize = 32_768;

/// A route as the API server has it, as far as status cares.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Live {
    pub(super) uid: String,
    /// Its resourceVersion.
    pub(super) version: String,
    pub(super) generation: i64,
    /// `spec.parentRefs`
    pub(super) parents: Vec<Value>,
    /// `status.parents`
    pub(super) entries: Vec<Value>,
}

/// What is known of a route.
pub(super) struct Wanted<'a> {
    /// Translation's word; `None` where it has no parent of ours.
    pub(super) status: Option<&'a RouteStatus>,
    /// Why the source does not take the object as it is.
    pub(super) refused: Option<&'a str>,
    /// The reason of the Accepted condition for that.
    pub(super) reason: &'static str,
    /// Entries that the API takes.
    pub(super) most: usize,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Plan {
    /// It is as it should be.
    Equal,
    /// What it should be is not known yet.
    Later,
    /// It should be this.
    Write {
        entries: Vec<Value>,
        /// Tells one content from another, whatever the time.
        digest: u64,
        /// The object is refused.
        refused: bool,
    },
}

impl Live {
    /// What its entry for `parent` says of `weft.dev/Programmed`.
    pub(super) fn programmed(&self, parent: &ParentRef) -> Option<Known> {
        let entry = self.entries.iter().find(|entry| is_ours(entry) && parent_of(entry).as_ref() == Some(parent))?;
        let condition = condition_of(entry, PROGRAMMED)?;
        Some(Known {
            generation: condition.get("observedGeneration")?.as_i64()?,
            status: condition.get("status")? == "True",
        })
    }

    fn own_parents(&self) -> impl Iterator<Item = ParentRef> {
        let parents = self.parents.iter().filter_map(|parent| serde_json::from_value::<ParentRef>(parent.clone()).ok());
        parents.filter(ParentRef::names_a_service)
    }
}

/// The generation that a status is about.
pub(super) fn generation_of(status: &RouteStatus) -> Option<i64> {
    status.parents.first()?.conditions.first().map(|condition| condition.observed_generation)
}

/// What to do about `live`. `programmed` is what is decided in its generation.
pub(super) fn plan(
    live: &Live,
    wanted: &Wanted<'_>,
    programmed: impl Fn(&ParentRef) -> Option<Condition>,
    now: SystemTime,
) -> Plan {
    let current = wanted.status.filter(|status| generation_of(status) == Some(live.generation));
    let (mut parents, refused) = match (current, wanted.refused) {
        (Some(status), _) => (status.parents.clone(), false),
        (None, Some(why)) => (refused(live, (wanted.reason, why), wanted.status), true),
        (None, None) if wanted.status.is_none() && live.own_parents().next().is_none() => (Vec::new(), false),
        (None, None) => return Plan::Later,
    };
    for parent in &mut parents {
        if parent.accepted().is_some() {
            let said = live.programmed(&parent.parent_ref).filter(|said| said.generation == live.generation);
            parent.conditions.extend(programmed(&parent.parent_ref).filter(|verdict| is_news(verdict, said)));
        }
    }
    let digest = digest(&parents);
    let now = rfc3339(now);
    let mut entries = Vec::with_capacity(live.entries.len());
    for entry in &live.entries {
        if !is_ours(entry) {
            entries.push(entry.clone());
            continue;
        }
        let of = parent_of(entry);
        if let Some(index) = parents.iter().position(|parent| Some(&parent.parent_ref) == of.as_ref()) {
            entries.push(render(&parents.remove(index), Some(entry), live, &now));
        }
    }
    entries.extend(parents.iter().map(|parent| render(parent, None, live, &now)));
    if entries.len() > wanted.most {
        tracing::warn!(
            entries = entries.len(),
            "a route has more status entries than the API takes; the last are left out"
        );
        entries.truncate(wanted.most);
    }
    if entries == live.entries { Plan::Equal } else { Plan::Write { entries, digest, refused } }
}

/// In one generation False may become True and nothing else changes: so the control planes of two revisions, which hear
/// of different proxies, do not overwrite each other for ever.
fn is_news(verdict: &Condition, said: Option<Known>) -> bool {
    said.is_none_or(|said| verdict.status && !said.status)
}

/// An object that the source does not take is not accepted by any parent of ours.
fn refused(live: &Live, (reason, why): (&'static str, &str), before: Option<&RouteStatus>) -> Vec<ParentStatus> {
    let before = match before.and_then(generation_of) {
        Some(generation) => format!("; generation {generation} stays in effect"),
        None => "; the route is not in effect".to_owned(),
    };
    let accepted = Condition {
        kind: "Accepted",
        status: false,
        reason: reason.into(),
        message: format!("{why}{before}"),
        observed_generation: live.generation,
    };
    live.own_parents().map(|parent_ref| ParentStatus { parent_ref, conditions: vec![accepted.clone()] }).collect()
}

fn render(parent: &ParentStatus, before: Option<&Value>, live: &Live, now: &str) -> Value {
    let verbatim = live.parents.iter().find(|value| as_parent(value).as_ref() == Some(&parent.parent_ref));
    let parent_ref = verbatim.cloned().unwrap_or_else(|| json!(parent.parent_ref));
    let condition_before = |kind: &str| before.and_then(|entry| condition_of(entry, kind));
    let mut conditions: Vec<Value> = parent
        .conditions
        .iter()
        .map(|condition| {
            let status = if condition.status { "True" } else { "False" };
            let same =
                condition_before(condition.kind).filter(|before| before.get("status").is_some_and(|s| s == status));
            let since = same.and_then(|before| before.get("lastTransitionTime")).and_then(Value::as_str);
            json!({
                "type": condition.kind,
                "status": status,
                "reason": condition.reason,
                "message": &condition.message[..condition.message.floor_char_boundary(MAX_MESSAGE)],
                "observedGeneration": condition.observed_generation,
                "lastTransitionTime": since.unwrap_or(now),
            })
        })
        .collect();
    // Nothing new in this generation: what was said stays, with its generation.
    let decided = parent.conditions.iter().any(|condition| condition.kind == PROGRAMMED);
    if !decided && parent.accepted().is_some() {
        conditions.extend(condition_before(PROGRAMMED).cloned());
    }
    json!({"parentRef": parent_ref, "controllerName": CONTROLLER_NAME, "conditions": conditions})
}

fn is_ours(entry: &Value) -> bool {
    entry.get("controllerName").is_some_and(|name| name == CONTROLLER_NAME)
}

fn parent_of(entry: &Value) -> Option<ParentRef> {
    entry.get("parentRef").and_then(as_parent)
}

fn as_parent(value: &Value) -> Option<ParentRef> {
    serde_json::from_value(value.clone()).ok()
}

fn condition_of<'a>(entry: &'a Value, kind: &str) -> Option<&'a Value> {
    let mut conditions = entry.get("conditions")?.as_array()?.iter();
    conditions.find(|condition| condition.get("type").is_some_and(|of| of == kind))
}

fn digest(parents: &[ParentStatus]) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    for parent in parents {
        parent.parent_ref.hash(&mut hasher);
        for condition in &parent.conditions {
            (condition.kind, condition.status, &condition.reason, &condition.message).hash(&mut hasher);
            condition.observed_generation.hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
