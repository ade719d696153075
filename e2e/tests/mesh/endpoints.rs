//! Endpoints that die, go silent, are replaced, and certificates that expire, all under load.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use weft_e2e::apps::now_ms;
use weft_e2e::manifest::PodState;
use weft_e2e::{MeshOptions, PodSpec};

use crate::shop::{Shop, pause, slow};

const RATE: u32 = 500;

/// How an endpoint is lost.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Loss {
    /// SIGKILL to the app; its sidecar stays.
    App,
    /// SIGKILL to both.
    AppAndSidecar,
    /// Its cable is cut: no reset, no answer.
    Cable,
}

impl Loss {
    fn happen(self, shop: &mut Shop) {
        let (pod, app) = &mut shop.servers[0];
        match self {
            Self::App => app.kill(),
            Self::AppAndSidecar => {
                app.signal(Signal::SIGKILL);
                pod.kill_sidecar();
            }
            Self::Cable => pod.cut().unwrap(),
        }
    }

    /// The goal for a killed app. A cut cable shows in that pings are not answered.
    fn ejected_within(self) -> Duration {
        Duration::from_secs(if self == Self::Cable { 10 } else { 1 })
    }
}

fn gets_survive(loss: Loss) {
    let mut shop = Shop::new("gets", 3);
    let load = shop.load("gets", RATE, &["--timeout-ms=15000"]);
    pause(Duration::from_secs(3));
    loss.happen(&mut shop);
    let lost = Instant::now();
    let limit = loss.ejected_within() + Duration::from_secs(2);
    while shop.client_metric("weft_ejections_total") < 1.0 && lost.elapsed() < limit {
        pause(Duration::from_millis(20));
    }
    let ejected = lost.elapsed();
    pause(Duration::from_secs(3).max(loss.ejected_within()));
    let sent = load.all_answered(2_000);
    let slowest = sent.iter().map(|one| one.micros / 1000).max().unwrap_or(0);
    println!("{loss:?}: {} GETs, 0 failed, ejected after {ejected:?}, slowest {slowest} ms", sent.len());
    assert!(ejected < loss.ejected_within(), "ejected after {ejected:?}");
}

#[test]
fn no_get_fails_when_an_app_is_killed() {
    gets_survive(Loss::App);
}

#[test]
fn no_get_fails_when_an_app_and_its_sidecar_are_killed() {
    gets_survive(Loss::AppAndSidecar);
}

#[test]
fn no_get_fails_when_a_cable_is_cut() {
    gets_survive(Loss::Cable);
}

fn posts_run_at_most_once(loss: Loss) {
    let mut shop = Shop::new("posts", 3);
    let load = shop.load("posts", RATE, &["--method=POST", "--body=200", "--timeout-ms=15000"]);
    pause(Duration::from_secs(3));
    let lost = now_ms();
    loss.happen(&mut shop);
    pause(Duration::from_secs(3) + loss.ejected_within());
    let sent = load.finish();
    let mut executed: HashMap<String, usize> = HashMap::new();
    for request in shop.served() {
        *executed.entry(request.id).or_default() += 1;
    }
    let twice: Vec<_> = executed.iter().filter(|(id, count)| !id.is_empty() && **count > 1).collect();
    assert!(twice.is_empty(), "executed more than once: {twice:?}");
    let failed: Vec<_> = sent.iter().filter(|one| !one.ok()).collect();
    println!("{loss:?}: {} POSTs, {} failed, none executed twice", sent.len(), failed.len());
    // Those alone may fail that were with the lost endpoint: sent before it was ejected.
    let last = lost + loss.ejected_within().as_millis() as u64;
    for one in &failed {
        assert!((lost - 1000..last).contains(&one.at_ms), "{one:?} cannot have been with the endpoint lost at {lost}");
    }
    assert!(failed.len() <= RATE as usize, "{} failed", failed.len());
    for one in sent.iter().filter(|one| one.ok()) {
        assert_eq!(executed.get(&one.id), Some(&1), "{} was answered", one.id);
    }
}

#[test]
fn no_post_runs_twice_when_an_app_is_killed() {
    posts_run_at_most_once(Loss::App);
}

#[test]
fn no_post_runs_twice_when_an_app_and_its_sidecar_are_killed() {
    posts_run_at_most_once(Loss::AppAndSidecar);
}

#[test]
fn no_post_runs_twice_when_a_cable_is_cut() {
    posts_run_at_most_once(Loss::Cable);
}

#[test]
fn no_request_fails_while_every_endpoint_is_replaced() {
    let mut shop = Shop::new("rolling", 3);
    let gets = shop.load("gets", 250, &[]);
    let posts = shop.load("posts", 250, &["--method=POST", "--body=100"]);
    pause(Duration::from_secs(1));
    for n in 0..3 {
        shop.add(PodSpec::meshed(&format!("reviews-new-{n}"), "reviews"));
        // As kubelet does: the Pod is marked, the sidecar's preStop hook runs, the app gets SIGTERM; when it is gone,
        // so does the sidecar, and then the Pod goes.
        let (old, app) = &mut shop.servers[n];
        old.publish(PodState::Terminating).unwrap();
        let mut drain = old.spawn("drain", 1337, &["/run/weft/bin/weft-sidecar", "drain"]).unwrap();
        drain.success(Duration::from_secs(5)).unwrap();
        app.signal(Signal::SIGTERM);
        app.wait(Duration::from_secs(25)).unwrap();
        old.signal_sidecar(Signal::SIGTERM);
        old.wait_sidecar(Duration::from_secs(30)).unwrap();
        old.unpublish();
        pause(Duration::from_secs(1));
    }
    pause(Duration::from_secs(1));
    let sent = gets.all_answered(500).len() + posts.all_answered(500).len();
    println!("three endpoints replaced under {sent} requests, 0 failed");
    let last = shop.served().iter().map(|one| one.server.clone()).collect::<std::collections::BTreeSet<_>>();
    assert!((0..3).all(|n| last.contains(&format!("reviews-new-{n}"))), "{last:?}");
}

#[test]
fn no_request_fails_while_certificates_of_twenty_seconds_rotate() {
    let options =
        MeshOptions { control_plane_args: vec!["--certificate-ttl=20s".to_owned()], ..MeshOptions::default() };
    let shop = Shop::with_options("rotation", 2, options);
    let load = shop.load("rotation", 300, &[]);
    let time = Duration::from_secs(if slow() { 120 } else { 35 });
    pause(time);
    let sent = load.all_answered(300 * (time.as_secs() as usize - 1));
    let text = shop.mesh.control_plane_metrics();
    let issued = weft_e2e::stats::metric(&text, "weft_identity_certificates_total", &[]);
    println!("{} requests, 0 failed, {issued} certificates for 3 sidecars", sent.len());
    // Renewed at 50 to 70 % of 20 s: at least twice each in 35 s.
    assert!(issued >= 3.0 * (time.as_secs_f64() / 15.0).floor(), "only {issued} certificates were issued");
}
