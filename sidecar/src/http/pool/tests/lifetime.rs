//! What a connection lives through: kept, expired, worn out, drained, closed by the other side.

use super::*;

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
        // Long enough for the kernel to be asked (`JUST_USED`).
        std::thread::sleep(Duration::from_millis(60));
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

/// Connects to `endpoint`; each connection expires `after` it was opened.
fn expiring(
    endpoint: &Endpoint,
    after: Duration,
) -> impl Fn() -> std::future::Ready<Result<Connected, ConnectError>> + Clone + Send + Sync + use<> {
    let connect = endpoint.connect();
    move || {
        let opened = connect().into_inner();
        std::future::ready(opened.map(|connected| Connected { expires: Some(Instant::now() + after), ..connected }))
    }
}

#[tokio::test(start_paused = true)]
async fn from_its_expiry_on_a_connection_takes_no_new_request() {
    let (endpoint, mut arrivals) = Endpoint::new(Proto::H2);
    let pool = Pool::new(settings(Proto::H2));
    let connect = expiring(&endpoint, Duration::from_secs(60));
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
    let connect = expiring(&endpoint, Duration::ZERO);
    for opened in 1..=2 {
        endpoint.go.notify_one();
        pool.send(get("/"), connect.clone()).await.unwrap();
        arrivals.recv().await.unwrap();
        assert_eq!(endpoint.opened(), opened);
    }
}
