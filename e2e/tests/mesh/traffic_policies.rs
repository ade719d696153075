//! XBackendTrafficPolicy: retries that a Service has to bear and sessions that need no route, as clients see them
//! (docs/reference/xbackendtrafficpolicy.md).

use std::time::Duration;

use weft_e2e::probe::{self, Answer};

use crate::shop::Shop;

/// Tries a 500 again, once.
const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: demo}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, port: 80}]
  rules:
  - backendRefs: [{name: reviews, port: 80}]
    retry: {codes: [500], attempts: 1}
";

fn policy(shop: &Shop, spec: &str) {
    let text = format!(
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\n\
         metadata: {{name: reviews, namespace: demo}}\n\
         spec:\n  targetRefs: [{{group: '', kind: Service, name: reviews}}]\n  {spec}\n"
    );
    shop.mesh.manifests().write("policy", &text).unwrap();
}

/// One request on a connection of its own.
fn ask(shop: &Shop, path: &str, id: &str, fields: &str) -> Answer {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: reviews\r\nx-request-id: {id}\r\n{fields}Connection: close\r\n\r\n");
    let text = shop.raw(request.as_bytes());
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    Answer { status, text }
}

fn served(shop: &Shop, id: &str) -> usize {
    shop.served().iter().filter(|one| one.id == id).count()
}

#[test]
fn retries_are_bounded_and_what_is_beyond_is_503() {
    let shop = Shop::new("retrybudget", 2);
    shop.mesh.manifests().write("route", ROUTE).unwrap();
    // Nothing by share: five in an hour.
    policy(&shop, "retryConstraint: {budget: {percent: 0, interval: 1h}, minRetryRate: {count: 5, interval: 1h}}");
    // With the route and without the policy a failure is 500; the first 503 has used all five.
    probe::wait_until("the policy", Duration::from_secs(15), || ask(&shop, "/status/500", "first", "").status == 503)
        .unwrap();
    let refused = ask(&shop, "/status/500", "refused", "");
    assert_eq!(
        (refused.status, refused.header("x-weft-reason")),
        (503, Some("retry-budget; rule=HTTPRoute/demo/reviews#0")),
        "{}",
        refused.text
    );
    assert!(refused.text.contains("answered 500"), "{}", refused.text);
    assert_eq!(served(&shop, "refused"), 1, "it was asked once, and not again");
    assert_eq!(ask(&shop, "/", "fine", "").status, 200, "what needs no retry is as ever");
    assert!(shop.client_metric("weft_retries_over_budget_total") >= 2.0);

    // All of what was asked may be repeated.
    policy(&shop, "retryConstraint: {budget: {percent: 100, interval: 10s}, minRetryRate: {count: 1, interval: 1h}}");
    probe::wait_until("the other policy", Duration::from_secs(15), || {
        ask(&shop, "/status/500", "again", "").status == 500
    })
    .unwrap();
    assert_eq!((ask(&shop, "/status/500", "twice", "").status, served(&shop, "twice")), (500, 2));

    shop.mesh.manifests().remove("policy");
    probe::wait_until("it to be gone", Duration::from_secs(15), || {
        (0..20).all(|_| ask(&shop, "/status/500", "", "").status == 500)
    })
    .unwrap();
}

#[test]
fn sessions_of_a_service_need_no_route() {
    let shop = Shop::new("sessions", 3);
    policy(&shop, "sessionPersistence: {type: Header, sessionName: x-session}");
    probe::wait_until("the policy", Duration::from_secs(15), || ask(&shop, "/", "", "").header("x-session").is_some())
        .unwrap();
    let first = ask(&shop, "/", "", "");
    let (server, token) = (first.header("x-server").unwrap(), first.header("x-session").unwrap());
    let with = format!("x-session: {token}\r\n");
    for _ in 0..30 {
        let answer = ask(&shop, "/", "", &with);
        assert_eq!((answer.header("x-server"), answer.header("x-session")), (Some(server), None), "{}", answer.text);
    }
    let others = (0..30).filter(|_| ask(&shop, "/", "", "").header("x-server") != Some(server)).count();
    assert!(others > 0, "without a session it is balanced");

    policy(&shop, "retryConstraint: {}");
    probe::wait_until("it to be gone", Duration::from_secs(15), || {
        ask(&shop, "/", "", "").header("x-session").is_none()
    })
    .unwrap();
}
