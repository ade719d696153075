//! Data-plane threads: who accepts, who serves, who is least busy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use weft_proto::ports;

use crate::admin::{self, Surface, View};
use crate::inbound::Inbound;
use crate::listen::{Accept, Scope, drain};
use crate::outbound::Outbound;

/// Connections on their way to one worker. Past it, accepting waits and the kernel's queue fills.
pub const HANDOVER: usize = 1_024;

/// A connection for a worker.
struct Handed {
    stream: std::net::TcpStream,
    client: SocketAddr,
    direction: Direction,
    /// Held from the moment it is accepted: a drain waits for those on their way as well.
    guard: drain::Guard,
}

#[derive(Clone, Copy)]
enum Direction {
    Inbound,
    Outbound,
}

/// One worker, seen from the accepting one.
struct Seat {
    queue: mpsc::Sender<Handed>,
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
    for _ in 0..count {
        let (queue, handed) = mpsc::channel(HANDOVER);
        seats.push(Seat { queue, busy: Arc::default() });
        queues.push(handed);
    }
    let seats: Arc<[Seat]> = seats.into();
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
                    let listening =
                        listen(&seats, &stopping, &left, (inbound.drain().clone(), outbound.drain.clone()), view);
                    let failed = listening.is_err();
                    let _ = bound.send(listening);
                    if failed {
                        return;
                    }
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
    seats: &Arc<[Seat]>,
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
        tokio::spawn(accept_all(accept, work, Arc::clone(seats), stopping.clone(), left.clone()));
    }
    Ok(())
}

async fn accept_all(
    mut accept: Accept,
    (direction, drain): (Direction, drain::Watch),
    seats: Arc<[Seat]>,
    mut stopping: watch::Receiver<bool>,
    left: watch::Sender<usize>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = accept.next() => accepted,
            () = async { _ = stopping.wait_for(|stop| *stop).await } => break,
        };
        hand_over(accepted.0, accepted.1, direction, drain.guard(), &seats).await;
    }
    for (stream, client) in accept.into_queued() {
        hand_over(stream, client, direction, drain.guard(), &seats).await;
    }
    left.send_modify(|left| *left -= 1);
}

async fn hand_over(stream: TcpStream, client: SocketAddr, direction: Direction, guard: drain::Guard, seats: &[Seat]) {
    let Some(seat) = seats.iter().min_by_key(|seat| seat.busy.load(Ordering::Relaxed)) else { return };
    // Registered anew with the other worker's runtime: events then wake the thread that serves.
    match stream.into_std() {
        Ok(stream) => {
            seat.busy.fetch_add(1, Ordering::Relaxed);
            if seat.queue.send(Handed { stream, client, direction, guard }).await.is_err() {
                seat.busy.fetch_sub(1, Ordering::Relaxed);
            }
        }
        Err(error) => tracing::debug!(%client, %error, "a connection was lost on its way to a worker"),
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
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%client, %error, "a connection was lost on its way to a worker");
                continue;
            }
        };
        let (inbound, outbound) = (Arc::clone(&inbound), Arc::clone(&outbound));
        tokio::spawn(async move {
            let served = async {
                match direction {
                    Direction::Inbound => inbound.serve(stream, client).await,
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
