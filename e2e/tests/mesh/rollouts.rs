//! Pods that are replaced under load, with the order and the delays of a real kubelet: the app hears of its end before the
//! sidecar does, and the clients after both (`sidecar/src/runtime/ending.rs` has the timeline).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use weft_e2e::PodSpec;
use weft_e2e::manifest::PodState;

use crate::shop::{Shop, pause};

/// How the pod is ended.
#[derive(Debug, Clone, Copy)]
struct Ending {
    /// The sidecar is ended after the app; otherwise with it.
    native: bool,
    /// How long after the app's SIGTERM the control plane hears of it.
    heard_after: Duration,
}

impl Ending {
    fn happen(self, shop: &mut Shop, n: usize) {
        let (old, app) = &mut shop.servers[n];
        let began = Instant::now();
        app.signal(Signal::SIGTERM);
        if self.native {
            // What it takes kubelet to run a hook.
            pause(Duration::from_millis(80));
            let mut drain = old.spawn("drain", 1337, &["/run/weft/bin/weft-sidecar", "drain"]).unwrap();
            drain.success(Duration::from_secs(5)).unwrap();
        } else {
            old.signal_sidecar(Signal::SIGTERM);
        }
        pause(self.heard_after.saturating_sub(began.elapsed()));
        old.publish(PodState::Terminating).unwrap();
        app.wait(Duration::from_secs(25)).unwrap();
        let gone = Instant::now();
        if self.native {
            old.signal_sidecar(Signal::SIGTERM);
        }
        old.wait_sidecar(Duration::from_secs(30)).unwrap();
        let longer = gone.elapsed();
        println!("{self:?}: the sidecar outlived the app by {longer:?}");
        assert!(longer < Duration::from_secs(if self.native { 2 } else { 4 }), "kubelet would still wait");
        old.unpublish();
    }
}

fn every_request_is_served_once(name: &str, ending: Ending) {
    let mode = if ending.native { "native" } else { "classic" };
    let mut shop = Shop::new(name, 0);
    let meshed = |name: String| PodSpec::meshed(&name, "reviews").env("WEFT_MODE", mode);
    for n in 0..3 {
        shop.add(meshed(format!("reviews-old-{n}")));
    }
    shop.wait_until_answered();
    let loads = [
        shop.load("gets", 200, &[]),
        shop.load("posts", 300, &["--method=POST", "--body=100"]),
        shop.load("fresh", 100, &["--method=POST", "--body=100", "--per-connection=1"]),
    ];
    pause(Duration::from_secs(1));
    for n in 0..3 {
        shop.add(meshed(format!("reviews-new-{n}")));
        ending.happen(&mut shop, n);
        pause(Duration::from_millis(500));
    }
    let sent: Vec<_> = loads.into_iter().flat_map(|load| load.all_answered(300)).collect();
    let mut runs: HashMap<String, usize> = HashMap::new();
    for request in shop.served().into_iter().filter(|request| request.method == "POST") {
        *runs.entry(request.id).or_default() += 1;
    }
    let not_once: Vec<_> = runs.iter().filter(|(_, runs)| **runs != 1).collect();
    println!("{mode}: {} requests, 0 failed, {} POSTs each ran once", sent.len(), runs.len());
    assert!(not_once.is_empty(), "{not_once:?}");
}

#[test]
fn native_sidecars_lose_nothing_when_their_pods_are_replaced() {
    every_request_is_served_once("native", Ending { native: true, heard_after: Duration::from_millis(100) });
}

#[test]
fn native_sidecars_lose_nothing_when_clients_hear_of_it_a_second_late() {
    every_request_is_served_once("native-late", Ending { native: true, heard_after: Duration::from_secs(1) });
}

#[test]
fn classic_sidecars_lose_nothing_when_their_pods_are_replaced() {
    every_request_is_served_once("classic", Ending { native: false, heard_after: Duration::from_millis(500) });
}
