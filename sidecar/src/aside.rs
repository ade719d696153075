//! [`Aside`]: what a connection waits for beside its work, polled when it was woken itself.
//!
//! A task is polled whole: each packet would ask the drain, the policy and the certificate's clock again, and the first two take
//! a lock to say that nothing has changed. With a waker of its own an answer is looked for only when there may be one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use pin_project_lite::pin_project;

pin_project! {
    /// A future that costs a load while nothing has woken it.
    pub(crate) struct Aside<F> {
        #[pin]
        future: F,
        // Whom it wakes, as `bell` has it.
        task: Option<Waker>,
        bell: Arc<Bell>,
        // Of `bell`.
        waker: Waker,
    }
}

struct Bell {
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl<F: Future> Aside<F> {
    pub(crate) fn new(future: F) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: Mutex::new(None) });
        Self { future, task: None, waker: Waker::from(Arc::clone(&bell)), bell }
    }

    /// As `Future::poll`; not to be called again once it was ready.
    pub(crate) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if !this.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *this.task = Some(cx.waker().clone());
            *this.bell.task.lock() = Some(cx.waker().clone());
        }
        // After the waker is in place: who rings from here on wakes the task.
        if !this.bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // A swap and not a store: it is to see what was written before the last ring.
        this.bell.rung.swap(false, Ordering::AcqRel);
        this.future.poll(&mut Context::from_waker(this.waker))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        let task = self.task.lock().clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

pin_project! {
    /// Of [`unless`].
    pub(crate) struct Unless<W, A> {
        #[pin]
        work: W,
        #[pin]
        other: Aside<A>,
    }
}

/// The work's end, or, if that comes first, the other's. Not an `async fn`, which would have room for the work twice.
pub(crate) fn unless<W: Future, A: Future>(work: W, other: A) -> Unless<W, A> {
    Unless { work, other: Aside::new(other) }
}

impl<W: Future, A: Future> Future for Unless<W, A> {
    type Output = Result<W::Output, A::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(over) = this.other.poll(cx) {
            return Poll::Ready(Err(over));
        }
        this.work.poll(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_is_polled_when_it_was_woken_and_wakes_who_polled_it_last() {
        let (notify, polled) = (Notify::new(), Cell::new(0));
        let mut waits = std::pin::pin!(notify.notified());
        let counted = std::future::poll_fn(|cx| {
            polled.set(polled.get() + 1);
            waits.as_mut().poll(cx)
        });
        let mut aside = std::pin::pin!(Aside::new(counted));
        let (first, second) = (Arc::<Count>::default(), Arc::<Count>::default());
        let poll = |aside: &mut Pin<&mut Aside<_>>, count: &Arc<Count>| {
            aside.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(count))))
        };
        for _ in 0..3 {
            assert!(poll(&mut aside, &first).is_pending());
        }
        assert!(poll(&mut aside, &second).is_pending());
        assert_eq!(polled.get(), 1, "nothing has woken it since");
        notify.notify_waiters();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
        assert!(poll(&mut aside, &second).is_ready());
        assert_eq!(polled.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_first_is_the_end() {
        let after = |ms| tokio::time::sleep(Duration::from_millis(ms));
        assert_eq!(unless(after(10), after(20)).await, Ok(()));
        let mut work = std::pin::pin!(after(20));
        assert_eq!(unless(&mut work, after(10)).await, Err(()));
        work.await;
    }

    /// Against every order of waking and polling that two threads find.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_ring_is_lost() {
        for _ in 0..2_000 {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let rings = tokio::spawn(async move { sender.send(()) });
            let work = std::future::poll_fn(|cx| {
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            });
            let ended = tokio::time::timeout(Duration::from_secs(10), unless(work, receiver)).await;
            assert!(ended.unwrap().unwrap_err().is_ok());
            rings.await.unwrap().unwrap();
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let rings = tokio::spawn(async move { sender.send(()) });
            let ended = tokio::time::timeout(Duration::from_secs(10), unless(std::future::pending::<()>(), receiver));
            assert!(ended.await.unwrap().unwrap_err().is_ok());
            rings.await.unwrap().unwrap();
        }
    }
}
