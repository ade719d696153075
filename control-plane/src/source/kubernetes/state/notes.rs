//! What the objects say beside the model, counted so that no edit has to look at all of them: who needs the trust bundle,
//! and what the Nodes' kubelets can do.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Kind, Object, ObjectKey};
use crate::source::files::served::{Form, Served};

/// Label of a Namespace or Pod: `enabled` or `disabled`.
const INJECT: &str = "weft.dev/inject";
/// Label that picks a control plane by its revision, in place of `weft.dev/inject: enabled`.
const REVISION: &str = "weft.dev/revision";
/// Label of an injected Pod.
const MESH_TLS: &str = "weft.dev/mesh-tls";

/// See the module's documentation.
#[derive(Debug, Default)]
pub(in super::super) struct Notes {
    noted: BTreeMap<ObjectKey, Note>,
    opted_in: BTreeMap<String, usize>,
    kubelets: BTreeMap<(u32, u32), usize>,
}

/// What one object says; most say nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Note {
    /// Pods of this namespace may need the trust bundle.
    OptedIn(String),
    /// A Node's kubelet.
    Kubelet((u32, u32)),
}

impl Notes {
    /// Takes in what an object is now, or that it is gone. One that cannot be used says what it said before.
    pub(super) fn set(&mut self, key: &ObjectKey, served: Option<&Served>) {
        if served.is_some_and(|served| served.form == Form::Bad) {
            return;
        }
        let note = served.and_then(note);
        if self.noted.get(key) == note.as_ref() {
            return;
        }
        let before = match note.clone() {
            Some(note) => self.noted.insert(key.clone(), note),
            None => self.noted.remove(key),
        };
        match before {
            Some(Note::OptedIn(namespace)) => count_down(&mut self.opted_in, &namespace),
            Some(Note::Kubelet(version)) => count_down(&mut self.kubelets, &version),
            None => {}
        }
        match note {
            Some(Note::OptedIn(namespace)) => *self.opted_in.entry(namespace).or_default() += 1,
            Some(Note::Kubelet(version)) => *self.kubelets.entry(version).or_default() += 1,
            None => {}
        }
    }

    /// Namespaces labelled for injection or with an injected pod, but for those that `never` are.
    pub(in super::super) fn opted_in(&self, never: &BTreeSet<String>) -> BTreeSet<String> {
        self.opted_in.keys().filter(|namespace| !never.contains(*namespace)).cloned().collect()
    }

    /// The oldest kubelet.
    pub(in super::super) fn oldest_kubelet(&self) -> Option<(u32, u32)> {
        self.kubelets.keys().next().copied()
    }
}

fn count_down<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn note(served: &Served) -> Option<Note> {
    let Form::Good(object) = &served.form else { return None };
    match (object.kind(), &**object) {
        (Kind::Namespace, Object::Namespace(namespace)) => {
            let label = |name: &str| namespace.meta.labels.get(name).map_or("", String::as_str);
            let opted_in = match label(INJECT) {
                "enabled" => true,
                "disabled" => false,
                _ => !label(REVISION).is_empty(),
            };
            opted_in.then(|| Note::OptedIn(served.name.name.clone()))
        }
        (Kind::Pod, Object::Pod(pod)) => {
            let injected = pod.meta.labels.get(MESH_TLS).is_some_and(|value| value == "1");
            injected.then(|| Note::OptedIn(served.name.namespace.clone()))
        }
        (Kind::Node, _) => served.kubelet.as_deref().and_then(kubelet_version).map(Note::Kubelet),
        _ => None,
    }
}

/// `v1.36.1-eks-1` is (1, 36). What does not begin so is no version.
pub(in super::super) fn kubelet_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.strip_prefix('v').unwrap_or(text).split('.');
    let mut number = || {
        let part = parts.next()?;
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse().ok()
    };
    Some((number()?, number()?))
}
