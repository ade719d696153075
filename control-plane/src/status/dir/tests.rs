use std::time::Duration;

use super::form::StatusFile;
use super::*;
use crate::model::{ObjectName, ParentRef};
use crate::source::Severity;
use crate::status::ParentStatus;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn status(accepted: bool, resolved: bool, generation: i64) -> RouteStatus {
    let condition = |kind, status, message: &str| Condition {
        kind,
        status,
        reason: if status { kind } else { "Not: \"so\"" }.into(),
        message: message.to_owned(),
        observed_generation: generation,
    };
    let parent_ref = ParentRef {
        group: Some(String::new()),
        kind: Some("Service".into()),
        namespace: None,
        name: "reviews".into(),
        section_name: None,
        port: Some(80),
    };
    RouteStatus {
        parents: vec![ParentStatus {
            parent_ref,
            conditions: vec![condition("Accepted", accepted, ""), condition("ResolvedRefs", resolved, "a: b # c\nd")],
        }],
    }
}

fn key(kind: Kind) -> ObjectKey {
    ObjectKey { kind, name: ObjectName::new("default", "reviews") }
}

/// Types and times of the conditions on disk.
fn times(directory: &Path) -> Vec<(String, String, i64, String)> {
    let text = fs::read_to_string(directory.join("HTTPRoute.default.reviews.yaml")).unwrap();
    let form: StatusFile = serde_saphyr::from_str(&text).unwrap();
    let conditions = form.status.parents.into_iter().flat_map(|parent| parent.conditions);
    conditions.map(|c| (c.r#type, c.status, c.observed_generation, c.last_transition_time)).collect()
}

#[test]
fn a_transition_time_moves_only_with_its_status_even_across_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let row = |kind: &str, status: &str, generation, time: &str| {
        (kind.to_owned(), status.to_owned(), generation, format!("1970-01-01T00:00:{time}Z"))
    };
    let mut writer = StatusDir::open(directory.path()).unwrap();
    assert!(writer.set_route(&key(Kind::HttpRoute), &status(true, false, 1), at(1)).unwrap());
    assert_eq!(times(directory.path()), [row("Accepted", "True", 1, "01"), row("ResolvedRefs", "False", 1, "01")]);

    assert!(!writer.set_route(&key(Kind::HttpRoute), &status(true, false, 1), at(2)).unwrap(), "nothing changed");

    assert!(writer.set_route(&key(Kind::HttpRoute), &status(true, true, 2), at(3)).unwrap());
    assert_eq!(times(directory.path()), [row("Accepted", "True", 2, "01"), row("ResolvedRefs", "True", 2, "03")]);

    let mut writer = StatusDir::open(directory.path()).unwrap();
    assert!(!writer.set_route(&key(Kind::HttpRoute), &status(true, true, 2), at(4)).unwrap(), "nothing changed");
    assert!(writer.set_route(&key(Kind::HttpRoute), &status(false, true, 2), at(5)).unwrap());
    assert_eq!(times(directory.path()), [row("Accepted", "False", 2, "05"), row("ResolvedRefs", "True", 2, "03")]);
}

#[test]
fn a_status_reads_as_kubectl_would_show_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = StatusDir::open(directory.path().join("made/on/the/way")).unwrap();
    writer.set_route(&key(Kind::HttpRoute), &status(true, true, 7), at(86_399)).unwrap();
    let text = fs::read_to_string(writer.directory().join("HTTPRoute.default.reviews.yaml")).unwrap();
    for line in [
        "kind: HTTPRoute",
        "controllerName: weft.dev/mesh-controller",
        "lastTransitionTime: \"1970-01-01T23:59:59Z\"",
        "observedGeneration: 7",
        "sectionName",
    ] {
        assert_eq!(text.contains(line), line != "sectionName", "{line} in\n{text}");
    }
    // Text to whoever reads YAML 1.1, where True is a boolean.
    assert!(text.contains("status: \"True\"") || text.contains("status: 'True'"), "{text}");
}

#[test]
fn an_object_of_our_own_has_one_condition_and_keeps_its_time_across_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let accepted = |status, message: &str| Condition {
        kind: "Accepted",
        status,
        reason: if status { "Accepted" } else { "TargetNotFound" }.into(),
        message: message.to_owned(),
        observed_generation: 3,
    };
    let limit = key(Kind::RateLimit);
    let read = || fs::read_to_string(directory.path().join("RateLimit.default.reviews.yaml")).unwrap();
    let mut writer = StatusDir::open(directory.path()).unwrap();
    assert!(writer.set_own(&limit, &accepted(false, "no a"), at(1)).unwrap());
    assert!(!writer.set_own(&limit, &accepted(false, "no a"), at(2)).unwrap());
    let mut writer = StatusDir::open(directory.path()).unwrap();
    assert!(writer.set_own(&limit, &accepted(false, "no b"), at(3)).unwrap());
    let text = read();
    for part in ["apiVersion: weft.dev/v1alpha1", "kind: RateLimit", "no b", "00:00:01Z", "observedGeneration: 3"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("parents") && !text.contains("controllerName"), "{text}");
    assert!(writer.set_own(&limit, &accepted(true, "fine"), at(4)).unwrap());
    assert!(read().contains("00:00:04Z"), "{}", read());
    assert_eq!(writer.retain_objects([]).unwrap(), 1);
    assert!(!directory.path().join("RateLimit.default.reviews.yaml").exists());
}

#[test]
fn files_go_with_their_routes_and_foreign_files_stay() {
    let directory = tempfile::tempdir().unwrap();
    let has = |file: &str| directory.path().join(file).exists();
    fs::write(directory.path().join("notes.yaml"), "mine").unwrap();
    fs::write(directory.path().join("HTTPRoute.default.old.yaml"), "broken: [").unwrap();
    fs::write(directory.path().join(".HTTPRoute.default.old.yaml.tmp"), "").unwrap();
    let mut writer = StatusDir::open(directory.path()).unwrap();
    assert!(!has(".HTTPRoute.default.old.yaml.tmp"));
    writer.set_route(&key(Kind::HttpRoute), &status(true, true, 1), at(1)).unwrap();
    assert_eq!(writer.retain_objects([&key(Kind::HttpRoute)]).unwrap(), 1);
    assert!(has("notes.yaml") && has("HTTPRoute.default.reviews.yaml") && !has("HTTPRoute.default.old.yaml"));
    writer.set_route(&key(Kind::GrpcRoute), &status(true, true, 1), at(1)).unwrap();
    assert!(has("GRPCRoute.default.reviews.yaml"), "a kind of its own, a file of its own");
    let policy = key(Kind::BackendTlsPolicy);
    assert!(writer.set_route(&policy, &status(true, true, 1), at(1)).unwrap());
    let written = fs::read_to_string(directory.path().join("BackendTLSPolicy.default.reviews.yaml")).unwrap();
    assert!(written.contains("ancestors:") && written.contains("ancestorRef:") && !written.contains("parents:"));
    assert!(!StatusDir::open(directory.path()).unwrap().set_route(&policy, &status(true, true, 1), at(2)).unwrap());
    assert!(writer.remove_object(&policy).unwrap());
    let policy = key(Kind::TrafficPolicy);
    writer.set_route(&policy, &status(true, true, 1), at(1)).unwrap();
    let written = fs::read_to_string(directory.path().join("XBackendTrafficPolicy.default.reviews.yaml")).unwrap();
    assert!(written.contains("gateway.networking.x-k8s.io/v1alpha1") && written.contains("ancestorRef:"), "{written}");
    assert!(writer.remove_object(&policy).unwrap());
    assert!(writer.remove_object(&key(Kind::HttpRoute)).unwrap());
    assert!(!writer.remove_object(&key(Kind::HttpRoute)).unwrap());
    assert!(!has("HTTPRoute.default.reviews.yaml") && has("GRPCRoute.default.reviews.yaml"));
    assert_eq!(writer.retain_objects([]).unwrap(), 1);
}

#[test]
fn problems_are_listed_for_people_and_for_programs() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = StatusDir::open(directory.path()).unwrap();
    let problem = Problem {
        file: "reviews.yaml".into(),
        line: 14,
        column: 7,
        field: "spec.rules[0].backendRefs[0].weight".into(),
        severity: Severity::Error,
        message: "must be between 0 and 1000000".into(),
        object: Some(key(Kind::HttpRoute)),
    };
    assert!(writer.set_problems(std::slice::from_ref(&problem)).unwrap());
    assert!(!writer.set_problems(&[problem]).unwrap());
    let read = |file: &str| fs::read_to_string(directory.path().join(file)).unwrap();
    assert_eq!(
        read("problems.txt"),
        "error: reviews.yaml:14: spec.rules[0].backendRefs[0].weight: must be between 0 and 1000000\n"
    );
    let json: serde_json::Value = serde_json::from_str(&read("problems.json")).unwrap();
    assert_eq!(json[0]["line"], 14);
    assert_eq!(json[0]["object"]["name"], "reviews");
    assert!(writer.set_problems(&[]).unwrap());
    assert_eq!((read("problems.txt").as_str(), read("problems.json").as_str()), ("", "[]\n"));
}
