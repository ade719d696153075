//! A control plane played from the contract alone: it holds what a test puts in and answers whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use weft_proto::discovery::{
    AggregatedDiscoveryService, Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
    DiscoveryResponse, Resource,
};
use weft_proto::v1;

use crate::config::Kind;

/// What the played control plane knows and has heard.
#[derive(Default)]
pub(super) struct World {
    pub(super) resources: BTreeMap<(Kind, String), Held>,
    pub(super) version: u32,
    pub(super) requests: Vec<DeltaDiscoveryRequest>,
    /// (kind, resource) of everything sent.
    pub(super) sent: Vec<(Kind, String)>,
    pub(super) silent: bool,
}

/// Version, aliases, payload.
type Held = (u32, Vec<String>, Vec<u8>);

/// The played control plane: a test changes its world, then pushes.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) world: Mutex<World>,
    changed: watch::Sender<()>,
}

impl Fake {
    pub(super) fn set(&self, kind: Kind, name: &str, aliases: &[&str], payload: &impl Message) {
        let mut world = self.world.lock();
        world.version += 1;
        let version = world.version;
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        world.resources.insert((kind, name.to_owned()), (version, aliases, payload.encode_to_vec()));
    }

    pub(super) fn remove(&self, kind: Kind, name: &str) {
        self.world.lock().resources.remove(&(kind, name.to_owned()));
    }

    /// Sends what has been set since the last time.
    pub(super) fn push(&self) {
        self.changed.send_replace(());
    }

    pub(super) fn service(&self, name: &str, vips: &[&str], routes: Option<&[(&str, u32)]>) {
        self.set(Kind::Service, &format!("shop/{name}"), vips, &service(name, vips, routes));
    }

    pub(super) fn endpoints(&self, name: &str, addresses: &[&str]) {
        let endpoints = addresses.iter().map(|address| v1::Endpoint {
            address: (*address).into(),
            port: 8080,
            ..v1::Endpoint::default()
        });
        self.set(Kind::Endpoints, name, &[], &v1::Endpoints { endpoints: endpoints.collect() });
    }

    pub(super) fn subscribed(&self, kind: Kind) -> BTreeSet<String> {
        let world = self.world.lock();
        let mut names = BTreeSet::new();
        for request in world.requests.iter().filter(|request| request.type_url == kind.type_url()) {
            names.extend(request.resource_names_subscribe.iter().cloned());
            for name in &request.resource_names_unsubscribe {
                names.remove(name);
            }
        }
        names
    }

    pub(super) fn sent(&self, kind: Kind, name: &str) -> usize {
        self.world.lock().sent.iter().filter(|sent| **sent == (kind, name.to_owned())).count()
    }

    pub(super) fn nacks(&self) -> Vec<String> {
        self.world.lock().requests.iter().filter_map(|request| Some(request.error_detail.clone()?.message)).collect()
    }
}

type Responses<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for FakeService {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: tonic::Request<Streaming<DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        requests: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(converse(Arc::clone(&self.0), requests.into_inner(), sender));
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// The service over it.
pub(super) struct FakeService(pub(super) Arc<Fake>);

/// One stream: answers whoever asks, sends what changes.
async fn converse(
    fake: Arc<Fake>,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    sender: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) {
    let mut names: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
    let mut has: BTreeMap<(Kind, String), u32> = BTreeMap::new();
    let mut changed = fake.changed.subscribe();
    let mut nonce = 0;
    loop {
        let mut newly: BTreeSet<(Kind, String)> = BTreeSet::new();
        tokio::select! {
            request = requests.message() => {
                let Ok(Some(request)) = request else { return };
                fake.world.lock().requests.push(request.clone());
                let kind = Kind::from_type_url(&request.type_url).unwrap();
                let initial = !request.initial_resource_versions.is_empty();
                for (name, version) in request.initial_resource_versions {
                    has.insert((kind, name), version.parse().unwrap());
                }
                let names = names.entry(kind).or_default();
                for name in request.resource_names_unsubscribe {
                    names.remove(&name);
                }
                for name in request.resource_names_subscribe {
                    names.insert(name.clone());
                    if !initial {
                        has.remove(&(kind, name.clone()));
                    }
                    newly.insert((kind, name));
                }
            }
            _ = changed.changed() => {}
        }
        for kind in Kind::ALL {
            let mut response = DeltaDiscoveryResponse { type_url: kind.type_url().into(), ..Default::default() };
            {
                let mut world = fake.world.lock();
                if world.silent {
                    continue;
                }
                for name in names.get(&kind).into_iter().flatten() {
                    let found = world.resources.iter().find(|((of, resource), (_, aliases, _))| {
                        *of == kind && (resource == name || aliases.contains(name))
                    });
                    let Some(((_, resource), (version, aliases, payload))) = found else {
                        if newly.contains(&(kind, name.clone())) {
                            response.removed_resources.push(name.clone());
                        }
                        continue;
                    };
                    if has.insert((kind, resource.clone()), *version) != Some(*version) {
                        response.resources.push(Resource {
                            name: resource.clone(),
                            version: version.to_string(),
                            aliases: aliases.clone(),
                            resource: Some(Any { type_url: kind.type_url().into(), value: payload.clone() }),
                            ..Default::default()
                        });
                    }
                }
                has.retain(|(of, resource), _| {
                    let there = *of != kind || world.resources.contains_key(&(*of, resource.clone()));
                    if !there {
                        response.removed_resources.push(resource.clone());
                    }
                    there
                });
                world.sent.extend(response.resources.iter().map(|resource| (kind, resource.name.clone())));
            }
            if !response.resources.is_empty() || !response.removed_resources.is_empty() {
                nonce += 1;
                response.nonce = nonce.to_string();
                if sender.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        }
    }
}

pub(super) fn service(name: &str, vips: &[&str], routes: Option<&[(&str, u32)]>) -> v1::Service {
    let targets = routes.unwrap_or_default().iter().map(|(backend, weight)| v1::WeightedTarget {
        weight: *weight,
        target: Some(v1::weighted_target::Target::Backend(v1::Backend {
            service: (*backend).into(),
            port: 80,
            ..v1::Backend::default()
        })),
        filters: Vec::new(),
    });
    let rule = v1::RouteRule {
        route: format!("HTTPRoute/shop/{name}"),
        rule: "0".into(),
        targets: targets.collect(),
        ..v1::RouteRule::default()
    };
    let port = v1::ServicePort {
        port: 80,
        protocol: v1::Protocol::Http.into(),
        routed: routes.is_some(),
        entries: routes.iter().map(|_| v1::RouteEntry { r#match: None, rule: 0 }).collect(),
        rules: routes.iter().map(|_| rule.clone()).collect(),
        ..v1::ServicePort::default()
    };
    v1::Service {
        namespace: "shop".into(),
        name: name.into(),
        hosts: vec![format!("{name}.shop.svc.cluster.local")],
        vips: vips.iter().map(|vip| (*vip).to_owned()).collect(),
        ports: vec![port],
    }
}
