//! Rate limits of a server and of a route: what clients get who ask too often, each for itself, and that an edit acts at once
//! (SEMANTICS.md §3 "rate limit").

use std::time::Duration;

use weft_e2e::probe::{self, Answer};

use crate::shop::Shop;

fn limit(shop: &Shop, requests: u32, per: &str, burst: u32) {
    let text = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: RateLimit\nmetadata: {{name: reviews, namespace: demo}}\n\
         spec:\n  targetRefs: [{{group: '', kind: Service, name: reviews}}]\n  requests: {requests}\n  per: {per}\n  burst: {burst}\n  \
         key: {{type: Header, header: x-user}}\n"
    );
    shop.mesh.manifests().write("limit", &text).unwrap();
}

/// One request on a connection of its own.
fn ask(shop: &Shop, user: &str, id: &str) -> Answer {
    let request =
        format!("GET / HTTP/1.1\r\nHost: reviews\r\nx-user: {user}\r\nx-request-id: {id}\r\nConnection: close\r\n\r\n");
    let text = shop.raw(request.as_bytes());
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    Answer { status, text }
}

#[test]
fn who_asks_too_often_waits_and_nobody_else() {
    // One endpoint: each counts for itself.
    let shop = Shop::new("ratelimits", 1);
    limit(&shop, 1, "1h", 5);
    probe::wait_until("the limit", Duration::from_secs(15), || {
        ask(&shop, "first", "").header("x-ratelimit-limit") == Some("5")
    })
    .unwrap();
    let statuses: Vec<u16> = (0..8).map(|_| ask(&shop, "a", "a").status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    let refused = ask(&shop, "a", "a");
    assert_eq!(refused.header("x-weft-reason"), Some("rate-limited; limit=demo/reviews"), "{}", refused.text);
    let wait: u32 = refused.header("retry-after").and_then(|text| text.parse().ok()).unwrap_or_default();
    assert!((3_500..=3_600).contains(&wait), "{}", refused.text);
    assert_eq!(ask(&shop, "b", "b").status, 200, "another client");
    let served = shop.served().iter().filter(|one| one.id == "a").count();
    assert_eq!(served, 5, "what is refused reaches nobody");
    assert!(shop.servers[0].0.metric("weft_refused_total", &["reason=\"rate-limited\""]) >= 4.0);

    // So many a second: who asks for two seconds gets that, and what was there at once.
    limit(&shop, 20, "1s", 2);
    probe::wait_until("the other limit", Duration::from_secs(15), || {
        ask(&shop, "first", "").header("x-ratelimit-limit") == Some("2")
    })
    .unwrap();
    let began = std::time::Instant::now();
    let mut passed = 0_u32;
    while began.elapsed() < Duration::from_secs(2) {
        passed += u32::from(ask(&shop, "a", "").status == 200);
    }
    assert!((30..=43).contains(&passed), "{passed} passed in two seconds, 42 at most and most of them should");

    shop.mesh.manifests().remove("limit");
    probe::wait_until("it to be gone", Duration::from_secs(15), || {
        ask(&shop, "a", "").header("x-ratelimit-limit").is_none()
    })
    .unwrap();
}

const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: demo}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, port: 80}]
  rules:
  - name: seldom
    matches: [{path: {value: /seldom}}]
    backendRefs: [{name: reviews, port: 80}]
  - backendRefs: [{name: reviews, port: 80}]
";

#[test]
fn a_routes_rule_is_limited_by_the_client_whatever_endpoint_it_asks() {
    // Two endpoints, one limit: it is the client that counts.
    let shop = Shop::new("routelimits", 2);
    shop.mesh.manifests().write("route", ROUTE).unwrap();
    let text = "apiVersion: weft.dev/v1alpha1\nkind: RateLimit\nmetadata: {name: seldom, namespace: demo}\n\
                spec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: reviews, sectionName: seldom}]\n  \
                requests: 1\n  per: 1h\n  burst: 4\n  key: {type: Header, header: x-user}\n";
    shop.mesh.manifests().write("limit", text).unwrap();
    let ask = |path: &str, user: &str| {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: reviews\r\nx-user: {user}\r\nx-request-id: {user}\r\nConnection: close\r\n\r\n"
        );
        let text = shop.raw(request.as_bytes());
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
        Answer { status, text }
    };
    probe::wait_until("the limit", Duration::from_secs(15), || {
        ask("/seldom", "first").header("x-ratelimit-limit") == Some("4")
    })
    .unwrap();
    let statuses: Vec<u16> = (0..6).map(|_| ask("/seldom", "a").status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 429, 429]);
    let refused = ask("/seldom", "a");
    assert_eq!(refused.header("x-weft-reason"), Some("rate-limited; limit=demo/seldom"), "{}", refused.text);
    assert_eq!(ask("/seldom", "b").status, 200, "another of the client's own clients");
    let other = ask("/", "a");
    assert_eq!((other.status, other.header("x-ratelimit-limit")), (200, None), "another rule");
    let served = shop.served().iter().filter(|one| one.id == "a").count();
    assert_eq!(served, 5, "what is refused leaves no pod");
    assert!(shop.client_metric("weft_refused_total") >= 3.0);

    shop.mesh.manifests().remove("limit");
    probe::wait_until("it to be gone", Duration::from_secs(15), || ask("/seldom", "a").status == 200).unwrap();
}
