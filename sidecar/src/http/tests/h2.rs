//! HTTP/2 with the `h2` crate as an independent peer, at either end.

use std::sync::atomic::{AtomicUsize, Ordering};

use ::h2::Reason;

use super::h1_server::scopeguard;
use super::*;
use crate::http::body::Observer;
use crate::http::error::BodyError;
use crate::http::h2::client::{ClientSettings, Connection};

async fn client(io: DuplexStream) -> ::h2::client::SendRequest<Bytes> {
    let (send, connection) = ::h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    send.ready().await.unwrap()
}

fn head(path: &str) -> ::http::Request<()> {
    ::http::Request::builder().uri(format!("http://a{path}")).body(()).unwrap()
}

/// Sends one request through our client to a server that `serve`s it by hand.
async fn against<S, R>(serve: S) -> Result<Response, SendError>
where
    S: FnOnce(::h2::server::Connection<DuplexStream, Bytes>) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { serve(::h2::server::handshake(far).await.unwrap()).await });
    let (handle, driver) = Connection::handshake(near, &ClientSettings::default()).await.unwrap();
    tokio::spawn(driver);
    handle.clone().send(handle.reserve().unwrap(), get("/")).await
}

#[tokio::test]
async fn only_what_provably_did_not_run_is_not_processed() {
    let refused = against(|mut server| async move {
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        respond.send_reset(Reason::REFUSED_STREAM);
        let _ = server.accept().await;
    });
    let error = refused.await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::Reset(Reason::REFUSED_STREAM)), "{error:?}");
    assert_eq!(error.processed, Processed::No);

    for reason in [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::NO_ERROR] {
        let reset = against(move |mut server| async move {
            let (_, mut respond) = server.accept().await.unwrap().unwrap();
            respond.send_reset(reason);
            let _ = server.accept().await;
        });
        let error = reset.await.unwrap_err();
        assert!(matches!(error.kind, SendErrorKind::Reset(found) if found == reason), "{error:?}");
        assert_eq!(error.processed, Processed::Unknown, "{reason:?}");
    }

    let lost = against(|mut server| async move {
        let _taken = server.accept().await.unwrap().unwrap();
    });
    let error = lost.await.unwrap_err();
    assert_eq!(error.processed, Processed::Unknown, "{error:?}");
}

#[tokio::test]
async fn a_stream_above_goaways_last_is_not_processed() {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let server = tokio::spawn(async move {
        // Preface and settings of the client, then GOAWAY with last stream 0 and INTERNAL_ERROR or NO_ERROR alike.
        let mut seen = vec![0; 24];
        far.read_exact(&mut seen).await.unwrap();
        far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let mut headers = Vec::new();
        while !headers.windows(5).any(|window| window == [1, 5, 0, 0, 0] || window == [1, 0x25, 0, 0, 0]) {
            far.read_buf(&mut headers).await.unwrap();
        }
        far.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
        std::future::pending::<()>().await;
    });
    let (mut handle, driver) = Connection::handshake(near, &ClientSettings::default()).await.unwrap();
    tokio::spawn(driver);
    let error = handle.clone().send(handle.reserve().unwrap(), get("/")).await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::GoAway(Reason::NO_ERROR)), "{error:?}");
    assert_eq!(error.processed, Processed::No);
    assert!(!handle.is_usable());
    server.abort();
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_found_out_by_a_ping_and_an_idle_connection_is_not_pinged() {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let (mut handle, driver) = Connection::handshake(near, &ClientSettings::default()).await.unwrap();
    tokio::spawn(driver);
    far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(handle.is_usable(), "given up while idle");
    let started = tokio::time::Instant::now();
    let error = handle.clone().send(handle.reserve().unwrap(), get("/")).await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::Silent), "{error:?}");
    assert_eq!(started.elapsed().as_secs(), 8, "5 s of silence and 3 s for the answer");
    assert!(!handle.is_usable());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_counts_pings_as_floods_gets_none() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let settings = ClientSettings { ping_after: None, ..ClientSettings::default() };
    let (handle, driver) = Connection::handshake(near, &settings).await.unwrap();
    tokio::spawn(driver);
    let sent = tokio::spawn(async move { handle.clone().send(handle.reserve().unwrap(), get("/")).await });
    let (mut far, mut head, mut pings) = (far, [0; 9], 0);
    far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    far.read_exact(&mut [0; 24]).await.unwrap();
    let read = async {
        loop {
            far.read_exact(&mut head).await.unwrap();
            pings += usize::from(head[3] == 6);
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            far.read_exact(&mut vec![0; length as usize]).await.unwrap();
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(600), read).await.is_err());
    assert_eq!((pings, sent.is_finished()), (0, false), "it is waited for");
}

#[tokio::test]
async fn a_stalled_stream_of_small_messages_brings_down_no_other() {
    /// Each less than a window of them, in frames of 8 bytes: 256 KiB.
    const MESSAGES: usize = 32 * 1024;
    let small = handler(|request: Request| async move {
        if request.uri().path() == "/live" {
            return answer(200, "live");
        }
        let (mut sender, body) = Body::channel(None);
        tokio::spawn(async move {
            for _ in 0..MESSAGES {
                if sender.send_when_wanted(Frame::data(Bytes::from_static(b"8 bytes."))).await.is_err() {
                    return;
                }
            }
            sender.end();
        });
        answer(200, body)
    });
    // The window of a connection is that of 16 streams: no more of them may stall.
    let served = served_with(Proto::H2, small, ServerSettings { mesh_peer: true, ..Default::default() }, 1024 * 1024);
    let (handle, driver) = Connection::handshake(served.client, &ClientSettings::default()).await.unwrap();
    tokio::spawn(driver);
    let mut stalled = Vec::new();
    for _ in 0..2 {
        stalled.push(handle.clone().send(handle.reserve().unwrap(), get("/stalled")).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let live = handle.clone().send(handle.reserve().unwrap(), get("/live")).await.unwrap();
    assert_eq!(collect(live.into_body()).await.unwrap().0, "live");
    for response in stalled {
        assert_eq!(collect(response.into_body()).await.unwrap().0.len(), MESSAGES * 8);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_that_answers_pings_is_waited_for() {
    let slow = handler(|_| async {
        tokio::time::sleep(Duration::from_secs(100)).await;
        answer(200, "at last")
    });
    let served = served(Proto::H2, slow);
    let (handle, driver) = Connection::handshake(served.client, &ClientSettings::default()).await.unwrap();
    tokio::spawn(driver);
    assert_eq!(handle.clone().send(handle.reserve().unwrap(), get("/")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_clients_reset_cancels_the_handler_and_touches_no_other_stream() {
    let (dropped, mut was_dropped) = tokio::sync::mpsc::unbounded_channel();
    let app = handler(move |request: Request| {
        let guard = (request.uri().path() == "/wait").then(|| scopeguard(dropped.clone()));
        async move {
            if guard.is_some() {
                std::future::pending::<()>().await;
            }
            answer(200, "ok")
        }
    });
    let served = served(Proto::H2, app);
    let mut send = client(served.client).await;
    let (waiting, mut stream) = send.send_request(head("/wait"), false).unwrap();
    let (fine, _) = send.send_request(head("/"), true).unwrap();
    assert_eq!(fine.await.unwrap().status(), 200);
    stream.send_reset(Reason::CANCEL);
    was_dropped.recv().await.unwrap();
    drop(waiting);
    let (fine, _) = send.send_request(head("/"), true).unwrap();
    assert_eq!(fine.await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_request_that_is_reset_at_once_reaches_no_handler() {
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let app = handler(move |request: Request| {
        let _ = called.send(request.method().clone());
        async { answer(200, "ok") }
    });
    let mut served = served(Proto::H2, app);
    // Preface and SETTINGS; a POST of `/` and its RST_STREAM (CANCEL); a GET of it: all in one piece.
    let get =
        |stream: u8, method: u8| [&[0, 0, 6, 1, 5, 0, 0, 0, stream][..], &[method, 0x86, 0x84, 0x41, 1, b'a']].concat();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
    served.client.write_all(&[&preface[..], &get(1, 0x83), &reset, &get(3, 0x82)].concat()).await.unwrap();
    assert_eq!(calls.recv().await.unwrap(), ::http::Method::GET);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(calls.try_recv().is_err());
}

#[tokio::test]
async fn a_server_that_allows_more_streams_wakes_who_waits_for_one() {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let (mut handle, driver) = Connection::handshake(near, &ClientSettings::default()).await.unwrap();
    tokio::spawn(driver);
    let (free, mut freed) = tokio::sync::mpsc::unbounded_channel();
    handle.on_free(move || {
        let _ = free.send(());
    });
    // SETTINGS with MAX_CONCURRENT_STREAMS, and what there is room for then: no more than we want, which is 100.
    for (most, fits, told) in [(1, 1, false), (5, 5, true), (5, 5, false), (0, 0, false), (200, 100, true)] {
        far.write_all(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, most]).await.unwrap();
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if handle.capacity() == fits {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!((handle.capacity(), freed.try_recv().is_ok()), (fits, told), "{most} allowed");
    }
    assert!(handle.is_usable());
}

#[tokio::test(start_paused = true)]
async fn a_reset_inside_a_body_travels_on_with_its_code_both_ways() {
    // Down: the app resets in the middle of its response.
    let connect = pipes(Proto::H2, 64 * 1024, |io| async move {
        let mut server = ::h2::server::handshake(io).await.unwrap();
        while let Some(Ok((_, mut respond))) = server.accept().await {
            tokio::spawn(async move {
                let mut stream = respond.send_response(::http::Response::new(()), false).unwrap();
                stream.send_data(Bytes::from_static(b"half"), false).unwrap();
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                stream.send_reset(Reason::ENHANCE_YOUR_CALM);
            });
        }
    });
    let served = served(Proto::H2, forward(pool(Proto::H2), connect));
    let mut send = client(served.client).await;
    let (response, _) = send.send_request(head("/"), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "half");
    let error = body.data().await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));

    // Up: the client resets in the middle of its request.
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let connect = pipes(Proto::H2, 64 * 1024, move |io| {
        let heard = heard.clone();
        async move {
            let mut server = ::h2::server::handshake(io).await.unwrap();
            while let Some(Ok((request, respond))) = server.accept().await {
                let heard = heard.clone();
                tokio::spawn(async move {
                    let _respond = respond;
                    let mut body = request.into_body();
                    while let Some(data) = body.data().await {
                        if let Err(error) = data {
                            let _ = heard.send(error.reason());
                            return;
                        }
                    }
                });
            }
        }
    });
    let served = super::served(Proto::H2, forward(pool(Proto::H2), connect));
    let mut send = client(served.client).await;
    let (_response, mut stream) = send.send_request(head("/"), false).unwrap();
    stream.send_data(Bytes::from_static(b"half"), false).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.send_reset(Reason::CANCEL);
    assert_eq!(hears.recv().await.unwrap(), Some(Reason::CANCEL));
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let served = served(Proto::H2, echo());
    let mut send = client(served.client).await;
    let (response, mut stream) = send.send_request(head("/"), false).unwrap();
    stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
    let mut trailers = ::http::HeaderMap::new();
    trailers.insert("grpc-status", ::http::HeaderValue::from_static("0"));
    stream.send_trailers(trailers.clone()).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "hello");
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap(), Some(trailers));
}

#[tokio::test]
async fn a_body_with_trailers_has_ended_well_when_they_are_read() {
    struct Told(tokio::sync::mpsc::UnboundedSender<bool>);
    impl Observer for Told {
        fn end(&mut self, result: Result<(), &BodyError>) {
            let _ = self.0.send(result.is_ok());
        }
    }

    let response = against(|mut server| async move {
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        let mut stream = respond.send_response(::http::Response::new(()), false).unwrap();
        stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
        stream.send_trailers(::http::HeaderMap::new()).unwrap();
        let _ = server.accept().await;
    });
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut body = response.await.unwrap().into_body().observed(Told(tell));
    for is_last in [false, true] {
        assert_eq!(body.frame().await.unwrap().unwrap().is_trailers(), is_last);
        assert_eq!((http_body::Body::is_end_stream(&body), told.try_recv().ok()), (is_last, is_last.then_some(true)));
    }
}

#[tokio::test]
async fn refusals_are_resets_with_their_code() {
    for reset in [Reset::Refused, Reset::Internal, Reset::Cancel] {
        let served = served(Proto::H2, handler(move |_| async move { Answer::Reset(reset) }));
        let mut send = client(served.client).await;
        let (response, _) = send.send_request(head("/"), true).unwrap();
        assert_eq!(response.await.unwrap_err().reason(), Some(reset.h2_reason()));
    }
}

#[tokio::test(start_paused = true)]
async fn draining_says_goaway_and_finishes_what_is_open() {
    let release = Arc::new(tokio::sync::Notify::new());
    let waiting = Arc::clone(&release);
    let app = handler(move |_| {
        let waiting = Arc::clone(&waiting);
        async move {
            waiting.notified().await;
            answer(200, "finished")
        }
    });
    let Served { client: io, signal, task } = served(Proto::H2, app);
    let (mut handle, driver) = Connection::handshake(io, &ClientSettings::default()).await.unwrap();
    tokio::spawn(driver);
    let sent = {
        let handle = handle.clone();
        tokio::spawn(async move { handle.clone().send(handle.reserve().unwrap(), get("/")).await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    signal.start();
    while handle.is_usable() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    release.notify_one();
    let response = sent.await.unwrap().unwrap();
    assert_eq!(collect(response.into_body()).await.unwrap().0, "finished");
    drop(handle);
    task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ignores_the_end_is_not_waited_for() {
    for (what, waits) in [("a drain", 3), ("idleness", 300 + 3)] {
        let Served { client: mut io, signal, task } = served(Proto::H2, echo());
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let began = tokio::time::Instant::now();
        if what == "a drain" {
            signal.start();
        }
        // It reads all of it, and answers no ping.
        let read =
            tokio::spawn(async move { io.read_to_end(&mut Vec::new()).await.map(|_| began.elapsed().as_secs()) });
        assert_eq!(read.await.unwrap().unwrap(), waits, "{what}");
        assert!(matches!(task.await.unwrap(), Err(ServeError::Silent)), "{what}");
    }
}

#[tokio::test]
async fn what_a_client_says_after_the_end_is_read_and_dropped() {
    let Served { client: mut io, signal, task } = served(Proto::H2, echo());
    // Preface, and SETTINGS.
    io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    signal.start();
    let mut head = [0; 9];
    while io.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; usize::from(head[2])];
        io.read_exact(&mut payload).await.unwrap();
        let is_ping = head[3] == 6;
        if is_ping {
            head[4] = 1;
            io.write_all(&[&head[..], &payload].concat()).await.unwrap();
        }
    }
    // Its side is shut. A window for the connection, as for a response that has just been read: a closed one would not take it.
    io.write_all(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    io.write_all(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0]).await.unwrap();
    assert!(!task.is_finished());
    drop(io);
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn expect_continue_is_said_over_http_2_when_the_body_is_wanted() {
    let served = served(Proto::H2, echo());
    let mut send = client(served.client).await;
    let request = ::http::Request::builder().uri("http://a/").header("expect", "100-continue").body(()).unwrap();
    let (mut response, mut stream) = send.send_request(request, false).unwrap();
    // The echo answers with its head at once and polls the body then; a handler that reads first is told first.
    let informational = std::future::poll_fn(|cx| response.poll_informational(cx)).await;
    if let Some(informational) = informational {
        assert_eq!(informational.unwrap().status(), 100);
    }
    stream.send_data(Bytes::from_static(b"x"), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_thousand_streams_share_a_dozen_connections() {
    let opened = Arc::new(AtomicUsize::new(0));
    let all_here = Arc::new(tokio::sync::Barrier::new(1000));
    let (count, barrier) = (Arc::clone(&opened), Arc::clone(&all_here));
    let connect = pipes(Proto::H2, 64 * 1024, move |io| {
        count.fetch_add(1, Ordering::Relaxed);
        let barrier = Arc::clone(&barrier);
        async move {
            // Nobody is answered before all are here.
            let app = handler(move |request: Request| {
                let barrier = Arc::clone(&barrier);
                async move {
                    barrier.wait().await;
                    answer(200, Bytes::from(request.uri().path().to_owned()))
                }
            });
            let (_signal, watch) = drain::new();
            let _ = serve(io, Proto::H2, app, &ServerSettings::default(), watch).await;
        }
    });
    let pool = pool(Proto::H2);
    let requests = (0..1000).map(|number| {
        let (pool, connect) = (pool.clone(), connect.clone());
        tokio::spawn(async move {
            let response = pool.send(get(&format!("/{number}")), connect).await.unwrap();
            assert_eq!(collect(response.into_body()).await.unwrap().0, format!("/{number}"));
        })
    });
    for request in requests.collect::<Vec<_>>() {
        request.await.unwrap();
    }
    let opened = opened.load(Ordering::Relaxed);
    assert!((10..=12).contains(&opened), "{opened} connections");
    assert_eq!(pool.sizes().streams, 0);
}

/// As in HTTP/1. A cookie in crumbs is one field, and what a peer's client was allowed is not counted again.
#[tokio::test]
async fn a_head_of_too_many_fields_is_refused() {
    for (row, name, count, mesh_peer, status) in [
        ("as many as may be", "x", 98, false, 200),
        ("one more", "x", 101, false, 431),
        ("crumbs", "cookie", 200, false, 200),
        ("a peer's", "x", 110, true, 200),
    ] {
        let settings = ServerSettings { mesh_peer, ..Default::default() };
        let served = served_with(Proto::H2, handler(|_| async { answer(200, "") }), settings, 64 * 1024);
        let (handle, driver) = Connection::handshake(served.client, &ClientSettings::default()).await.unwrap();
        tokio::spawn(driver);
        let mut request = get("/");
        for _ in 0..count {
            request.headers_mut().append(http::HeaderName::from_static(name), http::HeaderValue::from_static("1"));
        }
        let response = handle.clone().send(handle.reserve().unwrap(), request).await.unwrap();
        assert_eq!(response.status(), status, "{row}");
    }
}
