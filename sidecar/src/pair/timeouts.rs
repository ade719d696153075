//! Whose failure it is that a request ran out of time (SEMANTICS.md §3 "request timeout", "outlier detection").

use std::time::Duration;

use weft_proto::v1;

use super::wire::App;
use super::{REVIEWS, Sidecar, VIP, plain, routed, rule};
use crate::identity::testing::TestCa;

/// Takes requests and never answers.
async fn hangs() -> App {
    App::raw(|mut wire, log| async move {
        while let Some(request) = wire.request().await {
            log.requests.lock().push(request);
        }
    })
    .await
}

#[tokio::test]
async fn a_request_timeout_counts_against_the_endpoint_and_a_hurried_clients_deadline_does_not() {
    for (row, timeout, header, ejected) in
        [("the rule's", Some(30), "", 1), ("the client's", None, "x-weft-deadline-ms: 30\r\n", 0)]
    {
        let (ca, apps) = (TestCa::new("weft.local"), [hangs().await, hangs().await]);
        let web = Sidecar::new(&ca, "web");
        web.service(|port| {
            let mut rule = rule(&[("shop/reviews", 1)]);
            rule.request_timeout = timeout.map(|value| v1::Millis { value });
            routed(port, rule);
        });
        web.endpoints(REVIEWS, &apps.each_ref().map(|app| plain(app.addr)));
        let mut client = web.connect(VIP).await;
        for _ in 0..20 {
            let response = client.ask(format!("GET / HTTP/1.1\r\nhost: reviews\r\n{header}\r\n")).await;
            assert_eq!(response.head.status(), 504, "{row}");
            assert!(response.head.get("x-weft-reason").unwrap().starts_with("timeout"), "{row}");
        }
        assert_eq!(web.metric("weft_ejections_total", "").min(1), ejected, "{row}");
    }
}

#[tokio::test]
async fn time_spent_held_back_by_a_limit_is_nobodys_failure() {
    let app = hangs().await;
    let web = Sidecar::new(&TestCa::new("weft.local"), "web");
    let limits = v1::Limits { max_connections: 1, ..v1::Limits::default() };
    let policy = v1::BackendPolicy { limits: Some(Box::new(limits)), ..v1::BackendPolicy::default() };
    // No time limit: the one that holds the only connection.
    web.service(|port| port.policy = Some(policy.clone()));
    web.endpoints(REVIEWS, &[plain(app.addr), plain(hangs().await.addr)]);
    let mut first = web.connect(VIP).await;
    first.send("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    web.service(|port| {
        let mut rule = rule(&[("shop/reviews", 1)]);
        rule.request_timeout = Some(v1::Millis { value: 20 });
        port.policy = Some(policy.clone());
        if let Some(v1::weighted_target::Target::Backend(backend)) = &mut rule.targets[0].target {
            backend.policy = Some(policy.clone());
        }
        routed(port, rule);
    });
    let mut client = web.connect(VIP).await;
    for _ in 0..15 {
        let response = client.get("/").await;
        assert!(response.head.get("x-weft-reason").unwrap().starts_with("timeout"), "{response:?}");
    }
    assert_eq!(web.metric("weft_ejections_total", ""), 0);
}
