//! A body fed by a connection, on demand: one frame at a time, and none before its reader has asked.
//!
//! Bound: the one frame in hand.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;

use super::PollFrame;
use crate::http::error::BodyError;

/// The body was dropped by its reader, so nothing more of it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body's reader went away")]
pub struct Unwanted;

/// Feeds a body made by [`Body::channel`](super::Body::channel). It works on demand: one frame may be handed over each time the reader has
/// asked and found nothing, so that nothing is read from a socket before somebody wants it (and `100 Continue` can
/// be sent at the first demand). Dropping it before [`Sender::end`] or trailers fails the body as abandoned.
#[derive(Debug)]
pub struct Sender(Arc<Mutex<Slot>>);

pub(super) struct Receiver(Arc<Mutex<Slot>>);

#[derive(Debug, Default)]
struct Slot {
    /// Handed over, not yet read.
    frame: Option<Result<Frame<Bytes>, BodyError>>,
    /// Nothing follows `frame`.
    ended: bool,
    /// The reader asked and found nothing.
    wanted: bool,
    reader_gone: bool,
    sender_gone: bool,
    /// Bytes still to be read, if known.
    remaining: Option<u64>,
    reader: Option<Waker>,
    sender: Option<Waker>,
}

pub(super) fn new(length: Option<u64>) -> (Sender, Receiver) {
    let slot = Arc::new(Mutex::new(Slot { remaining: length, ..Slot::default() }));
    (Sender(Arc::clone(&slot)), Receiver(slot))
}

fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

impl Sender {
    /// Ready when the reader wants a frame and none is on its way, or once it has gone.
    pub fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unwanted>> {
        let mut slot = self.0.lock();
        if slot.reader_gone {
            return Poll::Ready(Err(Unwanted));
        }
        if slot.wanted && slot.frame.is_none() {
            return Poll::Ready(Ok(()));
        }
        remember(&mut slot.sender, cx);
        Poll::Pending
    }

    /// Whether the reader has gone.
    pub fn is_unwanted(&self) -> bool {
        self.0.lock().reader_gone
    }

    /// Hands over a frame; trailers end the body. To be called when [`Sender::poll_wanted`] said so, at most once each
    /// time: a second frame would replace the first.
    pub fn send(&mut self, frame: Frame<Bytes>) {
        let ends = frame.is_trailers();
        self.put(Ok(frame), ends);
    }

    /// Hands over the last data frame and the end in one.
    pub fn send_last(&mut self, data: Bytes) {
        self.put(Ok(Frame::data(data)), true);
    }

    /// Ends the body cleanly.
    pub fn end(self) {
        let mut slot = self.0.lock();
        slot.ended = true;
        if let Some(reader) = slot.reader.take() {
            drop(slot);
            reader.wake();
        }
    }

    /// Ends the body with an error.
    pub fn fail(mut self, error: BodyError) {
        self.put(Err(error), true);
    }

    /// Waits until the reader wants a frame and hands it over.
    ///
    /// # Cancel safety
    ///
    /// Cancelled before it is ready, it has handed nothing over.
    pub async fn send_when_wanted(&mut self, frame: Frame<Bytes>) -> Result<(), Unwanted> {
        std::future::poll_fn(|cx| self.poll_wanted(cx)).await?;
        self.send(frame);
        Ok(())
    }

    fn put(&mut self, frame: Result<Frame<Bytes>, BodyError>, ends: bool) {
        let mut slot = self.0.lock();
        if slot.reader_gone {
            return;
        }
        slot.frame = Some(frame);
        slot.ended |= ends;
        slot.wanted = false;
        if let Some(reader) = slot.reader.take() {
            drop(slot);
            reader.wake();
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut slot = self.0.lock();
        slot.sender_gone = true;
        if let Some(reader) = slot.reader.take() {
            drop(slot);
            reader.wake();
        }
    }
}

impl Receiver {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        let mut slot = self.0.lock();
        if let Some(frame) = slot.frame.take() {
            if let (Ok(frame), Some(remaining)) = (&frame, slot.remaining.as_mut())
                && let Some(data) = frame.data_ref()
            {
                *remaining = remaining.saturating_sub(data.len() as u64);
            }
            return Poll::Ready(Some(frame));
        }
        if slot.ended {
            return Poll::Ready(None);
        }
        if slot.sender_gone {
            slot.ended = true;
            return Poll::Ready(Some(Err(BodyError::Abandoned)));
        }
        remember(&mut slot.reader, cx);
        if !slot.wanted {
            slot.wanted = true;
            if let Some(sender) = slot.sender.take() {
                drop(slot);
                sender.wake();
            }
        }
        Poll::Pending
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let slot = self.0.lock();
        slot.ended && slot.frame.is_none()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let slot = self.0.lock();
        match slot.remaining {
            Some(remaining) => SizeHint::with_exact(remaining),
            None if slot.ended && slot.frame.is_none() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut slot = self.0.lock();
        slot.reader_gone = true;
        slot.frame = None;
        if let Some(sender) = slot.sender.take() {
            drop(slot);
            sender.wake();
        }
    }
}
