//! How many connections and waiters there may be, and how streams are spread over them.

use super::*;

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
async fn at_the_limit_a_large_stream_is_lived_with() {
    let (endpoint, mut arrivals) = Endpoint::new(Proto::H2);
    let settings = PoolSettings {
        max_connections: 1,
        h2: crate::http::h2::client::ClientSettings { large_stream: 0, ..Default::default() },
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
async fn a_large_stream_moves_new_requests_to_another_connection() {
    let pipe = |opened: &Arc<AtomicUsize>| {
        let opened = Arc::clone(opened);
        move || {
            opened.fetch_add(1, Ordering::Relaxed);
            let (near, far) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move {
                let app = handler(|request: Request| async move {
                    Answer::from(http::Response::new(if request.uri().path() == "/large" {
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
