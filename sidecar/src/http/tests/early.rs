//! Both directions at once: answers that come before their request has ended, and pipes too small for either alone.

use super::*;

/// Bytes that outgrow every buffer on the way.
const MUCH: usize = 3 * 1024 * 1024;

/// A body of `len` bytes in pieces of 16 KiB, made on demand.
fn upload(len: usize) -> Body {
    let (mut sender, body) = Body::channel(None);
    tokio::spawn(async move {
        let piece = Bytes::from(vec![b'u'; 16 * 1024]);
        let mut left = len;
        while left > 0 {
            let piece = piece.slice(..piece.len().min(left));
            left -= piece.len();
            if sender.send_when_wanted(Frame::data(piece)).await.is_err() {
                return;
            }
        }
        sender.end();
    });
    body
}

/// The whole way: hyper client → our server → forwarding → our pool → our server → `app`, all pipes `pipe` bytes.
async fn whole_way(down: Proto, up: Proto, pipe: usize, app: impl Handler) -> Client {
    let connect = pipes(up, pipe, move |io| {
        let app = app.clone();
        async move {
            let (_signal, watch) = drain::new();
            let _ = serve(io, up, app, &ServerSettings::default(), watch).await;
        }
    });
    let proxy = handler_for(up, forward(pool(up), connect));
    let Served { client, signal, .. } = served_with(down, proxy, ServerSettings::default(), pipe);
    // The signal lives as long as the test.
    std::mem::forget(signal);
    Client::new(down, client).await
}

/// Makes requests fit for the protocol they will meet upstream.
fn handler_for(up: Proto, inner: impl Handler) -> impl Handler {
    handler(move |request: Request| {
        let inner = inner.clone();
        async move {
            let (mut parts, body) = request.into_parts();
            let length = http_body::Body::size_hint(&body).exact();
            hygiene::strip_hop_by_hop(&mut parts.headers);
            parts.headers.remove("host");
            parts.headers.remove("content-length");
            if let Some(length) = length.filter(|length| *length > 0) {
                parts.headers.insert("content-length", length.into());
            }
            parts.uri = match up {
                Proto::H1 => parts.uri.path().parse().unwrap(),
                Proto::H2 => format!("http://a{}", parts.uri.path()).parse().unwrap(),
            };
            if up == Proto::H1 {
                parts.headers.insert("host", ::http::HeaderValue::from_static("a"));
            }
            parts.version = if up == Proto::H1 { ::http::Version::HTTP_11 } else { ::http::Version::HTTP_2 };
            let answer = inner.handle(::http::Request::from_parts(parts, body), std::time::Instant::now()).await;
            let Answer::Response(mut response) = answer else { return answer };
            hygiene::strip_hop_by_hop(response.headers_mut());
            Answer::Response(response)
        }
    })
}

const EVERY: [(Proto, Proto); 4] =
    [(Proto::H1, Proto::H1), (Proto::H1, Proto::H2), (Proto::H2, Proto::H1), (Proto::H2, Proto::H2)];

#[tokio::test]
async fn an_echo_larger_than_all_buffers_passes_through_tiny_pipes() {
    for (down, up) in EVERY {
        let mut client = whole_way(down, up, 1024, echo()).await;
        let response = client.send(post("/", upload(MUCH))).await.unwrap();
        assert_eq!(response.status(), 200, "{down:?} to {up:?}");
        let echoed = within(collect(Body::boxed(response.into_body()))).await.unwrap().0;
        assert_eq!(echoed.len(), MUCH, "{down:?} to {up:?}");
        assert!(echoed.iter().all(|byte| *byte == b'u'));
        // And the connections are in step.
        assert_eq!(client.get("/again").await.unwrap().status(), 200, "{down:?} to {up:?}");
    }
}

#[tokio::test]
async fn a_complete_response_does_not_cut_the_upload_it_came_before() {
    for (down, up) in EVERY {
        let (counted, mut count) = tokio::sync::mpsc::unbounded_channel();
        // Answers at once and in full, then goes on reading.
        let early = handler(move |request: Request| {
            let counted = counted.clone();
            async move {
                let body = request.into_body();
                tokio::spawn(async move {
                    let read = collect(body).await.map(|(data, _)| data.len());
                    let _ = counted.send(read);
                });
                answer(200, "early")
            }
        });
        let mut client = whole_way(down, up, 4096, early).await;
        let response = client.send(post("/", upload(MUCH))).await.unwrap();
        let body = within(collect(Body::boxed(response.into_body()))).await.unwrap().0;
        assert_eq!(&body[..], b"early", "{down:?} to {up:?}");
        if (down, up) == (Proto::H2, Proto::H2) || (down, up) == (Proto::H2, Proto::H1) {
            let read = within(count.recv()).await.unwrap();
            assert_eq!(read.unwrap(), MUCH, "{down:?} to {up:?}");
        } else {
            // hyper's HTTP/1 client stops sending when the response is complete and it drops the connection.
            drop(client);
            let _ = within(count.recv()).await;
        }
    }
}

#[tokio::test]
async fn an_http_1_connection_is_kept_when_its_upload_ends_after_the_response() {
    for up in [Proto::H1, Proto::H2] {
        let (counted, mut count) = tokio::sync::mpsc::unbounded_channel();
        let early = handler(move |request: Request| {
            let counted = counted.clone();
            async move {
                let body = request.into_body();
                tokio::spawn(async move { counted.send(collect(body).await.map(|(data, _)| data.len())) });
                answer(200, "early")
            }
        });
        let connect = pipes(up, 4096, move |io| {
            let early = early.clone();
            async move {
                let (_signal, watch) = drain::new();
                let _ = serve(io, up, early, &ServerSettings::default(), watch).await;
            }
        });
        let proxy = handler_for(up, forward(pool(up), connect));
        let mut served = served_with(Proto::H1, proxy, ServerSettings::default(), 4096);
        for _ in 0..2 {
            send(&mut served.client, &format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {MUCH}\r\n\r\n")).await;
            let seen = read_until(&mut served.client, "early").await;
            assert!(!seen.contains("connection: close"), "{seen}");
            within(served.client.write_all(&vec![b'u'; MUCH])).await.unwrap();
            assert_eq!(within(count.recv()).await.unwrap().unwrap(), MUCH, "{up:?}");
        }
    }
}

#[tokio::test]
async fn an_early_refusal_reaches_a_client_that_is_still_sending() {
    for (down, up) in EVERY {
        let mut client = whole_way(down, up, 4096, handler(|_| async { answer(413, "too much") })).await;
        let response = within(client.send(post("/", upload(MUCH)))).await.unwrap();
        assert_eq!(response.status(), 413, "{down:?} to {up:?}");
        let body = within(collect(Body::boxed(response.into_body()))).await.unwrap().0;
        assert_eq!(&body[..], b"too much", "{down:?} to {up:?}");
    }
}

#[tokio::test]
async fn an_upload_goes_on_while_the_client_does_not_read_the_download() {
    // The app reads everything first but sends its head, and a download larger than all buffers, at once. The client
    // uploads everything before it reads: only poll_progress carries the upload past the blocked download.
    let app = handler(|request: Request| async move {
        let (mut sender, body) = Body::channel(None);
        let (done, all_read) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let read = collect(request.into_body()).await.unwrap().0.len();
            let _ = done.send(read);
        });
        tokio::spawn(async move {
            let piece = Bytes::from(vec![b'd'; 64 * 1024]);
            for _ in 0..32 {
                sender.send_when_wanted(Frame::data(piece.clone())).await.unwrap();
            }
            let read: usize = all_read.await.unwrap();
            sender.send_when_wanted(Frame::data(Bytes::from(format!("{read}")))).await.unwrap();
            sender.end();
        });
        answer(200, body)
    });
    for up in [Proto::H1, Proto::H2] {
        let connect = pipes(up, 8 * 1024, {
            let app = app.clone();
            move |io| {
                let app = app.clone();
                async move {
                    let (_signal, watch) = drain::new();
                    let _ = serve(io, up, app, &ServerSettings::default(), watch).await;
                }
            }
        });
        let proxy = handler_for(up, forward(pool(up), connect));
        let mut served = served_with(Proto::H1, proxy, ServerSettings::default(), 8 * 1024);
        send(&mut served.client, &format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {MUCH}\r\n\r\n")).await;
        let upload = vec![b'u'; MUCH];
        within(served.client.write_all(&upload)).await.unwrap();
        let seen = read_until(&mut served.client, "0\r\n\r\n").await;
        assert!(seen.contains(&format!("\r\n{MUCH}\r\n")), "{up:?}");
    }
}

/// Fails instead of hanging.
async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("it hangs")
}
