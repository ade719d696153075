use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;

type Sent = mpsc::UnboundedSender<Result<Frame<Bytes>, Status>>;
type Received = Bounded<StreamBody<UnboundedReceiverStream<Result<Frame<Bytes>, Status>>>>;

fn id(number: usize) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", &format!("a{number}")).unwrap()
}

/// A call on a connection of its own, of an identity.
fn call_of(room: &Room, number: usize) -> (Sent, Received) {
    call_on(&room.connection(&id(number)))
}

fn call(room: &Room) -> (Sent, Received) {
    call_of(room, 0)
}

fn call_on(calls: &Calls) -> (Sent, Received) {
    let (sent, received) = mpsc::unbounded_channel();
    let body = StreamBody::new(UnboundedReceiverStream::new(received));
    (sent, Bounded::new(body, calls.enter().unwrap()))
}

/// What is taken: of small requests, of large ones.
fn taken(room: &Room) -> (usize, usize) {
    let Sizes { small, large } = &room.0.sizes;
    (SMALL_TOGETHER - small.available_permits(), LARGE_TOGETHER - large.available_permits())
}

/// The head of a message.
fn head(length: usize) -> Bytes {
    let mut head = vec![0];
    head.extend(u32::try_from(length).unwrap().to_be_bytes());
    head.into()
}

fn send(to: &Sent, bytes: impl Into<Bytes>) {
    to.send(Ok(Frame::data(bytes.into()))).unwrap();
}

/// What comes at once: bytes, or the status in its place; `None` where it has to be waited.
fn now(call: &mut Received) -> Option<Result<Bytes, Status>> {
    // However many there are: a test is no task that has to let others run.
    let frame = tokio::task::unconstrained(call.frame()).now_or_never()?.unwrap();
    Some(frame.map(|frame| frame.into_data().unwrap()).map_err(|error| *error.downcast::<Status>().unwrap()))
}

/// All bytes that come at once.
fn all(call: &mut Received) -> Vec<u8> {
    std::iter::from_fn(|| now(call)).flat_map(|part| part.unwrap().to_vec()).collect()
}

fn code(found: Option<Result<Bytes, Status>>) -> Option<tonic::Code> {
    found.map(|found| found.unwrap_err().code())
}

#[tokio::test(start_paused = true)]
async fn a_request_has_its_room_until_it_is_decoded_or_more_is_wanted() {
    let room = Room::default();
    let (sent, mut call) = call(&room);
    send(&sent, [&head(3)[..], b"abc", &head(0), &head(2), b"d"].concat());
    let mut seen = Vec::new();
    while let Some(part) = now(&mut call) {
        seen.push((part.unwrap(), taken(&room).0));
    }
    let expected = [(head(3), 3), ("abc".into(), 3), (head(0), 0), (head(2), 2), ("d".into(), 2)];
    assert_eq!(seen, expected);
    send(&sent, "e");
    assert_eq!((now(&mut call).unwrap().unwrap(), taken(&room).0), ("e".into(), 2), "whoever reads has it");
    assert_eq!((now(&mut call).is_none(), taken(&room).0), (true, 0), "and wants more");
    send(&sent, [&head(1)[..], b"f"].concat());
    assert_eq!((all(&mut call).len(), taken(&room)), (HEAD + 1, (0, 0)));
    send(&sent, [&head(1)[..], b"g"].concat());
    assert_eq!([now(&mut call), now(&mut call)].map(|part| part.unwrap().unwrap()), [head(1), "g".into()]);
    assert_eq!(taken(&room).0, 1);
    call.call.held().release();
    assert_eq!(taken(&room).0, 0, "nobody has asked for more");
    send(&sent, head(MAX_REQUEST));
    assert_eq!((all(&mut call).len(), taken(&room)), (HEAD, (0, MAX_REQUEST)));
    drop(call);
    assert_eq!(taken(&room), (0, 0));
    assert!(room.0.shares.lock().is_empty(), "who is gone is forgotten");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_too_large_is_not_read() {
    let (sent, mut call) = call(&Room::default());
    send(&sent, head(MAX_REQUEST + 1));
    let status = now(&mut call).unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.message().contains("4194305 bytes is more than this replica reads"), "{status}");
}

/// As many connections of an identity, each with the head of a request of so many bytes, for which there is room.
fn half_sent(room: &Room, number: usize, count: usize, bytes: usize) -> Vec<(Sent, Received)> {
    let mut calls: Vec<_> = (0..count).map(|_| call_of(room, number)).collect();
    for (sent, call) in &mut calls {
        send(sent, head(bytes));
        assert_eq!(all(call).len(), HEAD);
    }
    calls
}

/// Connections that have an identity's share of large requests.
const SHARE: usize = LARGE_TOGETHER / SHARES / MAX_REQUEST;

#[tokio::test(start_paused = true)]
async fn the_next_waits_for_room_and_is_sent_away_when_it_takes_too_long() {
    let room = Room::default();
    let mut full: Vec<_> = (1..=SHARES).flat_map(|number| half_sent(&room, number, SHARE, MAX_REQUEST)).collect();
    assert_eq!(taken(&room), (0, LARGE_TOGETHER));
    let large = vec![b'a'; SMALL_REQUEST + 1];
    let (sent, mut waits) = call_of(&room, 0);
    send(&sent, head(large.len()));
    assert!(now(&mut waits).is_none());
    let (impatient, mut late) = call_of(&room, 9);
    send(&impatient, head(MAX_REQUEST));
    assert!(now(&mut late).is_none());
    full.pop();
    send(&sent, large.clone());
    assert_eq!(
        [now(&mut waits), now(&mut waits)].map(|part| part.unwrap().unwrap()),
        [head(large.len()), large.into()]
    );
    tokio::time::advance(MESSAGE_TIME - Duration::from_millis(1)).await;
    assert!(now(&mut late).is_none(), "what is there is not enough");
    tokio::time::advance(Duration::from_millis(2)).await;
    assert_eq!(code(now(&mut late)), Some(tonic::Code::ResourceExhausted));
    // Those who had room and were slow gave it up as well.
    assert_eq!(code(now(&mut full[0].1)), Some(tonic::Code::DeadlineExceeded));
}

#[tokio::test(start_paused = true)]
async fn large_requests_keep_nobody_from_small_ones_and_no_identity_another_from_either() {
    let room = Room::default();
    let _all = half_sent(&room, 1, SHARE, MAX_REQUEST);
    let rows = [
        ("the same identity has its share", 1, MAX_REQUEST, false),
        ("and a share of small ones", 1, SMALL_REQUEST, true),
        ("another", 2, MAX_REQUEST, true),
    ];
    let mut open = Vec::new();
    for (row, number, bytes, passes) in rows {
        let (sent, mut call) = call_of(&room, number);
        send(&sent, head(bytes));
        assert_eq!(now(&mut call).is_some(), passes, "{row}");
        open.push((sent, call));
    }
    let most = SMALL_TOGETHER / SHARES / SMALL_REQUEST;
    let _small = half_sent(&room, 3, most, SMALL_REQUEST);
    for (number, passes) in [(3, false), (2, true)] {
        let (sent, mut call) = call_of(&room, number);
        send(&sent, head(1));
        assert_eq!(now(&mut call).is_some(), passes, "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_reads_large_requests_one_after_the_other() {
    let room = Room::default();
    let connection = room.connection(&id(0));
    let [(one, mut first), (two, mut second)] = [call_on(&connection), call_on(&connection)];
    for sent in [&one, &two] {
        send(sent, head(MAX_REQUEST));
    }
    assert!(now(&mut first).is_some() && now(&mut second).is_none());
    assert_eq!(taken(&room), (0, MAX_REQUEST), "who waits for its own keeps nothing of all");
    drop(first);
    assert!(now(&mut second).is_some());
}

#[tokio::test(start_paused = true)]
async fn between_requests_there_is_all_the_time() {
    let (sent, mut call) = call(&Room::default());
    for _ in 0..2 {
        tokio::time::advance(100 * MESSAGE_TIME).await;
        assert!(now(&mut call).is_none());
        send(&sent, [&head(1)[..], b"a"].concat());
        assert_eq!(all(&mut call).len(), HEAD + 1);
    }
    drop(sent);
    assert!(call.frame().await.is_none(), "and the end is passed on");
}

#[test]
fn a_connection_has_three_calls() {
    let calls = Room::default().connection(&id(0));
    let mut under_way: Vec<_> = (0..MAX_CALLS).map(|_| calls.enter().unwrap()).collect();
    let refused = calls.enter().err().unwrap();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(refused.message().contains("3 discovery calls"), "{refused}");
    under_way.pop();
    assert!(calls.enter().is_ok());
}

proptest! {
    #[test]
    fn what_fits_passes_unchanged_however_it_is_cut(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
        cuts in prop::collection::vec(1..30_usize, 1..50),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let room = Room::default();
        let (sent, mut call) = call(&room);
        let bytes: Vec<u8> = messages.iter().flat_map(|body| [&head(body.len())[..], body].concat()).collect();
        let (mut rest, mut passed) = (&bytes[..], Vec::new());
        for cut in cuts.iter().cycle() {
            let (part, behind) = rest.split_at((*cut).min(rest.len()));
            send(&sent, part.to_vec());
            passed.extend(all(&mut call));
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(passed, bytes);
        prop_assert_eq!(taken(&room), (0, 0));
    }
}
