//! The admin interface: read-only views and three switches, over plain HTTP.
//!
//! | listener | who may reach it | answers |
//! |---|---|---|
//! | 15000 | loopback only | everything below |
//! | 15020 | the pod's network | `/metrics` |
//! | 15021 | the pod's network | `/ready`, `/live` (kubelet's probes of us), `/probe/...` (its probes of the app, `probe.rs`) |
//!
//! It is served by `hyper`: nothing here is on the data path. 15021 runs on a data-plane worker, so that a probe vouches
//! for the thread that forwards.
//!
//! 15000 believes whoever reaches loopback, but for web pages: a page in a browser on this machine (behind
//! `kubectl port-forward`, say) can send requests here, by a name of its own that resolves to 127.0.0.1 even such whose
//! answers it may read. So requests that name another host, or come with `Origin`, are refused.
//!
//! Bounds: [`MAX_CONNECTIONS`] per listener, [`MAX_HEAD`] per request, [`HEAD_TIMEOUT`] for a head, and as long for a body.

pub mod probe;

use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, ORIGIN, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use self::probe::Probes;
use crate::listen::accept::no_such_family;
use crate::settings::loopback;

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
    /// The app's probes.
    fn probes(&self) -> &Probes;
}

/// Which paths a listener answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// All of them: loopback only.
    Admin,
    /// `/metrics`
    Metrics,
    /// `/ready`, `/live`, `/probe/...`
    Health,
}

/// Connections of one listener at a time; more are closed at once.
const MAX_CONNECTIONS: usize = 256;
/// Largest request head.
const MAX_HEAD: usize = 16 * 1024;
/// How long a request head may take, from the end of the request before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest body of `POST /log`.
const MAX_BODY: usize = 4_096;

/// What the paths of probes start with.
const PROBE: &str = "/probe/";

const HELP: &str = "weft-sidecar admin
  GET  /ready        200 when traffic can be taken; else 503 and what is missing
  GET  /live         200 while the process runs
  GET  /probe/CONTAINER/KIND   runs a probe of the app: 200, or 503 and why
  GET  /metrics      Prometheus text
  GET  /config       the compiled snapshot, JSON
  GET  /log          log directives in force
  POST /log          change them: body such as `info,weft_sidecar::outbound=debug`
  POST /drain        finish what is in flight, take no new work
  POST /quitquitquit drain, then exit
";

/// Serves one listener until the process ends. A connection's failure is its own.
pub async fn serve(listener: TcpListener, surface: Surface, view: Arc<dyn View>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // EMFILE and its like: back off, do not spin.
                tracing::warn!(%error, "admin: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::debug!(?surface, "admin: too many connections");
            continue;
        };
        let view = Arc::clone(&view);
        tokio::spawn(async move {
            let _place = place;
            let service = hyper::service::service_fn(move |request| {
                let view = Arc::clone(&view);
                async move { Ok::<_, Infallible>(answer(request, surface, view).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "admin: connection failed");
            }
        });
    }
}

/// Binds a port on loopback, IPv4 and, where there is one, IPv6.
///
/// # Errors
/// What the system said, with the address.
pub async fn bind_loopback(port: u16) -> std::io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for addr in loopback(port) {
        match TcpListener::bind(addr).await {
            Ok(listener) => listeners.push(listener),
            Err(error) if addr.is_ipv6() && no_such_family(&error) => {}
            Err(error) => {
                return Err(std::io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}")));
            }
        }
    }
    Ok(listeners)
}

/// Binds a port on all addresses, IPv4 and, where there is one, IPv6.
///
/// # Errors
/// What the system said, with the port.
pub fn bind_any(port: u16) -> std::io::Result<TcpListener> {
    let bind = |addr: SocketAddr| {
        let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None)?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(128)?;
        TcpListener::from_std(socket.into())
    };
    let bound = match bind((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if no_such_family(&error) => bind((Ipv4Addr::UNSPECIFIED, port).into()),
        bound => bound,
    };
    bound.map_err(|error| std::io::Error::new(error.kind(), format!("cannot listen on port {port}: {error}")))
}

async fn answer(request: Request<Incoming>, surface: Surface, view: Arc<dyn View>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let allowed = match surface {
        Surface::Admin => true,
        Surface::Metrics => matches!(path.as_str(), "/metrics" | "/stats/prometheus"),
        Surface::Health => matches!(path.as_str(), "/ready" | "/live" | "/healthz/ready") || path.starts_with(PROBE),
    };
    if !allowed {
        return text(StatusCode::NOT_FOUND, "not served on this port\n".to_owned());
    }
    if surface == Surface::Admin && is_from_web_page(request.headers()) {
        return text(
            StatusCode::FORBIDDEN,
            "requests from web pages are refused; use localhost or 127.0.0.1\n".to_owned(),
        );
    }
    if let Some(name) = path.strip_prefix(PROBE) {
        return probed(name, request.method(), view.probes().run(name, request.headers().get(USER_AGENT))).await;
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
            // The text is OpenMetrics, and reads as the older format as well (`# EOF` is a comment there).
            let mut response = text(StatusCode::OK, view.metrics());
            if accepts_openmetrics(request.headers()) {
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS));
            } else {
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROMETHEUS));
            }
            response
        }
        (&Method::GET, "/config") => {
            let mut response = text(StatusCode::OK, format!("{:#}\n", view.config()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        (&Method::GET, "/log") => text(StatusCode::OK, format!("{}\n", view.log_level())),
        (&Method::POST | &Method::PUT, "/log") => {
            let body = Limited::new(request.into_body(), MAX_BODY).collect();
            let Ok(Ok(body)) = tokio::time::timeout(HEAD_TIMEOUT, body).await else {
                return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long, or too slow\n".to_owned());
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

async fn probed(
    name: &str,
    method: &Method,
    run: impl Future<Output = Option<Result<(), probe::Failure>>>,
) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, HELP.to_owned());
    }
    match run.await {
        Some(Ok(())) => text(StatusCode::OK, "ok\n".to_owned()),
        Some(Err(why)) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{name}: {why}\n")),
        None => text(
            StatusCode::NOT_FOUND,
            format!("no probe `{name}` in WEFT_PROBES: was the pod changed after injection?\n"),
        ),
    }
}

/// Whether a browser may have sent this on behalf of a page: it names its origin, or a host that is not this machine's
/// loopback. Browsers cannot leave Host out, or send another one than they connected by.
fn is_from_web_page(headers: &HeaderMap) -> bool {
    let is_loopback = |host: &HeaderValue| {
        let host = host.to_str().unwrap_or_default();
        // The port may be any: it may have been forwarded.
        let name = host
            .rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
            .map_or(host, |(name, _)| name);
        name.eq_ignore_ascii_case("localhost") || matches!(name, "127.0.0.1" | "[::1]")
    };
    headers.contains_key(ORIGIN) || !headers.get_all(HOST).iter().all(is_loopback)
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

fn accepts_openmetrics(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|text| text.contains("application/openmetrics-text")))
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::dns::Dns;
    use crate::listen::drain;

    struct Fake {
        drains: AtomicUsize,
        probes: Probes,
    }

    impl Default for Fake {
        fn default() -> Self {
            let specs = probe::parse(r#"{"app/liveness": {"tcp": {"port": 1}}}"#).unwrap();
            let probes = Probes::new(specs, [127, 0, 0, 1].into(), Dns::fixed([]), drain::new().1);
            Self { drains: AtomicUsize::default(), probes }
        }
    }

    impl View for Fake {
        fn not_ready(&self) -> Vec<&'static str> {
            Vec::new()
        }
        fn metrics(&self) -> String {
            "# EOF\n".to_owned()
        }
        fn config(&self) -> serde_json::Value {
            serde_json::json!({})
        }
        fn log_level(&self) -> String {
            "info".to_owned()
        }
        fn set_log_level(&self, _: &str) -> Result<(), String> {
            Ok(())
        }
        fn drain(&self) {
            self.drains.fetch_add(1, Ordering::Relaxed);
        }
        fn quit(&self) {}
        fn probes(&self) -> &Probes {
            &self.probes
        }
    }

    async fn start(surface: Surface) -> (SocketAddr, Arc<Fake>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let view = Arc::new(Fake::default());
        tokio::spawn(serve(listener, surface, Arc::clone(&view) as Arc<dyn View>));
        (addr, view)
    }

    async fn ask(addr: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn web_pages_are_refused() {
        let (addr, view) = start(Surface::Admin).await;
        for (host, more, status) in [
            ("localhost", "", "200"),
            ("LOCALHOST:15000", "", "200"),
            ("127.0.0.1:8080", "", "200"),
            ("[::1]:15000", "", "200"),
            ("[::1]", "", "200"),
            ("evil.example", "", "403"),
            ("evil.example:15000", "", "403"),
            ("localhost.evil.example", "", "403"),
            ("127.0.0.1.evil.example:1", "", "403"),
            ("", "", "403"),
            ("localhost", "Origin: http://evil.example\r\n", "403"),
            ("localhost", "Origin: null\r\n", "403"),
        ] {
            for line in ["POST /drain", "GET /config", "PUT /log"] {
                let request =
                    format!("{line} HTTP/1.1\r\nHost: {host}\r\n{more}Content-Length: 0\r\nConnection: close\r\n\r\n");
                let answer = ask(addr, &request).await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{line} {host:?} {more:?}: {answer}");
            }
        }
        assert_eq!(view.drains.load(Ordering::Relaxed), 5);
    }

    #[tokio::test]
    async fn what_the_pods_network_reaches_is_read_only() {
        for (surface, path, status) in [
            (Surface::Metrics, "GET /metrics", "200"),
            (Surface::Metrics, "GET /config", "404"),
            (Surface::Metrics, "POST /quitquitquit", "404"),
            (Surface::Health, "GET /ready", "200"),
            (Surface::Health, "GET /metrics", "404"),
            (Surface::Health, "POST /drain", "404"),
            (Surface::Health, "GET /probe/app/liveness", "503"),
            (Surface::Health, "POST /probe/app/liveness", "405"),
            (Surface::Health, "GET /probe/app/readiness", "404"),
            (Surface::Metrics, "GET /probe/app/liveness", "404"),
        ] {
            let (addr, _) = start(surface).await;
            let request =
                format!("{path} HTTP/1.1\r\nHost: 10.0.0.7:15020\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let answer = ask(addr, &request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{surface:?} {path}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_scraper_gets_the_format_it_asks_for() {
        let (addr, _) = start(Surface::Metrics).await;
        for (accept, want) in [
            ("*/*", "text/plain; version=0.0.4"),
            ("application/openmetrics-text;version=1.0.0,*/*;q=0.1", "application/openmetrics-text"),
        ] {
            let answer = ask(
                addr,
                &format!("GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"),
            )
            .await;
            assert!(answer.contains(&format!("content-type: {want}")), "{accept}: {answer}");
        }
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_and_the_others_stay() {
        let (addr, _) = start(Surface::Health).await;
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            held.push(TcpStream::connect(addr).await.unwrap());
        }
        let mut extra = TcpStream::connect(addr).await.unwrap();
        let mut buf = [0; 1];
        assert!(matches!(extra.read(&mut buf).await, Ok(0) | Err(_)));
        let mut first = held.swap_remove(0);
        first.write_all(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        first.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
