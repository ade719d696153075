//! Copies of requests for the backends of RequestMirror filters (SEMANTICS.md §3 "mirroring"): fire and forget.
//!
//! A copy never delays its request and never fails it: the request's own body streams on as if nobody looked, and a copy is
//! sent, by a task of its own, when that body has passed to its end. What does not fit is dropped and counted: a body
//! larger than what is kept for retries, one that was not read to its end (the backend answered early, or there is none), upgrades and
//! CONNECT, and whatever comes while [`MAX_COPIES`] are under way.
//!
//! A copy gets one endpoint and one try, within [`TIMEOUT`] or what is left of the client's deadline. Its response is read and
//! thrown away, so that the connection can be used again. It is an ordinary request for its backend's limits, balancing and
//! ejection; it is not counted among the app's requests. Its Host is that of the request: a backend that minds which host it is
//! asked for sees what it will see when it gets the traffic itself.
//!
//! Bound: [`MAX_COPIES`] of a proxy at a time, each with its head and at most the retry buffer's size of body: 16 MiB of
//! bodies by default. Copies of one request share its body.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Method;
use http::request::Parts;
use http_body::SizeHint;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Outbound;
use super::tries::{Kept, Plan, Tries};
use crate::config::{Backend, LOOKUP_TIMEOUT, Protocol};
use crate::http::body::{PollFrame, Source};
use crate::http::{Body, hygiene};
use crate::resilience::{Deadline, RetryOverride};
use crate::telemetry::record::Record;

/// Most copies under way at a time, of all workers together.
pub(super) const MAX_COPIES: usize = 256;

/// What a copy may take, to the last byte of its response.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The places for copies.
#[derive(Debug, Clone)]
pub struct Mirrors(Arc<Semaphore>);

impl Default for Mirrors {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_COPIES)))
    }
}

/// One copy that has a place.
struct Copy {
    backend: Arc<Backend>,
    head: Parts,
    place: OwnedSemaphorePermit,
}

/// Has `copies` sent when `body` has passed; what is returned is the body to send on.
pub(super) fn with_copies(
    outbound: &Arc<Outbound>,
    copies: Vec<(Arc<Backend>, Parts)>,
    body: Body,
    client: SocketAddr,
    called: Protocol,
) -> Body {
    let most = outbound.settings.args.replay_limit;
    let fits = body.exact_len().is_none_or(|length| length <= most as u64);
    let mut placed = Vec::with_capacity(copies.len());
    for (backend, head) in copies {
        // Of HTTP/2's as well: what passes in a CONNECT is for its server alone.
        let tunnels = head.method == Method::CONNECT || hygiene::is_tunnel(&head.method, head.version, &head.headers);
        match Arc::clone(&outbound.mirrors.0).try_acquire_owned() {
            Ok(place) if fits && !tunnels => placed.push(Copy { backend, head, place }),
            _ => dropped(outbound, &backend),
        }
    }
    if placed.is_empty() {
        return body;
    }
    let copying = Copying { outbound: Arc::clone(outbound), client, called, copies: placed, seen: BytesMut::new() };
    if http_body::Body::is_end_stream(&body) {
        copying.send();
        return body;
    }
    Body::from_source(Tee { body, copying: Some(copying), most })
}

fn dropped(outbound: &Outbound, backend: &Backend) {
    let metrics = &outbound.telemetry.metrics;
    metrics.of_backend(&metrics.mirrors_dropped, &(&backend.label).into());
}

/// Copies that wait for their body.
struct Copying {
    outbound: Arc<Outbound>,
    client: SocketAddr,
    called: Protocol,
    copies: Vec<Copy>,
    /// What has passed of the body.
    seen: BytesMut,
}

impl Copying {
    /// All of the body has passed.
    fn send(self) {
        let body = self.seen.freeze();
        for copy in self.copies {
            let sending = send(Arc::clone(&self.outbound), self.client, self.called, copy, body.clone());
            tokio::spawn(Box::pin(sending));
        }
    }

    /// It will not.
    fn give_up(self) {
        self.copies.iter().for_each(|copy| dropped(&self.outbound, &copy.backend));
    }
}

/// Sends one copy, and reads what comes back.
async fn send(outbound: Arc<Outbound>, client: SocketAddr, called: Protocol, copy: Copy, body: Bytes) {
    let Copy { backend, mut head, place } = copy;
    if !backend.is_known() && !backend.endpoints_known(LOOKUP_TIMEOUT).await {
        dropped(&outbound, &backend);
        return;
    }
    let metrics = &outbound.telemetry.metrics;
    metrics.of_backend(&metrics.mirrors, &(&backend.label).into());
    let now = tokio::time::Instant::now().into_std();
    let once = RetryOverride { max_retries: Some(0), ..RetryOverride::default() };
    let plan = Plan {
        backend: &backend,
        called,
        deadline: Deadline::of_request(now, Some(TIMEOUT), &head.headers),
        per_try: None,
        retry: Some(&once),
        session: None,
    };
    let mut record = Record::unreported(&outbound.telemetry, &head, now);
    let tries = Tries { outbound: &outbound, client, plan, now };
    match tries.run(&mut head, Body::full(body), &mut record).await {
        // The deadline cuts it off in any case.
        Ok(Kept { mut response, guards }) => {
            while let Some(Ok(_)) = response.body_mut().frame().await {}
            drop(guards);
        }
        Err(own) => tracing::debug!(backend = %backend.name, reason = %own.reason, detail = %own.detail, "mirror"),
    }
    drop(place);
}

/// The request's own body, looked at as it passes.
struct Tee {
    body: Body,
    /// Until the copies are sent, or cannot be.
    copying: Option<Copying>,
    most: usize,
}

impl Source for Tee {
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame {
        let this = self.get_mut();
        let frame = ready!(this.body.poll_next(cx));
        let ended = match &frame {
            None => true,
            Some(Err(_)) => {
                this.give_up();
                false
            }
            Some(Ok(frame)) => {
                if let (Some(data), Some(copying)) = (frame.data_ref(), &mut this.copying) {
                    if copying.seen.len() + data.len() > this.most {
                        this.give_up();
                    } else {
                        copying.seen.extend_from_slice(data);
                    }
                }
                // Whoever reads may ask no further after the last of it.
                frame.is_trailers() || http_body::Body::is_end_stream(&this.body)
            }
        };
        if ended && let Some(copying) = this.copying.take() {
            copying.send();
        }
        Poll::Ready(frame)
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().body.poll_progress(cx)
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.body)
    }
}

impl Tee {
    fn give_up(&mut self) {
        if let Some(copying) = self.copying.take() {
            copying.give_up();
        }
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.give_up();
    }
}
