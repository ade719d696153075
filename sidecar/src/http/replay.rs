//! A request body that can be sent again: what has streamed past is kept, up to a limit (SEMANTICS.md §3, body replay).
//!
//! The first try streams as if nothing were kept. [`Replay::body`] for the next try starts again with what was kept and
//! goes on with the rest of the original, from wherever the try before got to. A body longer than the limit, or one that
//! failed, cannot be replayed: from then on nothing is kept and `body` says `None`.
//!
//! Only the newest body reads: an older one that is polled again finds itself abandoned, so two tries can never
//! share out the frames of one body between them. Bound: the limit, and one frame, per request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;

use super::body::{Body, PollFrame, Source};
use super::error::BodyError;

/// The default limit: 64 KiB.
pub const DEFAULT_LIMIT: usize = 64 * 1024;

/// Counted for each frame kept, on top of its bytes.
const FRAME_COST: usize = 64;

/// Makes the bodies of one request's tries. Once it is dropped nothing is kept any more, and the body in use streams on:
/// drop it when no retry can follow.
#[derive(Debug)]
pub struct Replay(Option<Arc<Mutex<State>>>);

#[derive(Debug)]
struct State {
    /// What has not streamed past yet.
    rest: Body,
    /// What has.
    kept: Vec<Bytes>,
    kept_cost: usize,
    trailers: Option<HeaderMap>,
    rest_ended: bool,
    limit: usize,
    /// What has streamed past is gone: longer than the limit, or broken.
    lost: bool,
    /// The body that may read; older ones may not.
    newest: u64,
}

/// One try's body.
struct Try {
    state: Arc<Mutex<State>>,
    generation: u64,
    /// How many of `kept` it has given.
    given: usize,
    gave_trailers: bool,
}

impl Replay {
    /// Takes the request's body. At most `limit` bytes are kept.
    pub fn new(body: Body, limit: usize) -> Self {
        if body.is_end_stream() {
            // Nothing can be lost of nothing.
            return Self(None);
        }
        Self(Some(Arc::new(Mutex::new(State {
            rest: body,
            kept: Vec::new(),
            kept_cost: 0,
            trailers: None,
            rest_ended: false,
            limit,
            lost: false,
            newest: 0,
        }))))
    }

    /// A body for the next try, from the start; the one before is cut off. `None` when too much, or something broken,
    /// has streamed past.
    pub fn body(&self) -> Option<Body> {
        let Some(shared) = &self.0 else { return Some(Body::empty()) };
        let mut state = shared.lock();
        if state.lost {
            return None;
        }
        state.newest += 1;
        let generation = state.newest;
        drop(state);
        Some(Body::from_source(Try { state: Arc::clone(shared), generation, given: 0, gave_trailers: false }))
    }

    /// Whether [`Replay::body`] would give one.
    pub fn can_replay(&self) -> bool {
        self.0.as_ref().is_none_or(|state| !state.lock().lost)
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            state.lock().limit = 0;
        }
    }
}

impl Source for Try {
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame {
        let this = self.get_mut();
        let mut state = this.state.lock();
        if state.newest != this.generation {
            return Poll::Ready(Some(Err(BodyError::Abandoned)));
        }
        if let Some(bytes) = state.kept.get(this.given) {
            this.given += 1;
            return Poll::Ready(Some(Ok(Frame::data(bytes.clone()))));
        }
        if state.rest_ended {
            return match state.trailers.clone() {
                Some(trailers) if !this.gave_trailers => {
                    this.gave_trailers = true;
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
                _ => Poll::Ready(None),
            };
        }
        let frame = std::task::ready!(state.rest.poll_next(cx));
        match &frame {
            None => state.rest_ended = true,
            Some(Err(_)) => state.lose(),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if state.keep(data) {
                        this.given += 1;
                    }
                    state.rest_ended = state.rest.is_end_stream();
                } else if let Some(trailers) = frame.trailers_ref() {
                    if !state.lost {
                        state.trailers = Some(trailers.clone());
                    }
                    this.gave_trailers = true;
                    state.rest_ended = true;
                }
            }
        }
        Poll::Ready(frame)
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.newest != self.generation { Poll::Ready(()) } else { state.rest.poll_progress(cx) }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.state.lock();
        state.newest == self.generation
            && state.rest_ended
            && self.given >= state.kept.len()
            && (self.gave_trailers || state.trailers.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.state.lock();
        let ahead: usize = state.kept.iter().skip(self.given).map(Bytes::len).sum();
        match state.rest.exact_len() {
            Some(rest) => SizeHint::with_exact(rest + ahead as u64),
            None => SizeHint::default(),
        }
    }
}

impl State {
    /// Says whether it was kept.
    fn keep(&mut self, data: &Bytes) -> bool {
        if self.lost {
            return false;
        }
        // What keeping a frame costs besides its bytes counts too, or a drip of single bytes would cost megabytes.
        let cost = data.len() + FRAME_COST;
        if self.kept_cost + cost > self.limit {
            self.lose();
            return false;
        }
        self.kept_cost += cost;
        self.kept.push(data.clone());
        true
    }

    fn lose(&mut self) {
        self.lost = true;
        self.kept = Vec::new();
        self.trailers = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames on demand, then the end.
    fn body(pieces: &[&'static str], trailers: bool) -> Body {
        let (mut sender, body) = Body::channel(None);
        let pieces: Vec<_> = pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
        tokio::spawn(async move {
            for piece in pieces {
                if sender.send_when_wanted(Frame::data(piece)).await.is_err() {
                    return;
                }
            }
            if trailers {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", http::HeaderValue::from_static("1"));
                let _ = sender.send_when_wanted(Frame::trailers(trailers)).await;
            } else {
                sender.end();
            }
        });
        body
    }

    async fn text(body: Body) -> Result<(String, bool), BodyError> {
        let (data, trailers) = crate::http::tests::collect(body).await?;
        Ok((String::from_utf8_lossy(&data).into_owned(), trailers.is_some()))
    }

    #[tokio::test]
    async fn what_streamed_past_is_given_again() {
        for trailers in [false, true] {
            let replay = Replay::new(body(&["one ", "two ", "three"], trailers), DEFAULT_LIMIT);
            for _ in 0..3 {
                assert_eq!(text(replay.body().unwrap()).await.unwrap(), ("one two three".into(), trailers));
            }
        }
    }

    #[tokio::test]
    async fn a_try_cut_off_midway_is_followed_by_the_whole_body() {
        let replay = Replay::new(body(&["one ", "two ", "three"], false), DEFAULT_LIMIT);
        let mut first = replay.body().unwrap();
        assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "one ");
        let second = replay.body().unwrap();
        assert!(matches!(first.frame().await, Some(Err(BodyError::Abandoned))), "two tries may not share one body");
        assert_eq!(text(second).await.unwrap().0, "one two three");
    }

    #[tokio::test]
    async fn beyond_the_limit_the_try_goes_on_and_no_other_follows() {
        let replay = Replay::new(body(&["12345678", "12345678", "end"], false), 8 + FRAME_COST);
        let mut first = replay.body().unwrap();
        first.frame().await.unwrap().unwrap();
        assert!(replay.can_replay());
        assert_eq!(text(first).await.unwrap().0, "12345678end");
        assert!(!replay.can_replay() && replay.body().is_none());
    }

    #[tokio::test]
    async fn a_body_that_failed_is_not_replayed() {
        let (sender, body) = Body::channel(None);
        sender.fail(BodyError::Truncated);
        let replay = Replay::new(body, DEFAULT_LIMIT);
        assert!(matches!(text(replay.body().unwrap()).await, Err(BodyError::Truncated)));
        assert!(replay.body().is_none());
    }

    #[tokio::test]
    async fn an_empty_body_is_replayed_for_ever_and_costs_nothing() {
        let replay = Replay::new(Body::empty(), 0);
        for _ in 0..3 {
            assert!(replay.body().unwrap().is_end_stream());
        }
    }

    #[tokio::test]
    async fn the_length_is_known_in_every_try() {
        let replay = Replay::new(Body::full("hello"), DEFAULT_LIMIT);
        for _ in 0..2 {
            let mut body = replay.body().unwrap();
            assert_eq!(body.exact_len(), Some(5));
            body.frame().await.unwrap().unwrap();
            assert_eq!(body.exact_len(), Some(0));
        }
    }

    #[tokio::test]
    async fn once_dropped_nothing_more_is_kept() {
        let replay = Replay::new(body(&["one ", "two"], false), DEFAULT_LIMIT);
        let state = Arc::clone(replay.0.as_ref().unwrap());
        let mut try_ = replay.body().unwrap();
        try_.frame().await.unwrap().unwrap();
        drop(replay);
        assert_eq!(text(try_).await.unwrap().0, "two");
        assert!(state.lock().kept.is_empty());
    }
}
