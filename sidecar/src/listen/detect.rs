//! What a client speaks, by its first bytes (SEMANTICS.md §1, "whoever speaks first decides"). Pure.
//!
//! The answer steers routing only; it is no security decision, and the reader behind it checks everything again. It leans
//! to [`Detected::Opaque`], which passes bytes on unchanged, and asks for more only while the bytes could still become
//! something else, so text protocols that look a little like HTTP (memcached's `get /key`, Redis' inline `SET a b`, SMTP's
//! `EHLO host`) are told apart by their first line at the latest.
//!
//! Bound: never more than [`MAX_PREFIX`] bytes are asked for.

/// Most bytes that are looked at.
pub const MAX_PREFIX: usize = 4096;

/// The longest method that is believed.
const MAX_METHOD: usize = 32;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Methods that, with a target's first characters after them, need no look at the rest of the line.
const METHODS: [&[u8]; 14] = [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"CONNECT",
    b"OPTIONS",
    b"TRACE",
    b"PATCH",
    b"PROPFIND",
    b"REPORT",
    b"MKCOL",
    b"COPY",
    b"MOVE",
];

/// What the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// It cannot be told yet.
    NeedMore,
    /// The start of an HTTP/1 request.
    Http1,
    /// The HTTP/2 connection preface, all 24 bytes of it.
    Http2,
    /// The start of a TLS ClientHello.
    Tls,
    /// Nothing of the above.
    Opaque,
}

/// Says what a connection that starts with `prefix` speaks. Once it has answered anything but
/// [`Detected::NeedMore`], more bytes do not change the answer.
pub fn detect(prefix: &[u8]) -> Detected {
    match prefix {
        [] => Detected::NeedMore,
        [0x16, ..] => tls(prefix),
        _ if prefix.starts_with(PREFACE) => Detected::Http2,
        _ if PREFACE.starts_with(prefix) => Detected::NeedMore,
        _ => http1(prefix),
    }
}

/// A handshake record (RFC 8446 §5.1) whose first message is a ClientHello (§4).
fn tls(prefix: &[u8]) -> Detected {
    let plausible = prefix.iter().zip(0..6).all(|(&byte, at)| match at {
        0 => byte == 0x16,
        1 => byte == 3,
        2 => byte <= 4,
        3 => byte <= 0x40,
        5 => byte == 1,
        _ => true,
    });
    match prefix.len() {
        _ if !plausible => Detected::Opaque,
        0..6 => Detected::NeedMore,
        _ if prefix[3..5] == [0, 0] => Detected::Opaque,
        _ => Detected::Tls,
    }
}

fn http1(prefix: &[u8]) -> Detected {
    let prefix = &prefix[..prefix.len().min(MAX_PREFIX)];
    let method_len = prefix.iter().position(|&byte| !is_token(byte)).unwrap_or(prefix.len());
    if method_len == 0 || method_len > MAX_METHOD {
        return Detected::Opaque;
    }
    let method = &prefix[..method_len];
    let target = match prefix.get(method_len) {
        None => return Detected::NeedMore,
        Some(b' ') => &prefix[method_len + 1..],
        Some(_) => return Detected::Opaque,
    };
    if METHODS.contains(&method) {
        return match (method, target) {
            (_, []) => Detected::NeedMore,
            (b"CONNECT", [first, ..]) if first.is_ascii_alphanumeric() || *first == b'[' => Detected::Http1,
            (b"CONNECT", _) => Detected::Opaque,
            (_, [b'/', ..]) | (b"OPTIONS", [b'*', ..]) => Detected::Http1,
            (_, target) => one_of(target, &[b"http://", b"https://"]),
        };
    }
    // A method we have not heard of: the line has to be text and to say that it is HTTP.
    let end = target.iter().position(|&byte| byte == b'\n');
    let line = &target[..end.unwrap_or(target.len())];
    if !line.iter().all(|&byte| (b' '..=b'~').contains(&byte) || byte == b'\r') {
        return Detected::Opaque;
    }
    if end.is_none() {
        return if prefix.len() < MAX_PREFIX { Detected::NeedMore } else { Detected::Opaque };
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match line.split_at_checked(line.len().wrapping_sub(b" HTTP/1.1".len())) {
        Some((target, version)) if !target.is_empty() && version.starts_with(b" HTTP/1.") => Detected::Http1,
        _ => Detected::Opaque,
    }
}

/// Whether `text` starts with one of `starts`, case apart.
fn one_of(text: &[u8], starts: &[&[u8]]) -> Detected {
    let agrees = |start: &&&[u8]| {
        let len = start.len().min(text.len());
        text[..len].eq_ignore_ascii_case(&start[..len])
    };
    match starts.iter().filter(agrees).map(|start| text.len() >= start.len()).max() {
        Some(true) => Detected::Http1,
        Some(false) => Detected::NeedMore,
        None => Detected::Opaque,
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
