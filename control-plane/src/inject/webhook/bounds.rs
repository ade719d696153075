//! What questions may cost together. Nobody knows who asks (API servers show no certificate), so whatever a caller can make us
//! hold or do is bounded for all, and for each source address, so that one address cannot keep it from the API server's:
//!
//! * **bytes** of reviews and answers: [`ALL`], of them [`PER_SOURCE`] for one address. A question waits for its share, its own
//!   address's first, so that no more than that of an address is ever before the API server's in the queue for all;
//! * **parsing**: [`WORKERS`] at once, off the reactor. A parsed review is much larger than its JSON (`admission.rs` says how
//!   much), and takes tens of milliseconds at worst;
//! * **lingering**: [`LINGERING`] connections that were given up for others and still answer.
//!
//! A connection holds [`Share`], a question [`Held`] until its answer is handed over to the connection.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of all questions and answers, each with [`OVERHEAD`].
const ALL: usize = 32 << 20;
/// Of one source address: one of the largest reviews and some of the usual, or some five hundred of those.
const PER_SOURCE: usize = 8 << 20;
/// What a question costs beside its body: its head, its task, the patch of a usual pod.
const OVERHEAD: usize = 16 << 10;
/// Reviews parsed and decided at once. One takes some hundred microseconds, usually.
const WORKERS: usize = 2;
/// Connections given up for others that still answer.
const LINGERING: usize = 64;

/// The bounds of one listener. Clones share.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    all: Arc<Semaphore>,
    /// As long as there is a connection or a question of it.
    sources: Arc<Mutex<HashMap<IpAddr, Weak<Semaphore>>>>,
    workers: Arc<Semaphore>,
    lingering: Arc<Semaphore>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(ALL)),
            sources: Arc::default(),
            workers: Arc::new(Semaphore::new(WORKERS)),
            lingering: Arc::new(Semaphore::new(LINGERING)),
        }
    }
}

impl Bounds {
    /// The share of a connection from `source`, which all connections from there have in common.
    pub(super) fn share(&self, source: IpAddr) -> Share {
        let source = source.to_canonical();
        let mut sources = self.sources.lock();
        let own = sources.get(&source).and_then(Weak::upgrade).unwrap_or_else(|| {
            sources.retain(|_, own| own.strong_count() > 0);
            let own = Arc::new(Semaphore::new(PER_SOURCE));
            sources.insert(source, Arc::downgrade(&own));
            own
        });
        Share { own, bounds: self.clone() }
    }
}

/// A source address's part in the bounds.
#[derive(Debug, Clone)]
pub(super) struct Share {
    own: Arc<Semaphore>,
    bounds: Bounds,
}

impl Share {
    /// Waits until there is room for a review of `bytes`.
    pub(super) async fn hold(&self, bytes: usize) -> Held {
        let cost = u32::try_from(bytes.saturating_add(OVERHEAD).min(PER_SOURCE)).unwrap_or(u32::MAX);
        // In this order; see above. Neither is ever closed.
        let own = Arc::clone(&self.own).acquire_many_owned(cost).await.ok();
        let all = Arc::clone(&self.bounds.all).acquire_many_owned(cost).await.ok();
        Held { permits: [own, all] }
    }

    /// Does `work` off the reactor when it is its turn. None: it panicked, which is reported where panics are.
    pub(super) async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let worker = Arc::clone(&self.bounds.workers).acquire_owned().await.ok()?;
        // The worker is taken until the work is done, although nobody may wait for it any more.
        let work = tokio::task::spawn_blocking(move || {
            let _worker = worker;
            work()
        });
        work.await.ok()
    }

    /// Leave to answer what is under way on a connection that was given up, unless too many others do.
    pub(super) fn linger(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.bounds.lingering).try_acquire_owned().ok()
    }
}

/// What a question holds of both bounds.
#[derive(Debug)]
pub(super) struct Held {
    permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Held {
    /// Gives back what is not needed for `bytes`.
    pub(super) fn shrink(&mut self, bytes: usize) {
        for permit in self.permits.iter_mut().flatten() {
            let surplus = permit.num_permits().saturating_sub(bytes.saturating_add(OVERHEAD));
            drop(permit.split(surplus));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::poll;

    use super::*;

    const FULL: usize = 4 << 20;

    fn source(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    #[tokio::test]
    async fn one_address_cannot_take_all_the_room() {
        let bounds = Bounds::default();
        let greedy = [bounds.share(source(1)), bounds.share("::ffff:10.0.0.1".parse().unwrap())];
        let mut first = greedy[0].hold(FULL).await;
        // Whichever connection it comes by, a second of these is too much for one address.
        let mut second = std::pin::pin!(greedy[1].hold(FULL));
        assert!(poll!(second.as_mut()).is_pending());
        // The others have room meanwhile.
        let others: Vec<_> = (2..8).map(|number| bounds.share(source(number))).collect();
        for other in &others {
            drop(other.hold(FULL).await);
        }
        // An answer is smaller than its review.
        first.shrink(1000);
        assert!(poll!(second.as_mut()).is_ready());
    }

    #[tokio::test]
    async fn all_together_have_a_bound_and_those_who_wait_have_their_turn() {
        let bounds = Bounds::default();
        let mut held = Vec::new();
        for number in 0..7 {
            held.push(bounds.share(source(number)).hold(FULL).await);
        }
        let last = bounds.share(source(100));
        let mut waiting = std::pin::pin!(last.hold(FULL));
        assert!(poll!(waiting.as_mut()).is_pending());
        held.pop();
        let Poll::Ready(now) = poll!(waiting.as_mut()) else { panic!("it had its turn") };
        drop((now, held));
        assert_eq!(bounds.all.available_permits(), ALL);
    }

    #[test]
    fn an_address_is_forgotten_with_its_last_connection() {
        let bounds = Bounds::default();
        let kept = bounds.share(source(0));
        for number in 1..100 {
            drop(bounds.share(source(number)));
        }
        assert!(bounds.sources.lock().len() <= 2);
        assert!(Arc::ptr_eq(&kept.own, &bounds.share(source(0)).own));
    }

    #[tokio::test]
    async fn parsing_has_its_turn_and_a_panic_ends_but_itself() {
        let share = Bounds::default().share(source(1));
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let mut busy: Vec<_> = (0..WORKERS)
            .map(|_| {
                let wait = Arc::clone(&wait);
                Box::pin(share.work(move || wait.lock().recv().is_ok()))
            })
            .collect();
        for work in &mut busy {
            assert!(poll!(work).is_pending());
        }
        let mut next = Box::pin(share.work(|| true));
        assert!(poll!(&mut next).is_pending() && share.bounds.workers.available_permits() == 0);
        // Nobody waits for the first any more, and it is worked on all the same.
        drop(busy.remove(0));
        assert_eq!(share.bounds.workers.available_permits(), 0);
        (0..WORKERS).for_each(|_| go.send(()).unwrap());
        assert_eq!(next.await, Some(true));
        assert_eq!(share.work(|| assert!(std::hint::black_box(false))).await, None);
        assert_eq!(share.work(|| true).await, Some(true));
    }
}
