//! An answer on its way to the caller.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};

use super::activity::Open;
use super::bounds::Held;

/// What the connection takes at a time. It takes no more before that is written, so a caller who does not read has no more of
/// an answer in our buffers than this, and the rest of it is still counted.
const PIECE: usize = 4 << 10;

/// The body of an answer, and what it holds until its last piece is handed over.
#[derive(Debug, Default)]
pub(super) struct Answering {
    rest: Bytes,
    pub(super) held: Option<Held>,
    pub(super) open: Option<Open>,
}

impl Body for Answering {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let rest = &mut self.get_mut().rest;
        let piece = rest.split_to(rest.len().min(PIECE));
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// A line for people.
pub(super) fn plain(status: StatusCode, text: String) -> Response<Answering> {
    response(status, "text/plain; charset=utf-8", text.into_bytes())
}

pub(super) fn response(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Answering> {
    let mut response = Response::new(Answering { rest: body.into(), ..Answering::default() });
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
