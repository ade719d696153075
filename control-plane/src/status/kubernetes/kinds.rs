//! The kinds of routes whose status we write, and the watch on each.
//!
//! A kind that is not installed yet is asked for again within [`LAST_PAUSE`], so that installing the Gateway API needs no
//! restart.

use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt as _};
use kube::core::{ApiResource, Object};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::plan::Live;
use crate::model::{Kind, ObjectKey, ObjectName};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Between tries of a watch that fails.
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Every kind.
pub(super) const KINDS: [Kind; 6] =
    [Kind::GrpcRoute, Kind::HttpRoute, Kind::TlsRoute, Kind::TcpRoute, Kind::BackendTlsPolicy, Kind::TrafficPolicy];

/// Whether it is about targets and ancestors, not parents.
fn is_policy(kind: Kind) -> bool {
    matches!(kind, Kind::BackendTlsPolicy | Kind::TrafficPolicy)
}

/// Entries that the API takes in the status of an object of this kind.
pub(super) fn most_entries(kind: Kind) -> usize {
    if is_policy(kind) { 16 } else { 32 }
}

pub(super) fn is_route(kind: Kind) -> bool {
    KINDS.contains(&kind)
}

/// A route, as little of it as we need.
pub(super) type Route = Object<Spec, Status>;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    parent_refs: Vec<Value>,
    /// Of a policy.
    target_refs: Vec<Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    parents: Vec<Value>,
    /// Of a policy.
    ancestors: Vec<Value>,
}

/// Where a kind is served.
pub(super) fn resource(kind: Kind) -> Option<ApiResource> {
    let (group, version) = match kind {
        Kind::TrafficPolicy => ("gateway.networking.x-k8s.io", "v1alpha1"),
        _ => ("gateway.networking.k8s.io", "v1"),
    };
    let (kind, plural) = match kind {
        Kind::GrpcRoute => ("GRPCRoute", "grpcroutes"),
        Kind::HttpRoute => ("HTTPRoute", "httproutes"),
        Kind::TlsRoute => ("TLSRoute", "tlsroutes"),
        Kind::TcpRoute => ("TCPRoute", "tcproutes"),
        Kind::BackendTlsPolicy => ("BackendTLSPolicy", "backendtlspolicies"),
        Kind::TrafficPolicy => ("XBackendTrafficPolicy", "xbackendtrafficpolicies"),
        Kind::BackendPolicy
        | Kind::Namespace
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Pod
        | Kind::Node
        | Kind::ConfigMap
        | Kind::FaultInjection
        | Kind::RateLimit
        | Kind::PeerAuthentication => return None,
    };
    Some(ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    })
}

/// All routes of a kind, and what changes.
pub(super) fn watch(
    client: &Client,
    kind: Kind,
) -> Option<BoxStream<'static, (Kind, watcher::Result<watcher::Event<Route>>)>> {
    let routes = Api::<Route>::all_with(client.clone(), &resource(kind)?);
    let events = watcher(routes, watcher::Config::default()).backoff(Pauses::default());
    Some(events.map(move |event| (kind, event)).boxed())
}

/// What `route` is called, and what we need of it; `None` where the API server left out what it never leaves out.
pub(super) fn read(kind: Kind, route: Route) -> Option<(ObjectKey, Live)> {
    let meta = route.metadata;
    let name = ObjectName::new(meta.namespace?, meta.name?);
    let status = route.status.unwrap_or_default();
    let (parents, entries) = if is_policy(kind) {
        let ancestors = status.ancestors.into_iter().map(|entry| renamed(entry, ANCESTOR, PARENT));
        let targets = route.spec.target_refs.into_iter().map(|target| ancestor(target, &name.namespace));
        (targets.collect(), ancestors.collect())
    } else {
        (route.spec.parent_refs, status.parents)
    };
    let live = Live {
        uid: meta.uid?,
        version: meta.resource_version?,
        generation: meta.generation.unwrap_or_default(),
        parents,
        entries,
    };
    Some((ObjectKey { kind, name }, live))
}

/// The reason of Accepted on an object of this kind that the source does not take.
pub(super) fn refusal(kind: Kind) -> &'static str {
    if is_policy(kind) { "Invalid" } else { "UnsupportedValue" }
}

/// What a policy's status calls what a route's calls so.
const ANCESTOR: &str = "ancestorRef";
const PARENT: &str = "parentRef";

/// `entries`, made for a route, as the status of an object of this kind has them.
pub(super) fn status_of(kind: Kind, entries: Vec<Value>) -> Value {
    if !is_policy(kind) {
        return json!({"parents": entries});
    }
    let entries: Vec<_> = entries.into_iter().map(|entry| renamed(entry, PARENT, ANCESTOR)).collect();
    json!({"ancestors": entries})
}

fn renamed(mut entry: Value, from: &str, to: &str) -> Value {
    if let Some(fields) = entry.as_object_mut()
        && let Some(reference) = fields.remove(from)
    {
        fields.insert(to.to_owned(), reference);
    }
    entry
}

/// The ancestor that a policy has by this targetRef: the target itself.
fn ancestor(mut target: Value, namespace: &str) -> Value {
    if let Some(fields) = target.as_object_mut() {
        fields.insert("namespace".to_owned(), namespace.into());
        // Empty is the same as left out.
        if fields.get("sectionName").is_some_and(|section| section == "") {
            fields.remove("sectionName");
        }
    }
    target
}

/// Doubling pauses, between tries of a watch.
pub(super) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(LAST_PAUSE);
        // Drawn a little shorter, so that replicas that lost the API server together do not come back together.
        Some(pause * rand::Rng::random_range(&mut rand::rng(), 750..=1000_u32) / 1000)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = FIRST_PAUSE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policys_ancestors_are_read_and_written_as_a_routes_parents() {
        let policy = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
            "metadata": {"name": "p", "namespace": "shop", "uid": "u", "resourceVersion": "7", "generation": 3},
            "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "db", "sectionName": ""}]},
            "status": {"ancestors": [{"ancestorRef": {"name": "gateway"}, "controllerName": "x.org/y", "conditions": []}]},
        });
        let (key, live) = read(Kind::BackendTlsPolicy, serde_json::from_value(policy).unwrap()).unwrap();
        assert_eq!((key.kind, &*key.name.name, live.generation), (Kind::BackendTlsPolicy, "p", 3));
        let target = json!({"group": "", "kind": "Service", "name": "db", "namespace": "shop"});
        assert_eq!(live.parents, [target]);
        let entry = json!({"parentRef": {"name": "gateway"}, "controllerName": "x.org/y", "conditions": []});
        assert_eq!(live.entries, std::slice::from_ref(&entry));
        let ancestors = json!([{"ancestorRef": {"name": "gateway"}, "controllerName": "x.org/y", "conditions": []}]);
        assert_eq!(status_of(Kind::BackendTlsPolicy, live.entries), json!({"ancestors": ancestors}));
        assert_eq!(status_of(Kind::TcpRoute, vec![entry.clone()]), json!({"parents": [entry]}));
    }

    #[test]
    fn an_experimental_kind_is_of_a_group_of_its_own() {
        let found = KINDS.map(|kind| resource(kind).unwrap());
        let of = |kind: &str| found.iter().find(|resource| resource.kind == kind).unwrap();
        assert_eq!(of("HTTPRoute").api_version, "gateway.networking.k8s.io/v1");
        let policy = of("XBackendTrafficPolicy");
        assert_eq!(
            (&*policy.api_version, &*policy.plural),
            ("gateway.networking.x-k8s.io/v1alpha1", "xbackendtrafficpolicies")
        );
        assert_eq!((refusal(Kind::TrafficPolicy), most_entries(Kind::TrafficPolicy)), ("Invalid", 16));
        assert_eq!((refusal(Kind::HttpRoute), most_entries(Kind::HttpRoute)), ("UnsupportedValue", 32));
    }
}
