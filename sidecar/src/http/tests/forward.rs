//! A client, our server, our pool, and HTTP/1 servers written byte by byte.

use super::*;
use crate::http::pool::Sizes;

/// A server that answers each request head (the requests have no body) with the next of `answers`, then closes.
fn scripted(
    answers: &'static [&'static str],
) -> impl Fn(DuplexStream) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Clone + Send + Sync {
    move |mut io| {
        Box::pin(async move {
            for answer in answers {
                let mut seen = Vec::new();
                while !seen.ends_with(b"\r\n\r\n") {
                    if io.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                io.write_all(answer.as_bytes()).await.unwrap();
            }
        })
    }
}

async fn exchange(answers: &'static [&'static str], request: &str) -> String {
    let proxy = forward(pool(Proto::H1), pipes(Proto::H1, 64 * 1024, scripted(answers)));
    let mut served = served(Proto::H1, proxy);
    send(&mut served.client, request).await;
    read_all(&mut served.client).await
}

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const GET_CLOSE: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn responses_arrive_as_they_were_sent() {
    let rows: [(&str, &'static [&'static str], &str); 6] = [
        ("length", &["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"], "content-length: 2\r\n\r\nhi"),
        (
            "chunks and trailers",
            &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-t: 1\r\n\r\n"],
            "transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-t: 1\r\n\r\n",
        ),
        ("until close", &["HTTP/1.1 200 OK\r\n\r\nall of it"], "\r\n9\r\nall of it\r\n0\r\n\r\n"),
        (
            "interim responses are dropped",
            &["HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"],
            "content-length: 0\r\n\r\n",
        ),
        (
            "its own reason phrase",
            &["HTTP/1.1 200 Fine By Me\r\ncontent-length: 0\r\n\r\n"],
            "HTTP/1.1 200 Fine By Me\r\n",
        ),
        ("HTTP/1.0", &["HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi"], "\r\n\r\nhi"),
    ];
    for (name, answers, expected) in rows {
        let seen = exchange(answers, GET_CLOSE).await;
        assert!(seen.contains(expected), "{name}: {seen}");
        assert!(!seen.contains("103"), "{name}: {seen}");
    }
}

#[tokio::test]
async fn responses_that_break_the_protocol_are_502_and_not_passed_on() {
    let rows: [(&str, &'static [&'static str]); 5] = [
        ("both lengths", &["HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"]),
        ("garbage", &["SSH-2.0-x\r\n\r\n"]),
        ("101 out of the blue", &["HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"]),
        ("closed in the head", &["HTTP/1.1 200 OK\r\n"]),
        ("closed without a word", &[""]),
    ];
    for (name, answers) in rows {
        let seen = exchange(answers, GET_CLOSE).await;
        assert!(seen.starts_with("HTTP/1.1 502 "), "{name}: {seen}");
    }
}

#[tokio::test]
async fn a_response_cut_short_upstream_is_cut_short_downstream() {
    let rows: [(&str, &'static [&'static str]); 3] = [
        ("length", &["HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"]),
        ("chunks", &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"]),
        ("a bad chunk", &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n"]),
    ];
    for (name, answers) in rows {
        let seen = exchange(answers, GET).await;
        assert!(seen.starts_with("HTTP/1.1 200 OK") && !seen.ends_with("0\r\n\r\n"), "{name}: {seen}");
    }
    // And over HTTP/2 the stream is reset, not ended.
    for (name, answers) in rows {
        let proxy = forward(pool(Proto::H1), pipes(Proto::H1, 64 * 1024, scripted(answers)));
        let Served { client, .. } = served(Proto::H2, proxy);
        let mut client = Client::new(Proto::H2, client).await;
        // A reset may overtake the head.
        let error: Box<dyn std::error::Error> = match client.get("/").await {
            Ok(response) => collect(Body::boxed(response.into_body())).await.unwrap_err().into(),
            Err(error) => error.into(),
        };
        assert!(format!("{error:?}").contains("INTERNAL_ERROR"), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel_and_keeps_the_bytes_behind_the_head() {
    let connect = pipes(Proto::H1, 64 * 1024, |mut io: DuplexStream| async move {
        let head = read_until(&mut io, "\r\n\r\n").await;
        assert!(head.contains("upgrade: echo") && head.contains("connection: upgrade"), "{head}");
        // The first frame comes in the same segment as the head.
        send(&mut io, "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello ").await;
        let (mut read, mut write) = tokio::io::split(io);
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    });
    let pool = pool(Proto::H1);
    let mut served = served(Proto::H1, forward(pool.clone(), connect));
    send(&mut served.client, "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nthere").await;
    let seen = read_until(&mut served.client, "hello there").await;
    assert!(seen.starts_with("HTTP/1.1 101 ") && seen.contains("upgrade: echo"), "{seen}");
    assert_eq!(pool.sizes().open, 1);
    served.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut served.client).await, "");
    served.task.await.unwrap().unwrap();
    assert_eq!(pool.sizes(), Sizes::default(), "the tunnel was counted to its end");
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_response() {
    let seen = exchange(
        &["HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno"],
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: echo\r\n\r\n",
    )
    .await;
    assert!(seen.starts_with("HTTP/1.1 426 ") && seen.ends_with("\r\n\r\nno"), "{seen}");
}

#[tokio::test]
async fn expect_continue_travels_end_to_end() {
    let connect = pipes(Proto::H1, 64 * 1024, |mut io: DuplexStream| async move {
        let head = read_until(&mut io, "\r\n\r\n").await;
        assert!(head.contains("expect: 100-continue") && !head.contains("body"), "{head}");
        send(&mut io, "HTTP/1.1 100 Continue\r\n\r\n").await;
        read_until(&mut io, "body").await;
        send(&mut io, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    });
    let mut served = served(Proto::H1, forward(pool(Proto::H1), connect));
    send(&mut served.client, "PUT / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    assert_eq!(read_until(&mut served.client, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    send(&mut served.client, "body").await;
    assert!(read_until(&mut served.client, "\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn an_idle_connection_is_used_again_and_one_that_was_closed_is_not() {
    let (opened, mut opens) = tokio::sync::mpsc::unbounded_channel();
    let script =
        scripted(&["HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n2"]);
    let connect = pipes(Proto::H1, 64 * 1024, move |io| {
        let _ = opened.send(());
        script(io)
    });
    let pool = pool(Proto::H1);
    let mut served = served(Proto::H1, forward(pool.clone(), connect));
    // The third finds the connection closed by the server, before a byte of it is written.
    for (body, opened) in [("1", 1), ("2", 1), ("1", 2), ("2", 2)] {
        send(&mut served.client, GET).await;
        read_until(&mut served.client, &format!("\r\n\r\n{body}")).await;
        tokio::task::yield_now().await;
        assert_eq!(opens.len(), opened, "at {body}");
    }
    opens.close();
}

#[tokio::test]
async fn what_was_processed_is_told_from_what_was_not() {
    use crate::http::h1::client::Connection;
    let limits = h1::HeadLimits::default();
    // Nobody there: not one byte gets out.
    let (near, far) = tokio::io::duplex(1024);
    drop(far);
    let error = Connection::new(near, limits).send(get("/")).await.unwrap_err();
    assert_eq!((error.processed, error.reused), (Processed::No, false), "{error:?}");
    // It read, and closed.
    let (near, mut far) = tokio::io::duplex(1024);
    tokio::spawn(async move { read_until(&mut far, "\r\n\r\n").await });
    let error = Connection::new(near, limits).send(get("/")).await.unwrap_err();
    assert_eq!(error.processed, Processed::Unknown, "{error:?}");
    // The request's own body failed.
    let (near, _far) = tokio::io::duplex(1024);
    let (sender, body) = Body::channel(Some(5));
    sender.fail(BodyError::Truncated);
    let error = Connection::new(near, limits).send(post("/", body)).await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::RequestBody(BodyError::Truncated)), "{error:?}");
}

#[tokio::test]
async fn hyper_at_both_ends_agrees() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    for proto in [Proto::H1, Proto::H2] {
        let connect = pipes(proto, 64 * 1024, move |io: DuplexStream| async move {
            let echo = hyper::service::service_fn(|request: ::http::Request<hyper::body::Incoming>| async move {
                Ok::<_, std::convert::Infallible>(::http::Response::new(request.into_body()))
            });
            let _ = match proto {
                Proto::H1 => hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), echo).await,
                Proto::H2 => {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    server.serve_connection(TokioIo::new(io), echo).await
                }
            };
        });
        let inner = forward(pool(proto), connect);
        let proxy = handler(move |mut request: Request| {
            let inner = inner.clone();
            async move {
                request.headers_mut().remove("host");
                let uri = if proto == Proto::H1 { "/".to_owned() } else { "http://a/".to_owned() };
                *request.uri_mut() = uri.parse().unwrap();
                if proto == Proto::H1 {
                    request.headers_mut().insert("host", ::http::HeaderValue::from_static("a"));
                }
                inner.handle(request, std::time::Instant::now()).await
            }
        });
        let Served { client, .. } = served(proto, proxy);
        let mut client = Client::new(proto, client).await;
        for round in 0..3 {
            let body = Bytes::from(vec![b'x'; 200_000]);
            let response = client.send(post("/", Body::full(body.clone()))).await.unwrap();
            let (echoed, _) = collect(Body::boxed(response.into_body())).await.unwrap();
            assert_eq!(echoed, body, "{proto:?} round {round}");
        }
    }
}

/// What an idle worker pays per connection and per stream. The handler's own future comes on top.
#[test]
fn futures_stay_small() {
    let (io, _far) = tokio::io::duplex(1);
    let (_signal, watch) = drain::new();
    let settings = ServerSettings::default();
    let connection = h1::server::serve(io, handler(|_| async { answer(200, "") }), &settings, watch);
    let size = size_of_val(&connection);
    println!("HTTP/1 connection: {size} bytes");
    assert!(size < 2560, "serving a connection takes {size} bytes");
    let pool = pool(Proto::H2);
    let request = pool.send(get("/"), pipes(Proto::H2, 1, |_| async {}));
    let size = size_of_val(&request);
    assert!(size < 4096, "sending a request takes {size} bytes");
}
