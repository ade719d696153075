//! Asks for what `weft check routes` is about: the API server for routes and objects of Weft's own kinds, and a replica of the control plane for counts.
//!
//! Which kinds of routes there are is the API server's to say: whatever the Gateway API calls a Route has the same
//! `status.parents`. Bound: that of `list`; the counts' is the control plane's.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::TypeMeta;
use kube::discovery::{self, Scope};
use weft_control_plane::status::counts::Counts;
use weft_proto::ports;

use super::files::Refused;
use super::{has_service_parent, own};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::names::Mesh;
use crate::reach::{self, Place};
use crate::seen::{Seen, list};
use crate::versions;

const GATEWAY_API: &str = "gateway.networking.k8s.io";
const OURS: &str = "weft.dev";

/// Routes, objects of Weft's own kinds, and what could not be looked at.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Those with a Service as parent, of all kinds.
    pub(super) routes: Vec<DynamicObject>,
    /// Of Weft's own kinds, all of them.
    pub(super) own: Vec<DynamicObject>,
    /// Of manifests, without a cluster.
    pub(super) refused: Vec<Refused>,
    /// As `TCPRoutes: forbidden`.
    pub(super) unknown: Vec<String>,
}

/// All routes and objects of Weft's own kinds, or those of namespace `only`.
///
/// # Errors
/// When the API server does not say which kinds there are.
pub(super) async fn objects(cluster: &Cluster, only: Option<&str>) -> Result<Gathered, Error> {
    let mut gathered = Gathered::default();
    for resource in kinds(cluster).await?.into_iter().chain(own::KINDS.iter().map(own_resource)) {
        let api = match only {
            Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, &resource),
            None => Api::all_with(cluster.client.clone(), &resource),
        };
        let types = TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() };
        // Items of a list do not say what they are.
        let typed = |object: DynamicObject| DynamicObject { types: Some(types.clone()), ..object };
        match list(api, ListParams::default(), typed).await {
            Seen::Found(objects) if resource.group == OURS => gathered.own.extend(objects),
            Seen::Found(routes) => gathered.routes.extend(routes.into_iter().filter(has_service_parent)),
            Seen::Absent => {}
            Seen::Unknown(why) => gathered.unknown.push(format!("cannot look at {}: {why}", resource.plural)),
        }
    }
    Ok(gathered)
}

fn own_resource((kind, plural): &(&str, &str)) -> ApiResource {
    ApiResource {
        group: OURS.to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: format!("{OURS}/v1alpha1"),
        kind: (*kind).to_owned(),
        plural: (*plural).to_owned(),
    }
}

/// The kinds of routes, each in its most stable version; none where the Gateway API is not installed.
async fn kinds(cluster: &Cluster) -> Result<Vec<ApiResource>, Error> {
    let group = match discovery::group(&cluster.client, GATEWAY_API).await {
        Ok(group) => group,
        Err(kube::Error::Discovery(_)) => return Ok(Vec::new()),
        Err(error) => return Err(cluster.failed("ask which kinds of routes there are", &error)),
    };
    let routes = group.resources_by_stability().into_iter();
    let routes =
        routes.filter(|(resource, about)| resource.kind.ends_with("Route") && about.scope == Scope::Namespaced);
    Ok(routes.map(|(resource, _)| resource).collect())
}

/// What a replica of the control plane counts, of all replicas.
///
/// # Errors
/// Why nobody counts, for people.
pub(super) async fn counts(cluster: &Cluster, mesh: &Mesh, only: Option<&str>) -> Result<Counts, String> {
    let pods = versions::control_plane_pods(cluster, mesh).await.map_err(|error| error.to_string())?;
    let ready: Vec<&str> =
        pods.iter().filter(|pod| is_ready(pod)).filter_map(|pod| pod.metadata.name.as_deref()).collect();
    let mut why = format!("no replica of {} in namespace {} is ready", mesh.control_plane(), mesh.namespace);
    for pod in ready {
        match asked(cluster, mesh, pod, only).await {
            Ok(counts) => return Ok(counts),
            Err(error) => why = error,
        }
    }
    Err(why)
}

async fn asked(cluster: &Cluster, mesh: &Mesh, pod: &str, only: Option<&str>) -> Result<Counts, String> {
    let namespace = only.map(|only| format!("?namespace={only}")).unwrap_or_default();
    let request = Request::get(format!("/debug/routes{namespace}")).body(Full::<Bytes>::default());
    let request = request.map_err(|error| error.to_string())?;
    let port = ports::CONTROL_PLANE_ADMIN;
    let place = Place { namespace: &mesh.namespace, pod, what: "the control plane", port };
    let answer = reach::ask(cluster, place, request).await.map_err(|error| error.to_string())?;
    match answer.status {
        StatusCode::OK => serde_json::from_slice(&answer.body)
            .map_err(|error| format!("{pod} answers what this weft cannot read: {error}")),
        StatusCode::NOT_FOUND => Err(format!("{pod} is of a version that does not count: weft install upgrades it")),
        status => Err(format!("{pod} answers {status}: {}", answer.text())),
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
