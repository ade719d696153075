//! Rate limits of a server, as its clients see them (SEMANTICS.md §3 "rate limit").

use bytes::Bytes;
use http::Request;
use weft_proto::v1;

use super::wire::{App, ask_h2};
use super::{Pair, Sidecar};
use crate::config::Kind;

/// The server's policy: so many at once, one back in an hour.
fn limited(sidecar: &Sidecar, ports: &[u16], burst: u32, key: v1::RateKey) {
    let limit = v1::RateLimit {
        name: "shop/limit".into(),
        ports: ports.iter().map(|port| u32::from(*port)).collect(),
        requests: 1,
        per: Some(v1::Millis { value: 3_600_000 }),
        burst,
        key: key.into(),
        header: "x-user".into(),
    };
    let policy = v1::InboundPolicy { rate_limits: vec![limit], ..v1::InboundPolicy::default() };
    sidecar.set(Kind::InboundPolicy, "self", &[], &policy);
}

#[tokio::test]
async fn who_asks_too_often_gets_429_and_is_told_when_to_come_back() {
    let pair = Pair::new(App::says("the app").await).await;
    limited(&pair.reviews, &[pair.app.addr.port()], 2, v1::RateKey::Identity);
    let mut client = pair.connect().await;
    for left in ["1", "0"] {
        let response = client.get("/").await;
        assert_eq!((response.head.status(), response.text()), (200, "the app"));
        assert_eq!(
            (response.head.get("x-ratelimit-limit"), response.head.get("x-ratelimit-remaining")),
            (Some("2"), Some(left))
        );
        assert_eq!(response.head.get("retry-after"), None);
    }
    let response = client.get("/").await;
    assert_eq!(
        (response.head.status(), response.head.get("x-weft-reason")),
        (429, Some("rate-limited; limit=shop/limit"))
    );
    assert_eq!(response.head.get("x-ratelimit-remaining"), Some("0"));
    let wait: u32 = response.head.get("retry-after").unwrap().parse().unwrap();
    assert!((3_590..=3_600).contains(&wait), "{wait}");
    assert!(response.text().contains("RateLimit shop/limit"), "{}", response.text());
    let call = Request::post("http://reviews/pkg.Svc/Call").header("content-type", "application/grpc");
    let (response, _) = ask_h2(&pair.connect().await.h2().await, call.body(Bytes::new()).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"8".parse().unwrap()));
    assert_eq!(pair.app.count(), 2);
    assert_eq!(pair.reviews.metric("weft_refused_total", "rate-limited"), 2);
    assert_eq!(pair.web.metric("weft_ejections_total", ""), 0, "that it refuses is no failure of the server's");
    assert_eq!(pair.web.metric("weft_retries_total", ""), 0);
}

#[tokio::test]
async fn clients_do_not_share_and_an_edit_keeps_what_was_used() {
    let pair = Pair::new(App::says("the app").await).await;
    let port = pair.app.addr.port();
    limited(&pair.reviews, &[port], 1, v1::RateKey::Header);
    let mut client = pair.connect().await;
    let mut ask = async |user: &str| {
        client.ask(format!("GET / HTTP/1.1\r\nhost: reviews\r\nx-user: {user}\r\n\r\n")).await.head.status()
    };
    assert_eq!([ask("a").await, ask("a").await, ask("b").await], [200, 429, 200]);
    // Another port's does not count here, and what says the same counts on.
    limited(&pair.reviews, &[port ^ 1], 1, v1::RateKey::Header);
    assert_eq!(ask("a").await, 200);
    limited(&pair.reviews, &[port], 1, v1::RateKey::Header);
    assert_eq!(ask("a").await, 429);
    limited(&pair.reviews, &[port], 3, v1::RateKey::Header);
    assert_eq!(ask("a").await, 200, "another rate begins anew");
}

#[tokio::test]
async fn who_has_no_sidecar_is_counted_by_its_address_and_told_no_names() {
    let pair = Pair::new(App::says("the app").await).await;
    limited(&pair.reviews, &[pair.app.addr.port()], 1, v1::RateKey::SourceIp);
    let mut client = pair.reviews.connect_inbound(pair.app.addr).await;
    assert_eq!(client.get("/").await.head.status(), 200);
    let response = client.get("/").await;
    assert_eq!((response.head.status(), response.head.get("x-weft-reason")), (429, None));
    assert!(!response.text().contains("shop/limit"), "{}", response.text());
    assert!(response.head.get("retry-after").is_some());
}
