//! Opaque connections end as their ends do: half by half, or abruptly; never a clean end in place of a reset.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use weft_proto::v1;

use super::wire::{App, End};
use super::{Pair, REVIEWS, Sidecar, VIP, nobody, plain};
use crate::identity::testing::TestCa;

async fn opaque(app: App) -> Pair {
    let pair = Pair::new(app).await;
    pair.web.service(|port| port.protocol = v1::Protocol::Tcp.into());
    pair.reviews.own_port(pair.app.addr.port(), v1::Protocol::Tcp, v1::MtlsMode::Strict);
    pair
}

#[tokio::test]
async fn each_half_closes_by_itself() {
    let app = App::raw(|mut wire, log| async move {
        while wire.more().await.is_ok() {}
        let body = wire.read.split().freeze();
        log.requests.lock().push(super::wire::Message { body, ..Default::default() });
        // The client has closed its half; ours still speaks.
        wire.send("got it all").await;
    })
    .await;
    let pair = opaque(app).await;
    let mut client = pair.connect().await;
    client.send(vec![b'x'; 300_000]).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.take(10).await, "got it all");
    assert_eq!(client.end().await, End::Closed);
    assert_eq!(pair.app.only().body.len(), 300_000);
}

#[tokio::test]
async fn an_app_that_resets_is_not_mistaken_for_one_that_ends() {
    let app = App::raw(|mut wire, _| async move {
        wire.take(4).await;
        wire.send("half").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        wire.reset();
    })
    .await;
    let pair = opaque(app).await;
    let mut client = pair.connect().await;
    client.send("ping").await;
    assert_eq!(client.take(4).await, "half");
    assert_eq!(client.end().await, End::Reset);
}

#[tokio::test]
async fn a_client_that_resets_is_not_mistaken_for_one_that_ends() {
    let app = App::raw(|mut wire, log| async move {
        wire.take(4).await;
        let ended = wire.end().await;
        let start = format!("{ended:?}");
        let head = super::wire::Head { start, ..Default::default() };
        log.requests.lock().push(super::wire::Message { head, ..Default::default() });
    })
    .await;
    let pair = opaque(app).await;
    let mut client = pair.connect().await;
    client.send("ping").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.reset();
    while pair.app.count() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(pair.app.only().head.start, "Reset");
}

#[tokio::test]
async fn where_nobody_listens_the_client_is_reset() {
    let pair = opaque(App::says("").await).await;
    let (unreachable, other) = (nobody(), Sidecar::new(&TestCa::new("x.local"), "reviews"));
    let strange = v1::Endpoint { identity: pair.reviews.identity.clone(), ..other.meshed(pair.app.addr).await };
    for (row, endpoint) in [
        ("no app behind the sidecar", pair.reviews.meshed(unreachable).await),
        ("no sidecar", v1::Endpoint { mesh_tls: true, identity: pair.reviews.identity.clone(), ..plain(unreachable) }),
        ("no app, no sidecar", plain(unreachable)),
        ("a sidecar of another mesh", strange),
    ] {
        pair.web.endpoints(REVIEWS, &[endpoint]);
        let mut client = pair.connect().await;
        // No start of any HTTP method: nobody waits for more of it.
        client.send("\0\0\0\x08").await;
        assert_eq!(client.end().await, End::Reset, "{row}");
    }
    assert_eq!(pair.app.connections(), 0);
}

/// Whichever side's certificate ends: the other cuts the connection, on both of its sides, and says why.
#[tokio::test]
async fn an_opaque_connection_does_not_outlive_its_peers_certificate() {
    for (row, short) in [("the server's", "reviews"), ("the client's", "web")] {
        let [web, reviews] = Sidecar::one_ends(short);
        let app = App::raw(|mut wire, log| async move {
            wire.take(4).await;
            let start = format!("{:?}", wire.end().await);
            let head = super::wire::Head { start, ..Default::default() };
            log.requests.lock().push(super::wire::Message { head, ..Default::default() });
        })
        .await;
        web.service(|port| port.protocol = v1::Protocol::Tcp.into());
        web.endpoints(REVIEWS, &[reviews.meshed(app.addr).await]);
        reviews.own_port(app.addr.port(), v1::Protocol::Tcp, v1::MtlsMode::Strict);
        let mut client = web.connect(VIP).await;
        client.send("ping").await;
        let ended = tokio::time::timeout(Duration::from_secs(5), client.end()).await;
        assert_eq!(ended.expect(row), End::Reset, "{row}");
        while app.count() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(app.only().head.start, "Reset", "{row}");
        let cut =
            (web.metric("weft_refused_total", "peer-expired"), reviews.metric("weft_refused_total", "peer-expired"));
        assert_eq!(cut, if short == "reviews" { (1, 0) } else { (0, 1) }, "{row}");
    }
}
