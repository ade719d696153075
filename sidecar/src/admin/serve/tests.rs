use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::tests::{Fake, ask_on, start};
use super::*;
use crate::listen::drain;

const READY: &str = "GET /ready HTTP/1.1\r\nHost: a\r\n\r\n";
const KUBELET: Ipv4Addr = Ipv4Addr::LOCALHOST;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// From an address of this machine's that is not everybody's.
async fn connect(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

fn caller(number: usize) -> Ipv4Addr {
    let [.., high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

async fn is_served(stream: impl AsyncRead + AsyncWrite + Unpin) -> bool {
    ask_on(stream, READY).await.starts_with("HTTP/1.1 200")
}

fn connections(surface: Surface, view: &Arc<Fake>) -> Connections {
    Connections::new(surface, Arc::clone(view) as Arc<dyn View>)
}

/// A caller's end of a connection, and our end's task.
fn open(connections: &Connections, from: Ipv4Addr) -> (DuplexStream, JoinHandle<()>) {
    let (theirs, ours) = duplex(4096);
    (theirs, tokio::spawn(connections.connection(ours, from.into())))
}

#[tokio::test]
async fn who_opens_too_many_connections_loses_its_own() {
    let (addr, view) = start(Surface::Health).await;
    let kubelets = connect(KUBELET, addr).await;
    let (all, mine) = (50, Surface::Health.limits().per_source);
    let mut held = Vec::new();
    for _ in 0..all {
        held.push(connect(caller(0), addr).await);
    }
    assert!(is_served(connect(KUBELET, addr).await).await);
    assert!(is_served(kubelets).await, "and one that was there before");
    let newest = held.split_off(all - mine);
    for mut oldest in held {
        assert!(matches!(oldest.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }
    assert_eq!(view.closed.load(Ordering::Relaxed), all - mine);
    for stream in newest {
        assert!(is_served(stream).await);
    }
}

#[tokio::test]
async fn kubelet_gets_through_however_many_hold_connections() {
    let Limits { total, per_source, .. } = Surface::Health.limits();
    for each in [1, per_source] {
        let view = Arc::new(Fake::default());
        let connections = connections(Surface::Health, &view);
        let mut held: Vec<_> = (0..total).map(|number| open(&connections, caller(number / each))).collect();
        for more in 0..8 {
            assert!(is_served(open(&connections, KUBELET).0).await, "{each} of each, {more} more");
            held.push(open(&connections, caller(total)));
        }
        assert_eq!((view.closed.load(Ordering::Relaxed), connections.places.taken()), (8, total), "{each} of each");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_over_in_time_whoever_does_not_read_or_write() {
    let metrics = "x".repeat(1 << 20);
    let view = Arc::new(Fake { metrics, ..Fake::default() });
    for (what, request, after, counted) in [
        ("says nothing", "", HEAD_TIMEOUT, 0),
        ("never ends its head", "GET /metrics HTTP/1.1\r\n", HEAD_TIMEOUT, 0),
        ("does not read", "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", LIFETIME, 1),
    ] {
        let connections = connections(Surface::Metrics, &view);
        view.closed.store(0, Ordering::Relaxed);
        let (mut theirs, ours) = open(&connections, caller(0));
        let began = Instant::now();
        theirs.write_all(request.as_bytes()).await.unwrap();
        ours.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), after.as_secs(), "{what}");
        assert_eq!((view.closed.load(Ordering::Relaxed), connections.places.taken()), (counted, 0), "{what}");
    }
}

#[tokio::test]
async fn few_answers_are_held_at_once_on_the_metrics_port() {
    let view = Arc::new(Fake { metrics: "x".repeat(1 << 20), ..Fake::default() });
    let connections = connections(Surface::Metrics, &view);
    let mut held = Vec::new();
    for number in 0..100 {
        let (mut theirs, ours) = open(&connections, caller(number));
        theirs.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        // Its answer has begun.
        theirs.read_exact(&mut [0; 1]).await.unwrap();
        held.push((theirs, ours));
    }
    let answering = held.iter().filter(|(_, ours)| !ours.is_finished()).count();
    assert_eq!((answering, connections.places.taken()), (8, 8));
    let scraped = open(&connections, KUBELET);
    let answer = ask_on(scraped.0, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.len() > 1 << 20);
}

/// A hook under way: kubelet's end of its connection, our end's task, and the app's end of the call.
async fn hook(path: &str, app: &TcpListener, connections: &Connections) -> (DuplexStream, JoinHandle<()>, TcpStream) {
    let (mut theirs, ours) = open(connections, KUBELET);
    theirs.write_all(format!("GET /probe/{path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
    let (called, _) = app.accept().await.unwrap();
    (theirs, ours, called)
}

#[tokio::test]
async fn a_slow_hook_may_take_its_time_and_gives_up_nothing_if_kubelet_has_a_secret() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = app.local_addr().unwrap().port();
    for name in [format!("{SECRET}.app/pre-stop"), "app/pre-stop".to_owned()] {
        let (signal, watch) = drain::new();
        let view = Arc::new(Fake::new(&format!(r#"{{"{name}": {{"http": {{"port": {port}}}}}}}"#), watch));
        let connections = connections(Surface::Health, &view);
        let (theirs, ours, mut called) = hook(&name, &app, &connections).await;
        let has_secret = name.starts_with(SECRET);
        assert_eq!(connections.places.taken(), usize::from(!has_secret), "{name}");

        // Nothing is on its way to or from the app, so the clock may jump.
        tokio::time::pause();
        tokio::time::sleep(LIFETIME * 10).await;
        tokio::time::resume();
        assert!(!ours.is_finished() && signal.held() == 1, "{name}");

        let others: Vec<_> =
            (0..Surface::Health.limits().total).map(|number| open(&connections, caller(number))).collect();
        if has_secret {
            let (served, _) = open(&connections, KUBELET);
            assert!(ask_on(served, READY).await.starts_with("HTTP/1.1 200"));
            called.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            assert!(ask_on(theirs, "").await.starts_with("HTTP/1.1 200"), "{name}");
        }
        timeout(Duration::from_secs(20), ours).await.unwrap().unwrap();
        assert_eq!(signal.held(), 0, "{name}");
        drop(others);
    }
}

#[tokio::test]
async fn a_hook_ends_when_kubelet_hangs_up() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = app.local_addr().unwrap().port();
    let (signal, watch) = drain::new();
    let name = format!("{SECRET}.app/pre-stop");
    let view = Arc::new(Fake::new(&format!(r#"{{"{name}": {{"http": {{"port": {port}}}}}}}"#), watch));
    let connections = connections(Surface::Health, &view);
    let (theirs, ours, mut called) = hook(&name, &app, &connections).await;
    called.read_exact(&mut [0; 16]).await.unwrap();
    assert_eq!((signal.held(), connections.proven.available_permits()), (1, MAX_PROVEN - 1));
    drop(theirs);
    ours.await.unwrap();
    assert_eq!((signal.held(), connections.proven.available_permits()), (0, MAX_PROVEN));
    let _ = called.read_to_end(&mut Vec::new()).await;
}
