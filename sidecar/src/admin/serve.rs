//! The connections of the admin listeners. Anybody in the network may open them on 15020 and 15021, and on the latter kubelet
//! must always get through: a probe that fails restarts the app.
//!
//! * Who has too many loses its own; when all places are taken, the newcomer gets the oldest of whoever has most
//!   ([`weft_proto::places`]). The newest matters: a probe is over in milliseconds, and what is old is idle, or slow on purpose.
//! * A connection is for one request, whose head may take [`HEAD_TIMEOUT`], and lasts for [`LIFETIME`] at most: that also bounds
//!   an answer that nobody reads. A probe or hook that is running adds its own limit.
//! * Who has shown a pod's secret (`probe.rs`) is kubelet, and gives up nothing to others: its connection, which a hook may hold
//!   for minutes, gives its place back and counts among [`MAX_PROVEN`].
//!
//! Bounds: [`Surface::limits`] and [`MAX_PROVEN`] connections per listener; [`MAX_HEAD`] of a request in each, and in those of 15020
//! one answer.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep};
use weft_proto::places::{Limits, Place, Places};

use super::probe::Found;
use super::{Surface, View, answer};

/// How long a request head may take.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last, a run of a probe or hook not counted.
const LIFETIME: Duration = Duration::from_secs(30);
/// Largest request head.
const MAX_HEAD: usize = 16 * 1024;
/// Connections of who has shown the pod's secret, per listener; more are like anybody's.
const MAX_PROVEN: usize = 256;

impl Surface {
    fn limits(self) -> Limits {
        match self {
            // One address, loopback's, which is this pod and who may forward its ports.
            Self::Admin => Limits { total: 64, per_source: 64, kept: 0 },
            // A pair of Prometheus servers and somebody who looks. An answer has a few megabytes at worst (2,000 series of
            // each family), and whoever asks may leave it unread: all of them fit in the sidecar's memory.
            Self::Metrics => Limits { total: 8, per_source: 4, kept: 0 },
            Self::Health => Limits { total: 256, per_source: 16, kept: 0 },
        }
    }
}

/// Given up for another when dropped.
type Handle = oneshot::Sender<()>;

/// One listener's connections.
#[derive(Clone)]
struct Connections {
    surface: Surface,
    view: Arc<dyn View>,
    places: Places<Handle>,
    proven: Arc<Semaphore>,
}

/// A probe or hook begins to run.
struct Run {
    at_most: Duration,
    proven: Option<OwnedSemaphorePermit>,
}

/// By which a request tells its connection of a [`Run`].
#[derive(Clone)]
pub(super) struct Runs {
    sender: mpsc::Sender<Run>,
    proven: Arc<Semaphore>,
}

impl Runs {
    /// `probe` is about to run, asked for over the network.
    pub(super) fn begin(&self, probe: &Found<'_>) {
        let proven = probe.is_secret().then(|| Arc::clone(&self.proven).try_acquire_owned().ok()).flatten();
        // There is room: a connection has one request.
        let _ = self.sender.try_send(Run { at_most: probe.at_most(), proven });
    }
}

/// Serves one listener until the process ends. A connection's failure is its own.
pub async fn serve(listener: TcpListener, surface: Surface, view: Arc<dyn View>) {
    let connections = Connections::new(surface, view);
    loop {
        match listener.accept().await {
            Ok((stream, from)) => _ = tokio::spawn(connections.connection(stream, from.ip())),
            Err(error) => {
                // EMFILE and its like: back off, do not spin.
                tracing::warn!(%error, "admin: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Connections {
    fn new(surface: Surface, view: Arc<dyn View>) -> Self {
        let places = Places::new(surface.limits());
        Self { surface, view, places, proven: Arc::new(Semaphore::new(MAX_PROVEN)) }
    }

    /// Takes a place for a connection from `from`, and serves it in the future that is returned.
    fn connection<IO>(&self, io: IO, from: IpAddr) -> impl Future<Output = ()> + Send + use<IO>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (handle, given_up) = oneshot::channel();
        let place = self.places.enter(from, handle);
        let all = self.clone();
        async move {
            let surface = all.surface;
            match place {
                Ok(place) => all.serve(io, place, given_up).await,
                Err(full) => tracing::debug!(?surface, %from, %full, "admin: a connection is refused"),
            }
        }
    }

    async fn serve<IO>(self, io: IO, place: Place<Handle>, mut given_up: oneshot::Receiver<()>)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self { surface, view, proven, .. } = self;
        let (sender, mut runs) = mpsc::channel(1);
        let to_us = Runs { sender, proven };
        let asked = Arc::clone(&view);
        let service = hyper::service::service_fn(move |request| {
            let (view, runs) = (Arc::clone(&asked), to_us.clone());
            async move { Ok::<_, Infallible>(answer(request, surface, view, runs).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD).keep_alive(false);
        let mut connection = pin!(http.serve_connection(TokioIo::new(io), service));
        let mut over = pin!(sleep(LIFETIME));
        let mut place = Some(place);
        let mut _proven = None;
        let why = loop {
            tokio::select! {
                served = &mut connection => {
                    if let Err(error) = served {
                        tracing::debug!(?surface, %error, "admin: connection failed");
                    }
                    return;
                }
                _ = &mut given_up, if place.is_some() => break "for others",
                () = &mut over => break "its time is over",
                Some(run) = runs.recv() => {
                    over.as_mut().reset(Instant::now() + run.at_most + LIFETIME);
                    if run.proven.is_some() {
                        (place, _proven) = (None, run.proven);
                    }
                }
            }
        };
        view.on_connection_closed();
        tracing::debug!(?surface, why, "admin: a connection is closed");
    }
}

#[cfg(test)]
mod tests;
