//! One document to objects: finds out what it is, checks it, and hands back the object with its digest, or what is wrong
//! with it. Pure: text in, outcome out; what came before and other documents do not matter here.
//!
//! Each kind has its own decoder below; a `List` is unpacked. Core kinds are checked against the generated Kubernetes
//! types (`schema.rs`) and then read; kinds of CRDs carry their few fields in their decoder.

use std::collections::BTreeMap;

use k8s_openapi::api::{core::v1 as core_v1, discovery::v1 as discovery_v1};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta_v1;

use super::documents::Document;
use super::field::{Field, Flaw, Flaws};
use super::tree::{self, Node};
use super::values;
use crate::model::{Age, Kind, Meta, Namespace, Node as NodeObject, Object, ObjectKey, ObjectName};
use crate::source::{Severity, kind_name};

mod backend_policy;
mod backend_tls;
mod connection_routes;
mod core;
mod fault_injection;
mod filters;
mod grpc_route;
mod peer_authentication;
mod rate_limit;
#[cfg(test)]
mod reference;
mod route;
mod traffic_policy;

pub(super) use self::core::SERVICE_NAME_LABEL;

/// Annotation that marks a Pod of a manifest as being deleted, as `metadata.deletionTimestamp` does.
pub const TERMINATING_ANNOTATION: &str = "weft.dev/terminating";

/// What became of one object of a document.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Decoded {
    /// Where it begins.
    pub(super) line: u32,
    /// Whose it is, where that could be read.
    pub(super) key: Option<ObjectKey>,
    pub(super) outcome: Outcome,
    /// Errors and warnings, by line.
    pub(super) flaws: Vec<Flaw>,
}

/// Who has looked at a document before us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nobody: it is checked here as an API server would.
    Manifest,
    /// An API server: its schemas may be newer than ours, and what it says of a Pod is the truth.
    ApiServer,
}

/// How a document ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    /// An object, its generation and age still to be filled in, and the digest of what its generation counts.
    Good(Box<Object>, u128),
    /// Refused. Without a key, nobody knows whose last good version it stands for.
    Bad,
    /// Not an object Weft reads.
    Ignored,
}

/// Decodes a document; a `List` yields several.
pub(super) fn decode(document: &Document<'_>) -> Vec<Decoded> {
    match tree::parse(document.text, document.first_line) {
        Ok(node) => {
            let mut out = Vec::new();
            decode_node(&node, String::new(), &mut out);
            out
        }
        Err(error) => {
            let flaw =
                Flaw { severity: Severity::Error, at: error.at, field: String::new(), message: error.to_string() };
            vec![Decoded { line: document.first_line, key: None, outcome: Outcome::Bad, flaws: vec![flaw] }]
        }
    }
}

fn decode_node(node: &Node, path: String, out: &mut Vec<Decoded>) {
    let flaws = Flaws::default();
    let document = Field::root(node, path, &flaws);
    let (key, outcome) = match identify(&document) {
        Identified::List => {
            for item in document.list("items") {
                decode_node(item.node(), item.path().to_owned(), out);
            }
            (None, if flaws.refused() { Outcome::Bad } else { Outcome::Ignored })
        }
        Identified::Foreign => (None, Outcome::Ignored),
        Identified::Nobody => (None, Outcome::Bad),
        Identified::Object(kind, meta) => {
            let key = ObjectKey { kind, name: meta.name.clone() };
            let outcome = match read(kind, meta, &document, Origin::Manifest) {
                Some(object) if !flaws.refused() => {
                    Outcome::Good(Box::new(object), node.digest(&["metadata", "status"]))
                }
                _ if flaws.refused() => Outcome::Bad,
                _ => Outcome::Ignored,
            };
            (Some(key), outcome)
        }
        Identified::Unusable(key) => (Some(key), Outcome::Bad),
    };
    let flaws = flaws.into_vec();
    if key.is_some() || !flaws.is_empty() || outcome != Outcome::Ignored {
        out.push(Decoded { line: node.at.line, key, outcome, flaws });
    }
}

/// Decodes what an API server hands out as an object of this kind; `None` where it is none that Weft reads. It was found
/// good by the API server, so nothing but the fields that Weft uses is looked at.
pub(super) fn decode_served(kind: Kind, node: &Node, flaws: &Flaws) -> Option<Object> {
    let document = Field::root(node, String::new(), flaws);
    let (_, meta) = metadata(kind, &document)?;
    read(kind, meta?, &document, Origin::ApiServer)
}

fn read(kind: Kind, meta: Meta, document: &Field<'_>, origin: Origin) -> Option<Object> {
    if origin == Origin::Manifest {
        check_schema(kind, document);
    }
    match kind {
        Kind::Namespace => Some(Object::Namespace(Namespace { meta })),
        Kind::Node => Some(Object::Node(NodeObject { meta })),
        Kind::Service => core::service(meta, document).map(Object::Service),
        Kind::Pod => core::pod(meta, document, origin).map(Object::Pod),
        Kind::EndpointSlice => core::endpoint_slice(meta, document).map(Object::EndpointSlice),
        Kind::BackendPolicy => backend_policy::backend_policy(meta, document).map(Object::BackendPolicy),
        Kind::FaultInjection => fault_injection::fault_injection(meta, document).map(Object::FaultInjection),
        Kind::RateLimit => rate_limit::rate_limit(meta, document).map(Object::RateLimit),
        Kind::GrpcRoute => grpc_route::grpc_route(meta, document, origin).map(Object::GrpcRoute),
        Kind::HttpRoute => route::http_route(meta, document, origin).map(Object::HttpRoute),
        Kind::TlsRoute => connection_routes::tls_route(meta, document, origin).map(Object::TlsRoute),
        Kind::TcpRoute => connection_routes::tcp_route(meta, document, origin).map(Object::TcpRoute),
        Kind::BackendTlsPolicy => backend_tls::policy(meta, document, origin).map(Object::BackendTlsPolicy),
        Kind::TrafficPolicy => traffic_policy::policy(meta, document, origin).map(Object::TrafficPolicy),
        Kind::ConfigMap => Some(Object::ConfigMap(backend_tls::config_map(meta, document))),
        Kind::PeerAuthentication => {
            peer_authentication::peer_authentication(meta, document).map(Object::PeerAuthentication)
        }
    }
}

/// Every field of a core kind; of a CRD's kind its metadata, which is of a core type too.
fn check_schema(kind: Kind, document: &Field<'_>) {
    match kind {
        Kind::Namespace => super::schema::check::<core_v1::Namespace>(document),
        Kind::Node => super::schema::check::<core_v1::Node>(document),
        Kind::Service => super::schema::check::<core_v1::Service>(document),
        Kind::Pod => super::schema::check::<core_v1::Pod>(document),
        Kind::ConfigMap => super::schema::check::<core_v1::ConfigMap>(document),
        Kind::EndpointSlice => super::schema::check::<discovery_v1::EndpointSlice>(document),
        Kind::BackendPolicy
        | Kind::FaultInjection
        | Kind::RateLimit
        | Kind::GrpcRoute
        | Kind::HttpRoute
        | Kind::TlsRoute
        | Kind::TcpRoute
        | Kind::BackendTlsPolicy
        | Kind::TrafficPolicy
        | Kind::PeerAuthentication => {
            if let Some(metadata) = document.get("metadata") {
                super::schema::check::<meta_v1::ObjectMeta>(&metadata);
            }
        }
    }
}

enum Identified {
    Object(Kind, Meta),
    /// Its identity can be read, its metadata or apiVersion not be used.
    Unusable(ObjectKey),
    List,
    /// Some other kind: not ours to judge.
    Foreign,
    /// Broken beyond knowing whose it is.
    Nobody,
}

/// The group of the kinds that are Weft's own.
const OURS: &str = "weft.dev";

/// The groups in which every kind is known here, so that a misspelt one is an error and not somebody else's object.
const GROUPS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "Binding ComponentStatus Endpoints Event LimitRange PersistentVolume PersistentVolumeClaim",
            "PodTemplate ReplicationController ResourceQuota Secret ServiceAccount",
        ],
    ),
    ("discovery.k8s.io", &[]),
    ("gateway.networking.k8s.io", &["Gateway GatewayClass ListenerSet ReferenceGrant UDPRoute"]),
    ("security.istio.io", &["AuthorizationPolicy RequestAuthentication"]),
    (OURS, &[]),
];

/// The kinds read, their groups, and the versions of each group that spell the same.
const KINDS: &[(Kind, &str, &[&str])] = &[
    (Kind::Namespace, "", &["v1"]),
    (Kind::Service, "", &["v1"]),
    (Kind::Pod, "", &["v1"]),
    (Kind::Node, "", &["v1"]),
    (Kind::BackendPolicy, OURS, &["v1alpha1"]),
    (Kind::EndpointSlice, "discovery.k8s.io", &["v1"]),
    (Kind::FaultInjection, OURS, &["v1alpha1"]),
    (Kind::RateLimit, OURS, &["v1alpha1"]),
    (Kind::GrpcRoute, "gateway.networking.k8s.io", &["v1"]),
    (Kind::HttpRoute, "gateway.networking.k8s.io", &["v1", "v1beta1"]),
    (Kind::TlsRoute, "gateway.networking.k8s.io", &["v1"]),
    (Kind::TcpRoute, "gateway.networking.k8s.io", &["v1"]),
    (Kind::BackendTlsPolicy, "gateway.networking.k8s.io", &["v1"]),
    (Kind::TrafficPolicy, "gateway.networking.x-k8s.io", &["v1alpha1"]),
    (Kind::ConfigMap, "", &["v1"]),
    (Kind::PeerAuthentication, "security.istio.io", &["v1", "v1beta1"]),
];

fn identify(document: &Field<'_>) -> Identified {
    if !matches!(document.node().value, tree::Value::Map(_)) {
        let found = document.node().describe();
        document.error(format_args!("must be a Kubernetes object (apiVersion, kind, metadata, …), not {found}"));
        return Identified::Nobody;
    }
    let api_version = document.require("apiVersion").and_then(|field| Some((field.text()?, field)));
    let kind_field = document.require("kind");
    let (Some(kind_field), Some(kind)) = (&kind_field, kind_field.as_ref().and_then(Field::text)) else {
        return Identified::Nobody;
    };
    if kind == "List" {
        return Identified::List;
    }
    let Some((kind, group, versions)) = KINDS.iter().find(|(known, ..)| kind_name(*known) == kind) else {
        let Some((api_version, _)) = api_version else { return Identified::Nobody };
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let misspelt = GROUPS
            .iter()
            .find(|(known, _)| *known == group)
            .is_some_and(|(_, kinds)| !kinds.iter().flat_map(|line| line.split(' ')).any(|known| known == kind));
        if misspelt {
            kind_field.error(format_args!("there is no kind {kind:?} in {api_version}"));
            return Identified::Nobody;
        }
        kind_field.warn(format_args!("{kind} ({api_version}) is not read by this version"));
        return Identified::Foreign;
    };
    let mut version_ok = false;
    if let Some((api_version, field)) = api_version {
        let (found, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if found != *group && is_another_projects(found) {
            kind_field.warn(format_args!("{} ({api_version}) is not read by this version", kind_name(*kind)));
            return Identified::Foreign;
        }
        version_ok = found == *group && versions.contains(&version);
        if !version_ok {
            let slash = if group.is_empty() { "" } else { "/" };
            let right = format!("{group}{slash}{}", versions.first().unwrap_or(&"v1"));
            field.error(format_args!("must be {right} for a {}, not {api_version:?}", kind_name(*kind)));
        }
    }
    match metadata(*kind, document) {
        Some((_, Some(meta))) if version_ok => Identified::Object(*kind, meta),
        Some((key, _)) => Identified::Unusable(key),
        None => Identified::Nobody,
    }
}

/// Whether a group belongs to neither Kubernetes nor Istio nor us: a Service of Knative is not our Service, while
/// `apps/v1` or `gatway.networking.k8s.io/v1` are slips of the pen.
fn is_another_projects(group: &str) -> bool {
    group.contains('.') && group != OURS && !group.ends_with(".k8s.io") && !group.ends_with(".istio.io")
}

/// The key, and the metadata if all of it is right. A name that no object can have is no key: it is more likely a slip
/// in the name of an object that is there than a new one.
fn metadata(kind: Kind, document: &Field<'_>) -> Option<(ObjectKey, Option<Meta>)> {
    let metadata = document.require("metadata").filter(Field::is_mapping)?;
    let name_field = metadata.require("name")?;
    let cluster_scoped = matches!(kind, Kind::Namespace | Kind::Node);
    let name = match kind {
        Kind::Namespace | Kind::Service => values::dns_label(&name_field),
        _ => values::dns_subdomain(&name_field),
    };
    let namespace = match metadata.get("namespace") {
        None if cluster_scoped => Some(""),
        None => Some("default"),
        Some(field) if cluster_scoped => {
            field.warn(format_args!("has no effect: a {} is in no namespace", kind_name(kind)));
            Some("")
        }
        Some(field) => values::dns_label(&field),
    };
    let labels = string_map(&metadata, "labels", true);
    let annotations = string_map(&metadata, "annotations", false);
    let name = ObjectName { namespace: namespace?.to_owned(), name: name?.to_owned() };
    let meta = labels.zip(annotations).map(|(labels, annotations)| Meta {
        name: name.clone(),
        labels,
        annotations,
        generation: 0,
        age: Age(0, String::new(), 0),
    });
    Some((ObjectKey { kind, name }, meta))
}

/// A mapping of qualified names to strings, such as labels; `None` where one of them is wrong.
fn string_map(parent: &Field<'_>, key: &str, are_labels: bool) -> Option<BTreeMap<String, String>> {
    let Some(field) = parent.get(key) else { return Some(BTreeMap::new()) };
    if !field.is_mapping() {
        return None;
    }
    let mut ok = true;
    let mut out = BTreeMap::new();
    for (key, value) in field.entries() {
        if !values::is_qualified(key) {
            value.error(format_args!("the key {key:?} must be [domain/]name of letters, digits, `-`, `_` and `.`"));
            ok = false;
        }
        match value.text() {
            Some(text) if are_labels && !values::is_label_value(text) => {
                value.error("must be a label value: at most 63 letters, digits, `-`, `_` and `.`");
                ok = false;
            }
            Some(text) => {
                out.insert(key.to_owned(), text.to_owned());
            }
            None => ok = false,
        }
    }
    ok.then_some(out)
}
