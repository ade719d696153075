//! A client that sends requests at a fixed rate, whatever the answers do (an open loop): a slow answer delays nobody
//! else, so nothing is left out of the latencies. It keeps connections alive as any HTTP client does, and retries
//! nothing: each request is sent once, with an id of its own, and its fate is written down.
//!
//! Bound: as many connections as requests are in flight; a request is given up after `--timeout-ms`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{AppError, asked_to_end, now_ms, resolve, say};
use crate::stats::Sent;

/// Its options.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// `HOST:PORT` to dial; looked up once.
    #[arg(long)]
    address: String,
    /// What to ask for; several take turns.
    #[arg(long = "path", default_value = "/")]
    paths: Vec<String>,
    /// How.
    #[arg(long, default_value = "GET")]
    method: Method,
    /// Every second request a POST, and of both every second on a connection of its own: what `--method` and
    /// `--per-connection` say does not matter then.
    #[arg(long)]
    mix: bool,
    /// Body bytes to send.
    #[arg(long, default_value_t = 0)]
    body: usize,
    /// Requests per second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// For how long; until SIGTERM if not given.
    #[arg(long)]
    seconds: Option<u64>,
    /// Headers to send with each, as `name: value`.
    #[arg(long = "header")]
    headers: Vec<String>,
    /// What every id starts with.
    #[arg(long, default_value = "r")]
    id: String,
    /// Requests on one connection, which is then closed; 0: as many as it takes.
    #[arg(long, default_value_t = 0)]
    per_connection: u32,
    /// When to give up on a request.
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
}

struct Client {
    options: Load,
    address: SocketAddr,
    headers: HeaderMap,
    body: Bytes,
    idle: Mutex<Vec<Connection>>,
    summary: Mutex<Summary>,
}

/// What became of all requests, said at the end.
#[derive(Debug, Default, Serialize)]
struct Summary {
    sent: u64,
    ok: u64,
    failed: u64,
    /// By who answered. Bound: as many as there are servers.
    servers: BTreeMap<String, u64>,
}

/// How one request is made.
struct Manner {
    method: Method,
    path: String,
    /// On a connection that it alone uses.
    alone: bool,
}

struct Connection {
    send: SendRequest<Full<Bytes>>,
    /// Requests it has carried.
    carried: u32,
}

/// Sends until the time is over or it is told to end, then waits for the answers.
///
/// # Errors
/// When an option makes no sense or the host is unknown.
pub async fn run(options: Load) -> Result<(), AppError> {
    let mut headers = HeaderMap::new();
    for header in &options.headers {
        let (name, value) = header.split_once(':').ok_or("--header wants `name: value`")?;
        headers.insert(name.trim().parse::<HeaderName>()?, value.trim().parse::<HeaderValue>()?);
    }
    headers.insert("host", options.address.parse()?);
    let client = Arc::new(Client {
        address: resolve(&options.address).await?,
        headers,
        body: vec![b'b'; options.body].into(),
        idle: Mutex::new(Vec::new()),
        summary: Mutex::default(),
        options,
    });
    let ending = Arc::new(AtomicBool::new(false));
    let told = ending.clone();
    tokio::spawn(async move {
        asked_to_end().await;
        told.store(true, Ordering::Relaxed);
    });
    let rate = client.options.rate.max(1);
    let last = client.options.seconds.map(|seconds| seconds * u64::from(rate));
    let started = Instant::now();
    let mut requests = JoinSet::new();
    let mut number = 0;
    while !ending.load(Ordering::Relaxed) && last.is_none_or(|last| number < last) {
        let due = started + Duration::from_nanos(number * 1_000_000_000 / u64::from(rate));
        tokio::time::sleep_until(due).await;
        let client = client.clone();
        requests.spawn(async move { client.one(number, due).await });
        number += 1;
        while requests.try_join_next().is_some() {}
    }
    while requests.join_next().await.is_some() {}
    eprintln!("{}", serde_json::to_string(&*client.summary.lock())?);
    Ok(())
}

impl Client {
    async fn one(&self, number: u64, due: Instant) {
        let id = format!("{}-{number}", self.options.id);
        let at_ms = now_ms();
        let limit = Duration::from_millis(self.options.timeout_ms);
        let manner = self.manner(number);
        let outcome = tokio::time::timeout(limit, self.ask(&id, &manner)).await;
        let micros = due.elapsed().as_micros() as u64;
        let (status, server, error) = match outcome {
            Ok(Ok((status, server, error))) => (status, server, error),
            Ok(Err(error)) => (0, String::new(), error.to_string()),
            Err(_) => (0, String::new(), "timeout".to_owned()),
        };
        let sent = Sent { at_ms, id, method: manner.method.to_string(), status, micros, server, error };
        self.count(&sent);
        say(&sent);
    }

    /// Counts it, and shows a failure at once to whoever reads the app's own log.
    fn count(&self, sent: &Sent) {
        let mut summary = self.summary.lock();
        summary.sent += 1;
        if sent.ok() {
            summary.ok += 1;
            *summary.servers.entry(sent.server.clone()).or_default() += 1;
        } else {
            summary.failed += 1;
            drop(summary);
            if let Ok(line) = serde_json::to_string(sent) {
                eprintln!("failed: {line}");
            }
        }
    }

    fn manner(&self, number: u64) -> Manner {
        let options = &self.options;
        // Four in a row take the same path, so that each manner meets each path.
        let turn = usize::try_from(if options.mix { number / 4 } else { number }).unwrap_or(0);
        let path = options.paths.get(turn % options.paths.len().max(1)).cloned().unwrap_or_default();
        if !options.mix {
            return Manner { method: options.method.clone(), path, alone: false };
        }
        let method = if number % 2 == 1 { Method::POST } else { Method::GET };
        Manner { method, path, alone: number % 4 >= 2 }
    }

    async fn ask(&self, id: &str, manner: &Manner) -> Result<(u16, String, String), AppError> {
        // As clients do: what says GET has nothing else to say.
        let body = if manner.method == Method::GET { Bytes::new() } else { self.body.clone() };
        let mut request = Request::builder().method(manner.method.clone()).uri(&manner.path).body(Full::new(body))?;
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert("x-request-id", id.parse()?);
        if manner.alone {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let mut connection = if manner.alone { self.dial().await? } else { self.connection().await? };
        let response = connection.send.send_request(request).await.map_err(describe)?;
        let (head, body) = response.into_parts();
        body.collect().await.map_err(describe)?;
        connection.carried += 1;
        if !manner.alone && !connection.send.is_closed() && connection.carried != self.options.per_connection {
            self.idle.lock().push(connection);
        }
        let text = |name: &str| {
            head.headers
                .get(name)
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .unwrap_or_default()
        };
        let status = head.status.as_u16();
        let error =
            if head.status.is_success() { String::new() } else { format!("status {status} {}", text("x-weft-reason")) };
        Ok((status, text("x-server"), error))
    }

    /// One that was used before and is not closed, or a new one.
    async fn connection(&self) -> Result<Connection, AppError> {
        loop {
            let idle = self.idle.lock().pop();
            let Some(mut connection) = idle else { break };
            if connection.send.ready().await.is_ok() {
                return Ok(connection);
            }
        }
        self.dial().await
    }

    async fn dial(&self) -> Result<Connection, AppError> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(describe)?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Connection { send, carried: 0 })
    }
}

/// hyper's message and its cause.
pub(super) fn describe(error: hyper::Error) -> AppError {
    match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}").into(),
        None => error.into(),
    }
}
