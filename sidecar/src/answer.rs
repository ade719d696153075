//! The one place that turns a [`Reason`] into what the client sees: an HTTP answer, or a gRPC status for gRPC requests
//! (SEMANTICS.md §5). The reason travels in `x-weft-reason` only to trusted callers: the local app on outbound, a
//! verified peer on inbound.

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use weft_proto::headers;

use crate::http::{Body, Response};
use crate::reason::Reason;

/// An answer we make ourselves.
#[derive(Debug, Clone)]
pub struct OwnAnswer {
    /// Why.
    pub reason: Reason,
    /// What a person reads in body and log: what to do about it.
    pub detail: Box<str>,
    /// `rule=…` and the like, for the header.
    pub context: Box<str>,
    /// Instead of the reason's own status (a route's fixed answer).
    pub status: Option<StatusCode>,
    /// The same of gRPC (a FaultInjection's).
    pub grpc_status: Option<u8>,
}

impl OwnAnswer {
    /// An answer with the reason's own status.
    pub fn new(reason: Reason, detail: impl Into<Box<str>>) -> Self {
        Self { reason, detail: detail.into(), context: "".into(), status: None, grpc_status: None }
    }

    /// Says which rule it was.
    #[must_use]
    pub fn with_context(mut self, context: impl Into<Box<str>>) -> Self {
        self.context = context.into();
        self
    }

    /// The HTTP status, whatever the protocol.
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| self.reason.status())
    }

    /// The `grpc-status` to a gRPC request.
    pub fn grpc_status(&self) -> u8 {
        self.grpc_status.unwrap_or_else(|| self.reason.grpc_status())
    }

    /// The response. `grpc`: as a gRPC status in a trailers-only response (gRPC over HTTP/2, "Responses").
    /// Strangers are told the status and no more: details name addresses and rules.
    pub fn response(&self, grpc: bool, trusted: bool) -> Response {
        let detail = if trusted { &*self.detail } else { self.status().canonical_reason().unwrap_or_default() };
        let mut response = if grpc {
            let mut response = Response::new(Body::empty());
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(u16::from(self.grpc_status())));
            if let Ok(message) = HeaderValue::try_from(percent_encode(detail)) {
                headers.insert(HeaderName::from_static("grpc-message"), message);
            }
            response
        } else {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = self.status();
            if may_have_content(self.status()) {
                let text = if trusted { format!("{}: {detail}\n", self.reason) } else { format!("{detail}\n") };
                *response.body_mut() = Body::full(text);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            }
            response
        };
        let headers = response.headers_mut();
        if trusted {
            let value = if self.context.is_empty() {
                HeaderValue::from_static(self.reason.code())
            } else {
                HeaderValue::try_from(format!("{}; {}", self.reason, self.context))
                    .unwrap_or_else(|_| HeaderValue::from_static(self.reason.code()))
            };
            headers.insert(HeaderName::from_static(headers::REASON), value);
        }
        if self.reason == Reason::Overflow {
            headers.insert(HeaderName::from_static(headers::OVERLOADED), HeaderValue::from_static("1"));
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Somebody may want to see what becomes of a 204 or 304 (RFC 9110 §15.3.5, §15.3.6, §15.4.5).
fn may_have_content(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// `grpc-message` is percent-encoded: printable ASCII but `%` stays.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_an_http_and_a_grpc_answer() {
        for reason in Reason::ALL {
            let answer = OwnAnswer::new(reason, "détail").with_context("rule=HTTPRoute/shop/reviews#0");
            let http = answer.response(false, true);
            let meant = matches!(reason, Reason::Redirect | Reason::Preflight);
            assert!(meant || http.status().is_client_error() || http.status().is_server_error(), "{reason}");
            assert!(http.headers()[headers::REASON].to_str().unwrap().starts_with(reason.code()), "{reason}");
            let grpc = answer.response(true, true);
            assert_eq!(grpc.status(), StatusCode::OK, "{reason}");
            assert_ne!(grpc.headers()["grpc-status"], "0", "{reason}");
            assert_eq!(grpc.headers()["grpc-message"], "d%C3%A9tail", "{reason}");
        }
    }

    #[tokio::test]
    async fn an_answer_may_be_another_than_its_reasons() {
        let own = OwnAnswer::new(Reason::Fault, "asked for");
        for (status, grpc_status, text) in [(418, 8, "fault: asked for\n"), (204, 4, ""), (304, 1, "")] {
            let status = StatusCode::from_u16(status).unwrap();
            let own = OwnAnswer { status: Some(status), grpc_status: Some(grpc_status), ..own.clone() };
            assert_eq!(own.response(true, true).headers()["grpc-status"], grpc_status.to_string());
            let http = own.response(false, true);
            assert_eq!((http.status(), http.headers().contains_key(CONTENT_TYPE)), (status, !text.is_empty()));
            let body = http_body_util::BodyExt::collect(http.into_body()).await.unwrap().to_bytes();
            assert_eq!(body, text);
        }
    }

    #[tokio::test]
    async fn strangers_are_not_told_the_reason() {
        let answer = OwnAnswer::new(Reason::ConnectFailed, "10.0.0.7:8080 refused");
        for grpc in [false, true] {
            let response = answer.response(grpc, false);
            let headers = format!("{:?}", response.headers());
            let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
            let text = format!("{headers} {}", String::from_utf8_lossy(&body));
            assert!(!text.contains("10.0.0.7") && !text.contains("connect-failed"), "{text}");
        }
    }
}
