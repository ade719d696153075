use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;

type Sent = mpsc::UnboundedSender<Result<Frame<Bytes>, Status>>;
type Received = Bounded<StreamBody<UnboundedReceiverStream<Result<Frame<Bytes>, Status>>>>;

fn call(room: &Room) -> (Sent, Received) {
    let (sent, received) = mpsc::unbounded_channel();
    let body = StreamBody::new(UnboundedReceiverStream::new(received));
    (sent, Bounded::new(body, room.clone(), Calls::default().enter().unwrap()))
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
    let frame = call.frame().now_or_never()?.unwrap();
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
async fn a_request_has_its_room_until_more_is_wanted() {
    let room = Room::default();
    let left = || MAX_TOGETHER - room.0.available_permits();
    let (sent, mut call) = call(&room);
    send(&sent, [&head(3)[..], b"abc", &head(0), &head(2), b"d"].concat());
    let mut seen = Vec::new();
    while let Some(part) = now(&mut call) {
        seen.push((part.unwrap(), left()));
    }
    let expected = [(head(3), 3), ("abc".into(), 3), (head(0), 0), (head(2), 2), ("d".into(), 2)];
    assert_eq!(seen, expected);
    send(&sent, "e");
    assert_eq!((now(&mut call).unwrap().unwrap(), left()), ("e".into(), 2), "whoever reads has it");
    assert_eq!((now(&mut call).is_none(), left()), (true, 0), "and wants more");
    send(&sent, head(MAX_REQUEST));
    assert_eq!((all(&mut call).len(), left()), (HEAD, MAX_REQUEST));
    drop(call);
    assert_eq!(left(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_too_large_is_not_read() {
    let (sent, mut call) = call(&Room::default());
    send(&sent, head(MAX_REQUEST + 1));
    let status = now(&mut call).unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.message().contains("4194305 bytes is more than this replica reads"), "{status}");
}

#[tokio::test(start_paused = true)]
async fn the_next_waits_for_room_and_is_sent_away_when_it_takes_too_long() {
    let room = Room::default();
    let mut full: Vec<_> = (0..MAX_TOGETHER / MAX_REQUEST).map(|_| call(&room)).collect();
    for (sent, call) in &mut full {
        send(sent, head(MAX_REQUEST));
        assert_eq!(all(call).len(), HEAD);
    }
    let (sent, mut waits) = call(&room);
    send(&sent, [&head(2)[..], b"ab"].concat());
    assert!(now(&mut waits).is_none());
    let (impatient, mut late) = call(&room);
    send(&impatient, head(MAX_REQUEST));
    assert!(now(&mut late).is_none());
    full.pop();
    assert_eq!([now(&mut waits), now(&mut waits)].map(|part| part.unwrap().unwrap()), [head(2), "ab".into()]);
    tokio::time::advance(MESSAGE_TIME - Duration::from_millis(1)).await;
    assert!(now(&mut late).is_none(), "two bytes are missing");
    tokio::time::advance(Duration::from_millis(2)).await;
    assert_eq!(code(now(&mut late)), Some(tonic::Code::ResourceExhausted));
    // Those who had room and were slow gave it up as well.
    assert_eq!(code(now(&mut full[0].1)), Some(tonic::Code::DeadlineExceeded));
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
fn a_connection_has_eight_calls() {
    let calls = Calls::default();
    let mut under_way: Vec<_> = (0..MAX_CALLS).map(|_| calls.enter().unwrap()).collect();
    let refused = calls.enter().unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(refused.message().contains("8 discovery calls"), "{refused}");
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
        prop_assert_eq!(room.0.available_permits(), MAX_TOGETHER);
    }
}
