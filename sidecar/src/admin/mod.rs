//! The admin interface: read-only views and three switches, over plain HTTP.
//!
//! | listener | who may reach it | answers |
//! |---|---|---|
//! | 15000 | loopback only | everything below |
//! | 15020 | the pod's network | `/metrics` |
//! | 15021 | the pod's network | `/ready`, `/live` (kubelet's probes) |
//!
//! It is served by `hyper`: nothing here is on the data path. 15021 runs on a data-plane worker, so that a probe vouches
//! for the thread that forwards.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// What the admin interface asks of the proxy.
pub trait View: Send + Sync + 'static {
    /// What is missing before traffic can be taken; empty when ready.
    fn not_ready(&self) -> Vec<&'static str>;
    /// Prometheus text.
    fn metrics(&self) -> String;
    /// The compiled snapshot, as JSON.
    fn config(&self) -> serde_json::Value;
    /// The log directives in force.
    fn log_level(&self) -> String;
    /// Changes them.
    ///
    /// # Errors
    /// What is wrong with the directives.
    fn set_log_level(&self, directives: &str) -> Result<(), String>;
    /// Starts draining; returns at once.
    fn drain(&self);
    /// Drains and exits.
    fn quit(&self);
}

/// Which paths a listener answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// All of them: loopback only.
    Admin,
    /// `/metrics`
    Metrics,
    /// `/ready`, `/live`
    Health,
}

/// Longest body of `POST /log`.
const MAX_BODY: usize = 4_096;

const HELP: &str = "weft-sidecar admin
  GET  /ready        200 when traffic can be taken; else 503 and what is missing
  GET  /live         200 while the process runs
  GET  /metrics      Prometheus text
  GET  /config       the compiled snapshot, JSON
  GET  /log          log directives in force
  POST /log          change them: body such as `info,weft_sidecar::outbound=debug`
  POST /drain        finish what is in flight, take no new work
  POST /quitquitquit drain, then exit
";

/// Serves one listener until the process ends. A connection's failure is its own.
pub async fn serve(listener: TcpListener, surface: Surface, view: Arc<dyn View>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // EMFILE and its like: back off, do not spin.
                tracing::warn!(%error, "admin: accept failed");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let view = Arc::clone(&view);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let view = Arc::clone(&view);
                async move { Ok::<_, Infallible>(answer(request, surface, view).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "admin: connection failed");
            }
        });
    }
}

/// Binds a listener, naming the address in the error.
///
/// # Errors
/// What the system said, with the address.
pub async fn bind(addr: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .map_err(|error| std::io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}")))
}

/// Binds a port on all addresses, IPv4 and IPv6.
///
/// # Errors
/// What the system said, with the port.
pub fn bind_any(port: u16) -> std::io::Result<TcpListener> {
    let bind = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port)).into())?;
        socket.listen(128)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|error: std::io::Error| {
        std::io::Error::new(error.kind(), format!("cannot listen on port {port}: {error}"))
    })
}

async fn answer(request: Request<Incoming>, surface: Surface, view: Arc<dyn View>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let allowed = match surface {
        Surface::Admin => true,
        Surface::Metrics => matches!(path.as_str(), "/metrics" | "/stats/prometheus"),
        Surface::Health => matches!(path.as_str(), "/ready" | "/live" | "/healthz/ready"),
    };
    if !allowed {
        return text(StatusCode::NOT_FOUND, "not served on this port\n".to_owned());
    }
    // A web page open in a browser on this machine could send simple POSTs to loopback; it cannot leave `Origin` out.
    if request.method() == Method::POST && request.headers().contains_key(http::header::ORIGIN) {
        return text(StatusCode::FORBIDDEN, "requests from web pages are refused\n".to_owned());
    }
    match (request.method(), path.as_str()) {
        (&Method::GET | &Method::HEAD, "/ready" | "/healthz/ready") => {
            let missing = view.not_ready();
            if missing.is_empty() {
                text(StatusCode::OK, "ready\n".to_owned())
            } else {
                text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", ")))
            }
        }
        (&Method::GET | &Method::HEAD, "/live") => text(StatusCode::OK, "live\n".to_owned()),
        (&Method::GET, "/metrics" | "/stats/prometheus") => {
            let mut response = text(StatusCode::OK, view.metrics());
            response.headers_mut().insert(
                http::header::CONTENT_TYPE,
                http::HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
            );
            response
        }
        (&Method::GET, "/config") => {
            let mut response = text(StatusCode::OK, format!("{:#}\n", view.config()));
            response
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            response
        }
        (&Method::GET, "/log") => text(StatusCode::OK, format!("{}\n", view.log_level())),
        (&Method::POST | &Method::PUT, "/log") => {
            let Ok(body) = Limited::new(request.into_body(), MAX_BODY).collect().await else {
                return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long\n".to_owned());
            };
            let body = body.to_bytes();
            match std::str::from_utf8(&body).map_err(|e| e.to_string()).and_then(|d| view.set_log_level(d.trim())) {
                Ok(()) => text(StatusCode::OK, format!("{}\n", view.log_level())),
                Err(error) => text(
                    StatusCode::BAD_REQUEST,
                    format!("{error}; give directives such as `info,weft_sidecar::outbound=debug`\n"),
                ),
            }
        }
        (&Method::POST, "/drain") => {
            view.drain();
            text(StatusCode::OK, "draining\n".to_owned())
        }
        (&Method::POST, "/quitquitquit") => {
            view.quit();
            text(StatusCode::OK, "draining, then exiting\n".to_owned())
        }
        (_, "/ready" | "/live" | "/metrics" | "/config" | "/log" | "/drain" | "/quitquitquit") => {
            text(StatusCode::METHOD_NOT_ALLOWED, HELP.to_owned())
        }
        (_, "/" | "/help") => text(StatusCode::OK, HELP.to_owned()),
        _ => text(StatusCode::NOT_FOUND, HELP.to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
