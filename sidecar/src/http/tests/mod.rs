//! The engine as a whole: our server, a forwarding handler, our pool, and real peers at both ends. Peers are raw bytes
//! where the bytes are the claim, `h2` and `hyper` where an independent reading of the protocol is.

mod early;
mod forward;
mod h1_server;
mod h2;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::pool::{Connected, Pool, PoolSettings};
use super::server::{ServerSettings, serve};
use super::*;
use crate::listen::drain;

/// A handler made of a closure.
pub(crate) struct Closure<F>(Arc<F>);

impl<F> Clone for Closure<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<F, R> Handler for Closure<F>
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: Future<Output = Answer> + Send,
{
    fn handle(&self, request: Request, _: std::time::Instant) -> impl Future<Output = Answer> + Send {
        (self.0)(request)
    }
}

pub(crate) fn handler<F, R>(handle: F) -> Closure<F>
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: Future<Output = Answer> + Send,
{
    Closure(Arc::new(handle))
}

pub(crate) fn answer(status: u16, body: impl Into<Body>) -> Answer {
    let mut response = ::http::Response::new(body.into());
    *response.status_mut() = ::http::StatusCode::from_u16(status).unwrap();
    response.into()
}

/// A connection served by us.
pub(crate) struct Served {
    pub(crate) client: DuplexStream,
    pub(crate) signal: drain::Signal,
    pub(crate) task: JoinHandle<Result<(), ServeError>>,
}

pub(crate) fn served(proto: Proto, handler: impl Handler) -> Served {
    served_with(proto, handler, ServerSettings::default(), 64 * 1024)
}

pub(crate) fn served_with(proto: Proto, handler: impl Handler, settings: ServerSettings, pipe: usize) -> Served {
    let (client, server) = tokio::io::duplex(pipe);
    let (signal, watch) = drain::new();
    let task = tokio::spawn(async move { serve(server, proto, handler, &settings, watch).await });
    Served { client, signal, task }
}

/// Forwards everything through a pool whose connections `connect` makes.
pub(crate) fn forward<C, F>(pool: Pool, connect: C) -> impl Handler
where
    C: Fn() -> F + Send + Sync + Clone + 'static,
    F: Future<Output = Result<Connected, ConnectError>> + Send + 'static,
{
    handler(move |mut request: Request| {
        let (pool, connect) = (pool.clone(), connect.clone());
        async move {
            let upgrade = request.headers_mut().get(::http::header::UPGRADE).cloned();
            hygiene::strip_hop_by_hop(request.headers_mut());
            if let Some(upgrade) = upgrade {
                request.headers_mut().insert(::http::header::UPGRADE, upgrade);
            }
            match pool.send(request, connect).await {
                Ok(response) => response.into(),
                Err(error) if error.processed == Processed::No => Answer::Reset(Reset::Refused),
                Err(_) => answer(502, Body::empty()),
            }
        }
    })
}

/// A connector that hands the other end of a fresh pipe to `server`.
pub(crate) fn pipes<S, R>(
    proto: Proto,
    size: usize,
    server: S,
) -> impl Fn() -> std::future::Ready<Result<Connected, ConnectError>> + Clone + Send + Sync + 'static
where
    S: Fn(DuplexStream) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    move || {
        let (near, far) = tokio::io::duplex(size);
        tokio::spawn(server(far));
        std::future::ready(Ok(Connected::new(Box::new(near), proto)))
    }
}

pub(crate) fn pool(expect: Proto) -> Pool {
    Pool::new(PoolSettings { expect, per_worker: false, ..PoolSettings::default() })
}

/// Reads until `text` has come.
pub(crate) async fn read_until(io: &mut (impl tokio::io::AsyncRead + Unpin), text: &str) -> String {
    let mut seen = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&seen).contains(text) {
            if io.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                panic!("closed before {text:?}; got {:?}", String::from_utf8_lossy(&seen));
            }
        }
    };
    let within = tokio::time::timeout(Duration::from_secs(20), read).await;
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(within.is_ok(), "no {text:?} in {seen:?}");
    seen
}

/// Reads to the end.
pub(crate) async fn read_all(io: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut seen = Vec::new();
    let within = tokio::time::timeout(Duration::from_secs(60), io.read_to_end(&mut seen)).await;
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(within.is_ok(), "not closed after {seen:?}");
    seen
}

pub(crate) async fn send(io: &mut (impl tokio::io::AsyncWrite + Unpin), text: &str) {
    io.write_all(text.as_bytes()).await.unwrap();
}

/// A body's data and trailers, or its error.
pub(crate) async fn collect(mut body: Body) -> Result<(Bytes, Option<::http::HeaderMap>), BodyError> {
    let mut data = Vec::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame: Frame<Bytes> = frame?;
        match frame.into_data() {
            Ok(bytes) => data.extend_from_slice(&bytes),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    std::future::poll_fn(|cx| body.poll_progress(cx)).await;
    Ok((data.into(), trailers))
}

/// Answers with the request's own body, trailers and all.
pub(crate) fn echo() -> impl Handler {
    handler(|request: Request| async move { ::http::Response::new(request.into_body()).into() })
}

/// A hyper client, of either version.
pub(crate) enum Client {
    H1(hyper::client::conn::http1::SendRequest<Body>),
    H2(hyper::client::conn::http2::SendRequest<Body>),
}

impl Client {
    pub(crate) async fn new(proto: Proto, io: DuplexStream) -> Self {
        let io = hyper_util::rt::TokioIo::new(io);
        match proto {
            Proto::H1 => {
                let (send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                Self::H1(send)
            }
            Proto::H2 => {
                let executor = hyper_util::rt::TokioExecutor::new();
                let (send, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
                tokio::spawn(connection);
                Self::H2(send)
            }
        }
    }

    pub(crate) async fn send(&mut self, request: Request) -> hyper::Result<::http::Response<hyper::body::Incoming>> {
        match self {
            Self::H1(send) => {
                send.ready().await?;
                let (mut parts, body) = request.into_parts();
                parts.headers.insert("host", ::http::HeaderValue::from_static("a"));
                parts.uri = parts.uri.path().parse().unwrap();
                send.send_request(::http::Request::from_parts(parts, body)).await
            }
            Self::H2(send) => {
                send.ready().await?;
                send.send_request(request).await
            }
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> hyper::Result<::http::Response<hyper::body::Incoming>> {
        self.send(get(path)).await
    }
}

/// A request for `path` of host `a`, in a form both versions take.
pub(crate) fn get(path: &str) -> Request {
    post(path, Body::empty())
}

pub(crate) fn post(path: &str, body: Body) -> Request {
    let method = if http_body::Body::is_end_stream(&body) { "GET" } else { "POST" };
    ::http::Request::builder().method(method).uri(format!("http://a{path}")).body(body).unwrap()
}
