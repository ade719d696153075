//! A proxy that does as the delta protocol says: it says which pod it is, subscribes, and ACKs every response.

use std::net::SocketAddr;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use weft_proto::discovery::{AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};

use super::{Svid, WireError, channel};

/// One discovery stream.
pub struct Proxy {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// Sent once.
    node: Option<Node>,
}

impl Proxy {
    /// A stream as the proxy of the pod at `pod`, which `svid` has to be entitled to.
    ///
    /// # Errors
    /// Why there is none. Whether the pod is believed is answered on the stream, after the first subscription.
    pub async fn connect(control_plane: SocketAddr, svid: &Svid, pod: &str) -> Result<Self, WireError> {
        let channel = channel(control_plane, &svid.roots, Some(svid)).await?;
        let (requests, outgoing) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { requests, responses, node: Some(Node { id: pod.to_owned(), ..Node::default() }) })
    }

    /// Subscribes. A stream that has ended says so at [`Proxy::next`].
    pub async fn subscribe(&mut self, type_url: &str, names: &[&str]) {
        let request = DeltaDiscoveryRequest {
            node: self.node.take(),
            type_url: type_url.to_owned(),
            resource_names_subscribe: names.iter().map(|&name| name.to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        let _ = self.requests.send(request).await;
    }

    /// The next response, ACKed; `None` at the stream's end.
    ///
    /// # Errors
    /// The status the stream ends with.
    pub async fn next(&mut self) -> Result<Option<DeltaDiscoveryResponse>, WireError> {
        let Some(response) = self.responses.message().await? else { return Ok(None) };
        let ack = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        // The stream may have ended behind this response.
        let _ = self.requests.send(ack).await;
        Ok(Some(response))
    }
}
