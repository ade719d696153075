//! gRPC probes (Kubernetes `pkg/probe/grpc`): `grpc.health.v1.Health/Check` in clear text; good is `SERVING` and nothing
//! else. Two messages of one field each, so there is no generated client: a request, its trailers, done.
//!
//! Bound: [`MAX_ANSWER`] bytes of an answer.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::task::JoinSet;

use super::{Failure, dial};

/// The answer is two bytes after its prefix.
const MAX_ANSWER: usize = 4 * 1024;
/// gRPC's number for a method that is not there.
const UNIMPLEMENTED: i32 = 12;
const INTERNAL: i32 = 13;
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

pub(super) async fn run(service: &str, address: SocketAddr, user_agent: &HeaderValue) -> Result<(), Failure> {
    let stream = dial(address).await?;
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // Its failure is the request's.
        let _ = connection.await;
    });
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, user_agent)
        .body(Full::new(framed(&HealthCheckRequest { service: service.to_owned() })))?;
    let (head, mut body) = send.send_request(request).await?.into_parts();
    // Without a message the status is in the head.
    if let Some(status) = grpc_status(&head.headers) {
        status?;
    }
    if head.status != StatusCode::OK {
        return Err(Failure::Status(head.status));
    }
    let (mut answer, mut status) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) if answer.len() + data.len() <= MAX_ANSWER => answer.extend_from_slice(&data),
            Ok(_) => return Err(malformed("the answer is too long")),
            Err(frame) => status = frame.trailers_ref().and_then(grpc_status),
        }
    }
    match status {
        Some(status) => status?,
        None => return Err(malformed("the answer ended without a status")),
    }
    verdict(&answer)
}

fn framed(message: &impl Message) -> Bytes {
    let encoded = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(5 + encoded.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(encoded.len()).unwrap_or(u32::MAX));
    framed.put_slice(&encoded);
    framed.freeze()
}

fn verdict(answer: &[u8]) -> Result<(), Failure> {
    let Some((&[compressed, a, b, c, d], message)) = answer.split_first_chunk::<5>() else {
        return Err(malformed("the answer holds no message"));
    };
    if compressed != 0 || usize::try_from(u32::from_be_bytes([a, b, c, d])) != Ok(message.len()) {
        return Err(malformed("the answer is no single plain message"));
    }
    let response = HealthCheckResponse::decode(message).map_err(|why| malformed(&why.to_string()))?;
    match response.status {
        1 => Ok(()),
        2 => Err(Failure::NotServing("NOT_SERVING")),
        3 => Err(Failure::NotServing("SERVICE_UNKNOWN")),
        _ => Err(Failure::NotServing("of UNKNOWN health")),
    }
}

fn malformed(what: &str) -> Failure {
    Failure::Grpc { code: INTERNAL, message: what.to_owned() }
}

fn grpc_status(headers: &HeaderMap) -> Option<Result<(), Failure>> {
    let code = headers.get(STATUS)?.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(INTERNAL);
    let message = || headers.get(MESSAGE).and_then(|text| text.to_str().ok()).unwrap_or_default().to_owned();
    Some(match code {
        0 => Ok(()),
        UNIMPLEMENTED => Err(Failure::NoHealthService),
        code => Err(Failure::Grpc { code, message: message() }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serving_is_good_and_nothing_else_is() {
        for (answer, good) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], true),
            (b"\0\0\0\0\x02\x08\x02", false),
            (b"\0\0\0\0\x02\x08\x03", false),
            // Zero, the default, is not sent: UNKNOWN.
            (b"\0\0\0\0\0", false),
            (b"\x01\0\0\0\x02\x08\x01", false),
            (b"\0\0\0\0\x03\x08\x01", false),
            (b"\0\0\0\0\x01\x08", false),
            (b"", false),
        ] {
            assert_eq!(verdict(answer).is_ok(), good, "{answer:?}");
        }
    }

    #[test]
    fn a_request_is_its_length_and_the_services_name() {
        let request = HealthCheckRequest { service: "ab".to_owned() };
        assert_eq!(&framed(&request)[..], b"\0\0\0\0\x04\x0a\x02ab");
        assert_eq!(&framed(&HealthCheckRequest::default())[..], b"\0\0\0\0\0");
    }
}
