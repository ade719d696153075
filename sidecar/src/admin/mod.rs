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
//! What the pod's network may take is bounded in `serve.rs`.
//!
//! Bounds: [`MAX_BODY`] and [`MAX_QUESTION`], for which there is [`HEAD_TIMEOUT`]; and `serve.rs`'s.

pub mod probe;
mod serve;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, ORIGIN, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use weft_proto::explain::{Explanation, Question};

use self::probe::Probes;
pub use self::serve::serve;
use self::serve::{HEAD_TIMEOUT, Runs};
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
    /// What would become of a request of the app's.
    ///
    /// # Errors
    /// What is wrong with the question, for people.
    fn explain(&self, question: Question) -> BoxFuture<'_, Result<Explanation, String>>;
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
    /// Counts a request for a probe that there is none of, or without its secret.
    fn on_probe_refused(&self);
    /// Counts a connection that was closed for others, or because it lasted too long.
    fn on_connection_closed(&self);
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

/// Longest body of `POST /log`.
const MAX_BODY: usize = 4_096;
/// Longest body of `POST /explain`: as long as the head of a request may be, and a third more for its form.
const MAX_QUESTION: usize = 96 * 1024;

/// What the paths of probes start with.
const PROBE: &str = "/probe/";

const HELP: &str = "weft-sidecar admin
  GET  /ready        200 when traffic can be taken; else 503 and what is missing
  GET  /live         200 while the process runs
  GET  /probe/CONTAINER/KIND   runs a probe of the app: 200, or 503 and why (on port 15021 SECRET.CONTAINER/KIND)
  GET  /metrics      Prometheus text
  GET  /config       the compiled snapshot, JSON
  POST /explain      what would become of a request: body such as {\"url\": \"http://reviews/v2\", \"headers\": [[\"x-user\", \"a\"]]}
  GET  /log          log directives in force
  POST /log          change them: body such as `info,weft_sidecar::outbound=debug`
  POST /drain        finish what is in flight, take no new work
  POST /quitquitquit drain, then exit
";

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

/// Answers a request, and tells `runs` of a probe before it runs.
async fn answer(
    request: Request<Incoming>,
    surface: Surface,
    view: Arc<dyn View>,
    runs: Runs,
) -> Response<Full<Bytes>> {
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
    if let Some(asked) = path.strip_prefix(PROBE) {
        return probed(asked, &request, surface, &*view, &runs).await;
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
        (&Method::POST, "/explain") => match body_of(request, MAX_QUESTION).await {
            Some(body) => explained(&body, &*view).await,
            None => too_long(),
        },
        (&Method::POST | &Method::PUT, "/log") => {
            let Some(body) = body_of(request, MAX_BODY).await else { return too_long() };
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
        (_, "/ready" | "/live" | "/metrics" | "/config" | "/explain" | "/log" | "/drain" | "/quitquitquit") => {
            text(StatusCode::METHOD_NOT_ALLOWED, HELP.to_owned())
        }
        (_, "/" | "/help") => text(StatusCode::OK, HELP.to_owned()),
        _ => text(StatusCode::NOT_FOUND, HELP.to_owned()),
    }
}

/// A request's body, if it is no longer than that and comes in time.
async fn body_of(request: Request<Incoming>, at_most: usize) -> Option<Bytes> {
    let body = Limited::new(request.into_body(), at_most).collect();
    Some(tokio::time::timeout(HEAD_TIMEOUT, body).await.ok()?.ok()?.to_bytes())
}

fn too_long() -> Response<Full<Bytes>> {
    text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long, or too slow\n".to_owned())
}

async fn explained(body: &[u8], view: &dyn View) -> Response<Full<Bytes>> {
    let question = match serde_json::from_slice::<Question>(body) {
        Ok(question) => question,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("the body is not a question in JSON: {error}\n")),
    };
    let explained = view.explain(question).await;
    match explained.and_then(|told| serde_json::to_string_pretty(&told).map_err(|error| error.to_string())) {
        Ok(told) => {
            let mut response = text(StatusCode::OK, told + "\n");
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(why) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
    }
}

async fn probed(
    asked: &str,
    request: &Request<Incoming>,
    surface: Surface,
    view: &dyn View,
    runs: &Runs,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, HELP.to_owned());
    }
    // People on loopback are believed, and need no secret: the app is theirs to ask anyway.
    let by_name = (surface == Surface::Admin).then(|| view.probes().named(asked)).flatten();
    let Some(probe) = by_name.or_else(|| view.probes().find(asked)) else {
        view.on_probe_refused();
        // Neither name nor secret is confirmed.
        return text(
            StatusCode::NOT_FOUND,
            "no such probe in WEFT_PROBES: was the pod changed after injection?\n".to_owned(),
        );
    };
    runs.begin(&probe);
    match probe.run(request.headers().get(USER_AGENT)).await {
        Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{}: {why}\n", probe.name())),
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

    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::dns::Dns;
    use crate::listen::drain;

    pub(super) struct Fake {
        pub(super) drains: AtomicUsize,
        pub(super) metrics: String,
        pub(super) probes: Probes,
        pub(super) probes_refused: AtomicUsize,
        pub(super) closed: AtomicUsize,
    }

    impl Fake {
        pub(super) fn new(probes: &str, drain: drain::Watch) -> Self {
            let specs = probe::parse(probes).unwrap();
            let probes = Probes::new(specs, [127, 0, 0, 1].into(), Dns::fixed([]), drain);
            let [drains, probes_refused, closed] = Default::default();
            Self { drains, metrics: "# EOF\n".to_owned(), probes, probes_refused, closed }
        }
    }

    impl Default for Fake {
        fn default() -> Self {
            Self::new(r#"{"app/liveness": {"tcp": {"port": 1}}}"#, drain::new().1)
        }
    }

    impl View for Fake {
        fn not_ready(&self) -> Vec<&'static str> {
            Vec::new()
        }
        fn metrics(&self) -> String {
            self.metrics.clone()
        }
        fn config(&self) -> serde_json::Value {
            serde_json::json!({})
        }
        fn explain(&self, question: Question) -> BoxFuture<'_, Result<Explanation, String>> {
            let told = Explanation { notes: vec![question.url.clone()], ..Explanation::default() };
            Box::pin(std::future::ready(if question.url.is_empty() { Err("no url".to_owned()) } else { Ok(told) }))
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
        fn on_probe_refused(&self) {
            self.probes_refused.fetch_add(1, Ordering::Relaxed);
        }
        fn on_connection_closed(&self) {
            self.closed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) async fn start(surface: Surface) -> (SocketAddr, Arc<Fake>) {
        let view = Arc::new(Fake::default());
        (start_with(surface, &view).await, view)
    }

    async fn start_with(surface: Surface, view: &Arc<Fake>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, surface, Arc::clone(view) as Arc<dyn View>));
        addr
    }

    async fn ask(addr: SocketAddr, request: &str) -> String {
        let stream = TcpStream::connect(addr).await.unwrap();
        ask_on(stream, request).await
    }

    pub(super) async fn ask_on(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
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
            (Surface::Metrics, "POST /explain", "404"),
            (Surface::Health, "GET /ready", "200"),
            (Surface::Health, "GET /metrics", "404"),
            (Surface::Health, "POST /drain", "404"),
            (Surface::Health, "POST /explain", "404"),
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
    async fn a_question_is_json_and_so_is_its_answer() {
        let (addr, _) = start(Surface::Admin).await;
        let long = format!(r#"{{"url": "{}"}}"#, "x".repeat(MAX_QUESTION));
        for (line, body, status, says) in [
            ("POST", r#"{"url": "http://reviews/"}"#, "200", "\"http://reviews/\""),
            ("POST", r#"{"url": "http://reviews/", "later": 1}"#, "200", "\"http://reviews/\""),
            ("POST", r#"{"method": "GET"}"#, "400", "no url"),
            ("POST", "url=http://reviews/", "400", "not a question in JSON"),
            ("POST", &*long, "413", "too long"),
            ("GET", "", "405", "POST /explain"),
        ] {
            let length = body.len();
            let head = format!("{line} /explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
            let answer = ask(addr, &(head + body)).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(says), "{line}: {answer}");
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
    async fn over_the_network_a_probe_runs_for_who_knows_its_secret() {
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = app.local_addr().unwrap().port();
        let (secret, other) = ("0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdee");
        let hook = format!(r#"{{"{secret}.app/pre-stop": {{"http": {{"port": {port}}}}}}}"#);
        let view = Arc::new(Fake::new(&hook, drain::new().1));
        let calls = Arc::new(AtomicUsize::default());
        let counted = Arc::clone(&calls);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = app.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        });
        let addresses = [start_with(Surface::Health, &view).await, start_with(Surface::Admin, &view).await];
        for (what, addr, asked, status) in [
            ("kubelet", addresses[0], format!("{secret}.app/pre-stop"), "200"),
            ("no secret", addresses[0], "app/pre-stop".to_owned(), "404"),
            ("another's", addresses[0], format!("{other}.app/pre-stop"), "404"),
            ("another probe", addresses[0], format!("{secret}.app/post-start"), "404"),
            ("a path", addresses[0], format!("{secret}/app/pre-stop"), "404"),
            ("a person on loopback", addresses[1], "app/pre-stop".to_owned(), "200"),
            ("with the secret", addresses[1], format!("{secret}.app/pre-stop"), "200"),
            ("no probe", addresses[1], "app/readiness".to_owned(), "404"),
        ] {
            let request = format!("GET /probe/{asked} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let answer = ask(addr, &request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{what}: {answer}");
            assert!(!answer.contains(secret), "{what}: {answer}");
        }
        assert_eq!((calls.load(Ordering::Relaxed), view.probes_refused.load(Ordering::Relaxed)), (3, 5));
    }
}
