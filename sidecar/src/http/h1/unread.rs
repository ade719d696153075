//! Whether an app that is lost can have read a request: what makes a POST on a connection the app was just closing safe to
//! send again (SEMANTICS.md §3, retries (a)).
//!
//! An app that is being ended closes idle connections and its listener while requests are on their way. Bytes have been
//! written then, and yet nobody read them. The app's kernel says so, if one listens closely. It is our own kernel, since the
//! app is reached over loopback, so no middlebox speaks in its name:
//!
//! | what the app did | what comes back |
//! |---|---|
//! | closed, and then our bytes arrived | FIN, then RST to the bytes, and `TCPAbortOnData` counts it |
//! | closed with bytes of ours unread (RFC 2525 §2.17), or its listener before it accepted | RST |
//! | aborted: closed with `SO_LINGER` of zero, having read everything or not | RST, and `TCPAbortOnData` counts it |
//! | read all there was, then closed, or died | FIN |
//!
//! So, where not a byte of a response has come, and what was sent of the request was one piece, handed to the kernel in one write (the
//! whole request, or its head, when the app is lost before the body comes):
//!
//! * FIN and then RST: it had closed before the request came.
//! * RST alone, while no connection of this network namespace was aborted since before the request was written (`netstat`'s
//!   `TCPAbortOnData`): some of what we had sent was unread. Of a request no longer than any reader's buffer ([`ONE_PIECE`])
//!   some is all, for who reads gets the whole of it at once. An app that ends closes many connections at once, so that the
//!   first kind of row is counted beside the second: those of our own connections are subtracted ([`closed_before`]).
//!
//! So that a small request is one piece also where its body came a moment after its head (over HTTP/2 it is a frame of its
//! own), the head waits for it ([`GATHER`]): the app could do nothing without it.
//!
//! One thing is taken on trust: an app that closes one connection in two steps (FIN, and the rest later, with a request of ours
//! unread) and aborts another, whose request it has read, within the same moment. The first is subtracted though nobody
//! counted it, and hides the second. Servers do the one or the other.
//!
//! That, and not less, is called not processed. Everything else (a body that came later, a longer request, a FIN, a byte of
//! a response, an abort of anybody's meanwhile) may have run.
//!
//! Cost: for a request that is not safe to repeat, one look at the counter in [`SAMPLE_EVERY`]; for others to the app one at
//! the clock. Bound: [`MAX_CLOSED`] instants.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use crate::http::io::{BoxedIo, Io};

/// A request of so many bytes, head and body, is read at once: a page, as small a buffer as servers of HTTP have.
pub(super) const ONE_PIECE: u64 = 4096;
/// How long the head of a request of one piece waits for its body: as long as a thread on a busy node may wait for a processor between
/// the two, which 20 ms was not.
const GATHER: Duration = Duration::from_millis(100);
/// Over loopback a reset follows its cause, and the count follows the reset, in microseconds; but an app that has said FIN may
/// have to wait for a processor before it closes: on a busy node, where pods of no guaranteed share are the last to get one, for
/// longer than 140 ms. In ms; half a second in all, by which the answer is late that nobody can be spared otherwise.
const LOOK_AGAIN: [u64; 6] = [1, 2, 8, 30, 100, 360];
/// The count of a moment ago does as well as the one of now: it is only the wider a window to find an abort in.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);
/// `/proc/net/netstat` is some 4 KiB.
const MAX_FILE: usize = 16 * 1024;

/// Whether a request's head waits for its body, to be one piece with it.
pub(super) enum Gather {
    /// It is written at once, or has been.
    No,
    /// It will, if the body is not there yet.
    If,
    /// It does, until this moment.
    Until(Pin<Box<Sleep>>),
}

impl Gather {
    /// Whether the head may be written now, when the body has not come.
    pub(super) fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if matches!(self, Self::If) {
            *self = Self::Until(Box::pin(tokio::time::sleep(GATHER)));
        }
        match self {
            Self::Until(time) => time.as_mut().poll(cx).is_ready(),
            Self::No | Self::If => true,
        }
    }
}

/// Whether a lost connection was reset; a FIN may be all that is known of it yet.
pub(super) async fn was_reset(io: &mut BoxedIo) -> bool {
    for wait in LOOK_AGAIN {
        if io.was_reset() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
    io.was_reset()
}

/// When requests were begun on connections that the app had closed before: each is in `TCPAbortOnData`, and is no abort.
static CLOSED: Mutex<VecDeque<Instant>> = Mutex::new(VecDeque::new());
/// The oldest are forgotten beyond so many; what is forgotten counts as an abort.
const MAX_CLOSED: usize = 1024;

/// A request begun at `began` found a FIN on this connection. Notes it if a RST follows: then the app had closed it. Costs a task
/// of half a second at most, where the reset is not there yet.
pub(super) fn tell_if_closed(mut io: BoxedIo, began: Instant) {
    if io.was_reset() {
        return closed_before(began);
    }
    tokio::spawn(async move {
        if was_reset(&mut io).await {
            closed_before(began);
        }
    });
}

fn closed_before(began: Instant) {
    let mut closed = CLOSED.lock();
    if closed.len() == MAX_CLOSED {
        closed.pop_front();
    }
    closed.push_back(began);
}

/// How many connections of this network namespace were aborted before a request was written, and when that was read; `None`
/// where the kernel does not say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Aborts {
    count: Option<u64>,
    /// After the count was read: what is begun later than this is not in it.
    read: Instant,
}

impl Aborts {
    /// So far, or a moment ago.
    pub(super) fn so_far() -> Self {
        static LATEST: Mutex<Option<Aborts>> = Mutex::new(None);
        static LOOKING: Mutex<()> = Mutex::new(());
        let known = *LATEST.lock();
        if let Some(known) = known
            && known.read.elapsed() < SAMPLE_EVERY
        {
            return known;
        }
        let looking = LOOKING.try_lock();
        if looking.is_none()
            && let Some(known) = known
        {
            // Another worker is reading it, which takes a while: an older one is as good, only less often of use.
            return known;
        }
        let count = count();
        *LATEST.lock().insert(Self { count, read: Instant::now() })
    }

    /// Whether there was provably none since. Called after a reset: the kernel sends one before it counts, and others of our
    /// connections may still have to find out that they were closed.
    pub(super) async fn none_since(self) -> bool {
        let Some(before) = self.count else { return false };
        let (mut aborts, mut closed) = (0, 0);
        for wait in &LOOK_AGAIN[1..] {
            tokio::time::sleep(Duration::from_millis(*wait)).await;
            let Some(now) = count() else { return false };
            aborts = now.saturating_sub(before);
            // The write that the kernel counted came after the request was begun: none of these is in `before`.
            closed = CLOSED.lock().iter().filter(|began| **began > self.read).count();
            if aborts <= u64::try_from(closed).unwrap_or(0) {
                return true;
            }
        }
        tracing::debug!(aborts, closed, "connections were aborted: whether a request was read cannot be told");
        false
    }
}

/// `TCPAbortOnData` of this network namespace.
fn count() -> Option<u64> {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    static COLUMN: AtomicU64 = AtomicU64::new(0);
    let file = FILE.get_or_init(|| File::open("/proc/net/netstat").ok()).as_ref()?;
    let mut buffer = [0; MAX_FILE];
    let length = file.read_at(&mut buffer, 0).ok()?;
    let text = std::str::from_utf8(buffer.get(..length)?).ok()?;
    let (count, column) = abort_on_data(text, usize::try_from(COLUMN.load(Ordering::Relaxed)).unwrap_or(0))?;
    COLUMN.store(u64::try_from(column).unwrap_or(0), Ordering::Relaxed);
    Some(count)
}

/// The number and its column; `column` is where it was found before.
fn abort_on_data(text: &str, column: usize) -> Option<(u64, usize)> {
    const NAME: &str = "TCPAbortOnData";
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let column = match names.split(' ').nth(column) {
        Some(NAME) => column,
        _ => names.split(' ').position(|name| name == NAME)?,
    };
    Some((values.split(' ').nth(column)?.parse().ok()?, column))
}

#[cfg(test)]
mod tests {
    use http::{Method, Request};
    use socket2::SockRef;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::http::h1::HeadLimits;
    use crate::http::h1::client::Connection;
    use crate::http::{Body, Processed};

    fn post(body: usize) -> crate::http::Request {
        let request = Request::builder().method(Method::POST).uri("/").header("host", "app");
        request.header("content-length", body).body(Body::full(vec![b'x'; body])).unwrap()
    }

    async fn connection() -> (Connection, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Connection::new(io, HeadLimits::default()).to_app(true), listener)
    }

    async fn processed(connection: Connection, body: usize) -> Processed {
        connection.send(post(body)).await.unwrap_err().processed
    }

    /// Other tests abort connections, and then nothing can be said: tries until one of them was let alone.
    async fn is_not_processed<F: Future<Output = Processed>>(what: &str, once: impl Fn() -> F) {
        for _ in 0..300 {
            if once().await == Processed::No {
                return;
            }
        }
        panic!("{what}: it may have run, every time");
    }

    #[tokio::test]
    async fn what_an_app_closes_unread_it_has_not_processed() {
        for _ in 0..20 {
            let (connection, listener) = connection().await;
            drop(listener.accept().await.unwrap());
            assert_eq!(processed(connection, 5).await, Processed::No, "closed before the request was written");
        }
        is_not_processed("closed with the request unread", async || {
            let (connection, listener) = connection().await;
            let (app, _) = listener.accept().await.unwrap();
            let ends = async {
                app.readable().await.unwrap();
                drop(app);
            };
            tokio::join!(processed(connection, 5), ends).0
        })
        .await;
        is_not_processed("a head whose body is still to come", async || {
            let (connection, listener) = connection().await;
            drop(listener.accept().await.unwrap());
            let (_body, received) = Body::channel(Some(5));
            let mut request = post(5);
            *request.body_mut() = received;
            connection.send(request).await.unwrap_err().processed
        })
        .await;
        is_not_processed("never accepted", async || {
            let (connection, listener) = connection().await;
            let ends = async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                drop(listener);
            };
            tokio::join!(processed(connection, 5), ends).0
        })
        .await;
    }

    #[tokio::test]
    async fn what_an_app_may_have_read_it_may_have_processed() {
        /// What the app reads before it ends, of a request of how much, what it says, and whether it aborts.
        const ROWS: [(&str, usize, usize, &[u8], bool); 5] = [
            ("all of it", 4096, 5, b"", false),
            ("all of it, and it aborts", 4096, 5, b"", true),
            ("a part of something long", 100, 8192, b"", false),
            ("nothing, but it answers", 0, 5, b"HTTP/1.1 2", false),
            ("nothing, but it says something", 0, 5, b"HTTP/1.1 103 Early Hints\r\n\r\n", false),
        ];
        for (what, reads, body, says, aborts) in ROWS {
            let (connection, listener) = connection().await;
            let (mut app, _) = listener.accept().await.unwrap();
            let ends = async {
                app.readable().await.unwrap();
                if reads > 0 {
                    let _ = app.read(&mut vec![0; reads]).await.unwrap();
                }
                app.write_all(says).await.unwrap();
                if !says.is_empty() {
                    // Until it has been seen: a reset may destroy it.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                if aborts {
                    SockRef::from(&app).set_linger(Some(Duration::ZERO)).unwrap();
                }
                drop(app);
            };
            let (processed_by, ()) = tokio::join!(processed(connection, body), ends);
            assert_eq!(processed_by, Processed::Unknown, "{what}");
        }
    }

    #[tokio::test]
    async fn a_heads_wait_for_its_short_body_is_short() {
        for (what, comes_after, with_its_head) in
            [("a moment later", Some(Duration::from_millis(1)), true), ("when the app has the head", None, false)]
        {
            let (connection, listener) = connection().await;
            let (mut app, _) = listener.accept().await.unwrap();
            let (mut body, received) = Body::channel(Some(5));
            let mut request = post(5);
            *request.body_mut() = received;
            let reads = async {
                if let Some(after) = comes_after {
                    tokio::time::sleep(after).await;
                    body.send_last(b"hello"[..].into());
                }
                let mut buffer = vec![0; 4096];
                let first = app.read(&mut buffer).await.unwrap();
                assert_eq!(buffer[..first].ends_with(b"hello"), with_its_head, "{what}");
                if comes_after.is_none() {
                    body.send_last(b"hello"[..].into());
                    assert_eq!(app.read(&mut buffer).await.unwrap(), 5, "{what}");
                }
                app.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            };
            let (response, ()) = tokio::join!(connection.send(request), reads);
            assert_eq!(response.unwrap().status(), 204, "{what}");
        }
    }

    #[tokio::test]
    async fn a_reset_that_comes_late_is_noted_all_the_same() {
        for method in [Method::GET, Method::POST] {
            let (connection, listener) = connection().await;
            let (app, _) = listener.accept().await.unwrap();
            // FIN alone: the app goes on to hold what it was sent.
            SockRef::from(&app).shutdown(std::net::Shutdown::Write).unwrap();
            let before = Instant::now();
            let mut request = post(5);
            *request.method_mut() = method.clone();
            let lost = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                drop(app);
            };
            let (sent, ()) = tokio::join!(connection.send(request), lost);
            assert!(sent.is_err());
            let noted = async || {
                // Of other tests as well, but none is as old as this one.
                while !CLOSED.lock().iter().any(|began| *began >= before) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(2), noted()).await.unwrap_or_else(|_| panic!("{method}"));
        }
    }

    #[tokio::test]
    async fn only_of_the_local_app_a_reset_says_anything() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        drop(listener.accept().await.unwrap());
        assert_eq!(processed(Connection::new(io, HeadLimits::default()), 5).await, Processed::Unknown);
    }

    #[test]
    fn the_kernels_count_is_found_by_its_name() {
        let text = "TcpExt: SyncookiesSent TCPAbortOnData TCPAbortOnClose\nTcpExt: 1 22 333\nIpExt: A\nIpExt: 4\n";
        for column in [0, 2, 99] {
            assert_eq!(abort_on_data(text, column), Some((22, 2)), "last found in {column}");
        }
        for broken in ["", "TcpExt: TCPAbortOnData\n", "TcpExt: A\nTcpExt: 1\n", "TcpExt: TCPAbortOnData\nTcpExt: x\n"]
        {
            assert_eq!(abort_on_data(broken, 0), None, "{broken}");
        }
        assert!(count().is_some(), "this kernel counts");
    }
}
