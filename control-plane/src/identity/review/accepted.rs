//! Successful reviews, remembered for a minute and never past their token's end. Full, it forgets the oldest.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use super::Digest;
use crate::identity::Proven;

/// How long a yes is believed: what a pod's deletion may take to count.
pub(super) const BELIEVED: Duration = Duration::from_secs(60);

pub(super) struct Accepted {
    entries: HashMap<Digest, Entry>,
    /// Oldest first, once each; an entry that was replaced has a younger `number` than its place here.
    order: VecDeque<(Digest, u64)>,
    next: u64,
    limit: usize,
}

struct Entry {
    proven: Proven,
    until: SystemTime,
    number: u64,
}

impl Accepted {
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), next: 0, limit }
    }

    /// Who `key` proved to be, if that still counts.
    pub(super) fn get(&self, key: &Digest, now: SystemTime) -> Option<&Proven> {
        let entry = self.entries.get(key)?;
        let left = entry.until.duration_since(now).ok()?;
        // More than was ever given: the clock went back.
        (!left.is_zero() && left <= BELIEVED).then_some(&entry.proven)
    }

    /// Remembers that `key`, whose token ends at `ends`, is `proven`.
    pub(super) fn insert(&mut self, key: Digest, proven: Proven, ends: Option<SystemTime>, now: SystemTime) {
        let believed = now + BELIEVED;
        let until = ends.map_or(believed, |ends| ends.min(believed));
        if until <= now || self.limit == 0 {
            return;
        }
        let number = self.next;
        self.next += 1;
        self.entries.insert(key, Entry { proven, until, number });
        self.order.push_back((key, number));
        while let Some(&(oldest, number)) = self.order.front() {
            match self.entries.get(&oldest) {
                Some(entry) if entry.number == number => {
                    if self.entries.len() <= self.limit && entry.until > now {
                        break;
                    }
                    self.entries.remove(&oldest);
                }
                _ => {} // Replaced since.
            }
            self.order.pop_front();
        }
        // One whose token ended early may keep replaced ones behind it.
        if self.order.len() > 2 * self.limit {
            let entries = &self.entries;
            self.order.retain(|(key, number)| entries.get(key).is_some_and(|entry| entry.number == *number));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn proven(n: u8) -> Proven {
        Proven { id: format!("spiffe://weft.local/ns/shop/sa/w{n}").parse().unwrap(), pod: None }
    }

    #[test]
    fn a_yes_counts_for_a_minute_and_never_past_the_tokens_end() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let rows = [
            ("no end known", None, 59, true),
            ("no end known, a minute later", None, 60, false),
            ("ends later", Some(600), 59, true),
            ("ends later, a minute later", Some(600), 60, false),
            ("ends sooner", Some(10), 9, true),
            ("at its end", Some(10), 10, false),
            ("ended already", Some(0), 0, false),
        ];
        for (row, ends, after, expected) in rows {
            let mut accepted = Accepted::new(4);
            accepted.insert([1; 32], proven(1), ends.map(|s| start + SECOND * s), start);
            assert_eq!(accepted.get(&[1; 32], start + SECOND * after).is_some(), expected, "{row}");
        }
        let mut accepted = Accepted::new(4);
        accepted.insert([1; 32], proven(1), None, start);
        assert!(accepted.get(&[1; 32], start - SECOND * 3600).is_none(), "the clock went back an hour");
        assert!(accepted.get(&[2; 32], start).is_none(), "another token");
    }

    proptest! {
        /// Against the plainest map there is: whatever is remembered is right, the newest is, and the bound holds.
        #[test]
        fn it_never_holds_more_than_its_limit_and_never_lies(
            steps in prop::collection::vec((0..12_u8, prop::option::of(0..90_u64), 0..30_u64), 1..200),
        ) {
            let mut now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
            let mut accepted = Accepted::new(5);
            let mut oracle = HashMap::new();
            for (key, ends, pause) in steps {
                let ends = ends.map(|s| now + SECOND * s as u32);
                accepted.insert([key; 32], proven(key), ends, now);
                let until = ends.map_or(now + BELIEVED, |ends| ends.min(now + BELIEVED));
                if until > now {
                    oracle.insert(key, until);
                    prop_assert_eq!(accepted.get(&[key; 32], now), Some(&proven(key)));
                }
                prop_assert!(accepted.entries.len() <= 5);
                prop_assert!(accepted.order.len() <= 10);
                now += SECOND * pause as u32;
                for key in 0..12 {
                    if let Some(held) = accepted.get(&[key; 32], now) {
                        prop_assert_eq!(held, &proven(key));
                        prop_assert!(oracle[&key] > now);
                    }
                }
            }
        }
    }
}
