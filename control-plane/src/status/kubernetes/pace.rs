//! How fast status is written: that of routes and policies, and, by another [`Pace`], that of Weft's own kinds. Pure.
//!
//! Over all objects: [`RATE`] a second with as many at once, so that a thousand at a first start are no storm. Per
//! object: what is new goes at once; the same content again (a failed write, a conflict, somebody who keeps undoing it)
//! after 50 ms doubling to 30 s, and from the start when it was quiet for a minute. Bound: one entry per object written.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::ObjectKey;

/// Writes per second, and at once.
pub(super) const RATE: u32 = 200;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_secs(60);

/// What was written when.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: HashMap<ObjectKey, Last>,
    /// When the allowance would be full again.
    full_at: Option<Instant>,
}

#[derive(Debug)]
struct Last {
    digest: u64,
    at: Instant,
    /// Before the same again.
    pause: Duration,
}

impl Pace {
    /// Lets `digest` be written to `object` now, or says when to ask again.
    pub(super) fn go(&mut self, object: &ObjectKey, digest: u64, now: Instant) -> Result<(), Instant> {
        let last = self.last.get(object).filter(|last| last.digest == digest && now < last.at + QUIET.max(last.pause));
        if let Some(last) = last.filter(|last| now < last.at + last.pause) {
            return Err(last.at + last.pause);
        }
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now));
        let allowance = Duration::from_secs(1);
        if full_at >= now + allowance {
            return Err(full_at - allowance + allowance / RATE);
        }
        self.full_at = Some(full_at + allowance / RATE);
        let pause = last.map_or(FIRST_PAUSE, |last| (last.pause * 2).min(LAST_PAUSE));
        self.last.insert(object.clone(), Last { digest, at: now, pause });
        Ok(())
    }

    /// The object is gone.
    pub(super) fn forget(&mut self, object: &ObjectKey) {
        self.last.remove(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, ObjectName};

    fn key(index: u32) -> ObjectKey {
        ObjectKey { kind: Kind::HttpRoute, name: ObjectName::new("shop", format!("r{index}")) }
    }

    #[test]
    fn the_same_again_waits_longer_and_longer_and_news_does_not() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let (mut now, mut pauses) = (start, Vec::new());
        for _ in 0..13 {
            while let Err(later) = pace.go(&key(0), 1, now) {
                pauses.push(u64::try_from((later - now).as_millis()).unwrap());
                now = later;
            }
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(pace.go(&key(0), 2, now), Ok(()), "news");
        assert_eq!(pace.go(&key(0), 1, now), Ok(()), "also news");
        assert!(pace.go(&key(0), 1, now).is_err());
        now += Duration::from_secs(61);
        assert_eq!(pace.go(&key(0), 1, now), Ok(()));
        assert_eq!(pace.go(&key(0), 1, now), Err(now + FIRST_PAUSE), "it was quiet for a while");
    }

    #[test]
    fn a_thousand_routes_are_no_storm() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut now = start;
        let mut at_once = 0;
        for index in 0..1000 {
            while let Err(later) = pace.go(&key(index), 1, now) {
                assert!(later > now);
                now = later;
            }
            at_once += u32::from(now == start);
        }
        assert!((RATE..=RATE + 1).contains(&at_once), "{at_once}");
        let took = now - start;
        assert!((3.9..4.1).contains(&took.as_secs_f64()), "{took:?}");
    }
}
