//! What holds after any sequence of picks, results, updates and time.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Pick { avoid: Vec<u8>, client: Option<u32> },
    Finish { which: usize, result: TryResult },
    Drop { which: usize },
    Pass { ms: u64 },
    Update { health: Vec<(u8, Health)> },
}

fn any_health() -> impl Strategy<Value = Health> {
    prop_oneof![8 => Just(Health::Ready), 1 => Just(Health::Draining), 1 => Just(Health::NotReady)]
}

fn any_set() -> impl Strategy<Value = Vec<(u8, Health)>> {
    prop::collection::btree_map(1u8..9, any_health(), 0..8).prop_map(|set| set.into_iter().collect())
}

fn any_step() -> impl Strategy<Value = Step> {
    let result = prop_oneof![
        3 => Just(TryResult::Failure),
        1 => Just(TryResult::Silent),
        1 => Just(TryResult::Success),
        1 => Just(TryResult::Neutral)
    ];
    let pick = (prop::collection::vec(1u8..9, 0..3), prop::option::of(0u32..50));
    prop_oneof![
        20 => pick.prop_map(|(avoid, client)| Step::Pick { avoid, client }),
        18 => (any::<usize>(), result).prop_map(|(which, result)| Step::Finish { which, result }),
        2 => any::<usize>().prop_map(|which| Step::Drop { which }),
        4 => (0u64..2_000).prop_map(|ms| Step::Pass { ms }),
        1 => any_set().prop_map(|health| Step::Update { health }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_never_happens(
        set in any_set(),
        steps in prop::collection::vec(any_step(), 1..250),
        affinity in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let policy = BalancePolicy { client_ip_affinity: affinity.then_some(ms(1)), ..BalancePolicy::default() };
        let mut world = World::new(policy.clone(), specs_of(&set));
        world.rng = SmallRng::seed_from_u64(seed);
        let mut set: HashMap<u8, Health> = set.into_iter().collect();
        let mut picks: Vec<Pick> = Vec::new();
        for step in steps {
            match step {
                Step::Pick { avoid, client: from } => {
                    let keys: Vec<_> = avoid.iter().copied().map(key).collect();
                    let before = world.balancer.snapshot(world.now);
                    let ready = set.values().filter(|health| **health == Health::Ready).count();
                    let serving = set.values().any(|health| *health != Health::NotReady);
                    prop_assert_eq!(before.ready, ready);
                    let request = PickRequest { avoid: &keys, client: from.and_then(client), session: None, hash: None };
                    let pick = match world.pick_for(request) {
                        Err(_) => {
                            prop_assert!(!serving, "no pick with something to pick");
                            continue;
                        }
                        Ok(pick) => pick,
                    };
                    let picked = id(&pick);
                    prop_assert!(set[&picked] == Health::Ready || (ready == 0 && set[&picked] == Health::Draining));
                    let panic = before.ejected * 2 > ready;
                    let running = |view: &&EndpointView| {
                        let pool = if ready > 0 { Health::Ready } else { Health::Draining };
                        view.health == pool && (panic || ready == 0 || view.ejected_ms.is_none())
                    };
                    let running: Vec<&EndpointView> = before.endpoints.iter().filter(running).collect();
                    let in_running = running.iter().any(|view| view.addr == addr(picked));
                    // Chosen because all that could be were kept in use by the cap only.
                    let kept = |view: &&EndpointView| view.consecutive_failures >= 5;
                    let no_worse = before.ejected > 0 && running.iter().any(kept);
                    if pick.is_probe() {
                        let view = before.endpoints.iter().find(|view| view.addr == addr(picked)).unwrap();
                        prop_assert_eq!(view.ejected_ms, Some(0));
                        prop_assert!(avoid.is_empty());
                        prop_assert!(picks.iter().all(|other| id(other) != picked || !other.is_probe()
                            || other.endpoint().in_flight() == 0 || !same(other, &pick)), "two probes");
                    } else {
                        prop_assert!(in_running || no_worse, "{picked} is not usable");
                        let another = running.iter().any(|view| keys.iter().all(|key| key.addr != view.addr));
                        prop_assert!(!another || !avoid.contains(&picked), "{picked} was to be avoided");
                    }
                    picks.push(pick);
                }
                Step::Finish { which, result } if !picks.is_empty() => {
                    let pick = picks.swap_remove(which % picks.len());
                    let was = world.balancer.ejected();
                    let probe = pick.is_probe();
                    let done = world.balancer.finish(pick, world.now, ms(1), result);
                    let now = world.balancer.ejected();
                    if !probe && matches!(done, Finished::Ejected { .. }) {
                        prop_assert_eq!(now, was + 1);
                        prop_assert!(now <= policy.outlier.cap(world.balancer.ready()), "{now} ejected");
                    }
                }
                Step::Drop { which } if !picks.is_empty() => drop(picks.swap_remove(which % picks.len())),
                Step::Finish { .. } | Step::Drop { .. } => {}
                Step::Pass { ms: length } => world.now += ms(length),
                Step::Update { health } => {
                    world.update(specs_of(&health));
                    set = health.into_iter().collect();
                }
            }
            let view = world.balancer.snapshot(world.now);
            let out = view.endpoints.iter().filter(|e| e.health == Health::Ready && e.ejected_ms.is_some()).count();
            prop_assert_eq!(view.ejected, out, "the count and the words disagree");
        }
        let endpoints: Vec<_> = picks.iter().map(|pick| std::sync::Arc::clone(pick.endpoint())).collect();
        drop(picks);
        prop_assert!(endpoints.iter().all(|endpoint| endpoint.in_flight() == 0));
        prop_assert!(world.balancer.snapshot(world.now).endpoints.iter().all(|view| view.in_flight == 0));
    }
}

/// Whether two picks are of one endpoint with one state, and not of one that left and came back.
fn same(a: &Pick, b: &Pick) -> bool {
    std::sync::Arc::ptr_eq(&a.endpoint().state, &b.endpoint().state)
}
