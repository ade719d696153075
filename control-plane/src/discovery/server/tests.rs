//! Port 15012 as strangers use it: loopback has many addresses, and each is another source.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use weft_proto::places::Limits;
use weft_proto::{SpiffeId, control_plane_identity};

use super::*;
use crate::discovery::Feed;
use crate::identity::{self, Authenticator, Authority, FileAuthority, JoinTokens, OwnSvid, server_config};
use crate::translate::{MeshConfig, Translator};

const DOMAIN: &str = "cluster.local";
const TTL: Duration = Duration::from_secs(3600);
/// Longer than anything here takes; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server, and the state directory it is of.
fn server(ages: Ages) -> (Server, tempfile::TempDir) {
    let (directory, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let authority = Arc::new(FileAuthority::open(directory.path(), DOMAIN, now).unwrap());
    let svid = Arc::new(OwnSvid::issue(&*authority, control_plane_identity(DOMAIN).unwrap(), TTL, now).unwrap());
    let tls = server_config(&*authority, svid).unwrap();
    let discovery = Discovery {
        feed: Arc::new(Feed::new(Translator::new(MeshConfig::default()).translated())),
        proxies: Arc::default(),
        metrics: Metrics::default(),
        lines: Lines::default(),
        pod_appears: TTL,
    };
    let certifier = Certifier {
        authority: authority as Arc<dyn Authority>,
        authenticator: Authenticator::JoinTokens(JoinTokens::open(directory.path()).unwrap()),
        trust_domain: DOMAIN.to_owned(),
        ttl: TTL,
        metrics: identity::Metrics::default(),
        lines: Lines::default(),
    };
    (Server::new(discovery, certifier, tls, ages), directory)
}

async fn connect(server: SocketAddr, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
    socket.connect(server).await.unwrap()
}

/// Waits until the other end has closed.
async fn closed(socket: &mut TcpStream) {
    let ended = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut Vec::new())).await;
    // With or without an alert, by a FIN or a reset.
    drop(ended.expect("it is not closed"));
}

#[tokio::test]
async fn silent_connections_keep_nobody_from_a_handshake() {
    // Handshakes do not end by themselves.
    let (mut server, _directory) = server(Ages { handshake: TTL, ..Ages::default() });
    let handshakes = Limits { total: 6, per_source: 3, kept: 0 };
    server.entrance = Entrance::new(Bounds { handshakes, ..Bounds::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(server.run(listener, std::future::pending()));
    let mut silent = Vec::new();
    for last in [2, 2, 2, 2, 3, 3, 3] {
        silent.push(connect(address, last).await);
    }
    closed(&mut silent[0]).await;
    for last in [4, 2, 3] {
        let mut speaking = connect(address, last).await;
        speaking.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        // It was heard, or it would not be hung up on.
        closed(&mut speaking).await;
    }
}

#[test]
fn what_a_peer_may_not_ask_is_refused_unread() {
    let (server, _directory) = server(Ages::default());
    let peer = |id: SpiffeId| Peer { id, not_after: SystemTime::now() + TTL };
    let own = peer(control_plane_identity(DOMAIN).unwrap());
    let web = peer(SpiffeId::new(DOMAIN, "shop", "web").unwrap());
    let (unauthenticated, denied) = (Some(tonic::Code::Unauthenticated), Some(tonic::Code::PermissionDenied));
    #[rustfmt::skip]
    let rows = [
        ("nobody asks for a certificate",    IDENTITY,  None,       None),
        ("nobody asks for configuration",    DISCOVERY, None,       unauthenticated),
        ("nobody asks a replica",            REPLICAS,  None,       denied),
        ("a workload renews",                IDENTITY,  Some(&web), None),
        ("a workload asks for configuration", DISCOVERY, Some(&web), None),
        ("a workload asks a replica",        REPLICAS,  Some(&web), denied),
        ("a replica asks a replica",         REPLICAS,  Some(&own), None),
    ];
    for (row, service, peer, expected) in rows {
        assert_eq!(server.refusal(service, peer).map(|(_, status)| status.code()), expected, "{row}");
    }
}
