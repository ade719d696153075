use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::http::body::Body;
use crate::http::server::{ServerSettings, serve};
use crate::http::tests::{answer, get, handler};
use crate::http::{Answer, Processed};
use crate::listen::drain;

pub(super) fn settings(expect: Proto) -> PoolSettings {
    PoolSettings { expect, per_worker: false, ..PoolSettings::default() }
}

/// An endpoint whose requests wait until they are let go, one by one.
#[derive(Clone)]
pub(super) struct Endpoint {
    proto: Proto,
    opened: Arc<AtomicUsize>,
    arrived: mpsc::UnboundedSender<String>,
    pub(super) go: Arc<Notify>,
    settings: ServerSettings,
}

impl Endpoint {
    pub(super) fn new(proto: Proto) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let settings = ServerSettings::default();
        (Self { proto, opened: Arc::default(), arrived, go: Arc::default(), settings }, arrivals)
    }

    pub(super) fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    pub(super) fn connect(
        &self,
    ) -> impl Fn() -> std::future::Ready<Result<Connected, ConnectError>> + Clone + Send + Sync + use<> {
        let me = self.clone();
        move || {
            me.opened.fetch_add(1, Ordering::Relaxed);
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (endpoint, proto, settings) = (me.clone(), me.proto, me.settings.clone());
            tokio::spawn(async move {
                let app = handler(move |request: Request| {
                    let endpoint = endpoint.clone();
                    async move {
                        let _ = endpoint.arrived.send(request.uri().path().to_owned());
                        endpoint.go.notified().await;
                        answer(200, "ok")
                    }
                });
                let (_signal, watch) = drain::new();
                let _ = serve(far, proto, app, &settings, watch).await;
            });
            std::future::ready(Ok(Connected::new(Box::new(near), me.proto)))
        }
    }

    /// Sends in a task of its own.
    pub(super) fn send(&self, pool: &Pool, path: &'static str) -> tokio::task::JoinHandle<Result<Response, SendError>> {
        let (pool, connect) = (pool.clone(), self.connect());
        tokio::spawn(async move { pool.send(request(path), connect).await })
    }
}

pub(super) fn request(path: &str) -> Request {
    let mut request = get(path);
    request.headers_mut().insert("host", http::HeaderValue::from_static("a"));
    request
}

/// Lets every task run until none can.
pub(super) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn http_1_opens_one_connection_per_request_and_keeps_them() {
    let (endpoint, mut arrivals) = Endpoint::new(Proto::H1);
    let pool = Pool::new(settings(Proto::H1));
    for _ in 0..2 {
        let sent = [endpoint.send(&pool, "/1"), endpoint.send(&pool, "/2")];
        for _ in &sent {
            arrivals.recv().await.unwrap();
        }
        assert_eq!(pool.sizes(), Sizes { open: 2, ..Sizes::default() });
        endpoint.go.notify_waiters();
        for sent in sent {
            assert_eq!(sent.await.unwrap().unwrap().status(), 200);
        }
        assert_eq!(pool.sizes(), Sizes { open: 2, idle: 2, ..Sizes::default() });
    }
    assert_eq!(endpoint.opened(), 2);
    pool.close_idle();
    assert_eq!(pool.sizes(), Sizes::default());
}

#[tokio::test]
async fn the_limit_is_exact_and_waiters_are_served_in_the_order_they_came() {
    let (endpoint, mut arrivals) = Endpoint::new(Proto::H1);
    let pool = Pool::new(PoolSettings { max_connections: 2, max_pending: 4, ..settings(Proto::H1) });
    let paths = ["/1", "/2", "/3", "/4", "/5", "/6"];
    let mut sent = Vec::new();
    for path in paths {
        sent.push(endpoint.send(&pool, path));
        settle().await;
    }
    assert_eq!(pool.sizes(), Sizes { open: 2, pending: 4, ..Sizes::default() });
    let overflow = endpoint.send(&pool, "/7").await.unwrap().unwrap_err();
    assert!(matches!(overflow.kind, SendErrorKind::Overflow { waiting: 4 }), "{overflow:?}");
    assert_eq!(overflow.processed, Processed::No);
    let mut order = Vec::new();
    for _ in paths {
        order.push(arrivals.recv().await.unwrap());
        endpoint.go.notify_one();
        settle().await;
    }
    assert_eq!(order, paths);
    for sent in sent {
        sent.await.unwrap().unwrap();
    }
    assert_eq!(endpoint.opened(), 2);
}

#[tokio::test]
async fn a_waiter_that_gives_up_is_passed_over() {
    let (endpoint, mut arrivals) = Endpoint::new(Proto::H1);
    let pool = Pool::new(PoolSettings { max_connections: 1, ..settings(Proto::H1) });
    let first = endpoint.send(&pool, "/1");
    settle().await;
    let second = endpoint.send(&pool, "/2");
    settle().await;
    let third = endpoint.send(&pool, "/3");
    settle().await;
    second.abort();
    endpoint.go.notify_one();
    first.await.unwrap().unwrap();
    assert_eq!((arrivals.recv().await.unwrap(), arrivals.recv().await.unwrap()), ("/1".into(), "/3".into()));
    endpoint.go.notify_one();
    third.await.unwrap().unwrap();
}

#[tokio::test]
async fn requests_share_one_attempt_to_open_http_2() {
    let (endpoint, mut arrivals) = Endpoint::new(Proto::H2);
    let pool = Pool::new(settings(Proto::H2));
    let sent: Vec<_> = (0..100).map(|_| endpoint.send(&pool, "/")).collect();
    for _ in &sent {
        arrivals.recv().await.unwrap();
    }
    assert_eq!(endpoint.opened(), 1);
    assert_eq!(pool.sizes(), Sizes { open: 1, h2: 1, streams: 100, ..Sizes::default() });
    // All its streams are taken: the next one opens another.
    let more = endpoint.send(&pool, "/");
    arrivals.recv().await.unwrap();
    assert_eq!(endpoint.opened(), 2);
    endpoint.go.notify_waiters();
    for sent in sent {
        sent.await.unwrap().unwrap();
    }
    more.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_attempt_outlives_the_request_that_started_it() {
    let (endpoint, mut arrivals) = Endpoint::new(Proto::H2);
    let pool = Pool::new(settings(Proto::H2));
    let gate = Arc::new(Notify::new());
    let connect = {
        let (gate, inner) = (Arc::clone(&gate), endpoint.connect());
        move || {
            let (gate, inner) = (Arc::clone(&gate), inner.clone());
            async move {
                gate.notified().await;
                inner().await
            }
        }
    };
    let send = |path: &'static str| {
        let (pool, connect) = (pool.clone(), connect.clone());
        tokio::spawn(async move { pool.send(request(path), connect).await })
    };
    let first = send("/first");
    settle().await;
    let second = send("/second");
    settle().await;
    first.abort();
    settle().await;
    gate.notify_one();
    assert_eq!(arrivals.recv().await.unwrap(), "/second");
    endpoint.go.notify_one();
    second.await.unwrap().unwrap();
    assert_eq!(endpoint.opened(), 1);
}

#[tokio::test]
async fn a_failed_attempt_tells_everyone_who_waited_for_it() {
    let attempts = Arc::new(AtomicUsize::new(0));
    for (proto, expected) in [(Proto::H2, 1), (Proto::H1, 5)] {
        attempts.store(0, Ordering::Relaxed);
        let pool = Pool::new(settings(proto));
        let sent: Vec<_> = (0..5)
            .map(|_| {
                let (pool, attempts) = (pool.clone(), Arc::clone(&attempts));
                let connect = move || {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    async {
                        settle().await;
                        Err(ConnectError::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)))
                    }
                };
                tokio::spawn(async move { pool.send(request("/"), connect).await })
            })
            .collect();
        for sent in sent {
            let error = sent.await.unwrap().unwrap_err();
            assert_eq!(error.processed, Processed::No);
            let SendErrorKind::Connect(error) = error.kind else { panic!("{error:?}") };
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            assert_eq!(kind, Some(std::io::ErrorKind::ConnectionRefused));
        }
        assert_eq!(attempts.load(Ordering::Relaxed), expected, "{proto:?}");
        assert_eq!(pool.sizes(), Sizes::default(), "{proto:?}");
    }
}

#[tokio::test]
async fn a_panicking_connector_is_a_failed_attempt() {
    let pool = Pool::new(settings(Proto::H2));
    let connect = || async { panic!("a test's panic") };
    let error = pool.send(request("/"), connect).await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::Connect(_)), "{error:?}");
    assert_eq!(pool.sizes(), Sizes::default());
}

#[tokio::test(start_paused = true)]
async fn idle_connections_close_when_their_time_is_up() {
    for proto in [Proto::H1, Proto::H2] {
        let (endpoint, _arrivals) = Endpoint::new(proto);
        let pool = Pool::new(PoolSettings { idle_timeout: Duration::from_secs(4), ..settings(proto) });
        let exchange = || async {
            endpoint.go.notify_one();
            let response = endpoint.send(&pool, "/").await.unwrap().unwrap();
            crate::http::tests::collect(response.into_body()).await.unwrap();
        };
        exchange().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        exchange().await;
        assert_eq!(endpoint.opened(), 1, "{proto:?}");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(pool.sizes().open, 1, "{proto:?}: its time starts again with each use");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(pool.sizes(), Sizes::default(), "{proto:?}");
        exchange().await;
        assert_eq!(endpoint.opened(), 2, "{proto:?}");
    }
}

#[tokio::test]
async fn a_connection_is_not_used_beyond_its_number_of_requests() {
    for proto in [Proto::H1, Proto::H2] {
        let (endpoint, _arrivals) = Endpoint::new(proto);
        let pool = Pool::new(PoolSettings { max_requests_per_connection: Some(2), ..settings(proto) });
        for number in 1..=5 {
            endpoint.go.notify_one();
            let response = endpoint.send(&pool, "/").await.unwrap().unwrap();
            crate::http::tests::collect(response.into_body()).await.unwrap();
            assert_eq!(endpoint.opened(), usize::div_ceil(number, 2), "{proto:?}");
        }
    }
}

#[tokio::test]
async fn a_large_stream_moves_new_requests_to_another_connection() {
    let pipe = |opened: &Arc<AtomicUsize>| {
        let opened = Arc::clone(opened);
        move || {
            opened.fetch_add(1, Ordering::Relaxed);
            let (near, far) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move {
                let app = handler(|request: Request| async move {
                    Answer::Response(http::Response::new(if request.uri().path() == "/large" {
                        Body::full(vec![0; 4 * 1024 * 1024])
                    } else {
                        Body::full("small")
                    }))
                });
                let (_signal, watch) = drain::new();
                let _ = serve(far, Proto::H2, app, &ServerSettings::default(), watch).await;
            });
            std::future::ready(Ok(Connected::new(Box::new(near), Proto::H2)))
        }
    };
    let opened = Arc::new(AtomicUsize::new(0));
    let pool = Pool::new(settings(Proto::H2));
    let mut large = pool.send(request("/large"), pipe(&opened)).await.unwrap().into_body();
    let mut read = 0;
    while read <= 1024 * 1024 {
        read += large.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    let small = pool.send(request("/small"), pipe(&opened)).await.unwrap();
    assert_eq!(opened.load(Ordering::Relaxed), 2);
    drop((large, small));
    pool.send(request("/small"), pipe(&opened)).await.unwrap();
    assert_eq!(opened.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn at_the_limit_a_large_stream_is_lived_with() {
    let (endpoint, mut arrivals) = Endpoint::new(Proto::H2);
    let settings = PoolSettings {
        max_connections: 1,
        h2: ClientSettings { large_stream: 0, ..ClientSettings::default() },
        ..settings(Proto::H2)
    };
    let pool = Pool::new(settings);
    let (mut sender, body) = Body::channel(None);
    let large = {
        let (pool, connect) = (pool.clone(), endpoint.connect());
        let (mut parts, _) = request("/large").into_parts();
        parts.method = http::Method::POST;
        tokio::spawn(async move { pool.send(http::Request::from_parts(parts, body), connect).await })
    };
    sender.send_when_wanted(http_body::Frame::data(bytes::Bytes::from_static(b"some"))).await.unwrap();
    arrivals.recv().await.unwrap();
    let other = endpoint.send(&pool, "/other");
    assert_eq!(arrivals.recv().await.unwrap(), "/other");
    endpoint.go.notify_waiters();
    sender.end();
    large.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
    assert_eq!(endpoint.opened(), 1);
}

#[tokio::test]
async fn draining_refuses_newcomers_and_waiters_and_finishes_what_is_under_way() {
    let (endpoint, mut arrivals) = Endpoint::new(Proto::H1);
    let pool = Pool::new(PoolSettings { max_connections: 1, ..settings(Proto::H1) });
    let under_way = endpoint.send(&pool, "/1");
    arrivals.recv().await.unwrap();
    let waiting = endpoint.send(&pool, "/2");
    settle().await;
    pool.drain();
    for refused in [waiting, endpoint.send(&pool, "/3")] {
        let error = refused.await.unwrap().unwrap_err();
        assert!(matches!(error.kind, SendErrorKind::Draining), "{error:?}");
        assert_eq!(error.processed, Processed::No);
    }
    endpoint.go.notify_one();
    under_way.await.unwrap().unwrap();
    settle().await;
    assert_eq!(pool.sizes(), Sizes::default());
}

#[tokio::test]
async fn a_pool_that_is_gone_keeps_no_connection() {
    let (endpoint, _arrivals) = Endpoint::new(Proto::H1);
    let pool = Pool::new(settings(Proto::H1));
    endpoint.go.notify_one();
    endpoint.send(&pool, "/").await.unwrap().unwrap();
    let shared = Arc::downgrade(&pool.0);
    drop(pool);
    settle().await;
    assert!(shared.upgrade().is_none());
}

#[tokio::test]
async fn a_socket_closed_while_idle_is_not_used_even_before_the_runtime_hears_of_it() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // A blocking server that closes after its first response, with nothing in it that wakes our runtime.
    let (closed, has_closed) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buf = [0; 1024];
            assert!(stream.read(&mut buf).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
            drop(stream);
            closed.send(()).unwrap();
        }
    });
    let pool = Pool::new(settings(Proto::H1));
    let connect = move || async move {
        let io = tokio::net::TcpStream::connect(addr).await.map_err(ConnectError::new)?;
        Ok(Connected::new(Box::new(io), Proto::H1))
    };
    for _ in 0..2 {
        let response = pool.send(request("/"), connect).await.unwrap();
        crate::http::tests::collect(response.into_body()).await.unwrap();
        // Blocks the runtime: its reactor cannot have run when the next request looks at the connection.
        has_closed.recv().unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    server.join().unwrap();
}

#[tokio::test]
async fn unasked_bytes_on_an_idle_connection_end_it() {
    let pool = Pool::new(settings(Proto::H1));
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    let connect = move || {
        count.fetch_add(1, Ordering::Relaxed);
        let (near, far) = tokio::io::duplex(1024);
        tokio::spawn(impatient(far));
        std::future::ready(Ok(Connected::new(Box::new(near), Proto::H1)))
    };
    for _ in 0..2 {
        assert_eq!(pool.send(request("/"), connect.clone()).await.unwrap().status(), 200);
        settle().await;
    }
    assert_eq!(opened.load(Ordering::Relaxed), 2);
}

/// Answers, and then says that it waited too long.
async fn impatient(mut io: DuplexStream) {
    let mut seen = Vec::new();
    io.read_buf(&mut seen).await.unwrap();
    io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    tokio::task::yield_now().await;
    let _ = io.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await;
    let _ = io.read_buf(&mut seen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn many_workers_never_exceed_the_limit_and_nobody_starves() {
    for proto in [Proto::H1, Proto::H2] {
        let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (now, peak) = (Arc::clone(&open), Arc::clone(&most));
        let connect = move || {
            let (near, far) = tokio::io::duplex(16 * 1024);
            let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
            tokio::spawn(async move {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let app = handler(|_| async {
                    tokio::task::yield_now().await;
                    answer(200, "ok")
                });
                let (_signal, watch) = drain::new();
                let _ = serve(far, proto, app, &ServerSettings::default(), watch).await;
                now.fetch_sub(1, Ordering::SeqCst);
            });
            std::future::ready(Ok(Connected::new(Box::new(near), proto)))
        };
        // As its workers would: each prefers its own connections, all share the limit.
        let settings = PoolSettings { max_connections: 3, per_worker: true, ..settings(proto) };
        let pool = Pool::new(settings);
        let requests: Vec<_> = (0..500)
            .map(|_| {
                let (pool, connect) = (pool.clone(), connect.clone());
                tokio::spawn(async move {
                    let response = pool.send(request("/"), connect).await?;
                    crate::http::tests::collect(response.into_body())
                        .await
                        .map_err(|error| SendError::unknown(SendErrorKind::RequestBody(error)))
                })
            })
            .collect();
        for request in requests {
            let answered = tokio::time::timeout(Duration::from_secs(30), request).await.expect("starved");
            assert_eq!(answered.unwrap().unwrap().0, "ok", "{proto:?}");
        }
        // A connection is counted closed before its far end hears of it, so one may overlap its successor there.
        assert!(most.load(Ordering::SeqCst) <= 4, "{proto:?}: {}", most.load(Ordering::SeqCst));
        assert!(pool.sizes().open <= 3, "{proto:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn from_its_expiry_on_a_connection_takes_no_new_request() {
    let (endpoint, mut arrivals) = Endpoint::new(Proto::H2);
    let pool = Pool::new(settings(Proto::H2));
    let fresh = endpoint.connect();
    let connect = move || {
        let connected = fresh();
        async move {
            connected
                .await
                .map(|connected| Connected { expires: Some(Instant::now() + Duration::from_secs(60)), ..connected })
        }
    };
    let long = tokio::spawn({
        let (pool, connect) = (pool.clone(), connect.clone());
        async move { pool.send(get("/long"), connect).await.map(|response| response.status()) }
    });
    arrivals.recv().await.unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    let after = tokio::spawn({
        let (pool, connect) = (pool.clone(), connect.clone());
        async move { pool.send(get("/after"), connect).await.map(|response| response.status()) }
    });
    arrivals.recv().await.unwrap();
    assert_eq!(endpoint.opened(), 2);
    endpoint.go.notify_one();
    endpoint.go.notify_one();
    assert_eq!(
        (long.await.unwrap().unwrap(), after.await.unwrap().unwrap()),
        (::http::StatusCode::OK, ::http::StatusCode::OK)
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_old_when_it_is_opened_serves_once() {
    let (endpoint, mut arrivals) = Endpoint::new(Proto::H2);
    let pool = Pool::new(settings(Proto::H2));
    let fresh = endpoint.connect();
    let connect = move || {
        let connected = fresh();
        async move { connected.await.map(|connected| Connected { expires: Some(Instant::now()), ..connected }) }
    };
    for opened in 1..=2 {
        endpoint.go.notify_one();
        pool.send(get("/"), connect.clone()).await.unwrap();
        arrivals.recv().await.unwrap();
        assert_eq!(endpoint.opened(), opened);
    }
}
