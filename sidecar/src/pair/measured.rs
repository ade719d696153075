//! What is measured, and under which labels (SEMANTICS.md §5 "metrics").

use std::time::Duration;

use weft_proto::v1;

use super::wire::App;
use super::{Pair, REVIEWS, nobody, plain};
use crate::config::Kind;

/// Lets a task that follows the configuration run.
async fn until(what: &str, is: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(5), async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

#[tokio::test]
async fn requests_are_labelled_with_what_their_pod_belongs_to() {
    let pair = Pair::new(App::says("").await).await;
    let local = &pair.web.outbound.telemetry.local;
    for (owner, label) in [("", "web-7d4b9-x2x4q"), ("web-deployment", "web-deployment")] {
        let own = v1::Workload {
            namespace: "shop".into(),
            name: "web-7d4b9-x2x4q".into(),
            owner: owner.into(),
            identity: pair.web.identity.clone(),
            ..v1::Workload::default()
        };
        pair.web.set(Kind::Workload, "self", &[], &own);
        until("the label changes", || local.workload.get().as_str() == label).await;
        pair.connect().await.get("/").await;
        assert_eq!(pair.web.metric("weft_requests_total", &format!("source_workload=\"{label}\"")), 1);
    }
}

#[tokio::test]
async fn connections_of_a_backend_are_measured_while_there_are_any() {
    let pair = Pair::new(App::says("").await).await;
    let measured =
        || ["weft_backend_connections{", "weft_backend_connections_idle{"].map(|name| pair.web.metric(name, REVIEWS));
    assert_eq!(measured(), [0, 0]);
    assert_eq!(pair.connect().await.get("/").await.head.status(), 200);
    until("the stream ends", || measured() == [1, 1]).await;
    pair.web.endpoints(REVIEWS, &[]);
    pair.web.outbound.upstreams.prune();
    until("its connections close", || measured() == [0, 0]).await;
    assert!(!pair.web.outbound.telemetry.metrics.encode().contains("weft_backend_connections{"));
}

#[tokio::test]
async fn panic_is_measured() {
    let pair = Pair::new(App::says("").await).await;
    // One of two is dead, and is ejected; then the other dies too.
    let live = pair.reviews.meshed(pair.app.addr).await;
    pair.web.endpoints(REVIEWS, &[live, plain(nobody())]);
    let mut client = pair.connect().await;
    let panics = || pair.web.metric("weft_panic_picks_total", REVIEWS);
    while pair.web.metric("weft_ejections_total", REVIEWS) == 0 {
        client.post("/", "").await;
    }
    assert_eq!(panics(), 0);
    pair.web.endpoints(REVIEWS, &[plain(nobody())]);
    while panics() == 0 {
        client.post("/", "").await;
    }
}

#[tokio::test]
async fn every_collected_metric_is_in_the_reference() {
    let pair = Pair::new(App::says("").await).await;
    pair.connect().await.get("/").await;
    let reference = include_str!("../../../docs/reference/metrics.md");
    let text = pair.web.outbound.telemetry.metrics.encode();
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(reference.contains(&format!("`{name}`")), "{name}");
    }
    assert!(text.contains("# TYPE weft_backend_connections gauge"), "{text}");
}

#[tokio::test]
async fn the_age_of_the_configuration_starts_again_with_each_response() {
    let pair = Pair::new(App::says("").await).await;
    let age = || pair.web.config.age().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = age();
    assert!(before >= Duration::from_millis(99), "{before:?}");
    pair.web.set(Kind::InboundPolicy, "self", &[], &v1::InboundPolicy::default());
    assert!(age() < before);
    assert!(super::Sidecar::alone(&crate::identity::testing::TestCa::new("x.local"), "web").config.age().is_none());
}
