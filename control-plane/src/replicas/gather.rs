//! One question to every replica, and the sum of the answers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use hyper_util::rt::TokioIo;
use kube::Client;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_proto::v1::replicas_client::ReplicasClient;
use weft_proto::v1::{Laggard, Progress, ProgressRequest, ProgressResponse};

use super::peers::{self, Peers};
use super::{Place, service};
use crate::discovery::{MAX_LAGGARDS, Proxies};

/// For one replica's answer.
pub const TIME_LIMIT: Duration = Duration::from_secs(1);

/// Whom to ask.
pub trait Progresses: Send + Sync + 'static {
    /// Asks the replicas of this revision, or of all revisions.
    fn ask(&self, request: ProgressRequest, all_revisions: bool) -> BoxFuture<'_, Gathered>;
}

/// What came of one question.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gathered {
    /// The answers of those who gave one.
    pub answers: Vec<ProgressResponse>,
    /// Those who gave none, by pod name. While there is one, nobody knows how far all proxies are.
    pub silent: Vec<String>,
}

impl Gathered {
    /// The sum of the answers to the question of this index.
    pub fn service(&self, index: usize) -> Progress {
        sum(self.answers.iter().filter_map(|answer| answer.services.get(index)))
    }

    /// The sum of the answers about the trust bundle; `None` where one is missing.
    pub fn trust_bundle(&self) -> Option<Progress> {
        let complete = self.silent.is_empty() && self.answers.iter().all(|answer| answer.trust_bundle.is_some());
        complete.then(|| self.known_of_trust_bundle())
    }

    /// The same of those who did answer: nothing to decide by, but who is named there has not ACKed.
    pub fn known_of_trust_bundle(&self) -> Progress {
        sum(self.answers.iter().filter_map(|answer| answer.trust_bundle.as_ref()))
    }
}

fn sum<'a>(answers: impl Iterator<Item = &'a Progress>) -> Progress {
    let mut all = Progress::default();
    for answer in answers {
        // Counts of connections; a peer's lie costs a wrong figure, no overflow.
        all.proxies = all.proxies.saturating_add(answer.proxies);
        all.acked = all.acked.saturating_add(answer.acked);
        all.laggards.extend(answer.laggards.iter().take(MAX_LAGGARDS).cloned());
    }
    let order = |laggard: &Laggard| (laggard.refused.is_empty(), laggard.pod.clone());
    all.laggards.sort_by_key(order);
    all.laggards.truncate(MAX_LAGGARDS);
    all
}

/// The replicas of the control plane. Dropped, it stops following who they are.
pub struct Replicas {
    place: Place,
    proxies: Arc<Proxies>,
    peers: watch::Receiver<Peers>,
    tls: TlsConnector,
    clients: Mutex<HashMap<IpAddr, ReplicasClient<Channel>>>,
    _following: JoinSet<()>,
}

impl Replicas {
    /// Begins to follow who they are. `tls` is [`client_config`](super::client_config)'s; `proxies` are this replica's own.
    pub fn begin(client: Client, place: Place, proxies: Arc<Proxies>, tls: Arc<ClientConfig>) -> Arc<Self> {
        let (sender, peers) = watch::channel(Peers::default());
        let mut following = JoinSet::new();
        following.spawn(peers::follow(client, place.clone(), sender));
        Arc::new(Self::new(place, proxies, tls, peers, following))
    }

    /// As whoever `peers` says.
    pub(super) fn new(
        place: Place,
        proxies: Arc<Proxies>,
        tls: Arc<ClientConfig>,
        peers: watch::Receiver<Peers>,
        following: JoinSet<()>,
    ) -> Self {
        let tls = TlsConnector::from(tls);
        Self { place, proxies, peers, tls, clients: Mutex::default(), _following: following }
    }

    /// Those known now.
    pub fn peers(&self) -> Peers {
        self.peers.borrow().clone()
    }

    async fn gather(&self, request: ProgressRequest, all_revisions: bool) -> Gathered {
        let Peers(peers) = self.peers();
        self.clients.lock().retain(|address, _| peers.values().any(|peer| peer.address == *address));
        let mut gathered = Gathered::default();
        if !peers.contains_key(&self.place.pod) {
            gathered.silent.push(format!("(Service {} does not list {} yet)", self.place.service, self.place.pod));
        }
        gathered.answers.push(service::answer(&self.proxies, &request));
        let others = peers
            .into_iter()
            .filter(|(pod, peer)| *pod != self.place.pod && (peer.ours || all_revisions))
            .map(async |(pod, peer)| (pod, peer.serving, self.ask_one(peer.address, request.clone()).await));
        for (pod, serving, answer) in join_all(others).await {
            match answer {
                Some(answer) => gathered.answers.push(answer),
                // Everybody else is told of the trust bundle, so there even one that seems to be down must answer.
                None if serving || all_revisions => gathered.silent.push(pod),
                None => {}
            }
        }
        gathered
    }

    async fn ask_one(&self, address: IpAddr, request: ProgressRequest) -> Option<ProgressResponse> {
        let asked = request.services.len();
        let mut client = self.client(address);
        match tokio::time::timeout(TIME_LIMIT, client.progress(request)).await {
            Ok(Ok(answer)) => Some(answer.into_inner()).filter(|answer| answer.services.len() == asked),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "a replica does not say how far its proxies are");
                None
            }
            Err(_) => None,
        }
    }

    /// Connects when it is used, and again when it was cut.
    fn client(&self, address: IpAddr) -> ReplicasClient<Channel> {
        let mut clients = self.clients.lock();
        let client = clients.entry(address).or_insert_with(|| {
            let dial = Dial { address: SocketAddr::new(address, self.place.port), tls: self.tls.clone() };
            let endpoint = Endpoint::from_static("http://replica.weft").connect_timeout(TIME_LIMIT);
            ReplicasClient::new(endpoint.connect_with_connector_lazy(dial))
        });
        client.clone()
    }
}

impl Progresses for Replicas {
    fn ask(&self, request: ProgressRequest, all_revisions: bool) -> BoxFuture<'_, Gathered> {
        Box::pin(self.gather(request, all_revisions))
    }
}

/// Opens connections to one replica.
#[derive(Clone)]
struct Dial {
    address: SocketAddr,
    tls: TlsConnector,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, tls } = self.clone();
        Box::pin(async move {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            let tls = tls.connect(ServerName::IpAddress(address.ip().into()), socket).await?;
            Ok(TokioIo::new(tls))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(proxies: u32, acked: u32, laggards: &[(&str, &str)]) -> Progress {
        let laggard = |(pod, refused): &(&str, &str)| Laggard { pod: (*pod).into(), refused: (*refused).into() };
        Progress { proxies, acked, laggards: laggards.iter().map(laggard).collect() }
    }

    #[test]
    fn answers_add_up_and_five_are_named_those_that_refused_first() {
        let many: Vec<_> = (0..5).map(|index| format!("shop/b{index}")).collect();
        let many: Vec<_> = many.iter().map(|pod| (&**pod, "")).collect();
        let answer = |progress| ProgressResponse { services: vec![progress], trust_bundle: None };
        let gathered = Gathered {
            answers: vec![answer(progress(7, 2, &many)), answer(progress(3, 1, &[("shop/z", "why"), ("shop/a", "")]))],
            silent: Vec::new(),
        };
        let all = gathered.service(0);
        assert_eq!((all.proxies, all.acked), (10, 3));
        let named: Vec<_> = all.laggards.iter().map(|laggard| &*laggard.pod).collect();
        assert_eq!(named, ["shop/z", "shop/a", "shop/b0", "shop/b1", "shop/b2"]);
        assert_eq!(gathered.service(1), Progress::default());
    }

    #[test]
    fn the_trust_bundle_is_unknown_while_anybody_is_silent() {
        let answer = |trust| ProgressResponse { services: Vec::new(), trust_bundle: trust };
        let all = Some(progress(2, 2, &[]));
        let rows = [
            ("all say", vec![answer(all.clone()), answer(all.clone())], vec![], Some((4, 4))),
            ("one says nothing of it", vec![answer(all.clone()), answer(None)], vec![], None),
            ("one is silent", vec![answer(all)], vec!["weft-control-plane-b".to_owned()], None),
        ];
        for (row, answers, silent, expected) in rows {
            let sum = Gathered { answers, silent }.trust_bundle();
            assert_eq!(sum.map(|sum| (sum.proxies, sum.acked)), expected, "{row}");
        }
    }
}
