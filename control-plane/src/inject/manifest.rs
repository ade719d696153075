//! The same over YAML: `weft inject -f FILE` and `weft uninject -f FILE`.
//!
//! Every document is read as the control plane reads manifests (what `kubectl` takes `0644` and `yes` to mean). One that is to
//! change is written anew, in block style, without its comments; every other one keeps its text. So injecting
//! what is injected changes nothing at all, and undoing it gives back the same objects. Injecting the same text twice gives two
//! texts where there are probes or hooks to rewrite: their secrets differ (`probes.rs`), and nothing in a manifest could be
//! made into one that its readers cannot guess.
//!
//! Whoever runs this asks for it, so no label is needed; `weft.dev/inject: disabled` on a pod template still counts, and so do
//! all the other reasons to leave a pod alone. Pods made from an injected template are left alone by the webhook.
//!
//! Bound: [`MAX_TEXT`], and what `tree.rs` bounds per document.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use rand::{CryptoRng, Rng as _};
use serde_json::{Value, json};

use super::{ClusterFacts, Context, INJECT, InjectSettings, Outcome, REVISION, patch, record};
use crate::source::files::{documents, tree};

mod yaml;

/// The largest text taken.
pub const MAX_TEXT: usize = 32 << 20;

/// What injection of manifests must know.
#[derive(Debug, Clone)]
pub struct Options {
    /// As in the cluster's ConfigMap `weft-injection`.
    pub settings: InjectSettings,
    /// The cluster's versions; [`ClusterFacts::SUPPORTED`] where there is no cluster to ask.
    pub cluster: ClusterFacts,
    /// Where objects go that name no namespace.
    pub namespace: String,
}

/// A text, and what was done to its objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// To be applied.
    pub text: String,
    /// One for each object that has pods, in order.
    pub objects: Vec<Report>,
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// `Deployment shop/web`
    pub object: String,
    /// Whether it was changed.
    pub changed: bool,
    /// What was done, or why nothing was.
    pub what: String,
    /// What its owner should know.
    pub warnings: Vec<String>,
}

/// Everything that is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct BadManifest(pub Vec<String>);

impl fmt::Display for BadManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Injects every object of `text` that has pods. `rng` makes the secrets of their probes, one for all pods of a template.
///
/// # Errors
/// All that cannot be read, and all that asks for what cannot be had. Then nothing is to be applied.
pub fn inject_yaml(text: &str, options: &Options, rng: &mut impl CryptoRng) -> Result<Changed, BadManifest> {
    each(text, &options.namespace, |object, template| inject(object, template, options, rng))
}

/// Takes every sidecar of `text` out again.
///
/// # Errors
/// All that cannot be read.
pub fn uninject_yaml(text: &str) -> Result<Changed, BadManifest> {
    each(text, "default", |_, template| {
        let changed = record::undo(template)?;
        let what = if changed { "uninjected" } else { "left alone: it is not injected" };
        Ok((changed, what.to_owned(), Vec::new()))
    })
}

/// An object's kind, namespace and name.
struct Object<'a> {
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Whether it changed, a word on it, and warnings.
type Done = Result<(bool, String, Vec<String>), String>;

fn inject(object: &Object<'_>, template: &mut Value, options: &Options, rng: &mut impl CryptoRng) -> Done {
    let pod: Pod = serde_json::from_value(json!({ "metadata": template["metadata"], "spec": template["spec"] }))
        .map_err(|error| format!("its pod cannot be read: {error}"))?;
    let revision = &options.settings.revision;
    let asks = if revision.is_empty() { (INJECT, "enabled") } else { (REVISION, revision.as_str()) };
    let context = Context {
        namespace: object.namespace.to_owned(),
        labels: BTreeMap::from([(asks.0.to_owned(), asks.1.to_owned())]),
        annotations: BTreeMap::new(),
        cluster: options.cluster,
        of_job: matches!(object.kind, "Job" | "CronJob"),
        probe_secret: rng.random::<[u8; 16]>().into(),
    };
    match patch(&pod, &context, &options.settings).map_err(|refusal| refusal.to_string())? {
        Outcome::LeftAlone(why) => Ok((false, format!("left alone: {why}"), why.warning().into_iter().collect())),
        Outcome::Injected(injection) => {
            if !template["metadata"].is_object() {
                template["metadata"] = json!({});
            }
            json_patch::patch(template, &injection.patch).map_err(|error| format!("cannot be patched: {error}"))?;
            Ok((true, format!("injected ({})", injection.mode.word()), injection.warnings))
        }
    }
}

/// Does `change` to each pod or pod template of `text`.
fn each(
    text: &str,
    namespace: &str,
    mut change: impl FnMut(&Object<'_>, &mut Value) -> Done,
) -> Result<Changed, BadManifest> {
    if text.len() > MAX_TEXT {
        return Err(BadManifest(vec![format!("the text is larger than {} MiB", MAX_TEXT >> 20)]));
    }
    let mut wrong = Vec::new();
    let mut changed = Changed { text: String::new(), objects: Vec::new() };
    for document in documents::split(text) {
        let mut value = match tree::parse(document.text, document.first_line) {
            Ok(node) => match yaml::value(&node) {
                Ok(value) => value,
                Err(why) => {
                    wrong.push(why);
                    continue;
                }
            },
            Err(error) => {
                wrong.push(format!("line {}: {error}", error.at.line));
                continue;
            }
        };
        let before = changed.objects.len();
        object(&mut value, namespace, &mut change, &mut changed.objects, &mut wrong);
        let touched = changed.objects[before..].iter().any(|report| report.changed);
        let marked = document.text.starts_with("---");
        if !marked && !changed.text.is_empty() || touched && marked {
            changed.text.push_str("---\n");
        }
        if touched {
            yaml::write(&value, &mut changed.text);
        } else {
            changed.text.push_str(document.text);
            if !changed.text.ends_with('\n') {
                changed.text.push('\n');
            }
        }
    }
    if wrong.is_empty() { Ok(changed) } else { Err(BadManifest(wrong)) }
}

fn object(
    value: &mut Value,
    namespace: &str,
    change: &mut impl FnMut(&Object<'_>, &mut Value) -> Done,
    reports: &mut Vec<Report>,
    wrong: &mut Vec<String>,
) {
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    let version = value["apiVersion"].as_str().unwrap_or_default();
    if version == "v1" && kind == "List" {
        let items = value.get_mut("items").and_then(Value::as_array_mut);
        // Lists do not nest in Kubernetes, and recursion must not be the user's to drive.
        for item in items.into_iter().flatten().filter(|item| item["kind"] != "List") {
            object(item, namespace, change, reports, wrong);
        }
        return;
    }
    let Some(place) = template_of(version, &kind) else { return };
    let text = |field: &str| value["metadata"][field].as_str().map(str::to_owned);
    let namespace = text("namespace").unwrap_or_else(|| namespace.to_owned());
    let name = text("name").or_else(|| text("generateName")).unwrap_or_default();
    let Some(template) = value.pointer_mut(place).filter(|template| template.is_object()) else { return };
    let object = Object { kind: &kind, namespace: &namespace, name: &name };
    match change(&object, template) {
        Ok((changed, what, warnings)) => {
            reports.push(Report { object: object.to_string(), changed, what, warnings });
        }
        Err(why) => wrong.push(format!("{object}: {why}")),
    }
}

/// Where an object has its pod.
fn template_of(version: &str, kind: &str) -> Option<&'static str> {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Pod") => Some(""),
        ("", "ReplicationController") | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") => {
            Some("/spec/template")
        }
        ("batch", "Job") => Some("/spec/template"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
