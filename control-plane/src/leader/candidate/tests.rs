use super::*;

const TIMES: Times = Times {
    lease: Duration::from_secs(9),
    deadline: Duration::from_secs(6),
    renew: Duration::from_secs(2),
    look: Duration::from_secs(2),
    retry: Duration::from_secs(1),
    request: Duration::from_secs(2),
};

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The API server, a virtual clock, and candidates whose requests take no time unless they are cut off.
struct World {
    start: Instant,
    now: Instant,
    lease: Option<Lease>,
    version: u64,
    candidates: Vec<Candidate>,
    cut_off: Vec<bool>,
    killed: Vec<bool>,
    /// How far each one's wall clock is off.
    skew: Vec<i64>,
}

impl World {
    fn new(count: usize) -> Self {
        let start = Instant::now();
        let candidate = |index| Candidate::new("weft", &format!("c{index}"), TIMES);
        Self {
            start,
            now: start,
            lease: None,
            version: 0,
            candidates: (0..count).map(candidate).collect(),
            cut_off: vec![false; count],
            killed: vec![false; count],
            skew: vec![0; count],
        }
    }

    fn wall(&self, index: usize) -> Timestamp {
        let elapsed = i64::try_from((self.now - self.start).as_millis()).unwrap();
        Timestamp::from_millisecond(1_800_000_000_000 + elapsed + self.skew[index]).unwrap()
    }

    /// Lets one act until it waits.
    fn act(&mut self, index: usize) {
        for _ in 0..8 {
            if self.killed[index] {
                return;
            }
            let wall = self.wall(index);
            let next = self.candidates[index].next(self.now, wall);
            let candidate = &mut self.candidates[index];
            match next {
                Next::Wait(_) => return,
                _ if self.cut_off[index] => candidate.on_failure(self.now),
                Next::Look => candidate.on_seen(self.lease.clone(), self.now),
                Next::Write(mut lease) => {
                    let stored = self.lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
                    if lease.metadata.resource_version == stored {
                        self.version += 1;
                        lease.metadata.resource_version = Some(self.version.to_string());
                        self.lease = Some(*lease.clone());
                        candidate.on_written(*lease, self.now, self.now);
                    } else {
                        candidate.on_conflict();
                    }
                }
            }
        }
        panic!("candidate {index} never waits");
    }

    /// Runs for so long in steps of 100 ms, and says who led, with the moment, at each change.
    fn run(&mut self, long: Duration) -> Vec<String> {
        let mut story = Vec::new();
        let mut before = self.leaders();
        let end = self.now + long;
        while self.now < end {
            for index in 0..self.candidates.len() {
                self.act(index);
            }
            let leaders = self.leaders();
            assert!(leaders.len() < 2, "two lead at {:?}", self.now - self.start);
            if leaders != before {
                story.push(format!("{:?}: {}", self.now - self.start, leaders.join(" ")));
                before = leaders;
            }
            self.now += ms(100);
        }
        story
    }

    fn leaders(&self) -> Vec<String> {
        let leads = |index: &usize| !self.killed[*index] && self.candidates[*index].leads(self.now);
        (0..self.candidates.len()).filter(leads).map(|index| format!("c{index}")).collect()
    }
}

#[test]
fn one_of_several_leads_and_goes_on_leading() {
    let mut world = World::new(3);
    assert_eq!(world.run(ms(60_000)), ["0ns: c0"]);
    let spec = world.lease.unwrap().spec.unwrap();
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("c0"), Some(0)));
    assert_eq!(spec.lease_duration_seconds, Some(9));
    assert!(world.version <= 31, "{} writes in a minute", world.version);
}

#[test]
fn a_killed_leader_is_replaced_when_its_lease_was_seen_unchanged_for_long_enough() {
    let mut world = World::new(2);
    world.run(ms(5_000)); // Renewed last at 4 s, which the other saw then at the earliest.
    world.killed[0] = true;
    assert_eq!(world.run(ms(20_000)), ["13s: c1"]);
    assert_eq!(world.lease.unwrap().spec.unwrap().lease_transitions, Some(1));
}

#[test]
fn clocks_that_differ_by_hours_change_nothing() {
    let mut world = World::new(2);
    world.skew = vec![-7_200_000, 7_200_000];
    assert_eq!(world.run(ms(30_000)), ["0ns: c0"]);
    world.killed[0] = true;
    assert_eq!(world.run(ms(20_000)).last().map(|last| last.ends_with("c1")), Some(true));
}

#[test]
fn a_leader_that_cannot_renew_stops_before_another_may_take_over() {
    let mut world = World::new(2);
    world.run(ms(5_000));
    world.cut_off[0] = true;
    assert_eq!(world.run(ms(30_000)), ["10s: ", "13s: c1"]); // 4 s + 6 s, 4 s + 9 s
    world.cut_off[0] = false;
    assert_eq!(world.run(ms(30_000)), Vec::<String>::new(), "who comes back does not take it away");
}

#[test]
fn a_leader_cut_off_with_everybody_else_leads_again_when_it_is_over() {
    let mut world = World::new(2);
    world.run(ms(5_000));
    world.cut_off = vec![true, true];
    world.run(ms(60_000));
    world.cut_off = vec![false, false];
    let story = world.run(ms(5_000));
    assert_eq!(story.len(), 1, "{story:?}");
}

#[test]
fn a_lease_given_up_is_taken_by_the_first_who_hears_of_it() {
    let mut world = World::new(2);
    world.run(ms(5_000));
    let wall = world.wall(0);
    let mut released = world.candidates[0].release(world.now, wall).unwrap();
    assert_eq!(world.candidates[1].release(world.now, wall), None, "it is not theirs to give");
    released.metadata.resource_version = Some("99".to_owned());
    (world.lease, world.version, world.killed[0]) = (Some(released), 99, true);
    let now = world.now;
    world.candidates[1].on_change(now);
    assert_eq!(world.run(ms(1_000)), ["5s: c1"]);
}

#[test]
fn a_watch_that_says_nothing_delays_that_by_one_look() {
    let mut world = World::new(2);
    world.run(ms(5_000));
    let mut released = world.candidates[0].release(world.now, world.wall(0)).unwrap();
    released.metadata.resource_version = Some("99".to_owned());
    (world.lease, world.version, world.killed[0]) = (Some(released), 99, true);
    assert_eq!(world.run(ms(5_000)), ["6s: c1"]);
}

#[test]
fn a_restarted_holder_takes_its_own_lease_up_again() {
    let mut world = World::new(1);
    world.run(ms(5_000));
    world.candidates[0] = Candidate::new("weft", "c0", TIMES);
    assert_eq!(world.run(ms(1_000)), ["5s: c0"]);
    assert_eq!(world.lease.unwrap().spec.unwrap().lease_transitions, Some(0));
}

#[test]
fn an_operator_who_edits_or_deletes_the_lease_is_obeyed() {
    let mut world = World::new(1);
    world.run(ms(5_000));
    let lease = world.lease.as_mut().unwrap();
    lease.spec.as_mut().unwrap().holder_identity = Some("somebody".to_owned());
    lease.metadata.resource_version = Some("99".to_owned());
    world.version = 99;
    let story = world.run(ms(20_000));
    assert_eq!(story, ["6s: ", "15s: c0"], "seen at the next renewal, then waited out");
    world.lease = None;
    assert_eq!(world.run(ms(20_000)), Vec::<String>::new(), "it makes another at its next renewal");
}

#[test]
fn a_lease_edited_to_last_for_ever_is_not_believed() {
    let mut world = World::new(2);
    world.run(ms(5_000));
    world.killed[0] = true;
    world.lease.as_mut().unwrap().spec.as_mut().unwrap().lease_duration_seconds = Some(i32::MAX);
    assert_eq!(world.run(ms(120_000)).last().map(|last| last.ends_with("c1")), Some(true));
}
