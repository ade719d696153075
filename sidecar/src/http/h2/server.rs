//! Serves a downstream HTTP/2 connection: one task for the connection, one per stream.
//!
//! A stream's task runs the handler, then carries the response body; it ends early when the client resets the stream or
//! the connection goes, and dropping the handler's future and the bodies cancels what they began upstream. A body
//! that fails resets its own stream, with the code it came with. Streams never touch each other.
//!
//! Bounds: `max_streams` tasks (`h2` refuses more with `REFUSED_STREAM`, which says "not processed"), floods of resets
//! and bad frames by the limits in [`ServerSettings`]; CONTINUATION, SETTINGS and PING floods are `h2`'s to stop.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::COOKIE;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body as _, SizeHint};
use tokio::time::Instant;

use super::gather::gather;
use super::{Incoming, Liveness, Metered, Pump, content_length};
use crate::aside::Aside;
use crate::http::body::{Body, PollFrame, Source};
use crate::http::error::ServeError;
use crate::http::io::Io;
use crate::http::server::shared::{ServerSettings, drop_rest, guarded, own_answer, panic_answer, wants_grpc};
use crate::http::timer::Timer;
use crate::http::{Answer, Handler, hygiene};
use crate::listen::drain::Watch;
use crate::reason::Reason;

pub(crate) async fn serve<IO: Io, H: Handler>(
    io: IO,
    handler: H,
    settings: &ServerSettings,
    drain: Watch,
) -> Result<(), ServeError> {
    let (io, meter) = Metered::new(io);
    let (io, outlet) = gather(io);
    // A peer speaks for many clients, and may well cancel for all of them at once.
    let max_pending_resets = if settings.mesh_peer {
        settings.max_pending_resets.max(settings.max_streams as usize)
    } else {
        settings.max_pending_resets
    };
    let (max_local_resets, unread) = if settings.mesh_peer {
        (settings.max_local_resets.max(super::RESETS_BY_FAULT), super::FRAMES_UNREAD)
    } else {
        (settings.max_local_resets, super::FRAMES_UNREAD_OF_STRANGERS)
    };
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(settings.max_streams)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_header_list_size(settings.max_header_list)
        .max_send_buffer_size(settings.max_send_buffer)
        .max_pending_accept_reset_streams(max_pending_resets)
        .max_concurrent_reset_streams(super::RESETS_REMEMBERED)
        .max_local_error_reset_streams(Some(max_local_resets))
        .data_frame_budget(unread);
    let handshake = tokio::time::timeout(settings.head_timeout, builder.handshake::<_, Bytes>(io));
    let Ok(connection) = handshake.await else {
        handler.answered(Reason::HeadTimeout);
        return Err(ServeError::HeadTimeout(settings.head_timeout));
    };
    let mut connection = connection?;
    outlet.open();
    let mut liveness = Liveness::new(connection.ping_pong(), meter, settings.ping_after, settings.ping_timeout);
    let shared = Arc::new(settings.clone());
    let mut drain = pin!(Aside::new(drain.draining()));
    let mut draining = false;
    let mut idle_since: Option<Instant> = None;
    let mut idle_timer = Timer::default();

    let ended = std::future::poll_fn(|cx| {
        if !draining && drain.as_mut().poll(cx).is_ready() {
            (draining, idle_since) = (true, None);
            connection.graceful_shutdown();
        }
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    // In a box, made where it is to lie: tokio would move a kilobyte into its place, and write over it at its end.
                    let place = Box::new_uninit();
                    tokio::spawn(Box::into_pin(Box::write(
                        place,
                        stream(handler.clone(), request, respond, Arc::clone(&shared)),
                    )));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(ServeError::from(error))),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(Err(error)) = outlet.poll(cx) {
            return Poll::Ready(Err(ServeError::Io(error)));
        }
        let open = connection.has_streams();
        if liveness.poll(cx, open).is_ready() {
            return Poll::Ready(Err(ServeError::Silent));
        }
        if open {
            idle_since = None;
        } else {
            let since = *idle_since.get_or_insert_with(Instant::now);
            let patience = if draining { shared.ping_timeout } else { shared.idle_timeout };
            if idle_timer.poll_at(cx, since + patience).is_ready() {
                if draining {
                    // It does not answer, and is owed nothing.
                    return Poll::Ready(Err(ServeError::Silent));
                }
                (draining, idle_since) = (true, None);
                connection.graceful_shutdown();
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    })
    .await;
    if ended.is_ok() {
        // Its side is shut. What the client still says (a window, an acknowledgement, its own end) is no reason for a reset.
        drop(connection);
        if let Some(mut io) = outlet.into_io() {
            drop_rest(&mut io, &mut BytesMut::new(), settings.linger).await;
        }
    }
    ended
}

/// One request and its response.
async fn stream<H: Handler>(
    handler: H,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    settings: Arc<ServerSettings>,
) {
    let (parts, recv) = request.into_parts();
    let head_only = parts.method == Method::HEAD;
    let grpc = wants_grpc(&parts.headers);
    let incoming = Incoming::new(recv, content_length(&parts.headers));
    let expects = !incoming.is_end_stream() && hygiene::expects_continue(parts.version, &parts.headers);
    let demand = expects.then(Arc::<Demand>::default);
    let body = if incoming.is_end_stream() {
        drop(incoming);
        Body::empty()
    } else {
        Body::from_source(RequestBody { incoming, demand: demand.clone() })
    };
    let request = http::Request::from_parts(parts, body);

    let arrived = Instant::now().into_std();
    let answered = if !settings.mesh_peer && has_too_many(request.headers(), settings.head.max_headers) {
        handler.answered(Reason::HeadTooLarge);
        Some(own_answer(Reason::HeadTooLarge, Reason::HeadTooLarge.status(), grpc, &settings).into())
    } else {
        // Called inside the future, so that a panic before the first await is caught as well.
        let mut handling = pin!(async { handler.handle(request, arrived).await });
        let mut begun = false;
        std::future::poll_fn(|cx| {
            // Ready with an error when the connection is gone: nobody is left to answer either way. A client that resets
            // at once has asked for nothing; later on it is asked about only where there is no answer yet.
            let begins = !std::mem::replace(&mut begun, true);
            if begins && respond.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            let answer = match guarded(|| handling.as_mut().poll(cx)) {
                Ok(poll) => poll.map(Some),
                Err(panic) => {
                    let answer = panic_answer(&handler, &*panic, grpc, &settings);
                    Poll::Ready(Some(answer.into()))
                }
            };
            if answer.is_ready() {
                return answer;
            }
            if !begins && respond.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            if let Some(demand) = &demand
                && demand.poll_once(cx)
            {
                // Fails only when the stream is gone, which the next poll finds out.
                let _ = respond.send_informational(continue_head());
            }
            Poll::Pending
        })
        .await
    };
    let response = match answered {
        None => return,
        Some(Answer::Reset(reset)) => return respond.send_reset(reset.h2_reason()),
        Some(Answer::Response(response)) => *response,
    };
    if response.status().is_informational() {
        tracing::error!(status = %response.status(), "a handler answered an HTTP/2 request with 1xx: please report this");
        return respond.send_reset(h2::Reason::INTERNAL_ERROR);
    }
    let (mut parts, mut body) = response.into_parts();
    parts.version = http::Version::HTTP_2;
    let ended = head_only || body.is_end_stream();
    let head = http::Response::from_parts(parts, ());
    let stream = match respond.send_response(head, ended) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "a response head could not be sent");
            return respond.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    };
    drop(respond);
    if head_only && !body.is_end_stream() {
        body = Body::empty();
    }
    let mut pump = Pump::new(stream, body);
    let mut sending = !ended;
    std::future::poll_fn(|cx| {
        if sending {
            match guarded(|| pump.poll(cx)) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(Ok(()))) => sending = false,
                // Our side of the stream is reset already, or the client's is.
                Ok(Poll::Ready(Err(_))) => return Poll::Ready(()),
                Err(panic) => {
                    drop(panic_answer(&handler, &*panic, grpc, &settings));
                    pump.reset(h2::Reason::INTERNAL_ERROR);
                    return Poll::Ready(());
                }
            }
        }
        // The response is complete; the request may still be on its way to a server that wants it (an early response).
        if guarded(|| pump.poll_progress(cx)).unwrap_or(Poll::Ready(())).is_ready() {
            return Poll::Ready(());
        }
        pump.poll_reset(cx)
    })
    .await;
}

/// Whether there are more fields than in HTTP/1 there may be. A cookie counts once, for here each of its crumbs is a field (RFC
/// 9113 §8.2.3).
fn has_too_many(headers: &HeaderMap, most: usize) -> bool {
    headers.len() > most && headers.len() - headers.get_all(COOKIE).iter().count().saturating_sub(1) > most
}

fn continue_head() -> http::Response<()> {
    let mut head = http::Response::new(());
    *head.status_mut() = StatusCode::CONTINUE;
    head
}

/// Tells the stream's task that somebody wants the body, wherever that somebody polls it.
#[derive(Debug, Default)]
struct Demand {
    wanted: AtomicBool,
    told: AtomicBool,
    waker: AtomicWaker,
}

impl Demand {
    fn want(&self) {
        if !self.wanted.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// True once, when the body was first wanted.
    fn poll_once(&self, cx: &Context<'_>) -> bool {
        if self.told.load(Ordering::Acquire) {
            return false;
        }
        self.waker.register(cx.waker());
        self.wanted.load(Ordering::Acquire) && !self.told.swap(true, Ordering::AcqRel)
    }
}

struct RequestBody {
    incoming: Incoming,
    /// The client waits for `100 Continue`.
    demand: Option<Arc<Demand>>,
}

impl Source for RequestBody {
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame {
        let this = self.get_mut();
        let frame = this.incoming.poll_frame(cx);
        match &this.demand {
            Some(demand) if frame.is_pending() => demand.want(),
            // It did not wait.
            Some(_) => this.demand = None,
            None => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
