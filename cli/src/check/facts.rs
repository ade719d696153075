//! What checks are made from. `gather.rs` asks the API server; from here on nothing does I/O, and tests write facts down.

use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::core::DynamicObject;

use super::pods::PodFacts;
use crate::cluster::Server;
use crate::names::Mesh;
use crate::seen::Seen;

/// Before and after an installation.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Which mesh.
    pub(crate) mesh: Mesh,
    /// This program's version.
    pub(crate) own_version: String,
    /// Where the API server is.
    pub(crate) url: String,
    /// What it says.
    pub(crate) server: Seen<Server>,
    /// The cluster's nodes.
    pub(crate) nodes: Seen<Vec<NodeFacts>>,
    /// The Gateway API's HTTPRoute.
    pub(crate) gateway: Seen<Crd>,
    /// All webhooks that change what is created.
    pub(crate) webhooks: Seen<Vec<MutatingWebhookConfiguration>>,
    /// The control plane's Deployment.
    pub(crate) deployment: Seen<Deployment>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    /// Its name.
    pub(crate) name: String,
    /// Its kubelet's version, as `v1.36.2`.
    pub(crate) kubelet: String,
}

/// A CustomResourceDefinition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Crd {
    /// Versions that are served.
    pub(crate) served: Vec<String>,
    /// The Gateway API release it is from, as `v1.6.0`.
    pub(crate) bundle: Option<String>,
    /// `standard` or `experimental`.
    pub(crate) channel: Option<String>,
}

/// Something that installing needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permission {
    /// As `create clusterroles.rbac.authorization.k8s.io`.
    pub(crate) what: String,
    /// Whether we may, or why that is not known.
    pub(crate) allowed: Result<bool, String>,
}

/// Of an installed Weft.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    /// The control plane's pods.
    pub(crate) pods: Seen<Vec<Pod>>,
    /// The control plane's Service.
    pub(crate) service: Seen<Service>,
    /// Who leads.
    pub(crate) lease: Seen<Lease>,
    /// The annotations of the root's Secret. Its data is never read.
    pub(crate) secret: Seen<BTreeMap<String, String>>,
    /// The trust bundle's ConfigMaps.
    pub(crate) roots: Seen<Vec<ConfigMap>>,
    /// What is injected.
    pub(crate) injection: Seen<String>,
    /// What became of a pod that asks for a sidecar, in a dry run.
    pub(crate) dry_run: DryRun,
    /// The cluster's namespaces.
    pub(crate) namespaces: Seen<Vec<NamespaceFacts>>,
    /// Pods that have, or should have, a sidecar.
    pub(crate) workloads: Seen<Vec<PodFacts>>,
    /// Deployments of opted-in namespaces that cannot create pods: `namespace/name`, and why.
    pub(crate) stuck: Vec<(String, String)>,
    /// Objects that this version does not enforce.
    pub(crate) foreign: Vec<Foreign>,
    /// HTTPRoutes, GRPCRoutes, TLSRoutes and TCPRoutes.
    pub(crate) routes: Seen<Vec<DynamicObject>>,
}

/// What became of a pod that asks for a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DryRun {
    /// It got one.
    Injected,
    /// It was created without.
    Untouched,
    /// It was refused.
    Refused(String),
    /// That could not be tried: why.
    NotTried(String),
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamespaceFacts {
    /// Its name.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether it is being deleted.
    pub(crate) ending: bool,
}

/// An object of a kind that this version does not enforce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// Its kind.
    pub(crate) kind: &'static str,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// What is asked for beyond its kind, as `tls: SIMPLE`.
    pub(crate) asks: Option<String>,
}

impl Health {
    /// The namespaces whose pods get sidecars.
    pub(crate) fn opted_in(&self, mesh: &Mesh) -> Vec<&NamespaceFacts> {
        let namespaces = self.namespaces.found().map_or(&[][..], Vec::as_slice);
        namespaces
            .iter()
            .filter(|namespace| !namespace.ending && mesh.may_inject(&namespace.name))
            .filter(|namespace| mesh.asked_by(&namespace.labels) == Some(true))
            .collect()
    }
}

/// The moment that facts are judged at: the API server's clock, which wrote all the times in them, else ours.
pub(crate) fn now(facts: &Facts) -> SystemTime {
    facts.server.found().map_or_else(SystemTime::now, |server| server.clock.unwrap_or(server.ours))
}
