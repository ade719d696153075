//! The stream to the control plane: requests out, responses in, until it breaks; then again, with a back-off of 0.1 s
//! to 5 s and the versions we hold, so that nothing unchanged is sent twice. All decisions are `Config`'s.
//!
//! A control plane that is gone costs nothing but news: what is known stays in use (ARCHITECTURE.md "The control plane").
//! HTTP/2 PINGs notice a silent one within 8 s (`identity/control_plane.rs`).

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use weft_proto::discovery::{AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, Node, Status};

use super::Config;
use super::stats::count;
use super::subscriptions::Request;
use crate::identity::{Backoff, ControlPlane, ControlPlaneError};

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// A stream that lived this long was a good one: the next starts at the first back-off again.
const HEALTHY: Duration = Duration::from_secs(10);
/// From dialling to the response head.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How often unused names are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Requests handed to HTTP/2 and not sent yet; beyond it we read on and send later.
const REQUESTS_AHEAD: usize = 16;
/// Largest response. One resource in Kubernetes is below 1.5 MiB; a response holds many.
const MAX_RESPONSE: usize = 64 << 20;
/// `google.rpc.Code.INVALID_ARGUMENT`
const INVALID_ARGUMENT: i32 = 3;

/// Why a stream is no more.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Connect(#[from] ControlPlaneError),
    #[error("the control plane did not open the stream within {OPEN_TIMEOUT:?}")]
    Timeout,
    #[error("the control plane ended the stream: {} ({:?})", .0.message(), .0.code())]
    Status(Box<tonic::Status>),
}

impl From<tonic::Status> for StreamError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Config {
    /// Keeps the stream to the control plane and ages the table. Never returns; drop it to stop.
    pub async fn run(&self, control_plane: &ControlPlane) {
        tokio::join!(self.keep_stream(control_plane), self.keep_sweeping());
    }

    async fn keep_sweeping(&self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            self.sweep();
        }
    }

    async fn keep_stream(&self, control_plane: &ControlPlane) {
        let mut backoff = Backoff::new(FIRST_BACKOFF, LONGEST_BACKOFF);
        loop {
            control_plane.identity().ready().await;
            let began = Instant::now();
            let ended = self.stream(control_plane).await;
            self.stats().connected.store(false, Ordering::Relaxed);
            if began.elapsed() >= HEALTHY {
                backoff.reset();
            }
            let wait = backoff.after_failure(&mut rand::rng());
            match ended {
                // How the control plane spreads proxies over its replicas.
                Ok(()) => tracing::info!("the control plane ended the stream; opening another"),
                Err(error) => {
                    count(&self.stats().failures, 1);
                    tracing::warn!(%error, ?wait, "no stream to the control plane; what is known stays in use");
                }
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn stream(&self, control_plane: &ControlPlane) -> Result<(), StreamError> {
        let (sender, receiver) = mpsc::channel(REQUESTS_AHEAD);
        let open = async {
            let channel = control_plane.channel().await?;
            let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
            self.on_connected();
            // The first requests travel with the stream's head: a server may read one before it answers.
            let mut node = Some(Node { id: self.0.settings.pod_address.clone(), ..Node::default() });
            while let Ok(permit) = sender.try_reserve() {
                let Some(request) = self.next_request() else { break };
                permit.send(to_wire(request, node.take()));
            }
            Ok::<_, StreamError>(client.delta_aggregated_resources(ReceiverStream::new(receiver)).await?.into_inner())
        };
        let mut responses = tokio::time::timeout(OPEN_TIMEOUT, open).await.map_err(|_| StreamError::Timeout)??;
        count(&self.stats().connects, 1);
        self.stats().connected.store(true, Ordering::Relaxed);
        loop {
            tokio::select! {
                response = responses.message() => match response? {
                    Some(response) => self.apply(response),
                    None => return Ok(()),
                },
                // Reading goes on while the control plane does not: two full pipes must not wait for each other.
                permit = sender.reserve(), if self.has_request() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(request) = self.next_request() {
                        permit.send(to_wire(request, None));
                    }
                }
                () = self.requested() => {}
            }
        }
    }
}

fn to_wire(request: Request, node: Option<Node>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node,
        type_url: request.kind.type_url().to_owned(),
        resource_names_subscribe: request.subscribe,
        resource_names_unsubscribe: request.unsubscribe,
        initial_resource_versions: request.initial_versions.into_iter().collect::<HashMap<_, _>>(),
        response_nonce: request.nonce.unwrap_or_default(),
        error_detail: request.error.map(|message| Status { code: INVALID_ARGUMENT, message, ..Status::default() }),
        ..DeltaDiscoveryRequest::default()
    }
}
