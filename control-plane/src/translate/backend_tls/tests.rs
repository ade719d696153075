use super::super::fixtures::{
    aged, backend, condition, meta, named, parent, port, route, rule, service, upserts, world,
};
use super::super::{MeshConfig, Translated, Translator};
use super::*;
use crate::model::{Batch, Certificate, ConfigMap, Kind, Object, ObjectKey};

/// The bytes stand for a certificate: what they are was found out when they were read.
fn ca(name: &str, certificates: &[u8]) -> ConfigMap {
    let certificates = certificates.iter().map(|byte| Certificate(vec![*byte])).collect();
    ConfigMap { meta: meta(name), ca: Ok(certificates) }
}

fn bad_ca(name: &str) -> ConfigMap {
    ConfigMap { meta: meta(name), ca: Err("it has no key ca.crt".to_owned()) }
}

fn reference(kind: &str, name: &str) -> LocalRef {
    LocalRef { group: String::new(), kind: kind.to_owned(), name: name.to_owned() }
}

/// For shop/db, by ConfigMap shop/ca.
fn policy(name: &str) -> BackendTlsPolicy {
    let target =
        PolicyTarget { group: String::new(), kind: "Service".to_owned(), name: "db".to_owned(), section_name: None };
    BackendTlsPolicy {
        meta: meta(name),
        targets: vec![target],
        hostname: "db.example.com".to_owned(),
        ca_refs: vec![reference("ConfigMap", "ca")],
        well_known: None,
        names: Vec::new(),
        options: Vec::new(),
    }
}

fn for_port(name: &str, section: &str) -> BackendTlsPolicy {
    let mut policy = policy(name);
    policy.targets[0].section_name = Some(section.to_owned());
    policy
}

fn db() -> Service {
    let named = |name: &str, number| ServicePort { name: name.to_owned(), ..port(number) };
    Service { ports: vec![named("tls", 80), named("other", 81)], ..service("shop/db", "10.96.0.1") }
}

/// What each port of shop/db asks of endpoints.
fn tls(world: &Translated) -> Vec<Option<v1::BackendTls>> {
    let ports = world.service_for("web", "shop/db").ports;
    ports.into_iter().map(|port| port.policy.and_then(|policy| policy.tls).map(|tls| *tls)).collect()
}

fn said(world: &Translated, policy: &str, of: &str) -> (bool, String, String) {
    let found = condition(&world.status_of_kind(Kind::BackendTlsPolicy, policy), of).expect(of);
    (found.status, found.reason.to_string(), found.message)
}

#[test]
fn a_policy_travels_with_its_service_and_with_routes_that_lead_there() {
    let mut with_names = policy("shop/p");
    with_names.names =
        vec![SubjectAltName::Hostname("*.Example.org".into()), SubjectAltName::Uri("spiffe://x/a".into())];
    let leads =
        route("web/r", vec![ParentRef { namespace: None, ..parent("own") }], vec![rule(vec![backend("shop/db")])]);
    let world = world(upserts![db(), service("web/own", "10.96.0.2"), ca("shop/ca", &[1, 2]), with_names, leads]);
    let name = |kind| SubjectName { kind: Some(kind) };
    let expected = v1::BackendTls {
        policy: "shop/p".into(),
        server_name: "db.example.com".into(),
        roots: vec![vec![1], vec![2]],
        names: vec![
            name(subject_name::Kind::Dns("*.example.org".into())),
            name(subject_name::Kind::Uri("spiffe://x/a".into())),
        ],
        ..v1::BackendTls::default()
    };
    assert_eq!(tls(&world), [Some(expected.clone()), Some(expected.clone())]);
    let port = world.service_for("web", "web/own").ports.remove(0);
    let Some(v1::weighted_target::Target::Backend(led)) = port.rules[0].targets[0].target.clone() else { panic!() };
    assert_eq!(led.policy.and_then(|policy| policy.tls).map(|tls| *tls), Some(expected));
    assert_eq!(port.policy, None, "the Service that is called has none");

    let status = world.status_of_kind(Kind::BackendTlsPolicy, "shop/p");
    let ancestor = &status.parents[0].parent_ref;
    assert_eq!(
        (ancestor.kind.as_deref(), ancestor.namespace.as_deref(), &*ancestor.name),
        (Some("Service"), Some("shop"), "db")
    );
    assert_eq!(said(&world, "shop/p", "Accepted").1, "Accepted");
    assert_eq!(said(&world, "shop/p", "ResolvedRefs").1, "ResolvedRefs");
}

/// What is wrong, and what the conditions say of it. Whatever it is, nothing goes in plain text.
#[test]
fn what_cannot_be_done_is_refused_by_name_and_fails_every_connection() {
    type Change = fn(&mut BackendTlsPolicy);
    let rows: [(&str, Change, &str, &str, &str); 11] = [
        (
            "no such ConfigMap",
            |p| p.ca_refs[0].name = "gone".into(),
            "NoValidCACertificate",
            "InvalidCACertificateRef",
            "there is no ConfigMap shop/gone",
        ),
        (
            "one without certificates",
            |p| p.ca_refs[0].name = "bad".into(),
            "NoValidCACertificate",
            "InvalidCACertificateRef",
            "ConfigMap shop/bad: it has no key ca.crt",
        ),
        (
            "another kind",
            |p| p.ca_refs[0].kind = "Secret".into(),
            "NoValidCACertificate",
            "InvalidKind",
            "put them into a ConfigMap",
        ),
        (
            "an unknown list",
            |p| (p.well_known, p.ca_refs) = (Some("x.org/list".into()), vec![]),
            "Invalid",
            "ResolvedRefs",
            "x.org/list is not known",
        ),
        ("neither", |p| p.ca_refs.clear(), "Invalid", "ResolvedRefs", "needs caCertificateRefs"),
        ("both", |p| p.well_known = Some("System".into()), "Invalid", "ResolvedRefs", "keep one"),
        ("an address", |p| p.hostname = "10.0.0.1".into(), "Invalid", "ResolvedRefs", "must be a DNS name"),
        ("no name", |p| p.hostname = "a b".into(), "Invalid", "ResolvedRefs", "must be a DNS name"),
        (
            "options",
            |p| p.options = vec!["x.org/min-version".into()],
            "Invalid",
            "ResolvedRefs",
            "options has x.org/min-version",
        ),
        (
            "a bad alternative",
            |p| p.names = vec![SubjectAltName::Uri("none".into())],
            "Invalid",
            "ResolvedRefs",
            "subjectAltNames has `none`",
        ),
        (
            "a bad wildcard",
            |p| p.names = vec![SubjectAltName::Hostname("a.*.b".into())],
            "Invalid",
            "ResolvedRefs",
            "subjectAltNames has `a.*.b`",
        ),
    ];
    for (row, change, accepted, resolved, why) in rows {
        let mut wrong = policy("shop/p");
        change(&mut wrong);
        let world = world(upserts![db(), ca("shop/ca", &[1]), bad_ca("shop/bad"), wrong]);
        let [Some(wire), Some(_)] = &tls(&world)[..] else { panic!("{row}: plain text") };
        assert!(wire.refused.contains(why) && wire.roots.is_empty() && !wire.system_roots, "{row}: {wire:?}");
        let (status, reason, message) = said(&world, "shop/p", "Accepted");
        assert_eq!((status, &*reason), (false, accepted), "{row}: {message}");
        assert!(message.contains(why), "{row}: {message}");
        let (status, reason, _) = said(&world, "shop/p", "ResolvedRefs");
        assert_eq!((status, &*reason), (resolved == "ResolvedRefs", resolved), "{row}");
    }
}

#[test]
fn one_good_reference_is_enough_and_the_public_roots_need_none() {
    let mut two = policy("shop/p");
    two.ca_refs = vec![reference("ConfigMap", "gone"), reference("ConfigMap", "ca"), reference("Secret", "ca")];
    let world = world(upserts![db(), ca("shop/ca", &[1]), two]);
    assert_eq!(tls(&world)[0].as_ref().unwrap().roots, [[1]]);
    assert_eq!(said(&world, "shop/p", "Accepted"), (true, "Accepted".into(), "in effect for Service shop/db".into()));
    let (status, reason, message) = said(&world, "shop/p", "ResolvedRefs");
    assert_eq!((status, &*reason), (false, "InvalidCACertificateRef"), "the first that is wrong");
    assert!(message.contains("shop/gone") && message.contains("Secret shop/ca of group core"), "{message}");

    let public = BackendTlsPolicy { ca_refs: vec![], well_known: Some("System".into()), ..policy("shop/p") };
    let world = super::super::fixtures::world(upserts![db(), public]);
    assert!(tls(&world)[0].as_ref().unwrap().system_roots && said(&world, "shop/p", "Accepted").0);
}

#[test]
fn the_oldest_policy_for_a_target_acts_and_the_others_are_told_which_it_is() {
    let at = |policy: BackendTlsPolicy, age| BackendTlsPolicy { meta: aged(policy.meta.clone(), age), ..policy };
    let objects = upserts![
        db(),
        ca("shop/ca", &[1]),
        at(policy("shop/a"), 2),
        at(policy("shop/b"), 1),
        at(policy("shop/c"), 1),
        at(for_port("shop/d", "tls"), 9),
        at(for_port("shop/e", "tls"), 9),
    ];
    let world = world(objects);
    let acts: Vec<_> = tls(&world).into_iter().map(|tls| tls.unwrap().policy).collect();
    assert_eq!(acts, ["shop/d", "shop/b"], "one for the port goes before one for the Service");
    for (name, winner) in [
        ("shop/a", Some("shop/b")),
        ("shop/b", None),
        ("shop/c", Some("shop/b")),
        ("shop/d", None),
        ("shop/e", Some("shop/d")),
    ] {
        let (status, reason, message) = said(&world, name, "Accepted");
        assert_eq!(
            (status, &*reason),
            (winner.is_none(), if winner.is_none() { "Accepted" } else { "Conflicted" }),
            "{name}"
        );
        assert!(winner.is_none_or(|winner| message.contains(winner)), "{name}: {message}");
    }
}

#[test]
fn a_policy_that_is_wrong_keeps_its_place() {
    let old = BackendTlsPolicy { ca_refs: vec![reference("ConfigMap", "gone")], ..policy("shop/a") };
    let young = BackendTlsPolicy { meta: aged(meta("shop/b"), 5), ..policy("shop/b") };
    let world = world(upserts![db(), ca("shop/ca", &[1]), old, young]);
    assert!(tls(&world)[0].as_ref().unwrap().refused.contains("shop/gone"));
    assert_eq!(said(&world, "shop/b", "Accepted").1, "Conflicted");
}

#[test]
fn a_target_that_is_not_there_is_named_and_found_when_it_comes() {
    let key = |name: &str| ObjectKey { kind: Kind::BackendTlsPolicy, name: named(name) };
    let mut translator = Translator::new(MeshConfig::default());
    let (world, _) = translator.apply(upserts![ca("shop/ca", &[1]), policy("shop/p"), for_port("shop/q", "tls")]);
    for name in ["shop/p", "shop/q"] {
        let (status, reason, message) = said(&world, name, "Accepted");
        assert_eq!((status, &*reason), (false, "TargetNotFound"), "{message}");
    }
    let (world, touched) = translator.apply(upserts![db()]);
    assert!(touched.statuses.contains(&key("shop/p")) && said(&world, "shop/p", "Accepted").0);
    let (world, _) = translator.apply(upserts![Service { ports: vec![port(80)], ..db() }]);
    assert!(said(&world, "shop/q", "Accepted").2.contains("has no port named tls"));
    assert!(tls(&world)[0].is_some(), "the one for the Service is for it");

    // Certificates that change, and a policy that goes.
    let (world, touched) = translator.apply(upserts![ca("shop/ca", &[2])]);
    assert_eq!(tls(&world)[0].as_ref().unwrap().roots, [[2]]);
    assert!(touched.names.contains_key(weft_proto::type_url::SERVICE));
    let removes = vec![key("shop/p"), key("shop/q")];
    let (world, touched) = translator.apply(Batch { removes, ..Batch::default() });
    assert_eq!((tls(&world), touched.statuses.len()), (vec![None], 2));
}

#[test]
fn what_is_nobodys_or_anothers_has_no_status() {
    let mut other = policy("shop/p");
    other.targets[0].kind = "ServiceImport".to_owned();
    let world = world(Batch { upserts: vec![Object::from(other), Object::from(db())], ..Batch::default() });
    assert!(world.route_status(&ObjectKey { kind: Kind::BackendTlsPolicy, name: named("shop/p") }).is_none());
    assert_eq!(tls(&world), [None, None]);
}
