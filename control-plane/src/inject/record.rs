//! Annotation `weft.dev/injected`: what injection did to a pod, for those who look and for the way back.
//!
//! [`undo`] works by the names in it and not by places, so that what others added to the pod since stays where it is. Mappings
//! and lists that are empty afterwards go, unless the record says that they were there and empty. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Mode, SIDECAR};

/// The annotation.
pub const INJECTED: &str = "weft.dev/injected";

/// What it says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Of Weft.
    pub version: String,
    /// Of the control plane.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// `native` or `classic`.
    pub mode: String,
    /// Names of what was added to `initContainers`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<String>,
    /// Names of what was added to `containers`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<String>,
    /// Names of what was added to `volumes`.
    pub volumes: Vec<String>,
    /// Labels that were set, and what they were before.
    pub labels: BTreeMap<String, Option<String>>,
    /// Annotations that were added, this one not counted.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub annotations: BTreeSet<String>,
    /// The handlers of the probes and hooks that go through the sidecar, as they were: `container/kind`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub probes: BTreeMap<String, Value>,
    /// Mappings and lists that were there, and empty.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub empty: BTreeSet<String>,
}

impl Record {
    /// An empty one.
    pub(super) fn new(revision: &str, mode: Mode) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: revision.to_owned(),
            mode: mode.word().to_owned(),
            ..Self::default()
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// Whether `pod` has both the annotation and the container: the one without the other is what a copied manifest or a careless
/// edit leaves.
pub(super) fn is_injected(pod: &Pod) -> bool {
    let annotated = pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(INJECTED));
    let there = pod.spec.as_ref().is_some_and(|spec| {
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|container| container.name == SIDECAR)
    });
    annotated && there
}

/// Takes out of `pod` (a Pod, or a template's `metadata` and `spec`) what injection put there, and says whether there was
/// anything.
///
/// # Errors
/// When the annotation is there and cannot be read.
pub(super) fn undo(pod: &mut Value) -> Result<bool, String> {
    let annotation = pod.pointer(&format!("/metadata/annotations/{}", INJECTED.replace('/', "~1")));
    let Some(annotation) = annotation else { return Ok(false) };
    let text = annotation.as_str().unwrap_or_default();
    let record: Record =
        serde_json::from_str(text).map_err(|error| format!("annotation {INJECTED} cannot be read ({error})"))?;
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        for list in ["containers", "initContainers"] {
            restore(spec.get_mut(list), &record.probes);
        }
        for (list, names) in [
            ("containers", &record.containers),
            ("initContainers", &record.init_containers),
            ("volumes", &record.volumes),
        ] {
            let Some(items) = spec.get_mut(list).and_then(Value::as_array_mut) else { continue };
            items.retain(|item| item["name"].as_str().is_none_or(|name| names.iter().all(|ours| ours != name)));
            prune(spec, "spec", list, &record);
        }
    }
    if let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            for (key, before) in &record.labels {
                match before {
                    Some(before) => drop(labels.insert(key.clone(), before.clone().into())),
                    None => drop(labels.remove(key)),
                }
            }
            prune(metadata, "metadata", "labels", &record);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(INJECTED);
            record.annotations.iter().for_each(|key| drop(annotations.remove(key)));
            prune(metadata, "metadata", "annotations", &record);
        }
        if metadata.is_empty()
            && let Some(pod) = pod.as_object_mut()
        {
            pod.remove("metadata");
        }
    }
    Ok(true)
}

fn prune(parent: &mut Map<String, Value>, of: &str, key: &str, record: &Record) {
    let empty = match parent.get(key) {
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(entries)) => entries.is_empty(),
        _ => false,
    };
    if empty && !record.empty.contains(&format!("{of}.{key}")) {
        parent.remove(key);
    }
}

/// Puts the handlers back that went through the sidecar.
fn restore(containers: Option<&mut Value>, probes: &BTreeMap<String, Value>) {
    for container in containers.and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(name) = container["name"].as_str().map(str::to_owned) else { continue };
        for (key, original) in probes {
            let Some((_, kind)) = key.split_once('/').filter(|(of, _)| *of == name) else { continue };
            let Some(path) = super::probes::path_of(kind) else { continue };
            let place = path.iter().try_fold(&mut *container, |value, key| value.get_mut(*key));
            let (Some(Value::Object(place)), Value::Object(original)) = (place, original) else { continue };
            place.remove("httpGet");
            place.extend(original.clone());
        }
    }
}
