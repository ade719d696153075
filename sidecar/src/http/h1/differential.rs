//! Three other readers of HTTP/1 against ours: what one takes for a request and another for something else is how
//! requests are smuggled, so every disagreement is known, named and argued (`known`), or the test fails.
//!
//! | peer | parser | how |
//! |---|---|---|
//! | hyper | `httparse`, and its own framing | in this process, as a server |
//! | llhttp | generated from a state machine; Node's | recorded from Node by `record/llhttp.js` |
//! | go | `net/textproto`; Go's `net/http` server | recorded from Go by `record/go/main.go` |
//!
//! The recordings hold what each peer made of each input (`recorded`), so that the test needs neither Node nor Go; they name
//! a digest of the inputs, and a change of those asks for `make differential`, which records anew. Our own reading and
//! hyper's are made each time.
//!
//! Compared of each request on a connection: method, target, version, Host, the other fields, the body's bytes, whether
//! the connection goes on, and where the next request begins (where the peer tells). After the first difference in an
//! input the rest of it is not looked at.
//!
//! `docs/reference/http1-differences.md` is written from this and held to it.

mod hyper_peer;
mod inputs;
mod known;
mod recorded;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::HeadLimits;
use crate::fuzzing::Pieces;
use crate::fuzzing::wire::{self, BodyEnd, Fields, Message, Stop};
use inputs::Input;
use known::{KNOWN, What};

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/http1-differences.md");

/// A request as a peer read it. What a peer does not tell is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    method: Vec<u8>,
    target: Vec<u8>,
    http_11: bool,
    host: Vec<u8>,
    /// Of the other fields ([`digest_of`]).
    fields: u64,
    /// Length and digest; or why the body was not read to its end.
    body: Result<(usize, u64), String>,
    keep_alive: Option<bool>,
    /// Where the next request begins.
    end: Option<usize>,
}

/// What a connection's bytes are to a peer: requests, and why there is no further one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    requests: Vec<Request>,
    stop: String,
}

/// FNV-1a, which every language of the peers has in three lines.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Fields that some peers take out of the list, because they have looked at them.
const NOT_IN_DIGEST: [&str; 4] = ["content-length", "host", "trailer", "transfer-encoding"];

/// The digest of `name:value\n` of each field, sorted by name, but for those of [`NOT_IN_DIGEST`].
fn digest_of(fields: &Fields) -> u64 {
    let mut lines = Vec::new();
    for (name, value) in fields.iter().filter(|(name, _)| !NOT_IN_DIGEST.contains(&name.as_str())) {
        lines.extend_from_slice(name.as_bytes());
        lines.push(b':');
        lines.extend_from_slice(value);
        lines.push(b'\n');
    }
    digest(&lines)
}

fn host_of(fields: &Fields) -> Vec<u8> {
    fields.iter().find(|(name, _)| name == "host").map(|(_, value)| value.clone()).unwrap_or_default()
}

/// Ours.
fn ours(input: &[u8]) -> Reading {
    let reading = wire::requests(input, Pieces::Whole, &HeadLimits::default(), |_| {});
    let stop = match reading.stop {
        Stop::Refused(error) => name(&error),
        Stop::Incomplete => "Incomplete".to_owned(),
        Stop::Over => "Over".to_owned(),
    };
    let request = |message: Message| {
        let (body, end) = match &message.end {
            BodyEnd::Complete(at) => (Ok((message.body.len(), digest(&message.body))), Some(*at)),
            BodyEnd::Broken(error) => (Err(name(error)), None),
        };
        let [method, target] = message.head.line;
        let (fields, host) = (digest_of(&message.head.fields), host_of(&message.head.fields));
        let keep_alive = (!message.head.tunnel).then_some(message.head.keep_alive);
        Request { method, target, http_11: message.head.http_11, host, fields, body, keep_alive, end }
    };
    Reading { requests: reading.messages.into_iter().map(request).collect(), stop }
}

/// An error's variant, without what it carries but for another error.
fn name(error: &dyn std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    match text.split_once("Trailers(") {
        Some((_, inner)) => format!("Trailers({})", name(&format_args!("{}", inner.trim_end_matches(')')))),
        None => text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned(),
    }
}

/// The first thing two readings differ in.
fn difference(ours: &Reading, theirs: &Reading) -> Option<What> {
    for at in 0.. {
        let (a, b) = match (ours.requests.get(at), theirs.requests.get(at)) {
            (None, None) => return None,
            (None, Some(_)) => return Some(What::WeRefuse(ours.stop.clone().into())),
            (Some(_), None) => return Some(What::TheyRefuse(theirs.stop.clone().into())),
            (Some(a), Some(b)) => (a, b),
        };
        let (a_body, b_body) = match (&a.body, &b.body) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(_), Err(_)) => return None,
            (Err(error), Ok(_)) => return Some(What::WeRefuse(error.clone().into())),
            (Ok(_), Err(error)) => return Some(What::TheyRefuse(error.clone().into())),
        };
        let told = |a: Option<usize>, b: Option<usize>| a.zip(b).is_none_or(|(a, b)| a == b);
        let same = [
            ("method", a.method == b.method),
            ("target", normal(&a.target) == normal(&b.target)),
            ("version", a.http_11 == b.http_11),
            ("host", a.host == b.host),
            ("fields", a.fields == b.fields),
            ("body", a_body == b_body),
            ("persistence", told(a.keep_alive.map(usize::from), b.keep_alive.map(usize::from))),
            ("where the next request begins", told(a.end, b.end)),
        ];
        if let Some((component, _)) = same.into_iter().find(|(_, same)| !same) {
            return Some(What::Differs(component));
        }
        match a.keep_alive {
            Some(true) => {}
            // A peer that does not tell shows it.
            Some(false) if theirs.requests.len() > at + 1 => return Some(What::Differs("persistence")),
            // Closed, or a tunnel now.
            _ => return None,
        }
    }
    None
}

/// An absolute target with its scheme in lower case and with a path: as `Uri` writes it. (`OPTIONS http://a` has the path
/// `*`, which no text form has.)
fn normal(target: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(target);
    let Some((scheme, rest)) = text.split_once("://") else { return target.to_vec() };
    let at = rest.find(['/', '?', '*']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let path = if path == "*" { "" } else { path };
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{}://{authority}{slash}{path}", scheme.to_ascii_lowercase()).into_bytes()
}

/// What is known of one difference.
#[derive(Default)]
struct Seen<'i> {
    peers: BTreeSet<&'static str>,
    inputs: usize,
    /// The shortest of those written by hand, else of all.
    example: Option<&'i Input>,
}

async fn compare(inputs: &[Input]) -> BTreeMap<What, Seen<'_>> {
    let mut found: BTreeMap<What, Seen<'_>> = BTreeMap::new();
    let recorded = recorded::peers(inputs);
    for (index, input) in inputs.iter().enumerate() {
        let ours = ours(&input.bytes);
        let live = hyper_peer::read(&input.bytes).await;
        let recorded = recorded.iter().map(|(peer, readings)| (*peer, &readings[index]));
        let mut shown = BTreeSet::new();
        for (peer, theirs) in [("hyper", &live)].into_iter().chain(recorded) {
            let Some(what) = difference(&ours, theirs) else { continue };
            let seen = found.entry(what.clone()).or_default();
            seen.peers.insert(peer);
            seen.inputs += usize::from(shown.insert(what));
            let rank = |input: &Input| (!input.classic, input.bytes.len());
            if seen.example.is_none_or(|example| rank(input) < rank(example)) {
                seen.example = Some(input);
            }
        }
    }
    found
}

fn example(seen: &Seen<'_>) -> String {
    seen.example.map(|input| input.bytes.escape_ascii().to_string()).unwrap_or_default()
}

#[tokio::test]
async fn every_disagreement_with_another_parser_is_known() {
    let inputs = inputs::all();
    assert!(inputs.len() >= 2_000, "{}", inputs.len());
    let found = compare(&inputs).await;
    let mut wrong = String::new();
    for (what, seen) in &found {
        let known = KNOWN.iter().find(|known| known.what == *what);
        let listed: BTreeSet<&str> = known.iter().flat_map(|known| known.peers.iter().copied()).collect();
        if listed != seen.peers {
            let _ = writeln!(wrong, "{what}: {:?}, listed {listed:?}: {}", seen.peers, example(seen));
        }
    }
    for known in KNOWN.iter().filter(|known| !found.contains_key(&known.what)) {
        let _ = writeln!(wrong, "{}: listed, and not found any more", known.what);
    }
    assert!(wrong.is_empty(), "\n{wrong}");

    let page = page(&inputs, &found);
    if std::env::var_os("WEFT_WRITE_REFERENCE").is_some() {
        std::fs::write(REFERENCE, &page).unwrap();
    }
    let reference = std::fs::read_to_string(REFERENCE).unwrap();
    assert_eq!(reference, page, "`make differential` writes it anew");
}

/// The inputs, one a line in hexadecimal, for the programs that record: see `make differential`.
#[test]
#[ignore = "writes the file that WEFT_INPUTS names"]
fn inputs_are_written_for_recording() {
    let path = std::env::var_os("WEFT_INPUTS").expect("WEFT_INPUTS names the file");
    let mut text = String::new();
    for input in inputs::all() {
        let _ = input.bytes.iter().try_for_each(|byte| write!(text, "{byte:02x}"));
        text.push('\n');
    }
    std::fs::write(path, text).unwrap();
}

/// The page of the reference.
fn page(inputs: &[Input], found: &BTreeMap<What, Seen<'_>>) -> String {
    let classic = inputs.iter().filter(|input| input.classic).count();
    let mut page = format!(
        "# HTTP/1: where our parser and others differ\n\n\
         Written by the test `http::h1::differential` and held to it: {} inputs ({classic} written by hand, the others made\n\
         from them by mutation), each read by the sidecar, hyper {}, llhttp ({}) and Go's net/http ({}). Whatever is not\n\
         listed here, all of them read alike: method, target, version, Host, fields, body, and where the next request begins.\n\n\
         The rule behind the table: what two readers can take in two ways is refused and the connection closed, also where\n\
         RFC 9112 would let a recipient guess. Then it does not matter what the server behind the sidecar would have made\n\
         of it. In an example, what follows `GET /next` is the request after the one that is meant.\n",
        inputs.len(),
        hyper_peer::VERSION,
        recorded::version("llhttp"),
        recorded::version("go"),
    );
    type Section = (&'static str, fn(&What) -> bool);
    let sections: [Section; 3] = [
        ("We refuse, they read", |what| matches!(what, What::WeRefuse(_))),
        ("We read, they refuse", |what| matches!(what, What::TheyRefuse(_))),
        ("Both read, and differ", |what| matches!(what, What::Differs(_))),
    ];
    for (title, belongs) in sections {
        let _ = write!(
            page,
            "\n## {title}\n\n| what | who | inputs | why ours is right | example |\n|---|---|---|---|---|\n"
        );
        for known in KNOWN.iter().filter(|known| belongs(&known.what)) {
            let Some(seen) = found.get(&known.what) else { continue };
            let example = example(seen).replace('|', "\\|");
            let (what, peers, why) = (known.what.reason(), known.peers.join(", "), known.why);
            let _ = writeln!(page, "| {what} | {peers} | {} | {why} | `{example}` |", seen.inputs);
        }
    }
    page
}
