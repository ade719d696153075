//! Every class of disagreement, and why ours is right. A class that is not listed, or is listed for other peers than those
//! that show it, or shows no more, fails the test.

use std::borrow::Cow;
use std::fmt;

/// In what two readers disagree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// We refuse for this reason (`HeadError`, `FramingError`) what they read in full.
    WeRefuse(Cow<'static, str>),
    /// They refuse for this reason (in their words) what we read in full.
    TheyRefuse(Cow<'static, str>),
    /// Both read it, and this differs.
    Differs(&'static str),
}

impl What {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::WeRefuse(reason) | Self::TheyRefuse(reason) => reason,
            Self::Differs(component) => component,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self {
            Self::WeRefuse(_) => "we refuse",
            Self::TheyRefuse(_) => "they refuse",
            Self::Differs(_) => "differs",
        };
        write!(f, "{how}: {}", self.reason())
    }
}

/// One class.
pub(super) struct Known {
    pub(super) what: What,
    pub(super) peers: &'static [&'static str],
    pub(super) why: &'static str,
}

const fn we_refuse(reason: &'static str, peers: &'static [&'static str], why: &'static str) -> Known {
    Known { what: What::WeRefuse(Cow::Borrowed(reason)), peers, why }
}

const fn they_refuse(reason: &'static str, peers: &'static [&'static str], why: &'static str) -> Known {
    Known { what: What::TheyRefuse(Cow::Borrowed(reason)), peers, why }
}

const fn differs(component: &'static str, peers: &'static [&'static str], why: &'static str) -> Known {
    Known { what: What::Differs(component), peers, why }
}

const ALL: &[&str] = &["go", "hyper", "llhttp"];

/// In the order of the page: lines, the request line and target, Host, lengths and codings, chunks and trailers.
pub(super) const KNOWN: &[Known] = &[
    we_refuse(
        "BareLf",
        ALL,
        "RFC 9112 §2.2: a recipient MAY take a lone LF for a line end. Who does and who does not sees other heads and other \
         bodies, so none passes",
    ),
    we_refuse(
        "BareCr",
        &["llhttp"],
        "RFC 9112 §2.2: a lone CR is an error or a blank, and no empty line before a request",
    ),
    we_refuse(
        "LeadingEmptyLine",
        &["hyper", "llhttp"],
        "RFC 9112 §2.2: at least one empty line before a request SHOULD be ignored. We ignore one, which is what broken \
         clients send; more are bytes that somebody else may count otherwise",
    ),
    we_refuse(
        "LeadingBlank",
        &["go"],
        "RFC 9112 §5.2: a server MUST reject a folded line or replace the fold. §2.2: what follows a blank before the first \
         field is rejected or dropped",
    ),
    we_refuse(
        "RequestLine",
        &["llhttp"],
        "RFC 9112 §3: one space between method, target and version. llhttp takes several, and a line without a version as \
         HTTP/0.9, which has no head at all",
    ),
    we_refuse(
        "UnsupportedVersion",
        &["go", "llhttp"],
        "RFC 9110 §2.5 lets a server read a higher minor version as 1.1; none exists, and 505 (§15.6.6) says so. HTTP/0.9 and \
         2.0 are no versions of this syntax",
    ),
    we_refuse(
        "Http2Preface",
        &["go"],
        "RFC 9113 §3.4: what follows is HTTP/2. Go hands it to the handler, which may take the connection over; a connection \
         that was taken for HTTP/1 would carry requests past routing and policy",
    ),
    we_refuse(
        "Target",
        ALL,
        "RFC 9112 §3.2: `*` is for OPTIONS only, host:port for CONNECT only and there the port is mandatory, all else starts \
         with `/` or `http(s)://` and a host; a fragment, user information (RFC 9110 §4.2.4) and bytes from 0x80 do not belong \
         there. It is what we route by: every reader must see the same",
    ),
    we_refuse("MissingHost", ALL, "RFC 9112 §3.2: MUST be answered 400 in HTTP/1.1"),
    we_refuse("SeveralHosts", &["hyper", "llhttp"], "RFC 9112 §3.2: MUST be answered 400"),
    we_refuse(
        "InvalidHost",
        ALL,
        "RFC 9112 §3.2: a Host with an invalid value MUST be answered 400. Stricter in two things: no percent-encoding and no \
         comma, which no name has, and no empty Host, which names no service",
    ),
    we_refuse(
        "HostConflict",
        ALL,
        "RFC 9112 §3.2.2: a server ignores Host where the target is absolute. That is for who serves; we route, and whoever \
         serves may look at the other one of the two",
    ),
    we_refuse(
        "LengthAndTransferEncoding",
        &["go", "hyper"],
        "RFC 9112 §6.3 (3): it might be an attempt to smuggle, and ought to be handled as an error",
    ),
    we_refuse(
        "SeveralContentLengths",
        &["go", "hyper"],
        "RFC 9112 §6.3 (5) lets a recipient merge equal ones. Then all readers behind us would have to, alike",
    ),
    we_refuse(
        "ContentLength",
        &["hyper"],
        "RFC 9110 §8.6: digits. hyper does not look at it where Transfer-Encoding is there too",
    ),
    we_refuse(
        "TransferEncoding",
        ALL,
        "RFC 9112 §6.1, §6.3 (4): chunked is the last coding, once, or the length is unknown. `identity` is none since RFC 7230 \
         (appendix A.2), `gzip` is nothing we undo, an empty or misspelt coding is a length that somebody guesses: \
         exactly `chunked` passes",
    ),
    we_refuse(
        "TransferEncodingIn10",
        &["go", "llhttp"],
        "RFC 9112 §6.1: faulty framing, even if the coding is understood",
    ),
    we_refuse(
        "ConnectWithBody",
        ALL,
        "RFC 9110 §9.3.6: CONNECT has no content; the bytes are either a body or the tunnel's first, and nobody can tell",
    ),
    we_refuse(
        "ChunkSize",
        ALL,
        "RFC 9112 §7.1: hexadecimal digits; a blank belongs before `;` at most, where hyper and Go take it anywhere behind. More \
         than 16 digits, if only zeros, are what overflows elsewhere (§7.1: recipients must expect that)",
    ),
    we_refuse(
        "ChunkExtension",
        &["go", "hyper"],
        "RFC 9112 §7.1.1: an extension has no NUL, and its line ends in CRLF",
    ),
    we_refuse(
        "Trailers(BareLf)",
        &["go", "hyper"],
        "As BareLf. It is here that a body ends: a reader who waits for CRLF takes the next request for trailers",
    ),
    we_refuse("Trailers(LeadingBlank)", &["go"], "RFC 9112 §5.2, as in a head"),
    we_refuse("Trailers(Field)", &["go"], "RFC 9112 §5.1: a blank before the colon MUST be refused, as in a head"),
    they_refuse(
        "HPE_INVALID_METHOD",
        &["llhttp"],
        "RFC 9110 §9.1: a method is any token, and case matters. llhttp knows a list; whether `PURGE` or `get` is served is the \
         server's to say",
    ),
    they_refuse(
        "400 Bad Request",
        &["go"],
        "Go refuses a target with `%` and no two hexadecimal digits, and an empty line before a request. The first: paths are \
         compared and sent on as received, never decoded, so nobody can be misled by us. The second: RFC 9112 §2.2",
    ),
    they_refuse(
        "417 Expectation Failed",
        &["go"],
        "RFC 9110 §10.1.1: a server MAY answer an expectation it does not know with 417. Which it knows is the server's to say",
    ),
    they_refuse(
        "the end",
        &["llhttp"],
        "llhttp takes `Upgrade: h2c` for a tunnel. RFC 9113 §3.1 gave that up: we ignore the offer (RFC 9110 §7.8 allows that), \
         take it out, and go on in HTTP/1",
    ),
    they_refuse(
        "HPE_STRICT",
        &["llhttp"],
        "A chunk extension with a byte from 0x80 outside quotes. RFC 9112 §7.1.1 does not allow it, and asks to ignore what is \
         not known: extensions end here, nobody behind us sees one, and the line's end is the same for all",
    ),
    they_refuse(
        "HPE_INVALID_CONTENT_LENGTH",
        &["llhttp"],
        "Content-Length among trailers: RFC 9110 §6.5.1, it MUST NOT be there, and a recipient may drop it. We drop it: it never \
         reaches a server",
    ),
    they_refuse("HPE_INVALID_TRANSFER_ENCODING", &["llhttp"], "Transfer-Encoding among trailers, likewise"),
    differs(
        "host",
        &["go"],
        "Go gives the target's authority where there is one (RFC 9112 §3.2.2), we give the field. Both name the same place: \
         otherwise it is a HostConflict",
    ),
    differs(
        "persistence",
        &["go", "llhttp"],
        "RFC 9112 §9.3: `close` is looked for first, whatever else Connection says. In HTTP/1.0 they look for `keep-alive` first; \
         llhttp does not see a `close` with a tab behind it",
    ),
];
