//! Telling the truth across two sidecars (SEMANTICS.md §1, the row of that name; §3 "retries", "outlier detection"): what
//! happened at the app, what the client's sidecar makes of it, and how often the app ran.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use weft_proto::v1;

use super::wire::{App, Wire, ok};
use super::{Pair, REVIEWS, Sidecar, VIP, nobody, plain};
use crate::identity::MeshProtocol;
use crate::identity::testing::TestCa;

/// `web`, and one app behind each further sidecar.
async fn mesh(apps: &[std::net::SocketAddr]) -> (TestCa, Sidecar, Vec<Sidecar>) {
    let ca = TestCa::new("weft.local");
    let web = Sidecar::new(&ca, "web");
    let mut servers = Vec::new();
    let mut endpoints = Vec::new();
    for app in apps {
        let server = Sidecar::new(&ca, "reviews");
        endpoints.push(server.meshed(*app).await);
        servers.push(server);
    }
    web.service(|_| {});
    web.endpoints(REVIEWS, &endpoints);
    (ca, web, servers)
}

#[tokio::test]
async fn a_post_to_an_app_that_cannot_be_reached_runs_once_elsewhere() {
    let app = App::says("done").await;
    let (_ca, web, servers) = mesh(&[nobody(), app.addr]).await;
    let mut client = web.connect(VIP).await;
    for number in 1..=20 {
        let response = client.post("/pay", "1 EUR").await;
        assert_eq!((response.head.status(), response.text()), (200, "done"), "request {number}");
        assert_eq!(app.count(), number, "exactly one execution each");
    }
    assert!(web.metric("weft_retries_total", "reviews") > 0);
    assert!(servers[0].metric("weft_refused_total", "connect-failed") > 0);
    assert!(app.requests().iter().all(|seen| seen.text() == "1 EUR"));
}

#[tokio::test]
async fn when_no_endpoint_can_be_reached_the_answer_is_503_and_says_so() {
    let ca = TestCa::new("weft.local");
    let reviews = Sidecar::new(&ca, "reviews");
    let unreachable = nobody();
    let rows = [
        ("the app behind its sidecar", reviews.meshed(unreachable).await),
        ("the sidecar", v1::Endpoint { mesh_tls: true, identity: reviews.identity.clone(), ..plain(unreachable) }),
        ("an app without sidecar", plain(unreachable)),
    ];
    for (row, endpoint) in rows {
        let web = Sidecar::new(&ca, "web");
        let address = format!("{}:{}", endpoint.address, endpoint.port);
        web.service(|_| {});
        web.endpoints(REVIEWS, &[endpoint]);
        let mut client = web.connect(VIP).await;
        for method in ["GET", "POST"] {
            let response = client.ask(format!("{method} / HTTP/1.1\r\nhost: reviews\r\n\r\n")).await;
            assert_eq!(response.head.status(), 503, "{row}");
            assert_eq!(response.head.get("x-weft-reason"), Some("connect-failed"), "{row}");
            assert!(response.text().contains(&address), "{row}: {}", response.text());
        }
    }
}

/// Two apps of which the first to be asked dies with the request in its hands.
async fn one_dies_at_work() -> (App, App) {
    let asked = Arc::new(AtomicUsize::new(0));
    let app = |name: &'static str| {
        let asked = Arc::clone(&asked);
        App::raw(move |mut wire, log| {
            let asked = Arc::clone(&asked);
            async move {
                while let Some(request) = wire.request().await {
                    log.requests.lock().push(request);
                    if asked.fetch_add(1, Ordering::Relaxed) == 0 {
                        return wire.reset();
                    }
                    wire.send(ok(name)).await;
                }
            }
        })
    };
    (app("first").await, app("second").await)
}

#[tokio::test]
async fn an_app_lost_at_work_is_asked_again_elsewhere_only_if_that_is_safe() {
    for (method, status, runs) in
        [("GET", 200, 2), ("PUT", 200, 2), ("DELETE", 200, 2), ("POST", 502, 1), ("PATCH", 502, 1)]
    {
        let (first, second) = one_dies_at_work().await;
        let (_ca, web, _servers) = mesh(&[first.addr, second.addr]).await;
        let request = format!("{method} / HTTP/1.1\r\nhost: reviews\r\ncontent-length: 2\r\n\r\nab");
        let response = web.connect(VIP).await.ask(request).await;
        assert_eq!(response.head.status(), status, "{method}: {response:?}");
        assert_eq!(first.count() + second.count(), runs, "{method}");
        if status == 200 {
            assert_eq!((first.count(), second.count()), (1, 1), "{method}: not the same endpoint again");
        } else {
            assert_eq!(response.head.get("x-weft-reason"), Some("upstream-reset"), "{method}");
        }
    }
}

#[tokio::test]
async fn an_upgrade_the_app_never_saw_is_refused_in_words_and_tried_elsewhere() {
    let upgrade = "GET /ws HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let app = App::raw(|mut wire, log| async move {
        let request = wire.request().await.unwrap();
        log.requests.lock().push(request);
        wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    })
    .await;
    let (ca, web, servers) = mesh(&[nobody(), app.addr]).await;
    // What the client's sidecar is told.
    let address = servers[0].listen_for(nobody()).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let expected = ca.id("shop", "reviews");
    let (tls, _) = ca.manager("shop", "web").connect(stream, &expected, MeshProtocol::H1).await.unwrap();
    let (mut ours, mut theirs) = pipe().await;
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut theirs, &mut { tls }).await });
    let response = ours.ask(upgrade).await;
    assert_eq!((response.head.status(), response.head.get("x-weft-not-processed")), (503, Some("1")));
    // What it makes of that, and what the app is not told.
    for number in 1..=10 {
        let mut client = web.connect(VIP).await;
        client.send(upgrade).await;
        assert_eq!(client.head().await.status(), 101, "{number}");
        assert_eq!(app.count(), number);
    }
    let (_ca, web, _servers) = mesh(&[nobody()]).await;
    let response = web.connect(VIP).await.ask(upgrade).await;
    assert_eq!((response.head.status(), response.head.get("x-weft-not-processed")), (503, None));
    assert_eq!(response.head.get("x-weft-reason"), Some("connect-failed"));
}

async fn pipe() -> (Wire, TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (Wire::new(ours.unwrap()), theirs.unwrap().0)
}

/// What an app says in our name is not our word: neither is it believed, nor does it reach the client.
#[tokio::test]
async fn an_app_cannot_speak_for_a_sidecar() {
    let lie = "HTTP/1.1 503 Service Unavailable\r\nx-weft-not-processed: 1\r\nx-weft-reason: overflow\r\n\
               x-weft-overloaded: 1\r\ncontent-length: 0\r\n\r\n";
    for meshed in [true, false] {
        let pair = Pair::new(App::http1(move |_| lie.into()).await).await;
        if !meshed {
            pair.web.endpoints(REVIEWS, &[plain(pair.app.addr)]);
        }
        let response = pair.connect().await.post("/", "x").await;
        assert_eq!(response.head.status(), 503);
        assert_eq!(pair.app.count(), 1, "meshed: {meshed}: it was processed, and not tried again");
        for name in ["x-weft-not-processed", "x-weft-reason", "x-weft-overloaded"] {
            assert_eq!(response.head.get(name), None, "meshed: {meshed}");
        }
    }
}

#[tokio::test]
async fn a_limit_reached_is_503_overflow_and_ejects_nobody() {
    let enough = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&enough);
    let app = App::raw(move |mut wire, log| {
        let told = Arc::clone(&told);
        async move {
            while let Some(request) = wire.request().await {
                log.requests.lock().push(request);
                if log.requests.lock().len() == 1 {
                    told.notified().await;
                }
                wire.send(ok("")).await;
            }
        }
    })
    .await;
    let (_ca, web, _servers) = mesh(&[app.addr]).await;
    web.service(|port| {
        let limits = v1::Limits { max_requests: 1, ..v1::Limits::default() };
        port.policy = Some(v1::BackendPolicy { limits: Some(Box::new(limits)), ..v1::BackendPolicy::default() });
    });
    let mut first = web.connect(VIP).await;
    first.send("GET /slow HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    while app.count() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut second = web.connect(VIP).await;
    for _ in 0..10 {
        let response = second.get("/").await;
        assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (503, Some("overflow")));
        assert_eq!(response.head.get("x-weft-overloaded"), Some("1"));
    }
    enough.notify_one();
    assert_eq!(first.response().await.head.status(), 200);
    assert_eq!(web.metric("weft_ejections_total", ""), 0);
    assert_eq!(second.get("/").await.head.status(), 200);
}

#[tokio::test]
async fn five_failures_eject_an_endpoint_and_a_probe_brings_it_back() {
    let (failing, healthy) = (Arc::new(AtomicUsize::new(1)), App::says("healthy").await);
    let fails = Arc::clone(&failing);
    let app = App::http1(move |_| match fails.load(Ordering::Relaxed) {
        0 => ok("back"),
        _ => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".into(),
    })
    .await;
    let (_ca, web, _servers) = mesh(&[app.addr, healthy.addr]).await;
    web.service(|port| {
        let outlier = v1::OutlierDetection {
            consecutive_failures: 5,
            base_ejection: Some(v1::Millis { value: 100 }),
            ..v1::OutlierDetection::default()
        };
        port.policy = Some(v1::BackendPolicy { outlier_detection: Some(outlier), ..v1::BackendPolicy::default() });
    });
    let mut client = web.connect(VIP).await;
    for _ in 0..1000 {
        client.post("/", "").await;
        if web.metric("weft_ejections_total", "shop/reviews:80") == 1 {
            break;
        }
        // A failing endpoint is offered a request every 50 ms.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(app.count(), 5);
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "healthy");
    }
    assert_eq!(app.count(), 5, "nobody asks an ejected endpoint");
    failing.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(110)).await;
    assert_eq!(client.get("/").await.text(), "back", "the first request after its time is the probe");
    assert_eq!(web.metric("weft_ejections_total", ""), 1);
}

/// SEMANTICS.md §3 "body replay": what is no longer held is not sent again, and never in part.
#[tokio::test]
async fn a_large_body_arrives_whole_or_not_at_all() {
    let app = App::says("done").await;
    let (_ca, web, _servers) = mesh(&[nobody(), app.addr]).await;
    let body = "b".repeat(1024 * 1024);
    for _ in 0..20 {
        let before = app.count();
        let response = web.connect(VIP).await.post("/", &body).await;
        match response.head.status() {
            200 => assert_eq!(app.count(), before + 1),
            503 => {
                assert_eq!(response.head.get("x-weft-reason"), Some("connect-failed"));
                assert_eq!(app.count(), before);
            }
            status => panic!("{status}: {response:?}"),
        }
    }
    assert!(app.count() > 0 && app.requests().iter().all(|seen| seen.body.len() == body.len()));
}

/// A sidecar is killed: its connections are reset, with requests on them.
#[tokio::test]
async fn a_sidecar_that_is_killed_costs_only_what_may_have_run() {
    for (method, status) in [("GET", 200), ("POST", 502)] {
        let hold = App::raw(|mut wire, log| async move {
            while let Some(request) = wire.request().await {
                log.requests.lock().push(request);
                let _ = wire.more().await;
            }
        })
        .await;
        let other = App::says("other").await;
        let (ca, web, _) = mesh(&[]).await;
        let first = Sidecar::new(&ca, "reviews");
        let endpoint = first.meshed(hold.addr).await;
        web.endpoints(REVIEWS, std::slice::from_ref(&endpoint));
        let mut client = web.connect(VIP).await;
        client.send(format!("{method} / HTTP/1.1\r\nhost: reviews\r\ncontent-length: 1\r\n\r\nx")).await;
        while hold.count() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let second = Sidecar::new(&ca, "reviews");
        web.endpoints(REVIEWS, &[endpoint, second.meshed(other.addr).await]);
        drop(first);
        let response = client.response().await;
        assert_eq!(response.head.status(), status, "{method}: {response:?}");
        for _ in 0..20 {
            assert_eq!(client.post("/", "x").await.text(), "other", "{method}");
        }
    }
}

#[tokio::test]
async fn a_body_held_back_by_expect_is_asked_for_by_the_endpoint_that_takes_it() {
    let app = App::raw(|mut wire, log| async move {
        while let Ok(head) = wire.try_head().await {
            wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            let (body, trailers) = wire.content(&head, false).await.unwrap();
            log.requests.lock().push(super::wire::Message { head, body, trailers });
            wire.send(ok("done")).await;
        }
    })
    .await;
    let (_ca, web, _servers) = mesh(&[nobody(), app.addr]).await;
    for number in 1..=10 {
        let mut client = web.connect(VIP).await;
        client.send("POST / HTTP/1.1\r\nhost: reviews\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 100, "request {number}");
        client.send("body").await;
        assert_eq!(client.response().await.text(), "done");
        assert_eq!((app.count(), app.requests().pop().unwrap().text()), (number, "body"));
    }
}
