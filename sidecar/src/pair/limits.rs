//! Limits of a backend: what its endpoints are given together (SEMANTICS.md §3 "limits").

use std::time::Duration;

use weft_proto::v1;

use super::wire::{App, End, ok};
use super::{REVIEWS, Sidecar, VIP, plain};
use crate::identity::testing::TestCa;

fn limited(web: &Sidecar, limits: v1::Limits) {
    web.service(|port| {
        port.policy = Some(v1::BackendPolicy { limits: Some(Box::new(limits)), ..v1::BackendPolicy::default() })
    });
}

#[tokio::test]
async fn two_endpoints_share_one_connection_and_both_are_served() {
    for meshed in [true, false] {
        let ca = TestCa::new("weft.local");
        let (web, reviews) = (Sidecar::new(&ca, "web"), Sidecar::new(&ca, "reviews"));
        let apps = [App::says("one").await, App::says("two").await];
        let mut endpoints = Vec::new();
        for app in &apps {
            endpoints.push(if meshed { reviews.meshed(app.addr).await } else { plain(app.addr) });
        }
        limited(&web, v1::Limits { max_connections: 1, ..v1::Limits::default() });
        web.endpoints(REVIEWS, &endpoints);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let mut client = web.connect(VIP).await;
            clients.spawn(async move {
                for _ in 0..10 {
                    assert_eq!(client.get("/").await.head.status(), 200);
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
        assert!(apps.iter().all(|app| app.count() > 0), "meshed: {meshed}");
        assert_eq!(apps.iter().map(App::count).sum::<usize>(), 40);
        assert_eq!(web.metric("weft_ejections_total", ""), 0);
    }
}

/// What waits for either endpoint counts, and being refused is nobody's failure.
#[tokio::test]
async fn one_more_waiting_request_than_the_backend_allows_is_overflow_and_ejects_nobody() {
    let ca = TestCa::new("weft.local");
    let web = Sidecar::new(&ca, "web");
    let slow = || {
        App::raw(|mut wire, log| async move {
            while let Some(request) = wire.request().await {
                log.requests.lock().push(request);
                tokio::time::sleep(Duration::from_millis(300)).await;
                wire.send(ok("")).await;
            }
        })
    };
    let apps = [slow().await, slow().await];
    limited(&web, v1::Limits { max_connections: 1, max_pending: 1, ..v1::Limits::default() });
    web.endpoints(REVIEWS, &apps.each_ref().map(|app| plain(app.addr)));
    let mut first = web.connect(VIP).await;
    first.send("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    while apps.iter().all(|app| app.count() == 0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut second = web.connect(VIP).await;
    second.send("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut third = web.connect(VIP).await;
    for _ in 0..10 {
        let response = third.get("/").await;
        assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (503, Some("overflow")));
        assert_eq!(response.head.get("x-weft-overloaded"), Some("1"));
    }
    assert_eq!(first.response().await.head.status(), 200);
    assert_eq!(second.response().await.head.status(), 200);
    assert_eq!(web.metric("weft_ejections_total", ""), 0);
}

#[tokio::test]
async fn an_upgrade_and_an_opaque_connection_take_a_place_to_their_end() {
    let upgrade = "GET /ws HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let app = App::raw(|mut wire, log| async move {
        while let Some(request) = wire.request().await {
            let upgrades = request.head.get("upgrade").is_some();
            log.requests.lock().push(request);
            if upgrades {
                wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
                    .await;
                let _ = wire.more().await;
                return;
            }
            wire.send(ok("")).await;
        }
    })
    .await;
    let ca = TestCa::new("weft.local");
    let (web, reviews) = (Sidecar::new(&ca, "web"), Sidecar::new(&ca, "reviews"));
    limited(&web, v1::Limits { max_connections: 1, ..v1::Limits::default() });
    web.endpoints(REVIEWS, &[reviews.meshed(app.addr).await]);
    let mut tunnel = web.connect(VIP).await;
    tunnel.send(upgrade).await;
    assert_eq!(tunnel.head().await.status(), 101);
    let mut other = web.connect(VIP).await;
    let response = other.ask(upgrade).await;
    assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (503, Some("overflow")));
    // The same backend, spoken to as opaque bytes.
    web.service(|port| {
        port.protocol = v1::Protocol::Tcp.into();
        let limits = v1::Limits { max_connections: 1, ..v1::Limits::default() };
        port.policy = Some(v1::BackendPolicy { limits: Some(Box::new(limits)), ..v1::BackendPolicy::default() });
    });
    let mut opaque = web.connect(VIP).await;
    assert_eq!(opaque.end().await, End::Reset);
    assert_eq!(web.metric("weft_refused_total", "overflow"), 2);
    drop(tunnel);
    let again = async {
        loop {
            let mut opaque = web.connect(VIP).await;
            opaque.send("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
            if let Ok(head) = opaque.try_head().await {
                return head.status();
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), again).await.unwrap(), 200);
}
