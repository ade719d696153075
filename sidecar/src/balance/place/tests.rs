use proptest::prelude::*;

use super::*;
use crate::balance::endpoint::{EndpointKey, EndpointSpec, Health, Hints, Reach, State};

/// An endpoint's zone, node, and the zones and nodes that it is meant for.
type At<'a> = (&'a str, &'a str, &'a [&'a str], &'a [&'a str]);

fn endpoint((zone, node, zones, nodes): At<'_>) -> Arc<Endpoint> {
    let names = |of: &[&str]| of.iter().map(|name| (*name).into()).collect();
    let spec = EndpointSpec {
        key: EndpointKey { addr: ([10, 0, 0, 1], 80).into(), reach: Reach::Plain },
        pod: "".into(),
        health: Health::Ready,
        weight: 1,
        zone: zone.into(),
        node: node.into(),
        priority: 0,
        hints: Some(Box::new(Hints { zones: names(zones), nodes: names(nodes) })),
    };
    Arc::new(Endpoint { spec, state: Arc::new(State::default()) })
}

fn endpoints(at: &[At<'_>]) -> Vec<Arc<Endpoint>> {
    at.iter().copied().map(endpoint).collect()
}

fn policy(prefer: Prefer) -> BalancePolicy {
    BalancePolicy { locality: Locality { prefer, ..Locality::default() }, ..BalancePolicy::default() }
}

/// Zone a, node 1, with as many callers as there are in b.
fn here() -> Place {
    Place { zone: "a".into(), node: "1".into(), callers: Box::new([("a".into(), 1), ("b".into(), 1)]) }
}

/// The endpoints that are near.
fn near(at: &[At<'_>], policy: &BalancePolicy, place: &Place) -> Option<Vec<usize>> {
    match Near::new(&endpoints(at), policy, place)? {
        Near::Meant { of, .. } => Some(of.to_vec()),
        Near::Shares(_) => panic!("shares"),
    }
}

#[test]
fn who_is_meant_for_whom() {
    use Prefer::{Nothing, SameNode, SameZone, Shares};
    type Row<'a> = (&'a str, Prefer, &'a [At<'a>], Option<&'a [usize]>);
    #[rustfmt::skip]
    let rows: [Row<'_>; 17] = [
        // zone, node, zones and nodes it is meant for
        ("zones", Shares,
            &[("a", "1", &["a"], &[]), ("b", "2", &["b"], &[])], Some(&[0])),
        ("other zones than its own", Shares,
            &[("a", "1", &["b"], &[]), ("b", "2", &["b", "a"], &[])], Some(&[1])),
        ("not all have hints", Shares,
            &[("a", "1", &["a"], &[]), ("b", "2", &[], &[])], None),
        ("none for this zone", Shares,
            &[("b", "2", &["b"], &[]), ("c", "3", &["c"], &[])], None),
        ("all for this zone", Shares,
            &[("a", "1", &["a"], &[]), ("a", "2", &["a"], &[])], None),
        ("a node", Shares,
            &[("a", "1", &["a"], &["1"]), ("a", "2", &["a"], &["2"]), ("b", "3", &["b"], &["3"])], Some(&[0])),
        ("none on this node, then the zone", Shares,
            &[("a", "4", &["a"], &["4"]), ("a", "2", &["a"], &["2"]), ("b", "3", &["b"], &["3"])], Some(&[0, 1])),
        ("not all have nodes, then the zone", Shares,
            &[("a", "1", &["a"], &["1"]), ("a", "2", &["a"], &[]), ("b", "3", &["b"], &["3"])], Some(&[0, 1])),
        ("the zone is asked for, and the node's hints are not", SameZone,
            &[("a", "1", &["a"], &["1"]), ("a", "2", &["a"], &["2"]), ("b", "3", &["b"], &["3"])], Some(&[0, 1])),
        ("the zone is asked for, without hints", SameZone,
            &[("a", "1", &[], &[]), ("b", "2", &[], &[]), ("a", "3", &[], &[])], Some(&[0, 2])),
        ("hints go before what is asked for", SameZone,
            &[("a", "1", &["b"], &[]), ("b", "2", &["a"], &[])], Some(&[1])),
        ("one whose zone is not known", SameZone,
            &[("a", "1", &[], &[]), ("", "2", &[], &[])], None),
        ("the node is asked for", SameNode,
            &[("a", "1", &[], &[]), ("a", "2", &[], &[]), ("b", "3", &[], &[])], Some(&[0])),
        ("and nobody is there", SameNode,
            &[("a", "4", &[], &[]), ("a", "2", &[], &[]), ("b", "3", &[], &[])], Some(&[0, 1])),
        ("nor in the zone", SameNode,
            &[("b", "4", &[], &[]), ("c", "3", &[], &[])], None),
        ("a policy says that nothing counts", Nothing,
            &[("a", "1", &["a"], &["1"]), ("b", "2", &["b"], &["2"])], None),
        ("nobody is ready", SameZone, &[], None),
    ];
    for (what, prefer, at, want) in rows {
        assert_eq!(near(at, &policy(prefer), &here()).as_deref(), want, "{what}");
    }
    let hinted: &[At<'_>] = &[("a", "1", &["a"], &["1"]), ("b", "2", &["b"], &["2"])];
    assert_eq!(near(hinted, &policy(Prefer::SameNode), &Place::default()), None, "it is not known where this is");
    let local = BalancePolicy { only_node: Some("1".into()), ..BalancePolicy::default() };
    assert_eq!(near(hinted, &local, &here()), None, "internalTrafficPolicy: Local");
}

#[test]
fn shares_are_by_default_and_not_where_requests_keep_their_endpoint() {
    let six: Vec<At<'_>> = (0..6).map(|n| (if n < 2 { "a" } else { "b" }, "1", &[] as &[_], &[] as &[_])).collect();
    let by = |policy: &BalancePolicy, place: &Place, at: &[At<'_>]| {
        Near::new(&endpoints(at), policy, place).map(|near| near.to_string())
    };
    let default = BalancePolicy::default();
    let want = "zone a keeps 67 % of its requests: it has 2 of 6 ready endpoints (33 %) and 50 % of the callers";
    assert_eq!(by(&default, &here(), &six).as_deref(), Some(want));
    assert_eq!(by(&default, &here(), &six[1..]), None, "five");
    let five = BalancePolicy { locality: Locality { least_endpoints: 5, ..Locality::default() }, ..default.clone() };
    assert!(by(&five, &here(), &six[1..]).is_some());
    for algorithm in [Algorithm::RingHash { minimum: 64, maximum: 64 }, Algorithm::Maglev { cells: 65_537 }] {
        assert_eq!(by(&BalancePolicy { algorithm, ..default.clone() }, &here(), &six), None);
    }
    let affinity = Some(std::time::Duration::from_secs(1));
    assert_eq!(by(&BalancePolicy { client_ip_affinity: affinity, ..default.clone() }, &here(), &six), None);
    // An older control plane tells the zone and counts nobody: all would stay, however few are here.
    assert_eq!(by(&default, &Place { callers: Box::default(), ..here() }, &six), None);
    assert_eq!(by(&default, &Place { callers: Box::new([("b".into(), 1)]), ..here() }, &six), None);
    assert_eq!(by(&default, &Place { zone: "".into(), ..here() }, &six), None);
}

/// Of one endpoint: zone hints, node hints.
type HintsOf<'a> = (Vec<&'a str>, Vec<&'a str>);

/// kube-proxy's `topologyModeFromHints` and what it does with the answer, to the letter.
fn kube_proxy(hints: &[HintsOf<'_>], zone: &str, node: &str) -> Vec<usize> {
    let of = |meant: &dyn Fn(&HintsOf<'_>) -> bool| (0..hints.len()).filter(|n| meant(&hints[*n])).collect();
    let has_node = hints.iter().any(|(_, nodes)| nodes.contains(&node));
    if hints.iter().all(|(_, nodes)| !nodes.is_empty()) && has_node {
        return of(&|(_, nodes)| nodes.contains(&node));
    }
    let has_zone = hints.iter().any(|(zones, _)| zones.contains(&zone));
    if hints.iter().all(|(zones, _)| !zones.is_empty()) && has_zone {
        return of(&|(zones, _)| zones.contains(&zone));
    }
    of(&|_| true)
}

fn names() -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![1 => Just(Vec::new()), 6 => prop::collection::vec(prop::sample::select(vec!["a", "b", "1", "2"]), 1..3)]
}

proptest! {
    #[test]
    fn hints_are_followed_as_kube_proxy_does(
        hints in prop::collection::vec((names(), names()), 0..6),
        (zone, node) in (prop::sample::select(vec!["a", "b"]), prop::sample::select(vec!["1", "2"])),
    ) {
        let at: Vec<At<'_>> = hints.iter().map(|(zones, nodes)| ("", "", &zones[..], &nodes[..])).collect();
        let place = Place { zone: zone.into(), node: node.into(), callers: Box::default() };
        let near = near(&at, &BalancePolicy::default(), &place);
        prop_assert_eq!(near.unwrap_or_else(|| (0..at.len()).collect()), kube_proxy(&hints, zone, node));
    }

    /// `trafficDistribution`, whose hints Kubernetes' controller makes of zones and nodes.
    #[test]
    fn what_is_asked_for_is_as_with_the_controllers_hints(
        at in prop::collection::vec((prop::sample::select(vec!["a", "b", "c"]), prop::sample::select(vec!["1", "2", "3"])), 0..6),
        same_node in any::<bool>(),
    ) {
        let without: Vec<At<'_>> = at.iter().map(|(zone, node)| (*zone, *node, &[] as &[_], &[] as &[_])).collect();
        let prefer = if same_node { Prefer::SameNode } else { Prefer::SameZone };
        let near = near(&without, &policy(prefer), &here());
        let hints: Vec<_> =
            at.iter().map(|(zone, node)| (vec![*zone], if same_node { vec![*node] } else { vec![] })).collect();
        prop_assert_eq!(near.unwrap_or_else(|| (0..at.len()).collect()), kube_proxy(&hints, "a", "1"));
    }
}
