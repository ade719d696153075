//! Lines up to an empty one: what a head and the trailers of a chunked body are made of (RFC 9112 §2.2, §5, §7.1.2).
//!
//! [`Section`] walks the raw bytes and knows only lines: exact CRLF, no control characters, no folding, the limits. Only
//! what it passed is handed to [`parse_fields`], and so to `httparse`, for names and values.
//!
//! Bound: [`HeadLimits`]. Not here: what the lines mean (`head`, `body`).

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};

use super::error::HeadError;
use super::spare;

/// The largest head that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes, from the start line to the empty line. Default 64 KiB (SEMANTICS.md §6).
    pub max_bytes: usize,
    /// Field lines. Default 100 (SEMANTICS.md §6).
    pub max_headers: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { max_bytes: 64 * 1024, max_headers: 100 }
    }
}

/// Walks lines up to an empty one: a head, or the trailer section of a chunked body. Finds the same whatever the pieces
/// in which the bytes come, since each byte is judged once, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Section {
    /// Next byte to look at.
    at: usize,
    /// Where its line starts.
    line: usize,
    /// Lines ended so far, the empty one not counted.
    lines: usize,
    /// Where the first line ends, its CRLF not counted.
    first: usize,
    /// A trailer section has no start line: its first line is a field.
    trailers: bool,
}

/// Whether a byte may stand anywhere in a line: tab, space, what is visible, and what is not ASCII.
const fn is_plain(byte: u8) -> bool {
    (byte >= 0x20 || byte == b'\t') && byte != 0x7f
}

/// The first of eight bytes that is a control character, if any is: below 0x20 or 0x7f. Each byte's high bit in `below` and
/// `delete` says so; a borrow may set a wrong one, but only above the first right one.
const fn first_control(word: [u8; 8]) -> Option<usize> {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    let word = u64::from_le_bytes(word);
    let below = word.wrapping_sub(0x20 * EACH) & !word;
    let delete = (word ^ (0x7f * EACH)).wrapping_sub(EACH) & !(word ^ (0x7f * EACH));
    let found = (below | delete) & (0x80 * EACH);
    if found == 0 { None } else { Some(found.trailing_zeros() as usize / 8) }
}

/// How many plain bytes `bytes` begins with: eight at a time, since lines are short.
fn plain_prefix(bytes: &[u8]) -> usize {
    let (words, _) = bytes.as_chunks::<8>();
    for (n, word) in words.iter().enumerate() {
        let Some(control) = first_control(*word) else { continue };
        // A tab is plain all the same; there is hardly ever one.
        if let Some(end) = (control..8).find(|&at| !is_plain(word[at])) {
            return 8 * n + end;
        }
    }
    let known = 8 * words.len();
    known + bytes[known..].iter().position(|&byte| !is_plain(byte)).unwrap_or(bytes.len() - known)
}

impl Section {
    pub(super) fn trailers() -> Self {
        Self { trailers: true, ..Self::default() }
    }

    /// Bytes up to here, with the empty line, once [`advance`](Self::advance) has said so.
    pub(super) fn len(&self) -> usize {
        self.at
    }

    /// Field lines seen.
    pub(super) fn fields(&self) -> usize {
        if self.trailers { self.lines } else { self.lines.saturating_sub(1) }
    }

    /// Goes on as far as it can; true when the empty line has been reached.
    pub(super) fn advance(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<bool, HeadError> {
        let too_large = HeadError::TooLarge { limit: limits.max_bytes };
        let end = buf.len().min(limits.max_bytes);
        while self.at < end {
            if self.at == self.line && (self.trailers || self.lines > 0) && matches!(buf[self.at], b' ' | b'\t') {
                return Err(HeadError::LeadingBlank);
            }
            // Nearly all bytes are plain: as many as there are, at once.
            self.at += plain_prefix(&buf[self.at..end]);
            if self.at == end {
                break;
            }
            match buf[self.at] {
                // Whatever follows: what is said must not depend on whether that is here yet.
                b'\r' if self.at + 2 > limits.max_bytes => return Err(too_large),
                b'\r' => match buf.get(self.at + 1) {
                    None => break,
                    Some(b'\n') => {
                        let empty = self.at == self.line;
                        if self.lines == 0 {
                            self.first = self.at;
                        }
                        self.at += 2;
                        if empty {
                            return Ok(true);
                        }
                        self.line = self.at;
                        self.lines += 1;
                        if self.fields() > limits.max_headers {
                            return Err(HeadError::TooManyFields { limit: limits.max_headers });
                        }
                    }
                    Some(_) => return Err(HeadError::BareCr),
                },
                b'\n' => return Err(HeadError::BareLf),
                byte => return Err(HeadError::Control(byte)),
            }
        }
        if buf.len() >= limits.max_bytes { Err(too_large) } else { Ok(false) }
    }

    /// Of a head: where its start line ends, and where its fields start.
    pub(super) fn start_line(&self) -> Result<(usize, usize), HeadError> {
        if self.lines == 0 {
            return Err(HeadError::LeadingEmptyLine);
        }
        Ok((self.first, self.first + 2))
    }
}

/// Most heads have no more fields than this.
const FEW: usize = 16;

/// A section's fields, and what was noticed while they were read: most heads have nothing of the kind, and then nobody needs
/// to look.
pub(super) struct Fields {
    pub(super) headers: HeaderMap,
    /// Some of them say how long the body is: Content-Length, Transfer-Encoding.
    pub(super) framing: bool,
    /// Some of them are about the connection: Connection, Upgrade, Expect.
    pub(super) connection: bool,
}

/// Field lines up to and with the empty line, from `from` to the end of `section`, already walked by a [`Section`] that
/// counted `count` of them. The last field takes the caller's reference to the bytes, so that as many are counted as there
/// are fields.
pub(super) fn parse_fields(mut section: Bytes, from: usize, count: usize) -> Result<Fields, HeadError> {
    let lines = &section[from..];
    let (mut few, mut many);
    let room: &mut [httparse::Header<'_>] = if count <= FEW {
        few = [httparse::EMPTY_HEADER; FEW];
        &mut few[..count]
    } else {
        many = vec![httparse::EMPTY_HEADER; count];
        &mut many
    };
    let fields = match httparse::parse_headers(lines, room) {
        Ok(httparse::Status::Complete((len, fields))) if len == lines.len() => fields,
        _ => return Err(HeadError::Field),
    };
    let headers = spare::take_map(count).ok_or(HeadError::Field)?;
    let mut found = Fields { headers, framing: false, connection: false };
    let Some((last, others)) = fields.split_last() else { return Ok(found) };
    for field in others {
        let value = trim_blanks(field.value);
        // `slice_ref` wants a slice of `section`; an empty one may point anywhere.
        let value = if value.is_empty() { Bytes::new() } else { section.slice_ref(value) };
        found.add(name_of(field)?, value)?;
    }
    let (name, value) = (name_of(last)?, trim_blanks(last.value));
    let (len, start) = (value.len(), value.as_ptr().addr().saturating_sub(section.as_ptr().addr()));
    if len == 0 {
        section = Bytes::new();
    } else {
        section.truncate(start + len);
        section.advance(start);
    }
    found.add(name, section)?;
    Ok(found)
}

fn name_of(field: &httparse::Header<'_>) -> Result<HeaderName, HeadError> {
    HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| HeadError::Field)
}

impl Fields {
    fn add(&mut self, name: HeaderName, value: Bytes) -> Result<(), HeadError> {
        self.framing |= name == CONTENT_LENGTH || name == TRANSFER_ENCODING;
        self.connection |= name == CONNECTION || name == UPGRADE || name == EXPECT;
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| HeadError::Field)?;
        self.headers.try_append(name, value).map_err(|_| HeadError::Field)?;
        Ok(())
    }
}

fn trim_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_plain_or_not_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            for length in [1, 7, 8, 9, 15, 16, 17, 40] {
                for at in 0..length {
                    let mut line = vec![b'a'; length];
                    line[at] = byte;
                    let plain = matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
                    let expected = if plain { length } else { at };
                    assert_eq!(plain_prefix(&line), expected, "{byte:#x} at {at} of {length}");
                    // The first of two counts, and what comes after it borrows from nobody.
                    for other in [0x00, 0x1f, 0x7f, 0x80, b' ', b'!'] {
                        let mut line = line.clone();
                        line[length - 1] = other;
                        let expected = line.iter().position(|&byte| !is_plain(byte)).unwrap_or(length);
                        assert_eq!(plain_prefix(&line), expected, "{byte:#x} at {at} of {length}, {other:#x} last");
                    }
                }
            }
        }
    }
}
