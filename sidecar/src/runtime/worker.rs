//! Data-plane threads: who accepts, who serves, who is least busy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::select_ok;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use weft_proto::ports;

use crate::admin::{self, Surface, View};
use crate::inbound::Inbound;
use crate::listen::{Accept, Scope, drain};
use crate::outbound::Outbound;
use crate::reason::Reason;
use crate::spin;
use crate::tcp;
use crate::telemetry::Metrics;

/// Connections on their way to one worker. Past it the next less busy one gets them; when all are full, accepting waits
/// and the kernel's queue fills.
pub const HANDOVER: usize = 1_024;

/// How long it waits: then workers are not busy but stuck, and a client is better told than kept.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(1);

/// A connection for a worker.
struct Handed {
    stream: Stream,
    client: SocketAddr,
    direction: Direction,
    /// Held from the moment it is accepted: a drain waits for those on their way as well.
    guard: drain::Guard,
}

/// A connection is registered with the runtime of the worker that accepted it.
enum Stream {
    /// Which is the one that serves it: no system call.
    Here(TcpStream),
    /// To be registered anew with the one that does: events then wake the thread that serves.
    Elsewhere(std::net::TcpStream),
}

impl Stream {
    fn registered(self) -> std::io::Result<TcpStream> {
        match self {
            Self::Here(stream) => Ok(stream),
            Self::Elsewhere(stream) => TcpStream::from_std(stream),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// One worker, seen from the accepting one.
struct Seat {
    queue: mpsc::Sender<Handed>,
    /// It is the accepting one's own.
    accepts: bool,
    /// Connections open on it or on their way.
    busy: Arc<AtomicUsize>,
}

/// Counts a connection as its worker's while it lives.
struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Says that a worker's thread has ended, however it did.
struct Ended(mpsc::Sender<usize>, usize);

impl Drop for Ended {
    fn drop(&mut self) {
        // There is room for one word of each worker.
        let _ = self.0.try_send(self.1);
    }
}

/// The running workers.
pub(super) struct Workers {
    stop: watch::Sender<bool>,
    stopped: watch::Receiver<usize>,
    ended: tokio::sync::Mutex<mpsc::Receiver<usize>>,
}

impl Workers {
    /// Resolves with the number of a worker whose thread ended, which none should.
    pub(super) async fn gone(&self) -> usize {
        match self.ended.lock().await.recv().await {
            Some(number) => number,
            None => std::future::pending().await,
        }
    }

    /// Closes the listeners after the connections already in their queues have been taken.
    pub(super) async fn stop_accepting(&self) {
        self.stop.send_replace(true);
        let _ = self.stopped.clone().wait_for(|&left| left == 0).await;
    }
}

/// Binds the listeners and starts `count` workers.
pub(super) fn start(
    count: usize,
    inbound: Arc<Inbound>,
    outbound: Arc<Outbound>,
    view: Arc<dyn View>,
) -> std::io::Result<Workers> {
    let (stop, stopping) = watch::channel(false);
    let (left, stopped) = watch::channel(2_usize);
    let (ended_tx, ended) = mpsc::channel(count.max(1));
    let mut seats = Vec::new();
    let mut queues = Vec::new();
    for number in 0..count {
        let (queue, handed) = mpsc::channel(HANDOVER);
        seats.push(Seat { queue, accepts: number == 0, busy: Arc::default() });
        queues.push(handed);
    }
    let seats: Arc<[Seat]> = seats.into();
    let spins = outbound.settings.args.busy_poll.is_on() && !spin::is_below_one_core();
    // Worker 0 binds, and says whether it could before anybody believes that we run.
    let (bound_tx, bound) = std::sync::mpsc::channel();
    let mut first = Some((bound_tx, stopping, left, view));
    for (number, handed) in queues.into_iter().enumerate() {
        let (inbound, outbound, seats) = (Arc::clone(&inbound), Arc::clone(&outbound), Arc::clone(&seats));
        let first = first.take();
        let ended = Ended(ended_tx.clone(), number);
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    if let Some((bound, ..)) = first {
                        let _ = bound.send(Err(error));
                    }
                    return;
                }
            };
            runtime.block_on(async move {
                if let Some((bound, stopping, left, view)) = first {
                    let drains = (inbound.drain().clone(), outbound.drain.clone());
                    let floor = Floor { seats: Arc::clone(&seats), metrics: Arc::clone(&outbound.telemetry.metrics) };
                    let listening = listen(&floor, &stopping, &left, drains, view);
                    let failed = listening.is_err();
                    let _ = bound.send(listening);
                    if failed {
                        return;
                    }
                }
                tokio::spawn(Arc::clone(&outbound).keep_warm());
                if spins {
                    tokio::spawn(spin::keep(outbound.telemetry.metrics.busy_polled.clone()));
                }
                serve_handed(handed, seats, number, inbound, outbound).await;
            });
            drop(ended);
        })?;
    }
    match bound.recv() {
        Ok(listening) => listening?,
        Err(_) => return Err(std::io::Error::other("no worker started")),
    }
    Ok(Workers { stop, stopped, ended: tokio::sync::Mutex::new(ended) })
}

fn listen(
    floor: &Floor,
    stopping: &watch::Receiver<bool>,
    left: &watch::Sender<usize>,
    drains: (drain::Watch, drain::Watch),
    view: Arc<dyn View>,
) -> std::io::Result<()> {
    let named = |port: u16| {
        move |error: std::io::Error| {
            std::io::Error::new(
                error.kind(),
                format!("cannot listen on port {port}: {error}; is another sidecar running here?"),
            )
        }
    };
    let outbound = Accept::bind(Scope::Loopback, ports::OUTBOUND).map_err(named(ports::OUTBOUND))?;
    let inbound = Accept::bind(Scope::Any, ports::INBOUND).map_err(named(ports::INBOUND))?;
    let health = admin::bind_any(ports::HEALTH)?;
    tokio::spawn(admin::serve(health, Surface::Health, view));
    for (accept, work) in [(outbound, (Direction::Outbound, drains.1)), (inbound, (Direction::Inbound, drains.0))] {
        tokio::spawn(accept_all(accept, work, floor.clone(), stopping.clone(), left.clone()));
    }
    Ok(())
}

async fn accept_all(
    mut accept: Accept,
    (direction, drain): (Direction, drain::Watch),
    floor: Floor,
    mut stopping: watch::Receiver<bool>,
    left: watch::Sender<usize>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = accept.next() => accepted,
            () = async { _ = stopping.wait_for(|stop| *stop).await } => break,
        };
        floor.hand_over(accepted.0, accepted.1, direction, drain.guard()).await;
    }
    for (stream, client) in accept.into_queued() {
        floor.hand_over(stream, client, direction, drain.guard()).await;
    }
    left.send_modify(|left| *left -= 1);
}

/// All seats, and where it is counted when there is none left.
#[derive(Clone)]
struct Floor {
    seats: Arc<[Seat]>,
    metrics: Arc<Metrics>,
}

impl Floor {
    /// Gives a connection to the least busy worker whose queue has room. No connection is lost without being counted, and
    /// none holds up the next for longer than [`HANDOVER_PATIENCE`].
    async fn hand_over(&self, stream: TcpStream, client: SocketAddr, direction: Direction, guard: drain::Guard) {
        let Some((seat, room)) = self.room().await else {
            tracing::warn!(%client, ?direction, "a connection was reset: no worker takes any");
            self.metrics.refused(direction.name(), Reason::Overflow);
            tcp::reset(stream);
            return;
        };
        let stream = if seat.accepts { Ok(Stream::Here(stream)) } else { stream.into_std().map(Stream::Elsewhere) };
        match stream {
            Ok(stream) => {
                seat.busy.fetch_add(1, Ordering::Relaxed);
                room.send(Handed { stream, client, direction, guard });
            }
            Err(error) => {
                tracing::debug!(%client, %error, "a connection was lost on its way to a worker");
                self.metrics.refused(direction.name(), Reason::Internal);
            }
        }
    }

    async fn room(&self) -> Option<(&Seat, mpsc::Permit<'_, Handed>)> {
        let by_load = |seat: &&Seat| seat.busy.load(Ordering::Relaxed);
        let seat = self.seats.iter().min_by_key(by_load)?;
        if let Ok(room) = seat.queue.try_reserve() {
            return Some((seat, room));
        }
        let free = |seat: &&Seat| seat.queue.capacity() > 0 && !seat.queue.is_closed();
        if let Some(seat) = self.seats.iter().filter(free).min_by_key(by_load)
            && let Ok(room) = seat.queue.try_reserve()
        {
            return Some((seat, room));
        }
        let any =
            self.seats.iter().map(|seat| Box::pin(async move { seat.queue.reserve().await.map(|room| (seat, room)) }));
        timeout(HANDOVER_PATIENCE, select_ok(any)).await.ok()?.ok().map(|(room, _)| room)
    }
}

async fn serve_handed(
    mut handed: mpsc::Receiver<Handed>,
    seats: Arc<[Seat]>,
    number: usize,
    inbound: Arc<Inbound>,
    outbound: Arc<Outbound>,
) {
    while let Some(Handed { stream, client, direction, guard }) = handed.recv().await {
        let Some(seat) = seats.get(number) else { return };
        let busy = Busy(Arc::clone(&seat.busy));
        let stream = match stream.registered() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%client, %error, "a connection was lost on its way to a worker");
                outbound.telemetry.metrics.refused(direction.name(), Reason::Internal);
                continue;
            }
        };
        let (inbound, outbound) = (Arc::clone(&inbound), Arc::clone(&outbound));
        tokio::spawn(async move {
            let served = async {
                match direction {
                    // Boxed: one that carries the one way should not have room for the other.
                    Direction::Inbound => Box::pin(inbound.serve(stream, client)).await,
                    Direction::Outbound => outbound.serve(stream, client).await,
                }
            };
            // A panic outside of any request costs its connection, as one inside costs its request.
            if std::panic::AssertUnwindSafe(served).catch_unwind().await.is_err() {
                tracing::error!(%client, "a panic ended a connection: please report it");
            }
            drop((busy, guard));
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn connection() -> (TcpStream, TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, address) = listener.accept().await.unwrap();
        (client, accepted, address)
    }

    /// Two workers whose queues hold one connection each.
    fn floor() -> (Floor, [mpsc::Receiver<Handed>; 2]) {
        let (queues, handed): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel(1)).unzip();
        let seats = queues.into_iter().map(|queue| Seat { queue, accepts: false, busy: Arc::default() }).collect();
        (Floor { seats, metrics: Arc::default() }, handed.try_into().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_costs_no_connection_while_another_worker_has_room() {
        let (floor, mut handed) = floor();
        let (_signal, watch) = drain::new();
        // The first is the less busy one, and yet its queue is full: it is stuck.
        floor.seats[1].busy.store(10, Ordering::Relaxed);
        let mut clients = Vec::new();
        for _ in 0..2 {
            let (client, accepted, address) = connection().await;
            floor.hand_over(accepted, address, Direction::Inbound, watch.guard()).await;
            clients.push(client);
        }
        assert!(handed.iter_mut().all(|handed| handed.try_recv().is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn when_every_worker_is_full_accepting_waits_a_while_and_then_resets_and_counts() {
        let (floor, mut handed) = floor();
        let (_signal, watch) = drain::new();
        let mut clients = Vec::new();
        for _ in 0..3 {
            let (client, accepted, address) = connection().await;
            floor.hand_over(accepted, address, Direction::Outbound, watch.guard()).await;
            clients.push(client);
        }
        let error = clients[2].read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let refused = "weft_refused_total{direction=\"outbound\",reason=\"overflow\"} 1";
        assert!(floor.metrics.encode().contains(refused), "{}", floor.metrics.encode());
        // A worker that takes one in time makes room for the next.
        let (_client, accepted, address) = connection().await;
        let waiting = floor.hand_over(accepted, address, Direction::Outbound, watch.guard());
        let takes = async {
            tokio::time::sleep(HANDOVER_PATIENCE / 2).await;
            handed[1].recv().await.unwrap()
        };
        let (_, _first) = tokio::join!(waiting, takes);
        assert!(handed[1].try_recv().is_ok());
        assert!(floor.metrics.encode().contains(refused));
    }
}
