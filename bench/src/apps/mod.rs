//! The small programs that run in pods beside wrk and h2load: servers that cost next to nothing, and the loads that those
//! two cannot make. A load writes one [`Outcome`] as a JSON line; whatever went wrong is counted in it, nothing is
//! retried.

pub(crate) mod backend;
pub(crate) mod bulk;
pub(crate) mod connections;
pub(crate) mod grpc_backend;
pub(crate) mod handshakes;
pub(crate) mod http2;
pub(crate) mod idle;
pub(crate) mod open_loop;
pub(crate) mod responder;
pub(crate) mod streams;

use std::io::Write;

use serde::{Deserialize, Serialize};

/// Why a program ended.
pub(crate) type AppError = Box<dyn std::error::Error + Send + Sync>;

/// What a load saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Outcome {
    /// What succeeded.
    pub(crate) operations: u64,
    /// What did not.
    pub(crate) failed: u64,
    /// Payload that arrived.
    pub(crate) bytes: u64,
    /// How long it took, in s.
    pub(crate) seconds: f64,
    /// Median latency in µs, where it is measured.
    pub(crate) p50_us: f64,
    /// The 99th percentile.
    pub(crate) p99_us: f64,
    /// The same while nothing stood in the way, where that is measured apart.
    pub(crate) p99_clear_us: f64,
    /// The first failure, in words.
    pub(crate) detail: String,
}

impl Outcome {
    /// Adds what another thread saw; latencies are not for adding.
    pub(crate) fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.failed += other.failed;
        self.bytes += other.bytes;
        self.seconds = self.seconds.max(other.seconds);
        if self.detail.is_empty() {
            self.detail = other.detail;
        }
    }

    /// Counts a failure.
    pub(crate) fn fail(&mut self, why: impl std::fmt::Display) {
        self.failed += 1;
        if self.detail.is_empty() {
            self.detail = why.to_string();
        }
    }
}

/// The value below which `part` of `sorted` lies; `None` of none.
pub(crate) fn quantile<T: Copy>(sorted: &[T], part: f64) -> Option<T> {
    sorted.get(place(sorted.len(), part)).copied()
}

/// Where [`quantile`] finds it among so many.
pub(crate) fn place(samples: usize, part: f64) -> usize {
    (samples.saturating_sub(1) as f64 * part).round() as usize
}

/// Which program.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum App {
    /// The server at the far end.
    Backend(backend::Backend),
    /// Requests at a fixed rate, whatever comes back.
    OpenLoop(open_loop::OpenLoop),
    /// Connections: opened, used once, closed.
    Connections(connections::Connections),
    /// Bytes, both ways.
    Bulk(bulk::Bulk),
    /// TLS handshakes.
    Handshakes(handshakes::Handshakes),
    /// gRPC streams.
    Streams(streams::Streams),
    /// Connections that were used once and stay open.
    Idle(idle::Idle),
}

impl App {
    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot begin; failures under way are in its outcome.
    pub(crate) fn run(self) -> Result<(), AppError> {
        let outcome = match self {
            Self::Backend(options) => return backend::run(&options),
            Self::Idle(options) => return idle::run(&options),
            Self::OpenLoop(options) => open_loop::run(&options)?,
            Self::Connections(options) => connections::run(&options)?,
            Self::Bulk(options) => bulk::run(&options)?,
            Self::Handshakes(options) => current_thread()?.block_on(handshakes::run(options))?,
            Self::Streams(options) => current_thread()?.block_on(streams::run(options))?,
        };
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&outcome)?)?;
        Ok(())
    }
}

fn current_thread() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
