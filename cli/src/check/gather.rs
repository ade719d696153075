//! Asks the API server for the facts: the only file of `check/` that does. What may not be read is said as such, and the
//! rest is judged all the same.
//!
//! Bound: [`AT_ONCE`] namespaces at a time; of pods only a few words each are kept.

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, ListParams, PartialObjectMeta, PostParams};
use kube::core::TypeMeta;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use weft_control_plane::identity::{ROOTS_CONFIG_MAP, SECRET};

use super::facts::{Crd, DryRun, Facts, Foreign, Health, NamespaceFacts, NodeFacts, Permission};
use super::objects::{FOREIGN_KINDS, ForeignKind, asks};
use super::pods::PodFacts;
use crate::cluster::{Cluster, explain};
use crate::names::{INJECT, INJECTION_KEY, MESH_TLS, Mesh, REVISION, SIDECAR};
use crate::seen::{Seen, list, seen};

const AT_ONCE: usize = 8;

/// What installing creates: verb, group, resource, and whether in our namespace.
const INSTALLING: [(&str, &str, &str, bool); 16] = [
    ("create", "", "namespaces", false),
    ("create", "rbac.authorization.k8s.io", "clusterroles", false),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("create", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", false),
    ("create", "apiextensions.k8s.io", "customresourcedefinitions", false),
    ("create", "rbac.authorization.k8s.io", "roles", true),
    ("create", "rbac.authorization.k8s.io", "rolebindings", true),
    ("create", "", "serviceaccounts", true),
    ("create", "", "services", true),
    ("create", "", "configmaps", true),
    ("create", "", "secrets", true),
    ("list", "", "secrets", true),
    ("create", "apps", "deployments", true),
    ("patch", "apps", "deployments", true),
    ("create", "policy", "poddisruptionbudgets", true),
    ("create", "batch", "jobs", true),
];

/// What is asked before and after an installation.
pub(super) async fn facts(cluster: &Cluster, mesh: &Mesh) -> Facts {
    let client = &cluster.client;
    let deployments = Api::<Deployment>::namespaced(client.clone(), &mesh.namespace);
    let crds = Api::<CustomResourceDefinition>::all(client.clone());
    let name = mesh.control_plane();
    let (server, nodes, crd, webhooks, deployment) = tokio::join!(
        cluster.server(),
        list(Api::<Node>::all(client.clone()), ListParams::default(), |node| node_facts(&node)),
        crds.get_opt("httproutes.gateway.networking.k8s.io"),
        list(Api::<MutatingWebhookConfiguration>::all(client.clone()), ListParams::default(), |webhook| webhook),
        deployments.get_opt(&name),
    );
    Facts {
        mesh: mesh.clone(),
        own_version: env!("CARGO_PKG_VERSION").to_owned(),
        url: cluster.url.clone(),
        server: match server {
            Ok(server) => Seen::Found(server),
            Err(error) => Seen::Unknown(cluster.failed("ask for the version", &error).to_string()),
        },
        nodes,
        gateway: seen(crd.map(|crd| crd.map(|crd| crd_facts(&crd)))),
        webhooks,
        deployment: seen(deployment),
    }
}

/// What we may do, of what installing needs.
pub(super) async fn permissions(client: &Client, mesh: &Mesh) -> Vec<Permission> {
    let asked = INSTALLING.map(|(verb, group, resource, ours)| async move {
        let namespace = ours.then_some(&*mesh.namespace);
        let place = namespace.map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default();
        let dot = if group.is_empty() { "" } else { "." };
        let what = format!("{verb} {resource}{dot}{group}{place}");
        Permission { what, allowed: may(client, verb, group, resource, namespace).await }
    });
    Box::pin(stream::iter(asked).buffered(AT_ONCE).collect()).await
}

async fn may(
    client: &Client,
    verb: &str,
    group: &str,
    resource: &str,
    namespace: Option<&str>,
) -> Result<bool, String> {
    let attributes = ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        namespace: namespace.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let answer = Api::all(client.clone()).create(&PostParams::default(), &review).await;
    answer.map(|review| review.status.is_some_and(|status| status.allowed)).map_err(|error| explain(&error))
}

/// What is asked about an installed Weft; `only` narrows namespaces to one.
pub(super) async fn health(cluster: &Cluster, facts: &Facts, only: Option<&str>) -> Health {
    let (mesh, client) = (&facts.mesh, &cluster.client);
    let selector = facts.deployment.found().and_then(|deployment| {
        let labels = deployment.spec.as_ref()?.selector.match_labels.as_ref()?;
        Some(labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(","))
    });
    let namespaces = match only {
        Some(name) => {
            seen(Api::<Namespace>::all(client.clone()).get_opt(name).await.map(|found| found.map(|n| vec![n])))
                .map(|found| found.iter().map(namespace_facts).collect())
        }
        None => list(Api::all(client.clone()), ListParams::default(), |namespace| namespace_facts(&namespace)).await,
    };
    let mut health = Health {
        pods: Seen::Absent,
        service: Seen::Absent,
        lease: Seen::Absent,
        secret: Seen::Absent,
        roots: Seen::Absent,
        injection: Seen::Absent,
        dry_run: DryRun::NotTried("Weft is not installed".to_owned()),
        namespaces,
        workloads: Seen::Absent,
        stuck: Vec::new(),
        foreign: Vec::new(),
        routes: Seen::Absent,
    };
    let opted_in: Vec<String> = health.opted_in(mesh).iter().map(|namespace| namespace.name.clone()).collect();
    let secrets = Api::<Secret>::namespaced(client.clone(), &mesh.namespace);
    let (name, injection) = (mesh.control_plane(), mesh.injection());
    let services = Api::<Service>::namespaced(client.clone(), &mesh.namespace);
    let leases = Api::<Lease>::namespaced(client.clone(), &mesh.namespace);
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &mesh.namespace);
    let (pods, service, lease, secret, roots, injection, dry_run, workloads, stuck, foreign, routes) =
        Box::pin(async {
            tokio::join!(
                control_plane_pods(client, mesh, selector.as_deref()),
                services.get_opt(&name),
                leases.get_opt(&name),
                secrets.get_metadata_opt(SECRET),
                trust_bundles(client, only),
                maps.get_opt(&injection),
                dry_run(client, mesh, opted_in.first().map(String::as_str)),
                workloads(client, &opted_in, only),
                stuck(client, &opted_in),
                foreign(client, only),
                routes(client, only),
            )
        })
        .await;
    health.pods = pods;
    health.service = seen(service);
    health.lease = seen(lease);
    health.secret =
        seen(secret).map(|secret: PartialObjectMeta<Secret>| secret.metadata.annotations.unwrap_or_default());
    health.roots = roots;
    health.injection = seen(injection.map(|map| map.and_then(|map| map.data?.remove(INJECTION_KEY))));
    health.dry_run = dry_run;
    health.workloads = workloads;
    health.stuck = stuck;
    health.foreign = foreign;
    health.routes = routes;
    health
}

async fn control_plane_pods(client: &Client, mesh: &Mesh, selector: Option<&str>) -> Seen<Vec<Pod>> {
    let Some(selector) = selector else { return Seen::Absent };
    let pods = Api::<Pod>::namespaced(client.clone(), &mesh.namespace);
    list(pods, ListParams::default().labels(selector), |pod| pod).await
}

async fn trust_bundles(client: &Client, only: Option<&str>) -> Seen<Vec<ConfigMap>> {
    let named = ListParams::default().fields(&format!("metadata.name={ROOTS_CONFIG_MAP}"));
    let maps = match only {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    list(maps, named, |map| map).await
}

/// Pods of opted-in namespaces, those that ask themselves, and those that say they are in the mesh.
async fn workloads(client: &Client, opted_in: &[String], only: Option<&str>) -> Seen<Vec<PodFacts>> {
    let of = |namespace: Option<&str>| match namespace {
        Some(namespace) => Api::<Pod>::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let whole = opted_in.iter().map(|namespace| (of(Some(namespace)), ListParams::default()));
    let labelled = [MESH_TLS, INJECT, REVISION].map(|label| (of(only), ListParams::default().labels(label)));
    let lists = whole.chain(labelled).map(|(pods, params)| list(pods, params, |pod| PodFacts::of(&pod)));
    let lists: Vec<Seen<Vec<PodFacts>>> = stream::iter(lists).buffered(AT_ONCE).collect().await;
    let mut all = Vec::new();
    for list in lists {
        match list {
            Seen::Found(pods) => all.extend(pods),
            Seen::Absent => {}
            Seen::Unknown(why) => return Seen::Unknown(why),
        }
    }
    all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    all.dedup_by(|a, b| (&a.namespace, &a.name) == (&b.namespace, &b.name));
    Seen::Found(all)
}

/// Deployments whose pods are refused. Their ReplicaSets say so in a condition.
async fn stuck(client: &Client, opted_in: &[String]) -> Vec<(String, String)> {
    let lists = opted_in.iter().map(|namespace| {
        let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
        list(deployments, ListParams::default(), |deployment| {
            let conditions = deployment.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let mut failing = conditions.filter(|c| c.type_ == "ReplicaFailure" && c.status == "True");
            let why = failing.next()?.message.clone().unwrap_or_default();
            Some((format!("{}/{}", deployment.namespace().unwrap_or_default(), deployment.name_any()), why))
        })
    });
    let lists: Vec<Seen<Vec<_>>> = stream::iter(lists).buffered(AT_ONCE).collect().await;
    // Who may not read Deployments has been told so by other checks.
    lists.iter().filter_map(Seen::found).flatten().flatten().cloned().collect()
}

/// Asks for a pod with a sidecar, which is made but not kept. In an opted-in namespace if there is one, else in `default`.
async fn dry_run(client: &Client, mesh: &Mesh, namespace: Option<&str>) -> DryRun {
    let namespace = namespace.unwrap_or("default");
    match may(client, "create", "", "pods", Some(namespace)).await {
        Ok(true) => {}
        Ok(false) => return DryRun::NotTried(format!("you may not create pods in namespace {namespace}")),
        Err(why) => return DryRun::NotTried(why),
    }
    let (label, value) = if mesh.revision.is_empty() { (INJECT, "enabled") } else { (REVISION, &*mesh.revision) };
    // Fit for any namespace: what is refused is refused for the sidecar's sake.
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "weft-check", "labels": {label: value}},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "app",
                "image": "weft.dev/check:none",
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }));
    let pod: Pod = match pod {
        Ok(pod) => pod,
        Err(error) => return DryRun::NotTried(error.to_string()),
    };
    let params = PostParams { dry_run: true, ..PostParams::default() };
    match Api::<Pod>::namespaced(client.clone(), namespace).create(&params, &pod).await {
        Ok(pod) => {
            let containers = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
            let injected = containers.into_iter().any(|container| container.name == SIDECAR);
            if injected { DryRun::Injected } else { DryRun::Untouched }
        }
        Err(error) => DryRun::Refused(explain(&error)),
    }
}

async fn foreign(client: &Client, only: Option<&str>) -> Vec<Foreign> {
    // A cluster that does not say which groups it serves has none of these, as far as we can tell.
    let Ok(groups) = client.list_api_groups().await else { return Vec::new() };
    let served = FOREIGN_KINDS.iter().filter_map(|kind| {
        let group = groups.groups.iter().find(|group| group.name == kind.group)?;
        let version = group.preferred_version.as_ref().or(group.versions.first())?;
        Some((kind, version.version.clone()))
    });
    let lists = served.map(|(kind, version)| foreign_of(client, kind, version, only));
    stream::iter(lists).buffered(AT_ONCE).collect::<Vec<_>>().await.into_iter().flatten().collect()
}

async fn foreign_of(client: &Client, kind: &'static ForeignKind, version: String, only: Option<&str>) -> Vec<Foreign> {
    let found =
        list(dynamic(client, kind.group, &version, kind.kind, kind.plural, only), ListParams::default(), |object| {
            let asks = asks(kind, &object)?;
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            Some(Foreign { kind: kind.kind, namespace, name, asks })
        });
    found.await.found().into_iter().flatten().flatten().cloned().collect()
}

async fn routes(client: &Client, only: Option<&str>) -> Seen<Vec<DynamicObject>> {
    let of = |kind: &'static str, plural| async move {
        let (group, version) = ("gateway.networking.k8s.io", "v1");
        let types = TypeMeta { api_version: format!("{group}/{version}"), kind: kind.to_owned() };
        // Items of a list do not say what they are.
        let typed = |route| DynamicObject { types: Some(types.clone()), ..route };
        list(dynamic(client, group, version, kind, plural, only), ListParams::default(), typed).await
    };
    let (http, grpc, tls, tcp) = tokio::join!(
        of("HTTPRoute", "httproutes"),
        of("GRPCRoute", "grpcroutes"),
        of("TLSRoute", "tlsroutes"),
        of("TCPRoute", "tcproutes")
    );
    [grpc, tls, tcp].into_iter().fold(http, both)
}

fn both(one: Seen<Vec<DynamicObject>>, other: Seen<Vec<DynamicObject>>) -> Seen<Vec<DynamicObject>> {
    match (one, other) {
        (Seen::Found(mut one), Seen::Found(other)) => {
            one.extend(other);
            Seen::Found(one)
        }
        (Seen::Unknown(why), _) | (_, Seen::Unknown(why)) => Seen::Unknown(why),
        (found, Seen::Absent) | (Seen::Absent, found) => found,
    }
}

fn dynamic(
    client: &Client,
    group: &str,
    version: &str,
    kind: &str,
    plural: &str,
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

fn node_facts(node: &Node) -> NodeFacts {
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    NodeFacts { name: node.name_any(), kubelet: info.map(|info| info.kubelet_version.clone()).unwrap_or_default() }
}

fn crd_facts(crd: &CustomResourceDefinition) -> Crd {
    let note = |name: &str| crd.annotations().get(&format!("gateway.networking.k8s.io/{name}")).cloned();
    Crd {
        served: crd.spec.versions.iter().filter(|version| version.served).map(|version| version.name.clone()).collect(),
        bundle: note("bundle-version"),
        channel: note("channel"),
    }
}

fn namespace_facts(namespace: &Namespace) -> NamespaceFacts {
    NamespaceFacts {
        name: namespace.name_any(),
        labels: namespace.labels().clone(),
        ending: namespace.metadata.deletion_timestamp.is_some(),
    }
}
