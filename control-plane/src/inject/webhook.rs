//! Port 15017: the API server asks about each new pod of a namespace or with a label that asks for injection (POST `/inject`,
//! AdmissionReview v1), and gets a patch, a refusal with its reason, or a plain yes.
//!
//! A namespace is read from the API server for each question, its metadata only: labelled a moment ago, it counts. When it
//! cannot be read the answer is 503, and the webhook's `failurePolicy` decides; a review that cannot be read is 400. Whatever is
//! asked changes nothing anywhere, so a dry run is like any other.
//!
//! `admission.rs` decides what to answer; this talks. TLS 1.3 only, HTTP/2 as the API server likes it, HTTP/1.1 for a person's curl.
//!
//! Any pod may connect, and while an API server cannot, no opted-in pod starts. So a caller gets a place always, at the cost of
//! the address that has most ([`PLACES`]); a connection that is idle, or whose answers are not read, is closed
//! (`activity.rs`); and bytes and parsing are shared by address (`bounds.rs`).
//!
//! Bound: [`PLACES`], [`MAX_STREAMS`] questions on each, [`MAX_BODY`] a question, [`TIME_LIMIT`] an answer; and `bounds.rs`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;
use weft_proto::places::{Limits, Places};

use super::{ClusterFacts, InjectSettings};

mod activity;
mod admission;
mod answering;
mod bounds;
mod metrics;
#[cfg(test)]
mod tests;

use activity::{Activity, Verdict};
use admission::{Answer, Question};
use answering::{Answering, plain, response};
use bounds::{Bounds, Share};
pub use metrics::Metrics;

/// Where the API server posts.
pub const PATH: &str = "/inject";
/// The largest review. etcd takes 1.5 MiB an object; a review has it once, in JSON, with a little around it.
pub const MAX_BODY: usize = 4 << 20;
/// Connections: of API servers, each with a handful, and of somebody who looks. An API server opens another when it has
/// [`MAX_STREAMS`] questions on each, so one address may have some, which is hundreds of questions at a time.
const PLACES: Limits = Limits { total: 256, per_source: 32, kept: 0 };
/// Questions under way on one connection.
const MAX_STREAMS: u32 = 16;
/// Bytes of reviews that a connection takes before somebody reads them; HTTP/2 begins with as many anyway.
const WINDOW: u32 = (64 << 10) - 1;
const HANDSHAKE: Duration = Duration::from_secs(3);
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// For a review to come once there is room for it: the API server has all of it when it begins.
const BODY_TIME: Duration = Duration::from_secs(3);
/// For one answer, less than the 10 s that API servers wait by default.
const TIME_LIMIT: Duration = Duration::from_secs(8);
/// For a connection's last answers.
const DRAIN: Duration = Duration::from_secs(5);
/// Between two looks at what a connection does.
const LOOK: Duration = Duration::from_secs(5);
/// After a failed accept (no more open files), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a namespace says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labelled {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Where namespaces are looked up.
pub trait Namespaces: Send + Sync + 'static {
    /// What the namespace says now; nothing where there is none such.
    fn get(&self, name: &str) -> impl Future<Output = Result<Labelled, String>> + Send;
}

impl Namespaces for Client {
    async fn get(&self, name: &str) -> Result<Labelled, String> {
        match Api::<Namespace>::all(self.clone()).get_metadata_opt(name).await {
            Ok(found) => {
                let metadata = found.map(|found| found.metadata).unwrap_or_default();
                let (labels, annotations) =
                    (metadata.labels.unwrap_or_default(), metadata.annotations.unwrap_or_default());
                Ok(Labelled { labels, annotations })
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What port 15017 needs to know.
#[derive(Debug)]
pub struct Webhook<N> {
    /// Namespaces: the API server's client.
    pub namespaces: N,
    /// How pods are injected.
    pub settings: watch::Receiver<Arc<InjectSettings>>,
    /// The cluster's versions.
    pub cluster: watch::Receiver<ClusterFacts>,
    /// By namespace, the security objects that this version does not enforce (SEMANTICS.md §4), such as
    /// `AuthorizationPolicy shop/deny-all`. Those of the control plane's namespace are for every pod.
    pub unenforced: watch::Receiver<Arc<BTreeMap<String, Vec<String>>>>,
    /// What is counted.
    pub metrics: Metrics,
}

impl<N: Namespaces> Webhook<N> {
    /// Serves `listener` until `shutdown`, and then until every question is answered.
    pub async fn run(self, tls: ServerConfig, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let webhook = Arc::new(self);
        let tls = TlsAcceptor::from(Arc::new(tls));
        let (stop, stopping) = watch::channel(false);
        let places = Places::new(PLACES);
        let bounds = Bounds::default();
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener) => accepted,
                () = &mut shutdown => break,
            };
            let Some((socket, source)) = accepted else { continue };
            let (evict, evicted) = oneshot::channel();
            let Ok(place) = places.enter(source, evict) else { continue };
            let (webhook, tls, stopping) = (Arc::clone(&webhook), tls.clone(), stopping.clone());
            let share = bounds.share(source);
            tokio::spawn(async move {
                webhook.connection(&tls, socket, share, stopping, evicted).await;
                drop(place);
            });
        }
        drop(listener);
        drop(stopping);
        stop.send_replace(true);
        // Every connection holds a receiver and is gone `DRAIN` after the stop at the latest.
        let _ = tokio::time::timeout(DRAIN + HANDSHAKE, stop.closed()).await;
    }

    /// Serves one connection to its end, or until it is given up for another.
    async fn connection(
        self: Arc<Self>,
        tls: &TlsAcceptor,
        socket: TcpStream,
        share: Share,
        stopping: watch::Receiver<bool>,
        mut evicted: oneshot::Receiver<Infallible>,
    ) {
        let handshake = tokio::select! {
            handshake = tokio::time::timeout(HANDSHAKE, tls.accept(socket)) => handshake,
            _ = &mut evicted => return self.metrics.on_given_up(),
        };
        match handshake {
            Ok(Ok(connection)) => {
                let http2 = connection.get_ref().1.alpn_protocol() == Some(b"h2");
                self.serve(connection, http2, share, stopping, evicted).await;
            }
            // The API server does not trust us (yet), or it is a probe of the port.
            Ok(Err(error)) => self.metrics.on_handshake_failed(&error),
            Err(_) => self.metrics.on_handshake_failed(&"it took too long"),
        }
    }

    async fn serve(
        self: Arc<Self>,
        connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        http2: bool,
        share: Share,
        mut stopping: watch::Receiver<bool>,
        evicted: oneshot::Receiver<Infallible>,
    ) {
        let activity = Activity::new(now());
        let mut lingering = None;
        // Whether what is under way shall be answered yet.
        let end = async {
            tokio::select! {
                // An error says that the server is gone, which is a stop as well.
                _ = stopping.wait_for(|stop| *stop) => true,
                _ = evicted => {
                    self.metrics.on_given_up();
                    lingering = share.linger();
                    lingering.is_some()
                }
                verdict = over(&activity) => verdict == Verdict::Idle,
            }
        };
        let service = service_fn(|request| {
            let (webhook, share, open) = (Arc::clone(&self), share.clone(), activity.begin(now()));
            async move {
                let mut response = webhook.answer(&share, request).await;
                response.body_mut().open = Some(open);
                Ok::<_, Infallible>(response)
            }
        });
        let socket = TokioIo::new(connection);
        let ended = if http2 {
            let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new())
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .max_concurrent_streams(MAX_STREAMS)
                .max_header_list_size(16 << 10);
            until(http.serve_connection(socket, service), end, |connection| connection.graceful_shutdown()).await
        } else {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            until(http.serve_connection(socket, service), end, |connection| connection.graceful_shutdown()).await
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the webhook ended");
        }
    }

    async fn answer<B>(&self, share: &Share, request: Request<B>) -> Response<Answering>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if request.uri().path() != PATH {
            return plain(StatusCode::NOT_FOUND, format!("only {PATH} is here: AdmissionReview v1 of pods\n"));
        }
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only POST\n".to_owned());
        }
        let began = Instant::now();
        let (result, response) = match tokio::time::timeout(TIME_LIMIT, self.review(share, request.into_body())).await {
            Ok(answered) => answered,
            Err(_) => ("failed", plain(StatusCode::SERVICE_UNAVAILABLE, format!("no answer within {TIME_LIMIT:?}\n"))),
        };
        self.metrics.on_answer(result, began.elapsed());
        response
    }

    /// The answer, and a word for it.
    async fn review<B>(&self, share: &Share, body: B) -> (&'static str, Response<Answering>)
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let unreadable = |status, why: String| ("unreadable", plain(status, why));
        let failed = |why: &str| ("failed", plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")));
        // An API server says how much it will be.
        let length = body.size_hint().upper().map_or(MAX_BODY, |length| usize::try_from(length).unwrap_or(usize::MAX));
        if length > MAX_BODY {
            return unreadable(StatusCode::PAYLOAD_TOO_LARGE, format!("a review has {MAX_BODY} bytes at most\n"));
        }
        let mut held = share.hold(length).await;
        let body = match tokio::time::timeout(BODY_TIME, collect(body, length)).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => {
                let large = error.is::<LengthLimitError>();
                let status = if large { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
                return unreadable(status, format!("the review cannot be read: {error}\n"));
            }
            Err(_) => {
                let why = format!("the review did not come within {BODY_TIME:?}\n");
                return unreadable(StatusCode::REQUEST_TIMEOUT, why);
            }
        };
        let not_one = |why| unreadable(StatusCode::BAD_REQUEST, format!("not an AdmissionReview v1: {why}\n"));
        let question = match share.work(move || Question::read(body)).await {
            Some(Ok(question)) => question,
            Some(Err(why)) => return not_one(why),
            None => return failed("the review could not be read"),
        };
        let namespace = match question.namespace() {
            None => None,
            Some(name) => match self.namespaces.get(name).await {
                Ok(namespace) => Some(namespace),
                Err(error) => {
                    // Not told to whom anybody can be.
                    tracing::warn!(namespace = name, error, "a pod's namespace cannot be read");
                    return failed(
                        "the pod's namespace cannot be read at the moment: the control plane's log says why",
                    );
                }
            },
        };
        let (settings, cluster) = (Arc::clone(&self.settings.borrow()), *self.cluster.borrow());
        let unenforced = Arc::clone(&self.unenforced.borrow());
        let secret = rand::random::<[u8; 16]>().into();
        match share.work(move || question.decide(namespace, secret, cluster, &settings, &unenforced)).await {
            Some(Ok(Answer { result, body })) => {
                held.shrink(body.len());
                let mut response = response(StatusCode::OK, "application/json", body);
                response.body_mut().held = Some(held);
                (result, response)
            }
            Some(Err(why)) => not_one(why),
            None => failed("the review could not be answered"),
        }
    }
}

/// The body, copied once. Room for it is not used before it comes.
async fn collect<B>(body: B, length: usize) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = pin!(Limited::new(body, length));
    let mut all = Vec::with_capacity(length);
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame?.into_data() {
            all.extend_from_slice(&piece);
        }
    }
    Ok(all.into())
}

/// Serves `connection` until it ends by itself, or `end` does and says whether there is a grace period.
async fn until<C>(connection: C, end: impl Future<Output = bool>, finish: impl FnOnce(Pin<&mut C>)) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let grace = tokio::select! {
        ended = connection.as_mut() => return ended,
        grace = end => grace,
    };
    if !grace {
        return Ok(());
    }
    finish(connection.as_mut());
    tokio::time::timeout(DRAIN, connection).await.unwrap_or(Ok(()))
}

/// Waits until the connection is not to be kept.
async fn over(activity: &Activity) -> Verdict {
    loop {
        tokio::time::sleep(LOOK).await;
        match activity.look(now()) {
            Verdict::Keep => {}
            verdict => return verdict,
        }
    }
}

/// By the clock that tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn accept(listener: &TcpListener) -> Option<(TcpStream, IpAddr)> {
    match listener.accept().await {
        Ok((socket, from)) => Some((socket, from.ip())),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection to the webhook");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}
