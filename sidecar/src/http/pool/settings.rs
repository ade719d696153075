//! A pool's bounds.

use std::sync::Arc;
use std::time::Duration;

use crate::http::Proto;
use crate::http::h1::HeadLimits;
use crate::http::h2::client::ClientSettings;

/// How many connections, for how long.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Connections at once, of all workers, those being opened included; whatever the backend allows. Default 1024.
    pub max_connections: usize,
    /// Requests waiting at once, for a connection to be free or to be opened; one more is refused with `overflow`.
    /// Whatever the backend allows. Default 1024.
    pub max_pending: usize,
    /// Requests after which a connection is not used again. Default: no limit.
    pub max_requests_per_connection: Option<u64>,
    /// How long a connection is kept without a request. 5 min to mesh peers (the default), 4 s to plain backends, 1 s to
    /// the local app (SEMANTICS.md §3): apps close first, and a request on its way then is lost.
    pub idle_timeout: Duration,
    /// Told how many connections were closed for that. Default: nobody.
    pub on_idle: IdleClosed,
    /// What the first connection is expected to speak; later the last one tells. With HTTP/2, requests that come while it
    /// is opened wait for its streams instead of opening one each.
    pub expect: Proto,
    /// Each worker opens HTTP/2 connections of its own while the limit allows, since another's cost a wake-up across
    /// threads for every frame. No request waits for that: another's carries it meanwhile. Default true.
    pub per_worker: bool,
    /// The server is the app of this pod: a reset tells whether it read an HTTP/1 request (`h1/unread.rs`). Default false.
    pub to_app: bool,
    /// Largest HTTP/1 response head.
    pub head: HeadLimits,
    /// HTTP/2 connections.
    pub h2: ClientSettings,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending: 1024,
            max_requests_per_connection: None,
            idle_timeout: Duration::from_secs(300),
            on_idle: IdleClosed::default(),
            expect: Proto::H2,
            per_worker: true,
            to_app: false,
            head: HeadLimits::default(),
            h2: ClientSettings::default(),
        }
    }
}

/// Who is told of connections that were closed because there was no request for them.
#[derive(Clone, Default)]
pub struct IdleClosed(Option<Arc<dyn Fn(usize) + Send + Sync>>);

impl IdleClosed {
    /// Tells `whom` how many, some at a time; never zero.
    pub fn tell(whom: impl Fn(usize) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(whom)))
    }

    pub(super) fn closed(&self, count: usize) {
        if let Some(whom) = &self.0 {
            whom(count);
        }
    }
}

impl std::fmt::Debug for IdleClosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdleClosed")
    }
}
