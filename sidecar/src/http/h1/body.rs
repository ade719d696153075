//! Takes a body out of its framing (RFC 9112 §6 and §7.1), in place: data is split off the buffer, never copied.
//!
//! Chunks are read byte by byte between the data, so the outcome cannot depend on how the bytes were split on the way.
//! A chunk size is hexadecimal digits and nothing else; extensions are skipped (nobody downstream is told of them) and
//! bounded; every line ends in exactly CRLF. Loose readers of these lines are how chunked bodies smuggle.
//!
//! An end of the connection inside a body is [`FramingError::Truncated`], never a clean end: SEMANTICS.md §1 wants
//! `RST mid-body → truncated HTTP/1`.
//!
//! Bound: 16 digits, [`MAX_EXTENSIONS`] per body, [`MAX_TRAILERS`] and [`MAX_TRAILER_FIELDS`]; otherwise no state.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::error::HeadError;
use super::length::BodyLength;
use super::section::{HeadLimits, Section, parse_fields};
use crate::http::hygiene;

/// Most bytes of chunk extensions in one body.
pub const MAX_EXTENSIONS: usize = 4 * 1024;
/// Most bytes of a trailer section.
pub const MAX_TRAILERS: usize = 16 * 1024;
/// Most fields of a trailer section.
pub const MAX_TRAILER_FIELDS: usize = 64;

/// The next piece of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// Some of its bytes, at least one.
    Data(Bytes),
    /// The trailers, without those that must not be there (RFC 9110 §6.5.1); at least one. [`Decoded::End`] follows.
    Trailers(HeaderMap),
    /// The end. What is left in the buffer belongs to the next message. Asking again says the same.
    End,
    /// Read more and ask again.
    NeedMore,
}

/// Why the rest of a body cannot be read. The connection cannot be used again, and what was passed on is incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The connection ended inside the body.
    #[error("the connection ended inside the body")]
    Truncated,
    /// A chunk size is not 1 to 16 hexadecimal digits.
    #[error("a chunk size is not 1 to 16 hexadecimal digits")]
    ChunkSize,
    /// A chunk extension has a control character, or a line end that is not CRLF.
    #[error("a chunk extension has a control character or a lone CR or LF")]
    ChunkExtension,
    /// More chunk extensions than anybody needs.
    #[error("more than {MAX_EXTENSIONS} bytes of chunk extensions")]
    ChunkExtensionsTooLarge,
    /// A chunk's data is not followed by CRLF: its size was wrong.
    #[error("a chunk's data is not followed by CRLF")]
    ChunkEnd,
    /// The trailer section is malformed or too large.
    #[error("bad trailers: {0}")]
    Trailers(HeadError),
}

/// Reads one body. Give it the same buffer until it says [`Decoded::End`] or fails.
#[derive(Debug)]
pub struct Decoder(State);

#[derive(Debug)]
enum State {
    Length { left: u64 },
    UntilClose,
    Chunked { at: Chunk, extensions: usize },
    Failed(FramingError),
    End,
}

/// Where in chunked framing the next byte is (RFC 9112 §7.1):
///
/// ```text
///  Size ─hex─► Size ─CR─► SizeLf ─LF─► Data (size > 0) ─► DataCr ─► DataLf ─► Size
///   └─;─► Extension ─CR─┘          └─► Trailers (size 0) ─► End
/// ```
#[derive(Debug)]
enum Chunk {
    Size { size: u64, digits: u8 },
    Extension { size: u64 },
    SizeLf { size: u64, error: FramingError },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailers(Section),
}

impl Chunk {
    const START: Self = Self::Size { size: 0, digits: 0 };
}

impl Decoder {
    /// A decoder for a body of this length.
    pub fn new(length: BodyLength) -> Self {
        Self(match length {
            BodyLength::None | BodyLength::Length(0) => State::End,
            BodyLength::Length(left) => State::Length { left },
            BodyLength::Chunked => State::Chunked { at: Chunk::START, extensions: 0 },
            BodyLength::UntilClose => State::UntilClose,
        })
    }

    /// Whether the end has been reached.
    pub fn is_end(&self) -> bool {
        matches!(self.0, State::End)
    }

    /// Takes the next piece off the front of `buf`. `eof`: no more will be read after what `buf` holds.
    ///
    /// # Errors
    /// [`FramingError`], and the same again if asked again.
    pub fn decode(&mut self, buf: &mut BytesMut, eof: bool) -> Result<Decoded, FramingError> {
        let decoded = match &mut self.0 {
            State::End => return Ok(Decoded::End),
            State::Failed(error) => return Err(*error),
            State::UntilClose => match take(buf, u64::MAX) {
                Some((data, _)) => Ok(Decoded::Data(data)),
                None if eof => Ok(Decoded::End),
                None => Ok(Decoded::NeedMore),
            },
            State::Length { left: 0 } => Ok(Decoded::End),
            State::Length { left } => Ok(match take(buf, *left) {
                Some((data, rest)) => {
                    *left = rest;
                    Decoded::Data(data)
                }
                None => Decoded::NeedMore,
            }),
            State::Chunked { at, extensions } => chunked(at, extensions, buf),
        };
        let decoded = match decoded {
            Ok(Decoded::NeedMore) if eof => Err(FramingError::Truncated),
            decoded => decoded,
        };
        match &decoded {
            // A trailer section is the last thing in a body.
            Ok(Decoded::End | Decoded::Trailers(_)) => self.0 = State::End,
            // Known to be over: the caller may see `is_end` with the last byte, and reuse the connection at once.
            Ok(Decoded::Data(_)) if matches!(self.0, State::Length { left: 0 }) => self.0 = State::End,
            Ok(Decoded::Data(_) | Decoded::NeedMore) => {}
            Err(error) => self.0 = State::Failed(*error),
        }
        decoded
    }
}

/// At most `left` bytes off the front, and how many are left after them; `None` when there are none.
fn take(buf: &mut BytesMut, left: u64) -> Option<(Bytes, u64)> {
    let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
    (len > 0).then(|| (buf.split_to(len).freeze(), left - len as u64))
}

fn chunked(at: &mut Chunk, extensions: &mut usize, buf: &mut BytesMut) -> Result<Decoded, FramingError> {
    loop {
        match at {
            Chunk::Data { left } => {
                let Some((data, rest)) = take(buf, *left) else { return Ok(Decoded::NeedMore) };
                *at = if rest == 0 { Chunk::DataCr } else { Chunk::Data { left: rest } };
                return Ok(Decoded::Data(data));
            }
            Chunk::Trailers(section) => return trailers(section, buf),
            _ => {}
        }
        if !buf.has_remaining() {
            return Ok(Decoded::NeedMore);
        }
        let byte = buf.get_u8();
        *at = match *at {
            Chunk::Size { size, digits } => match (char::from(byte).to_digit(16), byte) {
                (Some(digit), _) if digits < 16 => {
                    Chunk::Size { size: (size << 4) | u64::from(digit), digits: digits + 1 }
                }
                (None, b';') if digits > 0 => Chunk::Extension { size },
                (None, b'\r') if digits > 0 => Chunk::SizeLf { size, error: FramingError::ChunkSize },
                _ => return Err(FramingError::ChunkSize),
            },
            Chunk::Extension { size } => {
                *extensions += 1;
                match byte {
                    _ if *extensions > MAX_EXTENSIONS => return Err(FramingError::ChunkExtensionsTooLarge),
                    b'\r' => Chunk::SizeLf { size, error: FramingError::ChunkExtension },
                    b'\t' | b' '..=b'~' | 0x80.. => Chunk::Extension { size },
                    _ => return Err(FramingError::ChunkExtension),
                }
            }
            Chunk::SizeLf { size, error } => match (byte, size) {
                (b'\n', 0) => Chunk::Trailers(Section::trailers()),
                (b'\n', left) => Chunk::Data { left },
                _ => return Err(error),
            },
            Chunk::DataCr if byte == b'\r' => Chunk::DataLf,
            Chunk::DataLf if byte == b'\n' => Chunk::START,
            Chunk::DataCr | Chunk::DataLf => return Err(FramingError::ChunkEnd),
            Chunk::Data { .. } | Chunk::Trailers(_) => return Ok(Decoded::NeedMore), // handled above
        };
    }
}

fn trailers(section: &mut Section, buf: &mut BytesMut) -> Result<Decoded, FramingError> {
    let limits = HeadLimits { max_bytes: MAX_TRAILERS, max_headers: MAX_TRAILER_FIELDS };
    if !section.advance(buf, &limits).map_err(FramingError::Trailers)? {
        return Ok(Decoded::NeedMore);
    }
    let count = section.fields();
    let lines = buf.split_to(section.len()).freeze();
    if count == 0 {
        return Ok(Decoded::End);
    }
    let mut trailers = parse_fields(lines, 0, count).map_err(FramingError::Trailers)?.headers;
    hygiene::strip_forbidden_trailers(&mut trailers);
    Ok(if trailers.is_empty() { Decoded::End } else { Decoded::Trailers(trailers) })
}

#[cfg(test)]
mod tests;
