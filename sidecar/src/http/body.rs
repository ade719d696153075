//! [`Body`]: the one type of body in the sidecar; `channel`: how a connection feeds one.
//!
//! Beyond `http_body::Body` it knows [`Body::poll_progress`]: a response body that owns an upstream exchange carries the
//! rest of the request up while it is polled, and a server calls `poll_progress` whenever it is not polling frames
//! because its own client is slow to read. Without it an upload would wait for a download that waits for the upload.
//!
//! Bounds: a body holds at most the one frame its producer has in hand.

mod channel;

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use self::channel::Receiver;
use super::error::BodyError;

pub use self::channel::{Sender, Unwanted};

/// What a poll for the next frame yields.
pub type PollFrame = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// What a body is read from.
pub trait Source: Send {
    /// The next frame: data, or trailers as the last. Errors and `None` are final; it is not polled after either.
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame;

    /// Carries on what must not stop while nobody polls frames, and also after the last one. Ready when there is
    /// nothing left to carry on.
    fn poll_progress(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Whether the end is known to have been reached: may be false at the end, never true before it.
    fn is_end_stream(&self) -> bool {
        false
    }

    /// How many bytes are still to come; exact when a Content-Length said so.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Sees a body pass: for telemetry, and for guards that live as long as the body. Dropped with it; dropped before
/// [`Observer::end`] means that nobody wanted the rest.
pub trait Observer: Send {
    /// Data passed.
    fn data(&mut self, _bytes: usize) {}
    /// Trailers passed.
    fn trailers(&mut self, _trailers: &HeaderMap) {}
    /// It ended, cleanly or not. Called once.
    fn end(&mut self, _result: Result<(), &BodyError>) {}
}

/// A message body.
pub struct Body(Inner);

enum Inner {
    Ended,
    Full(Bytes),
    Channel(Receiver),
    Source(Pin<Box<dyn Source>>),
    /// Ended, and still owed `poll_progress`.
    Finishing(Pin<Box<dyn Source>>),
}

impl Body {
    /// No body.
    pub const fn empty() -> Self {
        Self(Inner::Ended)
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(if bytes.is_empty() { Inner::Ended } else { Inner::Full(bytes) })
    }

    /// A body fed from elsewhere; `length` if it is known.
    pub fn channel(length: Option<u64>) -> (Sender, Self) {
        let (sender, receiver) = channel::new(length);
        (sender, Self(Inner::Channel(receiver)))
    }

    /// A body of any other kind.
    pub fn boxed<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self::from_source(Foreign(Box::pin(body)))
    }

    /// A body read from `source`.
    pub fn from_source(source: impl Source + 'static) -> Self {
        if source.is_end_stream() {
            // It may still have an upload to finish.
            return Self(Inner::Finishing(Box::pin(source)));
        }
        Self(Inner::Source(Box::pin(source)))
    }

    /// The same body, seen by `observer`.
    pub fn observed(self, observer: impl Observer + 'static) -> Self {
        let mut observed = Observed { ended: false, body: self, observer };
        if http_body::Body::is_end_stream(&observed.body) {
            observed.note_end(Ok(()));
            // Kept: guards in the observer live as long as the body.
            return Self(Inner::Finishing(Box::pin(observed)));
        }
        Self(Inner::Source(Box::pin(observed)))
    }

    /// The same body, which fails as [`BodyError::Late`] when it has not ended by then.
    pub fn until(self, at: Instant) -> Self {
        if http_body::Body::is_end_stream(&self) {
            return self;
        }
        Self::from_source(Until { body: self, at: Box::pin(tokio::time::sleep_until(at)), late: false })
    }

    /// The next frame. After the end or an error it keeps saying `None`.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> PollFrame {
        let frame = match &mut self.0 {
            Inner::Ended | Inner::Finishing(_) => return Poll::Ready(None),
            Inner::Full(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                self.0 = Inner::Ended;
                return Poll::Ready(Some(Ok(frame)));
            }
            Inner::Channel(receiver) => receiver.poll_frame(cx),
            Inner::Source(source) => source.as_mut().poll_frame(cx),
        };
        match &frame {
            Poll::Ready(None) => {
                self.0 = match std::mem::replace(&mut self.0, Inner::Ended) {
                    Inner::Source(source) => Inner::Finishing(source),
                    _ => Inner::Ended,
                }
            }
            Poll::Ready(Some(Err(_))) => self.0 = Inner::Ended,
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        frame
    }

    /// Carries on whatever this body keeps going besides itself (the upload of the request it answers). Ready when
    /// nothing is left of it. Callers that wait for anything else than this body's frames call it on every poll.
    pub fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Inner::Ended | Inner::Full(_) | Inner::Channel(_) => Poll::Ready(()),
            Inner::Source(source) => source.as_mut().poll_progress(cx),
            Inner::Finishing(source) => {
                let progress = source.as_mut().poll_progress(cx);
                if progress.is_ready() {
                    self.0 = Inner::Ended;
                }
                progress
            }
        }
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The exact number of bytes still to come, where known.
    pub fn exact_len(&self) -> Option<u64> {
        http_body::Body::size_hint(self).exact()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame {
        self.get_mut().poll_next(cx)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Ended | Inner::Finishing(_) => true,
            Inner::Full(_) => false,
            Inner::Channel(receiver) => receiver.is_end_stream(),
            Inner::Source(source) => source.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Ended | Inner::Finishing(_) => SizeHint::with_exact(0),
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Channel(receiver) => receiver.size_hint(),
            Inner::Source(source) => source.size_hint(),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::full(Bytes::from_static(text.as_bytes()))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Inner::Ended => "Ended",
            Inner::Full(_) => "Full",
            Inner::Channel(_) => "Channel",
            Inner::Source(_) => "Source",
            Inner::Finishing(_) => "Finishing",
        };
        write!(f, "Body({kind})")
    }
}

/// A body made elsewhere.
struct Foreign<B>(Pin<Box<B>>);

impl<B> Source for Foreign<B>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame {
        self.0.as_mut().poll_frame(cx).map_err(|error| BodyError::Other(Arc::from(error.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

struct Until {
    body: Body,
    at: Pin<Box<Sleep>>,
    /// It is over, and whoever reads has still to hear of it.
    late: bool,
}

impl Until {
    /// Whether it is over: then what it came from is let go at once, whoever reads it and however slowly.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.late && self.at.as_mut().poll(cx).is_ready() {
            self.late = true;
            self.body = Body::empty();
        }
        self.late
    }
}

impl Source for Until {
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame {
        // Looked at first: a sender that is always ready is late as well.
        if self.is_late(cx) {
            return Poll::Ready(Some(Err(BodyError::Late)));
        }
        self.body.poll_next(cx)
    }

    fn poll_progress(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Asked instead of for a frame while the reader's socket takes nothing.
        if self.is_late(cx) {
            return Poll::Ready(());
        }
        self.body.poll_progress(cx)
    }

    fn is_end_stream(&self) -> bool {
        !self.late && http_body::Body::is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        if self.late { SizeHint::default() } else { http_body::Body::size_hint(&self.body) }
    }
}

struct Observed<O> {
    body: Body,
    observer: O,
    ended: bool,
}

impl<O: Observer> Observed<O> {
    fn note_end(&mut self, result: Result<(), &BodyError>) {
        if !std::mem::replace(&mut self.ended, true) {
            self.observer.end(result);
        }
    }
}

// Nothing in it is pinned in place: the body pins what it boxes.
impl<O> Unpin for Observed<O> {}

impl<O: Observer> Source for Observed<O> {
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame {
        let this = self.get_mut();
        let frame = this.body.poll_next(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.observer.data(data.len());
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.observer.trailers(trailers);
                }
                // The reader may stop here, knowing the end without asking for it.
                if http_body::Body::is_end_stream(&this.body) {
                    this.note_end(Ok(()));
                }
            }
            Poll::Ready(Some(Err(error))) => this.note_end(Err(error)),
            Poll::Ready(None) => this.note_end(Ok(())),
            Poll::Pending => {}
        }
        frame
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_late_fails_and_one_in_time_does_not() {
        for (pause, late) in [(10, false), (200, true)] {
            let (mut sender, body) = Body::channel(None);
            let mut body = body.until(Instant::now() + Duration::from_millis(100));
            tokio::spawn(async move {
                let _ = sender.send_when_wanted(Frame::data(Bytes::from_static(b"one"))).await;
                tokio::time::sleep(Duration::from_millis(pause)).await;
                sender.end();
            });
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
            match body.frame().await {
                None => assert!(!late),
                Some(Err(BodyError::Late)) => assert!(late),
                other => panic!("{pause} ms: {other:?}"),
            }
            assert!(body.frame().await.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_late_is_let_go_though_its_reader_takes_nothing() {
        let (mut sender, body) = Body::channel(None);
        let mut body = body.until(Instant::now() + Duration::from_millis(100));
        tokio::time::sleep(Duration::from_millis(200)).await;
        // As a writer does whose socket is full.
        assert!(std::future::poll_fn(|cx| Poll::Ready(body.poll_progress(cx))).await.is_ready());
        assert!(!http_body::Body::is_end_stream(&body), "this is not its end");
        assert!(std::future::poll_fn(|cx| sender.poll_wanted(cx)).await.is_err(), "nobody wants it any more");
        assert!(matches!(body.frame().await, Some(Err(BodyError::Late))), "and its reader hears of it");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_body_that_is_here_needs_no_timer() {
        assert!(matches!(Body::empty().until(Instant::now()).0, Inner::Ended));
    }
}
