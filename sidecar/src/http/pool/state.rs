//! The pool's books: pure bookkeeping under its lock. Nothing here does I/O, wakes, or drops a connection; what has to
//! be woken or dropped is returned, for the caller to do after the lock.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{PoolSettings, Sizes};
use crate::http::Proto;
use crate::http::error::ConnectError;
use crate::http::h1::client::Connection as H1;
use crate::http::h2::client::{Handle, Permit};
use crate::resilience::{ConnectionGuard, Limiter, PendingGuard};

/// After a connect failed: how long a request makes do with a connection it would rather not use.
const MAKE_DO: Duration = Duration::from_secs(1);

/// How long one that has been told to go may stay among those that take streams, if nobody chooses it.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A connection without a stream counts as in use for this long: longer than the pauses of steady traffic.
pub const IN_USE: Duration = Duration::from_secs(10);

/// A thread that runs connections. Its own are cheapest to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Worker(std::thread::ThreadId);

impl Worker {
    pub(super) fn current() -> Self {
        // Asked for each request; the runtime would count a reference to the thread for it.
        thread_local!(static ID: std::thread::ThreadId = std::thread::current().id());
        Self(ID.try_with(|id| *id).unwrap_or_else(|_| std::thread::current().id()))
    }

    fn of(connection: &H1) -> Self {
        Self(connection.thread())
    }
}

/// An HTTP/1 connection without a request.
pub(super) struct Idle {
    pub(super) connection: H1,
    pub(super) since: Instant,
    worker: Worker,
}

/// An HTTP/2 connection that takes new streams.
struct Shared {
    id: u64,
    handle: Handle,
    worker: Worker,
    idle_since: Option<Instant>,
    expires: Option<Instant>,
}

struct Waiter {
    ticket: u64,
    waker: Waker,
    failed: Option<ConnectError>,
    /// Held, never read.
    _place: Option<PendingGuard>,
}

/// Whether a request that is first makes do with a connection it would rather not use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MakeDo {
    /// Unless another may be opened.
    IfNeeded,
    Yes,
}

pub(super) struct State {
    max_connections: usize,
    max_pending: usize,
    max_requests: u64,
    per_worker: bool,
    streams_per_connection: usize,
    expect: Proto,
    /// Oldest first.
    idle: Vec<Idle>,
    h2: Vec<Shared>,
    /// In the order they came.
    waiters: VecDeque<Waiter>,
    open: usize,
    connecting: usize,
    /// The backend's limits.
    limits: Limiter,
    /// Places that came to us and no attempt has taken yet.
    spare: Vec<ConnectionGuard>,
    /// We wait for a place.
    queued: bool,
    /// … and have said that we have no connection at all.
    starving: bool,
    failed_at: Option<Instant>,
    /// When all HTTP/2 connections were asked whether they still take streams.
    asked_at: Option<Instant>,
    draining: bool,
    reaping: bool,
    next: u64,
}

/// What a request gets.
pub(super) enum Choice {
    H1(Idle),
    /// With the place for an attempt to be started, if the connection is another worker's.
    H2(Handle, Permit, Option<ConnectionGuard>),
    /// The attempt it waited for failed.
    Failed(ConnectError),
    Draining,
    /// So many wait already.
    Overflow(usize),
    Wait {
        ticket: u64,
        /// An attempt is to be started with each of these; they are counted already.
        places: Places,
        /// The backend's limit left fewer than are needed: wait for more.
        short: bool,
    },
}

/// Places for attempts.
pub(super) type Places = SmallVec<[ConnectionGuard; 1]>;

/// What follows from a request leaving the queue.
#[must_use = "the first waiter may have something to find"]
pub(super) struct Left {
    /// Who is first now.
    pub(super) waker: Option<Waker>,
    /// To be dropped after the lock.
    pub(super) surplus: Vec<ConnectionGuard>,
    /// Nobody waits any more: leave the backend's queue.
    pub(super) leaves: bool,
}

/// Connections taken out, to be dropped after the lock.
pub(super) type Taken = (Vec<Idle>, Vec<Handle>);

impl State {
    pub(super) fn new(settings: &PoolSettings, limits: Limiter) -> Self {
        Self {
            max_connections: settings.max_connections.max(1),
            max_pending: settings.max_pending,
            max_requests: settings.max_requests_per_connection.unwrap_or(u64::MAX).max(1),
            per_worker: settings.per_worker,
            streams_per_connection: settings.h2.max_streams.max(1),
            expect: settings.expect,
            idle: Vec::new(),
            h2: Vec::new(),
            waiters: VecDeque::new(),
            open: 0,
            connecting: 0,
            limits,
            spare: Vec::new(),
            queued: false,
            starving: false,
            failed_at: None,
            asked_at: None,
            draining: false,
            reaping: false,
            next: 0,
        }
    }

    /// Finds a place for a request, or lets it wait. A request that got one, or an error, must [`State::leave`].
    pub(super) fn choose(&mut self, ticket: Option<u64>, worker: Worker, waker: &Waker, now: Instant) -> Choice {
        let place = ticket.and_then(|ticket| self.waiters.iter().position(|waiter| waiter.ticket == ticket));
        if let Some(place) = place
            && let Some(error) = self.waiters[place].failed.take()
        {
            return Choice::Failed(error);
        }
        if self.draining {
            return Choice::Draining;
        }
        let first = place.unwrap_or(self.waiters.len()) == 0;
        if first {
            if let Some(idle) = self.take_h1(worker) {
                return Choice::H1(idle);
            }
            if let Some((handle, permit)) = self.take_h2(worker, now, MakeDo::IfNeeded) {
                return Choice::H2(handle, permit, self.begin_own(worker, now));
            }
        }
        let ticket = match place {
            Some(place) => {
                self.waiters[place].waker.clone_from(waker);
                self.waiters[place].ticket
            }
            None if self.waiters.len() >= self.max_pending => return Choice::Overflow(self.max_pending),
            None => {
                let limited = self.limits.limits().max_pending.is_some();
                let pending = match limited.then(|| self.limits.pending()).transpose() {
                    Ok(pending) => pending,
                    Err(full) => return Choice::Overflow(full.max.get() as usize),
                };
                self.next += 1;
                let waiter = Waiter { ticket: self.next, waker: waker.clone(), failed: None, _place: pending };
                self.waiters.push_back(waiter);
                self.next
            }
        };
        // Who is first has found nothing it would use; those behind may still have what is there.
        let needs_own = first && self.connecting == 0 && self.room() > 0;
        let missing = self.attempts_missing().max(usize::from(needs_own));
        let mut places = Places::new();
        while places.len() < missing {
            let place = self.spare.pop().map_or_else(|| self.limits.connection(), Ok);
            match place {
                Ok(place) => places.push(place),
                Err(_) => break,
            }
        }
        let short = places.len() < missing;
        if first
            && short
            && places.is_empty()
            && self.connecting == 0
            && let Some((handle, permit)) = self.take_h2(worker, now, MakeDo::Yes)
        {
            // The place that it hoped for has just gone.
            return Choice::H2(handle, permit, None);
        }
        self.connecting += places.len();
        Choice::Wait { ticket, places, short }
    }

    /// The newest of this worker's own, or else the newest.
    fn take_h1(&mut self, worker: Worker) -> Option<Idle> {
        let own = self.idle.iter().rposition(|idle| idle.worker == worker);
        let place = own.or(self.idle.len().checked_sub(1))?;
        Some(self.idle.remove(place))
    }

    /// A stream on the best connection, unless it is better to open another.
    fn take_h2(&mut self, worker: Worker, now: Instant, make_do: MakeDo) -> Option<(Handle, Permit)> {
        let max_requests = self.max_requests;
        // Of all of them now and then, of the one that is chosen each time: asking takes the connection's lock.
        let asks = self.asked_at.is_none_or(|asked| now >= asked + ASK_AGAIN);
        if asks {
            self.asked_at = Some(now);
        }
        // Dropping a handle only wakes its driver, which closes the connection after its last stream.
        self.h2.retain_mut(|connection| {
            // One that has just been opened serves once, whatever its age: refusing it would only open the next.
            let expired = connection.expires.is_some_and(|expires| now >= expires) && connection.handle.opened() > 0;
            connection.handle.opened() < max_requests && !expired && (!asks || connection.handle.is_usable())
        });
        let must_make_do = make_do == MakeDo::Yes || self.has_just_failed(now);
        let has_room = self.room() > 0 && (!self.spare.is_empty() || self.limits.has_room());
        let can_open = has_room || self.connecting > 0;
        loop {
            let best = self.best_h2(worker)?;
            let connection = &mut self.h2[best];
            if !connection.handle.is_usable() {
                self.h2.remove(best);
                continue;
            }
            if connection.handle.is_busy_large() && can_open && !must_make_do {
                return None;
            }
            let permit = connection.handle.reserve()?;
            connection.idle_since = None;
            return Some((connection.handle.clone(), permit));
        }
    }

    /// The connection with streams left that is best to use: without large streams first, then this worker's own, then the
    /// fullest (so that others empty).
    fn best_h2(&self, worker: Worker) -> Option<usize> {
        let left = self.h2.iter().enumerate().filter(|(_, connection)| connection.handle.capacity() > 0);
        let rank = |connection: &Shared| {
            let Shared { handle, .. } = connection;
            (handle.is_busy_large(), connection.worker != worker, usize::MAX - handle.open())
        };
        left.min_by_key(|(_, connection)| rank(connection)).map(|(index, _)| index)
    }

    /// A place for a connection of this worker's own, whose requests are carried by another's meanwhile: nobody waits for a
    /// handshake where there is a connection, and a server that is slow to shake hands is just the one to wait for long.
    fn begin_own(&mut self, worker: Worker, now: Instant) -> Option<ConnectionGuard> {
        let wanted = self.per_worker && self.connecting == 0 && self.spare.is_empty() && !self.has_just_failed(now);
        if wanted { self.begin_unasked(worker) } else { None }
    }

    /// Whether to make do with what there is: the last attempt failed a moment ago.
    fn has_just_failed(&self, now: Instant) -> bool {
        self.failed_at.is_some_and(|failed| now < failed + MAKE_DO)
    }

    /// How many more connections the waiters need than there are and are being opened, within the limit. They are woken
    /// one after the other: what is free already is theirs, though they do not have it yet.
    fn attempts_missing(&self) -> usize {
        let waiting = self.waiters.len();
        if waiting == 0 {
            return 0;
        }
        let free = |connection: &Shared| connection.handle.capacity() * usize::from(!connection.handle.is_busy_large());
        let free = self.idle.len() + self.h2.iter().map(free).sum::<usize>();
        let attempts = waiting.saturating_sub(free).div_ceil(self.requests_per_attempt());
        attempts.saturating_sub(self.connecting).min(self.room())
    }

    /// How many more connections may be opened, whatever the backend allows.
    fn room(&self) -> usize {
        self.max_connections.saturating_sub(self.open + self.connecting)
    }

    fn requests_per_attempt(&self) -> usize {
        match self.expect {
            Proto::H1 => 1,
            Proto::H2 => self.streams_per_connection,
        }
    }

    /// Whether nobody waits, and nothing is left over for who might: leaving the queue, that of who is not in it included,
    /// changes nothing then.
    pub(super) fn is_calm(&self) -> bool {
        self.waiters.is_empty() && self.spare.is_empty() && !self.queued
    }

    /// A request leaves the queue; whoever is first then may find something as well.
    pub(super) fn leave(&mut self, ticket: Option<u64>) -> Left {
        if let Some(ticket) = ticket
            && let Some(place) = self.waiters.iter().position(|waiter| waiter.ticket == ticket)
        {
            self.waiters.remove(place);
        }
        let kept = if self.spare.is_empty() { 0 } else { self.attempts_missing().min(self.spare.len()) };
        let leaves = self.queued && self.waiters.is_empty();
        if leaves {
            (self.queued, self.starving) = (false, false);
        }
        Left { waker: self.first_waker(), surplus: self.spare.split_off(kept), leaves }
    }

    /// Begins to wait for a place; `Some` says whether we are without any connection. `None`: there is no need, or it has
    /// been said already.
    pub(super) fn queue(&mut self) -> Option<bool> {
        let needs = !self.draining && self.attempts_missing() > self.spare.len();
        let starving = self.open + self.connecting + self.spare.len() == 0;
        if !needs || (self.queued && (self.starving || !starving)) {
            return None;
        }
        (self.queued, self.starving) = (true, starving);
        Some(starving)
    }

    /// Whether we wait for a place, and have just lost our last connection.
    pub(super) fn starves(&self) -> bool {
        self.queued && !self.starving && self.open + self.connecting == 0
    }

    /// A place for an attempt that no request waits for, if this worker has no connection with a stream left and there is
    /// room.
    pub(super) fn begin_unasked(&mut self, worker: Worker) -> Option<ConnectionGuard> {
        let has_one = self.h2.iter().any(|connection| connection.worker == worker && connection.handle.capacity() > 0);
        if has_one || self.draining || self.room() == 0 {
            return None;
        }
        let place = self.spare.pop().map_or_else(|| self.limits.connection(), Ok).ok()?;
        self.connecting += 1;
        Some(place)
    }

    /// Whether a shared connection of this worker has a stream, or had one in the last [`IN_USE`].
    pub(super) fn is_in_use(&self, worker: Worker, now: Instant) -> bool {
        let lately = |connection: &Shared| {
            connection.handle.opened() > 0 && connection.idle_since.is_none_or(|since| now < since + IN_USE)
        };
        self.h2.iter().any(|connection| connection.worker == worker && lately(connection))
    }

    /// Whether an attempt is under way.
    pub(super) fn is_connecting(&self) -> bool {
        self.connecting > 0
    }

    /// Whether we wait for a place.
    pub(super) fn is_queued(&self) -> bool {
        self.queued
    }

    /// A place came. It is returned if there is no use for it any more.
    pub(super) fn granted(&mut self, place: ConnectionGuard) -> (Option<ConnectionGuard>, Option<Waker>) {
        (self.queued, self.starving) = (false, false);
        if self.draining || self.attempts_missing() <= self.spare.len() {
            return (Some(place), self.first_waker());
        }
        self.spare.push(place);
        (None, self.first_waker())
    }

    /// Takes out a connection without a request, unless somebody here waits for one.
    pub(super) fn give_up_idle(&mut self) -> Option<Taken> {
        if !self.waiters.is_empty() {
            return None;
        }
        if !self.idle.is_empty() {
            return Some((vec![self.idle.remove(0)], Vec::new()));
        }
        let place = self.h2.iter().position(|connection| connection.handle.open() == 0)?;
        Some((Vec::new(), vec![self.h2.swap_remove(place).handle]))
    }

    /// HTTP/2 connections that take new streams.
    pub(super) fn shared(&self) -> usize {
        self.h2.len()
    }

    /// Takes out the HTTP/2 connection with the fewest streams.
    pub(super) fn retire_shared(&mut self) -> Option<Handle> {
        let (place, _) = self.h2.iter().enumerate().min_by_key(|(_, connection)| connection.handle.open())?;
        Some(self.h2.swap_remove(place).handle)
    }

    /// Who is first now: to be woken whenever there may be something to have.
    pub(super) fn first_waker(&self) -> Option<Waker> {
        self.waiters.front().map(|waiter| waiter.waker.clone())
    }

    pub(super) fn made_h1(&mut self, connection: H1, now: Instant) -> (Option<H1>, Option<Waker>) {
        self.connecting -= 1;
        self.open += 1;
        self.expect = Proto::H1;
        self.failed_at = None;
        if self.draining {
            return (Some(connection), None);
        }
        self.idle.push(Idle { worker: Worker::of(&connection), connection, since: now });
        (None, self.first_waker())
    }

    /// The name of a connection about to be made.
    pub(super) fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn made_h2(
        &mut self,
        id: u64,
        handle: Handle,
        worker: Worker,
        expires: Option<Instant>,
        now: Instant,
    ) -> Option<Waker> {
        self.connecting -= 1;
        self.open += 1;
        self.expect = Proto::H2;
        self.failed_at = None;
        if !self.draining {
            self.h2.push(Shared { id, handle, worker, idle_since: Some(now), expires });
        }
        self.first_waker()
    }

    /// An attempt failed. Those who counted on it are told, unless others make up for it.
    pub(super) fn failed(&mut self, error: &ConnectError, now: Instant) -> Vec<Waker> {
        self.connecting -= 1;
        self.failed_at = Some(now);
        let streams_left = self.h2.iter().map(|connection| connection.handle.capacity()).sum::<usize>();
        let each = self.requests_per_attempt();
        let hopeful = self.connecting * each + streams_left + self.idle.len();
        let waiting = self.waiters.iter().filter(|waiter| waiter.failed.is_none()).count();
        let told = waiting.saturating_sub(hopeful).min(each);
        let mut wakers = Vec::with_capacity(told + 1);
        for waiter in self.waiters.iter_mut().filter(|waiter| waiter.failed.is_none()).take(told) {
            waiter.failed = Some(error.clone());
            wakers.push(waiter.waker.clone());
        }
        // Of those not told, the first looks again: it may start another attempt.
        wakers.extend(self.waiters.iter().find(|waiter| waiter.failed.is_none()).map(|waiter| waiter.waker.clone()));
        wakers
    }

    pub(super) fn give_back(&mut self, connection: H1, now: Instant) -> (Option<H1>, Option<Waker>) {
        if self.draining || connection.served() >= self.max_requests {
            return (Some(connection), None);
        }
        self.idle.push(Idle { worker: Worker::of(&connection), connection, since: now });
        (None, self.first_waker())
    }

    /// Whether that connection is idle now, and who may have the place.
    pub(super) fn stream_ended(&mut self, id: u64, now: Instant) -> (bool, Option<Waker>) {
        let mut idle = false;
        if let Some(connection) = self.h2.iter_mut().find(|connection| connection.id == id)
            && connection.handle.open() == 0
        {
            connection.idle_since = Some(now);
            idle = true;
        }
        (idle, self.first_waker())
    }

    pub(super) fn remove_h2(&mut self, id: u64) -> Option<Handle> {
        let place = self.h2.iter().position(|connection| connection.id == id)?;
        Some(self.h2.swap_remove(place).handle)
    }

    /// A connection is gone.
    pub(super) fn closed(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Takes out what has been idle since a moment that `expired` says is too long ago.
    pub(super) fn take_idle(&mut self, expired: impl Fn(Instant) -> bool) -> Taken {
        let idle = self.idle.extract_if(.., |idle| expired(idle.since)).collect();
        let h2 = self
            .h2
            .extract_if(.., |connection| connection.idle_since.is_some_and(&expired))
            .map(|connection| connection.handle)
            .collect();
        (idle, h2)
    }

    /// When the next idle connection expires; with none the reaper ends.
    pub(super) fn next_expiry(&mut self, timeout: Duration) -> Option<Instant> {
        let h1 = self.idle.iter().map(|idle| idle.since);
        let h2 = self.h2.iter().filter_map(|connection| connection.idle_since);
        let next = h1.chain(h2).min().map(|since| since + timeout);
        self.reaping = next.is_some();
        next
    }

    /// Whether a reaper runs.
    pub(super) fn is_reaping(&self) -> bool {
        self.reaping
    }

    /// Whether a reaper is to be started: something is idle, and none runs.
    pub(super) fn start_reaper(&mut self) -> bool {
        let idle = !self.idle.is_empty() || self.h2.iter().any(|connection| connection.idle_since.is_some());
        idle && !std::mem::replace(&mut self.reaping, true)
    }

    pub(super) fn drain(&mut self) -> (Taken, Vec<Waker>, Vec<ConnectionGuard>) {
        self.draining = true;
        let spare = std::mem::take(&mut self.spare);
        let idle = std::mem::take(&mut self.idle);
        let h2 = std::mem::take(&mut self.h2).into_iter().map(|connection| connection.handle).collect();
        ((idle, h2), self.waiters.iter().map(|waiter| waiter.waker.clone()).collect(), spare)
    }

    pub(super) fn idle(&self) -> usize {
        self.idle.len() + self.h2.iter().filter(|connection| connection.handle.open() == 0).count()
    }

    pub(super) fn sizes(&self) -> Sizes {
        Sizes {
            open: self.open,
            connecting: self.connecting,
            idle: self.idle.len(),
            h2: self.h2.len(),
            streams: self.h2.iter().map(|connection| connection.handle.open()).sum(),
            pending: self.waiters.len(),
        }
    }
}
