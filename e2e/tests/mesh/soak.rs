//! What only time shows: memory or descriptors that are never given back. `make soak` runs this for ten minutes.

use std::time::{Duration, Instant};

use crate::shop::{Shop, pause};

/// Requests per second of each of three loads. Two cores carry everybody here, loads and apps included: half of them is
/// busy with it.
const RATE: u32 = 800;

/// What a sidecar holds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Held {
    rss_kib: u64,
    descriptors: usize,
}

fn length() -> Duration {
    let seconds = std::env::var("WEFT_E2E_SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

fn held(shop: &Shop) -> [Held; 2] {
    [&shop.client, &shop.servers[0].0]
        .map(|pod| Held { rss_kib: pod.sidecar_rss_kib(), descriptors: pod.sidecar_descriptors() })
}

#[test]
fn a_soak_leaves_memory_and_descriptors_as_they_were() {
    let shop = Shop::new("soak", 2);
    // Connections that stay, connections that carry five requests, and bodies.
    let stay = shop.load("stay", RATE, &[]);
    let churn = shop.load("churn", RATE, &["--per-connection=5"]);
    let post = shop.load("post", RATE, &["--method=POST", "--body=20000", "--per-connection=50"]);
    let (length, began) = (length(), Instant::now());
    // By then it has all it needs: connections, buffers, the allocator's pages.
    pause(length / 4);
    let early = held(&shop);
    println!("after {:>4.0?}: client {:?}, server {:?}", began.elapsed(), early[0], early[1]);
    while began.elapsed() < length {
        pause((length / 10).min(length.saturating_sub(began.elapsed())));
        let now = held(&shop);
        println!("after {:>4.0?}: client {:?}, server {:?}", began.elapsed(), now[0], now[1]);
    }
    let late = held(&shop);
    let at_least = RATE as usize * (length.as_secs() as usize - 2);
    let sent: usize = [stay, churn, post].into_iter().map(|load| load.all_answered(at_least).len()).sum();
    println!("{sent} requests in {length:?}, 0 failed");
    for (early, late) in early.into_iter().zip(late) {
        // A twentieth, and what a moment's burst of connections takes.
        assert!(late.rss_kib <= early.rss_kib * 21 / 20 + 2_048, "memory grew: {early:?} to {late:?}");
        assert!(late.descriptors <= early.descriptors + 32, "descriptors leak: {early:?} to {late:?}");
    }
    // Churn is over: apart from the pools between the sidecars, which keep theirs for minutes, nothing is left open.
    pause(Duration::from_secs(6));
    for (early, rest) in early.into_iter().zip(held(&shop)) {
        assert!(rest.descriptors <= early.descriptors, "left open: {early:?} to {rest:?}");
    }
}
