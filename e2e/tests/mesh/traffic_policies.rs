//! XBackendTrafficPolicy: retries that a Service has to bear and sessions that need no route, as clients see them
//! (docs/reference/xbackendtrafficpolicy.md).

use std::time::Duration;

use weft_e2e::probe;

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

#[test]
fn retries_are_bounded_and_what_is_beyond_is_503() {
    let shop = Shop::new("retrybudget", 2);
    shop.mesh.manifests().write("route", ROUTE).unwrap();
    // Nothing by share: five in an hour.
    policy(&shop, "retryConstraint: {budget: {percent: 0, interval: 1h}, minRetryRate: {count: 5, interval: 1h}}");
    // With the route and without the policy a failure is 500; the first 503 has used all five.
    probe::wait_until("the policy", Duration::from_secs(15), || shop.ask("/status/500", "first", "").status == 503)
        .unwrap();
    let refused = shop.ask("/status/500", "refused", "");
    assert_eq!(
        (refused.status, refused.header("x-weft-reason")),
        (503, Some("retry-budget; rule=HTTPRoute/demo/reviews#0")),
        "{}",
        refused.text
    );
    assert!(refused.text.contains("answered 500"), "{}", refused.text);
    assert_eq!(shop.times_served("refused"), 1, "it was asked once, and not again");
    assert_eq!(shop.ask("/", "fine", "").status, 200, "what needs no retry is as ever");
    assert!(shop.client_metric("weft_retries_over_budget_total") >= 2.0);

    // All of what was asked may be repeated.
    policy(&shop, "retryConstraint: {budget: {percent: 100, interval: 10s}, minRetryRate: {count: 1, interval: 1h}}");
    probe::wait_until("the other policy", Duration::from_secs(15), || {
        shop.ask("/status/500", "again", "").status == 500
    })
    .unwrap();
    assert_eq!((shop.ask("/status/500", "twice", "").status, shop.times_served("twice")), (500, 2));

    shop.mesh.manifests().remove("policy");
    probe::wait_until("it to be gone", Duration::from_secs(15), || {
        (0..20).all(|_| shop.ask("/status/500", "", "").status == 500)
    })
    .unwrap();
}

#[test]
fn sessions_of_a_service_need_no_route() {
    let shop = Shop::new("sessions", 3);
    policy(&shop, "sessionPersistence: {type: Header, sessionName: x-session}");
    probe::wait_until("the policy", Duration::from_secs(15), || shop.ask("/", "", "").header("x-session").is_some())
        .unwrap();
    let first = shop.ask("/", "", "");
    let (server, token) = (first.header("x-server").unwrap(), first.header("x-session").unwrap());
    let with = format!("x-session: {token}\r\n");
    for _ in 0..30 {
        let answer = shop.ask("/", "", &with);
        assert_eq!((answer.header("x-server"), answer.header("x-session")), (Some(server), None), "{}", answer.text);
    }
    let others = (0..30).filter(|_| shop.ask("/", "", "").header("x-server") != Some(server)).count();
    assert!(others > 0, "without a session it is balanced");

    policy(&shop, "retryConstraint: {}");
    probe::wait_until("it to be gone", Duration::from_secs(15), || shop.ask("/", "", "").header("x-session").is_none())
        .unwrap();
}
