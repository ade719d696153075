//! Where the pods of a workload are: what a proxy has to know of those like it to know how much of its requests its zone is to
//! keep (SEMANTICS.md §3 "locality"). It is what Envoy takes from its local cluster.
//!
//! A workload is what owns the pods: its replicas are called alike and so they call alike. Counted is each pod that has a
//! zone and is not finished, whether it is ready or being deleted: it calls others all the same, and so a pod that comes and goes
//! changes the count twice and not six times.
//!
//! What is told are proportions: counts without their common divisor, and of more than 100 pods percents. So a workload in one
//! zone is told nothing new when it is scaled, and one of a thousand pods as good as nothing while it is rolled out; and only
//! its own proxies are told at all.
//!
//! Bound: a number for each zone that a workload is in. A pod that changes costs a look at each pod of its owner.

use std::collections::BTreeMap;

use weft_proto::v1;

use super::zone_label;
use crate::model::{Model, ObjectName, Pod};

/// Above this, counts are percents.
const EXACT: u64 = 100;

/// What of a pod is counted: its owner, and the node where it is. `None`: it is not.
pub(in super::super) fn counted(pod: &Pod) -> Option<(ObjectName, &str)> {
    (!pod.finished && !pod.node.is_empty()).then(|| (pod.owner_name(), &*pod.node))
}

/// In what proportion the pods of an owner are in which zone, sorted by zone; none where no zone is known.
pub(in super::super) fn callers(owner: &ObjectName, model: &Model) -> Vec<v1::ZoneCallers> {
    let mut zones: BTreeMap<&str, u64> = BTreeMap::new();
    let nodes = model.pods_of(owner).filter_map(|pod| counted(pod).map(|(_, node)| node));
    for zone in nodes.filter_map(|node| model.node(node).and_then(zone_label)).filter(|zone| !zone.is_empty()) {
        *zones.entry(zone).or_default() += 1;
    }
    let told = proportions(&zones.values().copied().collect::<Vec<_>>());
    let callers = |(zone, callers): (&str, u64)| v1::ZoneCallers {
        zone: zone.to_owned(),
        callers: u32::try_from(callers).unwrap_or(u32::MAX),
    };
    zones.into_keys().zip(told).map(callers).collect()
}

/// Each above zero.
fn proportions(counts: &[u64]) -> Vec<u64> {
    let sum: u64 = counts.iter().sum();
    let rough: Vec<u64> = if sum <= EXACT {
        counts.to_vec()
    } else {
        counts.iter().map(|count| ((count * 100 + sum / 2) / sum).max(1)).collect()
    };
    let divisor = rough.iter().fold(0, |divisor, count| common_divisor(divisor, *count)).max(1);
    rough.iter().map(|count| count / divisor).collect()
}

fn common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_proto::type_url;

    use super::super::super::fixtures::{ip, named, node, pod, upserts};
    use super::super::super::{Lookup, MeshConfig, Translated, Translator};
    use super::*;
    use crate::model::{Batch, Kind, ObjectKey};

    #[test]
    fn what_is_told_are_proportions() {
        let rows: [(&[u64], &[u64]); 9] = [
            (&[], &[]),
            (&[7], &[1]),
            (&[700], &[1]),
            (&[3, 6, 3], &[1, 2, 1]),
            (&[2, 3], &[2, 3]),
            (&[50, 49], &[50, 49]),
            (&[334, 333, 333], &[1, 1, 1]),
            (&[335, 332, 332], &[34, 33, 33]),
            (&[10_000, 1], &[100, 1]),
        ];
        for (counts, want) in rows {
            assert_eq!(proportions(counts), want, "{counts:?}");
        }
    }

    proptest! {
        #[test]
        fn they_are_near_what_is_counted_and_nobody_is_forgotten(counts in prop::collection::vec(1u64..5_000, 1..8)) {
            let told = proportions(&counts);
            prop_assert!(told.iter().all(|count| *count > 0));
            let part = |of: &[u64], index: usize| of[index] as f64 / of.iter().sum::<u64>() as f64;
            for index in 0..counts.len() {
                // Each is rounded by half a percent, a very small one by a whole one, and so is each that it is a part of.
                let near = (part(&counts, index) - part(&told, index)).abs();
                prop_assert!(near <= 0.01 * (counts.len() as f64 + 1.0), "{counts:?} as {told:?}");
            }
        }
    }

    /// What the proxy at an address is told.
    fn told(world: &Translated, addr: &str) -> Vec<(String, u32)> {
        world.workload(addr).callers.into_iter().map(|one| (one.zone, one.callers)).collect()
    }

    fn at(name: &str, owner: &str, addr: &str, node: &str) -> Pod {
        Pod { node: node.to_owned(), ..pod(name, owner, addr) }
    }

    #[test]
    fn a_proxy_is_told_where_the_pods_of_its_workload_are_and_nobody_else_is() {
        let mut translator = Translator::new(MeshConfig::default());
        let nodes = [node("n1", "a"), node("n2", "b"), node("n3", "")];
        let [n1, n2, n3] = nodes;
        let (world, _) = translator.apply(upserts![
            n1,
            n2,
            n3,
            at("shop/web-1", "web", "10.0.0.1", "n1"),
            at("shop/web-2", "web", "10.0.0.2", "n1"),
            at("shop/web-3", "web", "10.0.0.3", "n2"),
            at("shop/web-4", "web", "10.0.0.4", "n3"),
            at("shop/db-1", "db", "10.0.1.1", "n2"),
            at("bank/web-1", "web", "10.0.2.1", "n2")
        ]);
        let pair = |zone: &str, callers| (zone.to_owned(), callers);
        assert_eq!(told(&world, "10.0.0.1"), [pair("a", 2), pair("b", 1)]);
        assert_eq!(told(&world, "10.0.0.4"), told(&world, "10.0.0.1"), "whose zone is not known");
        assert_eq!(told(&world, "10.0.1.1"), [pair("b", 1)]);
        assert_eq!(told(&world, "10.0.2.1"), [pair("b", 1)], "of another namespace");
        let Lookup::Found(for_others) =
            world.lookup(type_url::WORKLOAD, "10.0.0.1", &super::super::super::View { namespace: "shop".to_owned() })
        else {
            panic!("no workload")
        };
        let decoded: v1::Workload = prost::Message::decode(&*for_others.body).unwrap();
        assert_eq!(decoded.callers, [], "who calls the pod need not know");

        // What is added to an encoding is what would have been encoded.
        let Lookup::Found(own) = world.own(type_url::WORKLOAD, ip("10.0.0.1")) else { panic!("no workload") };
        let whole: v1::Workload = prost::Message::decode(&*own.body).unwrap();
        assert_eq!(prost::Message::encode_to_vec(&whole), own.body);
        assert_ne!(own.version, for_others.version);

        // One pod more in zone b concerns the four proxies of web, and the Workload by address of none.
        let (world, touched) = translator.apply(upserts![at("shop/web-5", "web", "10.0.0.5", "n2")]);
        assert_eq!(told(&world, "10.0.0.1"), [pair("a", 1), pair("b", 1)]);
        let of_web: Vec<_> = (1..=5).map(|n| ip(&format!("10.0.0.{n}"))).collect();
        assert_eq!(touched.own.iter().copied().collect::<Vec<_>>(), of_web);
        assert_eq!(touched.names[type_url::WORKLOAD].iter().collect::<Vec<_>>(), ["10.0.0.5"]);

        // Being deleted, or not ready, it calls on; finished it does not.
        let mut leaving = at("shop/web-5", "web", "10.0.0.5", "n2");
        (leaving.terminating, leaving.ready) = (true, false);
        let (world, touched) = translator.apply(upserts![leaving.clone()]);
        assert_eq!(told(&world, "10.0.0.1"), [pair("a", 1), pair("b", 1)]);
        assert_eq!(touched.own.iter().collect::<Vec<_>>(), [&ip("10.0.0.5")]);
        leaving.finished = true;
        let (world, _) = translator.apply(upserts![leaving]);
        assert_eq!(told(&world, "10.0.0.1"), [pair("a", 2), pair("b", 1)]);

        // A node in another zone, and one that is gone.
        let (world, _) = translator.apply(upserts![node("n2", "c")]);
        assert_eq!(told(&world, "10.0.0.1"), [pair("a", 2), pair("c", 1)]);
        let removes = vec![ObjectKey { kind: Kind::Pod, name: named("shop/web-3") }];
        let (world, _) = translator.apply(Batch { removes, ..Batch::default() });
        assert_eq!(told(&world, "10.0.0.1"), [pair("a", 1)]);
        let (world, touched) = translator.apply(upserts![at("shop/web-6", "web", "10.0.0.6", "n1")]);
        assert_eq!(told(&world, "10.0.0.1"), [pair("a", 1)]);
        assert_eq!(touched.own.iter().collect::<Vec<_>>(), [&ip("10.0.0.6")], "in one zone, numbers say nothing");
    }
}
