//! The pool over in-memory pipes, with our own server at the other end.

mod attempts;
mod lifetime;
mod limits;

use super::*;
use crate::http::body::Body;
use crate::http::server::{ServerSettings, serve};
use crate::http::tests::{answer, get, handler};
use crate::http::{Answer, Processed};
use crate::listen::drain;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, mpsc};

pub(in crate::http::pool) fn settings(expect: Proto) -> PoolSettings {
    PoolSettings { expect, per_worker: false, ..PoolSettings::default() }
}

/// An endpoint whose requests wait until they are let go, one by one.
#[derive(Clone)]
pub(in crate::http::pool) struct Endpoint {
    proto: Proto,
    opened: Arc<AtomicUsize>,
    arrived: mpsc::UnboundedSender<String>,
    pub(in crate::http::pool) go: Arc<Notify>,
    settings: ServerSettings,
}

impl Endpoint {
    pub(in crate::http::pool) fn new(proto: Proto) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let settings = ServerSettings::default();
        (Self { proto, opened: Arc::default(), arrived, go: Arc::default(), settings }, arrivals)
    }

    pub(in crate::http::pool) fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    pub(in crate::http::pool) fn connect(
        &self,
    ) -> impl Fn() -> std::future::Ready<Result<Connected, ConnectError>> + Clone + Send + Sync + use<> {
        let me = self.clone();
        move || {
            me.opened.fetch_add(1, Ordering::Relaxed);
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (endpoint, proto, settings) = (me.clone(), me.proto, me.settings.clone());
            tokio::spawn(async move {
                let app = handler(move |request: Request| {
                    let endpoint = endpoint.clone();
                    async move {
                        let _ = endpoint.arrived.send(request.uri().path().to_owned());
                        endpoint.go.notified().await;
                        answer(200, "ok")
                    }
                });
                let (_signal, watch) = drain::new();
                let _ = serve(far, proto, app, &settings, watch).await;
            });
            std::future::ready(Ok(Connected::new(Box::new(near), me.proto)))
        }
    }

    /// Sends in a task of its own.
    pub(in crate::http::pool) fn send(
        &self,
        pool: &Pool,
        path: &'static str,
    ) -> tokio::task::JoinHandle<Result<Response, SendError>> {
        let (pool, connect) = (pool.clone(), self.connect());
        tokio::spawn(async move { pool.send(request(path), connect).await })
    }
}

pub(in crate::http::pool) fn request(path: &str) -> Request {
    let mut request = get(path);
    request.headers_mut().insert("host", http::HeaderValue::from_static("a"));
    request
}

/// Lets every task run until none can.
pub(in crate::http::pool) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
