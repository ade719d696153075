use std::time::Duration;

use super::super::fixtures::{
    aged, backend, condition, named, parent, port, route, rule, service, traffic_policy, upserts, world,
};
use super::super::{MeshConfig, Translated, Translator};
use super::*;
use crate::model::{Batch, Kind, ObjectKey, RetryConstraint, SessionPersistence};

/// What each port of a Service is told.
fn says(world: &Translated, service: &str) -> Vec<Says> {
    let ports = world.service_for("web", service).ports;
    ports.into_iter().map(|port| said_by(port.policy)).collect()
}

fn said_by(policy: Option<v1::BackendPolicy>) -> Says {
    let policy = policy.unwrap_or_default();
    Says { budget: policy.retry_budget.map(|it| *it), session: policy.session.map(|it| *it) }
}

fn accepted(world: &Translated, policy: &str) -> (bool, String, String) {
    let found = condition(&world.status_of_kind(Kind::TrafficPolicy, policy), "Accepted").expect(policy);
    (found.status, found.reason.to_string(), found.message)
}

#[test]
fn a_policy_travels_with_its_service_and_with_routes_that_lead_there() {
    let two = Service { ports: vec![port(80), port(81)], ..service("shop/db", "10.96.0.1") };
    let leads = route("web/r", vec![parent("own")], vec![rule(vec![backend("shop/db")])]);
    let world = world(upserts![two, service("web/own", "10.96.0.2"), traffic_policy("shop/db"), leads]);
    let budget = v1::RetryBudget {
        percent: 20,
        interval: Some(v1::Millis { value: 10_000 }),
        min_count: 10,
        min_interval: Some(v1::Millis { value: 1_000 }),
    };
    let [first, second] = &says(&world, "shop/db")[..] else { panic!("two ports") };
    assert_eq!((&first.budget, &second.budget), (&Some(budget), &Some(budget)));
    let names = [first, second].map(|says| says.session.clone().unwrap());
    assert!(names.iter().all(|it| it.name.starts_with("weft-session-") && it.path.is_empty()), "{names:?}");
    assert_ne!(names[0].name, names[1].name, "a port's sessions are its own");
    let port = world.service_for("web", "web/own").ports.remove(0);
    let Some(v1::weighted_target::Target::Backend(led)) = port.rules[0].targets[0].target.clone() else { panic!() };
    assert_eq!(said_by(led.policy), Says { budget: first.budget, session: first.session.clone() });
    assert_eq!(said_by(port.policy), Says::default(), "the Service that is called has none");

    let status = world.status_of_kind(Kind::TrafficPolicy, "shop/db");
    let ancestor = &status.parents[0].parent_ref;
    assert_eq!(
        (ancestor.kind.as_deref(), ancestor.namespace.as_deref(), &*ancestor.name),
        (Some("Service"), Some("shop"), "db")
    );
    assert_eq!(accepted(&world, "shop/db"), (true, "Accepted".into(), "in effect for Service shop/db".into()));
}

#[test]
fn what_it_does_not_say_is_as_without_it() {
    let rows = [
        ("a budget", true, false, "in effect"),
        ("sessions", false, true, "in effect"),
        ("neither", false, false, "says nothing: give it retryConstraint or sessionPersistence"),
    ];
    for (row, budget, session, message) in rows {
        let mut policy = traffic_policy("shop/db");
        policy.retries = policy.retries.filter(|_| budget);
        policy.session = policy.session.filter(|_| session);
        let world = world(upserts![service("shop/db", "10.96.0.1"), policy]);
        let says = &says(&world, "shop/db")[0];
        assert_eq!((says.budget.is_some(), says.session.is_some()), (budget, session), "{row}");
        let (status, _, said) = accepted(&world, "shop/db");
        assert!(status && said.contains(message), "{row}: {said}");
    }
}

#[test]
fn the_oldest_policy_acts_and_the_others_are_told_which_it_is() {
    let at = |name: &str, age, percent| {
        let mut policy = TrafficPolicy { targets: traffic_policy("shop/db").targets, ..traffic_policy(name) };
        policy.meta = aged(policy.meta, age);
        policy.retries = policy.retries.map(|retries| RetryConstraint { percent, ..retries });
        policy
    };
    let world =
        world(upserts![service("shop/db", "10.96.0.1"), at("shop/a", 2, 1), at("shop/b", 1, 2), at("shop/c", 1, 3),]);
    assert_eq!(says(&world, "shop/db")[0].budget.as_ref().unwrap().percent, 2);
    for (name, wins) in [("shop/a", false), ("shop/b", true), ("shop/c", false)] {
        let (status, reason, message) = accepted(&world, name);
        assert_eq!((status, &*reason), (wins, if wins { "Accepted" } else { "Conflicted" }), "{name}");
        assert!(wins || message.contains("XBackendTrafficPolicy shop/b is older"), "{name}: {message}");
    }
}

#[test]
fn one_that_cannot_be_as_written_keeps_its_place_and_does_nothing() {
    let named_so = |name: &str| SessionPersistence { name: Some(name.to_owned()), ..SessionPersistence::default() };
    let rows = [
        ("a name", named_so("a b"), "cannot have the name `a b`"),
        (
            "an endless cookie",
            SessionPersistence { permanent: true, ..SessionPersistence::default() },
            "needs an absoluteTimeout",
        ),
    ];
    for (row, session, why) in rows {
        let wrong = TrafficPolicy { session: Some(session), ..traffic_policy("shop/db") };
        let mut young = TrafficPolicy { targets: wrong.targets.clone(), ..traffic_policy("shop/young") };
        young.meta = aged(young.meta, 5);
        let world = world(upserts![service("shop/db", "10.96.0.1"), wrong, young]);
        assert_eq!(says(&world, "shop/db"), [Says::default()], "{row}");
        let (status, reason, message) = accepted(&world, "shop/db");
        assert_eq!((status, &*reason), (false, "Invalid"), "{row}");
        assert!(message.contains(why), "{row}: {message}");
        assert_eq!(accepted(&world, "shop/young").1, "Conflicted", "{row}");
    }
}

#[test]
fn a_target_that_comes_or_goes_and_a_policy_that_does_are_seen() {
    let key = ObjectKey { kind: Kind::TrafficPolicy, name: named("shop/db") };
    let mut translator = Translator::new(MeshConfig::default());
    let (world, _) = translator.apply(upserts![traffic_policy("shop/db")]);
    let (status, reason, message) = accepted(&world, "shop/db");
    assert_eq!((status, &*reason), (false, "TargetNotFound"), "{message}");
    let (world, touched) = translator.apply(upserts![service("shop/db", "10.96.0.1"), service("shop/x", "10.96.0.2")]);
    assert!(touched.statuses.contains(&key) && accepted(&world, "shop/db").0);
    assert!(says(&world, "shop/db")[0].budget.is_some());

    // To another Service.
    let moved = TrafficPolicy { targets: traffic_policy("shop/x").targets, ..traffic_policy("shop/db") };
    let (world, _) = translator.apply(upserts![moved]);
    assert_eq!(says(&world, "shop/db"), [Says::default()]);
    assert!(says(&world, "shop/x")[0].session.is_some());
    let (world, touched) = translator.apply(Batch { removes: vec![key.clone()], ..Batch::default() });
    assert_eq!((says(&world, "shop/x"), touched.statuses.contains(&key)), (vec![Says::default()], true));
}

#[test]
fn another_kind_of_target_is_somebody_elses() {
    let mut other = traffic_policy("shop/db");
    other.targets[0].kind = "XBackend".to_owned();
    other.retries = other.retries.map(|retries| RetryConstraint { interval: Duration::from_secs(5), ..retries });
    let world = world(upserts![service("shop/db", "10.96.0.1"), other]);
    assert!(world.route_status(&ObjectKey { kind: Kind::TrafficPolicy, name: named("shop/db") }).is_none());
    assert_eq!(says(&world, "shop/db"), [Says::default()]);
}
