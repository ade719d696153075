//! What a connection's first bytes are: an answer stays when more arrive, and rustls reads the same ClientHello.

use std::io::Cursor;

use super::{Pieces, seeded};
use crate::listen::client_hello::{MAX_ALPN, MAX_CLIENT_HELLO, Progress, read_client_hello};
use crate::listen::detect::{Detected, MAX_PREFIX, detect as detect_now};

/// The ClientHello reader, piece by piece and against rustls.
pub fn client_hello(data: &[u8]) {
    let Some((seed, bytes)) = seeded(data) else { return };
    let whole = read_client_hello(bytes);
    for mut pieces in Pieces::ways(seed) {
        let mut at = 0;
        let mut answer = read_client_hello(&[]);
        while at < bytes.len() && answer == Ok(Progress::Incomplete) {
            at += pieces.next(bytes.len() - at);
            answer = read_client_hello(&bytes[..at]);
        }
        assert_eq!(answer, whole, "by {pieces:?}, at {at}");
    }
    let Ok(Progress::Complete(hello)) = whole else { return };
    assert!(hello.len <= MAX_CLIENT_HELLO && hello.len <= bytes.len());
    assert!(hello.alpn.len() <= MAX_ALPN && hello.alpn.iter().all(|protocol| !protocol.is_empty()));
    if let Some(sni) = &hello.sni {
        assert!((1..=253).contains(&sni.len()) && !sni.contains(|c: char| c.is_ascii_uppercase()), "{sni:?}");
    }

    // What mesh TLS, or an app that uses rustls, makes of the same bytes.
    let mut acceptor = rustls::server::Acceptor::default();
    let mut wire = Cursor::new(&bytes[..hello.len]);
    while acceptor.read_tls(&mut wire).is_ok_and(|read| read > 0) {}
    let Ok(Some(accepted)) = acceptor.accept() else { return };
    let theirs = accepted.client_hello();
    if let Some(name) = theirs.server_name() {
        assert_eq!(hello.sni.as_deref(), Some(&*name.to_ascii_lowercase()), "server name");
    }
    let protocols: Vec<&[u8]> = theirs.alpn().into_iter().flatten().take(MAX_ALPN).collect();
    assert_eq!(hello.alpn.iter().map(Vec::as_slice).collect::<Vec<_>>(), protocols, "ALPN");
}

/// Protocol detection.
pub fn detect(data: &[u8]) {
    let mut answer = Detected::NeedMore;
    for end in 0..=data.len() {
        let now = detect_now(&data[..end]);
        assert!(answer == Detected::NeedMore || now == answer, "{answer:?} became {now:?} at {end}");
        assert!(now != Detected::NeedMore || end < MAX_PREFIX, "undecided after {end} bytes");
        answer = now;
    }
    match answer {
        Detected::Tls => assert_eq!(data[0], 0x16),
        Detected::Http2 => assert!(data.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        _ => {}
    }
}
