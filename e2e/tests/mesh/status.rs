//! Every reason that a condition can have, from manifests to the status files, each with a message that says what to do
//! (SEMANTICS.md §2 "Status"). `weft.dev/Programmed` needs an API server to be written to: its reasons are in the control plane's tests
//! against one. `Invalid` of the Gateway API's kinds is refused by their schema before.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_e2e::manifest::{Port, labels};
use weft_e2e::{Mesh, manifest, probe};

use crate::shop::pause;

/// Type, status and reason of a condition, and words of its message.
type Said = (&'static str, &'static str, &'static str, &'static str);

const ACCEPTED: Said = ("Accepted", "True", "Accepted", "");
const RESOLVED: Said = ("ResolvedRefs", "True", "ResolvedRefs", "");

/// Kind, the spec in YAML, and what its status says.
const ROWS: [(&str, &str, &str, &[Said]); 29] = [
    (
        "HTTPRoute",
        "good",
        "parentRefs: [{group: '', kind: Service, name: web}]\n  rules: [{backendRefs: [{name: web, port: 80}]}]",
        &[ACCEPTED, RESOLVED],
    ),
    (
        "HTTPRoute",
        "no-parent",
        "parentRefs: [{group: '', kind: Service, name: nobody}]\n  rules: [{backendRefs: [{name: web, port: 80}]}]",
        &[("Accepted", "False", "NoMatchingParent", "there is no Service demo/nobody; create it")],
    ),
    (
        "HTTPRoute",
        "no-port",
        "parentRefs: [{group: '', kind: Service, name: web, port: 81}]\n  rules: [{backendRefs: [{name: web, port: 80}]}]",
        &[("Accepted", "False", "NoMatchingParent", "has no port 81; it has 80 http")],
    ),
    (
        "HTTPRoute",
        "headless-parent",
        "parentRefs: [{group: '', kind: Service, name: headless}]\n  rules: [{backendRefs: [{name: web, port: 80}]}]",
        &[("Accepted", "False", "NoMatchingParent", "make a Service with a cluster IP for the same pods")],
    ),
    (
        "HTTPRoute",
        "not-a-service",
        "parentRefs: [{kind: Service, name: web}]\n  rules: [{backendRefs: [{name: web, port: 80}]}]",
        &[("Accepted", "False", "InvalidKind", "in the parentRef")],
    ),
    (
        "HTTPRoute",
        "no-backend",
        "parentRefs: [{group: '', kind: Service, name: idle}]\n  rules: [{matches: [{path: {value: /a}}], backendRefs: [{name: nobody, port: 80}]}]",
        &[ACCEPTED, ("ResolvedRefs", "False", "BackendNotFound", "there is no Service demo/nobody")],
    ),
    (
        "HTTPRoute",
        "backend-of-another-kind",
        "parentRefs: [{group: '', kind: Service, name: idle}]\n  rules: [{matches: [{path: {value: /b}}], backendRefs: [{group: example.com, kind: Bucket, name: web, port: 80}]}]",
        &[ACCEPTED, ("ResolvedRefs", "False", "InvalidKind", "only a Service can be one")],
    ),
    (
        "HTTPRoute",
        "backend-of-bytes",
        "parentRefs: [{group: '', kind: Service, name: idle}]\n  rules: [{matches: [{path: {value: /c}}], backendRefs: [{name: bytes, port: 90}]}]",
        &[ACCEPTED, ("ResolvedRefs", "False", "UnsupportedProtocol", "set its appProtocol to")],
    ),
    (
        "HTTPRoute",
        "backend-without-a-port",
        "parentRefs: [{group: '', kind: Service, name: idle}]\n  rules: [{matches: [{path: {value: /d}}], backendRefs: [{name: outside, port: 80}]}]",
        &[ACCEPTED, ("ResolvedRefs", "False", "UnsupportedValue", "is an ExternalName for example.com")],
    ),
    (
        "HTTPRoute",
        "unknown-extension",
        "parentRefs: [{group: '', kind: Service, name: idle}]\n  rules: [{matches: [{path: {value: /e}}], filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Filter, name: mine}}], backendRefs: [{name: web, port: 80}]}]",
        &[("ResolvedRefs", "False", "InvalidKind", "this version knows FaultInjection of weft.dev only")],
    ),
    (
        "HTTPRoute",
        "no-fault",
        "parentRefs: [{group: '', kind: Service, name: idle}]\n  rules: [{matches: [{path: {value: /f}}], filters: [{type: ExtensionRef, extensionRef: {group: weft.dev, kind: FaultInjection, name: none}}], backendRefs: [{name: web, port: 80}]}]",
        &[("ResolvedRefs", "False", "FilterNotFound", "make it, in the route's namespace")],
    ),
    (
        "HTTPRoute",
        "unsupported",
        "parentRefs: [{group: '', kind: Service, name: idle}]\n  rules: [{matches: [{path: {value: /g}}], filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: web, port: 80}}}], backendRefs: [{name: web, port: 80}]}]",
        &[("Accepted", "False", "UnsupportedValue", "no rule can be used"), RESOLVED],
    ),
    (
        "HTTPRoute",
        "partly-unsupported",
        "parentRefs: [{group: '', kind: Service, name: idle}]\n  rules: [{matches: [{path: {value: /h}}], filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: web, port: 80}}}], backendRefs: [{name: web, port: 80}]}, {matches: [{path: {value: /i}}], backendRefs: [{name: web, port: 80}]}]",
        &[ACCEPTED, ("PartiallyInvalid", "True", "UnsupportedValue", "Answering 500: rule 0")],
    ),
    (
        "HTTPRoute",
        "incompatible",
        "parentRefs: [{group: '', kind: Service, name: idle}]\n  rules: [{matches: [{path: {value: /j}}], filters: [{type: URLRewrite, urlRewrite: {hostname: a.example}}], backendRefs: [{name: web, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: b.example}}]}]}]",
        &[("PartiallyInvalid", "True", "IncompatibleFilters", "make them one")],
    ),
    (
        "TCPRoute",
        "conflicted",
        "parentRefs: [{group: '', kind: Service, name: web, port: 80}]\n  rules: [{backendRefs: [{name: web, port: 80}]}]",
        &[("Accepted", "False", "RouteReasonConflicted", "HTTPRoute")],
    ),
    (
        "BackendTLSPolicy",
        "a-policy",
        "targetRefs: [{group: '', kind: Service, name: outside-tls}]\n  validation: {hostname: a.example, wellKnownCACertificates: System}",
        &[ACCEPTED, RESOLVED],
    ),
    (
        "BackendTLSPolicy",
        "b-second",
        "targetRefs: [{group: '', kind: Service, name: outside-tls}]\n  validation: {hostname: a.example, wellKnownCACertificates: System}",
        &[("Accepted", "False", "Conflicted", "a-policy")],
    ),
    (
        "BackendTLSPolicy",
        "no-target",
        "targetRefs: [{group: '', kind: Service, name: nobody}]\n  validation: {hostname: a.example, wellKnownCACertificates: System}",
        &[("Accepted", "False", "TargetNotFound", "there is no Service demo/nobody; create it")],
    ),
    (
        "BackendTLSPolicy",
        "no-roots",
        "targetRefs: [{group: '', kind: Service, name: idle}]\n  validation: {hostname: a.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: none}]}",
        &[
            ("Accepted", "False", "NoValidCACertificate", ""),
            ("ResolvedRefs", "False", "InvalidCACertificateRef", "none"),
        ],
    ),
    (
        "BackendTLSPolicy",
        "roots-of-another-kind",
        "targetRefs: [{group: '', kind: Service, name: headless}]\n  validation: {hostname: a.example, caCertificateRefs: [{group: '', kind: Secret, name: none}]}",
        &[
            ("Accepted", "False", "NoValidCACertificate", ""),
            ("ResolvedRefs", "False", "InvalidKind", "put them into a ConfigMap"),
        ],
    ),
    (
        "BackendPolicy",
        "c-first",
        "targetRefs: [{kind: Service, name: web}]\n  connectTimeout: 1s",
        &[("Accepted", "True", "Accepted", "clients call its Services as it says")],
    ),
    (
        "BackendPolicy",
        "d-second",
        "targetRefs: [{kind: Service, name: web}]\n  connectTimeout: 2s",
        &[("Accepted", "False", "Conflicted", "for Service demo/web that is demo/c-first. Put both into one")],
    ),
    (
        "BackendPolicy",
        "policy-lost",
        "targetRefs: [{kind: Service, name: nobody}]\n  connectTimeout: 1s",
        &[("Accepted", "False", "TargetNotFound", "there is no Service demo/nobody: make it, or mend spec.targetRefs")],
    ),
    (
        "BackendPolicy",
        "policy-wrong",
        "targetRefs: [{kind: Service, name: web}]\n  connectTimeout: 0s",
        &[("Accepted", "False", "Invalid", "spec.connectTimeout: must be")],
    ),
    ("FaultInjection", "fault", "delay: {fixedDelay: 1s}", &[("Accepted", "True", "Accepted", "routes may name it")]),
    (
        "FaultInjection",
        "fault-wrong",
        "delay: {fixedDelay: 0s}",
        &[("Accepted", "False", "Invalid", "spec.delay.fixedDelay: must be more than 0s")],
    ),
    (
        "RateLimit",
        "limit",
        "targetRefs: [{kind: Service, name: idle}, {group: gateway.networking.k8s.io, kind: HTTPRoute, name: good}]\n  requests: 1000",
        &[("Accepted", "True", "Accepted", "count requests")],
    ),
    (
        "RateLimit",
        "limit-lost",
        "targetRefs: [{kind: Service, name: idle}, {group: gateway.networking.k8s.io, kind: GRPCRoute, name: good}]\n  requests: 1000",
        &[("Accepted", "False", "TargetNotFound", "there is no GRPCRoute demo/good with a Service as parent: make it")],
    ),
    (
        "RateLimit",
        "limit-wrong",
        "targetRefs: [{kind: Service, name: idle}]\n  requests: 0",
        &[("Accepted", "False", "Invalid", "spec.requests: must be")],
    ),
];

fn object(kind: &str, name: &str, spec: &str) -> String {
    let version = match kind {
        "BackendPolicy" | "FaultInjection" | "RateLimit" => "weft.dev/v1alpha1",
        _ => "gateway.networking.k8s.io/v1",
    };
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: demo}}\nspec:\n  {spec}\n")
}

/// The conditions of a status file: type, status, reason, message. Long messages are folded over several lines.
fn conditions(text: &str) -> Vec<[String; 4]> {
    let value = |line: &str, key: &str| {
        let rest = line.trim_start().trim_start_matches("- ").strip_prefix(key)?.strip_prefix(": ")?;
        Some(rest.trim_matches(['"', '\'']).to_owned())
    };
    let mut out: Vec<[String; 4]> = Vec::new();
    let mut folded = false;
    for line in text.lines() {
        if let Some(kind) = value(line, "type") {
            out.push([kind, String::new(), String::new(), String::new()]);
        }
        let Some(last) = out.last_mut() else { continue };
        folded &= !line.trim_start().starts_with("observedGeneration: ");
        if folded {
            last[3] += " ";
            last[3] += line.trim();
        }
        for (at, key) in [(1, "status"), (2, "reason"), (3, "message")] {
            if let Some(value) = value(line, key) {
                folded = key == "message";
                last[at] = value;
            }
        }
    }
    out
}

#[test]
fn every_reason_is_said_with_what_to_do() {
    let mesh = Mesh::new("reasons").unwrap();
    mesh.manifests().write("namespace", &manifest::namespace("demo")).unwrap();
    let http = [Port::new("http", 80, 8080)];
    for name in ["web", "idle"] {
        mesh.service("demo", name, &http, labels([("app", name)])).unwrap();
    }
    mesh.service("demo", "outside-tls", &[Port::new("tls", 443, 8443)], labels([("app", "none")])).unwrap();
    mesh.service("demo", "bytes", &[Port::new("db", 90, 9090).speaking("tcp")], labels([("app", "none")])).unwrap();
    for (name, spec) in [
        ("headless", "clusterIP: None\n  ports: [{name: http, port: 80}]"),
        ("outside", "type: ExternalName\n  externalName: example.com"),
    ] {
        let service = object("Service", name, spec).replace("gateway.networking.k8s.io/v1", "v1");
        mesh.manifests().write(name, &service).unwrap();
    }
    for (kind, name, spec, _) in ROWS {
        mesh.manifests().write(&format!("row-{name}"), &object(kind, name, spec)).unwrap();
    }
    mesh.start_control_plane().unwrap();
    let read = |kind: &str, name: &str| {
        std::fs::read_to_string(mesh.folder().join("status").join(format!("{kind}.demo.{name}.yaml")))
            .unwrap_or_default()
    };
    let until = |kind: &str, name: &str, (condition, status, reason, words): Said| {
        let is =
            |[a, b, c, message]: &[String; 4]| a == condition && b == status && c == reason && message.contains(words);
        probe::wait_until(&format!("{kind} {name}: {condition}={status} {reason}"), Duration::from_secs(10), || {
            pause(Duration::from_millis(50));
            conditions(&read(kind, name)).iter().any(is)
        })
        .unwrap_or_else(|error| panic!("{error}; it says {:#?}", conditions(&read(kind, name))));
    };
    let mut said = BTreeSet::new();
    for (kind, name, _, wanted) in ROWS {
        for wanted in wanted {
            until(kind, name, *wanted);
            said.insert((wanted.0, wanted.2));
        }
    }
    println!("{} pairs of condition and reason were said", said.len());

    // Of our own kinds it follows every edit, whatever that is of.
    mesh.manifests().write("row-fault", &object("FaultInjection", "fault", "abort: {}")).unwrap();
    until(
        "FaultInjection",
        "fault",
        ("Accepted", "False", "Invalid", "What it was before, if it was ever right, stays"),
    );
    mesh.manifests().remove("row-c-first");
    until("BackendPolicy", "d-second", ("Accepted", "True", "Accepted", ""));
    let gone = || read("BackendPolicy", "c-first").is_empty();
    probe::wait_until("the status of what is gone to go", Duration::from_secs(10), gone).unwrap();
    mesh.manifests().remove("row-good");
    until("RateLimit", "limit", ("Accepted", "False", "TargetNotFound", "no HTTPRoute demo/good"));
}
