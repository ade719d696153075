//! Long streams: the same on both ways a relay can move them, bounded when they stall, and good neighbours.

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use tokio::task::{coop, yield_now};

use super::*;
use crate::tcp::buffers;
use crate::tcp::relay::pipes;

const MIB: usize = 1024 * 1024;
/// A prime, so that no chunk or buffer size hides a mistake of order.
const PERIOD: usize = 1_000_003;

/// A socket that may say that it is none.
struct Socket {
    io: TcpStream,
    plain: Arc<AtomicBool>,
}

impl Socket {
    fn new(io: TcpStream, plain: bool) -> Self {
        Self { io, plain: Arc::new(AtomicBool::new(plain)) }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Abort for Socket {
    fn abort_on_drop(&self) {
        self.io.abort_on_drop();
    }

    fn plain(&self) -> Option<&TcpStream> {
        self.plain.load(Ordering::Relaxed).then_some(&self.io)
    }
}

/// `client ── a │ relay │ b ── server`, and whether `b` is still plain.
struct Way {
    client: TcpStream,
    server: TcpStream,
    counters: Arc<Counters>,
    relay: JoinHandle<Relayed>,
    plain: Arc<AtomicBool>,
}

async fn way(splices: bool) -> Way {
    let ((client, a), (b, server)) = (tcp_pair().await, tcp_pair().await);
    let (a, b) = (Socket::new(a, true), Socket::new(b, splices));
    let (counters, plain) = (Arc::<Counters>::default(), Arc::clone(&b.plain));
    let relay = tokio::spawn(relay(a, b, Arc::clone(&counters)));
    Way { client, server, counters, relay, plain }
}

fn pattern(seed: usize) -> Vec<u8> {
    (0..PERIOD).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed) as u8).collect()
}

/// What comes at `at`: as much of `len` as lies in one piece.
fn piece(pattern: &[u8], at: usize, len: usize) -> &[u8] {
    let from = at % PERIOD;
    &pattern[from..PERIOD.min(from + len)]
}

/// Writes `len` bytes of the pattern from `start` on.
async fn send(to: &mut (impl AsyncWrite + Unpin), pattern: &[u8], start: usize, len: usize) {
    let mut at = start;
    while at < start + len {
        let piece = piece(pattern, at, start + len - at);
        to.write_all(piece).await.unwrap();
        at += piece.len();
    }
}

/// Reads `len` bytes that must be the pattern's from `start` on.
async fn expect(from: &mut (impl AsyncRead + Unpin), pattern: &[u8], start: usize, len: usize) {
    let mut buf = vec![0; 64 * 1024];
    let mut at = start;
    while at < start + len {
        let room = (start + len - at).min(buf.len());
        let read = from.read(&mut buf[..room]).await.unwrap();
        let got = &buf[..read];
        assert!(!got.is_empty(), "ends at {at} instead of {}", start + len);
        let mut done = 0;
        while done < got.len() {
            let piece = piece(pattern, at + done, got.len() - done);
            assert!(got[done..done + piece.len()] == *piece, "wrong bytes at {} or soon after", at + done);
            done += piece.len();
        }
        at += done;
    }
}

async fn expect_end(from: &mut (impl AsyncRead + Unpin)) {
    assert_eq!(from.read(&mut [0]).await.unwrap(), 0);
}

/// Until the tasks of this thread have nothing left to do.
async fn settle(counter: &AtomicU64) {
    let (mut seen, mut same) = (0, 0);
    while same < 300 {
        yield_now().await;
        let now = counter.load(Ordering::Relaxed);
        (seen, same) = (now, if now == seen { same + 1 } else { 0 });
    }
}

fn pipes_in_use() -> usize {
    pipes::open() - pipes::empty()
}

#[tokio::test]
async fn a_hundred_mebibytes_both_ways_at_once_arrive_as_they_were_sent() {
    const LEN: usize = 100 * MIB;
    for splices in [true, false] {
        let mut way = way(splices).await;
        let (up, down) = (pattern(1), pattern(2));
        let (mut client_reads, mut client_writes) = way.client.split();
        let (mut server_reads, mut server_writes) = way.server.split();
        tokio::join!(
            async {
                send(&mut client_writes, &up, 0, LEN).await;
                client_writes.shutdown().await.unwrap();
            },
            async {
                send(&mut server_writes, &down, 0, LEN).await;
                server_writes.shutdown().await.unwrap();
            },
            async {
                expect(&mut server_reads, &up, 0, LEN).await;
                expect_end(&mut server_reads).await;
            },
            async {
                expect(&mut client_reads, &down, 0, LEN).await;
                expect_end(&mut client_reads).await;
            },
        );
        let relayed = done(way.relay).await;
        assert!(matches!(relayed.ended, Ended::Clean), "{relayed:?}");
        assert_eq!((relayed.a_to_b, relayed.b_to_a), (LEN as u64, LEN as u64));
        assert_eq!(way.counters.a_to_b.load(Ordering::Relaxed), LEN as u64);
        assert_eq!((pipes::open() > 0, pipes_in_use(), buffers::lent()), (true, 0, 0), "splices: {splices}");
        if splices {
            assert!(pipes::open() <= 2, "one for each direction");
        }
    }
}

#[tokio::test]
async fn a_long_stream_may_half_close_and_get_a_long_answer() {
    for splices in [true, false] {
        let Way { mut client, mut server, relay, .. } = way(splices).await;
        let data = pattern(3);
        tokio::join!(
            async {
                send(&mut client, &data, 0, 3 * MIB).await;
                client.shutdown().await.unwrap();
            },
            async {
                expect(&mut server, &data, 0, 3 * MIB).await;
                expect_end(&mut server).await;
            },
        );
        tokio::join!(
            async {
                send(&mut server, &data, 0, 2 * MIB).await;
                server.shutdown().await.unwrap();
            },
            async {
                expect(&mut client, &data, 0, 2 * MIB).await;
                expect_end(&mut client).await;
            },
        );
        let relayed = done(relay).await;
        assert!(matches!(relayed.ended, Ended::Clean), "{relayed:?}");
        assert_eq!((relayed.a_to_b, relayed.b_to_a), (3 * MIB as u64, 2 * MIB as u64));
    }
}

#[tokio::test]
async fn a_reset_in_a_long_stream_is_passed_on_as_a_reset_both_ways() {
    for (splices, from_client) in [(true, true), (true, false), (false, true), (false, false)] {
        let Way { mut client, mut server, relay, .. } = way(splices).await;
        let data = pattern(4);
        // Both directions are long.
        tokio::join!(send(&mut client, &data, 0, MIB), expect(&mut server, &data, 0, MIB));
        tokio::join!(send(&mut server, &data, 0, MIB), expect(&mut client, &data, 0, MIB));
        let (resets, mut hears, side) = if from_client { (client, server, Side::A) } else { (server, client, Side::B) };
        options::reset(resets);
        let error = hears.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "splices: {splices}, from client: {from_client}");
        match done(relay).await.ended {
            Ended::Failed { side: failed, error } => {
                assert_eq!((failed, error.kind()), (side, io::ErrorKind::ConnectionReset));
            }
            other => panic!("a reset is no other end: {other:?}"),
        }
    }
}

/// Sends from `sent` on until nobody takes more; how far that went.
async fn send_until_stalled(way: &Way, data: &[u8], mut sent: usize) -> usize {
    loop {
        match way.client.try_write(piece(data, sent, 64 * 1024)) {
            Ok(n) => sent += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let before = way.counters.a_to_b.load(Ordering::Relaxed);
                settle(&way.counters.a_to_b).await;
                let more = timeout(Duration::from_millis(50), way.client.writable()).await.is_ok();
                if !more && way.counters.a_to_b.load(Ordering::Relaxed) == before {
                    return sent;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_stalled_reader_costs_one_buffer_or_one_pipe() {
    for splices in [true, false] {
        let mut way = way(splices).await;
        let data = pattern(5);
        // Long already, and hot.
        tokio::join!(send(&mut way.client, &data, 0, MIB), expect(&mut way.server, &data, 0, MIB));
        let stalled = send_until_stalled(&way, &data, MIB).await;
        let held = if splices { (1, 0) } else { (0, 1) };
        assert_eq!((pipes_in_use(), buffers::lent()), held, "splices: {splices}");
        // Neither does time change that, nor is anything lost.
        let Way { client, mut server, relay, .. } = way;
        drop(client);
        expect(&mut server, &data, MIB, stalled - MIB).await;
        expect_end(&mut server).await;
        assert_eq!((pipes_in_use(), buffers::lent()), (0, 0), "splices: {splices}");
        drop(server);
        done(relay).await;
    }
}

#[tokio::test]
async fn a_relay_that_has_turned_quiet_owns_nothing() {
    for splices in [true, false] {
        let mut way = way(splices).await;
        let data = pattern(6);
        tokio::join!(send(&mut way.client, &data, 0, 2 * MIB), expect(&mut way.server, &data, 0, 2 * MIB));
        tokio::join!(send(&mut way.server, &data, 0, MIB), expect(&mut way.client, &data, 0, MIB));
        settle(&way.counters.b_to_a).await;
        assert_eq!((pipes_in_use(), buffers::lent()), (0, 0), "splices: {splices}");
        assert!(buffers::idle_bytes() <= MIB);
    }
}

#[tokio::test]
async fn a_stream_beyond_the_bound_on_pipes_is_copied() {
    pipes::pretend_open(1000);
    let mut way = way(true).await;
    let data = pattern(7);
    tokio::join!(send(&mut way.client, &data, 0, 2 * MIB), expect(&mut way.server, &data, 0, 2 * MIB));
    assert_eq!((pipes::open(), pipes::empty()), (1000, 0));
    // And spliced as soon as there is one.
    pipes::pretend_open(0);
    tokio::join!(send(&mut way.client, &data, 0, MIB), expect(&mut way.server, &data, 0, MIB));
    assert!(pipes::open() > 0);
}

#[tokio::test]
async fn what_is_in_the_pipe_is_not_lost_when_splicing_ends() {
    let mut way = way(true).await;
    let data = pattern(8);
    let stalled = send_until_stalled(&way, &data, 0).await;
    assert_eq!((pipes_in_use(), buffers::lent()), (1, 0), "it is stalled with bytes in the pipe");
    way.plain.store(false, Ordering::Relaxed);
    expect(&mut way.server, &data, 0, stalled).await;
    assert_eq!((pipes_in_use(), buffers::lent()), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn splicing_and_copying_move_the_same_bytes(
        writes in prop::collection::vec(1_usize..200_000, 1..20),
        reads in prop::collection::vec(1_usize..100_000, 1..10),
        seed in 0_usize..256,
        changes_at in 0_usize..20,
    ) {
        for splices in [true, false] {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let Way { mut client, mut server, relay, plain, .. } = way(splices).await;
                let data = pattern(seed);
                let total: usize = writes.iter().sum();
                let sending = async {
                    let mut at = 0;
                    for (index, &len) in writes.iter().enumerate() {
                        if index == changes_at {
                            plain.store(!splices, Ordering::Relaxed);
                        }
                        send(&mut client, &data, at, len).await;
                        at += len;
                        yield_now().await;
                    }
                    client.shutdown().await.unwrap();
                };
                let receiving = async {
                    let (mut at, mut sizes) = (0, reads.iter().cycle());
                    while at < total {
                        let len = (*sizes.next().unwrap()).min(total - at);
                        expect(&mut server, &data, at, len).await;
                        at += len;
                        yield_now().await;
                    }
                    expect_end(&mut server).await;
                };
                tokio::join!(sending, receiving);
                drop((client, server));
                let relayed = done(relay).await;
                assert_eq!((relayed.a_to_b, relayed.b_to_a), (total as u64, 0));
            });
        }
    }
}

/// Always has something to read, takes whatever is written, and is as much work for the runtime as a socket is.
struct Endless {
    /// How much a read brings.
    brings: usize,
}

impl AsyncRead for Endless {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(coop::poll_proceed(cx)).made_progress();
        let len = self.brings.min(buf.remaining());
        buf.initialize_unfilled_to(len);
        buf.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(coop::poll_proceed(cx)).made_progress();
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Abort for Endless {
    fn abort_on_drop(&self) {}
}

/// To the end of the thread's queue: unlike `yield_now` not past it, to the next look at the sockets.
async fn queue_again() {
    let mut queued = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut queued, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[tokio::test]
async fn a_direction_that_is_never_done_leaves_the_other_its_half() {
    // Small pieces use up the task's budget, large ones the relay's own bound.
    for brings in [1, 1000, usize::MAX] {
        let counters = Arc::<Counters>::default();
        let relay = tokio::spawn(relay(Endless { brings }, Endless { brings }, Arc::clone(&counters)));
        let moved = Arc::clone(&counters);
        let neighbour = tokio::spawn(async move {
            let mut most = 0;
            for _ in 0..100 {
                let before = moved.a_to_b.load(Ordering::Relaxed);
                queue_again().await;
                most = most.max(moved.a_to_b.load(Ordering::Relaxed) - before);
            }
            most
        });
        let most = neighbour.await.unwrap();
        let (there, back) = (counters.a_to_b.load(Ordering::Relaxed), counters.b_to_a.load(Ordering::Relaxed));
        assert!(there > 0 && there.abs_diff(back) <= there / 10, "{brings}: {there} there, {back} back");
        assert!(most <= 2 * buffers::LARGEST as u64, "{brings}: {most} bytes before others ran");
        relay.abort();
    }
}

#[tokio::test]
async fn a_pair_that_is_always_busy_is_cut_in_time() {
    for brings in [1, 1000, usize::MAX] {
        let cut = tokio::time::sleep(std::time::Duration::from_millis(20));
        let relay = tokio::spawn(relay_until(Endless { brings }, Endless { brings }, Arc::default(), cut));
        assert!(matches!(done(relay).await.ended, Ended::Cut), "{brings} bytes at a time");
    }
}

#[tokio::test]
async fn a_busy_relay_does_not_starve_fifty_quiet_ones() {
    let busy = way(true).await;
    let data = pattern(9);
    let flood = tokio::spawn(async move {
        let (mut client, mut server) = (busy.client, busy.server);
        let (mut out, mut sink) = (0, vec![0; 256 * 1024]);
        loop {
            tokio::select! {
                sent = client.write(piece(&data, out, 256 * 1024)) => out += sent.unwrap(),
                read = server.read(&mut sink) => assert!(read.unwrap() > 0),
            }
        }
    });
    let mut quiet = Vec::new();
    for _ in 0..50 {
        quiet.push(way(true).await);
    }
    while busy.counters.a_to_b.load(Ordering::Relaxed) < MIB as u64 {
        yield_now().await;
    }
    for round in 0..20_u8 {
        let before = busy.counters.a_to_b.load(Ordering::Relaxed);
        let exchanges = quiet.iter_mut().map(|way| async move {
            way.client.write_all(&[round]).await.unwrap();
            assert_eq!(way.server.read_u8().await.unwrap(), round);
            way.server.write_all(&[!round]).await.unwrap();
            assert_eq!(way.client.read_u8().await.unwrap(), !round);
        });
        timeout(SOON, futures_util::future::join_all(exchanges)).await.expect("everybody gets through");
        let meanwhile = busy.counters.a_to_b.load(Ordering::Relaxed) - before;
        // A handful of turns of the loop, and not more than the bound in each.
        assert!(meanwhile <= 64 * MIB as u64, "round {round}: {meanwhile} bytes of the busy one went first");
    }
    assert!(!flood.is_finished(), "it was busy all the time");
    flood.abort();
}
