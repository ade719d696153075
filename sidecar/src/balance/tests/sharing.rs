//! Who gets how much, idle and under load, and what a slow, new or dead endpoint costs.

use rand::Rng;

use super::*;

/// An open loop: a request every `gap`, each taking its endpoint's latency (none: it fails at once).
struct Load {
    gap: Duration,
    latency: HashMap<u8, Option<Duration>>,
    /// From an endpoint's latency, what its n-th request takes (from 1).
    chance: Box<dyn FnMut(u32, Duration) -> Duration>,
    under_way: Vec<(Instant, Duration, Pick, TryResult)>,
    picked: HashMap<u8, u32>,
    failed: u32,
    most_in_flight: HashMap<u8, u32>,
}

impl Load {
    fn new(gap: Duration, latency: impl IntoIterator<Item = (u8, Option<Duration>)>) -> Self {
        Self {
            gap,
            latency: latency.into_iter().collect(),
            chance: Box::new(|_, latency| latency),
            under_way: Vec::new(),
            picked: HashMap::new(),
            failed: 0,
            most_in_flight: HashMap::new(),
        }
    }

    /// Runs until `length` has passed or `stop` says so; how long it ran.
    fn run(&mut self, world: &mut World, length: Duration, stop: impl Fn(&World) -> bool) -> Duration {
        let start = world.now;
        while world.now < start + length && !stop(world) {
            let (ended, rest) =
                std::mem::take(&mut self.under_way).into_iter().partition(|(end, ..)| *end <= world.now);
            self.under_way = rest;
            let mut ended: Vec<_> = ended;
            ended.sort_by_key(|(end, ..)| *end);
            for (end, latency, pick, result) in ended {
                self.failed += u32::from(result == TryResult::Failure);
                let _ = world.balancer.finish(pick, end, latency, result);
            }
            let pick = world.pick();
            let picked = self.picked.entry(id(&pick)).or_insert(0);
            *picked += 1;
            let nth = *picked;
            let most = self.most_in_flight.entry(id(&pick)).or_insert(0);
            *most = (*most).max(pick.endpoint().in_flight());
            let (latency, result) = match self.latency[&id(&pick)] {
                Some(latency) => ((self.chance)(nth, latency), TryResult::Success),
                None => (Duration::from_micros(100), TryResult::Failure),
            };
            self.under_way.push((world.now + latency, latency, pick, result));
            world.now += self.gap;
        }
        world.now - start
    }

    /// What each gets within `length` more.
    fn shares(&mut self, world: &mut World, length: Duration) -> HashMap<u8, f64> {
        let before = self.picked.clone();
        self.run(world, length, |_| false);
        let more: HashMap<_, _> = self.picked.iter().map(|(id, n)| (*id, n - before.get(id).unwrap_or(&0))).collect();
        let all: u32 = more.values().sum();
        more.into_iter().map(|(id, n)| (id, f64::from(n) / f64::from(all))).collect()
    }
}

const US: Duration = Duration::from_micros(1);

/// Anything from 0.7 to 1.3 of the latency, and 20 ms more once in 500 times.
fn as_in_life(seed: u64) -> Box<dyn FnMut(u32, Duration) -> Duration> {
    let mut rng = SmallRng::seed_from_u64(seed);
    Box::new(move |_, latency| {
        let bad = if rng.random_ratio(1, 500) { ms(20) } else { Duration::ZERO };
        latency.mul_f64(rng.random_range(0.7..1.3)) + bad
    })
}

#[test]
fn idle_endpoints_share_by_weight() {
    let rows: [&[u32]; 5] = [&[1, 1, 1, 1], &[1; 10], &[1, 3], &[9, 1], &[1, 2, 3, 4, 5, 6]];
    for weights in rows {
        let specs = (1..).zip(weights).map(|(id, weight)| EndpointSpec { weight: *weight, ..spec(id) }).collect();
        let want = (1..).zip(weights.iter().map(|weight| f64::from(*weight))).collect();
        let got = World::new(BalancePolicy::default(), specs).shares(20_000);
        let chi_square = chi_square(&got, &want);
        assert!(chi_square < 40.0, "{weights:?}: {got:?} χ²={chi_square}");
    }
}

#[test]
fn equal_endpoints_under_load_get_equal_shares() {
    let mut world = World::of(5);
    let mut load = Load::new(ms(1), (1..=5).map(|id| (id, Some(ms(12)))));
    load.run(&mut world, ms(20_000), |_| false);
    assert!(load.picked.values().all(|n| (3_500..4_500).contains(n)), "{:?}", load.picked);
}

#[test]
fn equal_endpoints_get_equal_shares_though_each_has_bad_moments() {
    for seed in 0..10 {
        let mut world = World::of(3);
        let mut load = Load::new(ms(2), (1..=3).map(|id| (id, Some(500 * US))));
        load.chance = as_in_life(seed);
        load.run(&mut world, ms(2_000), |_| false);
        for _ in 0..5 {
            // Not over all of the time: that could hide that one after the other gets nothing.
            let shares = load.shares(&mut world, ms(4_000));
            assert!(shares.values().all(|share| (0.1..0.55).contains(share)), "seed {seed}: {shares:?}");
        }
    }
}

#[test]
fn slow_first_requests_are_not_held_against_an_endpoint() {
    let mut world = World::of(3);
    let mut load = Load::new(ms(2), (1..=3).map(|id| (id, Some(500 * US))));
    load.chance = Box::new(move |nth, latency| if nth <= 4 { ms(20) } else { latency });
    load.run(&mut world, ms(3_000), |_| false);
    let shares = load.shares(&mut world, ms(1_000));
    assert!(shares.values().all(|share| *share > 0.25), "{shares:?}");
}

#[test]
fn an_endpoint_ten_times_slower_gets_about_a_hundredth_and_is_not_forgotten() {
    for seed in 0..10 {
        let mut world = World::of(3);
        let mut load = Load::new(ms(2), (1..=3).map(|id| (id, Some(500 * US * if id == 3 { 10 } else { 1 }))));
        load.chance = as_in_life(seed);
        load.run(&mut world, ms(2_000), |_| false);
        let shares = load.shares(&mut world, ms(20_000));
        assert!((0.002..0.02).contains(&shares[&3]), "seed {seed}: {shares:?}");
    }
}

#[test]
fn a_weight_counts_under_load_too() {
    let specs = vec![EndpointSpec { weight: 3, ..spec(1) }, spec(2)];
    let mut world = World::new(BalancePolicy::default(), specs);
    let mut load = Load::new(ms(1), [(1, Some(ms(20))), (2, Some(ms(20)))]);
    load.run(&mut world, ms(20_000), |_| false);
    let share = f64::from(load.picked[&1]) / 20_000.0;
    assert!((0.70..0.80).contains(&share), "{share}");
}

#[test]
fn the_faster_endpoint_gets_more_and_the_slower_not_nothing() {
    let mut world = World::of(2);
    let mut load = Load::new(ms(1), [(1, Some(ms(10))), (2, Some(ms(40)))]);
    load.run(&mut world, ms(20_000), |_| false);
    let (fast, slow) = (load.picked[&1], load.picked[&2]);
    assert!(fast > slow * 3 && slow > 400, "{fast} {slow}");
}

#[test]
fn an_endpoint_that_becomes_slow_is_left_and_won_back() {
    let mut world = World::of(3);
    let mut load = Load::new(ms(2), (1..=3).map(|id| (id, Some(ms(5)))));
    load.run(&mut world, ms(5_000), |_| false);
    load.latency.insert(3, Some(ms(500)));
    load.picked.clear();
    load.run(&mut world, ms(5_000), |_| false);
    assert!(load.picked.get(&3).is_none_or(|n| *n < 50), "{:?}", load.picked);
    load.latency.insert(3, Some(ms(5)));
    load.run(&mut world, ms(90_000), |_| false);
    load.picked.clear();
    load.run(&mut world, ms(5_000), |_| false);
    assert!(load.picked[&3] > 500, "{:?}", load.picked);
}

#[test]
fn a_new_endpoint_is_tried_at_once_and_not_flooded() {
    let mut world = World::of(3);
    let mut load = Load::new(ms(1), (1..=4).map(|id| (id, Some(ms(if id == 4 { 400 } else { 5 })))));
    load.run(&mut world, ms(5_000), |_| false);
    world.update([1, 2, 3, 4].map(spec));
    load.run(&mut world, ms(300), |_| false);
    let most = load.most_in_flight[&4];
    assert!((1..=8).contains(&most), "{most} in flight before its first answer");
}

#[test]
fn at_500_rps_a_dead_endpoint_is_ejected_within_a_second() {
    for ready in [2, 3, 10, 50] {
        for seed in 0..20 {
            let mut world = World::of(ready);
            world.rng = SmallRng::seed_from_u64(seed);
            let mut load = Load::new(ms(2), (1..=ready).map(|id| (id, Some(ms(1)))));
            load.run(&mut world, ms(2_000), |_| false);
            if seed % 2 == 1 && ready <= 10 {
                // It had been slow, and gets next to nothing when it dies.
                load.latency.insert(1, Some(ms(30)));
                load.run(&mut world, ms(1_000), |_| false);
            }
            load.latency.insert(1, None);
            let took = load.run(&mut world, ms(2_000), |world| world.balancer.ejected() == 1);
            // Among fifty, an endpoint is drawn for only 20 of 500 requests a second.
            assert!(took < ms(1_000), "{ready} endpoints, seed {seed}: {took:?}");
            assert!(load.failed <= 5 + 1, "{ready} endpoints, seed {seed}: {} failed", load.failed);
        }
    }
}

#[test]
fn a_single_failure_costs_an_endpoint_seconds_and_not_minutes() {
    let mut world = World::of(3);
    let mut load = Load::new(ms(2), (1..=3).map(|id| (id, Some(ms(1)))));
    load.run(&mut world, ms(1_000), |_| false);
    let pick = world.pick_of(1);
    let _ = world.done(pick, TryResult::Failure);
    load.picked.clear();
    load.run(&mut world, ms(1_000), |_| false);
    assert!(load.picked.get(&1).is_none_or(|n| *n < 10), "{:?}", load.picked);
    load.run(&mut world, ms(14_000), |_| false);
    load.picked.clear();
    load.run(&mut world, ms(5_000), |_| false);
    assert!(load.picked[&1] > 300, "{:?}", load.picked);
}

#[test]
fn an_endpoint_that_falls_silent_holds_few_requests_and_is_ejected_when_found_out() {
    for seed in 0..20 {
        let mut world = World::of(3);
        world.rng = SmallRng::seed_from_u64(seed);
        let mut load = Load::new(ms(2), (1..=3).map(|id| (id, Some(ms(1)))));
        load.run(&mut world, ms(3_000), |_| false);
        load.latency.insert(1, Some(ms(100_000)));
        load.run(&mut world, ms(8_000), |_| false);
        assert!(load.most_in_flight[&1] <= 3, "seed {seed}: {}", load.most_in_flight[&1]);
        let (.., pick, _) = load.under_way.into_iter().find(|(.., pick, _)| id(pick) == 1).expect("one hangs");
        assert!(matches!(world.done(pick, TryResult::Silent), Finished::Ejected { .. }), "seed {seed}");
    }
}
