//! What a client of our HTTP/1 server sees.

use super::*;

#[tokio::test]
async fn requests_on_one_connection_are_answered_one_after_the_other() {
    let mut served = served(Proto::H1, echo());
    for body in ["one", "two"] {
        send(&mut served.client, &format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n{body}")).await;
        let seen = read_until(&mut served.client, body).await;
        assert_eq!(seen, format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{body}"));
    }
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_order() {
    let slow_first = handler(|request: Request| async move {
        if request.uri().path() == "/1" {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        answer(200, Bytes::from(request.uri().path().to_owned()))
    });
    let mut served = served(Proto::H1, slow_first);
    send(&mut served.client, "GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let seen = read_until(&mut served.client, "/2").await;
    assert!(seen.find("/1").unwrap() < seen.find("/2").unwrap(), "{seen}");
}

#[tokio::test]
async fn http_1_0_is_closed_after_one_answer_unless_it_asks() {
    let until_close = handler(|_| async {
        let (mut sender, body) = Body::channel(None);
        tokio::spawn(async move {
            sender.send_when_wanted(Frame::data(Bytes::from_static(b"unknown length"))).await.unwrap();
            sender.end();
        });
        answer(200, body)
    });
    let mut first = served(Proto::H1, until_close);
    send(&mut first.client, "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
    assert_eq!(read_all(&mut first.client).await, "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nunknown length");

    let mut plain = served(Proto::H1, handler(|_| async { answer(200, "ok") }));
    send(&mut plain.client, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(read_all(&mut plain.client).await.ends_with("connection: close\r\ncontent-length: 2\r\n\r\nok"));

    let mut kept = served(Proto::H1, handler(|_| async { answer(200, "ok") }));
    for _ in 0..2 {
        send(&mut kept.client, "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
        assert!(read_until(&mut kept.client, "\r\n\r\nok").await.contains("connection: keep-alive"));
    }
}

#[tokio::test]
async fn chunks_and_trailers_pass_both_ways() {
    let mut served = served(Proto::H1, echo());
    send(&mut served.client, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    send(&mut served.client, "5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nx-sum: 11\r\n\r\n").await;
    let seen = read_until(&mut served.client, "0\r\nx-sum: 11\r\n\r\n").await;
    assert!(seen.starts_with("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"), "{seen}");
    assert!(seen.contains("6\r\n world\r\n"), "{seen}");
    // And the connection is in step.
    send(&mut served.client, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nok").await;
    read_until(&mut served.client, "\r\n\r\nok").await;
}

#[tokio::test(start_paused = true)]
async fn continue_is_said_when_the_body_is_first_wanted_and_not_before() {
    let late = handler(|request: Request| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (data, _) = collect(request.into_body()).await.unwrap();
        answer(200, data)
    });
    let mut eager = served(Proto::H1, late);
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n";
    send(&mut eager.client, head).await;
    let mut early = [0; 1];
    let nothing = tokio::time::timeout(Duration::from_millis(900), eager.client.read(&mut early)).await;
    assert!(nothing.is_err(), "told to continue before anybody wanted the body");
    assert_eq!(read_until(&mut eager.client, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    send(&mut eager.client, "hi").await;
    read_until(&mut eager.client, "\r\n\r\nhi").await;

    // An answer that comes before anybody wanted the body takes the place of `100 Continue`.
    let mut early = served(Proto::H1, echo());
    send(&mut early.client, head).await;
    let seen = read_until(&mut early.client, "\r\n\r\n").await;
    assert!(seen.starts_with("HTTP/1.1 200 ") && seen.contains("connection: close"), "{seen}");
    send(&mut early.client, "hi").await;
    assert_eq!(read_all(&mut early.client).await, "hi");

    let mut refused = served(Proto::H1, handler(|_| async { answer(417, Body::empty()) }));
    send(&mut refused.client, head).await;
    let seen = read_all(&mut refused.client).await;
    assert!(seen.starts_with("HTTP/1.1 417 ") && seen.contains("connection: close"), "{seen}");
}

#[tokio::test]
async fn responses_without_content_have_none_and_leave_the_connection_in_step() {
    let by_path = handler(|request: Request| async move {
        let status: u16 = request.uri().path()[1..].parse().unwrap();
        let mut response = ::http::Response::builder().status(status);
        if status != 204 {
            response = response.header("content-length", "5");
        }
        response.body(if status == 200 { Body::full("hello") } else { Body::empty() }).unwrap().into()
    });
    let mut served = served(Proto::H1, by_path);
    let rows = [
        ("HEAD /200", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        ("GET /204", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET /304", "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"),
        ("GET /200", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
    ];
    for (line, expected) in rows {
        send(&mut served.client, &format!("{line} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        let mut seen = vec![0; expected.len()];
        served.client.read_exact(&mut seen).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&seen), expected, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_nobody_wants_is_skipped_when_short_and_closes_the_connection_when_long() {
    let refuse = || handler(|_| async { answer(401, Body::empty()) });
    let rows = [
        ("all of it is here", "content-length: 5", "hello", true),
        ("a short rest follows", "content-length: 10", "hello", true),
        ("too long a rest", "content-length: 1000000", "hello", false),
        ("chunks, all here", "transfer-encoding: chunked", "2\r\nhi\r\n0\r\n\r\n", true),
        ("chunks without end in sight", "transfer-encoding: chunked", "2\r\nhi\r\n", false),
    ];
    for (name, framing, body, kept) in rows {
        let mut served = served(Proto::H1, refuse());
        send(&mut served.client, &format!("POST / HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n{body}")).await;
        let seen = read_until(&mut served.client, "\r\n\r\n").await;
        assert_eq!(!seen.contains("connection: close"), kept, "{name}: {seen}");
        if framing == "content-length: 10" {
            send(&mut served.client, "world").await;
        }
        if kept {
            send(&mut served.client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            read_until(&mut served.client, "\r\n\r\n").await;
        } else {
            // Lingering: what it still sends is taken, for a while.
            send(&mut served.client, &"x".repeat(100_000)).await;
            assert_eq!(read_all(&mut served.client).await, "", "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_head_is_told_what_it_is_and_the_connection_closed() {
    let rows = [
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", "400"),
        ("GET / HTTP/2.7\r\nhost: a\r\n\r\n", "505"),
        ("GET / HTTP/1.1\r\nhost: a\r\n", "408"),
        (&format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(70_000)), "431"),
    ];
    for (head, status) in rows {
        let settings = ServerSettings { explain: true, ..ServerSettings::default() };
        let mut served = served_with(Proto::H1, echo(), settings, 256 * 1024);
        send(&mut served.client, head).await;
        let seen = read_all(&mut served.client).await;
        assert!(seen.starts_with(&format!("HTTP/1.1 {status} ")), "{head:.80?}: {seen}");
        assert!(seen.contains("connection: close\r\n") && seen.contains("x-weft-reason: "), "{seen}");
        drop(served.client);
        assert!(served.task.await.unwrap().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_says_a_word_is_closed_without_one() {
    let mut served = served(Proto::H1, echo());
    assert_eq!(read_all(&mut served.client).await, "");
    served.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_panic_ends_its_request_only() {
    let explosive = handler(|request: Request| async move {
        assert!(request.uri().path() != "/boom", "a test's panic");
        answer(200, "fine")
    });
    for proto in [Proto::H1, Proto::H2] {
        let settings = ServerSettings { explain: true, ..ServerSettings::default() };
        let Served { client, .. } = served_with(proto, explosive.clone(), settings, 64 * 1024);
        let mut client = Client::new(proto, client).await;
        let boom = client.get("/boom").await.unwrap();
        assert_eq!(boom.status(), 500, "{proto:?}");
        assert_eq!(boom.headers()["x-weft-reason"], "internal");
        assert_eq!(client.get("/").await.unwrap().status(), 200, "{proto:?}");
    }
}

#[tokio::test]
async fn a_response_that_fails_midway_never_ends_cleanly() {
    for (name, length) in [("content-length", Some(10)), ("chunked", None)] {
        let failing = handler(move |_| async move {
            let (mut sender, body) = Body::channel(length);
            tokio::spawn(async move {
                sender.send_when_wanted(Frame::data(Bytes::from_static(b"half"))).await.unwrap();
                std::future::poll_fn(|cx| sender.poll_wanted(cx)).await.unwrap();
                sender.fail(BodyError::Truncated);
            });
            answer(200, body)
        });
        let mut served = served(Proto::H1, failing);
        send(&mut served.client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let seen = read_all(&mut served.client).await;
        assert!(seen.contains("half") && !seen.ends_with("0\r\n\r\n"), "{name}: {seen}");
        assert!(matches!(served.task.await.unwrap(), Err(ServeError::Truncated(_))), "{name}");
    }
}

#[tokio::test]
async fn a_body_longer_or_shorter_than_its_content_length_is_an_abort() {
    for body in ["longer than five", "four"] {
        let lying = handler(move |_| async move {
            let response = ::http::Response::builder().header("content-length", "5").body(Body::from(body)).unwrap();
            response.into()
        });
        let mut served = served(Proto::H1, lying);
        send(&mut served.client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let seen = read_all(&mut served.client).await;
        assert!(!seen.contains("longer than five"), "{seen}");
        assert!(matches!(served.task.await.unwrap(), Err(ServeError::Truncated(BodyError::Length))), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn draining_lets_the_open_request_finish_and_closing_ends_idle_connections() {
    let slow = || {
        handler(|_| async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            answer(200, "done")
        })
    };
    let mut busy = served(Proto::H1, slow());
    send(&mut busy.client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    busy.signal.start();
    let seen = read_all(&mut busy.client).await;
    assert!(seen.contains("connection: close") && seen.ends_with("done"), "{seen}");

    let mut idle = served(Proto::H1, echo());
    send(&mut idle.client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    read_until(&mut idle.client, "\r\n\r\n").await;
    idle.signal.start();
    let mut byte = [0];
    let waited = tokio::time::timeout(Duration::from_secs(60), idle.client.read(&mut byte)).await;
    assert!(waited.is_err(), "a close might meet a request on its way");
    idle.signal.close();
    assert_eq!(read_all(&mut idle.client).await, "");

    let mut told = served(Proto::H1, echo());
    send(&mut told.client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    read_until(&mut told.client, "\r\n\r\n").await;
    told.signal.start();
    send(&mut told.client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(read_all(&mut told.client).await.contains("connection: close"), "with its next answer");

    // Its first request may be on its way: it is answered, with a close.
    let mut fresh = served(Proto::H1, echo());
    fresh.signal.start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    send(&mut fresh.client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(read_all(&mut fresh.client).await.contains("connection: close"));
}

#[tokio::test(start_paused = true)]
async fn a_request_in_the_middle_of_its_head_is_answered_though_connections_are_to_close() {
    for pieces in [&["GET / HT", "TP/1.1\r\nho", "st: a\r\n", "\r\n"][..], &["", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"]] {
        let mut served = served(Proto::H1, echo());
        for piece in pieces {
            send(&mut served.client, piece).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            served.signal.start();
            served.signal.close();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let seen = read_all(&mut served.client).await;
        assert!(seen.starts_with("HTTP/1.1 200") && seen.contains("connection: close"), "{pieces:?}: {seen}");
        served.task.await.unwrap().unwrap();
    }
    // One that never comes costs its patience, and no panic.
    for (begun, answer) in [("", ""), ("GET / HT", "HTTP/1.1 408")] {
        let mut served = served(Proto::H1, echo());
        served.signal.start();
        served.signal.close();
        send(&mut served.client, begun).await;
        assert!(read_all(&mut served.client).await.starts_with(answer), "{begun:?}");
        assert_eq!(served.task.await.unwrap().is_err(), !begun.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_line_after_a_body_is_no_head_that_comes_late() {
    let mut served = served(Proto::H1, echo());
    send(&mut served.client, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\none\r\n").await;
    read_until(&mut served.client, "one").await;
    let idle = tokio::time::timeout(Duration::from_secs(290), served.client.read(&mut [0])).await;
    assert!(idle.is_err(), "five minutes, as without it");
    send(&mut served.client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    read_until(&mut served.client, "200 OK").await;
    tokio::time::sleep(Duration::from_secs(290)).await;
    assert_eq!(read_all(&mut served.client).await, "", "closed without a word");
}

#[tokio::test]
async fn what_follows_a_refused_connect_is_not_a_request() {
    let refusing = handler(|request: Request| async move {
        assert_eq!(request.method(), ::http::Method::CONNECT, "meant for a tunnel");
        answer(403, "")
    });
    let mut served = served(Proto::H1, refusing);
    send(&mut served.client, "CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\nGET /x HTTP/1.1\r\nhost: b\r\n\r\n").await;
    let seen = read_all(&mut served.client).await;
    assert!(seen.starts_with("HTTP/1.1 403") && seen.contains("connection: close"), "{seen}");
    assert_eq!(seen.matches("HTTP/1.1").count(), 1, "{seen}");
}

#[tokio::test]
async fn half_a_body_without_a_length_is_no_clean_end_for_a_client_that_half_closed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let pausing = handler(|_| async {
        let (mut sender, body) = Body::channel(None);
        tokio::spawn(async move {
            sender.send_when_wanted(Frame::data(Bytes::from_static(b"half"))).await.unwrap();
            // Until nobody wants the rest.
            while std::future::poll_fn(|cx| sender.poll_wanted(cx)).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
        });
        answer(200, body)
    });
    let (_signal, watch) = drain::new();
    tokio::spawn(async move { serve(server, Proto::H1, pausing, &ServerSettings::default(), watch).await });
    send(&mut client, "GET / HTTP/1.0\r\n\r\n").await;
    client.shutdown().await.unwrap();
    read_until(&mut client, "half").await;
    let error = client.read(&mut [0]).await.expect_err("a clean end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_cancels_its_request_and_one_that_half_closes_is_answered() {
    let (dropped, mut was_dropped) = tokio::sync::mpsc::unbounded_channel();
    let never = handler(move |_| {
        let guard = scopeguard(dropped.clone());
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    });
    let mut gone = served(Proto::H1, never);
    send(&mut gone.client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    drop(gone.client);
    was_dropped.recv().await.unwrap();

    let soon = handler(|_| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        answer(200, "still here")
    });
    let mut half = served(Proto::H1, soon);
    send(&mut half.client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    half.client.shutdown().await.unwrap();
    assert!(read_all(&mut half.client).await.ends_with("still here"));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_answered_is_503_and_says_not_processed_to_peers_only() {
    let rows = [(Reset::Refused, true, true), (Reset::Refused, false, false), (Reset::Internal, true, false)];
    for (reset, mesh_peer, vouches) in rows {
        let settings = ServerSettings { mesh_peer, ..ServerSettings::default() };
        let refusing = handler(move |_| async move { Answer::Reset(reset) });
        let mut served = served_with(Proto::H1, refusing, settings, 1024);
        send(&mut served.client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let seen = read_all(&mut served.client).await;
        assert!(seen.starts_with("HTTP/1.1 503 ") && seen.contains("connection: close"), "{seen}");
        assert_eq!(seen.contains("x-weft-not-processed: 1"), vouches, "{reset:?} mesh_peer={mesh_peer}");
    }
}

/// Sends on drop.
pub(super) fn scopeguard(sender: tokio::sync::mpsc::UnboundedSender<()>) -> impl Send {
    struct Guard(tokio::sync::mpsc::UnboundedSender<()>);
    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    Guard(sender)
}
