//! Drain (SEMANTICS.md §3): what is in flight completes, what comes after goes elsewhere, and no client sees a failure.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::wire::{App, End, ok};
use super::{REVIEWS, Sidecar, VIP};
use crate::identity::testing::TestCa;

/// `/slow` is answered when told to.
async fn app(name: &'static str) -> (App, Arc<Notify>) {
    let release = Arc::new(Notify::new());
    let told = Arc::clone(&release);
    let app = App::raw(move |mut wire, log| {
        let told = Arc::clone(&told);
        async move {
            while let Some(request) = wire.request().await {
                let slow = request.head.path() == "/slow";
                log.requests.lock().push(request);
                if slow {
                    told.notified().await;
                }
                wire.send(ok(name)).await;
            }
        }
    })
    .await;
    (app, release)
}

struct Two {
    web: Sidecar,
    old: Sidecar,
    old_app: App,
    release: Arc<Notify>,
    new_app: App,
    /// The new endpoint's sidecar, kept alive.
    _new: Sidecar,
}

async fn two() -> Two {
    let ca = TestCa::new("weft.local");
    let web = Sidecar::new(&ca, "web");
    let (old, new) = (Sidecar::new(&ca, "reviews"), Sidecar::new(&ca, "reviews"));
    let ((old_app, release), (new_app, _)) = (app("old").await, app("new").await);
    web.service(|_| {});
    web.endpoints(REVIEWS, &[old.meshed(old_app.addr).await, new.meshed(new_app.addr).await]);
    Two { web, old, old_app, release, new_app, _new: new }
}

#[tokio::test]
async fn what_is_in_flight_completes_and_the_rest_sees_no_failure() {
    let two = two().await;
    // Until the old app holds a slow request.
    let mut elsewhere = Vec::new();
    let mut slow = loop {
        let mut client = two.web.connect(VIP).await;
        client.send("POST /slow HTTP/1.1\r\nhost: reviews\r\ncontent-length: 0\r\n\r\n").await;
        while two.old_app.count() + two.new_app.count() == elsewhere.len() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if two.old_app.count() == 1 {
            break client;
        }
        elsewhere.push(client);
    };
    two.old.inbound_drain.start();
    let mut client = two.web.connect(VIP).await;
    for number in 0..40 {
        let response = client.post("/", "x").await;
        assert_eq!(response.head.status(), 200, "request {number}: {response:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(timeout(Duration::from_millis(50), slow.more()).await.is_err(), "still in flight");
    two.release.notify_one();
    assert_eq!(slow.response().await.text(), "old");
    let seen = two.old_app.count() + two.new_app.count();
    assert_eq!(seen, 41 + elsewhere.len(), "every POST ran exactly once");
    assert_eq!(two.web.metric("weft_ejections_total", ""), 0, "to drain is no failure");
}

#[tokio::test]
async fn a_draining_sidecar_still_delivers_while_its_app_takes_requests() {
    let two = two().await;
    let endpoint = two.old.meshed(two.old_app.addr).await;
    two.web.endpoints(REVIEWS, &[endpoint]);
    two.old.inbound_drain.start();
    let mut client = two.web.connect(VIP).await;
    for number in 0..20 {
        let response = client.post("/", "x").await;
        assert_eq!((response.head.status(), response.text()), (200, "old"), "request {number}: {response:?}");
    }
    assert_eq!(two.old_app.count(), 20);
}

#[tokio::test]
async fn what_the_app_no_longer_takes_is_not_processed_and_runs_elsewhere() {
    let two = two().await;
    two.old.inbound_drain.start();
    drop(two.old_app);
    // Its listener is gone with the task.
    tokio::task::yield_now().await;
    let mut client = two.web.connect(VIP).await;
    for number in 1..=30 {
        let response = client.post("/", "x").await;
        assert_eq!((response.head.status(), response.text()), (200, "new"), "request {number}");
        assert_eq!(two.new_app.count(), number);
    }
}

#[tokio::test]
async fn a_drained_inbound_side_ends_when_its_last_request_does() {
    let two = two().await;
    let mut plain = two.old.connect_inbound(two.old_app.addr).await;
    assert_eq!(plain.get("/").await.text(), "old");
    plain.send("GET /slow HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    let mut idle = two.old.connect_inbound(two.old_app.addr).await;
    assert_eq!(idle.get("/").await.text(), "old");
    let mut over = Box::pin(two.old.inbound_drain.drain());
    assert!(timeout(Duration::from_millis(50), &mut over).await.is_err(), "one request is in flight");
    assert_eq!(idle.end().await, End::Closed, "an idle connection closes at once");
    two.release.notify_one();
    let response = plain.response().await;
    assert_eq!((response.text(), response.head.get("connection")), ("old", Some("close")));
    assert_eq!(plain.end().await, End::Closed);
    drop(idle);
    timeout(Duration::from_secs(5), over).await.expect("nothing is left");
}

#[tokio::test]
async fn after_sigterm_outbound_answers_what_it_has_and_closes() {
    let two = two().await;
    two.web.endpoints(REVIEWS, &[two.old.meshed(two.old_app.addr).await]);
    let mut busy = two.web.connect(VIP).await;
    let mut idle = two.web.connect(VIP).await;
    assert_eq!(idle.get("/").await.head.status(), 200);
    busy.send("GET /slow HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    while two.old_app.count() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    two.web.outbound_drain.close();
    assert_eq!(idle.end().await, End::Closed);
    two.release.notify_one();
    let response = busy.response().await;
    assert_eq!((response.head.status(), response.head.get("connection")), (200, Some("close")));
    drop(busy);
    timeout(Duration::from_secs(5), two.web.outbound_drain.drain()).await.expect("nothing is left");
}

#[tokio::test]
async fn an_idle_plain_connection_is_told_to_go_with_its_next_answer() {
    let two = two().await;
    let mut plain = two.old.connect_inbound(two.old_app.addr).await;
    assert_eq!(plain.get("/").await.head.get("connection"), None);
    two.old.inbound_drain.start();
    assert!(timeout(Duration::from_millis(50), plain.more()).await.is_err(), "a close might meet a request on its way");
    let response = plain.get("/").await;
    assert_eq!((response.text(), response.head.get("connection")), ("old", Some("close")));
    assert_eq!(plain.end().await, End::Closed);
}

#[tokio::test]
async fn a_plain_client_hears_503_and_goodbye_when_the_app_takes_nothing_more() {
    let two = two().await;
    let address = two.old_app.addr;
    two.old.inbound_drain.start();
    drop(two.old_app);
    tokio::task::yield_now().await;
    let mut plain = two.old.connect_inbound(address).await;
    let response = plain.post("/", "x").await;
    assert_eq!((response.head.status(), response.head.get("connection")), (503, Some("close")));
    assert_eq!(plain.end().await, End::Closed);
}

/// Answers one request a connection, and closes it with the next one unread.
async fn hangs_up(name: &'static str) -> App {
    App::raw(move |mut wire, log| async move {
        if let Some(request) = wire.request().await {
            log.requests.lock().push(request);
            wire.send(ok(name)).await;
        }
        let _ = wire.stream.readable().await;
    })
    .await
}

#[tokio::test]
async fn a_post_that_an_ending_app_left_unread_runs_once_elsewhere() {
    let ca = TestCa::new("weft.local");
    let web = Sidecar::new(&ca, "web");
    let (one, other) = (Sidecar::new(&ca, "reviews"), Sidecar::new(&ca, "reviews"));
    let (ending, (staying, _)) = (hangs_up("ending").await, app("staying").await);
    web.service(|_| {});
    web.endpoints(REVIEWS, &[one.meshed(ending.addr).await, other.meshed(staying.addr).await]);
    let mut client = web.connect(VIP).await;
    let (mut sent, mut lost) = (0, 0);
    let began = tokio::time::Instant::now();
    // Another test's aborts leave room for doubt, and then the answer is no and the app is let alone for a while, longer than
    // many requests take: goes on until one was sent again.
    while sent < 60 || (web.metric("weft_retries_total", "reviews") == 0 && began.elapsed() < Duration::from_secs(20)) {
        if sent >= 60 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let response = client.post(&format!("/{sent}"), "x").await;
        sent += 1;
        lost += usize::from(response.head.status() != 200);
    }
    let mut runs: Vec<_> =
        ending.requests().iter().chain(&staying.requests()).map(|seen| seen.head.path().to_owned()).collect();
    let all = runs.len();
    runs.sort();
    runs.dedup();
    assert_eq!(runs.len(), all, "none ran twice");
    let retries = web.metric("weft_retries_total", "reviews");
    assert!(ending.count() > 0 && retries > 0, "it met the ending app: {} answers, {retries} retries", ending.count());
    assert!(all + lost == sent && lost < sent, "{lost} of {sent} were lost");
}

#[tokio::test]
async fn a_stale_peer_dials_a_draining_sidecar_once_and_not_for_every_request() {
    let two = two().await;
    let endpoint = two.old.meshed(two.old_app.addr).await;
    two.old.inbound_drain.start();
    two.web.endpoints(REVIEWS, &[endpoint]);
    let before = two.old.metric("weft_connections_total", "inbound");
    let mut client = two.web.connect(VIP).await;
    for _ in 0..30 {
        assert_eq!(client.post("/", "x").await.head.status(), 200);
    }
    let dialled = two.old.metric("weft_connections_total", "inbound") - before;
    assert!((1..=3).contains(&dialled), "{dialled} connections for 30 requests");
    let mut over = Box::pin(two.old.inbound_drain.drain());
    timeout(Duration::from_secs(5), &mut over).await.expect("it is told when the wait is on");
}
