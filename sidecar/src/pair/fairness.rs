//! One connection that never stops and the others of its worker: everything here runs on one thread, as a worker's
//! connections do. What is counted is how often the busy one gets its turn, not how long that takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_proto::v1;

use super::wire::App;
use super::{REVIEWS, Sidecar, VIP, plain, routed, rule};
use crate::identity::testing::TestCa;

/// Pipelines as many requests as it is let, for something that the sidecar answers by itself (the worst case: nothing makes
/// it wait) or for the app.
async fn never_stops(web: &Sidecar, path: &str) -> Arc<AtomicUsize> {
    let (mut read, mut write) = web.connect(VIP).await.stream.into_split();
    let requests = format!("GET {path} HTTP/1.1\r\nhost: reviews\r\n\r\n").repeat(100);
    tokio::spawn(async move { while write.write_all(requests.as_bytes()).await.is_ok() {} });
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    tokio::spawn(async move {
        let mut buf = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = read.read(&mut buf).await {
            // One letter in each answer's start line, and nowhere else.
            count.fetch_add(buf[..read].iter().filter(|byte| **byte == b'/').count(), Ordering::Relaxed);
        }
    });
    answered
}

#[tokio::test]
async fn a_connection_that_never_stops_asking_leaves_the_others_their_turn() {
    for (path, most) in [("/nowhere", 10_000), ("/reviews", 500)] {
        let web = Sidecar::new(&TestCa::new("weft.local"), "web");
        let app = App::says("hello").await;
        web.service(|port| {
            routed(port, rule(&[("shop/reviews", 1)]));
            let path = v1::PathMatch { kind: Some(v1::path_match::Kind::Exact("/reviews".into())) };
            port.entries[0].r#match = Some(v1::HttpMatch { path: Some(path), ..v1::HttpMatch::default() });
        });
        web.endpoints(REVIEWS, &[plain(app.addr)]);
        let answered = never_stops(&web, path).await;
        let mut quiet = web.connect(VIP).await;
        assert_eq!(quiet.get("/reviews").await.text(), "hello");
        let mut worst = 0;
        for _ in 0..50 {
            let before = answered.load(Ordering::Relaxed);
            assert_eq!(quiet.get("/reviews").await.text(), "hello");
            worst = worst.max(answered.load(Ordering::Relaxed) - before);
        }
        println!("{path}: {worst} answers to the one between two of the other, at most");
        assert!(worst > 0, "{path}: the busy one is not busy");
        assert!(worst <= most, "{path}: {worst} answers to the one between two of the other");
    }
}
