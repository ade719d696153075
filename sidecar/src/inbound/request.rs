//! One request from the mesh: into the version its client spoke, to the app, and the answer or the truth back.
//!
//! | what happened | to a mesh peer | to a plain-text client |
//! |---|---|---|
//! | the app could not be reached, not one byte written, or it closed without reading what was (`http/h1/unread.rs`) | `REFUSED_STREAM` (on `weft/h1`: 503 + `x-weft-not-processed`) | 503 `connect-failed` |
//! | the app was lost after a byte, before a response head | `INTERNAL_ERROR` | 502 `upstream-reset` |
//! | a limit of ours | 503 `overflow` | the same |
//! | a rate limit (`crate::limit`) | 429 `rate-limited` | the same |
//! | the response broke the protocol | 502 `upstream-protocol` | the same |

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::Version;
use http::header::{HeaderName, HeaderValue};
use weft_proto::SpiffeId;

use super::Inbound;
use crate::answer::OwnAnswer;
use crate::balance::PlainAddr;
use crate::http::error::{ConnectError, Processed, SendErrorKind};
use crate::http::pool::{Connected, Pool};
use crate::http::translate::{self, AppVersion};
use crate::http::{Answer, Body, Handler, Proto, Request, Reset, Response, SendError, Tunnel, h1, hygiene};
use crate::limit;
use crate::reason::Reason;
use crate::resilience::{Asking, Deadline};
use crate::tcp;
use crate::telemetry::record::{Direction, Record, Riding};

const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// The app may know its client: `x-forwarded-client-cert`, as Envoy writes it.
pub(super) fn client_cert(own: &SpiffeId, peer: &SpiffeId) -> Option<HeaderValue> {
    // SPIFFE IDs hold only visible ASCII.
    HeaderValue::try_from(format!("By={own};URI={peer}")).ok()
}

/// Serves one downstream connection's requests. Cloned for each of them.
#[derive(Clone)]
pub(super) struct RequestHandler(Arc<Caller>);

/// A downstream connection.
pub(super) struct Caller {
    pub(super) inbound: Arc<Inbound>,
    pub(super) app: App,
    pub(super) client: IpAddr,
    /// The verified other end; `None` for plain text.
    pub(super) peer: Option<SpiffeId>,
    /// When its proof of that ends, and what it had a connection upgraded to with it.
    pub(super) expiry: Option<tokio::time::Instant>,
    /// What the app is told of it.
    pub(super) client_cert: Option<HeaderValue>,
    /// A sidecar speaks, and not an app through an opaque mesh connection.
    pub(super) sidecar: bool,
}

/// The app at one of its ports, and its pools as far as they were asked for: looked up once for a connection, and not under the
/// lock of all for each of its requests.
pub(super) struct App {
    destination: SocketAddr,
    h1: OnceLock<Pool>,
    h2: OnceLock<Pool>,
}

impl App {
    pub(super) fn new(destination: SocketAddr) -> Self {
        Self { destination, h1: OnceLock::new(), h2: OnceLock::new() }
    }

    fn pool(&self, inbound: &Inbound, proto: Proto) -> &Pool {
        let pool = match proto {
            Proto::H1 => &self.h1,
            Proto::H2 => &self.h2,
        };
        pool.get_or_init(|| inbound.pool(self.destination, proto))
    }
}

impl RequestHandler {
    pub(super) fn new(caller: Caller) -> Self {
        Self(Arc::new(caller))
    }
}

impl Handler for RequestHandler {
    async fn handle(&self, request: Request, now: Instant) -> Answer {
        Box::pin(self.0.answer(request, now)).await
    }

    fn answered(&self, reason: Reason) {
        self.0.inbound.telemetry.metrics.refused("inbound", reason);
        if reason == Reason::Internal {
            self.0.inbound.telemetry.metrics.panics.inc();
        }
    }
}

/// No response: say it ourselves, or reset so that the peer's sidecar can draw its conclusions.
enum Failure {
    Own(OwnAnswer),
    Reset(Reset, Reason),
}

impl Caller {
    async fn answer(&self, request: Request, now: Instant) -> Answer {
        let inbound = &self.inbound;
        let (mut parts, body) = request.into_parts();
        if !self.sidecar {
            // Of a meshed app its deadline counts, as it would have outbound; of a stranger nothing.
            hygiene::strip_untrusted(&mut parts.headers, self.peer.is_some());
        }
        inbound.settings.args.panic_if_asked(parts.uri.path());
        // The client's sidecar decides whether to sample; a plain client's request begins here.
        let per_10000 = || if self.sidecar { 0 } else { inbound.config.settings().tracing_sample_per_10000 };
        let mut record = Record::of(&inbound.telemetry, Direction::Inbound, &mut parts, per_10000, now);
        record.mtls = self.peer.is_some();
        record.tries = 1;
        record.peer(self.peer.as_ref());
        let asking = Asking { client: self.client, peer: self.peer.as_ref(), headers: &parts.headers };
        let (verdict, may) = inbound.limit(self.app.destination, asking, now);
        let delivered = match may {
            Ok(()) => self.deliver(Request::from_parts(parts, body), now).await,
            Err(own) => Err(Failure::Own(own)),
        };
        match delivered {
            Ok(mut response) => {
                verdict.into_iter().for_each(|verdict| limit::tell(verdict, response.headers_mut()));
                record.status = response.status();
                let (parts, body) = response.into_parts();
                Response::from_parts(parts, body.observed(Riding { record, _guards: () })).into()
            }
            Err(Failure::Own(own)) => {
                inbound.telemetry.metrics.refused("inbound", own.reason);
                tracing::debug!(reason = %own.reason, detail = %own.detail, "answered by the sidecar");
                record.reason = Some(own.reason);
                record.status = own.status();
                let mut response = own.response(record.is_grpc(), self.peer.is_some());
                verdict.into_iter().for_each(|verdict| limit::tell(verdict, response.headers_mut()));
                let (parts, body) = response.into_parts();
                Response::from_parts(parts, body.observed(Riding { record, _guards: () })).into()
            }
            Err(Failure::Reset(reset, reason)) => {
                inbound.telemetry.metrics.refused("inbound", reason);
                record.reason = Some(reason);
                record.status = reason.status();
                Answer::Reset(reset)
            }
        }
    }

    async fn deliver(&self, mut request: Request, now: Instant) -> Result<Response, Failure> {
        let deadline = Deadline::of_request(now, None, request.headers());
        if deadline.is_spent(now) {
            let detail = "the client's deadline had passed when the request arrived";
            return Err(Failure::Own(OwnAnswer::new(Reason::Timeout, detail)));
        }
        match &self.client_cert {
            Some(client_cert) => _ = request.headers_mut().insert(CLIENT_CERT, client_cert.clone()),
            None => _ = request.headers_mut().remove(CLIENT_CERT),
        }
        let sent = match deadline.at() {
            None => to_app(&self.inbound, &self.app, request).await,
            Some(at) => match tokio::time::timeout_at(at.into(), to_app(&self.inbound, &self.app, request)).await {
                Ok(sent) => sent,
                Err(_) => {
                    let detail = "the app did not answer before the client's deadline";
                    return Err(Failure::Own(OwnAnswer::new(Reason::Timeout, detail)));
                }
            },
        };
        let response = sent.map_err(|error| self.failure(&error))?;
        if self.expiry.is_some()
            && let Some(tunnel) = response.extensions().get::<Tunnel>()
        {
            let metrics = Arc::clone(&self.inbound.telemetry.metrics);
            tunnel.limit(None, self.expiry, move |reason| metrics.refused("inbound", reason));
        }
        Ok(response)
    }

    fn failure(&self, error: &SendError) -> Failure {
        let own = |reason| Failure::Own(OwnAnswer::new(reason, format!("{}: {error}", self.app.destination)));
        let meshed = self.sidecar;
        tracing::debug!(destination = %self.app.destination, %error, processed = ?error.processed, "the app gave no response");
        match (&error.kind, error.processed) {
            (SendErrorKind::Overflow { .. } | SendErrorKind::Full(_), _) => own(Reason::Overflow),
            (SendErrorKind::Protocol(_), _) => own(Reason::UpstreamProtocol),
            (SendErrorKind::Unsendable(_), _) => own(Reason::BadRequest),
            (SendErrorKind::RequestBody(_), _) if meshed => Failure::Reset(Reset::Cancel, Reason::BadRequest),
            (SendErrorKind::RequestBody(_), _) => own(Reason::BadRequest),
            (_, Processed::No) if meshed => Failure::Reset(Reset::Refused, Reason::ConnectFailed),
            (_, Processed::No) => own(Reason::ConnectFailed),
            (_, Processed::Unknown) if meshed => Failure::Reset(Reset::Internal, Reason::UpstreamReset),
            (_, Processed::Unknown) => own(Reason::UpstreamReset),
        }
    }
}

/// Sends a request to the app, in the version its client spoke, and makes the response ready to go back the same way.
pub(super) async fn to_app(inbound: &Inbound, app: &App, request: Request) -> Result<Response, SendError> {
    let mut response = exchange(inbound, app, request).await?;
    // An app cannot vouch in our name (`x-weft-not-processed`): a peer would believe it.
    hygiene::strip_untrusted(response.headers_mut(), false);
    Ok(response)
}

async fn exchange(inbound: &Inbound, to: &App, request: Request) -> Result<Response, SendError> {
    if hygiene::is_tunnel(request.method(), request.version(), request.headers()) {
        return tunnel(inbound, to.destination, request).await;
    }
    let from_h2 = request.version() == Version::HTTP_2;
    let (parts, body) = request.into_parts();
    let (parts, app) = if from_h2 {
        translate::from_mesh_h2(parts).map_err(|conflict| unsendable(&conflict))?
    } else {
        let mut parts = parts;
        hygiene::strip_hop_by_hop(&mut parts.headers);
        let app = AppVersion::from(parts.version);
        (parts, app)
    };
    let proto = if app == AppVersion::H2 { Proto::H2 } else { Proto::H1 };
    let mut response = send(inbound, to, proto, Request::from_parts(parts, body)).await?;
    // What an app says in our name would be believed by its client's sidecar, down to sending a POST again.
    hygiene::strip_untrusted(response.headers_mut(), false);
    if from_h2 {
        let (parts, body) = response.into_parts();
        let parts = translate::response_to_mesh_h2(parts).map_err(|conflict| unsendable(&conflict))?;
        return Ok(Response::from_parts(parts, body));
    }
    translate::response_from_mesh_h2(&mut response, app);
    Ok(response)
}

async fn send(inbound: &Inbound, to: &App, proto: Proto, request: http::Request<Body>) -> Result<Response, SendError> {
    let (destination, timeout) = (to.destination, inbound.settings.timeouts.connect);
    if proto == Proto::H1 && inbound.drain.is_draining() {
        // The app is being told to stop too, and closes idle connections just as requests arrive on them.
        let app = tcp::dial_plain(PlainAddr::outside_mesh(destination), timeout).await.map_err(unreachable_app)?;
        return h1::client::Connection::new(app, h1::HeadLimits::default()).to_app(true).send(request).await;
    }
    let connect = move || async move {
        let io = tcp::dial_plain(PlainAddr::outside_mesh(destination), timeout).await.map_err(ConnectError::new)?;
        Ok(Connected::new(Box::new(io), proto))
    };
    to.pool(inbound, proto).send(request, connect).await
}

/// Upgrades and CONNECT: a connection of their own.
async fn tunnel(inbound: &Inbound, destination: SocketAddr, mut request: Request) -> Result<Response, SendError> {
    hygiene::strip_all_but_upgrade(request.headers_mut());
    let app = tcp::dial_plain(PlainAddr::outside_mesh(destination), inbound.settings.timeouts.connect);
    let app = app.await.map_err(unreachable_app)?;
    let mut response = h1::client::Connection::new(app, h1::HeadLimits::default()).send(request).await?;
    hygiene::strip_all_but_upgrade(response.headers_mut());
    hygiene::strip_untrusted(response.headers_mut(), false);
    Ok(response)
}

fn unreachable_app(error: tcp::DialError) -> SendError {
    let kind = SendErrorKind::Connect(ConnectError::new(error));
    SendError { kind, processed: Processed::No, reused: false }
}

fn unsendable(conflict: &translate::Conflict) -> SendError {
    let kind = SendErrorKind::Unsendable(conflict.to_string().into());
    SendError { kind, processed: Processed::No, reused: false }
}
