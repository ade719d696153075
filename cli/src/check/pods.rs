//! What checks and `weft version` want to know of a pod: a few words of the kilobytes that it has. Pure.

use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde::Deserialize;

use crate::names::{INJECT, INJECTED, MESH_TLS, REVISION, SIDECAR};

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodFacts {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// The labels that ask for a sidecar, or say that there is one.
    pub(crate) labels: BTreeMap<String, String>,
    /// What made it.
    pub(crate) owner: Option<Owner>,
    /// Shares its node's network.
    pub(crate) host_network: bool,
    /// Succeeded, failed, or being deleted.
    pub(crate) over: bool,
    /// When it was created.
    pub(crate) created: Option<SystemTime>,
    /// Its sidecar.
    pub(crate) sidecar: Option<Sidecar>,
}

/// What made a pod, as `kubectl rollout restart` wants it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner {
    /// Lower case: `deployment`, `statefulset`, `job`.
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
}

/// A sidecar container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sidecar {
    /// Its version; its image where that says none.
    pub(crate) version: String,
    /// The revision whose control plane injected it.
    pub(crate) revision: String,
    /// Whether it is ready.
    pub(crate) ready: bool,
    /// Why not, if kubelet says.
    pub(crate) why: Option<String>,
}

impl PodFacts {
    /// Those of `pod`.
    pub(crate) fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let all = meta.labels.clone().unwrap_or_default();
        let owner =
            meta.owner_references.as_ref().and_then(|owners| owners.iter().find(|o| o.controller == Some(true)));
        let owner = owner.map(|owner| deployment_of(&owner.kind, &owner.name, &all));
        let mut labels = all;
        labels.retain(|name, _| [INJECT, REVISION, MESH_TLS].contains(&name.as_str()));
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            labels,
            owner,
            host_network: spec.and_then(|spec| spec.host_network).unwrap_or_default(),
            over: matches!(phase, Some("Succeeded" | "Failed")) || meta.deletion_timestamp.is_some(),
            created: meta.creation_timestamp.as_ref().map(|created| created.0.into()),
            sidecar: sidecar(pod),
        }
    }

    /// `namespace/name`.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether it says that it speaks mesh TLS.
    pub(crate) fn says_mesh_tls(&self) -> bool {
        self.labels.get(MESH_TLS).is_some_and(|value| value == "1")
    }
}

/// A ReplicaSet is its Deployment's, if its name says so.
fn deployment_of(kind: &str, name: &str, labels: &BTreeMap<String, String>) -> Owner {
    let deployment = labels
        .get("pod-template-hash")
        .filter(|_| kind == "ReplicaSet")
        .and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
    match deployment {
        Some(name) => Owner { kind: "deployment".to_owned(), name: name.to_owned() },
        None => Owner { kind: kind.to_lowercase(), name: name.to_owned() },
    }
}

/// What injection writes down about itself; more than this is its own business.
#[derive(Deserialize)]
struct Injected {
    version: Option<String>,
    revision: Option<String>,
}

/// Native sidecars are among the init containers, classic ones among the others.
fn sidecar(pod: &Pod) -> Option<Sidecar> {
    let spec = pod.spec.as_ref()?;
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let container = containers.find(|container| container.name == SIDECAR)?;
    let written = pod.metadata.annotations.as_ref().and_then(|notes| notes.get(INJECTED));
    let written = written.and_then(|text| serde_json::from_str::<Injected>(text).ok());
    let (written, revision) = written.map(|written| (written.version, written.revision)).unwrap_or_default();
    let image = container.image.clone().unwrap_or_default();
    let status = pod.status.as_ref();
    let statuses =
        [status.and_then(|s| s.init_container_statuses.as_ref()), status.and_then(|s| s.container_statuses.as_ref())];
    let status = statuses.into_iter().flatten().flatten().find(|status| status.name == SIDECAR);
    Some(Sidecar {
        version: written.or_else(|| image_version(&image)).unwrap_or(image),
        revision: revision.unwrap_or_default(),
        ready: status.is_some_and(|status| status.ready),
        why: status.and_then(why_not_running),
    })
}

/// The tag of an image's name.
pub(crate) fn image_version(image: &str) -> Option<String> {
    let name = image.split('@').next()?.rsplit('/').next()?;
    name.split_once(':').map(|(_, tag)| tag.to_owned())
}

/// What kubelet says about a container that does not run.
pub(crate) fn why_not_running(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref()?;
    let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let ended = state.terminated.as_ref().or(last);
    let ended = ended.map(|ended| {
        let message = ended.message.as_deref().map(|text| format!(": {}", text.trim())).unwrap_or_default();
        format!("its last run ended with {}{message}", ended.exit_code)
    });
    let waiting = state.waiting.as_ref().map(|waiting| {
        let reason = waiting.reason.clone().unwrap_or_else(|| "waiting".to_owned());
        waiting.message.as_ref().map_or(reason.clone(), |message| format!("{reason}: {message}"))
    });
    match (waiting, ended) {
        (Some(waiting), Some(ended)) => Some(format!("{waiting}; {ended}")),
        (waiting, ended) => waiting.or(ended),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(value: serde_json::Value) -> PodFacts {
        PodFacts::of(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn a_sidecar_is_found_native_or_classic() {
        let rows = [
            ("none", json!({"containers": [{"name": "app"}]}), json!({}), json!({}), None),
            (
                "native, by its annotation",
                json!({"containers": [{"name": "app"}], "initContainers": [{"name": SIDECAR, "image": "r:5000/weft/sidecar"}]}),
                json!({INJECTED: "{\"version\":\"0.1.0\",\"mode\":\"native\"}"}),
                json!({"initContainerStatuses": [{"name": SIDECAR, "ready": true, "image": "", "imageID": "", "restartCount": 0}]}),
                Some(("0.1.0", true, None)),
            ),
            (
                "classic, by its image",
                json!({"containers": [{"name": "app"}, {"name": SIDECAR, "image": "r:5000/weft/sidecar:0.2.0@sha256:ab"}]}),
                json!({INJECTED: "not json"}),
                json!({"containerStatuses": [{"name": SIDECAR, "ready": false, "image": "", "imageID": "", "restartCount": 3,
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
                    "lastState": {"terminated": {"exitCode": 2, "message": "no roots\n"}}}]}),
                Some(("0.2.0", false, Some("CrashLoopBackOff: back-off 40s; its last run ended with 2: no roots"))),
            ),
            (
                "not started yet, no tag",
                json!({"containers": [{"name": SIDECAR, "image": "weft"}]}),
                json!({}),
                json!({}),
                Some(("weft", false, None)),
            ),
        ];
        for (row, spec, annotations, status, expected) in rows {
            let pod =
                pod(json!({"metadata": {"name": "p", "annotations": annotations}, "spec": spec, "status": status}));
            let found = pod.sidecar.as_ref().map(|s| (&*s.version, s.ready, s.why.as_deref()));
            assert_eq!(found, expected, "{row}");
        }
    }

    #[test]
    fn an_owner_is_what_one_would_restart() {
        let rows = [
            ("ReplicaSet", "web-7d9f", json!({"pod-template-hash": "7d9f"}), "deployment/web"),
            ("ReplicaSet", "alone", json!({}), "replicaset/alone"),
            ("StatefulSet", "db", json!({}), "statefulset/db"),
            ("Job", "import-1", json!({}), "job/import-1"),
        ];
        for (kind, name, labels, expected) in rows {
            let owners = json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": true}]);
            let pod = pod(json!({"metadata": {"name": "p", "labels": labels, "ownerReferences": owners}}));
            let owner = pod.owner.unwrap();
            assert_eq!(format!("{}/{}", owner.kind, owner.name), expected);
        }
    }
}
