//! When nothing has passed for too long on a connection whose bytes nobody understands.
//!
//! Nothing is done for a chunk, and no clock is read for one: a relay's [`Counters`] are looked at. While bytes pass, once per
//! tick; while none do, not at all until the time would be over. So the bytes that were last are known to a tick (an eighth
//! of the timeout, 1 s at most), a connection lasts no less than its timeout after them and no more than a tick longer, and one that
//! is quiet costs nothing.
//!
//! ```text
//!   bytes ─► busy ── tick, no more bytes ─► quiet ── timeout since the last tick with bytes ─► over
//!             ▲ │                            │
//!             │ └─ tick, more bytes ─┐       │
//!             └──────────────────────┴─ bytes┘
//! ```
//!
//! Bound: a timer and some words per connection.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::relay::Counters;

/// Ends when no byte has been counted for `timeout`, or a tick more. To be polled whenever the relay is.
pub async fn idle(counters: &Counters, timeout: Duration) {
    let total = || counters.a_to_b.load(Ordering::Relaxed).wrapping_add(counters.b_to_a.load(Ordering::Relaxed));
    let mut quiet = Quiet::new(timeout, Instant::now());
    let mut sleep = pin!(sleep_until(quiet.over_at()));
    poll_fn(|cx| {
        let total = total();
        if quiet.is_broken(total)
            && let Some(at) = quiet.look(total, Instant::now())
        {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            match quiet.look(total, Instant::now()) {
                Some(at) => sleep.as_mut().reset(at),
                None => return Poll::Ready(()),
            }
        }
        Poll::Pending
    })
    .await;
}

/// What is known of a connection's quiet.
#[derive(Debug)]
struct Quiet {
    timeout: Duration,
    /// Bytes when it was last looked.
    seen: u64,
    /// No byte has passed since, as far as was looked; never before the last byte.
    since: Instant,
    /// Whether it is looked at again only when the time would be over.
    is_settled: bool,
}

impl Quiet {
    fn new(timeout: Duration, now: Instant) -> Self {
        Self { timeout, seen: 0, since: now, is_settled: true }
    }

    fn tick(&self) -> Duration {
        (self.timeout / 8).clamp(Duration::from_millis(1), Duration::from_secs(1))
    }

    fn over_at(&self) -> Instant {
        self.since + self.timeout
    }

    /// Whether bytes have passed that no tick will notice.
    fn is_broken(&self, total: u64) -> bool {
        self.is_settled && total != self.seen
    }

    /// Looks. When to look again, unless bytes pass; `None`: it is over.
    fn look(&mut self, total: u64, now: Instant) -> Option<Instant> {
        if total != self.seen {
            (self.seen, self.since, self.is_settled) = (total, now, false);
            return Some(now + self.tick());
        }
        self.is_settled = true;
        (now < self.over_at()).then_some(self.over_at())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// When a connection with bytes at these moments (ms) is over, polled whenever bytes pass, as a relay is.
    async fn over_after(timeout: u64, bytes: &[u64]) -> u64 {
        let (counters, began) = (Counters::default(), Instant::now());
        let mut idle = pin!(idle(&counters, Duration::from_millis(timeout)));
        for at in bytes {
            tokio::select! {
                biased;
                () = &mut idle => return passed(began),
                () = tokio::time::sleep_until(began + Duration::from_millis(*at)) => {}
            }
            counters.b_to_a.fetch_add(1, Ordering::Relaxed);
        }
        idle.await;
        passed(began)
    }

    /// In milliseconds.
    fn passed(began: Instant) -> u64 {
        u64::try_from(began.elapsed().as_millis()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_over_when_nothing_has_passed_for_its_timeout() {
        #[rustfmt::skip]
        let rows: [(&str, u64, &[u64], u64); 6] = [
            // timeout                                       over (ms)
            ("never a byte",                8_000,  &[],                     8_000),
            ("one at once",                 8_000,  &[0],                    8_000),
            ("one later",                   8_000,  &[5_000],               13_000),
            ("every half of the timeout",   8_000,  &[4_000, 8_000, 12_000, 16_000], 24_000),
            // The second came within the tick of the first: noticed at its end.
            ("two in one tick",             8_000,  &[4_000, 4_300],        13_000),
            ("a day",                  86_400_000,  &[1_000, 1_999],    86_402_000),
        ];
        for (what, timeout, bytes, want) in rows {
            assert_eq!(over_after(timeout, bytes).await, want, "{what}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_never_over_too_early_nor_later_than_a_tick(
            timeout in 1u64..100_000, pauses in prop::collection::vec(0u64..100_000, 0..40),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let mut at = 0;
            let mut bytes: Vec<u64> = Vec::new();
            for pause in &pauses {
                at += pause % (timeout * 3 / 2 + 1);
                bytes.push(at);
            }
            let over = runtime.block_on(over_after(timeout, &bytes));
            let last = bytes.iter().copied().take_while(|at| *at < over).last().unwrap_or(0);
            let tick = (timeout / 8).clamp(1, 1_000);
            prop_assert!(over >= last + timeout, "{over} ms, the last byte at {last}");
            // A timer is good to a millisecond, and so are the two that are in the way.
            prop_assert!(over <= last + timeout + tick + 2, "{over} ms, the last byte at {last}");
            // Every pause that was borne was short enough to be.
            let mut before = 0;
            for at in bytes.iter().take_while(|at| **at < over) {
                prop_assert!(at - before <= timeout + tick + 2);
                before = *at;
            }
        }
    }
}
