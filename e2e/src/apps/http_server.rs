//! An HTTP server that says who it is and writes down every request: HTTP/1 and h2c.
//!
//! | path | answer |
//! |---|---|
//! | `/slow?ms=N` | after N ms |
//! | `/status/N` | status N |
//! | `/bytes?n=N` | N bytes |
//! | `/upload` | how many body bytes came |
//! | `/early` | at once, without reading the body |
//! | `/echo` | the body, as it comes |
//! | `/headers` | the request's headers, one a line |
//! | `/ws` | WebSocket, every message sent back |
//! | anything else | the server's name |
//!
//! What it does on SIGTERM is one of two habits that good apps have ([`OnTerm`]): it closes its listener at once, ends idle
//! connections and finishes the requests in flight; or it goes on as if nothing were for a while, and then does that.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use super::{AppError, asked_to_end, now_ms, say, websocket};
use crate::stats::Served;

/// Its options.
#[derive(Debug, Clone, clap::Args)]
pub struct HttpServer {
    /// Where to listen.
    #[arg(long, default_value = "[::]:8080")]
    listen: SocketAddr,
    /// What it calls itself, in every answer's `x-server` and in the log.
    #[arg(long)]
    name: String,
    /// How long each request takes, in ms.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Answers 500 to every n-th request; 0: to none.
    #[arg(long, default_value_t = 0)]
    fail_every: u64,
    /// On SIGTERM: `close`, or `serve:SECONDSs` to go on for as long first.
    #[arg(long, default_value = "close")]
    on_term: OnTerm,
    /// How long requests in flight may take once the listener is closed, in ms.
    #[arg(long, default_value_t = 20_000)]
    finish_ms: u64,
}

/// What it does on SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTerm {
    /// Closes its listener at once.
    Close,
    /// Serves on for as long, then closes it.
    Serve(Duration),
}

impl FromStr for OnTerm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = || text.strip_prefix("serve:")?.strip_suffix('s')?.parse().ok();
        match (text, seconds()) {
            ("close", _) => Ok(Self::Close),
            (_, Some(seconds)) => Ok(Self::Serve(Duration::from_secs(seconds))),
            _ => Err("must be `close`, or such as `serve:5s`".to_owned()),
        }
    }
}

type Body = BoxBody<Bytes, hyper::Error>;

/// Requests so far, and one.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

/// Serves until told to end.
///
/// # Errors
/// When it cannot listen.
pub async fn run(options: HttpServer) -> Result<(), AppError> {
    let listener = TcpListener::bind(options.listen).await?;
    let options = Arc::new(options);
    let graceful = GracefulShutdown::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(256 * 1024);
    let on_term = options.on_term;
    let mut end = pin!(async move {
        asked_to_end().await;
        if let OnTerm::Serve(on) = on_term {
            tokio::time::sleep(on).await;
        }
    });
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = &mut end => break,
        };
        let _ = stream.set_nodelay(true);
        let options = options.clone();
        let service = service_fn(move |request| answer(options.clone(), peer, request));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await;
        });
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(Duration::from_millis(options.finish_ms)) => {}
    }
    Ok(())
}

async fn answer(
    options: Arc<HttpServer>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    say(&served(&options.name, peer, &request));
    if options.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(options.delay_ms)).await;
    }
    let id = request.headers().get("x-request-id").cloned();
    let number = REQUESTS.fetch_add(1, Ordering::Relaxed);
    let mut response = respond(&options, request).await.unwrap_or_else(|error| {
        let mut response = Response::new(full(format!("{error}\n")));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    });
    if options.fail_every > 0 && number.is_multiple_of(options.fail_every) {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    let headers = response.headers_mut();
    if let Ok(name) = HeaderValue::from_str(&options.name) {
        headers.insert("x-server", name);
    }
    if let Some(id) = id {
        headers.insert("x-request-id", id);
    }
    Ok(response)
}

fn served(server: &str, peer: SocketAddr, request: &Request<Incoming>) -> Served {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let wanted = |name: &str| name.starts_with("x-") || name == "traceparent";
    Served {
        at_ms: now_ms(),
        server: server.to_owned(),
        method: request.method().to_string(),
        path: request.uri().path_and_query().map_or(String::new(), ToString::to_string),
        id: request.headers().get("x-request-id").map(text).unwrap_or_default(),
        peer: peer.to_string(),
        version: format!("{:?}", request.version()),
        headers: request
            .headers()
            .iter()
            .filter(|(name, _)| wanted(name.as_str()))
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
    }
}

async fn respond(options: &HttpServer, request: Request<Incoming>) -> Result<Response<Body>, AppError> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let number = |name: &str| -> u64 {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(found, _)| *found == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    };
    if let Some(status) = path.strip_prefix("/status/") {
        let mut response = Response::new(full(format!("{}\n", options.name)));
        *response.status_mut() = status.parse()?;
        return Ok(response);
    }
    match path.as_str() {
        "/slow" => {
            read(request).await?;
            tokio::time::sleep(Duration::from_millis(number("ms"))).await;
            Ok(Response::new(full(format!("{}\n", options.name))))
        }
        "/bytes" => Ok(Response::new(full(vec![b'x'; number("n").min(256 << 20) as usize]))),
        "/early" => Ok(Response::new(full("early\n"))),
        "/echo" => Ok(Response::new(request.into_body().boxed())),
        "/headers" => {
            let lines = request
                .headers()
                .iter()
                .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
            Ok(Response::new(full(lines.collect::<String>())))
        }
        "/upload" => {
            let mut body = request.into_body();
            let mut count = 0;
            while let Some(frame) = body.frame().await {
                count += frame?.data_ref().map_or(0, Bytes::len);
            }
            Ok(Response::new(full(format!("{count}\n"))))
        }
        "/ws" => upgrade(request),
        _ => {
            read(request).await?;
            Ok(Response::new(full(format!("{}\n", options.name))))
        }
    }
}

/// A body that is not read would close the connection.
async fn read(request: Request<Incoming>) -> Result<(), AppError> {
    request.into_body().collect().await?;
    Ok(())
}

fn upgrade(mut request: Request<Incoming>) -> Result<Response<Body>, AppError> {
    let key = request.headers().get("sec-websocket-key").ok_or("no sec-websocket-key")?;
    let accept = websocket::accept(key.as_bytes());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            let _ = websocket::echo(TokioIo::new(upgraded)).await;
        }
    });
    Ok(Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("upgrade", "websocket")
        .header("connection", "Upgrade")
        .header("sec-websocket-accept", accept)
        .body(full(""))?)
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_two_ways_to_take_a_sigterm() {
        assert_eq!("close".parse(), Ok(OnTerm::Close));
        assert_eq!("serve:5s".parse(), Ok(OnTerm::Serve(Duration::from_secs(5))));
        for bad in ["", "serve", "serve:5", "serve:s", "close:5s"] {
            assert!(bad.parse::<OnTerm>().is_err(), "{bad}");
        }
    }
}
