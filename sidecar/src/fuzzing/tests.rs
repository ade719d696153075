//! Everything that fuzzing has kept, once more.

use std::path::Path;

use proptest::prelude::*;

use super::*;

type Target = fn(&[u8]);

#[test]
fn what_fuzzing_kept_still_holds() {
    let targets: [(&str, Target); 7] = [
        ("h1_request", h1_request),
        ("h1_response", h1_response),
        ("h1_body", h1_body),
        ("client_hello", client_hello),
        ("detect", detect),
        ("fields", fields),
        ("resources", resources),
    ];
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (target, run) in targets {
        let files = std::fs::read_dir(corpus.join(target)).unwrap_or_else(|error| panic!("{target}: {error}"));
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            println!("{}", path.display());
            run(&std::fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "{target} has no corpus");
    }
}

#[test]
fn pieces_are_never_empty_and_never_too_long() {
    for pieces in [Pieces::Whole, Pieces::Bytes].into_iter().chain(Pieces::ways(0)).chain(Pieces::ways(u16::MAX)) {
        let mut pieces = pieces;
        for left in 1..200 {
            let next = pieces.next(left);
            assert!((1..=left).contains(&next), "{pieces:?}: {next} of {left}");
        }
    }
}

/// Lines and bodies that go together often enough to get deep, and then one byte of it changed, or none.
fn connection(lines: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let fields = prop_oneof![
        Just("Host: a\r\n"),
        Just("Content-Length: 3\r\n\r\nabc"),
        Just("Transfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"),
        Just("Connection: close\r\n"),
        Just("Connection: upgrade\r\nUpgrade: x\r\n"),
        Just("TE: trailers\r\n"),
        Just("X-A: \t b \t\r\n"),
        Just("\r\n"),
    ];
    let message = (prop::sample::select(lines), proptest::collection::vec(fields, 0..5))
        .prop_map(|(line, fields)| format!("{line}\r\n{}", fields.concat()));
    let bytes = proptest::collection::vec(message, 1..4).prop_map(|messages| messages.concat().into_bytes());
    let change = proptest::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (any::<[u8; SEED]>(), bytes, change).prop_map(|(seed, mut bytes, change)| {
        if let Some((at, byte)) = change {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        [&seed[..], &bytes].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn requests_are_the_same_however_they_are_split(
        data in connection(&["GET / HTTP/1.1", "POST /a?b HTTP/1.1", "GET http://a HTTP/1.0", "CONNECT a:1 HTTP/1.1"]),
    ) {
        h1_request(&data);
    }

    #[test]
    fn responses_are_the_same_however_they_are_split(
        data in connection(&["HTTP/1.1 200 OK", "HTTP/1.1 100 Continue", "HTTP/1.1 204", "HTTP/1.0 200 OK", "HTTP/1.1 101 x"]),
    ) {
        h1_response(&data);
    }

    #[test]
    fn bodies_are_the_same_however_they_are_split(
        data in connection(&["3\r\nabc", "1;x=y\r\na", "0", "ffffffffffffffff", "0\r\nX: y"]),
    ) {
        h1_body(&data);
    }
}
