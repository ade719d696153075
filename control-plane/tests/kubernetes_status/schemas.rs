//! What the schemas of Weft's own kinds let pass: the API server refuses at once, with a word, what makes no sense together.

use kube::api::PostParams;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::own::{object, of_kind};

/// Asks the API server for each of these and has nothing created; the word it has to refuse it with, or none.
async fn ask(cluster: &Cluster, kind: &str, plural: &str, rows: Vec<(Value, &str)>) {
    let (objects, params) = (of_kind(cluster, kind, plural), PostParams { dry_run: true, ..PostParams::default() });
    for (spec, refused) in rows {
        let answer = objects.create(&params, &object(kind, "a", spec.clone())).await;
        match answer {
            Ok(_) => assert_eq!(refused, "", "{spec}"),
            Err(error) => {
                let said = error.to_string();
                assert!(!refused.is_empty() && said.contains(refused), "{spec}: {said}");
            }
        }
    }
}

/// `of` with the field in its place.
fn with(of: &Value, field: &str, value: Value) -> Value {
    let mut spec = of.clone();
    spec[field] = value;
    spec
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn what_a_backend_policy_cannot_say_is_refused() {
    let cluster = Cluster::new("schema-policy").await;
    let target = json!({"targetRefs": [{"kind": "Service", "name": "reviews"}]});
    let balancer = |value| with(&target, "loadBalancer", value);
    let outliers = |value| with(&target, "outlierDetection", value);
    let by_cookie = json!({"httpCookie": {"name": "shop"}});
    let rows = vec![
        (json!({}), "spec.targetRefs"),
        (target.clone(), ""),
        (balancer(json!({"leastRequest": {"choiceCount": 3}})), "leastRequest needs algorithm LeastRequest"),
        (balancer(json!({"algorithm": "LeastRequest", "leastRequest": {"choiceCount": 3}})), ""),
        (balancer(json!({"algorithm": "RingHash"})), "consistentHash goes with algorithm RingHash or Maglev"),
        (balancer(json!({"algorithm": "Maglev", "consistentHash": by_cookie, "maglev": {"tableSize": 5003}})), ""),
        (balancer(json!({"algorithm": "Fair"})), "supported values"),
        (balancer(json!({"locality": {"mode": "ZoneAware", "minEndpoints": 3}})), ""),
        (balancer(json!({"locality": {"minEndpoints": 3}})), ""),
        (balancer(json!({"locality": {"mode": "PreferSameZone"}})), ""),
        (balancer(json!({"locality": {"mode": "Nearby"}})), "supported values"),
        (
            balancer(json!({"locality": {"mode": "PreferSameZone", "minEndpoints": 3}})),
            "minEndpoints needs mode ZoneAware",
        ),
        (
            balancer(json!({"algorithm": "Maglev", "consistentHash": by_cookie, "locality": {"mode": "ZoneAware"}})),
            "locality mode ZoneAware does not go with algorithm RingHash or Maglev",
        ),
        (
            balancer(
                json!({"algorithm": "Maglev", "consistentHash": by_cookie, "locality": {"mode": "PreferSameNode"}}),
            ),
            "",
        ),
        (outliers(json!({})), ""),
        (outliers(json!({"consecutive5xx": 0, "consecutiveGatewayFailure": 3})), ""),
        (outliers(json!({"maxEjectionPercent": 101})), "less than or equal to 100"),
        (outliers(json!({"consecutiveLocalOriginFailure": 3})), "needs splitExternalLocalOriginErrors"),
        (
            outliers(json!({"consecutiveLocalOriginFailure": 3, "splitExternalLocalOriginErrors": false})),
            "needs splitExternalLocalOriginErrors",
        ),
        (outliers(json!({"enforcingLocalOriginSuccessRate": 3, "splitExternalLocalOriginErrors": true})), ""),
        (with(&with(&target, "httpIdleTimeout", json!("1m")), "tcpIdleTimeout", json!("1h30m")), ""),
        (with(&target, "tcpIdleTimeout", json!("an hour")), "spec.tcpIdleTimeout"),
        (with(&target, "httpIdleTimeout", json!("-1s")), "spec.httpIdleTimeout"),
    ];
    ask(&cluster, "BackendPolicy", "backendpolicies", rows).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn what_a_limit_or_a_fault_cannot_say_is_refused() {
    let cluster = Cluster::new("schema-more").await;
    let on = |kind: &str, group: &str, name: &str| json!({"targetRefs": [{"group": group, "kind": kind, "name": name}], "requests": 10});
    let limits = vec![
        (on("Service", "", "reviews"), ""),
        (on("HTTPRoute", "gateway.networking.k8s.io", "a.b"), ""),
        (on("HTTPRoute", "", "a"), "group must be empty where kind is Service"),
        (on("Service", "", "a.b"), "name must be that of a Service"),
    ];
    ask(&cluster, "RateLimit", "ratelimits", limits).await;
    let delay = |value| json!({"delay": value});
    let faults = vec![
        (json!({}), "needs a delay, an abort, or both"),
        (delay(json!({"fixedDelay": "1s"})), ""),
        (delay(json!({"fixedDelay": "2h"})), "must be more than 0s and 1h at most"),
        (
            delay(json!({"fixedDelay": "1s", "percent": 1, "fraction": {"numerator": 1}})),
            "percent and fraction say the same",
        ),
        (
            delay(json!({"fixedDelay": "1s", "fraction": {"numerator": 3, "denominator": 2}})),
            "numerator must not be more",
        ),
        (json!({"abort": {}}), "needs httpStatus, grpcStatus, or both"),
        (json!({"abort": {"grpcStatus": "UNAVAILABLE"}}), ""),
    ];
    ask(&cluster, "FaultInjection", "faultinjections", faults).await;
    cluster.end().await;
}
