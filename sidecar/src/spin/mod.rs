//! Spins for a response that is about to come, in place of going to sleep for it.
//!
//! At a low rate a proxy is asleep when a request comes and again when its response does, and each wake-up of a sleeping
//! process costs some 40 µs on a virtual machine: more than all that the proxy itself does. When a request comes nobody knows;
//! a response can be waited for awake. [`decide`] says when that is worth it, and bounds it.
//!
//! ```text
//! a pool sends a request ─► Waits::begin ─ worth it, and time left ─► the worker's spinner wakes
//! the spinner: yields to every other task, then to the driver, which looks at its sockets without going to sleep; again,
//!              until the response has come (Awaited::over) or the time for it is over
//! ```
//!
//! The spinner is a task ([`keep`]) of the worker's own runtime: what is ready goes first, and it is polled once for each look
//! at the sockets. Where no spinner runs (tests, `--busy-poll off`, a CPU limit below one core: [`is_below_one_core`])
//! nothing is measured.

mod decide;
mod limit;

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use self::decide::{Allowance, Habit};

pub(crate) use self::limit::is_below_one_core;

/// A count of seconds, for metrics.
pub(crate) type Seconds = Counter<f64, AtomicU64>;

thread_local! {
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

/// What is known of how quickly somebody answers.
#[derive(Debug, Default)]
pub(crate) struct Waits(Habit);

/// A response that is waited for. Dropped, nothing is learnt from it.
pub(crate) struct Awaited<'a> {
    waits: &'a Waits,
    since: Instant,
    /// `None`: no spinner runs here.
    seat: Option<Seat>,
}

/// Its part in the worker's spinning.
enum Seat {
    /// It is slept for.
    Asleep,
    /// It is spun for.
    Spun(Spun),
}

#[derive(Clone, Copy)]
struct Spun {
    until: Instant,
    /// [`Worker::round`] when it began.
    round: u64,
}

impl Waits {
    /// A request has just been given to whoever answers it.
    pub(crate) fn begin(&self, now: Instant) -> Awaited<'_> {
        let seat = with_worker(|worker| {
            let time = self.0.worth(now);
            time.and_then(|time| worker.join(time, now)).map_or(Seat::Asleep, Seat::Spun)
        });
        Awaited { waits: self, since: now, seat }
    }
}

impl Awaited<'_> {
    /// The response is here.
    pub(crate) fn over(mut self, now: Instant) {
        let Some(seat) = self.seat.take() else { return };
        let in_time = match seat {
            Seat::Asleep => None,
            Seat::Spun(spun) => {
                with_worker(|worker| worker.leave(spun));
                Some(now <= spun.until)
            }
        };
        self.waits.0.came(now.saturating_duration_since(self.since), in_time, now);
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if let Some(Seat::Spun(spun)) = self.seat {
            with_worker(|worker| worker.leave(spun));
        }
    }
}

/// A worker's spinner.
struct Worker {
    allowance: Allowance,
    /// Responses spun for.
    open: u32,
    /// Until when, at the latest.
    until: Instant,
    /// Counts the spinner's rounds: who joined an earlier one is not counted in this.
    round: u64,
    /// Since when it spins and has not paid for it.
    unpaid: Option<Instant>,
    /// What was paid, in seconds.
    spun: Seconds,
    /// The spinner, asleep.
    waker: Option<Waker>,
}

impl Worker {
    fn new(spun: Seconds, now: Instant) -> Self {
        Self { allowance: Allowance::new(now), open: 0, until: now, round: 0, unpaid: None, spun, waker: None }
    }

    /// Spins for one more response, if there is time left for it.
    fn join(&mut self, time: Duration, now: Instant) -> Option<Spun> {
        let spins = self.pay(now);
        if !self.allowance.covers(time, now) {
            self.unpaid = spins.then_some(now);
            return None;
        }
        self.unpaid = Some(now);
        let until = now + time;
        self.until = if self.open == 0 { until } else { self.until.max(until) };
        self.open += 1;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Some(Spun { until, round: self.round })
    }

    /// Pays for what was spun until now, and says whether it was spinning.
    fn pay(&mut self, now: Instant) -> bool {
        let Some(since) = self.unpaid.take() else { return false };
        let spun = now.saturating_duration_since(since);
        self.allowance.spend(spun);
        self.spun.inc_by(spun.as_secs_f64());
        true
    }

    fn leave(&mut self, spun: Spun) {
        if spun.round == self.round {
            self.open = self.open.saturating_sub(1);
        }
    }

    /// Ready when there is something to spin for.
    fn poll_asked(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.open > 0 {
            return Poll::Ready(());
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether nothing is left to spin for; then it is paid for.
    fn is_over(&mut self, now: Instant) -> bool {
        if self.open > 0 && now < self.until {
            return false;
        }
        self.pay(now);
        self.open = 0;
        self.round += 1;
        true
    }
}

/// `None` where no spinner runs.
fn with_worker<T>(act: impl FnOnce(&mut Worker) -> T) -> Option<T> {
    // Not while a thread ends, when bodies are dropped that are still waited for.
    WORKER.try_with(|worker| worker.borrow_mut().as_mut().map(act)).ok().flatten()
}

/// With the spinner goes what it answers to.
struct Installed;

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = WORKER.try_with(|worker| worker.borrow_mut().take());
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The spinner of the worker on whose thread it runs. Never ends. `spun`: how long it spun in all.
pub(crate) async fn keep(spun: Seconds) {
    WORKER.set(Some(Worker::new(spun, now())));
    let _installed = Installed;
    loop {
        poll_fn(|cx| with_worker(|worker| worker.poll_asked(cx)).unwrap_or(Poll::Pending)).await;
        loop {
            // Woken again when the driver has looked at its sockets, which it does without sleeping while anybody waits so.
            tokio::task::yield_now().await;
            if with_worker(|worker| worker.is_over(now())).unwrap_or(true) {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests;
