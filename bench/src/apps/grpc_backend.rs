//! The gRPC server: every message comes back.
//!
//! It is the `h2` crate alone on one thread: in front of it a proxy does at least twice its work for each request, since it
//! has two such ends. `core_use` in the results says whether the proxy's core was the busy one.

use std::net::TcpListener;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};

use super::AppError;
use super::streams::WINDOW;

/// Serves for ever.
///
/// # Errors
/// When accepting fails.
pub(crate) async fn serve(listener: TcpListener) -> Result<(), AppError> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tokio::task::LocalSet::new().run_until(accept(&listener)).await
}

async fn accept(listener: &tokio::net::TcpListener) -> Result<(), AppError> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(async move {
            let mut builder = server::Builder::new();
            builder.initial_window_size(WINDOW).initial_connection_window_size(16 * WINDOW);
            builder.max_concurrent_streams(1024);
            let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::task::spawn_local(async move {
                    let _ = echo(request, respond).await;
                });
            }
        });
    }
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
