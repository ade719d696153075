//! Reads SNI and ALPN from a ClientHello (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301), out of a buffer that is kept and
//! replayed (SEMANTICS.md §1, "inbound detection"). Pure; nothing is verified here beyond being well formed: rustls, or the
//! app, reads the same bytes again.
//!
//! The message may span segments and records: with a hybrid key share it has some 1.5 KiB, and clients split it. Unknown
//! extensions and protocols, GREASE among them, are skipped. Two SNI or two ALPN extensions are refused, since the reader
//! behind us might take the other one.
//!
//! Bound: [`MAX_CLIENT_HELLO`] bytes, [`MAX_ALPN`] protocols.

use std::borrow::Cow;

use smallvec::SmallVec;

/// Most bytes of a ClientHello with its record headers.
pub const MAX_CLIENT_HELLO: usize = 16 * 1024;
/// Most ALPN protocols that are kept; further ones are skipped.
pub const MAX_ALPN: usize = 16;

const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;

/// Whether the buffer held all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress<T> {
    /// Read more and ask again.
    Incomplete,
    /// Here it is.
    Complete(T),
}

/// What is wanted of a ClientHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name, in lower case; `None` if there is none, or it is no DNS name.
    pub sni: Option<String>,
    /// The protocols offered, in the client's order.
    pub alpn: SmallVec<[Vec<u8>; 2]>,
    /// Bytes of the buffer up to the end of the record in which it ends.
    pub len: usize,
}

impl ClientHello {
    /// Whether this protocol is offered.
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.alpn.iter().any(|offered| offered == protocol)
    }
}

/// Why the bytes are no ClientHello that we read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTls {
    /// Not a TLS handshake record.
    #[error("not a TLS handshake record")]
    NotHandshake,
    /// A handshake, but its first message is not a ClientHello.
    #[error("the first handshake message is not a ClientHello")]
    NotClientHello,
    /// Larger than we read.
    #[error("the ClientHello is larger than {MAX_CLIENT_HELLO} bytes")]
    TooLarge,
    /// A length inside that points outside.
    #[error("the ClientHello is malformed: {0}")]
    Malformed(&'static str),
}

/// Reads the ClientHello at the start of `buf`.
///
/// # Errors
/// [`NotTls`]. Some errors show before the message is complete.
pub fn read_client_hello(buf: &[u8]) -> Result<Progress<ClientHello>, NotTls> {
    let mut message = Cow::Borrowed(&[][..]);
    let mut at = 0;
    loop {
        let record = &buf[at..];
        let plausible = record.iter().zip([22, 3]).all(|(&byte, expected)| byte == expected)
            && record.get(2).is_none_or(|&minor| minor <= 4);
        if !plausible {
            return Err(NotTls::NotHandshake);
        }
        let Some((header, rest)) = record.split_at_checked(RECORD_HEADER) else { return Ok(Progress::Incomplete) };
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if len == 0 {
            // RFC 8446 §5.1: no empty fragments of handshake messages.
            return Err(NotTls::Malformed("an empty record"));
        }
        at += RECORD_HEADER + len;
        // Before anything inside is judged: what is said must not depend on how much of the record is here.
        if at > MAX_CLIENT_HELLO {
            return Err(NotTls::TooLarge);
        }
        let fragment = &rest[..len.min(rest.len())];
        if message.is_empty() {
            message = Cow::Borrowed(fragment);
        } else {
            message.to_mut().extend_from_slice(fragment);
        }

        if message.first().is_some_and(|&kind| kind != 1) {
            return Err(NotTls::NotClientHello);
        }
        let wanted = match *message {
            [_, a, b, c, ..] => Some(HANDSHAKE_HEADER + u32::from_be_bytes([0, a, b, c]) as usize),
            _ => None,
        };
        if wanted.is_some_and(|wanted| wanted > MAX_CLIENT_HELLO) {
            return Err(NotTls::TooLarge);
        }
        if fragment.len() < len {
            return Ok(Progress::Incomplete);
        }
        if let Some(wanted) = wanted
            && let Some(message) = message.get(HANDSHAKE_HEADER..wanted)
        {
            let (sni, alpn) = read_body(message)?;
            return Ok(Progress::Complete(ClientHello { sni, alpn, len: at }));
        }
    }
}

type Wanted = (Option<String>, SmallVec<[Vec<u8>; 2]>);

fn read_body(body: &[u8]) -> Result<Wanted, NotTls> {
    let mut body = Reader(body);
    body.take(2 + 32).ok_or(NotTls::Malformed("version and random"))?;
    body.vec8().ok_or(NotTls::Malformed("session id"))?;
    body.vec16().ok_or(NotTls::Malformed("cipher suites"))?;
    body.vec8().ok_or(NotTls::Malformed("compression methods"))?;
    let mut sni = None;
    let mut alpn = None;
    if !body.0.is_empty() {
        let mut extensions = Reader(body.vec16().ok_or(NotTls::Malformed("extensions"))?);
        if !body.0.is_empty() {
            return Err(NotTls::Malformed("bytes after the extensions"));
        }
        while !extensions.0.is_empty() {
            let kind = extensions.u16().ok_or(NotTls::Malformed("extension type"))?;
            let data = extensions.vec16().ok_or(NotTls::Malformed("extension length"))?;
            match kind {
                0 if sni.is_some() => return Err(NotTls::Malformed("two server_name extensions")),
                0 => sni = Some(server_name(data)?),
                16 if alpn.is_some() => return Err(NotTls::Malformed("two ALPN extensions")),
                16 => alpn = Some(protocols(data)?),
                _ => {}
            }
        }
    }
    Ok((sni.flatten(), alpn.unwrap_or_default()))
}

/// RFC 6066 §3: the list has at most one name of a type, and there is only one type.
fn server_name(data: &[u8]) -> Result<Option<String>, NotTls> {
    const BAD: NotTls = NotTls::Malformed("server_name");
    let mut data = Reader(data);
    let mut list = Reader(data.vec16().ok_or(BAD)?);
    if !data.0.is_empty() {
        return Err(BAD);
    }
    let mut found = None;
    while !list.0.is_empty() {
        let kind = list.take(1).ok_or(BAD)?[0];
        let name = list.vec16().ok_or(BAD)?;
        if kind == 0 && found.replace(name).is_some() {
            return Err(NotTls::Malformed("two server names"));
        }
    }
    Ok(found.and_then(dns_name))
}

fn dns_name(name: &[u8]) -> Option<String> {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    let name = std::str::from_utf8(name).ok()?;
    let ok = (1..=253).contains(&name.len()) && name.as_bytes().iter().all(legal);
    ok.then(|| name.to_ascii_lowercase())
}

fn protocols(data: &[u8]) -> Result<SmallVec<[Vec<u8>; 2]>, NotTls> {
    const BAD: NotTls = NotTls::Malformed("ALPN");
    let mut data = Reader(data);
    let mut list = Reader(data.vec16().ok_or(BAD)?);
    if !data.0.is_empty() {
        return Err(BAD);
    }
    let mut protocols = SmallVec::new();
    while !list.0.is_empty() {
        let protocol = list.vec8().filter(|protocol| !protocol.is_empty()).ok_or(BAD)?;
        if protocols.len() < MAX_ALPN {
            protocols.push(protocol.to_vec());
        }
    }
    Ok(protocols)
}

/// What is left to read.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, len: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A vector with a length of one byte.
    fn vec8(&mut self) -> Option<&'b [u8]> {
        let len = usize::from(self.take(1)?[0]);
        self.take(len)
    }

    /// A vector with a length of two bytes.
    fn vec16(&mut self) -> Option<&'b [u8]> {
        let len = usize::from(self.u16()?);
        self.take(len)
    }
}

#[cfg(test)]
pub(crate) mod tests;
