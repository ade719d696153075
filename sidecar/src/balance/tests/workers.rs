//! Several workers on one balancer: what must stay true together does.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rand::Rng;

use super::*;

/// Four workers pick and report, mostly failures, while a clock that they share goes on.
fn hammer(balancer: &Balancer, start: Instant, check: impl Fn(&Pick, &dyn Fn()) + Sync) {
    let clock = AtomicU64::new(0);
    let (balancer, clock, check) = (&balancer, &clock, &check);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(worker);
                let mut held = Vec::new();
                for _ in 0..4_000 {
                    let now = start + ms(clock.fetch_add(1, Ordering::Relaxed));
                    let Ok(pick) = balancer.pick(now, &mut rng, PickRequest::default()) else { continue };
                    check(&pick, &|| {
                        let result = match rng.clone().random_range(0..10) {
                            0 => TryResult::Neutral,
                            1..3 => TryResult::Success,
                            _ => TryResult::Failure,
                        };
                        let _ = balancer.record(&pick, now, ms(1), result);
                    });
                    held.push(pick);
                    if held.len() > 3 {
                        drop(held.swap_remove(rng.random_range(0..held.len())));
                    }
                }
            });
        }
    });
}

#[test]
fn workers_together_eject_no_more_than_the_cap_and_probe_one_at_a_time() {
    for ready in [2u8, 3, 8] {
        let start = Instant::now();
        let mut policy = BalancePolicy::default();
        policy.outlier.base = ms(3);
        policy.outlier.max = ms(20);
        let cap = policy.outlier.cap(usize::from(ready));
        let balancer = Balancer::new(policy);
        balancer.update((1..=ready).map(spec).collect(), start);
        let probes: HashMap<u8, AtomicU32> = (1..=ready).map(|id| (id, AtomicU32::new(0))).collect();
        let (most, probed) = (AtomicU64::new(0), AtomicU64::new(0));
        // How much comes about depends on how the threads are scheduled: on a busy machine it takes some rounds.
        let exercised = || probed.load(Ordering::Relaxed) > 10 && balancer.ejections_total() > 10;
        for round in 0..50 {
            if round > 0 && exercised() {
                break;
            }
            hammer(&balancer, start + ms(round * 20_000), |pick, record| {
                most.fetch_max(balancer.ejected() as u64, Ordering::Relaxed);
                if pick.is_probe() {
                    probed.fetch_add(1, Ordering::Relaxed);
                    let others = probes[&id(pick)].fetch_add(1, Ordering::SeqCst);
                    assert_eq!(others, 0, "two probes of one endpoint");
                    std::thread::yield_now();
                    probes[&id(pick)].fetch_sub(1, Ordering::SeqCst);
                }
                record();
            });
        }
        let most = most.into_inner();
        assert!(most <= cap as u64, "{most} of {ready} ejected, {cap} allowed");
        assert!(exercised(), "{ready}: nothing was exercised");
        let view = balancer.snapshot(start);
        assert!(view.endpoints.iter().all(|view| view.in_flight == 0));
        assert_eq!(view.endpoints.iter().filter(|view| view.ejected_ms.is_some()).count(), view.ejected);
    }
}

#[test]
fn the_last_place_under_the_cap_is_taken_once() {
    for round in 0..300 {
        let mut world = World::of(3);
        for endpoint in [1, 2] {
            for _ in 0..4 {
                let pick = world.pick_of(endpoint);
                let _ = world.done(pick, TryResult::Failure);
            }
        }
        let (now, waiting) = (world.now, AtomicU32::new(2));
        let (one, two) = (world.pick_of(1), world.pick_of(2));
        // Spinning, so that both go on within a few nanoseconds: a barrier would wake them apart.
        let fail = |pick: Pick| {
            waiting.fetch_sub(1, Ordering::SeqCst);
            while waiting.load(Ordering::SeqCst) > 0 {
                std::hint::spin_loop();
            }
            matches!(world.balancer.finish(pick, now, ms(1), TryResult::Failure), Finished::Ejected { .. })
        };
        let both = std::thread::scope(|scope| {
            let other = scope.spawn(|| fail(one));
            [fail(two), other.join().expect("no panic")]
        });
        assert!(both[0] != both[1] && world.balancer.ejected() == 1, "round {round}: {both:?}");
    }
}

#[test]
fn updates_under_load_lose_no_count() {
    let start = Instant::now();
    let mut policy = BalancePolicy::default();
    policy.outlier.base = ms(3);
    policy.outlier.max = ms(20);
    let balancer = Balancer::new(policy);
    balancer.update((1..=8).map(spec).collect(), start);
    std::thread::scope(|scope| {
        let updates = scope.spawn(|| {
            let mut rng = SmallRng::seed_from_u64(9);
            for _ in 0..1_000 {
                let health = |_| if rng.random_range(0..4) == 0 { Health::Draining } else { Health::Ready };
                let set: Vec<_> = (1..=8).map(health).zip(1..).map(|(health, id)| (id, health)).collect();
                balancer.update(specs_of(&set[..rng.random_range(4..=8)]), start);
            }
        });
        hammer(&balancer, start, |_, record| record());
        updates.join().expect("no panic");
    });
    let view = balancer.snapshot(start);
    assert!(view.endpoints.iter().all(|view| view.in_flight == 0));
    let out = view.endpoints.iter().filter(|e| e.health == Health::Ready && e.ejected_ms.is_some()).count();
    assert_eq!(view.ejected, out);
}
