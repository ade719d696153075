//! Whether a connection is still good for something. One without a question for [`IDLE`] is closed, so that it does not keep a
//! place for nothing; one with a question that is older than [`STUCK`] is, too: its answer was ready long before, and nobody
//! reads it. Pure but for the lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// API servers keep a connection for the next question, and open another without being asked to.
const IDLE: Duration = Duration::from_secs(60);
/// From a question's head to the last of its answer; [`super::TIME_LIMIT`] and room for a slow network.
const STUCK: Duration = Duration::from_secs(20);

/// The questions of one connection. Clones share.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Mutex<Questions>>);

#[derive(Debug)]
struct Questions {
    /// When each that is open was asked; numbers rise, so the first is the oldest.
    open: BTreeMap<u64, Instant>,
    next: u64,
    /// Whether any was open since the last look.
    seen: bool,
    quiet_since: Instant,
}

/// What to do with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Let it be.
    Keep,
    /// Close it, with grace.
    Idle,
    /// Cut it.
    Stuck,
}

impl Activity {
    pub(super) fn new(now: Instant) -> Self {
        let questions = Questions { open: BTreeMap::new(), next: 0, seen: false, quiet_since: now };
        Self(Arc::new(Mutex::new(questions)))
    }

    /// A question begins; it ends when what is returned is dropped.
    pub(super) fn begin(&self, now: Instant) -> Open {
        let mut questions = self.0.lock();
        let number = questions.next;
        questions.next += 1;
        questions.seen = true;
        questions.open.insert(number, now);
        Open { activity: self.clone(), number }
    }

    /// Looks; to be called every few seconds, by which [`IDLE`] is rounded up.
    pub(super) fn look(&self, now: Instant) -> Verdict {
        let mut questions = self.0.lock();
        if std::mem::take(&mut questions.seen) {
            questions.quiet_since = now;
        }
        match questions.open.first_key_value() {
            Some((_, asked)) => {
                let stuck = now.saturating_duration_since(*asked) >= STUCK;
                questions.seen = true;
                if stuck { Verdict::Stuck } else { Verdict::Keep }
            }
            None if now.saturating_duration_since(questions.quiet_since) >= IDLE => Verdict::Idle,
            None => Verdict::Keep,
        }
    }
}

/// A question that is not answered to its end.
#[derive(Debug)]
pub(super) struct Open {
    activity: Activity,
    number: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.activity.0.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_lives_while_it_asks_and_its_answers_are_read() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let activity = Activity::new(start);
        assert_eq!(activity.look(at(59)), Verdict::Keep);
        assert_eq!(activity.look(at(60)), Verdict::Idle);

        // A question between two looks counts from the second.
        drop(activity.begin(at(61)));
        assert_eq!(activity.look(at(65)), Verdict::Keep);
        assert_eq!(activity.look(at(124)), Verdict::Keep);
        assert_eq!(activity.look(at(125)), Verdict::Idle);

        // The oldest counts, whatever is asked meanwhile and in whichever order they end.
        let first = activity.begin(at(130));
        let second = activity.begin(at(140));
        assert_eq!(activity.look(at(149)), Verdict::Keep);
        drop(activity.begin(at(149)));
        assert_eq!(activity.look(at(150)), Verdict::Stuck);
        drop(first);
        assert_eq!(activity.look(at(159)), Verdict::Keep);
        assert_eq!(activity.look(at(160)), Verdict::Stuck);
        drop(second);
        // Quiet begins with the first look that finds nothing open.
        assert_eq!(activity.look(at(161)), Verdict::Keep);
        assert_eq!(activity.look(at(220)), Verdict::Keep);
        assert_eq!(activity.look(at(221)), Verdict::Idle);
    }
}
