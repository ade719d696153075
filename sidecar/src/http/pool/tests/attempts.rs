//! Opening a connection: shared, outliving who began it, failing for all who waited.

use super::*;

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

#[tokio::test(start_paused = true)]
async fn a_connection_made_ahead_serves_the_first_request_and_there_is_only_one() {
    let (endpoint, mut arrivals) = Endpoint::new(Proto::H2);
    let pool = Pool::new(settings(Proto::H2));
    assert!(!pool.is_in_use());
    for _ in 0..3 {
        pool.warm(endpoint.connect());
        settle().await;
    }
    assert_eq!((endpoint.opened(), pool.sizes().h2), (1, 1));
    assert!(!pool.is_in_use(), "nobody has asked anything of it yet");
    let sent = endpoint.send(&pool, "/");
    arrivals.recv().await.unwrap();
    assert!(pool.is_in_use());
    endpoint.go.notify_waiters();
    drop(sent.await.unwrap().unwrap());
    assert_eq!(endpoint.opened(), 1);
    tokio::time::sleep(IN_USE - Duration::from_secs(1)).await;
    assert!(pool.is_in_use());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!pool.is_in_use());
}

#[tokio::test]
async fn no_connection_is_made_ahead_where_there_is_no_room_and_one_that_fails_harms_nobody() {
    let (endpoint, _arrivals) = Endpoint::new(Proto::H2);
    let pool = Pool::new(PoolSettings { max_connections: 1, ..settings(Proto::H2) });
    pool.warm(|| async { Err(ConnectError::new("nobody there")) });
    settle().await;
    assert_eq!(pool.sizes(), Sizes::default());
    let _sent = [endpoint.send(&pool, "/"), endpoint.send(&pool, "/")];
    settle().await;
    pool.warm(endpoint.connect());
    pool.drain();
    pool.warm(endpoint.connect());
    settle().await;
    assert_eq!(endpoint.opened(), 1);
}

/// Who waits is woken by the one before: those who come meanwhile must not open what nobody will need.
#[tokio::test]
async fn many_at_once_again_and_again_open_what_they_fill_and_no_more() {
    for (proto, most) in [(Proto::H2, 3), (Proto::H1, 250)] {
        let (endpoint, mut arrivals) = Endpoint::new(proto);
        let pool = Pool::new(settings(proto));
        let go = Arc::clone(&endpoint.go);
        let answering = tokio::spawn(async move {
            while arrivals.recv().await.is_some() {
                go.notify_one();
                go.notify_waiters();
            }
        });
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..250 {
            let (pool, connect) = (pool.clone(), endpoint.connect());
            clients.spawn(async move {
                for _ in 0..20 {
                    pool.send(request("/"), connect.clone()).await.unwrap();
                }
            });
        }
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
        assert!(endpoint.opened() <= most, "{proto:?}: {} connections", endpoint.opened());
        answering.abort();
    }
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

/// Another worker's connection serves at once, while this worker's own is opened, and it is opened once.
#[test]
fn nobody_waits_for_a_handshake_where_another_worker_has_a_connection() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pool = Pool::new(PoolSettings { per_worker: true, ..settings(Proto::H2) });
    let (endpoint, mut arrivals) = Endpoint::new(Proto::H2);
    let (finish, finished) = std::sync::mpsc::channel::<()>();
    let (started, begun) = std::sync::mpsc::channel();
    let first = {
        let (endpoint, pool) = (endpoint.clone(), pool.clone());
        std::thread::spawn(move || {
            runtime().block_on(async move {
                let sent = endpoint.send(&pool, "/first");
                arrivals.recv().await.unwrap();
                endpoint.go.notify_one();
                sent.await.unwrap().unwrap();
                started.send(()).unwrap();
                // Goes on serving the other worker's requests.
                while finished.try_recv().is_err() {
                    endpoint.go.notify_waiters();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        })
    };
    begun.recv().unwrap();
    runtime().block_on(async {
        let shaking_hands = Arc::new(AtomicUsize::new(0));
        let connect = || {
            shaking_hands.fetch_add(1, Ordering::Relaxed);
            std::future::pending()
        };
        for path in ["/second", "/third"] {
            let sent = tokio::time::timeout(Duration::from_secs(5), pool.send(request(path), connect)).await;
            assert_eq!(sent.expect("it waits for a handshake").unwrap().status(), 200);
        }
        assert_eq!((shaking_hands.load(Ordering::Relaxed), pool.sizes().connecting), (1, 1));
    });
    finish.send(()).unwrap();
    first.join().unwrap();
}
