//! Facts for tests: everything is well, and each test makes one thing wrong.

use std::time::{Duration, SystemTime};

use super::facts::{DryRun, Facts, Health, NamespaceFacts};
use super::pods::{Owner, PodFacts, Sidecar};
use crate::cluster::Server;
use crate::names::{MESH_TLS, Mesh};
use crate::seen::Seen;

/// The clock of these facts stands here.
pub(super) const NOW: u64 = 100;

pub(super) fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + second)
}

pub(super) fn mesh() -> Mesh {
    Mesh { namespace: "weft-system".to_owned(), revision: String::new() }
}

pub(super) fn facts() -> Facts {
    let (clock, ours) = (Some(at(NOW)), at(NOW));
    Facts {
        mesh: mesh(),
        own_version: "0.1.0".to_owned(),
        url: "https://cluster".to_owned(),
        server: Seen::Found(Server { version: "v1.36.2".to_owned(), minor: Some((1, 36)), clock, ours }),
        nodes: Seen::Found(Vec::new()),
        gateway: Seen::Absent,
        webhooks: Seen::Found(Vec::new()),
        deployment: Seen::Absent,
    }
}

pub(super) fn health() -> Health {
    Health {
        pods: Seen::Absent,
        service: Seen::Absent,
        lease: Seen::Absent,
        secret: Seen::Absent,
        roots: Seen::Absent,
        injection: Seen::Absent,
        dry_run: DryRun::Injected,
        namespaces: Seen::Found(Vec::new()),
        workloads: Seen::Found(Vec::new()),
        stuck: Vec::new(),
        foreign: Vec::new(),
        routes: Seen::Absent,
    }
}

pub(super) fn namespace(name: &str, labels: &[(&str, &str)]) -> NamespaceFacts {
    let labels = labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    NamespaceFacts { name: name.to_owned(), labels, ending: false }
}

/// A pod of a Deployment, meshed and well, since second 0.
pub(super) fn pod(namespace: &str, name: &str) -> PodFacts {
    PodFacts {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: [(MESH_TLS.to_owned(), "1".to_owned())].into(),
        owner: Some(Owner {
            kind: "deployment".to_owned(),
            name: name.trim_end_matches(|c| c != '-').trim_end_matches('-').to_owned(),
        }),
        host_network: false,
        over: false,
        created: Some(at(0)),
        sidecar: Some(Sidecar { version: "0.1.0".to_owned(), revision: String::new(), ready: true, why: None }),
    }
}
