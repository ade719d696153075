//! How often a log says the same: what strangers can cause is not to fill a disk, nor hide the rest.
//!
//! [`LineLimit`] decides (pure): of each reason [`LINES`] lines in any [`PERIOD`], the others are counted, and a period after the
//! first of these one more line says how many. [`Lines`] is what port 15012 and `Certify` ask before they log a refusal; metrics
//! count all of them.
//!
//! Bound: [`LINES`] times per reason; reasons are words in the code.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lines of one reason in a [`PERIOD`].
const LINES: usize = 5;
const PERIOD: Duration = Duration::from_secs(10);

/// Decides what is logged.
#[derive(Debug, Default)]
struct LineLimit(BTreeMap<&'static str, Said>);

/// Of one reason.
#[derive(Debug, Default)]
struct Said {
    /// When lines were logged, of the last [`PERIOD`].
    lines: VecDeque<Instant>,
    held: u64,
}

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is logged.
    Log,
    /// It is counted.
    Hold,
    /// It is counted, and it is the first: [`LineLimit::held`] is to be asked a [`PERIOD`] from now.
    HoldFirst,
}

impl LineLimit {
    /// A line of this reason.
    fn on_line(&mut self, reason: &'static str, now: Instant) -> Verdict {
        let said = self.0.entry(reason).or_default();
        while said.lines.front().is_some_and(|at| now.saturating_duration_since(*at) >= PERIOD) {
            said.lines.pop_front();
        }
        if said.lines.len() < LINES {
            said.lines.push_back(now);
            return Verdict::Log;
        }
        said.held += 1;
        if said.held == 1 { Verdict::HoldFirst } else { Verdict::Hold }
    }

    /// How many lines of this reason were held since this was asked last.
    fn held(&mut self, reason: &'static str) -> u64 {
        self.0.get_mut(reason).map(|said| std::mem::take(&mut said.held)).unwrap_or_default()
    }
}

/// What is asked before a refusal is logged. Clones share one count.
#[derive(Debug, Clone, Default)]
pub struct Lines(Arc<Mutex<LineLimit>>);

impl Lines {
    /// Whether a line of this reason may be logged now. If not, how many were not is logged later: the runtime must be tokio's.
    pub fn may(&self, reason: &'static str) -> bool {
        let verdict = self.0.lock().on_line(reason, Instant::now());
        if verdict == Verdict::HoldFirst {
            let theirs = Arc::clone(&self.0);
            // One at a time for each reason.
            tokio::spawn(async move {
                tokio::time::sleep(PERIOD).await;
                let more = theirs.lock().held(reason);
                tracing::warn!(reason, more, "{more} more were refused for this reason within {} s", PERIOD.as_secs());
            });
        }
        verdict == Verdict::Log
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn five_are_said_and_the_rest_is_counted_for_each_reason() {
        let (mut limit, start) = (LineLimit::default(), Instant::now());
        let after = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let rows = [
            (0.0, "tls", Verdict::Log),
            (1.0, "tls", Verdict::Log),
            (1.0, "tls", Verdict::Log),
            (1.0, "tls", Verdict::Log),
            (2.0, "tls", Verdict::Log),
            (2.0, "tls", Verdict::HoldFirst),
            (3.0, "token", Verdict::Log),
            (9.9, "tls", Verdict::Hold),
            (10.0, "tls", Verdict::Log),
            (10.5, "tls", Verdict::Hold),
            (11.0, "tls", Verdict::Log),
        ];
        for (at, reason, expected) in rows {
            assert_eq!(limit.on_line(reason, after(at)), expected, "{reason} at {at}");
        }
        assert_eq!((limit.held("tls"), limit.held("token"), limit.held("never")), (3, 0, 0));
        for (at, expected) in [(11.5, Verdict::Log), (11.5, Verdict::Log), (11.6, Verdict::HoldFirst)] {
            assert_eq!(limit.on_line("tls", after(at)), expected, "at {at}");
        }
    }

    proptest! {
        #[test]
        fn no_period_has_more_and_nothing_is_lost(gaps in prop::collection::vec(0..4_000_u64, 1..200)) {
            let mut limit = LineLimit::default();
            let mut now = Instant::now();
            let (mut logged, mut counted) = (Vec::new(), 0);
            let mut due: Option<Instant> = None;
            for gap in &gaps {
                now += Duration::from_millis(*gap);
                if due.is_some_and(|due| due <= now) {
                    due = None;
                    counted += limit.held("x");
                }
                match limit.on_line("x", now) {
                    Verdict::Log => logged.push(now),
                    Verdict::HoldFirst => {
                        prop_assert!(due.is_none(), "two summaries at once");
                        due = Some(now + PERIOD);
                    }
                    Verdict::Hold => prop_assert!(due.is_some(), "held, and nobody will say so"),
                }
            }
            for window in logged.windows(LINES + 1) {
                prop_assert!(window[LINES] - window[0] >= PERIOD);
            }
            prop_assert_eq!(logged.len() as u64 + counted + limit.held("x"), gaps.len() as u64);
        }
    }
}
