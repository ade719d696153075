//! One timer for deadlines that move at every event: it is set again when it fires, not when they move, so a read costs
//! no work in the timer wheel.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use tokio::task::coop;
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
            // Without the budget of the task: spent, the poll would leave no waker, and yet look as if it had.
            ready!(pin!(coop::unconstrained(sleep.as_mut())).poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    /// Polls once, as a task does that was woken for another reason.
    async fn once(timer: &mut Timer, deadline: Instant) -> Poll<()> {
        poll_fn(|cx| Poll::Ready(timer.poll_at(cx, deadline))).await
    }

    #[tokio::test(start_paused = true)]
    async fn it_fires_at_the_deadline_that_was_asked_for_last() {
        let seconds = Duration::from_secs;
        for (what, asked, fires) in [
            ("the same again", &[10, 10, 10][..], 10),
            ("later and later", &[10, 20, 30], 30),
            ("earlier", &[10, 5], 5),
            ("later, then earlier again", &[10, 30, 12], 12),
            ("over already", &[10, 0], 0),
        ] {
            let (mut timer, began) = (Timer::default(), Instant::now());
            let (last, before) = asked.split_last().unwrap();
            for deadline in before {
                assert!(once(&mut timer, began + seconds(*deadline)).await.is_pending(), "{what}");
            }
            let fired = poll_fn(|cx| timer.poll_at(cx, began + seconds(*last)));
            tokio::time::timeout(seconds(60), fired).await.expect(what);
            assert_eq!(began.elapsed().as_secs(), fires, "{what}");
            // It can be used on: nothing is left of the deadline that is over.
            let next = Instant::now() + seconds(3);
            let fired = poll_fn(|cx| timer.poll_at(cx, next));
            tokio::time::timeout(seconds(60), fired).await.expect(what);
            assert_eq!(Instant::now(), next, "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_polled_last_is_woken() {
        let (mut timer, began) = (Timer::default(), Instant::now());
        let deadline = began + Duration::from_secs(10);
        // Not by the task that it is handed to.
        assert!(once(&mut timer, deadline).await.is_pending());
        let other = tokio::spawn(async move { poll_fn(|cx| timer.poll_at(cx, deadline)).await });
        tokio::time::timeout(Duration::from_secs(60), other).await.expect("it was woken").unwrap();
        assert_eq!(Instant::now(), deadline);
    }
}
