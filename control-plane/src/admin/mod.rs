//! Port 15014: whether the control plane is ready and alive, its metrics, and what it knows, for probes and people.
//!
//! `/ready` says 503 until the first complete state of the source is served, and again while draining; `/live` says that this task
//! still runs. Nothing here changes anything and nothing shown is a secret: objects, names and counts, no keys or
//! tokens. Still, `/debug` shows every namespace's configuration, so it is for callers on this machine (which `kubectl
//! port-forward` makes one) unless [`Admin::debug_from_anywhere`]. Not here: what is counted (each room's `metrics`).
//!
//! kubelet's probes come in by the same door as everybody, and a replica whose probes fail is restarted. So nobody can keep
//! the places: the newest connection always gets one, the oldest of whoever has most is closed for it
//! (`weft_proto::places`), and none lives longer than [`Bounds::lifetime`] and [`Bounds::linger`], read or not.
//!
//! Bound: [`Bounds::places`] connections, an answer each, [`Bounds::head`] for a request's head.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use weft_proto::places::{Limits, Places};

use crate::discovery::{Feed, Proxies, ResourceKind};
use crate::status::counts::Counting;
use crate::translate::{Lookup, View};

#[cfg(test)]
mod tests;

/// What a connection may take. Tests shorten it.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Probes, a scraper or two, a person.
    places: Limits,
    /// For a request's head, and of silence between two requests.
    head: Duration,
    /// How old a connection may get; then it ends after the answer it is at.
    lifetime: Duration,
    /// How long that answer may take to be read.
    linger: Duration,
}

const BOUNDS: Bounds = Bounds {
    places: Limits { total: 64, per_source: 16, kept: 0 },
    head: Duration::from_secs(10),
    lifetime: Duration::from_secs(60),
    linger: Duration::from_secs(10),
};

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const DEBUG_FROM_HERE: &str = "\
/debug is for callers on this machine: `kubectl port-forward`, and ask localhost.
To open it to everybody who reaches this port: chart value controlPlane.debug, or --debug-from anywhere.
";

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PATHS: &str = "\
/ready            200 once the first complete state is served
/live             200 while the process works
/metrics          OpenMetrics
/debug/proxies    connected proxies: identity, subscriptions, ACKs, the last NACK (JSON)
/debug/resources  ?type=Service&name=NAME[&namespace=CLIENT-NAMESPACE] or ?type=Workload&name=self&pod=ADDRESS (JSON)
/debug/routes     [?namespace=NAMESPACE] how many of the proxies that each route is for have it now, of all replicas (JSON)
/debug/problems   what is wrong with the manifests now (JSON)
";

/// What the admin port shows.
pub struct Admin {
    /// All metrics.
    pub registry: Registry,
    /// The state served.
    pub feed: Arc<Feed>,
    /// Who is connected.
    pub proxies: Arc<Proxies>,
    /// What is wrong with the objects now, as JSON values.
    pub problems: Arc<Mutex<Vec<serde_json::Value>>>,
    /// What else must hold before this replica is ready.
    pub gates: Vec<Gate>,
    /// Counts who has which route, asking all replicas.
    pub counting: Counting,
    /// Whether `/debug` is for everybody who reaches the port (`--debug-from anywhere`).
    pub debug_from_anywhere: bool,
    /// Set when the process is on its way out.
    pub draining: Arc<AtomicBool>,
}

/// Something that must hold for a replica to be ready.
#[derive(Debug)]
pub struct Gate {
    /// Whether it does.
    pub open: watch::Receiver<bool>,
    /// What a person reads while it does not.
    pub otherwise: &'static str,
}

impl Admin {
    /// Serves `listener` until `shutdown`.
    pub async fn run(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        self.run_within(BOUNDS, listener, shutdown).await;
    }

    async fn run_within(self, bounds: Bounds, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let admin = Arc::new(self);
        let places = Places::new(bounds.places);
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener) => accepted,
                () = &mut shutdown => return,
            };
            let Some((socket, from)) = accepted else { continue };
            let (evict, evicted) = oneshot::channel::<()>();
            let Ok(place) = places.enter(from.ip(), evict) else { continue };
            let admin = Arc::clone(&admin);
            tokio::spawn(async move {
                tokio::select! {
                    () = admin.serve(socket, from.ip(), &bounds) => {}
                    // An error is how it says so.
                    _ = evicted => tracing::debug!(%from, "admin connection closed for a newer one"),
                }
                drop(place);
            });
        }
    }

    /// Serves one connection to its end.
    async fn serve(&self, socket: TcpStream, from: IpAddr, bounds: &Bounds) {
        let service = service_fn(|request: Request<Incoming>| {
            let (request, _) = request.into_parts();
            async move { Ok::<_, Infallible>(self.answer(&request, from).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(bounds.head);
        let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = tokio::time::sleep(bounds.lifetime) => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(bounds.linger, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "admin connection ended");
        }
    }

    async fn answer(&self, request: &Parts, from: IpAddr) -> Response<Full<Bytes>> {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
        }
        let here = self.debug_from_anywhere || from.to_canonical().is_loopback();
        if request.uri.path().starts_with("/debug") && !here {
            return answer(StatusCode::FORBIDDEN, TEXT, DEBUG_FROM_HERE.to_owned());
        }
        let query = parse_query(request.uri.query().unwrap_or_default());
        match request.uri.path() {
            "/ready" => self.ready(),
            "/live" => answer(StatusCode::OK, TEXT, "alive\n".to_owned()),
            "/metrics" => self.metrics(),
            "/debug/proxies" => pretty(&json!({ "proxies": self.proxies.list() })),
            "/debug/resources" => self.resources(&query),
            "/debug/routes" => self.routes(&query).await,
            "/debug/problems" => pretty(&json!({ "problems": *self.problems.lock() })),
            _ => answer(StatusCode::NOT_FOUND, TEXT, PATHS.to_owned()),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let shut = self.gates.iter().find(|gate| !*gate.open.borrow());
        let (status, text) = if self.draining.load(Ordering::Relaxed) {
            (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned())
        } else if !self.feed.is_synced() {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: the objects have not been read yet\n".to_owned())
        } else if let Some(gate) = shut {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", gate.otherwise))
        } else {
            (StatusCode::OK, "ready\n".to_owned())
        };
        answer(status, TEXT, text)
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => answer(StatusCode::OK, OPENMETRICS, text),
            Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        }
    }

    async fn routes(&self, query: &BTreeMap<String, String>) -> Response<Full<Bytes>> {
        let only = query.get("namespace").map(String::as_str).filter(|only| !only.is_empty());
        let counts = self.counting.count(&self.feed.latest(), only).await;
        match serde_json::to_value(counts) {
            Ok(counts) => pretty(&counts),
            Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        }
    }

    fn resources(&self, query: &BTreeMap<String, String>) -> Response<Full<Bytes>> {
        let wanted = |name: &str| query.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let kind = ResourceKind::ALL.into_iter().find(|kind| wanted("type") == Some(kind.label()));
        let (Some(kind), Some(name)) = (kind, wanted("name")) else {
            let mut text = String::from("give ?type=TYPE&name=NAME, where TYPE is one of");
            for kind in ResourceKind::ALL {
                // Writing to a String cannot fail.
                let _ = write!(text, " {}", kind.label());
            }
            return answer(StatusCode::BAD_REQUEST, TEXT, text + "\n");
        };
        let latest = self.feed.latest();
        let lookup = match wanted("pod").map(str::parse::<IpAddr>) {
            Some(Ok(pod)) => latest.own(kind.type_url(), pod),
            Some(Err(_)) => return answer(StatusCode::BAD_REQUEST, TEXT, "pod must be an address\n".to_owned()),
            None => {
                let namespace = wanted("namespace").unwrap_or("default").to_owned();
                latest.lookup(kind.type_url(), name, &View { namespace })
            }
        };
        match lookup {
            Lookup::Found(resource) => pretty(&json!({
                "type": kind.label(),
                "name": resource.name,
                "aliases": resource.aliases,
                "version": resource.version,
                "bytes": resource.body.len(),
                "content": content(kind, &resource.body),
            })),
            Lookup::Held => answer(StatusCode::CONFLICT, TEXT, "held: it cannot be said at the moment\n".to_owned()),
            Lookup::Absent => answer(StatusCode::NOT_FOUND, TEXT, "no such resource\n".to_owned()),
        }
    }
}

/// A resource as people read it.
fn content(kind: ResourceKind, body: &Bytes) -> String {
    use prost::Message as _;
    use weft_proto::v1;
    fn text<M: prost::Message + Default + std::fmt::Debug>(body: &Bytes) -> String {
        M::decode(body.clone()).map_or_else(|error| error.to_string(), |message| format!("{message:?}"))
    }
    match kind {
        ResourceKind::TrustBundle => v1::TrustBundle::decode(body.clone()).map_or_else(
            |error| error.to_string(),
            |bundle| format!("{} root(s) of {}", bundle.roots.len(), bundle.trust_domain),
        ),
        ResourceKind::MeshSettings => text::<v1::MeshSettings>(body),
        ResourceKind::Workload => text::<v1::Workload>(body),
        ResourceKind::InboundPolicy => text::<v1::InboundPolicy>(body),
        ResourceKind::Endpoints => text::<v1::Endpoints>(body),
        ResourceKind::Service => text::<v1::Service>(body),
    }
}

async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "cannot accept an admin connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// `a=b&c=d`, with `%2F` and the like decoded.
fn parse_query(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), percent_decoded(value)))
        .collect()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = (byte == b'%').then(|| after.get(..2)).flatten();
        let decoded =
            hex.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match decoded {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn pretty(value: &serde_json::Value) -> Response<Full<Bytes>> {
    answer(StatusCode::OK, JSON, format!("{value:#}\n"))
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
