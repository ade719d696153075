//! `deploy/web` → the pod whose sidecar is asked: the first by name that has one which is ready.

use std::str::FromStr;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Api;
use kube::api::ListParams;
use kube::core::Selector;

use crate::check::PodFacts;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::seen::{Seen, list};

/// What has pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Deployment,
    StatefulSet,
    DaemonSet,
    ReplicaSet,
    Job,
    Pod,
}

/// As kubectl has it, with its short names.
const KINDS: [(Kind, &[&str]); 6] = [
    (Kind::Deployment, &["deployment", "deployments", "deploy"]),
    (Kind::StatefulSet, &["statefulset", "statefulsets", "sts"]),
    (Kind::DaemonSet, &["daemonset", "daemonsets", "ds"]),
    (Kind::ReplicaSet, &["replicaset", "replicasets", "rs"]),
    (Kind::Job, &["job", "jobs"]),
    (Kind::Pod, &["pod", "pods", "po"]),
];

/// A workload, as it is named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    kind: Kind,
    name: String,
}

/// The pod to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Its name.
    pub(super) name: String,
    /// Its sidecar's version.
    pub(super) version: String,
}

impl Kind {
    fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).and_then(|(_, names)| names.first()).copied().unwrap_or_default()
    }
}

impl FromStr for Reference {
    type Err = Error;

    /// `KIND/NAME`; a name alone is a pod's. A group behind the kind (`deployment.apps`) changes nothing.
    fn from_str(text: &str) -> Result<Self, Error> {
        let (kind, name) = text.split_once('/').unwrap_or(("pod", text));
        let plain = kind.split('.').next().unwrap_or_default().to_ascii_lowercase();
        let kind = KINDS.iter().find(|(_, names)| names.contains(&&*plain)).map(|(kind, _)| *kind);
        match kind {
            Some(kind) if !name.is_empty() && !name.contains('/') => Ok(Self { kind, name: name.to_owned() }),
            _ => Err(Error::Question {
                why: format!(
                    "{text:?} is no workload: say deploy/NAME, sts/NAME, ds/NAME, job/NAME, rs/NAME or pod/NAME"
                ),
            }),
        }
    }
}

/// The pod whose sidecar is asked.
///
/// # Errors
/// When there is no such workload, or none of its pods has a sidecar that is ready.
pub(super) async fn choose(cluster: &Cluster, namespace: &str, of: &Reference) -> Result<Chosen, Error> {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), namespace);
    let found = match selector(cluster, namespace, of).await? {
        Some(selector) => {
            let params = ListParams::default().labels(&selector);
            match list(pods, params, |pod| PodFacts::of(&pod)).await {
                Seen::Found(found) => found,
                Seen::Absent => Vec::new(),
                Seen::Unknown(why) => return Err(Error::Api { what: format!("list the pods of {namespace}"), why }),
            }
        }
        None => {
            let found = pods.get_opt(&of.name).await;
            let found =
                found.map_err(|error| cluster.failed(format!("look at pod {namespace}/{}", of.name), &error))?;
            vec![PodFacts::of(&found.ok_or_else(|| missing(namespace, of))?)]
        }
    };
    pick(&found, namespace, of)
}

fn missing(namespace: &str, of: &Reference) -> Error {
    let kind = of.kind.name();
    Error::NoWorkload { what: format!("{kind} {}", of.name), namespace: namespace.to_owned(), kind: kind.to_owned() }
}

/// The labels of its pods; `None`: it is one.
async fn selector(cluster: &Cluster, namespace: &str, of: &Reference) -> Result<Option<String>, Error> {
    let client = cluster.client.clone();
    let name = &*of.name;
    // Outer: whether it is there; inner: what its spec says.
    type Labels = Option<Option<LabelSelector>>;
    let found: Result<Labels, kube::Error> = match of.kind {
        Kind::Pod => return Ok(None),
        Kind::Deployment => {
            let found = Api::<Deployment>::namespaced(client, namespace).get_opt(name).await;
            found.map(|found| found.map(|it| it.spec.map(|spec| spec.selector)))
        }
        Kind::StatefulSet => {
            let found = Api::<StatefulSet>::namespaced(client, namespace).get_opt(name).await;
            found.map(|found| found.map(|it| it.spec.map(|spec| spec.selector)))
        }
        Kind::DaemonSet => {
            let found = Api::<DaemonSet>::namespaced(client, namespace).get_opt(name).await;
            found.map(|found| found.map(|it| it.spec.map(|spec| spec.selector)))
        }
        Kind::ReplicaSet => {
            let found = Api::<ReplicaSet>::namespaced(client, namespace).get_opt(name).await;
            found.map(|found| found.map(|it| it.spec.map(|spec| spec.selector)))
        }
        Kind::Job => {
            let found = Api::<Job>::namespaced(client, namespace).get_opt(name).await;
            found.map(|found| found.map(|it| it.spec.and_then(|spec| spec.selector)))
        }
    };
    let what = || format!("look at {} {namespace}/{name}", of.kind.name());
    let labels = found.map_err(|error| cluster.failed(what(), &error))?.ok_or_else(|| missing(namespace, of))?;
    let selector = Selector::try_from(labels.unwrap_or_default());
    let selector = selector.map_err(|error| Error::Api { what: what(), why: error.to_string() })?;
    Ok(Some(selector.to_string()))
}

/// Pure.
fn pick(pods: &[PodFacts], namespace: &str, of: &Reference) -> Result<Chosen, Error> {
    let what = format!("{} {namespace}/{}", of.kind.name(), of.name);
    let mut running: Vec<&PodFacts> = pods.iter().filter(|pod| !pod.over).collect();
    running.sort_by(|a, b| a.name.cmp(&b.name));
    let Some(first) = running.first() else {
        return Err(Error::NoSidecar {
            what,
            why: "it has no pod that runs".to_owned(),
            fix: format!("kubectl -n {namespace} get pods"),
        });
    };
    let mut with = running.iter().filter_map(|pod| Some((*pod, pod.sidecar.as_ref()?))).peekable();
    let Some((one, sidecar)) = with.peek().copied() else {
        return Err(Error::NoSidecar {
            what,
            why: format!("pod {} has no sidecar", first.name),
            fix: format!(
                "label the namespace (kubectl label namespace {namespace} weft.dev/inject=enabled) and restart it; \
                 `weft check -n {namespace}` says more"
            ),
        });
    };
    match with.find(|(_, sidecar)| sidecar.ready) {
        Some((pod, sidecar)) => Ok(Chosen { name: pod.name.clone(), version: sidecar.version.clone() }),
        None => Err(Error::NoSidecar {
            what,
            why: format!(
                "the sidecar of pod {} is not ready: {}",
                one.name,
                sidecar.why.as_deref().unwrap_or("it has just started, or its control plane is away")
            ),
            fix: format!("kubectl -n {namespace} logs {} -c weft-sidecar", one.name),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_workload_is_named_as_kubectl_has_it() {
        for (text, expected) in [
            ("deploy/web", Some((Kind::Deployment, "web"))),
            ("Deployment.apps/web", Some((Kind::Deployment, "web"))),
            ("sts/db", Some((Kind::StatefulSet, "db"))),
            ("pod/web-1", Some((Kind::Pod, "web-1"))),
            ("web-1", Some((Kind::Pod, "web-1"))),
            ("service/web", None),
            ("deploy/", None),
            ("deploy/a/b", None),
        ] {
            let found = text.parse::<Reference>().ok();
            assert_eq!(found.as_ref().map(|it| (it.kind, &*it.name)), expected, "{text}");
        }
        let said = "service/web".parse::<Reference>().unwrap_err().to_string();
        assert!(said.contains("say deploy/NAME"), "{said}");
    }

    fn pod(name: &str, sidecar: Option<bool>, phase: &str) -> PodFacts {
        let container = if sidecar.is_some() { "weft-sidecar" } else { "app" };
        let pod = json!({
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"containers": [{"name": container, "image": "weft.dev/sidecar:0.2.0"}]},
            "status": {"phase": phase, "containerStatuses": [
                {"name": container, "ready": sidecar.unwrap_or_default(), "image": "", "imageID": "", "restartCount": 0},
            ]},
        });
        PodFacts::of(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn the_first_pod_that_can_be_asked_is_and_otherwise_it_is_said_why_not() {
        let rows = [
            ("of two", vec![pod("b", Some(true), "Running"), pod("a", Some(true), "Running")], Ok("a")),
            ("one not ready", vec![pod("a", Some(false), "Running"), pod("b", Some(true), "Running")], Ok("b")),
            ("one from before", vec![pod("a", None, "Running"), pod("b", Some(true), "Running")], Ok("b")),
            ("none at all", vec![], Err("no pod that runs")),
            ("all over", vec![pod("a", Some(true), "Succeeded")], Err("no pod that runs")),
            ("no sidecar", vec![pod("a", None, "Running")], Err("weft.dev/inject=enabled")),
            ("none ready", vec![pod("a", Some(false), "Running")], Err("kubectl -n shop logs a -c weft-sidecar")),
        ];
        for (row, pods, expected) in rows {
            let chosen = pick(&pods, "shop", &"deploy/web".parse().unwrap());
            match (chosen, expected) {
                (Ok(chosen), Ok(name)) => assert_eq!((&*chosen.name, &*chosen.version), (name, "0.2.0"), "{row}"),
                (Err(error), Err(says)) => {
                    let said = error.to_string();
                    assert!(said.contains(says) && said.contains("deployment shop/web"), "{row}: {said}");
                }
                (chosen, _) => panic!("{row}: {chosen:?}"),
            }
        }
    }
}
