//! Every way we know to make two readers disagree about a request.

use super::*;
use crate::http::h1::HeadError as E;

/// Every way we know to make two readers disagree about a request, and what ours calls it. None is forwarded.
const SMUGGLING: &[(&str, &[u8], E)] = &[
    // Two lengths
    (
        "CL.TE",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        E::LengthAndTransferEncoding,
    ),
    (
        "TE.CL",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        E::LengthAndTransferEncoding,
    ),
    (
        "CL.0 with TE",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        E::LengthAndTransferEncoding,
    ),
    (
        "CL twice, differing",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        E::SeveralContentLengths,
    ),
    (
        "CL twice, equal",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        E::SeveralContentLengths,
    ),
    ("CL list", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", E::ContentLength),
    ("CL list, differing", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,6\r\n\r\n", E::ContentLength),
    (
        "CL in other case",
        b"POST / HTTP/1.1\r\nHost: a\r\nCONTENT-LENGTH: 5\r\ncontent-length: 6\r\n\r\n",
        E::SeveralContentLengths,
    ),
    ("CL with plus", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", E::ContentLength),
    ("CL with minus", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", E::ContentLength),
    ("CL with a space inside", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n", E::ContentLength),
    ("CL in hex", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n", E::ContentLength),
    ("CL with a fraction", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\n", E::ContentLength),
    ("CL with an underscore", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n", E::ContentLength),
    ("CL empty", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", E::ContentLength),
    (
        "CL past 64 bits",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
        E::ContentLength,
    ),
    ("CL in other digits", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ٥\r\n\r\n".as_bytes(), E::ContentLength),
    ("CL of CONNECT", b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\n\r\n", E::ConnectWithBody),
    ("TE of CONNECT", b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n", E::ConnectWithBody),
    // Transfer codings
    ("TE identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", E::TransferEncoding),
    (
        "TE chunked twice in a list",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        E::TransferEncoding,
    ),
    (
        "TE twice",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        E::TransferEncoding,
    ),
    (
        "TE twice, one unknown",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-encoding: x\r\n\r\n",
        E::TransferEncoding,
    ),
    ("TE xchunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", E::TransferEncoding),
    (
        "TE chunked not last",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        E::TransferEncoding,
    ),
    ("TE gzip first", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", E::TransferEncoding),
    (
        "TE with a parameter",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n",
        E::TransferEncoding,
    ),
    ("TE quoted", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", E::TransferEncoding),
    ("TE empty", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", E::TransferEncoding),
    (
        "TE with a trailing comma",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n",
        E::TransferEncoding,
    ),
    (
        "TE with a vertical tab",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        E::Control(0x0b),
    ),
    ("TE in 1.0", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", E::TransferEncodingIn10),
    // Names
    ("space before the colon", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", E::Field),
    ("tab before the colon", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 5\r\n\r\n", E::Field),
    ("space in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n", E::Field),
    ("empty name", b"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", E::Field),
    ("no colon", b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", E::Field),
    ("a name in UTF-8", "GET / HTTP/1.1\r\nHost: a\r\nContent-Längth: 1\r\n\r\n".as_bytes(), E::Field),
    ("NUL in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\0: 1\r\n\r\n", E::Control(0)),
    // Lines
    ("obs-fold with a space", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", E::LeadingBlank),
    ("obs-fold with a tab", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\n\r\n", E::LeadingBlank),
    ("TE folded", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", E::LeadingBlank),
    ("blank before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", E::LeadingBlank),
    ("a line of blanks", b"GET / HTTP/1.1\r\nHost: a\r\n \r\n\r\n", E::LeadingBlank),
    ("bare LF after the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", E::BareLf),
    ("bare LF after a field", b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", E::BareLf),
    ("bare LF as the empty line", b"GET / HTTP/1.1\r\nHost: a\r\n\n", E::BareLf),
    ("bare CR in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n", E::BareCr),
    ("CR CR LF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", E::BareCr),
    ("bare CR in the request line", b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", E::BareCr),
    ("LF before the request", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::BareLf),
    ("two empty lines before the request", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::LeadingEmptyLine),
    ("NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\x002\r\n\r\n", E::Control(0)),
    ("DEL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", E::Control(0x7f)),
    ("ESC in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[0m\r\n\r\n", E::Control(0x1b)),
    // The request line
    ("two spaces after the method", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("two spaces before the version", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("a space after the version", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", E::RequestLine),
    ("a space before the method", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("a space in the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("tabs between the words", b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("HTTP/0.9, without a version", b"GET /\r\n\r\n", E::RequestLine),
    ("HTTP/0.9, with one", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", E::UnsupportedVersion),
    ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", E::UnsupportedVersion),
    ("HTTP/2.0 as a version", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", E::UnsupportedVersion),
    ("HTTP/1.10", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", E::UnsupportedVersion),
    ("the version in lower case", b"GET / http/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("another protocol", b"GET / ICAP/1.0\r\nHost: a\r\n\r\n", E::RequestLine),
    ("the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", E::Http2Preface),
    ("a method that is no token", b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", E::Method),
    ("a method in UTF-8", "GÉT / HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(), E::Method),
    // Targets
    ("a fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("a target in UTF-8", "GET /ä HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(), E::Target),
    ("a relative target", b"GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("asterisk with GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("authority with GET", b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("path with CONNECT", b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("CONNECT without a port", b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("another scheme", b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("user information", b"GET http://b@a/ HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    ("no authority", b"GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
    // Host
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", E::MissingHost),
    ("Host twice", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", E::SeveralHosts),
    ("Host twice, equal", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", E::SeveralHosts),
    ("Host twice in 1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", E::SeveralHosts),
    ("Host empty", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", E::InvalidHost),
    ("Host with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", E::InvalidHost),
    ("Host with user information", b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", E::InvalidHost),
    ("Host list", b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", E::InvalidHost),
    ("Host with a space", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", E::InvalidHost),
    ("Host with a bad port", b"GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n", E::InvalidHost),
    ("Host with a port past 65535", b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", E::InvalidHost),
    ("Host with two ports", b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", E::InvalidHost),
    ("Host with an unclosed bracket", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", E::InvalidHost),
    ("Host with brackets around a name", b"GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", E::InvalidHost),
    ("Host against an absolute target", b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", E::HostConflict),
    ("Host against its port", b"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", E::HostConflict),
    ("Host against CONNECT", b"CONNECT a:443 HTTP/1.1\r\nHost: b:443\r\n\r\n", E::HostConflict),
];

#[test]
fn every_smuggling_vector_is_refused_by_name() {
    assert!(SMUGGLING.len() >= 40);
    for (name, bytes, expected) in SMUGGLING {
        match read_request(bytes, &LIMITS) {
            Err(error) => assert_eq!(error, *expected, "{name}"),
            read => panic!("{name} was read: {read:?}"),
        }
    }
}

#[test]
fn every_smuggling_vector_is_refused_alike_in_single_bytes() {
    for (name, bytes, expected) in SMUGGLING {
        assert_eq!(in_pieces(bytes, 1).unwrap_err(), *expected, "{name}");
    }
}
