use std::time::Duration;

use super::*;

const START: &str = "1970-01-01T00:00:01Z";
const NOW: &str = "1970-01-01T00:00:09Z";

fn parent(name: &str) -> Value {
    json!({"group": "", "kind": "Service", "name": name})
}

fn condition(kind: &str, status: bool, generation: i64, since: &str) -> Value {
    json!({
        "type": kind, "status": if status { "True" } else { "False" }, "reason": "Because", "message": "so",
        "observedGeneration": generation, "lastTransitionTime": since,
    })
}

fn entry(controller: &str, parent: Value, conditions: Vec<Value>) -> Value {
    json!({"parentRef": parent, "controllerName": controller, "conditions": conditions})
}

fn ours(name: &str, conditions: Vec<Value>) -> Value {
    entry(CONTROLLER_NAME, parent(name), conditions)
}

fn live(parents: &[Value], entries: &[Value], generation: i64) -> Live {
    Live { uid: "u".into(), version: "7".into(), generation, parents: parents.to_vec(), entries: entries.to_vec() }
}

fn said(kind: &'static str, status: bool, generation: i64) -> Condition {
    Condition { kind, status, reason: "Because".into(), message: "so".into(), observed_generation: generation }
}

fn status(names: &[&str], accepted: bool, generation: i64) -> RouteStatus {
    let parent = |name: &&str| ParentStatus {
        parent_ref: as_parent(&parent(name)).unwrap(),
        conditions: vec![said("Accepted", accepted, generation)],
    };
    RouteStatus { parents: names.iter().map(parent).collect() }
}

fn planned(live: &Live, status: Option<&RouteStatus>, refused: Option<&str>, programmed: Option<&Condition>) -> Plan {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(9);
    plan(live, &Wanted { status, refused, reason: "UnsupportedValue", most: 32 }, |_| programmed.cloned(), now)
}

fn written(plan: Plan) -> Vec<Value> {
    match plan {
        Plan::Write { entries, .. } => entries,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ours_are_changed_in_place_and_nobody_elses_is_touched() {
    let other = entry("example.com/other", parent("a"), vec![condition("Accepted", false, 1, START)]);
    let strange = json!({"controllerName": "example.com/strange", "whatever": 7});
    let accepted = |generation, since| vec![condition("Accepted", true, generation, since)];
    let (a, b) = (parent("a"), parent("b"));
    let rows = [
        ("the first word", vec![a.clone()], vec![], vec!["a"], vec![ours("a", accepted(1, NOW))]),
        (
            "others stay where they are",
            vec![a.clone()],
            vec![other.clone(), ours("a", accepted(0, START)), strange.clone()],
            vec!["a"],
            vec![other.clone(), ours("a", accepted(1, START)), strange.clone()],
        ),
        (
            "a parentRef that went takes its entry along",
            vec![b.clone()],
            vec![ours("a", accepted(0, START)), other.clone(), ours("b", accepted(1, START))],
            vec!["b"],
            vec![other.clone(), ours("b", accepted(1, START))],
        ),
        (
            "a new one goes to the end",
            vec![a.clone(), b.clone()],
            vec![ours("b", accepted(1, START)), other.clone()],
            vec!["a", "b"],
            vec![ours("b", accepted(1, START)), other.clone(), ours("a", accepted(1, NOW))],
        ),
    ];
    for (row, parents, entries, names, expected) in rows {
        let live = live(&parents, &entries, 1);
        assert_eq!(written(planned(&live, Some(&status(&names, true, 1)), None, None)), expected, "{row}");
        let after = Live { entries: expected, ..live };
        assert_eq!(planned(&after, Some(&status(&names, true, 1)), None, None), Plan::Equal, "{row}: written once");
    }
}

#[test]
fn a_route_without_a_parent_of_ours_loses_our_entries_and_only_once_that_is_certain() {
    let other = entry("example.com/other", parent("a"), vec![]);
    let gateway = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"});
    let entries = [ours("a", vec![condition("Accepted", true, 1, START)]), other.clone()];
    assert_eq!(written(planned(&live(&[gateway], &entries, 2), None, None, None)), [other]);
    assert_eq!(planned(&live(&[parent("a")], &entries, 2), None, None, None), Plan::Later, "not translated yet");
    assert_eq!(planned(&live(&[], &[], 2), None, None, None), Plan::Equal, "never ours");
}

#[test]
fn nothing_is_said_of_a_generation_that_was_not_translated() {
    let entries = [ours("a", vec![condition("Accepted", true, 1, START)])];
    for (generation, expected) in [(1, Plan::Equal), (2, Plan::Later), (0, Plan::Later)] {
        let live = live(&[parent("a")], &entries, generation);
        assert_eq!(planned(&live, Some(&status(&["a"], true, 1)), None, None), expected, "{generation}");
    }
}

#[test]
fn a_transition_time_moves_with_the_status_only() {
    let old = |generation| [ours("a", vec![condition("Accepted", true, generation, START)])];
    let rows = [("true stays true", true, START), ("it becomes false", false, NOW)];
    for (row, accepted, since) in rows {
        let entries =
            written(planned(&live(&[parent("a")], &old(1), 2), Some(&status(&["a"], accepted, 2)), None, None));
        assert_eq!(entries, [ours("a", vec![condition("Accepted", accepted, 2, since)])], "{row}");
    }
}

#[test]
fn an_object_that_cannot_be_taken_is_not_accepted() {
    let old = [ours("a", vec![condition("Accepted", true, 1, START), condition(PROGRAMMED, true, 1, START)])];
    let live = live(&[parent("a"), json!({"name": "g", "kind": "Gateway"})], &old, 2);
    let plan = planned(&live, Some(&status(&["a"], true, 1)), Some("spec.rules[0]: no"), None);
    assert!(matches!(plan, Plan::Write { refused: true, .. }));
    let entries = written(plan);
    assert_eq!(entries.len(), 1);
    let conditions = entries[0]["conditions"].as_array().unwrap();
    assert_eq!(conditions.len(), 1, "what was said of the generation before is not said of this one");
    assert_eq!(conditions[0]["reason"], "UnsupportedValue");
    assert_eq!(conditions[0]["message"], "spec.rules[0]: no; generation 1 stays in effect");
    assert_eq!((&conditions[0]["observedGeneration"], &conditions[0]["lastTransitionTime"]), (&json!(2), &json!(NOW)));
    // Once it is translated again, an old problem says nothing.
    assert_eq!(
        written(planned(&live, Some(&status(&["a"], true, 2)), Some("old"), None))[0]["conditions"][0]["status"],
        "True"
    );
    let never = written(planned(&live, None, Some("no"), None));
    assert_eq!(never[0]["conditions"][0]["message"], "no; the route is not in effect");
}

#[test]
fn programmed_stays_as_it_was_said_until_more_is_known() {
    let accepted = |generation| condition("Accepted", true, generation, START);
    let live_with = |conditions| live(&[parent("a")], &[ours("a", conditions)], 2);
    let old = vec![accepted(1), condition(PROGRAMMED, true, 1, START)];
    let entries = written(planned(&live_with(old), Some(&status(&["a"], true, 2)), None, None));
    let kept = vec![accepted(2), condition(PROGRAMMED, true, 1, START)];
    assert_eq!(entries, [ours("a", kept.clone())]);
    let verdict = said(PROGRAMMED, true, 2);
    let entries = written(planned(&live_with(kept), Some(&status(&["a"], true, 2)), None, Some(&verdict)));
    let decided = vec![accepted(2), condition(PROGRAMMED, true, 2, START)];
    assert_eq!(entries, [ours("a", decided.clone())]);
    assert_eq!(
        live_with(decided).programmed(&as_parent(&parent("a")).unwrap()),
        Some(Known { generation: 2, status: true })
    );
    // One that is not accepted is not programmed.
    let entries =
        written(planned(&live_with(vec![accepted(1)]), Some(&status(&["a"], false, 2)), None, Some(&verdict)));
    assert_eq!(entries[0]["conditions"].as_array().map(Vec::len), Some(1));
}

#[test]
fn in_one_generation_false_becomes_true_and_nothing_else_is_said_again() {
    let verdict = |status, message: &str| Condition { message: message.into(), ..said(PROGRAMMED, status, 2) };
    let rows = [
        ("the first word", None, verdict(false, "so"), true),
        ("of a generation before", Some((true, 1)), verdict(false, "so"), true),
        ("true after all", Some((false, 2)), verdict(true, "so"), true),
        ("another revision still waits", Some((true, 2)), verdict(false, "2 of 3"), false),
        ("another revision has more proxies", Some((true, 2)), verdict(true, "all 9"), false),
        ("another revision waits for others", Some((false, 2)), verdict(false, "2 of 3"), false),
    ];
    for (row, before, verdict, news) in rows {
        let mut conditions = vec![condition("Accepted", true, 2, START)];
        conditions.extend(before.map(|(status, generation)| condition(PROGRAMMED, status, generation, START)));
        let live = live(&[parent("a")], &[ours("a", conditions)], 2);
        let plan = planned(&live, Some(&status(&["a"], true, 2)), None, Some(&verdict));
        assert_eq!(matches!(plan, Plan::Write { .. }), news, "{row}: {plan:?}");
    }
}

#[test]
fn a_parent_ref_is_copied_with_what_we_do_not_know() {
    let mut strange = parent("a");
    strange["newField"] = json!({"x": 1});
    let entries =
        written(planned(&live(std::slice::from_ref(&strange), &[], 1), Some(&status(&["a"], true, 1)), None, None));
    assert_eq!(entries[0]["parentRef"], strange);
}

#[test]
fn a_digest_does_not_depend_on_the_time() {
    let live = live(&[parent("a")], &[], 1);
    let digest = |second, accepted| {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        match plan(
            &live,
            &Wanted { status: Some(&status(&["a"], accepted, 1)), refused: None, reason: "", most: 32 },
            |_| None,
            now,
        ) {
            Plan::Write { digest, .. } => digest,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(digest(1, true), digest(2, true));
    assert_ne!(digest(1, true), digest(1, false));
}

#[test]
fn a_list_that_is_full_of_others_gets_none_of_ours() {
    let others: Vec<_> = (0..16).map(|n| entry("example.com/other", parent(&format!("s{n}")), Vec::new())).collect();
    let accepted = status(&["a"], true, 1);
    for (most, left_out) in [(16, true), (17, false)] {
        let wanted = Wanted { status: Some(&accepted), refused: None, reason: "Invalid", most };
        let plan = plan(&live(&[parent("a")], &others, 1), &wanted, |_| None, SystemTime::UNIX_EPOCH);
        assert_eq!(plan == Plan::Equal, left_out, "{most}: {plan:?}");
    }
}
