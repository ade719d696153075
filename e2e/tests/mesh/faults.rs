//! Faults that a route asks for: what clients wait for and get, what servers never see, and that an edit acts at once
//! (SEMANTICS.md §3 "fault injection").

use std::time::{Duration, Instant};

use weft_e2e::probe::{self, Answer};

use crate::shop::Shop;

const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: demo}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, port: 80}]
  rules:
  - matches: [{path: {value: /late}}]
    filters: [{type: ExtensionRef, extensionRef: {group: weft.dev, kind: FaultInjection, name: late}}]
    backendRefs: [{name: reviews, port: 80}]
  - matches: [{path: {value: /too-late}}]
    filters: [{type: ExtensionRef, extensionRef: {group: weft.dev, kind: FaultInjection, name: late}}]
    backendRefs: [{name: reviews, port: 80}]
    timeouts: {request: 200ms}
  - matches: [{path: {value: /fails}}]
    filters: [{type: ExtensionRef, extensionRef: {group: weft.dev, kind: FaultInjection, name: fails}}]
    backendRefs: [{name: reviews, port: 80}]
  - matches: [{path: {value: /missing}}]
    filters: [{type: ExtensionRef, extensionRef: {group: weft.dev, kind: FaultInjection, name: missing}}]
    backendRefs: [{name: reviews, port: 80}]
  - backendRefs: [{name: reviews, port: 80}]
";

/// A FaultInjection of namespace `demo`.
fn fault(shop: &Shop, name: &str, spec: &str) {
    let text = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: FaultInjection\nmetadata: {{name: {name}, namespace: demo}}\nspec: {spec}\n"
    );
    shop.mesh.manifests().write(&format!("fault-{name}"), &text).unwrap();
}

#[test]
fn some_requests_wait_some_fail_and_an_edit_acts_at_once() {
    let shop = Shop::new("faults", 2);
    fault(&shop, "late", "{delay: {fixedDelay: 400ms}}");
    fault(&shop, "fails", "{abort: {httpStatus: 418, grpcStatus: RESOURCE_EXHAUSTED, percent: 25}}");
    shop.mesh.manifests().write("route", ROUTE).unwrap();
    probe::wait_until("the route", Duration::from_secs(15), || shop.ask("/missing", "", "").status == 500).unwrap();

    for (path, status, wanted, served_to) in [("/late", 200, 400, 1), ("/too-late", 504, 200, 0), ("/", 200, 0, 1)] {
        let began = Instant::now();
        let got = shop.ask(path, path, "");
        let took = began.elapsed().as_millis();
        assert_eq!((got.status, shop.times_served(path)), (status, served_to), "{path}: {}", got.text);
        assert!((wanted..wanted + 150).contains(&took), "{path}: after {took} ms, {wanted} were asked for");
    }
    assert!(shop.client_metric("weft_faults_delayed_total") >= 2.0);

    const SENT: usize = 200;
    let answers: Vec<_> = (0..SENT).map(|_| shop.ask("/fails", "fails", "")).collect();
    let failed: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    // A quarter of 200, within four standard deviations.
    assert!((26..=74).contains(&failed.len()), "{} of {SENT} failed, a quarter should", failed.len());
    assert_eq!(shop.times_served("fails"), SENT - failed.len(), "those that fail reach nobody");
    let meant = |answer: &&Answer| {
        answer.status == 418 && answer.header("x-weft-reason") == Some("fault; rule=HTTPRoute/demo/reviews#2")
    };
    assert!(failed.iter().all(meant), "{:?}", failed.first());

    // What is not there fails all of them, and is made.
    fault(&shop, "missing", "{abort: {grpcStatus: UNAUTHENTICATED}}");
    probe::wait_until("it to be there", Duration::from_secs(5), || shop.ask("/missing", "", "").status == 401).unwrap();
    let got = shop.ask("/missing", "call", "content-type: application/grpc\r\n");
    assert_eq!((got.status, got.header("grpc-status")), (200, Some("16")), "{}", got.text);
    fault(&shop, "missing", "{abort: {grpcStatus: UNAUTHENTICATED, percent: 0}}");
    probe::wait_until("it to be over", Duration::from_secs(5), || shop.ask("/missing", "", "").status == 200).unwrap();
    assert_eq!(shop.times_served("call"), 0);
}
