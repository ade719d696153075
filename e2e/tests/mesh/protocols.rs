//! Protocols through two sidecars: server-first, silent clients, WebSocket, gRPC, large bodies, bad framing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weft_e2e::apps::grpc::GrpcReport;
use weft_e2e::apps::tcp::Heard;
use weft_e2e::manifest::{self, Port, labels};
use weft_e2e::{Mesh, Pod, PodSpec, Process, probe, stats};

use crate::shop::{Shop, pause};

fn first_bytes(pod: &Pod, address: &str) -> Vec<u64> {
    let args = ["tcp-client", "--address", address, "--count=11", "--patience-ms=400"];
    let mut client = pod.app("first-byte", &args).unwrap();
    client.success(Duration::from_secs(30)).unwrap();
    let heard: Vec<Heard> = stats::lines(client.log());
    assert!(heard.iter().all(|one| one.received == "220 ready\r\n"), "{heard:?}");
    // The first connection also asks the control plane where this goes.
    heard.iter().skip(1).map(|one| one.first_byte_micros).collect()
}

fn tcp_server(pod: &Pod) -> Process {
    let app = pod.app("tcp", &["tcp-server"]).unwrap();
    pod.wait_listening(9000).unwrap();
    app
}

#[test]
fn a_server_that_speaks_first_is_heard_within_fifty_ms_of_direct() {
    let mesh = Mesh::new("first-byte").unwrap();
    mesh.manifests().write("namespace", &manifest::namespace("demo")).unwrap();
    mesh.service("demo", "mail", &[Port::new("mystery", 9000, 9000)], labels([("app", "mail")])).unwrap();
    mesh.start_control_plane().unwrap();
    let server = mesh.pod(PodSpec::meshed("mail", "mail")).unwrap();
    let client = mesh.pod(PodSpec::meshed("client", "client")).unwrap();
    let plain_server = mesh.pod(PodSpec::plain("plain-mail", "other")).unwrap();
    let plain_client = mesh.pod(PodSpec::plain("plain-client", "other")).unwrap();
    let _apps = [tcp_server(&server), tcp_server(&plain_server)];

    let direct = stats::quantile(&mut first_bytes(&plain_client, &format!("{}:9000", plain_server.v4())), 0.5);
    let mut through = first_bytes(&client, "mail:9000");
    let (median, worst) = (stats::quantile(&mut through, 0.5), stats::quantile(&mut through, 1.0));
    println!("first byte: direct {direct} µs, through two sidecars {median} µs (worst {worst} µs)");
    assert!(median < direct + 50_000, "direct {direct} µs, through the mesh {through:?}");
}

#[test]
fn a_client_silent_for_two_seconds_is_still_routed() {
    let mut shop = Shop::new("silent", 1);
    // A port that says nothing of its protocol, and a route on it.
    let ports = [Port::new("mystery", 7000, 8080)];
    shop.mesh.service("demo", "quiet", &ports, labels([("app", "reviews")])).unwrap();
    shop.mesh.service("demo", "quiet-v2", &ports, labels([("app", "v2")])).unwrap();
    let route = manifest::split("demo", "quiet", "quiet", 7000, &[("quiet-v2", 1)]);
    shop.mesh.manifests().write("quiet-route", &route).unwrap();
    shop.add(PodSpec::meshed("v2", "v2"));
    // And the same without a route: HTTP by its first bytes.
    shop.mesh.service("demo", "detected", &ports, labels([("app", "v2")])).unwrap();
    pause(Duration::from_millis(500));
    for host in ["quiet", "detected"] {
        let address = format!("{host}:7000");
        let send = format!("GET /silent HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n");
        let args = ["tcp-client", "--silent-ms=2000", "--patience-ms=3000", "--address", &address, "--send", &send];
        let mut client = shop.client.app(host, &args).unwrap();
        client.success(Duration::from_secs(15)).unwrap();
        let heard: Vec<Heard> = stats::lines(client.log());
        assert!(heard[0].received.starts_with("HTTP/1.1 200"), "{host}: {heard:?}");
        assert!(heard[0].received.ends_with("v2\n"), "{host}: {heard:?}");
    }
    // As HTTP, not as bytes: the app was told who asks.
    let served = shop.served();
    let silent: Vec<_> = served.iter().filter(|one| one.path == "/silent").collect();
    assert_eq!(silent.len(), 2);
    assert!(
        silent.iter().all(|one| one.headers.iter().any(|(name, _)| name == "x-forwarded-client-cert")),
        "{silent:?}"
    );
}

#[test]
fn websocket_messages_come_back() {
    let shop = Shop::new("websocket", 1);
    let args = ["web-socket-client", "--address", "reviews:80", "--count=200"];
    let mut client = shop.client.app("ws", &args).unwrap();
    let said = client.success(Duration::from_secs(20)).unwrap();
    assert_eq!(said.trim(), r#"{"echoed":200,"closed_cleanly":true}"#);
}

#[test]
fn grpc_streams_both_ways_with_trailers() {
    let shop = Shop::new("grpc", 0);
    shop.mesh.service("demo", "grpc", &[Port::new("mystery", 50051, 50051)], labels([("app", "grpc")])).unwrap();
    let server = shop.mesh.pod(PodSpec::meshed("grpc", "grpc")).unwrap();
    let _app = server.app("app", &["grpc-server", "--name", "grpc"]).unwrap();
    server.wait_listening(50051).unwrap();
    let args = ["grpc-client", "--url", "http://grpc:50051", "--count=200"];
    let mut client = shop.client.app("grpc", &args).unwrap();
    client.success(Duration::from_secs(30)).unwrap();
    let reports: Vec<GrpcReport> = stats::lines(client.log());
    let GrpcReport { unary, server_stream, client_stream, bidi, trailers } = reports[0];
    assert_eq!((unary, server_stream, client_stream, bidi, trailers), (200, 200, 200, 200, true));
}

#[test]
fn a_hundred_megabytes_in_chunks_pass_in_constant_memory() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 1600;
    let shop = Shop::new("upload", 1);
    let address = shop.vip();
    let rss = || (shop.client.sidecar_rss_kib(), shop.servers[0].0.sidecar_rss_kib());
    let before = rss();
    let done = AtomicBool::new(false);
    let (answer, peak) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = (0, 0);
            while !done.load(Ordering::Relaxed) {
                let now = rss();
                peak = (now.0.max(peak.0), now.1.max(peak.1));
                pause(Duration::from_millis(20));
            }
            peak
        });
        let answer = shop.client.within(|| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream
                .write_all(b"POST /upload HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
                .unwrap();
            let chunk = [format!("{CHUNK:x}\r\n").as_bytes(), &vec![b'u'; CHUNK], b"\r\n"].concat();
            for _ in 0..CHUNKS {
                stream.write_all(&chunk).unwrap();
            }
            stream.write_all(b"0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        done.store(true, Ordering::Relaxed);
        (answer.unwrap(), watch.join().unwrap())
    });
    assert!(answer.contains(&(CHUNK * CHUNKS).to_string()), "{answer}");
    println!(
        "{} MiB uploaded; RSS of the sidecars in KiB: before {before:?}, at most {peak:?}",
        (CHUNK * CHUNKS) >> 20
    );
    assert!(peak.0 < before.0 + 16 * 1024 && peak.1 < before.1 + 16 * 1024, "before {before:?}, at most {peak:?}");
}

#[test]
fn an_answer_given_before_the_body_was_sent_reaches_the_client() {
    let shop = Shop::new("early", 1);
    let head = b"POST /early HTTP/1.1\r\nHost: reviews\r\nContent-Length: 1000000\r\n\r\nonly the beginning";
    let answer = shop.raw(head);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("early\n"), "{answer}");
}

#[test]
fn a_megabyte_of_header_is_refused_with_431() {
    let shop = Shop::new("head", 1);
    let request = format!("GET /large HTTP/1.1\r\nHost: reviews\r\nX-Large: {}\r\n\r\n", "x".repeat(1 << 20));
    let address = shop.vip();
    let answer = shop.client.within(|| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        // The refusal may come, and the connection close, before all is written.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    });
    let answer = answer.unwrap();
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer:?}");
    assert!(shop.served().iter().all(|request| request.path != "/large"));
}

/// Requests whose end two readers may see in different places, or whose head they may read differently. Each must be
/// refused, and what hides behind it must never be taken for a request.
const AMBIGUOUS: [(&str, &str); 30] = [
    ("both lengths", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("both lengths, the other way round", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    ("two lengths that differ", "Content-Length: 0\r\nContent-Length: 5\r\n\r\n"),
    ("a list of lengths that differ", "Content-Length: 0, 5\r\n\r\n"),
    ("a signed length", "Content-Length: +0\r\n\r\n"),
    ("a negative length", "Content-Length: -1\r\n\r\n"),
    ("a hexadecimal length", "Content-Length: 0x0\r\n\r\n"),
    ("an empty length", "Content-Length: \r\n\r\n"),
    ("a length with a letter", "Content-Length: 0a\r\n\r\n"),
    ("a length beyond 64 bits", "Content-Length: 18446744073709551616\r\n\r\n"),
    ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunked not last", "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("identity alone", "Transfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    ("nearly chunked", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("chunked with a vertical tab", "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ("chunked in quotes", "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    ("a space before the colon", "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("a tab before the colon", "Content-Length\t: 5\r\n\r\n"),
    ("a folded line", "X-One: 1\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a folded length", "Content-Length:\r\n 5\r\n\r\n"),
    ("a bare line feed", "X-One: 1\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a bare carriage return", "X-One: 1\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a NUL in a value", "X-One: 1\0\r\nContent-Length: 0\r\n\r\n"),
    ("an empty name", ": chunked\r\n\r\n"),
    ("a name with a space", "Content Length: 5\r\n\r\n"),
    ("a name with a control character", "Content-Length\x01: 5\r\n\r\n"),
    ("a second host", "Host: other\r\n\r\n"),
    ("a chunk size that is none", "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"),
    ("a chunk size with a prefix", "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n"),
    ("a chunk size beyond 64 bits", "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n"),
];

/// The same for what a line cannot show as a header.
const AMBIGUOUS_WHOLE: [(&str, &str); 8] = [
    ("no host", "POST /refused HTTP/1.1\r\nContent-Length: 0\r\n\r\n"),
    ("two spaces", "POST  /refused HTTP/1.1\r\nHost: reviews\r\n\r\n"),
    ("a word too many", "POST /refused x HTTP/1.1\r\nHost: reviews\r\n\r\n"),
    ("a version that is none", "POST /refused HTTP/1.10\r\nHost: reviews\r\n\r\n"),
    ("a lower-case version", "POST /refused http/1.1\r\nHost: reviews\r\n\r\n"),
    ("chunked in HTTP/1.0", "POST /refused HTTP/1.0\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a header that begins with a space", "POST /refused HTTP/1.1\r\n Host: reviews\r\n\r\n"),
    (
        "a chunk that does not end",
        "POST /refused HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    ),
];

#[test]
fn ambiguous_requests_are_refused_by_both_sidecars_and_nothing_hides_behind_them() {
    const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: reviews\r\nX-Hidden: 1\r\n\r\n";
    let shop = Shop::new("smuggling", 1);
    let inbound = std::net::SocketAddr::new(shop.servers[0].0.v4(), 8080);
    let by_header =
        AMBIGUOUS.iter().map(|(what, lines)| (*what, format!("POST /refused HTTP/1.1\r\nHost: reviews\r\n{lines}")));
    let whole = AMBIGUOUS_WHOLE.iter().map(|(what, text)| (*what, (*text).to_owned()));
    let mut wrong = Vec::new();
    for (what, text) in by_header.chain(whole) {
        let request = format!("{text}{HIDDEN}");
        let through = shop.raw(request.as_bytes());
        // A plain client straight to the server's sidecar.
        let direct = shop
            .mesh
            .from_switch(|| probe::raw(inbound, request.as_bytes(), Duration::from_secs(3)).unwrap_or_default());
        let direct = String::from_utf8_lossy(&direct).into_owned();
        for (which, answer) in [("outbound", through), ("inbound", direct)] {
            let refused = answer.starts_with("HTTP/1.1 400")
                || answer.starts_with("HTTP/1.1 501")
                || answer.starts_with("HTTP/1.1 505");
            let once = answer.matches("HTTP/1.").count() == 1;
            if !refused || !once {
                wrong.push(format!("{what} ({which}): {:?}", answer.lines().next()));
            }
        }
    }
    let served = shop.served();
    let hidden = served.iter().filter(|one| one.path == "/hidden").count();
    assert_eq!(hidden, 0, "a request hidden in another was forwarded");
    assert!(wrong.is_empty(), "not refused:\n{}", wrong.join("\n"));
    // And the mesh goes on.
    assert_eq!(shop.get("/after").unwrap().status, 200);
}

#[test]
fn a_panic_in_one_request_ends_that_request_only() {
    let mut shop = Shop::new("panic", 0);
    shop.add(PodSpec::meshed("fragile", "reviews").env("WEFT_TEST_PANIC", "on"));
    shop.wait_until_answered();
    let load = shop.load("steady", 100, &[]);
    pause(Duration::from_secs(1));
    for _ in 0..5 {
        let answer = shop.get("/weft-panic");
        assert!(answer.as_ref().is_none_or(|answer| answer.status >= 500), "{answer:?}");
    }
    pause(Duration::from_secs(1));
    load.all_answered(150);
    let (server, _) = &shop.servers[0];
    assert!(server.metric("weft_panics_total", &[]) >= 5.0);
    assert!(shop.served().iter().all(|one| one.path != "/weft-panic"));
}
