use proptest::prelude::*;

use super::*;

/// Decodes `bytes`, given `size` at a time and then the end: the data, the trailers, what was left, or the error.
fn run(length: BodyLength, bytes: &[u8], size: usize) -> (Vec<u8>, HeaderMap, Result<Vec<u8>, FramingError>) {
    let mut decoder = Decoder::new(length);
    let mut buf = BytesMut::new();
    let mut pieces = bytes.chunks(size.max(1)).peekable();
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    loop {
        match decoder.decode(&mut buf, pieces.peek().is_none()) {
            Ok(Decoded::Data(bytes)) => {
                assert!(!bytes.is_empty());
                data.extend_from_slice(&bytes);
            }
            Ok(Decoded::Trailers(map)) => trailers = map,
            Ok(Decoded::End) => {
                assert!(decoder.is_end());
                let mut left = buf.to_vec();
                left.extend(pieces.flatten());
                return (data, trailers, Ok(left));
            }
            Ok(Decoded::NeedMore) => buf.extend_from_slice(pieces.next().expect("asked for more after the end")),
            Err(error) => {
                assert_eq!(decoder.decode(&mut buf, true), Err(error), "an error stays");
                return (data, trailers, Err(error));
            }
        }
    }
}

#[test]
fn bodies_come_out_of_their_framing() {
    for (name, length, bytes, data, left) in [
        ("none", BodyLength::None, "next", "", "next"),
        ("zero", BodyLength::Length(0), "next", "", "next"),
        ("length", BodyLength::Length(5), "hellonext", "hello", "next"),
        ("until close", BodyLength::UntilClose, "hello", "hello", ""),
        ("until close, empty", BodyLength::UntilClose, "", "", ""),
        ("chunked, empty", BodyLength::Chunked, "0\r\n\r\nnext", "", "next"),
        ("chunked", BodyLength::Chunked, "5\r\nhello\r\n0\r\n\r\nnext", "hello", "next"),
        ("several chunks", BodyLength::Chunked, "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", "hello", ""),
        (
            "hex of either case",
            BodyLength::Chunked,
            "a\r\n0123456789\r\nA\r\n0123456789\r\n00\r\n\r\n",
            "01234567890123456789",
            "",
        ),
        ("extensions are dropped", BodyLength::Chunked, "5;a=b;c=\"d e\"\r\nhello\r\n0;last\r\n\r\n", "hello", ""),
        ("sixteen digits", BodyLength::Chunked, "0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n", "hello", ""),
        ("data that looks like framing", BodyLength::Chunked, "7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n\r\n", ""),
    ] {
        for size in [1, 2, 3, 100] {
            let (got, trailers, end) = run(length, bytes.as_bytes(), size);
            assert_eq!((got.as_slice(), end), (data.as_bytes(), Ok(left.as_bytes().to_vec())), "{name} by {size}");
            assert!(trailers.is_empty(), "{name}");
        }
    }
}

#[test]
fn broken_framing_is_refused_by_name() {
    use FramingError as E;
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(MAX_EXTENSIONS + 1));
    let many = format!("{}0\r\n\r\n", "1;xxxxxxx\r\nx\r\n".repeat(MAX_EXTENSIONS / 7));
    let trailers = format!("0\r\nx: {}\r\n\r\n", "x".repeat(MAX_TRAILERS));
    let fields = format!("0\r\n{}\r\n", "x: y\r\n".repeat(MAX_TRAILER_FIELDS + 1));
    for (name, length, bytes, expected) in [
        ("length, cut short", BodyLength::Length(5), "hell", E::Truncated),
        ("length, nothing", BodyLength::Length(5), "", E::Truncated),
        ("chunked, nothing", BodyLength::Chunked, "", E::Truncated),
        ("chunked, cut in a size", BodyLength::Chunked, "5", E::Truncated),
        ("chunked, cut in data", BodyLength::Chunked, "5\r\nhel", E::Truncated),
        ("chunked, without a last chunk", BodyLength::Chunked, "5\r\nhello\r\n", E::Truncated),
        ("chunked, cut before the last line", BodyLength::Chunked, "0\r\n", E::Truncated),
        ("no size", BodyLength::Chunked, "\r\nhello", E::ChunkSize),
        ("only an extension", BodyLength::Chunked, ";a\r\n", E::ChunkSize),
        ("a plus", BodyLength::Chunked, "+5\r\nhello\r\n", E::ChunkSize),
        ("a minus", BodyLength::Chunked, "-5\r\nhello\r\n", E::ChunkSize),
        ("0x", BodyLength::Chunked, "0x5\r\nhello\r\n", E::ChunkSize),
        ("an underscore", BodyLength::Chunked, "1_0\r\nhello\r\n", E::ChunkSize),
        ("a space before", BodyLength::Chunked, " 5\r\nhello\r\n", E::ChunkSize),
        ("a space after", BodyLength::Chunked, "5 \r\nhello\r\n", E::ChunkSize),
        ("a tab after", BodyLength::Chunked, "5\t;a\r\nhello\r\n", E::ChunkSize),
        ("seventeen digits", BodyLength::Chunked, "00000000000000005\r\nhello\r\n", E::ChunkSize),
        ("past 64 bits", BodyLength::Chunked, "10000000000000005\r\nhello\r\n", E::ChunkSize),
        ("bare LF after a size", BodyLength::Chunked, "5\nhello\r\n", E::ChunkSize),
        ("bare CR after a size", BodyLength::Chunked, "5\rhello\r\n", E::ChunkSize),
        ("bare LF in an extension", BodyLength::Chunked, "5;a\nhello\r\n", E::ChunkExtension),
        ("bare CR in an extension", BodyLength::Chunked, "5;a\rb\r\nhello\r\n", E::ChunkExtension),
        ("NUL in an extension", BodyLength::Chunked, "5;\0\r\nhello\r\n", E::ChunkExtension),
        ("a long extension", BodyLength::Chunked, &long, E::ChunkExtensionsTooLarge),
        ("many extensions", BodyLength::Chunked, &many, E::ChunkExtensionsTooLarge),
        ("more data than said", BodyLength::Chunked, "4\r\nhello\r\n", E::ChunkEnd),
        ("bare LF after data", BodyLength::Chunked, "5\r\nhello\n0\r\n\r\n", E::ChunkEnd),
        ("bare CR after data", BodyLength::Chunked, "5\r\nhello\r0\r\n\r\n", E::ChunkEnd),
        ("bare LF in trailers", BodyLength::Chunked, "0\r\nx: y\n\r\n", E::Trailers(HeadError::BareLf)),
        ("bare LF as the last line", BodyLength::Chunked, "0\r\n\n", E::Trailers(HeadError::BareLf)),
        ("folded trailers", BodyLength::Chunked, "0\r\nx: y\r\n z\r\n\r\n", E::Trailers(HeadError::LeadingBlank)),
        ("a blank first", BodyLength::Chunked, "0\r\n x: y\r\n\r\n", E::Trailers(HeadError::LeadingBlank)),
        ("a trailer without colon", BodyLength::Chunked, "0\r\nGET / HTTP/1.1\r\n\r\n", E::Trailers(HeadError::Field)),
        ("large trailers", BodyLength::Chunked, &trailers, E::Trailers(HeadError::TooLarge { limit: MAX_TRAILERS })),
        (
            "many trailers",
            BodyLength::Chunked,
            &fields,
            E::Trailers(HeadError::TooManyFields { limit: MAX_TRAILER_FIELDS }),
        ),
    ] {
        for size in [1, 7, 1 << 20] {
            assert_eq!(run(length, bytes.as_bytes(), size).2, Err(expected), "{name} by {size}");
        }
    }
}

#[test]
fn trailers_come_without_what_must_not_be_there() {
    let bytes =
        b"0\r\ngrpc-status: 0\r\nContent-Length: 5\r\nHost: b\r\nX-Weft-Reason: x\r\nX-A: 1\r\nX-A: 2\r\n\r\nnext";
    for size in [1, 4, 1000] {
        let (data, trailers, end) = run(BodyLength::Chunked, bytes, size);
        assert!(data.is_empty());
        assert_eq!(end.unwrap(), b"next");
        assert_eq!(trailers.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["grpc-status", "x-a"]);
        assert_eq!(trailers.get_all("x-a").iter().count(), 2);
    }
    let (_, trailers, end) = run(BodyLength::Chunked, b"0\r\nHost: b\r\n\r\n", 100);
    assert!(trailers.is_empty() && end.is_ok(), "only forbidden ones: as if there were none");
}

#[test]
fn data_is_split_off_and_not_copied() {
    let mut buf = BytesMut::from(&b"5\r\nhello\r\n0\r\n\r\n"[..]);
    let at = buf[3..].as_ptr();
    let Ok(Decoded::Data(data)) = Decoder::new(BodyLength::Chunked).decode(&mut buf, false) else { panic!() };
    assert_eq!(data, "hello");
    assert_eq!(data.as_ptr(), at);
}

#[test]
fn the_end_shows_with_the_last_byte_of_a_length() {
    let mut decoder = Decoder::new(BodyLength::Length(2));
    let mut buf = BytesMut::from(&b"hi"[..]);
    assert!(!decoder.is_end());
    assert_eq!(decoder.decode(&mut buf, false), Ok(Decoded::Data(Bytes::from_static(b"hi"))));
    assert!(decoder.is_end());
    assert_eq!(decoder.decode(&mut buf, true), Ok(Decoded::End));
}

fn chunk_bytes() -> impl Strategy<Value = Vec<u8>> {
    let alphabet =
        prop_oneof![Just(b'0'), Just(b'1'), Just(b'3'), Just(b'\r'), Just(b'\n'), Just(b';'), Just(b':'), any::<u8>()];
    proptest::collection::vec(alphabet, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn pieces_do_not_matter(bytes in chunk_bytes(), size in 1_usize..20, length in prop_oneof![
        Just(BodyLength::Chunked), Just(BodyLength::UntilClose), (0_u64..40).prop_map(BodyLength::Length),
    ]) {
        prop_assert_eq!(run(length, &bytes, size), run(length, &bytes, usize::MAX));
    }

    #[test]
    fn what_is_encoded_is_decoded(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..8), size in 1_usize..30) {
        use crate::http::h1::encode::{CHUNK_END, encode_chunk_head, encode_last_chunk};
        let mut buf = BytesMut::new();
        for piece in &pieces {
            encode_chunk_head(&mut buf, piece.len() as u64);
            buf.extend_from_slice(piece);
            buf.extend_from_slice(CHUNK_END);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", http::HeaderValue::from_static("1"));
        encode_last_chunk(&mut buf, Some(trailers.clone()));
        buf.extend_from_slice(b"next");
        prop_assert_eq!(run(BodyLength::Chunked, &buf, size), (pieces.concat(), trailers, Ok(b"next".to_vec())));
    }
}
