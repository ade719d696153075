//! A proxy that does as the delta protocol says: it remembers what it has and answers every response.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};
use weft_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status as RpcStatus};

use super::patience::within;

/// The other end of a stream.
pub(crate) struct Proxy {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// Sent once.
    node: Option<Node>,
    /// By type: name → version.
    has: BTreeMap<String, BTreeMap<String, String>>,
    refuse: Option<String>,
}

impl Proxy {
    /// On a stream that was opened for the pod at `address`.
    pub(super) fn new(
        requests: mpsc::Sender<DeltaDiscoveryRequest>,
        responses: Streaming<DeltaDiscoveryResponse>,
        address: &str,
    ) -> Self {
        let node = Some(Node { id: address.to_owned(), ..Node::default() });
        Self { requests, responses, node, has: BTreeMap::new(), refuse: None }
    }

    pub(crate) async fn subscribe(&mut self, type_url: &str, names: &[&str]) {
        self.reconnect(type_url, names, BTreeMap::new()).await;
    }

    /// Subscribes, saying what it has.
    pub(crate) async fn reconnect(&mut self, type_url: &str, names: &[&str], has: BTreeMap<String, String>) {
        let request = DeltaDiscoveryRequest {
            node: self.node.take(),
            type_url: type_url.to_owned(),
            resource_names_subscribe: names.iter().map(|&name| name.to_owned()).collect(),
            initial_resource_versions: has.into_iter().collect(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// What it has of a type.
    pub(crate) fn has(&self, type_url: &str) -> BTreeMap<String, String> {
        self.has.get(type_url).cloned().unwrap_or_default()
    }

    pub(crate) fn nack_next(&mut self, message: &str) {
        self.refuse = Some(message.to_owned());
    }

    /// The next response, answered; `Code::Ok` as an error is the stream's graceful end.
    pub(crate) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let response = within(self.responses.message()).await?;
        let response = response.ok_or_else(|| Status::new(Code::Ok, "the stream has ended"))?;
        let has = self.has.entry(response.type_url.clone()).or_default();
        for resource in &response.resources {
            has.insert(resource.name.clone(), resource.version.clone());
        }
        for name in &response.removed_resources {
            has.remove(name);
        }
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: self.refuse.take().map(|message| RpcStatus { message, ..RpcStatus::default() }),
            ..DeltaDiscoveryRequest::default()
        };
        // The stream may have ended behind this response.
        let _ = self.requests.send(answer).await;
        Ok(response)
    }

    /// Reads on until the resource comes.
    pub(crate) async fn named<M: prost::Message + Default>(&mut self, type_url: &str, name: &str) -> (M, Vec<String>) {
        loop {
            let response = self.next().await.unwrap();
            if response.type_url != type_url {
                continue;
            }
            if let Some(resource) = response.resources.into_iter().find(|resource| resource.name == name) {
                let body = resource.resource.unwrap();
                assert_eq!(body.type_url, type_url);
                return (M::decode(&*body.value).unwrap(), resource.aliases);
            }
        }
    }

    pub(crate) async fn one<M: prost::Message + Default>(&mut self, type_url: &str, name: &str) -> M {
        self.named(type_url, name).await.0
    }
}

/// `shop/a@1 -gone`
pub(crate) fn text_of(response: &DeltaDiscoveryResponse) -> String {
    let found = response.resources.iter().map(|resource| format!("{}@{}", resource.name, resource.version));
    let removed = response.removed_resources.iter().map(|name| format!("-{name}"));
    found.chain(removed).collect::<Vec<_>>().join(" ")
}
