//! The control plane is dead when the first connections come (SEMANTICS.md §1 "on-demand lookup"): what is known to be
//! outside passes at once; what may be of the mesh waits at most a second and is then refused, never passed through.

use std::time::Duration;

use tokio::time::Instant;

use super::wire::{App, End};
use super::{Sidecar, VIP};
use crate::identity::testing::TestCa;

#[tokio::test(start_paused = true)]
async fn what_is_outside_the_cluster_passes_at_once() {
    let outside = App::says("outside").await;
    let web = Sidecar::alone(&TestCa::new("weft.local"), "web");
    let began = Instant::now();
    let mut client = web.connect(&outside.addr.to_string()).await;
    assert_eq!(client.get("/").await.text(), "outside");
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_may_be_of_the_mesh_is_refused_within_a_second() {
    let web = Sidecar::alone(&TestCa::new("weft.local"), "web");
    for _ in 0..2 {
        let began = Instant::now();
        let mut client = web.connect(VIP).await;
        let answer = client.get("/").await;
        assert_eq!((answer.head.status(), answer.head.get("x-weft-reason")), (503, Some("config-unavailable")));
        assert!(began.elapsed() <= Duration::from_millis(1_001), "{:?}", began.elapsed());
    }
    assert_eq!(web.metric("weft_refused_total", "config-unavailable"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_speak_http_is_reset() {
    let web = Sidecar::alone(&TestCa::new("weft.local"), "web");
    let mut silent = web.connect("10.96.0.9:5432").await;
    assert_eq!(silent.end().await, End::Reset);
    let mut client = web.connect("10.96.0.9:5432").await;
    client.send(b"\0\0\0\x08\x04\xd2\x16\x2f").await;
    assert_eq!(client.end().await, End::Reset);
}
