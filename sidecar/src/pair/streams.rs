//! Both directions at once: upgrades, early responses, and bodies larger than any buffer (SEMANTICS.md §1).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use weft_proto::v1;

use super::wire::{App, End, Wire, ok};
use super::{Pair, REVIEWS, Sidecar, VIP, plain};
use crate::identity::testing::TestCa;

const MIB: usize = 1024 * 1024;

async fn echo_app() -> App {
    App::raw(|mut wire, log| async move {
        let request = wire.request().await.unwrap();
        assert_eq!(request.head.get("upgrade"), Some("websocket"));
        log.requests.lock().push(request);
        // The first frame travels with the head.
        wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nhello ").await;
        loop {
            let read = wire.read.split();
            wire.send(&read).await;
            if wire.more().await.is_err() {
                break;
            }
        }
        wire.send("bye").await;
    })
    .await
}

async fn upgrade(client: &mut Wire) {
    // Clients may not speak before the 101, but some do.
    let request = "GET /chat HTTP/1.1\r\nhost: reviews\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly ";
    client.send(request).await;
    let head = client.head().await;
    assert_eq!((head.status(), head.get("upgrade")), (101, Some("websocket")));
    assert_eq!(client.take(12).await, "hello early ");
}

#[tokio::test]
async fn a_websocket_echoes_through_both_sidecars_and_closes_half_by_half() {
    for meshed in [true, false] {
        let pair = Pair::new(echo_app().await).await;
        if !meshed {
            pair.web.endpoints(REVIEWS, &[plain(pair.app.addr)]);
        }
        let mut client = pair.connect().await;
        upgrade(&mut client).await;
        for number in 0..50 {
            let frame = format!("frame {number:04}");
            client.send(&frame).await;
            assert_eq!(client.take(frame.len()).await, frame);
        }
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.take(3).await, "bye");
        assert_eq!(client.end().await, End::Closed, "meshed: {meshed}");
        assert_eq!(pair.app.only().head.get("sec-websocket-version"), Some("13"));
        let protocol = "protocol=\"http/1\",mtls=\"true\"";
        assert_eq!(pair.reviews.metric("weft_connections_total", protocol), u64::from(meshed));
    }
}

/// Whichever side's certificate ends, as of an opaque connection (SEMANTICS.md §1 "mesh TLS").
#[tokio::test]
async fn a_websocket_does_not_outlive_its_peers_certificate() {
    for (row, short) in [("the server's", "reviews"), ("the client's", "web")] {
        let [web, reviews] = Sidecar::one_ends(short);
        let app = echo_app().await;
        web.service(|_| {});
        web.endpoints(REVIEWS, &[reviews.meshed(app.addr).await]);
        let mut client = web.connect(VIP).await;
        upgrade(&mut client).await;
        let ended = tokio::time::timeout(Duration::from_secs(5), client.end()).await;
        assert_eq!(ended.expect(row), End::Reset, "{row}");
        let cut = [&web, &reviews].map(|sidecar| sidecar.metric("weft_refused_total", "peer-expired"));
        assert_eq!(cut, if short == "reviews" { [1, 0] } else { [0, 1] }, "{row}");
    }
}

#[tokio::test]
async fn a_stranger_may_upgrade_where_strangers_may_come() {
    let pair = Pair::new(echo_app().await).await;
    let mut stranger = pair.reviews.connect_inbound(pair.app.addr).await;
    upgrade(&mut stranger).await;
    stranger.send("frame").await;
    assert_eq!(stranger.take(5).await, "frame");
    assert_eq!(pair.app.only().head.get("x-forwarded-client-cert"), None);
    upgrade(&mut pair.connect().await).await;
    let seen = pair.app.requests().pop().unwrap();
    assert!(seen.head.get("x-forwarded-client-cert").is_some_and(|cert| cert.ends_with("/sa/web")));
}

/// A tunnel is a request for as long as it is open: limits and load count it.
#[tokio::test]
async fn an_open_websocket_counts_against_the_limit_until_it_ends() {
    let pair = Pair::new(echo_app().await).await;
    pair.web.service(|port| {
        let limits = v1::Limits { max_requests: 1, ..v1::Limits::default() };
        port.policy = Some(v1::BackendPolicy { limits: Some(Box::new(limits)), ..v1::BackendPolicy::default() });
    });
    for _ in 0..2 {
        let mut first = pair.connect().await;
        upgrade(&mut first).await;
        let second = pair.connect().await.get("/").await;
        assert_eq!((second.head.status(), second.head.get("x-weft-reason")), (503, Some("overflow")));
        first.stream.shutdown().await.unwrap();
        assert_eq!(first.take(3).await, "bye");
        assert_eq!(first.end().await, End::Closed);
        drop(first);
        while pair.web.metric("weft_connections_open", "") > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn a_drain_waits_for_an_open_websocket() {
    let pair = Pair::new(echo_app().await).await;
    let mut client = pair.connect().await;
    upgrade(&mut client).await;
    let mut over = Box::pin(pair.reviews.inbound_drain.drain());
    assert!(timeout(Duration::from_millis(50), &mut over).await.is_err());
    client.send("frame").await;
    assert_eq!(client.take(5).await, "frame");
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.take(3).await, "bye");
    timeout(Duration::from_secs(5), over).await.expect("nothing is left");
}

#[tokio::test]
async fn an_upgrade_the_app_declines_is_an_ordinary_answer() {
    let pair = Pair::new(App::says("plain").await).await;
    let mut client = pair.connect().await;
    let request = "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let response = client.ask(request).await;
    assert_eq!((response.head.status(), response.text()), (200, "plain"));
    assert_eq!(client.get("/").await.text(), "plain", "the connection goes on");
}

#[tokio::test]
async fn connect_is_a_tunnel() {
    let app = App::raw(|mut wire, _| async move {
        let head = wire.head().await;
        assert_eq!(head.start, "CONNECT db:5432 HTTP/1.1");
        wire.send("HTTP/1.1 200 OK\r\n\r\n").await;
        let bytes = wire.take(4).await;
        wire.send(bytes).await;
    })
    .await;
    let pair = Pair::new(app).await;
    let mut client = pair.connect().await;
    client.send("CONNECT db:5432 HTTP/1.1\r\nhost: db:5432\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);
    client.send("ping").await;
    assert_eq!(client.take(4).await, "ping");
}

#[tokio::test]
async fn an_answer_may_come_while_the_body_is_still_sent() {
    let app = App::raw(|mut wire, _| async move {
        wire.head().await;
        wire.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno!").await;
        // And never reads the rest.
        tokio::time::sleep(Duration::from_secs(5)).await;
    })
    .await;
    let pair = Pair::new(app).await;
    let mut client = pair.connect().await;
    client.send(format!("POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: {}\r\n\r\n", 64 * MIB)).await;
    let (mut read, mut write) = client.stream.into_split();
    let upload = tokio::spawn(async move {
        let piece = vec![b'x'; MIB];
        for _ in 0..64 {
            if write.write_all(&piece).await.is_err() {
                return;
            }
        }
    });
    let mut answer = Vec::new();
    timeout(Duration::from_secs(10), async {
        while !answer.ends_with(b"no!") {
            let mut piece = [0; 1024];
            let read = read.read(&mut piece).await.expect("the answer before any reset");
            assert_ne!(read, 0, "the answer is cut short");
            answer.extend_from_slice(&piece[..read]);
        }
    })
    .await
    .expect("an answer while the upload is stuck");
    assert!(answer.starts_with(b"HTTP/1.1 413 "));
    upload.abort();
}

#[tokio::test]
async fn an_upload_goes_on_after_the_response_head() {
    let app = App::raw(|mut wire, _| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        for _ in 0..100 {
            // Each piece is answered before the next is sent.
            let piece = wire.take(10).await;
            wire.send(piece).await;
        }
        assert_eq!(wire.take(5).await, "0\r\n\r\n");
        wire.send("0\r\n\r\n").await;
    })
    .await;
    let pair = Pair::new(app).await;
    let mut client = pair.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: chunked\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);
    for number in 0..100 {
        let chunk = format!("5\r\n{number:05}\r\n");
        client.send(&chunk).await;
        assert_eq!(client.take(chunk.len()).await, chunk);
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.take(5).await, "0\r\n\r\n");
}

#[tokio::test]
async fn a_large_upload_and_a_large_download_share_a_connection() {
    const SIZE: usize = 16 * MIB;
    let app = App::raw(|wire, _| async move {
        let mut wire = wire;
        let head = wire.head().await;
        assert_eq!(head.get("content-length"), Some(SIZE.to_string().as_str()));
        wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n")).await;
        let mut left = SIZE;
        loop {
            let piece = wire.read.split();
            left -= piece.len();
            wire.send(&piece).await;
            if left == 0 {
                return;
            }
            wire.more().await.unwrap();
        }
    })
    .await;
    let pair = Pair::new(app).await;
    let mut client = pair.connect().await;
    client.send(format!("POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: {SIZE}\r\n\r\n")).await;
    let (mut read, mut write) = client.stream.split();
    let pattern: Vec<u8> = (0..SIZE).map(|at| (at / 7) as u8).collect();
    let both = async {
        tokio::join!(async { write.write_all(&pattern).await.unwrap() }, async {
            let mut head = [0; 15];
            read.read_exact(&mut head).await.unwrap();
            assert_eq!(&head, b"HTTP/1.1 200 OK");
            let mut got = Vec::with_capacity(SIZE + 256);
            while got.len() < SIZE || !got.ends_with(&pattern[SIZE - 64..]) {
                assert_ne!(read.read_buf(&mut got).await.unwrap(), 0);
            }
            let start = got.len() - SIZE;
            assert!(got[start..] == pattern[..], "every byte, in order");
        })
    };
    timeout(Duration::from_secs(60), both).await.expect("neither direction waits for the other");
}

/// A client that does not read costs windows and socket buffers, whatever its server has to say.
#[tokio::test]
async fn a_client_that_does_not_read_stops_its_server() {
    let app = App::raw(|mut wire, log| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\n\r\n").await;
        let piece = vec![b'x'; 64 * 1024];
        while wire.stream.write_all(&piece).await.is_ok() {
            log.connections.fetch_add(piece.len(), Ordering::Relaxed);
        }
    })
    .await;
    let pair = Pair::new(app).await;
    let mut stuck = pair.connect().await;
    stuck.send("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    assert_eq!(stuck.head().await.status(), 200);
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = pair.app.connections();
        if now == before {
            break;
        }
        before = now;
    }
    // Two pairs of socket buffers at the kernel's limits (6 + 4 MiB), and the mesh connection's, and ours.
    assert!(before < 40 * MIB, "{} MiB", before / MIB);
}

/// SEMANTICS.md §1 "head of line": one stuck client's stream does not stop its sidecar's other requests.
#[tokio::test]
async fn a_stuck_stream_does_not_hold_up_the_others() {
    let app = App::raw(|mut wire, _| async move {
        while let Some(request) = wire.request().await {
            if request.head.path() != "/endless" {
                wire.send(ok("quick")).await;
                continue;
            }
            wire.send("HTTP/1.1 200 OK\r\n\r\n").await;
            while wire.stream.write_all(&[b'x'; 65536]).await.is_ok() {}
            return;
        }
    })
    .await;
    let pair = Pair::new(app).await;
    let mut stuck = Vec::new();
    for _ in 0..20 {
        let mut client = pair.connect().await;
        client.send("GET /endless HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 200);
        stuck.push(client);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut client = pair.connect().await;
    for _ in 0..10 {
        let answer = timeout(Duration::from_secs(5), client.get("/")).await.expect("not stuck");
        assert_eq!(answer.text(), "quick");
    }
}

/// SEMANTICS.md §6: a panic ends one request, and nobody else's.
#[tokio::test]
async fn a_panic_ends_its_request_and_no_other_stream() {
    let waiting = Arc::new((AtomicUsize::new(0), tokio::sync::Notify::new()));
    let app = {
        let waiting = Arc::clone(&waiting);
        App::raw(move |mut wire, _| {
            let waiting = Arc::clone(&waiting);
            async move {
                while let Some(request) = wire.request().await {
                    if request.head.path() == "/slow" {
                        waiting.0.fetch_add(1, Ordering::Relaxed);
                        waiting.1.notified().await;
                    }
                    wire.send(ok("fine")).await;
                }
            }
        })
        .await
    };
    let ca = TestCa::new("weft.local");
    let web = Sidecar::new(&ca, "web");
    let reviews = Sidecar::with(&ca, "reviews", &["--test-panic=on"], true);
    web.service(|_| {});
    web.endpoints(REVIEWS, &[reviews.meshed(app.addr).await]);
    let mut slow = web.connect(VIP).await;
    slow.send("GET /slow HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    while waiting.0.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut client = web.connect(VIP).await;
    let answer = client.get("/weft-panic").await;
    assert_eq!((answer.head.status(), answer.head.get("x-weft-reason")), (500, Some("internal")));
    assert_eq!(client.get("/").await.text(), "fine");
    waiting.1.notify_one();
    assert_eq!(slow.response().await.text(), "fine");
    assert_eq!(reviews.metric("weft_panics_total", ""), 1);
    assert_eq!(reviews.metric("weft_connections_total", "http/2"), 1, "all of it was one mesh connection");
    assert_eq!(web.metric("weft_ejections_total", ""), 0);
}
