//! Schema, reference and decoder hold each other: what one has, the others have.

use std::collections::BTreeSet;

use super::*;
use crate::model::{FailurePercentage, LocalOrigin, Locality, LocalityMode, Object, OutlierDetection, SuccessRate};
use crate::source::Severity;
use crate::source::files::decode::{Outcome, decode};
use crate::source::files::documents::Document;
use crate::source::files::tree::{self, Node, Value};

const CRD: &str = include_str!("../../../../../../charts/weft/kinds/backendpolicies.yaml");
const REFERENCE: &str = include_str!("../../../../../../docs/reference/backendpolicy.md");

fn below<'a>(node: &'a Node, path: &[&str]) -> &'a Node {
    path.iter().fold(node, |node, key| &node.get(key).unwrap_or_else(|| panic!("no {key}")).value)
}

/// The fields of a schema, `spec.a.b` and `spec.a[].b`.
fn fields(schema: &Node, path: &str, out: &mut BTreeSet<String>) {
    let Some(properties) = schema.get("properties") else { return };
    let Value::Map(entries) = &properties.value.value else { panic!("properties of {path}") };
    for entry in entries {
        let path = format!("{path}.{}", entry.key);
        fields(&entry.value, &path, out);
        if let Some(items) = entry.value.get("items") {
            fields(&items.value, &format!("{path}[]"), out);
        }
        out.insert(path);
    }
}

fn schema() -> BTreeSet<String> {
    let crd = tree::parse(CRD, 1).expect("YAML");
    let Value::Seq(versions) = &below(&crd, &["spec", "versions"]).value else { panic!("no versions") };
    let spec = below(&versions[0], &["schema", "openAPIV3Schema", "properties", "spec"]);
    let mut out = BTreeSet::new();
    fields(spec, "spec", &mut out);
    out
}

#[test]
fn the_reference_lists_every_field_of_the_schema_and_no_other() {
    let rows = REFERENCE.lines().filter_map(|line| line.strip_prefix("| `spec.")?.split_once('`'));
    let listed: BTreeSet<_> = rows.map(|(field, _)| format!("spec.{field}")).collect();
    assert_eq!(listed, schema());
}

/// The outcome, and what is wrong by field.
fn policy(spec: &str) -> (Option<BackendPolicy>, Vec<(Severity, String)>) {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    let text = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: BackendPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n{spec}"
    );
    let decoded = decode(&Document { text: &text, first_line: 1 }).pop().expect("an object");
    let policy = match decoded.outcome {
        Outcome::Good(object, _) => match *object {
            Object::BackendPolicy(policy) => Some(policy),
            other => panic!("{other:?}"),
        },
        _ => None,
    };
    (policy, decoded.flaws.into_iter().map(|flaw| (flaw.severity, flaw.field)).collect())
}

const TARGET: &str = "targetRefs: [{kind: Service, name: web}]\n";

#[test]
fn every_field_of_the_schema_is_read() {
    let common = "
targetRefs: [{group: '', kind: Service, name: web}]
connectTimeout: 1s
httpIdleTimeout: 1m
tcpIdleTimeout: 1h
connectionLimits: {maxConnections: 1, maxPendingRequests: 2, maxRequests: 3, maxRequestsPerConnection: 4}
outlierDetection:
  consecutive5xx: 4
  enforcingConsecutive5xx: 99
  consecutiveGatewayFailure: 3
  enforcingConsecutiveGatewayFailure: 98
  splitExternalLocalOriginErrors: true
  consecutiveLocalOriginFailure: 6
  enforcingConsecutiveLocalOriginFailure: 97
  interval: 5s
  baseEjectionTime: 10s
  maxEjectionTime: 60s
  maxEjectionTimeJitter: 1s
  maxEjectionPercent: 20
  minHealthPercent: 30
  successRateMinimumHosts: 3
  successRateRequestVolume: 50
  successRateStdevFactor: 1500
  enforcingSuccessRate: 90
  enforcingLocalOriginSuccessRate: 89
  failurePercentageMinimumHosts: 3
  failurePercentageRequestVolume: 40
  failurePercentageThreshold: 80
  enforcingFailurePercentage: 70
  enforcingFailurePercentageLocalOrigin: 69
loadBalancer:
  slowStart: {window: 30s, aggressionPercent: 200, minWeightPercent: 5}
";
    let header = HashKey::Header("x-user".to_owned());
    let cookie = HashKey::Cookie { name: "User".into(), path: "/a".into(), lasts: Some(Duration::from_secs(60)) };
    #[rustfmt::skip]
    let rows = [
        ("algorithm: PowerOfTwo; locality: {mode: ZoneAware, minEndpoints: 3}", Algorithm::PowerOfTwo),
        ("algorithm: LeastRequest; leastRequest: {choiceCount: 3}", Algorithm::LeastRequest { choices: 3, bias_percent: None }),
        ("algorithm: LeastRequest; leastRequest: {activeRequestBiasPercent: 0}",
         Algorithm::LeastRequest { choices: 0, bias_percent: Some(0) }),
        ("algorithm: RingHash; ringHash: {minimumRingSize: 10, maximumRingSize: 20}; consistentHash: {httpHeaderName: X-User}",
         Algorithm::RingHash { key: header, minimum: 10, maximum: 20 }),
        ("algorithm: Maglev; maglev: {tableSize: 251}; consistentHash: {httpCookie: {name: User, path: /a, ttl: 60s}}",
         Algorithm::Maglev { key: cookie, cells: 251 }),
        ("algorithm: Maglev; consistentHash: {useSourceIp: true}", Algorithm::Maglev { key: HashKey::Client, cells: 0 }),
        ("algorithm: Maglev; consistentHash: {httpQueryParameterName: u}",
         Algorithm::Maglev { key: HashKey::Query("u".into()), cells: 0 }),
    ];
    let mut written = common.to_owned();
    for (fields, want) in rows {
        let fields: String = fields.split("; ").map(|field| format!("  {field}\n")).collect();
        let (policy, flaws) = policy(&format!("{common}{fields}"));
        assert_eq!(flaws, [], "{fields}");
        let policy = policy.expect("good");
        assert_eq!(policy.targets, ["web"]);
        assert_eq!(policy.load_balancer.expect("said").algorithm, want);
        written.push_str(&fields);
    }
    for field in schema() {
        let name = field.rsplit('.').next().expect("a name").trim_end_matches("[]");
        assert!(written.contains(&format!("{name}:")), "{field} is in no row");
    }
}

#[test]
fn how_near_requests_stay_is_said_by_mode() {
    use LocalityMode::{Disabled, PreferSameNode, PreferSameZone, ZoneAware};
    let rows = [
        ("{}", Locality { mode: ZoneAware, min_endpoints: None }),
        ("{minEndpoints: 2}", Locality { mode: ZoneAware, min_endpoints: Some(2) }),
        ("{mode: PreferSameZone}", Locality { mode: PreferSameZone, min_endpoints: None }),
        ("{mode: PreferSameNode}", Locality { mode: PreferSameNode, min_endpoints: None }),
        ("{mode: Disabled}", Locality { mode: Disabled, min_endpoints: None }),
    ];
    for (said, want) in rows {
        let (policy, flaws) = policy(&format!("{TARGET}loadBalancer: {{locality: {said}}}"));
        assert_eq!(flaws, [], "{said}");
        assert_eq!(policy.and_then(|policy| policy.load_balancer).and_then(|said| said.locality), Some(want));
    }
    let ring =
        "loadBalancer: {algorithm: RingHash, consistentHash: {useSourceIp: true}, locality: {mode: PreferSameNode}}";
    assert_eq!(policy(&format!("{TARGET}{ring}")).1, [], "it keeps its endpoint among those that are near");
}

#[test]
fn what_is_wrong_is_refused_by_field() {
    #[rustfmt::skip]
    let rows = [
        ("loadBalancer: {}", "spec.targetRefs"),
        ("targetRefs: []", "spec.targetRefs"),
        ("targetRefs: [{kind: Pod, name: web}]", "spec.targetRefs[0].kind"),
        ("loadBalancer: {algorithm: RingHash}", "spec.loadBalancer.consistentHash"),
        ("loadBalancer: {consistentHash: {useSourceIp: true}}", "spec.loadBalancer.consistentHash"),
        ("loadBalancer: {algorithm: Maglev, consistentHash: {}}", "spec.loadBalancer.consistentHash"),
        ("loadBalancer: {algorithm: Maglev, consistentHash: {useSourceIp: true, httpHeaderName: a}}", "spec.loadBalancer.consistentHash"),
        ("loadBalancer: {algorithm: Maglev, consistentHash: {useSourceIp: true}, maglev: {tableSize: 250}}", "spec.loadBalancer.maglev"),
        ("loadBalancer: {algorithm: Maglev, consistentHash: {httpCookie: {name: a, path: b}}}", "spec.loadBalancer.consistentHash.httpCookie.path"),
        ("loadBalancer: {leastRequest: {choiceCount: 3}}", "spec.loadBalancer.leastRequest"),
        ("loadBalancer: {algorithm: LeastRequest, leastRequest: {choiceCount: 1}}", "spec.loadBalancer.leastRequest.choiceCount"),
        ("loadBalancer: {algorithm: LeastRequest, leastRequest: {activeRequestBiasPercent: -1}}", "spec.loadBalancer.leastRequest.activeRequestBiasPercent"),
        ("loadBalancer: {slowStart: {}}", "spec.loadBalancer.slowStart.window"),
        ("loadBalancer: {locality: {mode: Off}}", "spec.loadBalancer.locality.mode"),
        ("loadBalancer: {locality: {mode: Disabled, minEndpoints: 3}}", "spec.loadBalancer.locality.minEndpoints"),
        ("loadBalancer: {locality: {minEndpoints: 0}}", "spec.loadBalancer.locality.minEndpoints"),
        ("loadBalancer: {algorithm: Maglev, consistentHash: {useSourceIp: true}, locality: {}}", "spec.loadBalancer.locality"),
        ("outlierDetection: {baseEjectionTime: 2s, maxEjectionTime: 1s}", "spec.outlierDetection.maxEjectionTime"),
        ("outlierDetection: {maxEjectionPercent: 101}", "spec.outlierDetection.maxEjectionPercent"),
        ("connectionLimits: {maxConnections: 0}", "spec.connectionLimits.maxConnections"),
        ("outlierDetection: {consecutive5xx: 65536}", "spec.outlierDetection.consecutive5xx"),
        ("outlierDetection: {enforcingConsecutive5xx: 101}", "spec.outlierDetection.enforcingConsecutive5xx"),
        ("outlierDetection: {consecutiveLocalOriginFailure: 3}", "spec.outlierDetection.consecutiveLocalOriginFailure"),
        ("outlierDetection: {enforcingLocalOriginSuccessRate: 0, splitExternalLocalOriginErrors: false}", "spec.outlierDetection.enforcingLocalOriginSuccessRate"),
        ("outlierDetection: {splitExternalLocalOriginErrors: 1}", "spec.outlierDetection.splitExternalLocalOriginErrors"),
        ("connectTimeout: 0s", "spec.connectTimeout"),
        ("httpIdleTimeout: 0s", "spec.httpIdleTimeout"),
        ("tcpIdleTimeout: 1d", "spec.tcpIdleTimeout"),
    ];
    for (spec, field) in rows {
        let target = if spec.starts_with("targetRefs") || field == "spec.targetRefs" { "" } else { TARGET };
        let (policy, flaws) = policy(&format!("{target}{spec}"));
        assert!(policy.is_none(), "{spec}");
        assert_eq!(flaws, [(Severity::Error, field.to_owned())], "{spec}");
    }
}

#[test]
fn outlier_detection_says_what_it_is_told() {
    let rows: [(&str, OutlierDetection); 4] = [
        ("{}", OutlierDetection::default()),
        (
            "{consecutive5xx: 0, consecutiveGatewayFailure: 2, enforcingConsecutiveGatewayFailure: 50}",
            OutlierDetection {
                consecutive_5xx: Some(0),
                consecutive_gateway_failure: Some(2),
                enforcing_consecutive_gateway_failure: Some(50),
                ..OutlierDetection::default()
            },
        ),
        (
            "{splitExternalLocalOriginErrors: true}",
            OutlierDetection { local_origin: Some(LocalOrigin::default()), ..OutlierDetection::default() },
        ),
        (
            // Each switches on what it is about.
            "{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailure: 2, enforcingConsecutiveLocalOriginFailure: 3, \
             enforcingLocalOriginSuccessRate: 4, enforcingFailurePercentageLocalOrigin: 5}",
            OutlierDetection {
                local_origin: Some(LocalOrigin {
                    consecutive: Some(2),
                    enforcing_consecutive: Some(3),
                    enforcing_success_rate: Some(4),
                    enforcing_failure_percentage: Some(5),
                }),
                success_rate: Some(SuccessRate::default()),
                failure_percentage: Some(FailurePercentage::default()),
                ..OutlierDetection::default()
            },
        ),
    ];
    for (said, want) in rows {
        let (policy, flaws) = policy(&format!("{TARGET}outlierDetection: {said}"));
        assert_eq!((flaws.len(), policy.expect("good").outlier_detection.as_deref()), (0, Some(&want)), "{said}");
    }
}

#[test]
fn a_field_that_is_unknown_is_a_warning() {
    let (policy, flaws) = policy(&format!("{TARGET}outlierDetection: {{alwaysEjectOneHost: true}}"));
    assert!(policy.is_some());
    assert_eq!(flaws, [(Severity::Warning, "spec.outlierDetection.alwaysEjectOneHost".to_owned())]);
}
