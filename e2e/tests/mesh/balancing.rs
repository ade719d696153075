//! What a BackendPolicy says is what happens to requests (SEMANTICS.md §3 "balancing", "outlier detection").

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use weft_e2e::{PodSpec, probe};

use crate::shop::{Shop, pause};

const POLICY: &str = "\
apiVersion: weft.dev/v1alpha1
kind: BackendPolicy
metadata: {name: reviews, namespace: demo}
spec:
  targetRefs: [{kind: Service, name: reviews}]
";

/// Says `spec` of `reviews` and waits until the client's sidecar has heard it.
fn policy(shop: &Shop, spec: &str) {
    // The last of `/config` are the versions; of the Service's, 40 characters are more than enough.
    let version = || {
        let config = shop.client.admin("/config").map_or(String::new(), |answer| answer.text);
        config.rsplit_once("\"demo/reviews\":").map(|(_, rest)| rest.chars().take(40).collect::<String>())
    };
    let before = version();
    shop.mesh.manifests().write("policy", &format!("{POLICY}{spec}")).unwrap();
    probe::wait_until("the policy", Duration::from_secs(15), || version() != before).unwrap();
}

/// Who answers a request of this user.
fn server_of(shop: &Shop, user: usize) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: reviews\r\nX-User: {user}\r\nConnection: close\r\n\r\n");
    let text = shop.raw(request.as_bytes());
    let server = text.lines().find_map(|line| line.strip_prefix("x-server: "));
    server.unwrap_or_else(|| panic!("no server: {text}")).to_owned()
}

#[test]
fn requests_go_where_their_policy_says() {
    let mut shop = Shop::new("balancing", 3);
    a_header_keeps_its_endpoint(&shop);
    a_slow_endpoint_gets_less(&shop);
    an_endpoint_is_ejected_for_as_long_as_was_asked(&mut shop);
}

fn a_header_keeps_its_endpoint(shop: &Shop) {
    for algorithm in ["Maglev", "RingHash"] {
        policy(
            shop,
            &format!("  loadBalancer: {{algorithm: {algorithm}, consistentHash: {{httpHeaderName: x-user}}}}\n"),
        );
        let mut homes = BTreeMap::new();
        for user in 0..30 {
            let home = server_of(shop, user);
            for _ in 0..5 {
                assert_eq!(server_of(shop, user), home, "{algorithm}: user {user}");
            }
            *homes.entry(home).or_insert(0) += 1;
        }
        assert_eq!(homes.len(), 3, "{algorithm}: thirty users are at {homes:?}");
    }
}

fn a_slow_endpoint_gets_less(shop: &Shop) {
    policy(shop, "  loadBalancer: {algorithm: LeastRequest}\n");
    let (pod, app) = &shop.servers[0];
    app.signal(Signal::SIGSTOP);
    let load = shop.load("least", 100, &[]);
    pause(Duration::from_secs(2));
    app.signal(Signal::SIGCONT);
    let sent = load.all_answered(150);
    // One that is busy is asked only where both draws of three are it, a ninth; without looking it would be a third.
    let slow = sent.iter().filter(|one| one.server == pod.name()).count();
    assert!(slow * 5 < sent.len(), "{slow} of {} waited for the slow endpoint", sent.len());
}

fn an_endpoint_is_ejected_for_as_long_as_was_asked(shop: &mut Shop) {
    policy(shop, "  outlierDetection: {consecutiveGatewayFailure: 2, baseEjectionTime: 60s, maxEjectionPercent: 50}\n");
    let ejections = |shop: &Shop| shop.client_metric("weft_ejections_total");
    let before = ejections(shop);
    shop.servers[0].1.kill();
    let asked = |shop: &Shop| shop.get("/").is_some_and(|answer| answer.status == 200);
    probe::wait_until("an ejection", Duration::from_secs(10), || {
        assert!(asked(shop), "a retry goes elsewhere");
        ejections(shop) > before
    })
    .unwrap();
    // The mesh's own detection would have probed it after a second, and ejected it again.
    for _ in 0..40 {
        assert!(asked(shop));
        pause(Duration::from_millis(100));
    }
    assert_eq!(ejections(shop) - before, 1.0, "it is out for a minute, and nobody asks it");
}

#[test]
fn an_endpoint_that_answers_500_is_ejected_where_the_policy_counts_it() {
    let mut shop = Shop::new("five-hundreds", 2);
    let pod = shop.mesh.pod(PodSpec::meshed("reviews-bad", "reviews")).unwrap();
    let app = pod.app("app", &["http-server", "--name", "reviews-bad", "--fail-every=1"]).unwrap();
    pod.wait_listening(8080).unwrap();
    shop.servers.push((pod, app));
    let ejections = |shop: &Shop| shop.client_metric("weft_ejections_total");
    // As whoever calls sees it: a 500 is an answer, and nobody asks twice.
    let failed =
        |shop: &Shop, n: usize| (0..n).filter(|_| shop.get("/").is_none_or(|answer| answer.status != 200)).count();
    probe::wait_until("the third endpoint", Duration::from_secs(15), || failed(&shop, 5) > 0).unwrap();
    assert!(failed(&shop, 100) > 5, "the mesh's own detection takes it for an answer");
    assert_eq!(ejections(&shop), 0.0);

    policy(&shop, "  outlierDetection: {consecutive5xx: 4, baseEjectionTime: 60s, maxEjectionPercent: 50}\n");
    let mut seen = 0;
    probe::wait_until("an ejection", Duration::from_secs(10), || {
        seen += failed(&shop, 1);
        ejections(&shop) > 0.0
    })
    .unwrap();
    assert_eq!(seen, 4, "so many in a row");
    assert_eq!(failed(&shop, 100), 0);
    assert_eq!(ejections(&shop), 1.0);
}
