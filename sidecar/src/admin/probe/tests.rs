use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::listen::drain;

/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 22;

/// Heads of requests that came.
type Seen = Arc<Mutex<Vec<String>>>;

/// An app that answers each path as written here, one request a connection.
async fn app(tls: Option<&'static rustls::SupportedProtocolVersion>) -> (u16, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let log = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                match tls {
                    None => answer(stream, port, &log).await,
                    Some(version) => {
                        if let Ok(stream) = acceptor(version).accept(stream).await {
                            answer(stream, port, &log).await;
                        }
                    }
                }
            });
        }
    });
    (port, seen)
}

fn acceptor(version: &'static rustls::SupportedProtocolVersion) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["nobody.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn answer(mut io: impl AsyncRead + AsyncWrite + Unpin, port: u16, seen: &Seen) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = io.read_u8().await else { return };
        head.push(byte);
        if head == [TLS_HANDSHAKE] {
            // What servers of HTTP say to it; all of it is read, so that closing is no reset.
            let _ = io.read(&mut [0; 4096]).await;
            let _ = io.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            return;
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    seen.lock().push(head);
    let redirect = |to: &str| format!("302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    let answer = match path.as_str() {
        "/slow" => return std::future::pending().await,
        "/close" => return,
        "/bad" => "500 No\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "/cut" => "200 OK\r\nContent-Length: 9\r\n\r\nab".to_owned(),
        "/huge" => format!("200 OK\r\nContent-Length: 99999999\r\n\r\n{}", "x".repeat(20_000)),
        "/to-ok" => redirect("/ok"),
        "/to-bad" => redirect(&format!("http://127.0.0.1:{port}/bad")),
        "/to-elsewhere" => redirect("http://elsewhere.example/bad"),
        "/circle" => redirect("/circle"),
        "/nowhere" => "301 Moved\r\nContent-Length: 0\r\n\r\n".to_owned(),
        _ => "200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
    };
    io.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
    let _ = io.shutdown().await;
}

fn probes(json: &str) -> (Probes, drain::Signal) {
    let (signal, watch) = drain::new();
    let specs = spec::parse(json).unwrap();
    let dns = Dns::fixed([("app.local", IpAddr::from([127, 0, 0, 1]))]);
    (Probes::new(specs, [127, 0, 0, 1].into(), dns, watch), signal)
}

async fn run(json: &str) -> Result<(), Failure> {
    let agent = HeaderValue::from_static("kube-probe/1.36");
    probes(&format!("{{\"app/readiness\": {json}}}")).0.find("app/readiness").unwrap().run(Some(&agent)).await
}

#[tokio::test]
async fn an_http_probe_judges_as_kubelet_does() {
    let (port, _) = app(None).await;
    for (path, good) in [
        ("/ok", true),
        ("/bad", false),
        ("/cut", false),
        ("/close", false),
        ("/huge", true),
        ("/to-ok", true),
        ("/to-bad", false),
        ("/to-elsewhere", true),
        ("/circle", false),
        ("/nowhere", true),
    ] {
        let result = run(&format!(r#"{{"http": {{"port": {port}, "path": "{path}"}}}}"#)).await;
        assert_eq!(result.is_ok(), good, "{path}: {result:?}");
    }
}

#[tokio::test]
async fn an_http_probe_sends_what_kubelet_would() {
    let (port, seen) = app(None).await;
    run(&format!(r#"{{"http": {{"port": {port}, "path": "/x?y=1"}}}}"#)).await.unwrap();
    let own = r#"[["Host", "shop.example"], ["User-Agent", "me"], ["Accept", ""], ["X-A", "1"], ["X-A", "2"]]"#;
    run(&format!(r#"{{"http": {{"port": {port}, "path": "/to-ok", "host": "app.local", "headers": {own}}}}}"#))
        .await
        .unwrap();
    let seen = seen.lock();
    let [plain, first, second] = &seen[..] else { panic!("{seen:?}") };
    assert!(plain.starts_with("GET /x?y=1 HTTP/1.1\r\n"), "{plain}");
    let host = format!("Host: 127.0.0.1:{port}");
    for line in [&*host, "User-Agent: kube-probe/1.36", "Accept: */*", "Connection: close"] {
        assert!(plain.contains(&format!("\r\n{line}\r\n")), "{line} is missing in {plain}");
    }
    for head in [first, second] {
        for line in ["Host: shop.example", "User-Agent: me", "X-A: 1", "X-A: 2"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} is missing in {head}");
        }
        assert!(!head.contains("Accept"), "{head}");
    }
}

#[tokio::test]
async fn https_believes_any_certificate_of_either_version() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (port, _) = app(Some(version)).await;
        let of = |path: &str| format!(r#"{{"http": {{"port": {port}, "path": "{path}", "scheme": "HTTPS"}}}}"#);
        run(&of("/ok")).await.unwrap();
        assert!(matches!(run(&of("/bad")).await, Err(Failure::Status(StatusCode::INTERNAL_SERVER_ERROR))));
    }
    let (port, _) = app(None).await;
    let result = run(&format!(r#"{{"http": {{"port": {port}, "scheme": "HTTPS"}}}}"#)).await;
    assert!(matches!(result, Err(Failure::Tls { .. })), "{result:?}");
}

#[tokio::test]
async fn a_hook_is_done_when_the_app_has_answered_and_holds_up_the_end() {
    let (port, _) = app(None).await;
    let (probes, signal) = probes(&format!(
        r#"{{"app/post-start": {{"http": {{"port": {port}, "path": "/bad"}}}},
            "app/pre-stop": {{"http": {{"port": {port}, "path": "/slow"}}}},
            "b/pre-stop": {{"http": {{"port": {port}, "path": "/ok", "scheme": "HTTPS"}}}},
            "c/pre-stop": {{"http": {{"port": 1}}}}}}"#
    ));
    let run = |name: &str| probes.find(name).unwrap().run(None);
    run("app/post-start").await.expect("a status says nothing");
    run("b/pre-stop").await.expect("plain HTTP where HTTPS was meant");
    assert!(run("c/pre-stop").await.is_err(), "nobody answers");
    {
        let running = run("app/pre-stop");
        tokio::pin!(running);
        assert!(timeout(Duration::from_millis(50), &mut running).await.is_err());
        assert_eq!(signal.held(), 1);
    }
    assert_eq!(signal.held(), 0, "kubelet hung up");
}

#[tokio::test]
async fn a_tcp_probe_connects_to_the_app_and_says_no_more() {
    let (port, seen) = app(None).await;
    run(&format!(r#"{{"tcp": {{"port": {port}}}}}"#)).await.unwrap();
    run(&format!(r#"{{"tcp": {{"port": {port}, "host": "app.local"}}}}"#)).await.unwrap();
    assert!(matches!(run(r#"{"tcp": {"port": 1}}"#).await, Err(Failure::Connect { .. })));
    assert!(matches!(run(r#"{"tcp": {"port": 1, "host": "else.where"}}"#).await, Err(Failure::Name(_))));
    assert!(seen.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_probe_ends_with_its_timeout() {
    // Connects at once, and nobody ever answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for (check, more, seconds) in
        [("http", "", 1), ("http", r#", "timeoutSeconds": 7"#, 7), ("grpc", r#", "timeoutSeconds": 2"#, 2)]
    {
        let result = run(&format!(r#"{{"{check}": {{"port": {port}{more}}}}}"#)).await;
        let expected = Duration::from_secs(seconds);
        assert!(matches!(result, Err(Failure::Timeout(after)) if after == expected), "{check} {result:?}");
    }
}

/// Answers every request with this body and these trailers.
async fn grpc_app(answer: &'static [u8], status: &'static str) -> (u16, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let log = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let log = Arc::clone(&log);
            let service = hyper::service::service_fn(move |request: ::http::Request<hyper::body::Incoming>| {
                let log = Arc::clone(&log);
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    log.lock().push(format!("{} {:?} {body:?}", head.uri, head.headers));
                    let trailers = async move {
                        let mut trailers = ::http::HeaderMap::new();
                        trailers.insert("grpc-status", HeaderValue::from_static(status));
                        Some(Ok(trailers))
                    };
                    Ok::<_, hyper::Error>(::http::Response::new(
                        Full::new(Bytes::from_static(answer)).with_trailers(trailers),
                    ))
                }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    (port, seen)
}

#[tokio::test]
async fn a_grpc_probe_asks_for_the_health_of_a_service() {
    let (port, seen) = grpc_app(b"\0\0\0\0\x02\x08\x01", "0").await;
    run(&format!(r#"{{"grpc": {{"port": {port}, "service": "a.B"}}}}"#)).await.unwrap();
    let seen = seen.lock().concat();
    for part in ["/grpc.health.v1.Health/Check", "kube-probe/1.36", r#"\0\0\0\0\x05\n\x03a.B"#, "application/grpc"] {
        assert!(seen.contains(part), "{part} is missing in {seen}");
    }
    for (answer, status, expected) in [
        (&b"\0\0\0\0\x02\x08\x02"[..], "0", "NOT_SERVING"),
        (b"", "12", "does not implement"),
        (b"", "5", "gRPC status 5"),
        (b"", "0", "holds no message"),
    ] {
        let (port, _) = grpc_app(answer, status).await;
        let error = run(&format!(r#"{{"grpc": {{"port": {port}}}}}"#)).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{status}: {error}");
    }
    let (port, _) = app(None).await;
    assert!(run(&format!(r#"{{"grpc": {{"port": {port}}}}}"#)).await.is_err(), "HTTP/1 is no gRPC");
}

#[tokio::test]
async fn a_name_nobody_wrote_is_no_probe() {
    let (probes, _signal) = probes(r#"{"app/liveness": {"tcp": {"port": 1}}}"#);
    assert!(probes.find("app/readiness").is_none());
    assert_eq!(probes.names().collect::<Vec<_>>(), ["app/liveness"]);
}

#[tokio::test]
async fn a_probe_is_found_by_its_secret_only() {
    let secret = "0123456789abcdef0123456789abcdef";
    let (probes, _signal) = probes(&format!(
        r#"{{"{secret}.app/liveness": {{"tcp": {{"port": 1}}}}, "old/liveness": {{"tcp": {{"port": 1}}}}}}"#
    ));
    for (asked, found) in [
        (format!("{secret}.app/liveness"), Some(("app/liveness", true))),
        ("app/liveness".to_owned(), None),
        (".app/liveness".to_owned(), None),
        (format!("{}.app/liveness", "0".repeat(32)), None),
        (format!("{}.app/liveness", secret.to_uppercase()), None),
        (format!("{secret}.app/readiness"), None),
        (format!("{secret}.old/liveness"), None),
        // Of a control plane that makes none.
        ("old/liveness".to_owned(), Some(("old/liveness", false))),
    ] {
        let probe = probes.find(&asked);
        assert_eq!(probe.map(|probe| (probe.name(), probe.is_secret())), found, "{asked}");
    }
    assert!(probes.named("app/liveness").is_some());
}

#[tokio::test]
async fn the_app_reads_of_a_caller_that_it_is_kubelet_and_no_more() {
    let (port, seen) = app(None).await;
    let (grpc_port, grpc_seen) = grpc_app(b"\0\0\0\0\x02\x08\x01", "0").await;
    let (probes, _signal) = probes(&format!(
        r#"{{"app/liveness": {{"http": {{"port": {port}}}}}, "app/readiness": {{"grpc": {{"port": {grpc_port}}}}}}}"#
    ));
    for (given, sent) in [
        (Some("kube-probe/1.36"), "kube-probe/1.36"),
        (Some("kube-probe/1.36+"), "kube-probe/1.36+"),
        (Some("kube-lifecycle/1.36"), "kube-lifecycle/1.36"),
        (Some("kube-probe/"), "weft-sidecar"),
        (Some("kube-probe/1.36 (${jndi:ldap://evil})"), "weft-sidecar"),
        (Some("kube-probe/1.36789012345678901"), "weft-sidecar"),
        (Some("Kube-Probe/1.36"), "weft-sidecar"),
        (Some("curl/8"), "weft-sidecar"),
        (Some("<script>"), "weft-sidecar"),
        (Some("kube-probe/\u{e4}"), "weft-sidecar"),
        (Some(""), "weft-sidecar"),
        (None, "weft-sidecar"),
    ] {
        let given = given.map(|given| HeaderValue::from_bytes(given.as_bytes()).unwrap());
        for name in ["app/liveness", "app/readiness"] {
            probes.find(name).unwrap().run(given.as_ref()).await.unwrap();
        }
        let head = seen.lock().pop().unwrap();
        assert!(head.contains(&format!("\r\nUser-Agent: {sent}\r\n")), "{given:?}: {head}");
        let head = grpc_seen.lock().pop().unwrap();
        assert!(head.contains(&format!("\"user-agent\": \"{sent}\"")), "{given:?}: {head}");
    }
}

#[tokio::test]
async fn a_slow_hook_runs_once_at_a_time_and_takes_no_probes_place() {
    let (port, seen) = app(None).await;
    let (probes, _signal) = probes(&format!(
        r#"{{"app/pre-stop": {{"http": {{"port": {port}, "path": "/slow"}}}},
            "b/pre-stop": {{"http": {{"port": {port}, "path": "/ok"}}}},
            "app/readiness": {{"http": {{"port": {port}, "path": "/ok"}}}}}}"#
    ));
    let mut slow: futures_util::stream::FuturesUnordered<_> =
        (0..MAX_AT_ONCE + 1).map(|_| probes.find("app/pre-stop").unwrap().run(None)).collect();
    let others = async {
        // They have all been polled by the time the first has reached the app.
        while seen.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        probes.find("app/readiness").unwrap().run(None).await.unwrap();
        probes.find("b/pre-stop").unwrap().run(None).await.unwrap();
    };
    tokio::select! {
        ended = futures_util::StreamExt::next(&mut slow) => panic!("{ended:?}"),
        () = others => {}
    }
    let slow_ones = seen.lock().iter().filter(|head| head.starts_with("GET /slow ")).count();
    assert_eq!(slow_ones, 1);
}
