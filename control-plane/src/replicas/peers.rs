//! Who the replicas are: what the EndpointSlices of the control plane's Services list, ready or not, because a replica
//! that starts or drains has proxies, too.
//!
//! Revisions of one mesh share its root, so a question about the trust bundle goes to all of them; everything else only
//! to the replicas of this one. A pod is asked at one address, whatever families it has. The list counts for something
//! only once it names this very pod: an older one may lack others as well.
//!
//! Bound: the slices of one namespace's Services of that name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures_util::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::watch;

use super::Place;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The replicas, by pod name; this one is among them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peers(pub BTreeMap<String, Peer>);

/// One replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it is.
    pub address: IpAddr,
    /// Takes connections, as far as the API server knows. One that does not and that does not answer has no proxies.
    pub serving: bool,
    /// Of this revision.
    pub ours: bool,
}

/// Keeps `peers` up to date. Never ends; drop it to stop.
pub(super) async fn follow(client: Client, place: Place, peers: watch::Sender<Peers>) {
    let slices = Api::<EndpointSlice>::namespaced(client, &place.namespace);
    let of_a_service = watcher::Config::default().labels(SERVICE_NAME);
    let mut changes = std::pin::pin!(watcher(slices, of_a_service).default_backoff());
    let (mut known, mut coming) = (BTreeMap::new(), BTreeMap::new());
    while let Some(event) = changes.next().await {
        match event {
            Ok(watcher::Event::Init) => coming = BTreeMap::new(),
            Ok(watcher::Event::InitApply(slice)) => {
                coming.insert(slice.metadata.name.clone(), slice);
                continue;
            }
            Ok(watcher::Event::InitDone) => known = std::mem::take(&mut coming),
            Ok(watcher::Event::Apply(slice)) => drop(known.insert(slice.metadata.name.clone(), slice)),
            Ok(watcher::Event::Delete(slice)) => drop(known.remove(&slice.metadata.name)),
            Err(error) => {
                tracing::warn!(%error, "cannot watch the EndpointSlices of the control plane");
                continue;
            }
        }
        let now = read(known.values(), &place.service);
        peers.send_if_modified(|peers| {
            let differs = *peers != now;
            if differs {
                tracing::info!(replicas = ?now.0.keys().collect::<Vec<_>>(), "replicas of the control plane");
                *peers = now;
            }
            differs
        });
    }
}

/// The base of every revision's Service name.
const BASE: &str = "weft-control-plane";

fn read<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, service: &str) -> Peers {
    let mut peers: BTreeMap<String, Peer> = BTreeMap::new();
    for slice in slices {
        let of = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        let Some(of) =
            of.filter(|of| of.strip_prefix(BASE).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')))
        else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
            let address = endpoint.addresses.first().and_then(|address| address.parse::<IpAddr>().ok());
            let (Some(pod), Some(address)) = (pod, address) else { continue };
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
            let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
            let ours = of == service;
            let peer = peers.entry(pod).or_insert(Peer { address, serving, ours });
            // The same pod in the slice of another family, or of a second Service.
            peer.address = peer.address.min(address);
            peer.serving |= serving;
            peer.ours |= ours;
        }
    }
    Peers(peers)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(service: &str, endpoints: &[(&str, &str, Option<bool>)]) -> EndpointSlice {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(pod, address, ready)| {
                let target = json!({"kind": "Pod", "name": pod});
                json!({"addresses": [address], "conditions": {"ready": ready}, "targetRef": target})
            })
            .collect();
        let value = json!({
            "metadata": {"name": "x", "labels": {SERVICE_NAME: service}}, "addressType": "IPv4", "endpoints": endpoints,
        });
        serde_json::from_value(value).unwrap()
    }

    fn text(slices: &[EndpointSlice]) -> String {
        let peer = |(pod, peer): (&String, &Peer)| {
            let (serving, ours) = (if peer.serving { "" } else { " silent" }, if peer.ours { "" } else { " other" });
            format!("{pod}@{}{serving}{ours}", peer.address)
        };
        read(slices.iter(), "weft-control-plane").0.iter().map(peer).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn every_pod_behind_a_control_planes_service_is_a_replica() {
        let own = "weft-control-plane";
        let rows = [
            ("two", vec![slice(own, &[("a", "10.0.0.1", None), ("b", "10.0.0.2", Some(true))])], "a@10.0.0.1, b@10.0.0.2"),
            ("one that is not ready", vec![slice(own, &[("a", "10.0.0.1", Some(false))])], "a@10.0.0.1 silent"),
            (
                "both families are one pod",
                vec![slice(own, &[("a", "fd00::1", None)]), slice(own, &[("a", "10.0.0.1", None)])],
                "a@10.0.0.1",
            ),
            (
                "another revision",
                vec![slice(own, &[("a", "10.0.0.1", None)]), slice("weft-control-plane-canary", &[("c", "10.0.0.3", None)])],
                "a@10.0.0.1, c@10.0.0.3 other",
            ),
            ("another Service", vec![slice("weft-control-planes", &[("x", "10.0.0.9", None)])], ""),
            ("no pod", vec![serde_json::from_value(json!({"metadata": {"labels": {SERVICE_NAME: own}}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]})).unwrap()], ""),
        ];
        for (row, slices, expected) in rows {
            assert_eq!(text(&slices), expected, "{row}");
        }
    }
}
