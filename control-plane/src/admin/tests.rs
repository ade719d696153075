//! The port as strangers use it: loopback has many addresses, and each is another source.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use super::*;
use crate::replicas::Answers;
use crate::translate::{MeshConfig, Translator};

/// Longer than anything here takes; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);
/// Nothing ends by itself within [`PATIENCE`].
const PATIENT: Bounds = Bounds {
    places: Limits { total: 8, per_source: 4, kept: 0 },
    head: Duration::from_secs(600),
    lifetime: Duration::from_secs(600),
    linger: Duration::from_secs(600),
};

struct Port {
    address: SocketAddr,
    _serving: JoinSet<()>,
}

fn admin(debug_from_anywhere: bool) -> Admin {
    let proxies = Arc::<Proxies>::default();
    Admin {
        registry: Registry::default(),
        feed: Arc::new(Feed::new(Translator::new(MeshConfig::default()).translated())),
        counting: Counting::new(Arc::new(Answers::new(Arc::clone(&proxies), "cluster.local"))),
        proxies,
        problems: Arc::default(),
        gates: Vec::new(),
        debug_from_anywhere,
        draining: Arc::default(),
    }
}

impl Port {
    async fn open(bounds: Bounds) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(admin(false).run_within(bounds, listener, std::future::pending()));
        Self { address, _serving: serving }
    }

    /// A connection from 127.0.0.`last`.
    async fn connect(&self, last: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn status(&self, last: u8, path: &str) -> io::Result<String> {
        let asked = async {
            let mut socket = self.connect(last).await;
            socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
            let mut text = String::new();
            socket.read_to_string(&mut text).await?;
            Ok(text.split(' ').nth(1).unwrap_or_default().to_owned())
        };
        within(asked).await
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("this takes too long")
}

#[tokio::test]
async fn a_probe_gets_through_whoever_holds_the_places() {
    // From how many addresses so many silent connections each, and the probe's own.
    for (row, addresses, each, probe) in [
        ("one address", 2..=2, 30, 1),
        ("the probe's own", 1..=1, 30, 1),
        ("as many as fill it", 2..=3, 4, 1),
        ("each another", 2..=30, 1, 1),
    ] {
        let port = Port::open(PATIENT).await;
        let mut held = Vec::new();
        for last in addresses {
            for _ in 0..each {
                held.push(port.connect(last).await);
            }
        }
        assert_eq!(port.status(probe, "/live").await.unwrap(), "200", "{row}");
    }
}

#[tokio::test]
async fn who_has_little_keeps_it_while_another_takes_much() {
    let port = Port::open(PATIENT).await;
    let mut scraper = port.connect(1).await;
    let mut held = Vec::new();
    for last in [2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4] {
        held.push(port.connect(last).await);
    }
    assert_eq!(port.status(5, "/live").await.unwrap(), "200");
    scraper.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    within(scraper.read_to_string(&mut text)).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let mut end = [0];
    assert!(matches!(within(held[0].read(&mut end)).await, Ok(0) | Err(_)), "the oldest was closed");
}

#[tokio::test]
async fn answers_that_nobody_reads_hold_a_place_for_no_longer_than_a_connection_lives() {
    let (lifetime, linger) = (Duration::from_millis(200), Duration::from_millis(200));
    let port = Port::open(Bounds { lifetime, linger, ..PATIENT }).await;
    let mut socket = port.connect(1).await;
    let requests = "GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    let writing = async {
        loop {
            if let Err(error) = socket.write_all(requests.as_bytes()).await {
                return error;
            }
        }
    };
    within(writing).await;
}

#[tokio::test]
async fn only_this_machine_is_shown_everybodys_configuration() {
    let loopback: IpAddr = [127, 0, 0, 1].into();
    let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
    let pod: IpAddr = [10, 1, 0, 1].into();
    let rows = [
        ("a port-forward", loopback, false, "/debug/proxies", 200),
        ("weft check routes", loopback, false, "/debug/routes?namespace=shop", 200),
        ("on a port of both families", mapped, false, "/debug/problems", 200),
        ("a pod", pod, false, "/debug/proxies", 403),
        ("a pod", pod, false, "/debug/problems", 403),
        ("a pod", pod, false, "/debug/resources?type=Service&name=10.96.0.7", 403),
        ("a pod, by a name there is not", pod, false, "/debug", 403),
        ("a pod, where that is wanted", pod, true, "/debug/proxies", 200),
        ("Prometheus", pod, false, "/metrics", 200),
        ("kubelet", pod, false, "/live", 200),
    ];
    for (row, from, debug_from_anywhere, path, expected) in rows {
        let admin = admin(debug_from_anywhere);
        let (request, ()) = Request::get(path).body(()).unwrap().into_parts();
        assert_eq!(admin.answer(&request, from).await.status().as_u16(), expected, "{row}: {path}");
    }
}

#[test]
fn a_query_is_read_with_its_escapes() {
    for (query, name, value) in [
        ("type=Service&name=shop/reviews", "name", Some("shop/reviews")),
        ("name=shop%2Freviews", "name", Some("shop/reviews")),
        ("name=a%2", "name", Some("a%2")),
        ("name=a%zz", "name", Some("a%zz")),
        ("name", "name", None),
        ("", "name", None),
    ] {
        assert_eq!(parse_query(query).get(name).map(String::as_str), value, "{query}");
    }
}
