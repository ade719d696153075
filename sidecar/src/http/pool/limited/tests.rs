//! The limits of a backend, which its endpoints' pools share (SEMANTICS.md §3 "limits").

use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc::UnboundedReceiver;

use super::super::tests::{Endpoint, request, settings, settle};
use super::super::*;
use crate::http::io::Io;
use crate::http::server::{ServerSettings, serve};
use crate::http::tests::{answer, handler};
use crate::listen::drain;
use crate::resilience::{Limit, Limits};
use crate::tcp::Abort;

fn limiter(max_connections: u32, max_pending: u32) -> Limiter {
    Limiter::new(Limits {
        max_connections: NonZeroU32::new(max_connections),
        max_pending: NonZeroU32::new(max_pending),
        ..Limits::default()
    })
}

/// Endpoints of one backend, and a pool to each.
fn backend<const N: usize>(proto: Proto, limits: &Limiter) -> ([(Endpoint, Pool); N], [UnboundedReceiver<String>; N]) {
    let mut arrivals = Vec::new();
    let pools = std::array::from_fn(|_| {
        let (endpoint, arrived) = Endpoint::new(proto);
        arrivals.push(arrived);
        (endpoint, Pool::limited(settings(proto), limits.clone()))
    });
    (pools, arrivals.try_into().unwrap())
}

#[tokio::test]
async fn the_sum_over_endpoints_is_limited_and_an_idle_connection_makes_room() {
    for proto in [Proto::H1, Proto::H2] {
        let limits = limiter(1, 0);
        let ([(a, to_a), (b, to_b)], _) = backend(proto, &limits);
        for _ in 0..3 {
            for (endpoint, pool, other) in [(&a, &to_a, &to_b), (&b, &to_b, &to_a)] {
                endpoint.go.notify_one();
                let response = endpoint.send(pool, "/").await.unwrap().unwrap();
                crate::http::tests::collect(response.into_body()).await.unwrap();
                settle().await;
                assert_eq!((pool.sizes().open, other.sizes().open), (1, 0), "{proto:?}");
                assert_eq!(limits.taken(Limit::Connections), 1, "{proto:?}");
            }
        }
        assert_eq!((a.opened(), b.opened()), (3, 3), "{proto:?}");
        drop((to_a, to_b));
        settle().await;
        assert_eq!(limits.taken(Limit::Connections), 0, "{proto:?}");
    }
}

#[tokio::test]
async fn a_connection_given_back_stays_with_those_who_wait_for_its_endpoint() {
    let limits = limiter(2, 0);
    let ([(a, to_a), (b, to_b)], [mut at_a, mut at_b]) = backend(Proto::H1, &limits);
    let mut sent = vec![a.send(&to_a, "/a1")];
    settle().await;
    sent.push(b.send(&to_b, "/b1"));
    settle().await;
    // `b` was there first, and waits for a place as well: but it has a connection, so `a` keeps its own.
    sent.push(b.send(&to_b, "/b2"));
    settle().await;
    sent.push(a.send(&to_a, "/a2"));
    settle().await;
    assert_eq!((at_a.recv().await.unwrap(), at_b.recv().await.unwrap()), ("/a1".into(), "/b1".into()));
    a.go.notify_one();
    assert_eq!(at_a.recv().await.unwrap(), "/a2");
    assert_eq!((a.opened(), b.opened()), (1, 1));
    // Nobody waits at `a` any more: its place goes to `b`.
    a.go.notify_one();
    assert_eq!(at_b.recv().await.unwrap(), "/b2");
    assert_eq!((a.opened(), b.opened(), to_a.sizes().open), (1, 2, 0));
    b.go.notify_one();
    b.go.notify_one();
    settle().await;
    b.go.notify_one();
    for sent in sent {
        sent.await.unwrap().unwrap();
    }
    assert_eq!(limits.taken(Limit::Connections), 2);
}

#[tokio::test]
async fn an_endpoint_without_any_connection_is_given_one_that_was_in_use() {
    for proto in [Proto::H1, Proto::H2] {
        let limits = limiter(1, 0);
        let ([(a, to_a), (b, to_b)], [mut at_a, mut at_b]) = backend(proto, &limits);
        let first = a.send(&to_a, "/a1");
        at_a.recv().await.unwrap();
        let starving = b.send(&to_b, "/b");
        settle().await;
        // Whoever asks `a` now comes later than the one who waits for `b`.
        let second = a.send(&to_a, "/a2");
        settle().await;
        assert!(at_b.try_recv().is_err() && at_a.try_recv().is_err(), "{proto:?}");
        a.go.notify_one();
        first.await.unwrap().unwrap();
        assert_eq!(at_b.recv().await.unwrap(), "/b", "{proto:?}");
        assert_eq!(limits.taken(Limit::Connections), 1, "{proto:?}");
        b.go.notify_one();
        starving.await.unwrap().unwrap();
        assert_eq!(at_a.recv().await.unwrap(), "/a2", "{proto:?}: and then it is its turn");
        a.go.notify_one();
        second.await.unwrap().unwrap();
        assert_eq!((a.opened(), b.opened()), (2, 1), "{proto:?}");
    }
}

#[tokio::test]
async fn waiting_requests_are_counted_over_all_endpoints() {
    let limits = limiter(1, 2);
    let ([(a, to_a), (b, to_b)], [mut at_a, _at_b]) = backend(Proto::H1, &limits);
    let first = a.send(&to_a, "/a1");
    at_a.recv().await.unwrap();
    let waiting = [a.send(&to_a, "/a2"), b.send(&to_b, "/b1")];
    settle().await;
    for (endpoint, pool) in [(&a, &to_a), (&b, &to_b)] {
        let error = endpoint.send(pool, "/").await.unwrap().unwrap_err();
        assert!(matches!(error.kind, SendErrorKind::Overflow { waiting: 2 }), "{error:?}");
        assert_eq!(error.processed, crate::http::Processed::No);
    }
    for waiting in waiting {
        waiting.abort();
    }
    settle().await;
    assert_eq!(limits.taken(Limit::Pending), 0);
    a.go.notify_one();
    first.await.unwrap().unwrap();
    b.go.notify_one();
    b.send(&to_b, "/b2").await.unwrap().unwrap();
}

#[tokio::test]
async fn a_place_whose_waiter_has_gone_is_passed_on() {
    let limits = limiter(1, 0);
    let ([(a, to_a), (b, to_b), (c, to_c)], [mut at_a, _at_b, mut at_c]) = backend(Proto::H1, &limits);
    let first = a.send(&to_a, "/a");
    at_a.recv().await.unwrap();
    let gone = b.send(&to_b, "/b");
    settle().await;
    let stays = c.send(&to_c, "/c");
    settle().await;
    gone.abort();
    settle().await;
    a.go.notify_one();
    first.await.unwrap().unwrap();
    assert_eq!(at_c.recv().await.unwrap(), "/c");
    c.go.notify_one();
    stays.await.unwrap().unwrap();
    assert_eq!((b.opened(), limits.is_wanted()), (0, false));
}

#[tokio::test]
async fn what_was_claimed_for_a_waiter_that_has_gone_is_not_owed_to_the_next() {
    let limits = limiter(1, 0);
    let ([(a, to_a), (b, to_b)], [mut at_a, mut at_b]) = backend(Proto::H2, &limits);
    for round in 0..3 {
        let first = a.send(&to_a, "/a");
        at_a.recv().await.unwrap();
        // It has `a`'s connection retired, and gives up before the place is free.
        let gone = b.send(&to_b, "/gone");
        settle().await;
        gone.abort();
        settle().await;
        a.go.notify_one();
        first.await.unwrap().unwrap();
        settle().await;
        // `a` is never without a stream now: only a connection retired again makes room.
        let busy = a.send(&to_a, "/busy");
        at_a.recv().await.unwrap();
        let stays = b.send(&to_b, "/b");
        settle().await;
        let more = a.send(&to_a, "/more");
        settle().await;
        a.go.notify_one();
        busy.await.unwrap().unwrap();
        assert_eq!(at_b.recv().await.unwrap(), "/b", "round {round}");
        b.go.notify_one();
        stays.await.unwrap().unwrap();
        at_a.recv().await.unwrap();
        a.go.notify_one();
        more.await.unwrap().unwrap();
        settle().await;
    }
}

#[tokio::test]
async fn a_failed_connect_passes_its_place_on() {
    let limits = limiter(1, 0);
    let dead = Pool::limited(settings(Proto::H1), limits.clone());
    let ([(a, to_a)], _arrivals) = backend(Proto::H1, &limits);
    let connect = || async {
        settle().await;
        Err(ConnectError::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)))
    };
    let failing = tokio::spawn({
        let dead = dead.clone();
        async move { dead.send(request("/"), connect).await }
    });
    tokio::task::yield_now().await;
    a.go.notify_one();
    a.send(&to_a, "/").await.unwrap().unwrap();
    assert!(matches!(failing.await.unwrap().unwrap_err().kind, SendErrorKind::Connect(_)));
}

#[tokio::test]
async fn what_cannot_wait_takes_an_idle_place_or_none() {
    let limits = limiter(1, 0);
    let ([(a, to_a)], mut arrivals) = backend(Proto::H1, &limits);
    let busy = a.send(&to_a, "/");
    arrivals[0].recv().await.unwrap();
    assert!(limits.connection_now().is_err());
    a.go.notify_one();
    let response = busy.await.unwrap().unwrap();
    crate::http::tests::collect(response.into_body()).await.unwrap();
    let tunnel = limits.connection_now().unwrap();
    assert_eq!(to_a.sizes(), Sizes::default());
    let waiting = a.send(&to_a, "/");
    settle().await;
    drop(tunnel);
    a.go.notify_one();
    waiting.await.unwrap().unwrap();
}

/// Threads, three endpoints, fewer places than requests: everybody is served, and never by more connections than allowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_and_endpoints_together_neither_overshoot_nor_starve() {
    for (proto, places) in [(Proto::H1, 1), (Proto::H1, 2), (Proto::H1, 4), (Proto::H2, 1), (Proto::H2, 4)] {
        let limits = limiter(places, 0);
        let open = Arc::new(AtomicU32::new(0));
        let most = Arc::new(AtomicU32::new(0));
        let connect = {
            let (open, most) = (Arc::clone(&open), Arc::clone(&most));
            move || {
                most.fetch_max(open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                let (near, far) = tokio::io::duplex(64 * 1024);
                let counted = Counted { io: near, open: Arc::clone(&open) };
                tokio::spawn(async move {
                    let app = handler(|_: Request| async {
                        tokio::task::yield_now().await;
                        answer(200, "ok")
                    });
                    let (_signal, watch) = drain::new();
                    let _ = serve(far, proto, app, &ServerSettings::default(), watch).await;
                });
                std::future::ready(Ok(Connected::new(Box::new(counted), proto)))
            }
        };
        let per_worker = PoolSettings { per_worker: true, ..settings(proto) };
        let pools: [Pool; 3] = std::array::from_fn(|_| Pool::limited(per_worker.clone(), limits.clone()));
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..24 {
            let (pools, connect) = (pools.clone(), connect.clone());
            clients.spawn(async move {
                for number in 0..30 {
                    let response = pools[(client + number) % 3].send(request("/"), &connect).await.unwrap();
                    crate::http::tests::collect(response.into_body()).await.unwrap();
                }
            });
        }
        let row = format!("{proto:?}, {places} places");
        let served = async {
            while let Some(done) = clients.join_next().await {
                done.unwrap();
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), served).await.is_ok(), "{row}: stuck: {pools:?}");
        assert!(most.load(Ordering::Relaxed) <= places, "{row}: {most:?}");
        assert_eq!((limits.taken(Limit::Pending), limits.is_wanted()), (0, false), "{row}");
        drop(pools);
        while limits.taken(Limit::Connections) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A connection that is counted from before it is dialled until it is dropped.
struct Counted {
    io: DuplexStream,
    open: Arc<AtomicU32>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
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

impl Abort for Counted {
    fn abort_on_drop(&self) {}
}

impl Io for Counted {}
