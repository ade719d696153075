//! One delta stream from its first request to its end: admits the proxy, then turns requests and changes into session
//! events and session decisions into messages.
//!
//! A stream ends gracefully (OK in the trailers) with its connection: after [`Lifetime`] says so, when the
//! peer's certificate ends, or when the control plane shuts down. The proxy reconnects and names what it has.
//!
//! Bound: one response per type waiting to be written, each for [`UNREAD`] once there are as many; one request read at a time,
//! which keeps its room (`requests.rs`) until it is decoded and no longer.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::Stream;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use weft_proto::discovery::{
    AggregatedDiscoveryService, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};

use super::proxies::{Listed, ProxyInfo};
use super::requests::Held;
use super::session::check;
use super::{Denied, Feed, Metrics, Proxies, ResourceKind, Seen, Session, SessionError, admit};
use crate::identity::Peer;
use crate::line_limit::Lines;
use crate::translate::{Touched, View};

/// How long a peer may take to say who it is.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// How long a stream waits for the first complete state after a start. Longer than reading a directory takes; the proxy
/// keeps working with what it has and tries again.
const FIRST_SYNC: Duration = Duration::from_secs(10);
/// How long a response waits for a peer that does not read. Whoever answers what it is sent never makes one wait: there is room
/// for one of each type.
const UNREAD: Duration = Duration::from_secs(10);

/// Tells a connection's streams to end. `true` once they should.
#[derive(Debug, Clone)]
pub struct Lifetime(watch::Receiver<bool>);

impl Lifetime {
    /// Ends when `ending` says true, or its sender is gone.
    pub fn new(ending: watch::Receiver<bool>) -> Self {
        Self(ending)
    }

    async fn over(&mut self) {
        // An error says that the connection is gone, which is an end as well.
        let _ = self.0.wait_for(|ending| *ending).await;
    }
}

/// The discovery service.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// What is served.
    pub feed: Arc<Feed>,
    /// Who is connected.
    pub proxies: Arc<Proxies>,
    /// Counters.
    pub metrics: Metrics,
    /// What is asked before a refusal is logged.
    pub lines: Lines,
    /// How long a stream waits for its pod ([`Ages`](super::Ages)).
    pub pod_appears: Duration,
}

type Responses = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type StreamAggregatedResourcesStream = Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("only the incremental variant is served: call DeltaAggregatedResources"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let denied = |denied: &Denied| {
            self.metrics.on_denied(denied.reason());
            if self.lines.may(denied.reason()) {
                tracing::warn!(reason = %denied, "discovery stream denied");
            }
            Status::unauthenticated(denied.to_string())
        };
        let peer = request.extensions().get::<Peer>().ok_or_else(|| denied(&Denied::NoCertificate))?.clone();
        let lifetime = request.extensions().get::<Lifetime>().cloned();
        let lifetime = lifetime.ok_or_else(|| Status::internal("a connection without an age; please report this"))?;
        let held = request.extensions().get::<Held>().cloned().unwrap_or_default();
        let requests = Requests { stream: request.into_inner(), held };
        // The session sends at most one response per type before it waits for an answer, so this rarely fills.
        let (responses, outgoing) = mpsc::channel(ResourceKind::ALL.len() + 1);
        let service = self.clone();
        // The task ends with the stream: by its requests, by a refused send, or by its lifetime.
        tokio::spawn(async move {
            if let Err(status) = service.run(peer, lifetime, requests, &responses).await {
                // An error says that the proxy is gone, or that it does not read.
                let _ = tokio::time::timeout(UNREAD, responses.send(Err(status))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// What the proxy says.
struct Requests {
    stream: Streaming<DeltaDiscoveryRequest>,
    held: Held,
}

impl Requests {
    /// The next request, whose room is free again; `None` when there is none any more. Cancel safe.
    async fn next(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        let next = self.stream.message().await;
        self.held.release();
        next
    }
}

/// What a stream may wake up for.
enum Event {
    Request(Box<DeltaDiscoveryRequest>),
    Changed(Arc<Touched>),
    Lagged(u64),
    End,
}

impl Discovery {
    /// Serves one stream.
    ///
    /// # Errors
    /// The status the stream ends with, where that is not OK.
    async fn run(
        &self,
        peer: Peer,
        mut lifetime: Lifetime,
        mut requests: Requests,
        responses: &Responses,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(FIRST_REQUEST, requests.next())
            .await
            .map_err(|_| Status::deadline_exceeded("the first request did not come"))??;
        let Some(mut first) = first else { return Ok(()) };
        // It is kept for as long as the pod is waited for.
        check(&first).map_err(|error| self.refused(&error, &peer.id.to_string()))?;
        // Before the state is read, so that no change falls between.
        let mut notes = self.feed.subscribe();
        let node_id = first.node.take().map(|node| node.id).unwrap_or_default();
        let address = tokio::select! {
            admitted = self.admitted(&peer, &node_id) => admitted?,
            () = lifetime.over() => return Ok(()),
        };
        let mut stream = self.open(&peer, address);
        stream.on_request(first)?;
        if !stream.flush(responses, &mut lifetime).await {
            return Ok(());
        }
        loop {
            let event = tokio::select! {
                request = requests.next() => match request {
                    Ok(Some(request)) => Event::Request(Box::new(request)),
                    // Closed: nobody is left to answer.
                    Ok(None) => Event::End,
                    // Cut, which nobody will hear of, or more than is read.
                    Err(status) => return Err(status),
                },
                note = notes.recv() => match note {
                    Ok(touched) => Event::Changed(touched),
                    Err(broadcast::error::RecvError::Lagged(missed)) => Event::Lagged(missed),
                    Err(broadcast::error::RecvError::Closed) => Event::End,
                },
                () = lifetime.over() => Event::End,
            };
            match event {
                Event::Request(request) => stream.on_request(*request)?,
                Event::Changed(touched) => {
                    if touched.own.contains(&address) {
                        self.still_admitted(&peer, &node_id)?;
                    }
                    // Most changes concern few proxies; the others pay for a look at its names.
                    if !stream.session.on_change(&touched, address) {
                        continue;
                    }
                }
                Event::Lagged(missed) => {
                    self.metrics.lagged.inc();
                    tracing::debug!(%address, missed, "a stream missed changes; comparing everything");
                    self.still_admitted(&peer, &node_id)?;
                    stream.session.on_lag();
                }
                Event::End => return Ok(()),
            }
            if !stream.flush(responses, &mut lifetime).await {
                return Ok(());
            }
        }
    }

    /// Waits for the first state and for the pod, each for a while, then decides.
    async fn admitted(&self, peer: &Peer, node_id: &str) -> Result<IpAddr, Status> {
        tokio::time::timeout(FIRST_SYNC, self.feed.synced())
            .await
            .map_err(|_| Status::unavailable("the control plane has not read its objects yet; try again"))?;
        let mut changes = self.feed.subscribe();
        let decided = async {
            loop {
                match admit(&peer.id, node_id, &self.feed.latest()) {
                    Err(denied) if denied.may_pass() => {
                        // A lagged or closed feed is as good a reason to look again, or to wait out the time.
                        if let Err(broadcast::error::RecvError::Closed) = changes.recv().await {
                            return Err(denied);
                        }
                    }
                    decided => return decided,
                }
            }
        };
        let decided = match tokio::time::timeout(self.pod_appears, decided).await {
            Ok(decided) => decided,
            Err(_) => admit(&peer.id, node_id, &self.feed.latest()),
        };
        decided.map_err(|denied| {
            self.metrics.on_denied(denied.reason());
            if self.lines.may(denied.reason()) {
                tracing::warn!(identity = %peer.id, reason = %denied, "discovery stream denied");
            }
            Status::permission_denied(denied.to_string())
        })
    }

    /// Addresses are reused: a stream ends when its pod's address has become somebody else's. It goes on while the address
    /// is nobody's, because a pod that is being deleted still serves.
    fn still_admitted(&self, peer: &Peer, node_id: &str) -> Result<(), Status> {
        match admit(&peer.id, node_id, &self.feed.latest()) {
            Err(denied @ Denied::OtherPod { .. }) => {
                self.metrics.on_denied(denied.reason());
                if self.lines.may(denied.reason()) {
                    tracing::warn!(identity = %peer.id, reason = %denied, "discovery stream ended");
                }
                Err(Status::permission_denied(denied.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Says that `who` asks for more than a stream may have; what its stream ends with.
    fn refused(&self, error: &SessionError, who: &str) -> Status {
        if self.lines.may("wrong-request") {
            tracing::warn!(who, %error, "discovery stream ended");
        }
        match error {
            SessionError::TooManySubscriptions => Status::resource_exhausted(error.to_string()),
            SessionError::BadName => Status::invalid_argument(error.to_string()),
        }
    }

    fn open(&self, peer: &Peer, address: IpAddr) -> Open<'_> {
        let pod = self.feed.latest().workload_by_address(address).map_or_else(
            || address.to_string(), // Gone since it was admitted; `self` will be told as removed.
            |pod| format!("{}/{}", pod.namespace, pod.name),
        );
        tracing::info!(%pod, %address, identity = %peer.id, "proxy connected");
        let info = ProxyInfo::new(address, pod.clone(), peer.id.clone(), SystemTime::now());
        self.metrics.streams.inc();
        Open {
            service: self,
            session: Session::new(),
            view: View { namespace: peer.id.namespace().to_owned() },
            address,
            pod,
            listed: self.proxies.enter(info),
        }
    }
}

/// A stream whose proxy is admitted.
struct Open<'a> {
    service: &'a Discovery,
    session: Session,
    view: View,
    address: IpAddr,
    pod: String,
    listed: Listed,
}

impl Open<'_> {
    fn on_request(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        let Self { session, service, pod, .. } = self;
        let received = session.on_request(request).map_err(|error| service.refused(&error, pod))?;
        if let Some(nack) = received.nack {
            self.service.metrics.on_nack(nack.r#type);
            // Once per response: a refused version is not sent again.
            tracing::warn!(pod = %self.pod, r#type = nack.r#type, names = ?nack.names, reason = nack.message, "NACK");
            self.listed.update(|info| {
                info.nacks += 1;
                info.last_nack = Some(nack);
            });
        }
        Ok(())
    }

    /// Sends what is to be sent now; false when the stream is to end: the proxy is gone, it does not read, or `lifetime` is over.
    async fn flush(&mut self, responses: &Responses, lifetime: &mut Lifetime) -> bool {
        loop {
            let latest = self.service.feed.latest();
            let truth = Seen { translated: &latest, view: &self.view, pod: self.address };
            let Some(response) = self.session.next_response(&truth) else { break };
            drop(latest);
            let sent = tokio::select! {
                sent = tokio::time::timeout(UNREAD, responses.send(Ok(response))) => sent,
                () = lifetime.over() => return false,
            };
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return false,
                Err(_) => {
                    if self.service.lines.may("unread") {
                        tracing::warn!(pod = %self.pod, "discovery stream ended: its responses are not read");
                    }
                    return false;
                }
            }
        }
        self.report();
        true
    }

    fn report(&mut self) {
        let Self { session, listed, service, .. } = self;
        listed.on_moved(session.take_moved());
        listed.update(|info| {
            for kind in ResourceKind::ALL {
                service.metrics.on_totals(kind, session.take_totals(kind));
                let counts = session.counts(kind);
                if counts.subscribed + counts.resources > 0 {
                    info.types.insert(kind.label(), counts);
                } else {
                    info.types.remove(kind.label());
                }
            }
        });
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.service.metrics.streams.dec();
        tracing::info!(pod = %self.pod, address = %self.address, "proxy disconnected");
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::SpiffeId;

    use super::*;
    use crate::translate::{MeshConfig, Translator};

    fn service() -> (Discovery, Peer) {
        let discovery = Discovery {
            feed: Arc::new(Feed::new(Translator::new(MeshConfig::default()).translated())),
            proxies: Arc::default(),
            metrics: Metrics::default(),
            lines: Lines::default(),
            pod_appears: Duration::ZERO,
        };
        let id = SpiffeId::new("cluster.local", "shop", "web").unwrap();
        (discovery, Peer { id, not_after: SystemTime::now() + Duration::from_secs(3600) })
    }

    /// A type that nobody knows is answered at once, however many answers are out.
    fn ask(stream: &mut Open<'_>) {
        let request = DeltaDiscoveryRequest {
            type_url: "type.googleapis.com/weft.v9.New".to_owned(),
            resource_names_subscribe: vec!["a".to_owned()],
            ..DeltaDiscoveryRequest::default()
        };
        stream.on_request(request).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_nobody_reads_ends_its_stream_in_a_while_and_with_its_connection_at_once() {
        let (discovery, peer) = service();
        for (row, ends) in [("nobody reads", false), ("the connection ends", true)] {
            let (end, ending) = watch::channel(false);
            let mut lifetime = Lifetime::new(ending);
            let (responses, _unread) = mpsc::channel(1);
            let mut stream = discovery.open(&peer, IpAddr::from([10, 0, 0, 1]));
            ask(&mut stream);
            assert!(stream.flush(&responses, &mut lifetime).await, "{row}: there is room for one");
            ask(&mut stream);
            let began = tokio::time::Instant::now();
            let flush = stream.flush(&responses, &mut lifetime);
            let (sent, ()) = tokio::join!(flush, async {
                if ends {
                    end.send_replace(true);
                }
            });
            let expected = if ends { Duration::ZERO } else { UNREAD };
            assert_eq!((sent, began.elapsed().as_secs()), (false, expected.as_secs()), "{row}");
        }
    }
}
