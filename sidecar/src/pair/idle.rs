//! Connections that carry nothing close when a BackendPolicy says so, and no others (SEMANTICS.md §3 "connections").

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weft_proto::v1;

use super::wire::{App, End, Wire, ok};
use super::{Pair, REVIEWS, plain};

const TIMEOUT: Duration = Duration::from_millis(800);
/// An eighth of it, and what a machine with other things to do may be late.
const LATE: Duration = Duration::from_millis(100 + 400);

/// By how much a client hears later than the sidecar that bytes have passed, or a response is over.
const HEARD: Duration = Duration::from_millis(50);

/// What the port of a Service declares, with idle timeouts.
fn idle(port: &mut v1::ServicePort, protocol: v1::Protocol) {
    let after = Some(v1::Millis { value: u64::try_from(TIMEOUT.as_millis()).unwrap() });
    port.protocol = protocol.into();
    port.policy =
        Some(v1::BackendPolicy { http_idle_timeout: after, tcp_idle_timeout: after, ..v1::BackendPolicy::default() });
}

/// Sends everything back, and notes how it ended.
async fn echoes() -> App {
    App::raw(|mut wire, log| async move {
        loop {
            match wire.more().await {
                Ok(()) => {
                    let read = wire.read.split();
                    wire.send(&read).await;
                }
                Err(end) => {
                    let head = super::wire::Head { start: format!("{end:?}"), ..Default::default() };
                    log.requests.lock().push(super::wire::Message { head, ..Default::default() });
                    return;
                }
            }
        }
    })
    .await
}

/// With `app` behind its sidecar, or alone.
async fn pair(app: App, protocol: v1::Protocol, meshed: bool) -> Pair {
    let pair = Pair::new(app).await;
    pair.web.service(|port| idle(port, protocol));
    if meshed {
        pair.reviews.own_port(pair.app.addr.port(), protocol, v1::MtlsMode::Strict);
    } else {
        pair.web.endpoints(REVIEWS, &[plain(pair.app.addr)]);
    }
    pair
}

/// Waits for the end, which is abrupt and neither too early nor too late after `last`.
async fn is_reset_in_time(client: &mut Wire, last: Instant, row: &str) {
    assert_eq!(client.end().await, End::Reset, "{row}");
    let quiet = last.elapsed();
    assert!(quiet + HEARD >= TIMEOUT && quiet < TIMEOUT + LATE, "{row}: after {quiet:?}");
}

fn closed(pair: &Pair) -> (u64, u64) {
    let reason = "reason=\"idle-timeout\"";
    (pair.web.metric("weft_refused_total", reason), pair.web.metric("weft_backend_connections_closed_total", reason))
}

#[tokio::test]
async fn opaque_bytes_keep_a_connection_and_their_absence_ends_it_on_both_sides() {
    for (row, meshed) in [("mesh TLS", true), ("plain text", false)] {
        let pair = pair(echoes().await, v1::Protocol::Tcp, meshed).await;
        let mut client = pair.connect().await;
        for _ in 0..5 {
            client.send("ping").await;
            assert_eq!(client.take(4).await, "ping", "{row}");
            tokio::time::sleep(TIMEOUT / 2).await;
        }
        client.send("last").await;
        let last = Instant::now();
        assert_eq!(client.take(4).await, "last", "{row}");
        is_reset_in_time(&mut client, last, row).await;
        while pair.app.count() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(pair.app.only().head.start, "Reset", "{row}");
        assert_eq!(closed(&pair), (1, 1), "{row}");
    }
}

/// What is long enough is moved within the kernel: its bytes count as well.
#[tokio::test]
async fn a_spliced_stream_is_kept_by_bytes_of_one_direction() {
    const CHUNK: usize = 64 * 1024;
    let app = App::raw(|mut wire, log| async move {
        wire.take(4).await;
        // More than it takes to be spliced, then little by little.
        wire.send(vec![b'x'; 1024 * 1024]).await;
        for _ in 0..6 {
            tokio::time::sleep(TIMEOUT / 2).await;
            wire.send(vec![b'y'; CHUNK]).await;
        }
        let _ = wire.end().await;
        log.connections.fetch_sub(1, Ordering::Relaxed);
    })
    .await;
    let pair = pair(app, v1::Protocol::Tcp, false).await;
    let mut client = pair.connect().await;
    client.send("more").await;
    client.take(1024 * 1024 + 6 * CHUNK).await;
    is_reset_in_time(&mut client, Instant::now(), "spliced").await;
    while pair.app.connections() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn what_a_request_was_upgraded_to_ends_as_opaque_bytes_do() {
    for (row, meshed) in [("mesh TLS", true), ("plain text", false)] {
        let app = App::raw(|mut wire, _| async move {
            if wire.request().await.is_none() {
                return;
            }
            wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n").await;
            while wire.more().await.is_ok() {
                let read = wire.read.split();
                wire.send(&read).await;
            }
        })
        .await;
        let pair = pair(app, v1::Protocol::Http, meshed).await;
        let mut client = pair.connect().await;
        client.send("GET / HTTP/1.1\r\nhost: reviews\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 101, "{row}");
        for _ in 0..4 {
            client.send("ping").await;
            assert_eq!(client.take(4).await, "ping", "{row}");
            tokio::time::sleep(TIMEOUT / 2).await;
        }
        client.send("last").await;
        let last = Instant::now();
        assert_eq!(client.take(4).await, "last", "{row}");
        is_reset_in_time(&mut client, last, row).await;
        assert_eq!(closed(&pair), (1, 1), "{row}");
    }
}

#[tokio::test]
async fn an_http_connection_without_a_request_closes_and_one_that_is_asked_stays() {
    for (row, meshed) in [("mesh TLS", true), ("plain text", false)] {
        let app = App::raw(|mut wire, log| async move {
            while let Some(request) = wire.request().await {
                log.requests.lock().push(request);
                wire.send(ok("yes")).await;
            }
            log.connections.fetch_sub(1, Ordering::Relaxed);
        })
        .await;
        let pair = pair(app, v1::Protocol::Http, meshed).await;
        let mut client = pair.connect().await;
        for _ in 0..5 {
            assert_eq!(client.get("/").await.text(), "yes", "{row}");
            tokio::time::sleep(TIMEOUT / 2).await;
        }
        assert_eq!(closed(&pair).1, 0, "{row}: asked in time");
        assert_eq!(client.get("/").await.text(), "yes", "{row}");
        let last = Instant::now();
        let idle = || pair.web.metric("weft_backend_connections_idle", "reviews");
        assert_eq!(idle(), 1, "{row}");
        while closed(&pair).1 == 0 {
            assert!(last.elapsed() < TIMEOUT + LATE, "{row}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(last.elapsed() + HEARD >= TIMEOUT, "{row}: after {:?}", last.elapsed());
        assert_eq!((idle(), closed(&pair)), (0, (0, 1)), "{row}: nobody was refused");
        // The client keeps its connection, and is answered on another.
        assert_eq!(client.get("/").await.text(), "yes", "{row}");
    }
}

#[tokio::test]
async fn without_a_policy_opaque_bytes_have_no_idle_limit() {
    let pair = pair(echoes().await, v1::Protocol::Tcp, true).await;
    pair.web.service(|port| port.protocol = v1::Protocol::Tcp.into());
    let mut client = pair.connect().await;
    client.send("ping").await;
    assert_eq!(client.take(4).await, "ping");
    tokio::time::sleep(TIMEOUT + LATE).await;
    client.send("pong").await;
    assert_eq!(client.take(4).await, "pong");
    assert_eq!(closed(&pair), (0, 0));
}
