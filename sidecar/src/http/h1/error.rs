//! What makes a head unreadable (RFC 9112 §2 to §6), each by its own name, and what the client is told.

use http::StatusCode;

use crate::reason::Reason;

/// Why a head is refused. The connection it came on cannot be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// More bytes than the limit.
    #[error("the head is larger than {limit} bytes")]
    TooLarge {
        /// [`HeadLimits::max_bytes`](super::HeadLimits::max_bytes)
        limit: usize,
    },
    /// More field lines than the limit.
    #[error("the head has more than {limit} fields")]
    TooManyFields {
        /// [`HeadLimits::max_headers`](super::HeadLimits::max_headers)
        limit: usize,
    },
    /// The HTTP/2 connection preface where an HTTP/1 request was expected.
    #[error("this is the HTTP/2 preface: was the port detected or declared as HTTP/1?")]
    Http2Preface,
    /// An HTTP version other than 1.0 and 1.1.
    #[error("the HTTP version is neither 1.0 nor 1.1")]
    UnsupportedVersion,
    /// More than one empty line before the request, or any before a response.
    #[error("empty lines where a head should start")]
    LeadingEmptyLine,
    /// A line feed without its carriage return.
    #[error("a line ends in LF alone")]
    BareLf,
    /// A carriage return without its line feed.
    #[error("CR that is no line end")]
    BareCr,
    /// NUL or another control character.
    #[error("control character 0x{0:02x}")]
    Control(u8),
    /// A line that starts with a blank: folding (RFC 9112 §5.2), or blanks before the first field (§2.2).
    #[error("a field line starts with a blank (obsolete folding)")]
    LeadingBlank,
    /// The request line is not `method SP target SP version`. HTTP/0.9 is among these.
    #[error("the request line is not `METHOD TARGET VERSION`, one space between each")]
    RequestLine,
    /// The status line is not `version SP 3DIGIT [SP reason]`.
    #[error("the status line is not `VERSION STATUS REASON`")]
    StatusLine,
    /// The method is no token.
    #[error("the method has a character that no token may have")]
    Method,
    /// The target has a character that no URI may have, or is not of a form that the method may use.
    #[error("the request target is malformed or not of a form its method may use")]
    Target,
    /// A field line is not `name ":" value`: no colon, an empty name, a blank in the name or before the colon.
    #[error("a field line is not `name: value`")]
    Field,
    /// HTTP/1.1 without Host.
    #[error("an HTTP/1.1 request has no Host")]
    MissingHost,
    /// More than one Host.
    #[error("several Host fields")]
    SeveralHosts,
    /// Host is not `host[:port]`.
    #[error("Host is not a host and an optional port")]
    InvalidHost,
    /// Host and the target name different places.
    #[error("Host and the request target disagree")]
    HostConflict,
    /// Content-Length is not one plain decimal number that fits 64 bits.
    #[error("Content-Length is not one decimal number")]
    ContentLength,
    /// More than one Content-Length, equal or not.
    #[error("several Content-Length fields")]
    SeveralContentLengths,
    /// Transfer-Encoding is not exactly one `chunked`.
    #[error("Transfer-Encoding is not exactly `chunked`")]
    TransferEncoding,
    /// Transfer-Encoding in an HTTP/1.0 message (RFC 9112 §6.1).
    #[error("Transfer-Encoding in an HTTP/1.0 message")]
    TransferEncodingIn10,
    /// Both lengths: the message to smuggle with.
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndTransferEncoding,
    /// A CONNECT request that announces content.
    #[error("a CONNECT request with content")]
    ConnectWithBody,
}

impl HeadError {
    /// The status a refused request is answered with, before the connection is closed.
    pub const fn status(self) -> StatusCode {
        self.answer().0
    }

    /// The reason of that answer. (A refused *response* is [`Reason::UpstreamProtocol`], whatever was wrong with it.)
    pub const fn reason(self) -> Reason {
        self.answer().1
    }

    const fn answer(self) -> (StatusCode, Reason) {
        match self {
            Self::TooLarge { .. } | Self::TooManyFields { .. } => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Reason::HeadTooLarge)
            }
            Self::UnsupportedVersion => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, Reason::BadRequest),
            Self::Http2Preface
            | Self::LeadingEmptyLine
            | Self::BareLf
            | Self::BareCr
            | Self::Control(_)
            | Self::LeadingBlank
            | Self::RequestLine
            | Self::StatusLine
            | Self::Method
            | Self::Target
            | Self::Field
            | Self::MissingHost
            | Self::SeveralHosts
            | Self::InvalidHost
            | Self::HostConflict
            | Self::ContentLength
            | Self::SeveralContentLengths
            | Self::TransferEncoding
            | Self::TransferEncodingIn10
            | Self::LengthAndTransferEncoding
            | Self::ConnectWithBody => (StatusCode::BAD_REQUEST, Reason::BadRequest),
        }
    }
}
