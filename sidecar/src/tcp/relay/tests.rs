use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadBuf, duplex};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::listen::Prefixed;

mod long;

const SOON: Duration = Duration::from_secs(10);

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

/// `client ── a │ relay │ b ── server` over loopback.
async fn over_tcp() -> (TcpStream, TcpStream, Arc<Counters>, JoinHandle<Relayed>) {
    let ((client, a), (b, server)) = (tcp_pair().await, tcp_pair().await);
    let counters = Arc::<Counters>::default();
    let relay = tokio::spawn(relay(a, b, counters.clone()));
    (client, server, counters, relay)
}

async fn done(relay: JoinHandle<Relayed>) -> Relayed {
    timeout(SOON, relay).await.expect("the relay ends").unwrap()
}

#[tokio::test]
async fn a_half_close_is_told_and_the_other_direction_goes_on() {
    let (mut client, mut server, counters, relay) = over_tcp().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = String::new();
    server.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "question");
    assert_eq!(counters.a_to_b.load(Ordering::Relaxed), 8, "counted while it runs");

    server.write_all(b"a longer answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "a longer answer");
    let relayed = done(relay).await;
    assert!(matches!(relayed.ended, Ended::Clean), "{relayed:?}");
    assert_eq!((relayed.a_to_b, relayed.b_to_a), (8, 15));
}

#[tokio::test]
async fn a_half_close_from_the_server_is_told_as_well() {
    let (mut client, mut server, _, relay) = over_tcp().await;
    server.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    client.write_all(b"still here").await.unwrap();
    client.shutdown().await.unwrap();
    let mut rest = String::new();
    server.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "still here");
    assert!(matches!(done(relay).await.ended, Ended::Clean));
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let (mut client, mut server, _, relay) = over_tcp().await;
    server.write_all(b"220 ready\r\n").await.unwrap();
    let mut greeting = [0; 11];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    client.write_all(b"QUIT\r\n").await.unwrap();
    let mut quit = [0; 6];
    server.read_exact(&mut quit).await.unwrap();
    drop((client, server));
    done(relay).await;
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset_both_ways() {
    for from_client in [true, false] {
        let (mut client, mut server, _, relay) = over_tcp().await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
        let (resets, mut hears, side) = if from_client { (client, server, Side::A) } else { (server, client, Side::B) };
        options::reset(resets);
        let error = hears.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "from the client: {from_client}");
        match done(relay).await.ended {
            Ended::Failed { side: failed, error } => {
                assert_eq!((failed, error.kind()), (side, io::ErrorKind::ConnectionReset));
            }
            other => panic!("a reset is no other end: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_relay_that_is_cut_resets_both_sides() {
    let ((mut client, a), (b, mut server)) = (tcp_pair().await, tcp_pair().await);
    let (cut, told) = tokio::sync::oneshot::channel::<()>();
    let relay = tokio::spawn(relay_until(a, b, Arc::default(), async { _ = told.await }));
    client.write_all(b"x").await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
    cut.send(()).unwrap();
    for side in [&mut client, &mut server] {
        assert_eq!(side.read(&mut [0; 1]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    let relayed = done(relay).await;
    assert!(matches!(relayed.ended, Ended::Cut), "{relayed:?}");
    assert_eq!((relayed.a_to_b, relayed.b_to_a), (1, 0));
}

#[tokio::test]
async fn a_reset_after_a_half_close_is_passed_on() {
    let (mut client, server, _, relay) = over_tcp().await;
    client.shutdown().await.unwrap();
    options::reset(server);
    assert_eq!(client.read(&mut [0; 1]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(done(relay).await.ended, Ended::Failed { side: Side::B, .. }));
}

#[tokio::test]
async fn a_slow_reader_holds_its_writer_back() {
    let ((client, a), (b, mut server)) = (duplex(1024), duplex(16));
    let counters = Arc::<Counters>::default();
    let relay = tokio::spawn(relay(a, b, counters.clone()));
    let (mut reads, mut writes) = tokio::io::split(client);
    let writer = tokio::spawn(async move {
        writes.write_all(&[7; 100_000]).await.unwrap();
        writes.shutdown().await.unwrap();
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!writer.is_finished());
    assert_eq!(counters.a_to_b.load(Ordering::Relaxed), 16, "no more than the server's pipe takes");
    // The other direction is not held back.
    server.write_all(b"hi").await.unwrap();
    let mut hi = [0; 2];
    timeout(SOON, reads.read_exact(&mut hi)).await.unwrap().unwrap();
    let mut data = Vec::new();
    timeout(SOON, server.read_to_end(&mut data)).await.unwrap().unwrap();
    assert_eq!(data, [7; 100_000]);
    writer.await.unwrap();
    drop(server);
    assert!(matches!(done(relay).await.ended, Ended::Clean));
}

#[tokio::test]
async fn a_replayed_prefix_goes_first() {
    let ((mut client, a), (b, mut server)) = (duplex(64), duplex(64));
    let a = Prefixed::new(BytesMut::from(&b"seen "[..]), a);
    let relay = tokio::spawn(relay(a, b, Arc::default()));
    client.write_all(b"before").await.unwrap();
    drop(client);
    let mut text = String::new();
    server.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "seen before");
    drop(server);
    done(relay).await;
}

#[tokio::test]
async fn a_socket_is_seen_through_its_box_once_what_was_read_before_has_been_taken() {
    let (mut client, accepted) = tcp_pair().await;
    let boxed: crate::http::BoxedIo = Box::new(accepted);
    let mut stream = Prefixed::new(BytesMut::from(&b"seen"[..]), boxed);
    assert!(stream.plain().is_none(), "these bytes are not in the socket");
    let mut seen = [0; 4];
    stream.read_exact(&mut seen).await.unwrap();
    assert!(stream.plain().is_some());
    client.write_all(b"more").await.unwrap();
    stream.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"more");
}

/// A stream that says how it was ended.
struct Watched {
    io: DuplexStream,
    flushed: usize,
    written: usize,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

/// Like a TLS stream, it passes on what was written only when flushed.
impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.written += buf.len();
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.flushed < self.written {
            let zeros = vec![0; self.written - self.flushed];
            let flushed = ready!(Pin::new(&mut self.io).poll_write(cx, &zeros))?;
            self.flushed += flushed;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Abort for Watched {
    fn abort_on_drop(&self) {}
}

#[tokio::test]
async fn what_a_stream_buffers_is_flushed_when_nothing_more_comes() {
    let ((mut client, a), (b, mut server)) = (duplex(64), duplex(64));
    let b = Watched { io: b, flushed: 0, written: 0 };
    let _relay = tokio::spawn(relay(a, b, Arc::default()));
    client.write_all(b"12345").await.unwrap();
    let mut five = [1; 5];
    timeout(SOON, server.read_exact(&mut five)).await.expect("flushed while the client stays open").unwrap();
    assert_eq!(five, [0; 5]);
}

#[tokio::test]
async fn an_idle_relay_owns_no_buffer() {
    let (a, b) = (duplex(8), duplex(8));
    let future = relay(a.0, b.0, Arc::default());
    assert!(size_of_val(&future) < 512, "{} bytes", size_of_val(&future));
}
