use std::time::Duration;

use proptest::prelude::*;

use super::word::WHEN_MAX;
use super::*;

fn policy() -> OutlierPolicy {
    OutlierPolicy::default()
}

/// A set of standings under one lock, as the balancer would keep it.
struct Fixture {
    ejections: Ejections,
    standings: Vec<Standing>,
}

impl Fixture {
    fn of(ready: usize) -> Self {
        let fixture = Self {
            ejections: Ejections::default(),
            standings: std::iter::repeat_with(Standing::default).take(ready).collect(),
        };
        fixture.ejections.lock().replace(std::iter::empty(), fixture.standings.iter(), &policy());
        fixture
    }

    /// Fails five times at `now`.
    fn fail(&self, index: usize, now: u64) -> Ejection {
        let standing = &self.standings[index];
        for _ in 0..4 {
            assert_eq!(standing.on_failure(now, policy().consecutive_failures, 1), OnFailure::Counted);
        }
        assert_eq!(standing.on_failure(now, policy().consecutive_failures, 1), OnFailure::Due);
        self.ejections.lock().eject(standing, self.standings.iter(), &policy(), now)
    }

    fn probe(&self, index: usize, now: u64) -> bool {
        self.ejections.lock().begin_probe(&self.standings[index], self.standings.iter(), now)
    }

    fn probe_fails(&self, index: usize, now: u64) -> Option<u64> {
        self.ejections.lock().probe_failed(&self.standings[index], self.standings.iter(), &policy(), now)
    }

    fn probe_succeeds(&self, index: usize, now: u64) -> bool {
        self.ejections.lock().probe_succeeded(&self.standings[index], now)
    }
}

#[test]
fn the_cap_row_by_row() {
    let rows = [(0, 50, 0), (1, 50, 0), (2, 50, 1), (3, 50, 1), (4, 50, 2), (5, 50, 2), (10, 50, 5), (10, 10, 1)];
    let more = [(10, 0, 1), (3, 100, 2), (1, 100, 0), (2, 1_000, 1), (7, 99, 6)];
    for (ready, max_percent, want) in rows.into_iter().chain(more) {
        let policy = OutlierPolicy { max_percent, ..policy() };
        assert_eq!(policy.cap(ready), want, "{max_percent} % of {ready}");
    }
    let off = OutlierPolicy { consecutive_failures: None, ..policy() };
    assert_eq!(off.cap(10), 0);
}

#[test]
fn ejections_double_up_to_the_longest() {
    let fixture = Fixture::of(2);
    let mut now = 100;
    assert_eq!(fixture.fail(0, now), Ejection::Now { until: 1_100 });
    for want in [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
        now = fixture.standings[0].get().when;
        assert!(!fixture.probe(0, now - 1), "not before it is due");
        assert!(fixture.probe(0, now));
        assert_eq!(fixture.probe_fails(0, now), Some(now + want));
    }
    assert_eq!(fixture.ejections.total(), 8);
}

#[test]
fn clean_time_makes_the_next_ejection_shorter() {
    // Three ejections in a row: 1 s, 2 s, 4 s. Back at 10 s.
    for (clean_s, want) in [(0, 8_000), (9, 8_000), (10, 4_000), (20, 2_000), (30, 1_000), (1_000, 1_000)] {
        let fixture = Fixture::of(2);
        fixture.fail(0, 0);
        for now in [1_000, 3_000] {
            assert!(fixture.probe(0, now));
            fixture.probe_fails(0, now);
        }
        assert!(fixture.probe(0, 10_000) && fixture.probe_succeeds(0, 10_000));
        let now = 10_000 + clean_s * 1_000;
        assert_eq!(fixture.fail(0, now), Ejection::Now { until: now + want }, "{clean_s} s clean");
    }
}

#[test]
fn one_probe_at_a_time_and_its_end_makes_room_for_the_next() {
    let fixture = Fixture::of(2);
    fixture.fail(0, 0);
    assert!(fixture.ejections.probe_due(1_000) && !fixture.ejections.probe_due(999));
    assert!(fixture.probe(0, 1_000));
    assert!(!fixture.probe(0, 1_000));
    assert!(!fixture.ejections.probe_due(1_000_000), "nothing is due while it is being probed");
    fixture.ejections.lock().probe_ended(&fixture.standings[0], fixture.standings.iter());
    assert!(fixture.ejections.probe_due(1_000));
    assert!(fixture.probe(0, 1_000));
    assert_eq!(fixture.ejections.ejected(), 1);
    assert!(fixture.probe_succeeds(0, 1_010));
    assert_eq!(fixture.ejections.ejected(), 0);
    assert!(!fixture.probe_succeeds(0, 1_010), "a probe decides once");
}

#[test]
fn a_success_between_starts_the_count_anew() {
    let fixture = Fixture::of(2);
    let standing = &fixture.standings[0];
    for _ in 0..3 {
        for _ in 0..4 {
            assert_eq!(standing.on_failure(0, policy().consecutive_failures, 1), OnFailure::Counted);
        }
        standing.on_success();
    }
    assert_eq!(standing.failures(), 0);
}

#[test]
fn a_success_that_comes_between_the_last_failure_and_the_lock_wins() {
    let fixture = Fixture::of(2);
    let standing = &fixture.standings[0];
    for _ in 0..5 {
        let _ = standing.on_failure(0, policy().consecutive_failures, 1);
    }
    standing.on_success();
    let done = fixture.ejections.lock().eject(standing, fixture.standings.iter(), &policy(), 0);
    assert_eq!((done, fixture.ejections.ejected()), (Ejection::Already, 0));
}

#[test]
fn the_one_too_many_stays_and_goes_when_there_is_room() {
    let fixture = Fixture::of(3);
    assert!(matches!(fixture.fail(0, 0), Ejection::Now { .. }));
    assert_eq!(fixture.fail(1, 0), Ejection::TooMany);
    assert!(fixture.probe(0, 1_000) && fixture.probe_succeeds(0, 1_000));
    assert_eq!(fixture.standings[1].on_failure(1_000, policy().consecutive_failures, 1), OnFailure::Due);
    let done = fixture.ejections.lock().eject(&fixture.standings[1], fixture.standings.iter(), &policy(), 1_000);
    assert_eq!(done, Ejection::Now { until: 2_000 });
}

#[test]
fn only_ready_members_are_counted() {
    let fixture = Fixture::of(4);
    fixture.fail(0, 0);
    fixture.fail(1, 0);
    assert_eq!(fixture.ejections.ejected(), 2);
    // The first one starts draining.
    fixture.ejections.lock().replace(fixture.standings.iter(), fixture.standings[1..].iter(), &policy());
    assert_eq!(fixture.ejections.ejected(), 1);
    assert_eq!(fixture.standings[0].on_failure(0, policy().consecutive_failures, 1), OnFailure::Ignored);
    // Its probe, had there been one, does not count it out a second time.
    assert!(!fixture.probe(0, 5_000));
    fixture.ejections.lock().replace(fixture.standings.iter(), fixture.standings.iter(), &policy());
    assert_eq!(fixture.ejections.ejected(), 2);
}

#[test]
fn switching_detection_off_brings_everyone_back() {
    let fixture = Fixture::of(2);
    fixture.fail(0, 0);
    let off = OutlierPolicy { consecutive_failures: None, ..policy() };
    fixture.ejections.lock().replace(fixture.standings.iter(), fixture.standings.iter(), &off);
    assert!(fixture.standings[0].in_use() && fixture.ejections.ejected() == 0);
    assert!(!fixture.ejections.probe_due(u64::MAX - 1));
    assert_eq!(fixture.standings[0].on_failure(0, None, 1), OnFailure::Ignored);
}

#[test]
fn a_failing_endpoint_is_rechecked_once_per_interval() {
    let fixture = Fixture::of(2);
    let standing = &fixture.standings[0];
    assert!(!standing.take_recheck(1_000), "it has not failed");
    let _ = standing.on_failure(1_000, policy().consecutive_failures, 1);
    let taken: Vec<u64> = (1_000..1_200).step_by(10).filter(|now| standing.take_recheck(*now)).collect();
    assert_eq!(taken, [1_050, 1_100, 1_150]);
    standing.on_success();
    assert!(!standing.take_recheck(2_000));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_word_keeps_what_is_put_in(phase in 0u8..3, level in 0u8..=LEVEL_MAX, failures: u16, when in 0..=WHEN_MAX) {
        let phase = [Phase::InUse, Phase::Ejected, Phase::Probing][usize::from(phase)];
        let word = Word { phase, level, failures, when };
        prop_assert_eq!(Word::unpack(word.pack()), word);
    }

    #[test]
    fn no_policy_makes_an_ejection_that_cannot_be_told(base: u64, max: u64, level in 0u8..=LEVEL_MAX) {
        let policy = OutlierPolicy { base: Duration::from_millis(base), max: Duration::from_millis(max), ..policy() };
        prop_assert!(length_ms(&policy, level, 0.0) <= WHEN_MAX / 2);
    }
}
