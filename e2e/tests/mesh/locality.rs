//! Requests stay in their zone as far as it has its share of endpoints, as hints and policies say, and leave it when it fails
//! (SEMANTICS.md §3 "locality").

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use weft_e2e::stats::Sent;
use weft_e2e::{PodSpec, manifest, probe};

use crate::shop::{Shop, pause};

/// Of zone a, where the client is: two on its node, two on another. Then four of zone b.
const NODES: [&str; 8] = ["node-1", "node-1", "node-2", "node-2", "node-3", "node-3", "node-3", "node-3"];

/// χ² with one degree of freedom is above this in one run of 10^6.
const CHANCE: f64 = 23.9;

/// Eight endpoints; `nodes` says in which zones.
fn shop(name: &str) -> Shop {
    let mut shop = Shop::new(name, 0);
    for (n, node) in NODES.iter().enumerate() {
        shop.add(PodSpec::meshed(&format!("reviews-{n}"), "reviews").on(node));
    }
    shop.wait_until_answered();
    let zones = [("node-1", "a"), ("node-2", "a"), ("node-3", "b")];
    let nodes: String = zones.iter().map(|(node, zone)| manifest::node(node, zone)).collect();
    shop.mesh.manifests().write("nodes", &nodes).unwrap();
    shop
}

/// More pods of the client's workload, on these nodes: enough for being counted.
fn callers(shop: &Shop, nodes: &[&str]) {
    let mut text = String::new();
    for (n, node) in nodes.iter().enumerate() {
        let _ = write!(
            text,
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: client-{n}\n  namespace: demo\n  ownerReferences:\n    - \
             {{apiVersion: apps/v1, kind: StatefulSet, name: client, uid: u, controller: true}}\nspec:\n  nodeName: {node}\n  \
             containers: [{{name: app, image: app}}]\nstatus: {{phase: Running}}\n---\n"
        );
    }
    shop.mesh.manifests().write("callers", &text).unwrap();
}

/// Says what `reviews` is to have in its `spec`.
fn distribution(shop: &Shop, said: &str) {
    let text = shop.service.yaml().replace("spec:\n", &format!("spec:\n{said}"));
    shop.mesh.manifests().write("service-demo-reviews", &text).unwrap();
}

/// Says what a BackendPolicy of `reviews` is to have in its `loadBalancer`.
fn policy(shop: &Shop, said: &str) {
    let text = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: BackendPolicy\nmetadata: {{name: reviews, namespace: demo}}\nspec:\n  \
         targetRefs: [{{kind: Service, name: reviews}}]\n  loadBalancer: {{{said}}}\n"
    );
    shop.mesh.manifests().write("policy", &text).unwrap();
}

/// Waits until the client's sidecar says that of `reviews`; of nothing where it is empty.
fn wait_for(shop: &Shop, near: &str) {
    let what = format!("endpoints being near: {near:?}");
    let said = |text: &str| match text.split_once("\"near\": \"") {
        Some((_, rest)) => !near.is_empty() && rest.starts_with(near),
        None => near.is_empty(),
    };
    probe::wait_until(&what, Duration::from_secs(15), || {
        shop.client.admin("/config").is_some_and(|answer| answer.status == 200 && said(&answer.text))
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", shop.client.admin("/config").map(|answer| answer.text)));
}

/// How many were answered by which endpoint.
fn by_endpoint(sent: &[Sent]) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for one in sent {
        let number = one.server.strip_prefix("reviews-").and_then(|number| number.parse().ok());
        *counts.entry(number.unwrap_or_else(|| panic!("{one:?}"))).or_insert(0) += 1;
    }
    counts
}

/// What a second and more of requests are answered by.
fn answered(shop: &Shop, name: &str, at_least: usize) -> BTreeMap<usize, usize> {
    let load = shop.load(name, 500, &[]);
    pause(Duration::from_millis(at_least as u64 * 2 + 500));
    by_endpoint(&load.all_answered(at_least))
}

fn of_zone_a(counts: &BTreeMap<usize, usize>) -> (usize, usize) {
    (counts.iter().filter(|(number, _)| **number < 4).map(|(_, count)| count).sum(), counts.values().sum())
}

/// That zone a has this part, but for chance.
fn assert_part(counts: &BTreeMap<usize, usize>, part: f64) {
    let (in_a, all) = of_zone_a(counts);
    let expected = part * all as f64;
    let chi_square = (in_a as f64 - expected).powi(2) * (1.0 / expected + 1.0 / (all as f64 - expected));
    assert!(chi_square < CHANCE, "{in_a} of {all} in zone a, for {part}: {counts:?}");
}

#[test]
fn zones_have_their_shares_as_hints_and_policies_say() {
    let shop = shop("locality");

    // As many callers as endpoints in each zone: nothing leaves it.
    callers(&shop, &["node-3"]);
    wait_for(&shop, "zone a keeps 100 % ");
    let counts = answered(&shop, "stay", 500);
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3], "{counts:?}");

    // Two thirds of the callers and half of the endpoints.
    callers(&shop, &["node-2", "node-3"]);
    wait_for(&shop, "zone a keeps 75 % ");
    let counts = answered(&shop, "shares", 2_000);
    assert_part(&counts, 0.75);
    assert!((0..8).all(|number| counts.get(&number).is_some_and(|count| *count > 20)), "{counts:?}");

    // A policy asks for more endpoints than there are, then for none of it at all.
    policy(&shop, "algorithm: Random, locality: {mode: ZoneAware, minEndpoints: 9}");
    wait_for(&shop, "");
    assert_part(&answered(&shop, "few", 1_000), 0.5);
    distribution(&shop, "  trafficDistribution: PreferClose\n");
    policy(&shop, "algorithm: Random, locality: {mode: Disabled}");
    pause(Duration::from_secs(1));
    wait_for(&shop, "");
    assert_part(&answered(&shop, "disabled", 1_000), 0.5);

    // The Service itself, without a policy.
    shop.mesh.manifests().remove("policy");
    wait_for(&shop, "zone a is preferred, as the Service or its policy asks: 4 of 8 ready endpoints");
    let counts = answered(&shop, "close", 500);
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3], "{counts:?}");
    distribution(&shop, "  trafficDistribution: PreferSameNode\n");
    wait_for(&shop, "node node-1 is preferred, as the Service or its policy asks: 2 of 8 ready endpoints");
    let counts = answered(&shop, "node", 500);
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [0, 1], "{counts:?}");

    // Where nobody knows zones, all are alike.
    distribution(&shop, "");
    shop.mesh.manifests().remove("nodes");
    wait_for(&shop, "");
}

/// Under load, all endpoints of the client's zone die at once; then their Pods go; then new ones come.
fn a_zone_that_fails_is_left(name: &str, said: &str, near: &str) {
    let mut shop = shop(name);
    callers(&shop, &["node-3"]);
    distribution(&shop, said);
    wait_for(&shop, near);
    let load = shop.load("spill", 300, &[]);
    pause(Duration::from_secs(1));
    shop.servers[..4].iter_mut().for_each(|(_, app)| app.kill());
    pause(Duration::from_secs(3));
    shop.servers[..4].iter().for_each(|(pod, _)| pod.unpublish());
    wait_for(&shop, "");
    pause(Duration::from_secs(1));
    shop.add(PodSpec::meshed("reviews-8", "reviews").on("node-1"));
    shop.add(PodSpec::meshed("reviews-9", "reviews").on("node-2"));
    pause(Duration::from_secs(7));
    let sent = load.all_answered(1_500);
    let at = |from: usize, to: usize| by_endpoint(&sent[from..to]).into_keys().collect::<Vec<_>>();
    assert!(at(0, 250).iter().all(|number| *number < 4), "{:?}", at(0, 250));
    let last = at(sent.len() - 300, sent.len());
    assert!(last.contains(&8) && last.contains(&9), "{last:?}");
    println!("{name}: {} GETs while a zone died, 0 failed; at the end {last:?} answer", sent.len());
}

#[test]
fn no_request_fails_when_a_zone_that_keeps_its_share_fails() {
    a_zone_that_fails_is_left("zone-shares", "", "zone a keeps 100 % ");
}

#[test]
fn no_request_fails_when_a_zone_that_is_preferred_fails() {
    a_zone_that_fails_is_left(
        "zone-preferred",
        "  trafficDistribution: PreferSameZone\n",
        "zone a is preferred, as the Service or its policy asks: 4 of 8",
    );
}
