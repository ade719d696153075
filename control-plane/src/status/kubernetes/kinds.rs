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
use serde_json::Value;

use super::plan::Live;
use crate::model::{Kind, ObjectKey, ObjectName};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Between tries of a watch that fails.
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Every kind.
pub(super) const KINDS: [Kind; 2] = [Kind::GrpcRoute, Kind::HttpRoute];

pub(super) fn is_route(kind: Kind) -> bool {
    KINDS.contains(&kind)
}

/// A route, as little of it as we need.
pub(super) type Route = Object<Spec, Status>;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    parent_refs: Vec<Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    parents: Vec<Value>,
}

/// Where a kind is served.
pub(super) fn resource(kind: Kind) -> Option<ApiResource> {
    let (kind, plural) = match kind {
        Kind::GrpcRoute => ("GRPCRoute", "grpcroutes"),
        Kind::HttpRoute => ("HTTPRoute", "httproutes"),
        Kind::Namespace
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Pod
        | Kind::Node
        | Kind::FaultInjection
        | Kind::RateLimit
        | Kind::PeerAuthentication => return None,
    };
    Some(ApiResource {
        group: "gateway.networking.k8s.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "gateway.networking.k8s.io/v1".to_owned(),
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
    let events = watcher(routes, watcher::Config::default()).backoff(pauses());
    Some(events.map(move |event| (kind, event)).boxed())
}

/// What `route` is called, and what we need of it; `None` where the API server left out what it never leaves out.
pub(super) fn read(kind: Kind, route: Route) -> Option<(ObjectKey, Live)> {
    let meta = route.metadata;
    let name = ObjectName::new(meta.namespace?, meta.name?);
    let live = Live {
        uid: meta.uid?,
        version: meta.resource_version?,
        generation: meta.generation.unwrap_or_default(),
        parents: route.spec.parent_refs,
        entries: route.status.unwrap_or_default().parents,
    };
    Some((ObjectKey { kind, name }, live))
}

/// Between tries of a watch.
pub(super) fn pauses() -> impl Backoff {
    Pauses(FIRST_PAUSE)
}

/// Doubling pauses.
struct Pauses(Duration);

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
