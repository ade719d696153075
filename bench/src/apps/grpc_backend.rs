//! The HTTP/2 half of the server: 200 with 1 KiB to requests without a body, every message back to gRPC streams.
//!
//! It is the `h2` crate alone on one thread: in front of it a proxy does at least twice its work for each request, since it
//! has two such ends. `core_use` in the results says whether the proxy's core was the busy one.

use std::net::TcpListener;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};

use super::AppError;
use super::responder::BODY_LENGTH;
use super::streams::WINDOW;

/// Serves for ever.
///
/// # Errors
/// When accepting fails.
pub(crate) async fn serve(listener: TcpListener) -> Result<(), AppError> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let body = Bytes::from_static(&[b'x'; BODY_LENGTH]);
    let local = tokio::task::LocalSet::new();
    local.run_until(accept(&listener, &Arc::new(body))).await
}

async fn accept(listener: &tokio::net::TcpListener, body: &Arc<Bytes>) -> Result<(), AppError> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = Arc::clone(body);
        tokio::task::spawn_local(async move {
            let mut builder = server::Builder::new();
            builder.initial_window_size(WINDOW).initial_connection_window_size(16 * WINDOW);
            builder.max_concurrent_streams(1024);
            let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                if request.body().is_end_stream() {
                    // Here, not in a task: there is nothing to wait for.
                    let _ = answer(respond, &body);
                } else {
                    tokio::task::spawn_local(async move {
                        let _ = echo(request, respond).await;
                    });
                }
            }
        });
    }
}

fn answer(mut respond: SendResponse<Bytes>, body: &Bytes) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    head.headers_mut().insert("server", HeaderValue::from_static("bench"));
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/octet-stream"));
    head.headers_mut().insert("content-length", HeaderValue::from(BODY_LENGTH));
    respond.send_response(head, false)?.send_data(body.clone(), true)
}

/// Sends back what comes, as it comes, and takes no more than the client has room for: one that reads nothing is soon
/// kept from sending too.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut send = respond.send_response(head, false)?;
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        let mut data = data?;
        let length = data.len();
        // The last one, with END_STREAM, may be empty; sent on without it, it would be what some take for an attack.
        while !data.is_empty() {
            send.reserve_capacity(data.len());
            if send.capacity() == 0 {
                let Some(room) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return Ok(()) };
                room?;
            }
            let part = data.split_to(data.len().min(send.capacity()));
            send.send_data(part, false)?;
        }
        body.flow_control().release_capacity(length)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    if send.send_trailers(trailers).is_err() {
        send.send_reset(Reason::INTERNAL_ERROR);
    }
    Ok(())
}
