//! hyper's server over an in-memory pipe.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Reading, Request, digest, digest_of, host_of};
use crate::fuzzing::wire;

/// As in the workspace's manifest; the lock file has the rest.
pub(super) const VERSION: &str = "1";

/// What hyper makes of a client that sends `input` and then no more.
pub(super) async fn read(input: &[u8]) -> Reading {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
    let service = {
        let seen = Arc::clone(&seen);
        service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let seen = Arc::clone(&seen);
            async move {
                let (parts, body) = request.into_parts();
                let fields = wire::fields(&parts.headers);
                let body = match body.collect().await {
                    Ok(body) => {
                        let bytes = body.to_bytes();
                        Ok((bytes.len(), digest(&bytes)))
                    }
                    Err(error) => Err(reason(&error)),
                };
                seen.lock().push(Request {
                    method: parts.method.as_str().as_bytes().to_vec(),
                    target: parts.uri.to_string().into_bytes(),
                    http_11: parts.version == hyper::Version::HTTP_11,
                    host: host_of(&fields),
                    fields: digest_of(&fields),
                    body,
                    keep_alive: None,
                    end: None,
                });
                Ok::<_, Infallible>(hyper::Response::new(Full::new(bytes::Bytes::new())))
            }
        })
    };
    let mut builder = hyper::server::conn::http1::Builder::new();
    let serve = builder.half_close(true).serve_connection(TokioIo::new(server), service);
    let talk = async {
        // It may have refused already and gone.
        let _ = client.write_all(input).await;
        let _ = client.shutdown().await;
        let mut answers = Vec::new();
        let _ = client.read_to_end(&mut answers).await;
    };
    let (served, ()) = tokio::join!(serve, talk);
    let stop = served.err().map_or_else(|| "the end".to_owned(), |error| reason(&error));
    let requests = std::mem::take(&mut *seen.lock());
    Reading { requests, stop }
}

/// The error, with its cause.
fn reason(error: &hyper::Error) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
