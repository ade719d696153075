//! Serves a downstream HTTP/1 connection: one request after the other, each with both directions at once.
//!
//! One task and no spawn: the same future reads heads, runs the handler, feeds the request's body when the handler asks
//! for it, and writes the response. Pipelined requests wait in the buffer, so they are answered in order. The client
//! closing its side is taken for its going away (as Envoy, nginx and Go's server do), which cancels the handler.
//!
//! How an exchange ends:
//!
//! | the response | the request | then |
//! |---|---|---|
//! | complete | complete | the next one, or close if either side asked |
//! | complete | unread, and the handler dropped it | a short rest is read and dropped; otherwise close, lingering |
//! | complete | still being carried up | both go on; then as above |
//! | failed midway | any | abort with RST: HTTP/1 has no other way to say "this is not all" |
//!
//! Lingering (RFC 9112 §9.6): we close our side, then read and drop for a while, or a reset would destroy the response
//! before the client has read it.

use std::any::Any;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::header::{CONNECTION, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use http_body::{Body as _, Frame};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::encode::{self, Framing, encode_response};
use super::reader::{BODY_READ, HEAD_READ, poll_read};
use super::writer::{Queue, WriteError, Writer};
use super::{BodyLength, Decoded, Decoder, FramingError, HeadError, HeadScan, Progress, RequestHead};
use crate::http::body::{Body, Sender};
use crate::http::error::{BodyError, ServeError};
use crate::http::io::Io;
use crate::http::server::{ServerSettings, guarded, own_answer, panic_answer, wants_grpc};
use crate::http::timer::Timer;
use crate::http::{Answer, Handler, Reset, Response, Tunnel, hygiene};
use crate::reason::Reason;

/// What is read ahead of any demand, to notice that the client went away: this much, and pipelined requests wait in it.
const READ_AHEAD: usize = 16 * 1024;
/// A rest of a request body that nobody wants is read to its end, to save the connection, if it is at most this long.
const MAX_DISCARD: u64 = 64 * 1024;
/// Most bytes read and dropped while lingering.
const MAX_LINGER: usize = 1024 * 1024;

pub(crate) async fn serve<IO, H, D>(
    io: IO,
    handler: H,
    settings: &ServerSettings,
    drain: D,
) -> Result<(), ServeError>
where
    IO: Io,
    H: Handler,
    D: Future<Output = ()> + Send,
{
    let mut wire = Wire { io, read: BytesMut::new(), queue: Queue::default(), timer: Timer::default() };
    let mut drain = pin!(drain);
    let mut drained = false;
    let mut first = true;
    loop {
        let mut draining = || std::future::poll_fn(|cx| Poll::Ready(poll_drain(&mut drained, drain.as_mut(), cx)));
        let _ = draining().await;
        let head = {
            let mut scan = HeadScan::default();
            let mut since = Instant::now();
            let mut started = !wire.read.is_empty();
            std::future::poll_fn(|cx| {
                let draining = poll_drain(&mut drained, drain.as_mut(), cx);
                wire.poll_head(cx, settings, &mut scan, &mut since, &mut started, first, draining)
            })
            .await
        };
        let head = match head {
            NextHead::Request(head) => *head,
            NextHead::Closed => {
                wire.close(Duration::ZERO).await;
                return Ok(());
            }
            NextHead::Gone(error) => return Err(error.into()),
            NextHead::Late => {
                handler.answered(Reason::HeadTimeout);
                wire.refuse(Reason::HeadTimeout, StatusCode::REQUEST_TIMEOUT, settings).await;
                return Err(ServeError::HeadTimeout(settings.head_timeout));
            }
            NextHead::Refused(error) => {
                handler.answered(error.reason());
                wire.refuse(error.reason(), refusal_status(&wire.read, error), settings).await;
                return Err(ServeError::Protocol(error.to_string().into()));
            }
        };
        first = false;
        let mut exchange = Exchange::new(head);
        let ended = {
            let mut handling = pin!(handler.handle(exchange.request()));
            let answer = std::future::poll_fn(|cx| {
                poll_drain(&mut drained, drain.as_mut(), cx);
                exchange.poll_answer(&mut wire, &handler, handling.as_mut(), settings, cx)
            })
            .await;
            answer
        };
        let next = match ended {
            None => return Ok(()),
            Some(answer) => {
                let mut response = exchange.start(&mut wire, answer, settings, drained);
                std::future::poll_fn(|cx| {
                    poll_drain(&mut drained, drain.as_mut(), cx);
                    exchange.poll_response(&mut wire, &handler, &mut response, settings, cx)
                })
                .await
            }
        };
        match next {
            Next::Request => {}
            Next::Close { linger } => {
                wire.close(if linger { settings.linger } else { Duration::ZERO }).await;
                return Ok(());
            }
            Next::Gone => return Ok(()),
            Next::Abort(error) => {
                wire.io.abort_on_close();
                return Err(ServeError::Truncated(error));
            }
            Next::Tunnel(tunnel) => return tunnel_through(wire, tunnel).await,
        }
    }
}
