//! What a try means: for the retry, for the endpoint's record and for the client. Every row is a row of SEMANTICS.md §3
//! ("retries", "outlier detection") or §1 ("telling the truth").

use std::net::SocketAddr;

use http::{HeaderName, StatusCode};
use weft_proto::headers;

use super::upstream::DialError;
use crate::answer::OwnAnswer;
use crate::balance::TryResult;
use crate::http::error::{Processed, SendError, SendErrorKind};
use crate::http::{Response, hygiene};
use crate::reason::Reason;
use crate::resilience::Outcome;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What one try came to.
pub(super) struct Judged {
    pub(super) outcome: Outcome,
    /// For the endpoint's record.
    pub(super) result: TryResult,
    /// What the client gets if this was the last try.
    pub(super) end: Result<Box<Response>, OwnAnswer>,
}

impl Judged {
    /// The peer's sidecar told the deadline that both keep a moment before this one did: the endpoint is to blame as it would be
    /// here.
    pub(super) fn look_at_deadline(&mut self, is_to_blame: impl FnOnce() -> bool) {
        if self.result == TryResult::GatewayError
            && let Ok(response) = &self.end
            && hygiene::has_ours(response.headers())
            && response
                .headers()
                .get(headers::REASON)
                .is_some_and(|reason| code(reason.as_bytes()) == Reason::Timeout.code().as_bytes())
            && !is_to_blame()
        {
            self.result = TryResult::Neutral;
        }
    }

    /// A call of gRPC may fail in a response that is 200: Envoy's detection takes a status in the head for an HTTP status.
    pub(super) fn look_at_grpc(&mut self) {
        if self.result == TryResult::Success
            && let Ok(response) = &self.end
            && let Some(status) = response.headers().get(GRPC_STATUS)
        {
            self.result = of_grpc(status.as_bytes());
        }
    }
}

/// What a try means, for the retry, for the endpoint and for the client.
pub(super) fn judge(sent: Result<Box<Response>, SendError>, endpoint: SocketAddr) -> Judged {
    let error = match sent {
        Ok(response) => return judge_response(response, endpoint),
        Err(error) => error,
    };
    let not_processed = error.processed == Processed::No;
    let lost = if not_processed { Outcome::NotProcessed } else { Outcome::LostBeforeHead };
    let own = |reason| Err(OwnAnswer::new(reason, format!("{endpoint}: {error}")));
    let (outcome, result, end) = match &error.kind {
        // Without a certificate or a socket of our own, every endpoint would look dead.
        SendErrorKind::Connect(error) if error.downcast_ref::<DialError>().is_some_and(DialError::is_ours) => {
            (Outcome::NotProcessed, TryResult::Neutral, own(Reason::ConnectFailed))
        }
        SendErrorKind::Connect(_) => (Outcome::NotProcessed, TryResult::Failure, own(Reason::ConnectFailed)),
        SendErrorKind::Overflow { .. } | SendErrorKind::Full(_) => {
            (Outcome::Overflow, TryResult::Neutral, own(Reason::Overflow))
        }
        // It goes away politely: another connection, or another endpoint, will do.
        SendErrorKind::Draining | SendErrorKind::GoAway(_) => (lost, TryResult::Neutral, own(Reason::UpstreamReset)),
        // Servers close idle connections just as a request is on its way: that says nothing about their health.
        SendErrorKind::Lost(_) if error.reused && not_processed => {
            (lost, TryResult::Neutral, own(Reason::UpstreamReset))
        }
        // The peer's sidecar vouches that its app saw nothing: the app cannot be reached.
        SendErrorKind::Reset(_) if not_processed => (lost, TryResult::Failure, own(Reason::ConnectFailed)),
        // It, or the way to it, is gone without a word: no second try has to wait that long to learn it.
        SendErrorKind::Silent => (lost, TryResult::Silent, own(Reason::UpstreamReset)),
        SendErrorKind::Lost(_) | SendErrorKind::Reset(_) => (lost, TryResult::Failure, own(Reason::UpstreamReset)),
        SendErrorKind::Protocol(_) => (Outcome::Other, TryResult::Failure, own(Reason::UpstreamProtocol)),
        SendErrorKind::RequestBody(_) => (Outcome::Other, TryResult::Neutral, own(Reason::BadRequest)),
        SendErrorKind::Unsendable(_) => (Outcome::Other, TryResult::Neutral, own(Reason::BadRequest)),
    };
    Judged { outcome, result, end }
}

fn judge_response(response: Box<Response>, endpoint: SocketAddr) -> Judged {
    let headers = response.headers();
    let status = response.status();
    let by_peer = hygiene::has_ours(headers);
    let says = |name| if by_peer { headers.get(name) } else { None };
    // On `weft/h1`, where a stream cannot be refused, the peer's sidecar says it in words.
    if says(headers::NOT_PROCESSED).is_some_and(|value| value == "1") {
        let detail = format!("{endpoint}: its sidecar could not reach the app");
        return Judged {
            outcome: Outcome::NotProcessed,
            result: TryResult::Failure,
            end: Err(OwnAnswer::new(Reason::ConnectFailed, detail)),
        };
    }
    let error = of_status(status);
    let gateway_error = error == Some(TryResult::GatewayError);
    // An answer the peer's sidecar made for reasons of policy says nothing about its app.
    let result = match says(headers::REASON) {
        None => error.unwrap_or(TryResult::Success),
        Some(reason) if gateway_error && is_about_the_app(reason.as_bytes()) => TryResult::GatewayError,
        Some(_) => TryResult::Neutral,
    };
    // A limit of the peer's is one: another try would only add to its load.
    let overflows =
        says(headers::REASON).is_some_and(|reason| code(reason.as_bytes()) == Reason::Overflow.code().as_bytes());
    let outcome = if overflows { Outcome::Overflow } else { Outcome::Response(status) };
    Judged { outcome, result, end: Ok(response) }
}

/// What an answer of a server says of its endpoint, if it is a server error.
fn of_status(status: StatusCode) -> Option<TryResult> {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Some(TryResult::GatewayError)
        }
        status => status.is_server_error().then_some(TryResult::AppError { gateway: false }),
    }
}

/// By Envoy's table of gRPC status and HTTP status. In the mesh's own way all of these are the app's answers.
fn of_grpc(status: &[u8]) -> TryResult {
    match status {
        // What is the client's fault, or nobody's: OK, CANCELLED, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED,
        // RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNAUTHENTICATED.
        b"0" | b"1" | b"3" | b"5" | b"6" | b"7" | b"8" | b"9" | b"10" | b"11" | b"16" => TryResult::Success,
        // DEADLINE_EXCEEDED is 504, UNAVAILABLE 503.
        b"4" | b"14" => TryResult::AppError { gateway: true },
        // UNKNOWN, INTERNAL and DATA_LOSS are 500, UNIMPLEMENTED 501, and what is none 500.
        _ => TryResult::AppError { gateway: false },
    }
}

/// `overflow`, `denied`, `rate-limited` and `fault` never count against an endpoint (SEMANTICS.md §1).
fn is_about_the_app(reason: &[u8]) -> bool {
    [Reason::ConnectFailed, Reason::UpstreamReset, Reason::UpstreamProtocol, Reason::Timeout]
        .iter()
        .any(|known| known.code().as_bytes() == code(reason))
}

/// The reason itself, without what is told with it.
fn code(reason: &[u8]) -> &[u8] {
    reason.split(|&byte| byte == b';').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Body;

    const ADDR: &str = "10.0.0.7:80";

    fn judged(status: u16, fields: &[(&'static str, &'static str)]) -> Judged {
        let mut response = http::Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        judge(Ok(Box::new(response.body(Body::empty()).unwrap())), ADDR.parse().unwrap())
    }

    #[test]
    fn what_an_answer_says_of_its_endpoint() {
        let app = TryResult::AppError { gateway: false };
        #[rustfmt::skip]
        let rows = [
            (200, "",                              TryResult::Success),
            (404, "",                              TryResult::Success),
            (429, "",                              TryResult::Success),
            (499, "",                              TryResult::Success),
            (500, "",                              app),
            (501, "",                              app),
            (502, "",                              TryResult::GatewayError),
            (503, "",                              TryResult::GatewayError),
            (504, "",                              TryResult::GatewayError),
            (505, "",                              app),
            (599, "",                              app),
            // What its sidecar says by itself.
            (503, "connect-failed",                TryResult::GatewayError),
            (502, "upstream-reset; rule=a",        TryResult::GatewayError),
            (504, "timeout",                       TryResult::GatewayError),
            (503, "overflow",                      TryResult::Neutral),
            (500, "internal",                      TryResult::Neutral),
            (403, "mtls-required",                 TryResult::Neutral),
        ];
        for (status, reason, want) in rows {
            let fields: &[_] = if reason.is_empty() { &[] } else { &[(headers::REASON, reason)] };
            assert_eq!(judged(status, fields).result, want, "{status} {reason}");
        }
    }

    #[test]
    fn a_deadline_told_by_the_peer_counts_as_one_told_here() {
        for (reason, to_blame, want) in [
            ("timeout", true, TryResult::GatewayError),
            ("timeout", false, TryResult::Neutral),
            ("timeout; after=1s", false, TryResult::Neutral),
            ("upstream-reset", false, TryResult::GatewayError),
        ] {
            let mut judged = judged(504, &[(headers::REASON, reason)]);
            judged.look_at_deadline(|| to_blame);
            assert_eq!(judged.result, want, "{reason} {to_blame}");
        }
    }

    #[test]
    fn a_limit_of_the_peers_is_a_limit() {
        assert_eq!(judged(503, &[(headers::REASON, "overflow")]).outcome, Outcome::Overflow);
        assert_eq!(judged(503, &[]).outcome, Outcome::Response(StatusCode::SERVICE_UNAVAILABLE));
    }

    #[test]
    fn a_grpc_status_in_the_head_is_looked_at_in_calls_alone() {
        let (app, gateway) = (TryResult::AppError { gateway: false }, TryResult::AppError { gateway: true });
        let ok = ["0", "1", "3", "5", "6", "7", "8", "9", "10", "11", "16"].map(|status| (status, TryResult::Success));
        let failed = ["2", "12", "13", "15", "17", "x", ""].map(|status| (status, app));
        for (status, want) in ok.into_iter().chain(failed).chain([("4", gateway), ("14", gateway)]) {
            let mut judged = judged(200, &[("grpc-status", status)]);
            assert_eq!(judged.result, TryResult::Success, "{status}: not asked");
            judged.look_at_grpc();
            assert_eq!(judged.result, want, "{status}");
        }
        let mut without = judged(200, &[]);
        without.look_at_grpc();
        assert_eq!(without.result, TryResult::Success, "it comes in the trailers");
        let mut reset = judged(503, &[("grpc-status", "0")]);
        reset.look_at_grpc();
        assert_eq!(reset.result, TryResult::GatewayError, "an HTTP error comes first");
    }
}
