//! Conversations with an API server: what it answers, what is asked of it, and what becomes of that.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::model::Kind;
use crate::source::kubernetes::follow_all::{PeerAuthentication, Service};
use crate::source::kubernetes::kinds::KINDS;
use crate::source::kubernetes::seen::{Of, Seen};
use crate::source::kubernetes::state::{Happening, map_event};

/// What the API server answers.
#[derive(Debug, Clone)]
enum Answer {
    /// This status.
    Refuse(u16),
    /// No answer: the connection breaks.
    Unreachable,
    /// A page of a list: its objects, whether there are more, its resource version.
    Page(&'static [&'static str], Option<&'static str>, &'static str),
    /// A watch's events, and how it ends.
    Events(&'static [Told], End),
}

/// An event of a watch.
#[derive(Debug, Clone, Copy)]
enum Told {
    Added(&'static str, u32),
    Modified(&'static str, u32),
    Deleted(&'static str, u32),
    /// What there was at the beginning has been told.
    Listed(u32),
    Bookmark(u32),
    Gone,
}

/// How a watch ends after its events.
#[derive(Debug, Clone, Copy)]
enum End {
    /// In good order.
    Close,
    /// The connection breaks.
    Break,
    /// Not at all.
    Hang,
}

use self::End::{Break, Close, Hang};
use Answer::{Events, Page, Refuse, Unreachable};
use Told::{Added, Bookmark, Deleted, Gone, Listed, Modified};

type Answered = http::Response<StreamBody<BoxStream<'static, Result<Frame<Bytes>, io::Error>>>>;

fn object(name: &str, version: impl ToString) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": version.to_string()},
        "spec": {"ports": [{"port": 80}]},
    })
}

impl Answer {
    fn response(self) -> Answered {
        let (code, chunks, end) = match self {
            Unreachable => unreachable!("no response"),
            Refuse(code) => {
                let status =
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "code": code});
                (code, vec![status.to_string()], Close)
            }
            Page(names, more, version) => {
                let items: Vec<_> = names.iter().map(|name| object(name, 1)).collect();
                let list = json!({
                    "kind": "ServiceList", "apiVersion": "v1",
                    "metadata": {"resourceVersion": version, "continue": more}, "items": items,
                });
                (200, vec![list.to_string()], Close)
            }
            Events(events, end) => (200, events.iter().map(|event| format!("{}\n", event.json())).collect(), end),
        };
        let chunks = stream::iter(chunks.into_iter().map(|chunk| Ok(Frame::data(Bytes::from(chunk)))));
        let body = match end {
            Close => chunks.boxed(),
            Break => chunks.chain(stream::iter([Err(io::ErrorKind::ConnectionReset.into())])).boxed(),
            Hang => chunks.chain(stream::pending()).boxed(),
        };
        http::Response::builder().status(code).body(StreamBody::new(body)).unwrap()
    }
}

impl Told {
    fn json(self) -> Value {
        let bookmark = |version: u32, annotations: Value| {
            json!({"type": "BOOKMARK", "object": {
                "kind": "Service", "apiVersion": "v1",
                "metadata": {"resourceVersion": version.to_string(), "annotations": annotations},
            }})
        };
        match self {
            Added(name, version) => json!({"type": "ADDED", "object": object(name, version)}),
            Modified(name, version) => json!({"type": "MODIFIED", "object": object(name, version)}),
            Deleted(name, version) => json!({"type": "DELETED", "object": object(name, version)}),
            Listed(version) => bookmark(version, json!({"k8s.io/initial-events-end": "true"})),
            Bookmark(version) => bookmark(version, json!({})),
            Gone => {
                json!({"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "message": "too old", "code": 410}})
            }
        }
    }
}

/// `list`, `list after C`, `stream`, `watch from 7`, with `v1beta1` where it is asked for.
fn asked(uri: &http::Uri) -> String {
    let query: Vec<_> = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
    let of = |key: &str| query.iter().find(|(name, _)| *name == key).map_or("", |(_, value)| *value);
    let what = match (of("watch"), of("sendInitialEvents"), of("continue")) {
        ("true", "true", _) => "stream".to_owned(),
        ("true", ..) => format!("watch from {}", of("resourceVersion")),
        (_, _, "") => "list".to_owned(),
        (_, _, token) => format!("list after {token}"),
    };
    if uri.path().contains("v1beta1") { format!("v1beta1 {what}") } else { what }
}

/// `begins`, `(a)` in a list, `listed`, `a`, `-a`, `absent`.
fn told(message: &Message) -> String {
    let Message::Object(_, happening) = message else { panic!("{message:?}") };
    match &**happening {
        Happening::Init => "begins".to_owned(),
        Happening::InitApply(served) => format!("({})", served.name.name),
        Happening::InitDone => "listed".to_owned(),
        Happening::Apply(served) => served.name.name.clone(),
        Happening::Delete(served) => format!("-{}", served.name.name),
        Happening::Absent => "absent".to_owned(),
    }
}

/// Follows a kind of an API server that gives these answers and no more, until this many messages came.
async fn converse<K: Of>(row: &'static Row, answers: &[Answer], messages: usize) -> (Vec<String>, Vec<String>) {
    let answers = Mutex::new(VecDeque::from(answers.to_vec()));
    let questions = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&questions);
    let server = tower::service_fn(move |request: http::Request<Body>| {
        let answer = answers.lock().pop_front();
        if answer.is_some() {
            heard.lock().push(asked(request.uri()));
        }
        async move {
            match answer {
                Some(Unreachable) => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
                Some(answer) => Ok(answer.response()),
                None => std::future::pending::<Result<Answered, Infallible>>().await.map_err(|never| match never {}),
            }
        }
    });
    let (events, mut messages_in) = mpsc::channel(1);
    let how = Follow { client: Client::new(server, "default"), row, events, metrics: Metrics::default() };
    let task = tokio::spawn(follow(
        how,
        |event| Message::Object(K::KIND, Box::new(map_event(event, |seen: Seen<K>| seen.served))),
        || Message::Object(K::KIND, Box::new(Happening::Absent)),
    ));
    let mut came = Vec::new();
    while came.len() < messages {
        let message = tokio::time::timeout(Duration::from_secs(100), messages_in.recv()).await;
        came.push(message.map_or_else(|_| "nothing".to_owned(), |message| told(&message.unwrap())));
    }
    // What is asked next is asked at once.
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(messages_in);
    tokio::time::timeout(Duration::from_secs(1), task).await.expect("it ends with its listener").unwrap();
    let questions = std::mem::take(&mut *questions.lock());
    (questions, came)
}

/// A claim, what the API server answers, what is asked of it, what comes of it.
type Case<'a> = (&'a str, &'a [Answer], &'a [&'a str], &'a [&'a str]);

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_whatever_the_api_server_does() {
    let rows: &[Case<'_>] = &[
        (
            "a streaming list goes on as a watch",
            &[Events(&[Added("a", 1), Listed(5), Modified("a", 6), Bookmark(7), Deleted("a", 8)], Hang)],
            &["stream"],
            &["begins", "(a)", "listed", "a", "-a"],
        ),
        (
            "refused, it is taken in pages",
            &[Refuse(422), Page(&["a"], Some("C"), "7"), Page(&["b"], None, "7"), Events(&[Added("c", 8)], Hang)],
            &["stream", "list", "list after C", "watch from 7"],
            &["begins", "(a)", "(b)", "listed", "c"],
        ),
        (
            "never begun by an old server, it is taken in pages",
            &[Events(&[Added("a", 1)], Hang), Page(&["a"], None, "7"), Events(&[], Hang)],
            &["stream", "list", "watch from 7"],
            &["begins", "(a)", "begins", "(a)", "listed"],
        ),
        (
            "a watch that ends goes on where it was",
            &[Events(&[Listed(5), Modified("a", 6)], Close), Events(&[Deleted("a", 9)], Hang)],
            &["stream", "watch from 6"],
            &["begins", "listed", "a", "-a"],
        ),
        (
            "one that breaks, too, from its last bookmark",
            &[Events(&[Listed(5), Bookmark(8)], Break), Unreachable, Refuse(503), Events(&[Added("a", 9)], Hang)],
            &["stream", "watch from 8", "watch from 8", "watch from 8"],
            &["begins", "listed", "a"],
        ),
        (
            "gone: a new list",
            &[Events(&[Listed(5)], Close), Events(&[Gone], Close), Events(&[Added("b", 9), Listed(9)], Hang)],
            &["stream", "watch from 5", "stream"],
            &["begins", "listed", "begins", "(b)", "listed"],
        ),
        (
            "gone, said by a status: a new list",
            &[Events(&[Listed(5)], Close), Refuse(410), Events(&[Added("b", 9), Listed(9)], Hang)],
            &["stream", "watch from 5", "stream"],
            &["begins", "listed", "begins", "(b)", "listed"],
        ),
        (
            "never let on again: a new list",
            &[Events(&[Listed(5)], Close), Refuse(504), Refuse(504), Refuse(504), Events(&[Listed(2)], Hang)],
            &["stream", "watch from 5", "watch from 5", "watch from 5", "stream"],
            &["begins", "listed", "begins", "listed"],
        ),
        (
            "a list that breaks off begins anew",
            &[Events(&[Added("a", 1)], Break), Events(&[Added("b", 9), Listed(9)], Hang)],
            &["stream", "stream"],
            &["begins", "(a)", "begins", "(b)", "listed"],
        ),
        (
            "a list that loses its page begins anew",
            &[Refuse(400), Page(&["a"], Some("C"), "7"), Refuse(410), Page(&["b"], None, "8"), Events(&[], Hang)],
            &["stream", "list", "list after C", "list", "watch from 8"],
            &["begins", "(a)", "begins", "(b)", "listed"],
        ),
        (
            "forbidden, unauthorized, busy: asked again until it may",
            &[Refuse(403), Refuse(401), Refuse(429), Refuse(404), Events(&[Listed(1)], Hang)],
            &["stream"; 5],
            &["begins", "listed"],
        ),
    ];
    let (_, service) = &KINDS[1];
    for (row, answers, questions, messages) in rows {
        let (asked, came) = converse::<Service>(service, answers, messages.len()).await;
        assert_eq!((asked, came), (strings(questions), strings(messages)), "{row}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_may_be_installed_and_removed_at_any_time() {
    let (_, policy) = &KINDS[6];
    let late: &[Answer] = &[Refuse(404), Refuse(404), Refuse(404), Events(&[Added("a", 1), Listed(5)], Hang)];
    let (asked, came) = converse::<PeerAuthentication>(policy, late, 5).await;
    assert_eq!(asked, ["stream", "v1beta1 stream", "stream", "v1beta1 stream"]);
    assert_eq!(came, ["absent", "absent", "begins", "(a)", "listed"]);

    let mut removed = vec![Events(&[Listed(5)], Close)];
    removed.extend(vec![Refuse(404); 20]);
    let began = tokio::time::Instant::now();
    let (asked, came) = converse::<PeerAuthentication>(policy, &removed, 3).await;
    assert_eq!(asked[..4], ["stream", "watch from 5", "v1beta1 stream", "stream"]);
    assert_eq!(came, ["begins", "listed", "absent"]);
    assert!(began.elapsed() >= Duration::from_secs(5), "only when that is sure: {:?}", began.elapsed());

    // An API server that starts and does not know its CRDs yet takes nothing away.
    let hiccup = [Events(&[Listed(5)], Close), Refuse(404), Refuse(404), Events(&[Listed(6)], Hang)];
    let (_, came) = converse::<PeerAuthentication>(policy, &hiccup, 4).await;
    assert_eq!(came, ["begins", "listed", "begins", "listed"]);
    assert_eq!(policy.kind, crate::source::kind_name(Kind::PeerAuthentication));
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
