use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;

use super::*;

/// What rustls sends first: TLS 1.3 only, X25519MLKEM768 first, as mesh TLS has it.
pub(crate) fn real(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same message in records of `size` bytes.
pub(crate) fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    hello[RECORD_HEADER..]
        .chunks(size)
        .flat_map(|fragment| {
            let mut record = vec![22, 3, 1];
            record.extend_from_slice(&(fragment.len() as u16).to_be_bytes());
            record.extend_from_slice(fragment);
            record
        })
        .collect()
}

fn message(body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32).to_be_bytes();
    let mut message = vec![1, len[1], len[2], len[3]];
    message.extend_from_slice(body);
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&(message.len() as u16).to_be_bytes());
    record.extend(message);
    record
}

/// A hello with these extensions.
fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    let mut list = Vec::new();
    for (kind, data) in extensions {
        list.extend(kind.to_be_bytes());
        list.extend((data.len() as u16).to_be_bytes());
        list.extend_from_slice(data);
    }
    body.extend((list.len() as u16).to_be_bytes());
    body.extend(list);
    message(&body)
}

fn sni(names: &[&str]) -> Vec<u8> {
    let list: Vec<u8> = names
        .iter()
        .flat_map(|name| [&[0][..], &(name.len() as u16).to_be_bytes(), name.as_bytes()].concat())
        .collect();
    [&(list.len() as u16).to_be_bytes(), &list[..]].concat()
}

fn complete(bytes: &[u8]) -> ClientHello {
    match read_client_hello(bytes) {
        Ok(Progress::Complete(hello)) => hello,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_real_hybrid_hello_is_read() {
    let mut bytes = real("Reviews.shop.svc", &[b"weft/h2", b"weft/tcp"]);
    let hybrid = 0x11ec_u16.to_be_bytes();
    assert!(bytes.windows(2).any(|group| group == hybrid), "X25519MLKEM768 is offered");
    assert!(bytes.len() > 1216, "with its key share: {} bytes", bytes.len());
    let len = bytes.len();
    bytes.extend_from_slice(b"what follows");
    let hello = complete(&bytes);
    assert_eq!(hello.sni.as_deref(), Some("reviews.shop.svc"));
    assert_eq!(hello.alpn.as_slice(), [&b"weft/h2"[..], b"weft/tcp"]);
    assert!(hello.offers(b"weft/tcp") && !hello.offers(b"h2"));
    assert_eq!(hello.len, len);
}

#[test]
fn a_real_hello_without_sni_and_alpn_is_read() {
    let hello = complete(&real("10.0.0.1", &[]));
    assert_eq!((hello.sni, hello.alpn.len()), (None, 0));
}

#[test]
fn every_prefix_is_incomplete_and_every_fragmentation_the_same() {
    let bytes = real("a.example", &[b"weft/h2"]);
    let whole = complete(&bytes);
    for end in 0..bytes.len() {
        assert_eq!(read_client_hello(&bytes[..end]), Ok(Progress::Incomplete), "{end}");
    }
    for size in [1, 3, 4, 5, 100, 1000, 4000] {
        let fragmented = in_records(&bytes, size);
        if fragmented.len() > MAX_CLIENT_HELLO {
            continue;
        }
        let hello = complete(&fragmented);
        assert_eq!((&hello.sni, &hello.alpn, hello.len), (&whole.sni, &whole.alpn, fragmented.len()), "by {size}");
        for end in (0..fragmented.len()).step_by(7) {
            assert_eq!(read_client_hello(&fragmented[..end]), Ok(Progress::Incomplete), "by {size} to {end}");
        }
    }
}

#[test]
fn names_and_protocols_are_taken_as_they_are_meant() {
    let alpn = |protocols: &[&[u8]]| {
        let list: Vec<u8> = protocols.iter().flat_map(|p| [&[p.len() as u8][..], p].concat()).collect();
        [&(list.len() as u16).to_be_bytes(), &list[..]].concat()
    };
    let grease = (0x1a1a, &[0][..]);
    let found = complete(&hello(&[grease, (0, &sni(&["A.b"])), (16, &alpn(&[&[0x2a, 0x2a], b"h2"])), (0xfafa, &[])]));
    assert_eq!(found.sni.as_deref(), Some("a.b"));
    assert!(found.offers(b"h2"));
    for bad in ["a b", "a/b", "a:1", "[::1]", "", "ä"] {
        assert_eq!(complete(&hello(&[(0, &sni(&[bad]))])).sni, None, "{bad:?} is no DNS name");
    }
    assert_eq!(complete(&hello(&[(0, &sni(&[&"a".repeat(254)]))])).sni, None);
    let many = vec![&b"x"[..]; MAX_ALPN + 5];
    assert_eq!(complete(&hello(&[(16, &alpn(&many))])).alpn.len(), MAX_ALPN);
    // TLS 1.2 allows a hello without extensions.
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    assert_eq!(complete(&message(&body)).sni, None);
}

#[test]
fn what_is_no_hello_is_refused_by_name() {
    let two_names = sni(&["a", "b"]);
    let one = sni(&["a"]);
    for (name, bytes, expected) in [
        ("plain text", b"GET / HTTP/1.1\r\n".to_vec(), NotTls::NotHandshake),
        ("SSLv2", vec![0x80, 0x2e, 1, 3, 1], NotTls::NotHandshake),
        ("application data", vec![23, 3, 3, 0, 1, 0], NotTls::NotHandshake),
        ("another version", vec![22, 4, 0], NotTls::NotHandshake),
        ("a ServerHello", vec![22, 3, 3, 0, 4, 2], NotTls::NotClientHello),
        ("an empty record", vec![22, 3, 3, 0, 0], NotTls::Malformed("an empty record")),
        ("a record past the limit", vec![22, 3, 1, 0x40, 0x01, 1, 0, 0, 9], NotTls::TooLarge),
        ("a record past the limit that holds no ClientHello", vec![22, 3, 1, 0x40, 0x01, 0], NotTls::TooLarge),
        ("a message past the limit", vec![22, 3, 1, 0, 8, 1, 1, 0, 0], NotTls::TooLarge),
        (
            "an alert in between",
            [&in_records(&real("a.b", &[]), 100)[..105], &[21, 3, 3, 0, 2, 2, 0]].concat(),
            NotTls::NotHandshake,
        ),
        ("an empty message", message(&[]), NotTls::Malformed("version and random")),
        ("two SNI", hello(&[(0, &one), (0, &one)]), NotTls::Malformed("two server_name extensions")),
        ("two names", hello(&[(0, &two_names)]), NotTls::Malformed("two server names")),
        ("two ALPN", hello(&[(16, &[0, 0]), (16, &[0, 0])]), NotTls::Malformed("two ALPN extensions")),
        ("an empty protocol", hello(&[(16, &[0, 1, 0])]), NotTls::Malformed("ALPN")),
        ("SNI cut short", hello(&[(0, &[0, 9, 0])]), NotTls::Malformed("server_name")),
    ] {
        assert_eq!(read_client_hello(&bytes), Err(expected), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_client_hello(&body);
        let _ = read_client_hello(&message(&body));
    }

    #[test]
    fn a_broken_hello_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), end in any::<prop::sample::Index>()) {
        let alpn = [0, 3, 2, b'h', b'2'];
        let mut bytes = hello(&[(0, &sni(&["a.example"])), (16, &alpn), (51, &[0; 40])]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let whole = read_client_hello(&bytes);
        let part = read_client_hello(&bytes[..end.index(bytes.len())]);
        // What is refused early is refused in the end as well, and nothing is complete early that is not the same later.
        match part {
            Ok(Progress::Incomplete) => {}
            part => prop_assert_eq!(part, whole),
        }
    }
}
