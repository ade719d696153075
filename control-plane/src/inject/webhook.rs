//! Port 15017: the API server asks about each new pod of a namespace or with a label that asks for injection (POST `/inject`,
//! AdmissionReview v1), and gets a patch, a refusal with its reason, or a plain yes.
//!
//! A namespace is read from the API server for each question, its metadata only: labelled a moment ago, it counts. When it
//! cannot be read the answer is 503, and the webhook's `failurePolicy` decides; a review that cannot be read is 400. Whatever is
//! asked changes nothing anywhere, so a dry run is like any other.
//!
//! `admission.rs` decides what to answer; this talks. TLS 1.3 only, HTTP/2 as the API server likes it, HTTP/1.1 for a person's curl.
//!
//! Bound: [`MAX_CONNECTIONS`], [`MAX_STREAMS`] questions on each, [`MAX_BODY`] a question, [`TIME_LIMIT`] an answer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{ClusterFacts, InjectSettings};

mod admission;
mod metrics;
#[cfg(test)]
mod tests;

use admission::{Answer, Question};
pub use metrics::Metrics;

/// Where the API server posts.
pub const PATH: &str = "/inject";
/// The largest review. etcd takes 1.5 MiB an object; a review has it once, in JSON, with a little around it.
pub const MAX_BODY: usize = 4 << 20;
/// API servers, each with a handful, and somebody who looks.
const MAX_CONNECTIONS: usize = 256;
/// Questions under way on one connection.
const MAX_STREAMS: u32 = 100;
const HANDSHAKE: Duration = Duration::from_secs(3);
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// For one answer, less than the 10 s that API servers wait by default.
const TIME_LIMIT: Duration = Duration::from_secs(8);
/// For a connection's last answers.
const DRAIN: Duration = Duration::from_secs(5);
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
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &connections) => accepted,
                () = &mut shutdown => break,
            };
            let Some((socket, permit)) = accepted else { continue };
            let (webhook, tls, stopping) = (Arc::clone(&webhook), tls.clone(), stopping.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE, tls.accept(socket)).await {
                    Ok(Ok(connection)) => webhook.serve(connection, stopping).await,
                    // The API server does not trust us (yet), or it is a probe of the port.
                    Ok(Err(error)) => webhook.metrics.on_handshake_failed(&error),
                    Err(_) => webhook.metrics.on_handshake_failed(&"it took too long"),
                }
                drop(permit);
            });
        }
        drop(listener);
        drop(stopping);
        stop.send_replace(true);
        // Every connection holds a receiver and is gone `DRAIN` after the stop at the latest.
        let _ = tokio::time::timeout(DRAIN + HANDSHAKE, stop.closed()).await;
    }

    /// Serves one connection to its end.
    async fn serve(self: Arc<Self>, connection: TlsStream<TcpStream>, mut stopping: watch::Receiver<bool>) {
        let service = service_fn(move |request| {
            let webhook = Arc::clone(&self);
            async move { Ok::<_, Infallible>(webhook.answer(request).await) }
        });
        // An error says that the server is gone, which is a stop as well.
        let stopped = async { drop(stopping.wait_for(|stop| *stop).await) };
        let http2 = connection.get_ref().1.alpn_protocol() == Some(b"h2");
        let socket = TokioIo::new(connection);
        let ended = if http2 {
            let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS).max_header_list_size(16 << 10);
            let mut connection = pin!(http.serve_connection(socket, service));
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = stopped => {
                    connection.as_mut().graceful_shutdown();
                    tokio::time::timeout(DRAIN, connection).await.unwrap_or(Ok(()))
                }
            }
        } else {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            let mut connection = pin!(http.serve_connection(socket, service));
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = stopped => {
                    connection.as_mut().graceful_shutdown();
                    tokio::time::timeout(DRAIN, connection).await.unwrap_or(Ok(()))
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the webhook ended");
        }
    }

    async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
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
        let (result, response) = match tokio::time::timeout(TIME_LIMIT, self.review(request.into_body())).await {
            Ok(answered) => answered,
            Err(_) => ("failed", plain(StatusCode::SERVICE_UNAVAILABLE, format!("no answer within {TIME_LIMIT:?}\n"))),
        };
        self.metrics.on_answer(result, began.elapsed());
        response
    }

    /// The answer, and a word for it.
    async fn review<B>(&self, body: B) -> (&'static str, Response<Full<Bytes>>)
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let body = match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                let large = error.is::<http_body_util::LengthLimitError>();
                let status = if large { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
                return ("unreadable", plain(status, format!("the review cannot be read: {error}\n")));
            }
        };
        let question = match Question::read(&body) {
            Ok(question) => question,
            Err(why) => {
                return ("unreadable", plain(StatusCode::BAD_REQUEST, format!("not an AdmissionReview v1: {why}\n")));
            }
        };
        let answer = match question.namespace() {
            None => question.nothing_to_do(),
            Some(name) => match self.namespaces.get(name).await {
                Ok(namespace) => {
                    let (settings, cluster) = (Arc::clone(&self.settings.borrow()), *self.cluster.borrow());
                    let secret = rand::random::<[u8; 16]>().into();
                    question.decide(namespace, secret, cluster, &settings, &Arc::clone(&self.unenforced.borrow()))
                }
                Err(error) => {
                    tracing::warn!(namespace = name, error, "a pod's namespace cannot be read");
                    let why = format!("the pod's namespace cannot be read at the moment: {error}\n");
                    return ("failed", plain(StatusCode::SERVICE_UNAVAILABLE, why));
                }
            },
        };
        let Answer { result, body } = answer;
        (result, response(StatusCode::OK, "application/json", body))
    }
}

async fn accept(listener: &TcpListener, connections: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, _)) => Some((socket, permit)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection to the webhook");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text.into_bytes())
}

fn response(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
