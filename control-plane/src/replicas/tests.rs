//! Replicas that ask each other over real TLS on loopback.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use weft_proto::v1::{ProgressRequest, ServiceQuestion};
use weft_proto::{SpiffeId, control_plane_identity};

use super::*;
use crate::discovery::{self, Ages, Discovery, Feed, Proxies, Server};
use crate::identity::{self, Authenticator, Authority, Certifier, FileAuthority, JoinTokens, OwnSvid, server_config};
use crate::line_limit::Lines;
use crate::translate::{MeshConfig, Translator};

const DOMAIN: &str = "cluster.local";
const TTL: Duration = Duration::from_secs(3600);

/// A mesh's authority, and what is served in its name.
struct Mesh {
    authority: Arc<FileAuthority>,
    directory: tempfile::TempDir,
    serving: JoinSet<()>,
}

impl Mesh {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Arc::new(FileAuthority::open(directory.path(), DOMAIN, SystemTime::now()).unwrap());
        Self { authority, directory, serving: JoinSet::new() }
    }

    fn svid(&self, id: SpiffeId) -> Arc<OwnSvid> {
        Arc::new(OwnSvid::issue(&*self.authority, id, TTL, SystemTime::now()).unwrap())
    }

    /// Serves port 15012 as `id` at `address`.
    async fn serve(&mut self, id: SpiffeId, address: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let translator = Translator::new(MeshConfig::default());
        let discovery = Discovery {
            feed: Arc::new(Feed::new(translator.translated())),
            proxies: Arc::default(),
            metrics: discovery::Metrics::default(),
            lines: Lines::default(),
            pod_appears: TTL,
        };
        let certifier = Certifier {
            authority: Arc::clone(&self.authority) as Arc<dyn Authority>,
            authenticator: Authenticator::JoinTokens(JoinTokens::open(self.directory.path()).unwrap()),
            trust_domain: DOMAIN.to_owned(),
            ttl: TTL,
            metrics: identity::Metrics::default(),
            lines: Lines::default(),
        };
        let tls = server_config(&*self.authority, self.svid(id)).unwrap();
        let server = Server::new(discovery, certifier, tls, Ages::default());
        self.serving.spawn(server.run(listener, std::future::pending()));
        address
    }

    /// Asks the replicas in `peers`, showing a certificate for `id`.
    async fn ask(&self, id: SpiffeId, port: u16, peers: &[(&str, IpAddr)]) -> Gathered {
        let peer = |(pod, address): &(&str, IpAddr)| {
            ((*pod).to_owned(), Peer { address: *address, serving: true, ours: true })
        };
        let (_peers, peers) = watch::channel(Peers(peers.iter().map(peer).collect()));
        let tls = client_config(&*self.authority, self.svid(id), own()).unwrap();
        let (namespace, service, pod) = ("weft-system".into(), "weft-control-plane".into(), "me".into());
        let place = Place { namespace, service, pod, port };
        let replicas = Replicas::new(place, Arc::<Proxies>::default(), tls, peers, JoinSet::new());
        let services = vec![ServiceQuestion { service: "shop/a".into(), ..ServiceQuestion::default() }];
        replicas.ask(ProgressRequest { services, trust_bundle_version: "1".into() }, false).await
    }
}

fn own() -> SpiffeId {
    control_plane_identity(DOMAIN).unwrap()
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 15, last])
}

#[tokio::test]
async fn replicas_answer_each_other_and_nobody_else_is_asked_or_answered() {
    let mut mesh = Mesh::new();
    let workload = SpiffeId::new(DOMAIN, "shop", "web").unwrap();
    let port = mesh.serve(own(), SocketAddr::new(address(1), 0)).await.port();
    mesh.serve(own(), SocketAddr::new(address(2), port)).await;
    // A workload that got an address of the Service.
    mesh.serve(workload.clone(), SocketAddr::new(address(3), port)).await;
    // Another mesh of the same name.
    let mut stranger = Mesh::new();
    stranger.serve(own(), SocketAddr::new(address(4), port)).await;

    let (me, a, b) = (("me", address(1)), ("a", address(1)), ("b", address(2)));
    type Row<'a> = (&'a str, SpiffeId, &'a [(&'a str, IpAddr)], usize, &'a [&'a str]);
    let rows: [Row<'_>; 6] = [
        ("alone", own(), &[me], 1, &[]),
        ("two more", own(), &[me, a, b], 3, &[]),
        ("a workload is not believed", own(), &[me, b, ("web", address(3))], 2, &["web"]),
        ("nor is another mesh", own(), &[me, ("strange", address(4))], 1, &["strange"]),
        ("nobody is there", own(), &[me, ("gone", address(5))], 1, &["gone"]),
        ("a workload is not answered", workload, &[me, b], 1, &["b"]),
    ];
    for (row, id, peers, answers, silent) in rows {
        let gathered = mesh.ask(id, port, peers).await;
        assert_eq!((gathered.answers.len(), &*gathered.silent), (answers, &silent.map_owned()[..]), "{row}");
        assert_eq!(gathered.trust_bundle().is_some(), silent.is_empty(), "{row}");
    }
    let unlisted = mesh.ask(own(), port, &[b]).await;
    assert_eq!(unlisted.silent.len(), 1, "a list without us may lack others as well: {unlisted:?}");
}

trait MapOwned {
    fn map_owned(&self) -> Vec<String>;
}

impl MapOwned for &[&str] {
    fn map_owned(&self) -> Vec<String> {
        self.iter().map(|text| (*text).to_owned()).collect()
    }
}

#[tokio::test]
async fn a_client_that_stops_waiting_is_told_at_once_who_is_silent() {
    let mesh = Mesh::new();
    // It accepts and says nothing.
    let listener = TcpListener::bind(SocketAddr::new(address(9), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = oneshot::channel::<()>();
    let mute = tokio::spawn(async move {
        let mut held = Vec::new();
        tokio::select! {
            () = async { loop { held.push(listener.accept().await) } } => {}
            _ = stopped => {}
        }
    });
    let began = std::time::Instant::now();
    let gathered = mesh.ask(own(), port, &[("me", address(1)), ("mute", address(9))]).await;
    assert_eq!(gathered.silent, ["mute"]);
    assert!(began.elapsed() < 2 * gather::TIME_LIMIT, "{:?}", began.elapsed());
    drop(stop);
    mute.await.unwrap();
}
