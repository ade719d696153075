//! Readings of peers that are no Rust, recorded by the programs in `record/`.
//!
//! A recording's first line names the peer's version and the digest of the inputs. Then a line per input: its requests,
//! and at last why there is no further one (`!` and the peer's reason; `~`: nothing, or less than a head, was left; `.`: the
//! connection's last request). A request is `end:keep:version:method:target:host:fields:body`, with `-` for what is not
//! known or not there, fields as a digest, and the body as `0`, `length.digest`, or `!` and the reason; texts are
//! percent-encoded.

use super::inputs::Input;
use super::{Reading, Request, digest};

const FILES: [(&str, &str); 2] =
    [("llhttp", include_str!("recorded/llhttp.txt")), ("go", include_str!("recorded/go.txt"))];

/// The peers, and their reading of each input.
pub(super) fn peers(inputs: &[Input]) -> Vec<(&'static str, Vec<Reading>)> {
    let mut all = 0xcbf2_9ce4_8422_2325_u64;
    for input in inputs {
        all = all.rotate_left(7) ^ digest(&input.bytes);
    }
    let read = |(peer, text): (&'static str, &str)| {
        let mut lines = text.lines();
        let recorded = lines.next().and_then(|first| first.rsplit_once(' ')).map(|(_, digest)| digest);
        let expected = format!("{all:016x}");
        assert_eq!(recorded, Some(&*expected), "{peer} was recorded for other inputs: run `make differential`");
        let readings: Vec<Reading> = lines.map(reading).collect();
        assert_eq!(readings.len(), inputs.len(), "{peer}");
        (peer, readings)
    };
    FILES.map(read).into()
}

/// What was recorded.
pub(super) fn version(peer: &str) -> &'static str {
    let (_, text) = FILES.into_iter().find(|(name, _)| *name == peer).expect("a recorded peer");
    text.lines().next().and_then(|first| first.rsplit_once(' ')).map_or("", |(version, _)| version)
}

fn reading(line: &str) -> Reading {
    let (requests, stop) = line.rsplit_once(' ').unwrap_or(("", line));
    let stop = match stop {
        "~" => "nothing more".to_owned(),
        "." => "the end".to_owned(),
        refused => text(refused.strip_prefix('!').expect("a reason")),
    };
    Reading { requests: requests.split_whitespace().map(request).collect(), stop }
}

fn request(item: &str) -> Request {
    let parts: Vec<&str> = item.split(':').collect();
    let [end, keep, version, method, target, host, fields, body] = parts[..] else { panic!("{item}") };
    let hex = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
    let body = match body.strip_prefix('!') {
        Some(reason) => Err(text(reason)),
        None if body == "0" => Ok((0, digest(b""))),
        None => {
            let (length, digest) = body.split_once('.').expect("length and digest");
            Ok((length.parse().expect("a length"), hex(digest)))
        }
    };
    Request {
        method: bytes(method),
        target: bytes(target),
        http_11: version == "1.1",
        host: bytes(host),
        fields: if fields == "-" { digest(b"") } else { hex(fields) },
        body,
        keep_alive: (keep != "-").then_some(keep == "1"),
        end: end.parse().ok(),
    }
}

fn text(encoded: &str) -> String {
    String::from_utf8_lossy(&bytes(encoded)).into_owned()
}

fn bytes(encoded: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = encoded.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = match (byte, tail) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |digit: &u8| char::from(*digit).to_digit(16).expect("hexadecimal") as u8;
                out.push(digit(high) << 4 | digit(low));
                after
            }
            _ => {
                out.push(*byte);
                tail
            }
        };
    }
    out
}
