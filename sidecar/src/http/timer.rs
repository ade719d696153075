//! One timer for deadlines that move at every event: it is set again when it fires, not when they move, so a read costs
//! no work in the timer wheel.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::time::{Instant, Sleep};

/// A timer. Allocates on first use.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whom it wakes when it fires: left there by the last poll.
    waker: Option<Waker>,
}

impl Timer {
    /// Ready once `deadline` has passed; it may be another one each time.
    pub(crate) fn poll_at(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        let waits = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if waits && sleep.deadline() <= deadline && !sleep.is_elapsed() {
            // It wakes this task already, and soon enough: another poll would only leave the waker once more.
            return Poll::Pending;
        }
        loop {
            if sleep.deadline() > deadline {
                sleep.as_mut().reset(deadline);
            }
            if !waits {
                self.waker = Some(cx.waker().clone());
            }
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
