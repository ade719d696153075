use super::super::fixtures::{
    aged, backend, fault_injection, grpc_route, meta, named, parent, rate_limit, rate_target, route, rule, service,
    upserts,
};
use super::super::{MeshConfig, Translated, Translator};
use super::*;
use crate::model::{Batch, ConnectionLimits, ObjectName, ParentRef, RateTarget};

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey { kind, name: named(name) }
}

fn policy(name: &str, age: i64, services: &[&str]) -> BackendPolicy {
    BackendPolicy {
        meta: aged(meta(name), age),
        targets: services.iter().map(|name| (*name).to_owned()).collect(),
        load_balancer: None,
        outlier_detection: None,
        limits: ConnectionLimits::default(),
        connect_timeout: None,
        http_idle_timeout: None,
        tcp_idle_timeout: None,
    }
}

/// `REASON: MESSAGE`
fn said(world: &Translated, kind: Kind, name: &str) -> String {
    let condition = world.own_condition(&key(kind, name)).unwrap();
    assert_eq!((condition.kind, condition.status), ("Accepted", condition.reason == "Accepted"));
    format!("{}: {}", condition.reason, condition.message)
}

fn says(world: &Translated, kind: Kind, name: &str, reason: &str, words: &str) {
    let found = said(world, kind, name);
    assert!(found.starts_with(&format!("{reason}: ")) && found.contains(words), "{name}: {found}");
}

#[test]
fn a_service_that_is_not_there_is_named_until_it_is_and_again_when_it_goes() {
    let mut translator = Translator::new(MeshConfig::default());
    let limit = rate_limit("shop/l");
    let limit = RateLimit { targets: vec![rate_target("shop/a"), rate_target("shop/b")], ..limit };
    let (world, _) =
        translator.apply(upserts![service("shop/a", "10.96.0.1"), limit, policy("shop/p", 1, &["a", "b"])]);
    let both = [(Kind::RateLimit, "shop/l"), (Kind::BackendPolicy, "shop/p")];
    for (kind, name) in both {
        says(&world, kind, name, "TargetNotFound", "there is no Service shop/b: make it");
    }
    let (world, touched) = translator.apply(upserts![service("shop/b", "10.96.0.2")]);
    for (kind, name) in both {
        says(&world, kind, name, "Accepted", "");
        assert!(touched.statuses.contains(&key(kind, name)), "{name}");
    }
    let removes = vec![key(Kind::Service, "shop/a")];
    let (world, _) = translator.apply(Batch { removes, ..Batch::default() });
    for (kind, name) in both {
        says(&world, kind, name, "TargetNotFound", "there is no Service shop/a: make it");
    }
}

#[test]
fn a_service_with_several_missing_sections_is_named_once() {
    let section = |name: &str| RateTarget { section: Some(name.to_owned()), ..rate_target("shop/a") };
    let limit = RateLimit { targets: vec![section("x"), section("y")], ..rate_limit("shop/l") };
    let (world, _) = Translator::new(MeshConfig::default()).apply(upserts![limit]);
    assert_eq!(said(&world, Kind::RateLimit, "shop/l").matches("shop/a").count(), 1);
}

#[test]
fn of_several_policies_for_a_service_all_but_the_oldest_say_who_counts() {
    let mut translator = Translator::new(MeshConfig::default());
    translator.apply(upserts![
        service("shop/web", "10.96.0.1"),
        service("shop/db", "10.96.0.2"),
        service("shop/cache", "10.96.0.3"),
        service("else/web", "10.96.0.4"),
    ]);
    let (world, _) = translator.apply(upserts![
        policy("shop/b", 2, &["web", "db"]),
        policy("shop/c", 2, &["web"]),
        policy("shop/old", 1, &["db"]),
        policy("shop/d", 3, &["web", "cache"]),
        policy("else/z", 9, &["web"]),
    ]);
    for (name, reason, words) in [
        ("shop/b", "Conflicted", "for Service shop/db that is shop/old. Put both"),
        ("shop/c", "Conflicted", "for Service shop/web that is shop/b. Put both"),
        ("shop/old", "Accepted", "clients call its Services"),
        ("shop/d", "Conflicted", "for Service shop/web that is shop/b. Put both"),
        ("else/z", "Accepted", ""),
    ] {
        says(&world, Kind::BackendPolicy, name, reason, words);
    }
    // It gives up one, and the next in age has it.
    let (world, touched) = translator.apply(upserts![policy("shop/b", 2, &["db"])]);
    says(&world, Kind::BackendPolicy, "shop/c", "Accepted", "");
    says(&world, Kind::BackendPolicy, "shop/d", "Conflicted", "that is shop/c");
    assert!(touched.statuses.contains(&key(Kind::BackendPolicy, "shop/d")));
    let removes = vec![key(Kind::BackendPolicy, "shop/c")];
    let (world, _) = translator.apply(Batch { removes, ..Batch::default() });
    says(&world, Kind::BackendPolicy, "shop/d", "Accepted", "");
    assert!(world.own_condition(&key(Kind::BackendPolicy, "shop/c")).is_none());
}

#[test]
fn a_route_that_is_not_there_or_has_another_parent_is_named() {
    let target = |kind, name: &str| RateTarget { object: key(kind, name), section: None };
    let limit = RateLimit {
        targets: vec![
            target(Kind::HttpRoute, "shop/a"),
            target(Kind::GrpcRoute, "shop/a"),
            target(Kind::HttpRoute, "shop/b"),
        ],
        ..rate_limit("shop/l")
    };
    let gateway = ParentRef { kind: Some("Gateway".to_owned()), ..parent("reviews") };
    let rules = || vec![rule(vec![backend("shop/reviews")])];
    let mut translator = Translator::new(MeshConfig::default());
    let (world, _) = translator.apply(upserts![
        limit,
        route("shop/a", vec![parent("reviews")], rules()),
        route("shop/b", vec![gateway], rules()),
    ]);
    let gone = "no GRPCRoute shop/a with a Service as parent, HTTPRoute shop/b with a Service as parent: make it";
    says(&world, Kind::RateLimit, "shop/l", "TargetNotFound", gone);
    let (world, _) = translator.apply(upserts![
        grpc_route("shop/a", vec![parent("reviews")], rules()),
        route("shop/b", vec![parent("reviews")], rules()),
    ]);
    says(&world, Kind::RateLimit, "shop/l", "Accepted", "");
    let removes = vec![key(Kind::HttpRoute, "shop/a")];
    let (world, touched) = translator.apply(Batch { removes, ..Batch::default() });
    says(&world, Kind::RateLimit, "shop/l", "TargetNotFound", "no HTTPRoute shop/a with");
    assert!(touched.statuses.contains(&key(Kind::RateLimit, "shop/l")));
}

#[test]
fn it_is_said_of_the_generation_that_was_translated_and_of_our_kinds_only() {
    let mut translator = Translator::new(MeshConfig::default());
    let mut fault = fault_injection("shop/f");
    fault.meta.generation = 7;
    let (world, _) = translator.apply(upserts![fault, service("shop/a", "10.96.0.1")]);
    let found = world.own_condition(&key(Kind::FaultInjection, "shop/f")).unwrap();
    assert_eq!((found.status, found.observed_generation), (true, 7));
    let named: Vec<ObjectName> = world.own_conditions().map(|(key, _)| key.name.clone()).collect();
    assert_eq!(named, [super::super::fixtures::named("shop/f")]);
    let refused = refused("spec.delay: is wrong", 8);
    assert_eq!((refused.status, &*refused.reason, refused.observed_generation), (false, "Invalid", 8));
    assert!(refused.message.starts_with("spec.delay: is wrong. What it was before"), "{}", refused.message);
}
