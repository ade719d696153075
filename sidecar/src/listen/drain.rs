//! Drain: no new work, finish what is in flight, close. One [`Signal`] starts it, any number of [`Watch`]es hear of it,
//! and it is over when the last [`Guard`] is dropped. When a pod's life ends in which order is `runtime/ending.rs`'s.
//!
//! ```text
//! serving ── start ──► draining ── close ──► closing
//!                      peers are told        what has nothing in flight closes
//! ```
//!
//! The contract:
//!
//! 1. Whoever does work that must finish holds a [`Guard`] for as long: one per connection is enough.
//! 2. Who holds one also watches [`Watch::draining`], and when it resolves tells its peer (`Connection: close` on the next
//!    answer, GOAWAY). Where telling needs an answer to tell it with, as in HTTP/1, an idle connection stays: its client
//!    may be writing a request this very moment, and a close would lose it.
//! 3. When [`Watch::closing`] resolves, the wait is on: what has nothing in flight closes. What has may take as long as its
//!    work takes; it is the caller of [`Signal::drain`] who sets a limit, with a timeout around it.
//! 4. Guards may be taken at any stage: listeners keep accepting (SEMANTICS.md §3, "drain").
//! 5. There is no way back. A signal dropped without draining never drains.
//!
//! Bound: one word per guard's owner, none here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    Draining,
    Closing,
}

/// Starts a drain and waits for its end.
#[derive(Debug)]
pub struct Signal {
    stage: watch::Sender<Stage>,
    guards: Arc<Guards>,
}

/// Hears of a drain, and hands out guards.
#[derive(Debug, Clone)]
pub struct Watch {
    stage: watch::Receiver<Stage>,
    guards: Arc<Guards>,
}

/// Work that a drain waits for.
#[derive(Debug)]
#[must_use = "a drain waits only while the guard is held"]
pub struct Guard(Arc<Guards>);

#[derive(Debug, Default)]
struct Guards {
    held: AtomicUsize,
    /// What every request asks, without the lock of `stage`.
    started: AtomicBool,
    /// Notified whenever `held` falls to zero.
    none: Notify,
}

/// A signal and its first watch, of which further ones are clones.
pub fn new() -> (Signal, Watch) {
    let (sender, receiver) = watch::channel(Stage::Serving);
    let guards = Arc::<Guards>::default();
    (Signal { stage: sender, guards: guards.clone() }, Watch { stage: receiver, guards })
}

impl Signal {
    /// Starts the drain; doing so again changes nothing.
    pub fn start(&self) {
        self.advance(Stage::Draining);
    }

    /// Starts it, and closes what has nothing in flight.
    pub fn close(&self) {
        self.advance(Stage::Closing);
    }

    fn advance(&self, to: Stage) {
        self.guards.started.store(true, Ordering::Release);
        self.stage.send_if_modified(|stage| {
            let further = *stage < to;
            if further {
                *stage = to;
            }
            further
        });
    }

    /// Closes, and waits until no guard is held.
    pub async fn drain(&self) {
        self.close();
        loop {
            let none = self.guards.none.notified();
            tokio::pin!(none);
            // Registered before looking, so that a guard dropped in between is not missed.
            none.as_mut().enable();
            if self.held() == 0 {
                return;
            }
            none.await;
        }
    }

    /// Guards held now.
    pub fn held(&self) -> usize {
        self.guards.held.load(Ordering::Acquire)
    }

    /// Another watch.
    pub fn watch(&self) -> Watch {
        Watch { stage: self.stage.subscribe(), guards: self.guards.clone() }
    }
}

impl Watch {
    /// Whether the drain has started.
    pub fn is_draining(&self) -> bool {
        self.guards.started.load(Ordering::Acquire)
    }

    /// Resolves when the drain starts, or at once if it has. Dropping the future loses nothing.
    pub async fn draining(&self) {
        self.reached(Stage::Draining).await;
    }

    /// Resolves when what has nothing in flight is to close. Dropping the future loses nothing.
    pub async fn closing(&self) {
        self.reached(Stage::Closing).await;
    }

    async fn reached(&self, stage: Stage) {
        let mut stages = self.stage.clone();
        if stages.wait_for(|reached| *reached >= stage).await.is_err() {
            // The signal is gone: nobody will ever drain.
            std::future::pending::<()>().await;
        }
    }

    /// Makes the drain wait until the guard is dropped.
    pub fn guard(&self) -> Guard {
        self.guards.held.fetch_add(1, Ordering::Relaxed);
        Guard(self.guards.clone())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.0.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_the_last_guard() {
        let (signal, watch) = new();
        let (first, second) = (watch.guard(), watch.clone().guard());
        assert!(timeout(SOON, signal.drain()).await.is_err());
        drop(first);
        assert!(timeout(SOON, signal.drain()).await.is_err());
        let release = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(9)).await;
            drop(second);
        });
        timeout(Duration::from_secs(10), signal.drain()).await.unwrap();
        release.await.unwrap();
        assert_eq!(signal.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn without_guards_it_is_over_at_once() {
        let (signal, watch) = new();
        timeout(SOON, signal.drain()).await.unwrap();
        assert!(watch.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn every_watch_hears_of_it_before_and_after() {
        let (signal, watch) = new();
        assert!(!watch.is_draining());
        assert!(timeout(SOON, watch.draining()).await.is_err());
        let early = tokio::spawn({
            let watch = watch.clone();
            async move { watch.draining().await }
        });
        signal.start();
        signal.start();
        timeout(SOON, early).await.unwrap().unwrap();
        timeout(SOON, watch.draining()).await.unwrap();
        timeout(SOON, signal.watch().draining()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_has_started_closes_nothing_until_it_is_told() {
        let (signal, watch) = new();
        signal.start();
        timeout(SOON, watch.draining()).await.unwrap();
        assert!(timeout(SOON, watch.closing()).await.is_err());
        signal.close();
        signal.start();
        timeout(SOON, watch.closing()).await.expect("there is no way back");
        timeout(SOON, signal.watch().draining()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_taken_while_draining_is_waited_for() {
        let (signal, watch) = new();
        signal.start();
        let guard = watch.guard();
        assert!(timeout(SOON, signal.drain()).await.is_err());
        drop(guard);
        timeout(SOON, signal.drain()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_dropped_without_draining_never_drains() {
        let (signal, watch) = new();
        drop(signal);
        assert!(timeout(Duration::from_secs(3600), watch.draining()).await.is_err());
    }
}
