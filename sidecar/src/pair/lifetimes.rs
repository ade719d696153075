//! Connections and requests that end early, late or rudely: who hears of it, and that nothing is left behind.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use weft_proto::v1;

use super::wire::{App, End, ok};
use super::{Pair, REVIEWS, Sidecar, plain};
use crate::identity::testing::TestCa;

/// `/slow` never answers, and notes when its client is gone; everything else is `fine`.
async fn slow_app() -> App {
    App::raw(|mut wire, log| async move {
        while let Some(request) = wire.request().await {
            let slow = request.head.path() == "/slow";
            log.requests.lock().push(request);
            if slow {
                let _ = wire.more().await;
                log.requests.lock().push(super::wire::Message { body: "gone".into(), ..Default::default() });
                return;
            }
            wire.send(ok("fine")).await;
        }
    })
    .await
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waited = timeout(Duration::from_secs(10), async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Answers with this text, 100 ms after each request has arrived.
async fn says_late(text: &'static str) -> App {
    App::raw(move |mut wire, log| async move {
        while let Some(request) = wire.request().await {
            log.requests.lock().push(request);
            tokio::time::sleep(Duration::from_millis(100)).await;
            wire.send(ok(text)).await;
        }
    })
    .await
}

#[tokio::test]
async fn an_app_hears_that_its_client_has_left() {
    let pair = Pair::new(slow_app().await).await;
    let mut client = pair.connect().await;
    client.send("GET /slow HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    until("the request arrives", || pair.app.count() == 1).await;
    client.reset();
    until("the app hears of it", || pair.app.count() == 2).await;
    assert_eq!(pair.connect().await.get("/").await.text(), "fine");
    assert_eq!(pair.reviews.metric("weft_connections_total", "http/2"), 1, "the mesh connection lives on");
    assert_eq!(pair.web.metric("weft_ejections_total", ""), 0);
}

#[tokio::test]
async fn a_client_that_closes_its_half_still_gets_its_answer() {
    let app = App::raw(|mut wire, _| async move {
        while wire.request().await.is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            wire.send(ok("late")).await;
        }
    })
    .await;
    let pair = Pair::new(app).await;
    let mut client = pair.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: 1\r\n\r\nx").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.response().await.text(), "late");
    assert_eq!(client.end().await, End::Closed);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let pair = Pair::new(App::http1(|request| ok(request.head.path())).await).await;
    let mut client = pair.connect().await;
    let all: String = (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: reviews\r\n\r\n")).collect();
    client.send(all).await;
    for number in 0..20 {
        assert_eq!(client.response().await.text(), format!("/{number}"));
    }
}

/// The classic 503: servers close idle connections just as a request is on its way.
#[tokio::test]
async fn an_app_that_closes_after_each_answer_costs_no_request() {
    let app = || {
        App::raw(|mut wire, log| async move {
            let Some(request) = wire.request().await else { return };
            log.requests.lock().push(request);
            wire.send(ok("once")).await;
        })
    };
    for meshed in [true, false] {
        let pair = Pair::new(app().await).await;
        if !meshed {
            pair.web.endpoints(REVIEWS, &[plain(pair.app.addr)]);
        }
        let mut client = pair.connect().await;
        for number in 1..=50 {
            let response = client.post("/", "x").await;
            assert_eq!(response.head.status(), 200, "meshed: {meshed}, request {number}: {response:?}");
            assert_eq!(pair.app.count(), number);
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_is_gone_finishes_what_it_has() {
    let pair = Pair::new(says_late("old").await).await;
    let mut client = pair.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    until("the request arrives", || pair.app.count() == 1).await;
    let next = App::says("new").await;
    pair.web.endpoints(REVIEWS, &[pair.reviews.meshed(next.addr).await]);
    pair.web.outbound.upstreams.prune();
    assert_eq!(pair.connect().await.get("/").await.text(), "new");
    assert_eq!(client.response().await.text(), "old");
    assert_eq!(client.get("/").await.text(), "new");
    // The old connection has closed, the new one is open.
    until("it closes", || pair.reviews.metric("weft_connections_open", "") == 1).await;
}

#[tokio::test]
async fn a_new_endpoint_is_connected_to_before_its_first_request_where_its_backend_is_in_use() {
    for in_use in [true, false] {
        let pair = Pair::new(App::says("old").await).await;
        let warming = tokio::spawn(std::sync::Arc::clone(&pair.web.outbound).keep_warm());
        if in_use {
            assert_eq!(pair.connect().await.get("/").await.text(), "old");
        }
        let next = App::says("new").await;
        let endpoints = [pair.reviews.meshed(pair.app.addr).await, pair.reviews.meshed(next.addr).await];
        pair.web.endpoints(REVIEWS, &endpoints);
        if in_use {
            // The one that served, and two of new addresses.
            until("it connects", || pair.reviews.metric("weft_connections_open", "") == 3).await;
            assert_eq!(next.count(), 0);
        } else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(pair.reviews.metric("weft_connections_open", ""), 0);
        }
        warming.abort();
    }
}

#[tokio::test]
async fn a_head_up_to_the_limit_passes_both_sidecars_and_a_larger_one_costs_only_itself() {
    let app = App::http1(|request| {
        let size: usize = request.head.get("x-want").map_or(0, |size| size.parse().unwrap());
        format!("HTTP/1.1 200 OK\r\nx-fill: {}\r\ncontent-length: 0\r\n\r\n", "r".repeat(size))
    })
    .await;
    let pair = Pair::new(app).await;
    for size in [15_000, 30_000, 60_000, 64_000] {
        let fill = "q".repeat(size);
        let response =
            pair.connect().await.ask(format!("GET / HTTP/1.1\r\nhost: reviews\r\nx-fill: {fill}\r\n\r\n")).await;
        assert_eq!(response.head.status(), 200, "a request head of {size}: {:?}", response.head);
        let request = format!("GET / HTTP/1.1\r\nhost: reviews\r\nx-want: {size}\r\n\r\n");
        let response = pair.connect().await.ask(request).await;
        assert_eq!(response.head.status(), 200, "a response head of {size}");
        assert_eq!(response.head.get("x-fill").map(str::len), Some(size));
    }
    let fill = "q".repeat(70_000);
    let response = pair.connect().await.ask(format!("GET / HTTP/1.1\r\nhost: reviews\r\nx-fill: {fill}\r\n\r\n")).await;
    assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (431, Some("head-too-large")));
    let response = pair.connect().await.ask("GET / HTTP/1.1\r\nhost: reviews\r\nx-want: 70000\r\n\r\n").await;
    assert_eq!(response.head.status(), 502);
    assert_eq!(pair.connect().await.get("/").await.head.status(), 200);
    assert_eq!(pair.reviews.metric("weft_connections_total", "http/2"), 1, "all of it was one mesh connection");
}

#[tokio::test]
async fn as_many_fields_as_are_allowed_pass_both_sidecars() {
    let fields: String = (0..98).map(|n| format!("x-f{n}: {}\r\n", "v".repeat(600))).collect();
    let answer = format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n");
    let pair = Pair::new(App::http1(move |_| answer.clone()).await).await;
    let response = pair.connect().await.ask(format!("GET / HTTP/1.1\r\nhost: reviews\r\n{fields}\r\n")).await;
    assert_eq!(response.head.status(), 200);
    assert_eq!(response.head.get("x-f97").map(str::len), Some(600));
    assert_eq!(pair.app.only().head.get("x-f97").map(str::len), Some(600));
}

#[tokio::test]
async fn many_requests_at_once_share_few_connections_and_all_are_answered() {
    let pair = Pair::new(says_late("fine").await).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let mut client = pair.connect().await;
        clients.spawn(async move { client.get("/").await.head.status() });
    }
    while let Some(status) = clients.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(pair.app.count(), 300);
    assert!(pair.reviews.metric("weft_connections_total", "http/2") <= 4);
}

#[tokio::test]
async fn what_a_stranger_says_in_our_name_is_taken_off_and_means_nothing() {
    let reviews = Sidecar::new(&TestCa::new("weft.local"), "reviews");
    let app = App::says("in").await;
    let request = "GET / HTTP/1.1\r\nhost: reviews\r\nx-weft-version: 1.0\r\nx-weft-deadline-ms: 0\r\n\
                   x-forwarded-client-cert: URI=spiffe://weft.local/ns/shop/sa/admin\r\n\r\n";
    assert_eq!(reviews.connect_inbound(app.addr).await.ask(request).await.text(), "in");
    let seen = app.only();
    assert!(seen.head.start.ends_with("HTTP/1.1"));
    assert_eq!(seen.head.fields.len(), 1, "{:?}", seen.head);
}

#[tokio::test]
async fn interim_responses_do_not_disturb_the_final_one() {
    let app = App::http1(|request| {
        let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";
        format!("{interim}{}", ok(request.text()))
    })
    .await;
    let pair = Pair::new(app).await;
    for version in ["1.1", "1.0"] {
        let mut client = pair.connect().await;
        client.send(format!("POST / HTTP/{version}\r\nhost: reviews\r\ncontent-length: 4\r\n\r\nbody")).await;
        let mut head = client.head().await;
        while head.status() < 200 {
            assert_eq!(version, "1.1", "HTTP/1.0 knows no interim responses");
            head = client.head().await;
        }
        assert_eq!(client.content(&head, true).await.unwrap().0, "body");
    }
}

/// Every count goes back to where it was: load, limits, guards, open connections.
#[tokio::test]
async fn nothing_is_left_behind() {
    let pair = Pair::new(slow_app().await).await;
    pair.web.service(|port| {
        let limits = v1::Limits { max_requests: 8, ..v1::Limits::default() };
        port.policy = Some(v1::BackendPolicy { limits: Some(Box::new(limits)), ..v1::BackendPolicy::default() });
    });
    for round in 0..6 {
        let mut clients = Vec::new();
        for number in 0..6 {
            let mut client = pair.connect().await;
            match (round + number) % 6 {
                0 => client.send("GET /slow HTTP/1.1\r\nhost: reviews\r\n\r\n").await,
                1 => client.send("POST /slow HTTP/1.1\r\nhost: reviews\r\ncontent-length: 9\r\n\r\nx").await,
                2 => {
                    client
                        .send("GET /slow HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
                        .await
                }
                3 => client.send("GE").await,
                4 => client.send("not http\r\n\r\n").await,
                _ => assert_eq!(client.get("/").await.head.status(), 200),
            }
            clients.push(client);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        for (number, client) in clients.into_iter().enumerate() {
            if number % 2 == 0 { client.reset() } else { drop(client) }
        }
    }
    until("web's connections end", || pair.web.metric("weft_connections_open", "") == 0).await;
    until("web's guards are dropped", || pair.web.outbound_drain.held() == 0).await;
    let destination = pair.web.config.destination(super::VIP.parse().unwrap()).await;
    let crate::config::Destination::Service { port, .. } = destination else { panic!("{destination:?}") };
    let view = serde_json::to_string(&port.backend.balancer.snapshot(std::time::Instant::now())).unwrap();
    assert!(view.contains("\"in_flight\":0") && !view.contains("\"in_flight\":1"), "{view}");
    // All eight requests may be made again.
    let mut slow = Vec::new();
    let before = pair.app.log.requests.lock().iter().filter(|seen| seen.head.path() == "/slow").count();
    for _ in 0..8 {
        let mut client = pair.connect().await;
        client.send("GET /slow HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
        slow.push(client);
    }
    let slow_ones = || pair.app.log.requests.lock().iter().filter(|seen| seen.head.path() == "/slow").count();
    until("all arrive", || slow_ones() == before + 8).await;
    assert!(pair.app.log.connections.load(Ordering::Relaxed) > 8);
}

/// A way to an endpoint that goes dead without a word: a node that lost its power.
async fn dead_wire(to: std::net::SocketAddr) -> (std::net::SocketAddr, tokio::sync::watch::Sender<bool>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cut, is_cut) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut near, _)) = listener.accept().await {
            let mut is_cut = is_cut.clone();
            held.push(tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                    _ = is_cut.wait_for(|cut| *cut) => {}
                }
                // Open, and silent.
                std::future::pending::<()>().await;
            }));
        }
    });
    (address, cut)
}

/// SEMANTICS.md §3 "connections": h2 PING after 5 s of silence while streams are open, 3 s to answer.
#[tokio::test(start_paused = true)]
async fn a_peer_that_falls_silent_is_given_up_after_eight_seconds() {
    let pair = Pair::new(slow_app().await).await;
    let (address, cut) = dead_wire(pair.reviews.listen_for(pair.app.addr).await).await;
    let dying = v1::Endpoint { mesh_tls: true, identity: pair.reviews.identity.clone(), ..plain(address) };
    pair.web.endpoints(REVIEWS, std::slice::from_ref(&dying));
    let mut get = pair.connect().await;
    let mut post = pair.connect().await;
    get.send("GET /slow HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    post.send("POST /slow HTTP/1.1\r\nhost: reviews\r\ncontent-length: 0\r\n\r\n").await;
    until("both arrive", || pair.app.count() == 2).await;
    cut.send_replace(true);
    let other = App::says("other").await;
    pair.web.endpoints(REVIEWS, &[dying, pair.reviews.meshed(other.addr).await]);
    let began = tokio::time::Instant::now();
    assert_eq!(get.response().await.text(), "other", "safe to repeat");
    let response = post.response().await;
    assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (502, Some("upstream-reset")));
    let took = began.elapsed();
    assert!(took > Duration::from_secs(5) && took < Duration::from_secs(9), "{took:?}");
}

/// SEMANTICS.md §1 "mesh TLS": a connection is drained by the expiry of the peer's leaf.
#[tokio::test(start_paused = true)]
async fn a_mesh_connection_does_not_outlive_its_peers_certificate() {
    let app = App::raw(|mut wire, log| async move {
        let Some(request) = wire.request().await else { return };
        let slow = request.head.path() == "/slow";
        log.requests.lock().push(request);
        if slow {
            // Longer than this test.
            tokio::time::sleep(Duration::from_secs(7200)).await;
        }
        wire.send(ok("fine")).await;
    })
    .await;
    let pair = Pair::new(app).await;
    let mut slow = pair.connect().await;
    slow.send("GET /slow HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    until("the request arrives", || pair.app.count() == 1).await;
    let connections = || pair.reviews.metric("weft_connections_total", "http/2");
    // The leaf lives an hour.
    tokio::time::sleep(Duration::from_secs(3500)).await;
    assert_eq!(pair.connect().await.get("/").await.text(), "fine");
    assert_eq!(connections(), 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(pair.connect().await.get("/").await.text(), "fine");
    assert_eq!(connections(), 2, "new requests go over a new one");
    assert!(timeout(Duration::from_secs(1), slow.more()).await.is_err(), "what is open may finish");
}
