//! What a request costs: instructions, allocations, and what an open connection holds.
//!
//! For instructions nothing is asserted here: `make instructions` runs [`one_hop`] and [`two_sidecars`] under callgrind, as
//! it does `crate::cost`, collects what happens inside `Outbound::serve_to` and `Inbound::serve_to`, and holds the figures
//! against `bench/instructions.txt`.
//!
//! One client connection, one request after the other, an app of the test's own.

use std::io::{Read, Write};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_proto::v1;

use super::wire::App;
use super::{Pair, REVIEWS, Sidecar, VIP, plain, routed, rule};
use crate::cost::times;
use crate::identity::testing::TestCa;

/// As an app's client sends it.
const REQUEST: &str =
    "GET /reviews/1?full=true HTTP/1.1\r\nhost: reviews\r\nuser-agent: curl/8.5.0\r\naccept: */*\r\n\r\n";

fn with_route(port: &mut v1::ServicePort) {
    routed(port, rule(&[("shop/reviews", 1)]));
}

/// HTTP/1.1 to an endpoint without a sidecar: `h1` of the benchmarks.
#[tokio::test]
async fn one_hop() {
    let web = Sidecar::new(&TestCa::new("weft.local"), "web");
    let app = App::says("hello").await;
    web.service(with_route);
    web.endpoints(REVIEWS, &[plain(app.addr)]);
    let mut client = web.connect(VIP).await;
    for _ in 0..times() {
        assert_eq!(client.ask(REQUEST).await.text(), "hello");
    }
}

/// HTTP/1.1 apps, two sidecars, mesh TLS and HTTP/2 between them: `mesh` of the benchmarks.
#[tokio::test]
async fn two_sidecars() {
    let pair = Pair::new(App::says("hello").await).await;
    pair.web.service(with_route);
    let mut client = pair.connect().await;
    for _ in 0..times() {
        assert_eq!(client.ask(REQUEST).await.text(), "hello");
    }
}

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello";

/// An app on a thread of its own, where what it allocates is not counted.
fn app_apart() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buf = [0; 1024];
                while matches!(stream.read(&mut buf), Ok(1..)) && stream.write_all(RESPONSE).is_ok() {}
            });
        }
    });
    address
}

/// Without an allocation.
async fn ask(client: &mut tokio::net::TcpStream, times: usize) {
    let mut buf = [0; 1024];
    for _ in 0..times {
        client.write_all(REQUEST.as_bytes()).await.unwrap();
        let mut got = 0;
        while !buf[..got].ends_with(b"hello") {
            got += client.read(&mut buf[got..]).await.unwrap();
        }
    }
}

/// Allocations for each request of a keep-alive connection, through the sidecar of its client, to which they all belong:
/// the client here makes none, and the app is on another thread. One that is new is noticed.
#[test]
fn allocations_of_a_request() {
    const MOST: u64 = 3;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (web, mut client) = runtime.block_on(async {
        let web = Sidecar::new(&TestCa::new("weft.local"), "web");
        web.service(with_route);
        web.endpoints(REVIEWS, &[plain(app_apart())]);
        let client = web.connect(VIP).await.stream;
        (web, client)
    });
    runtime.block_on(ask(&mut client, 50));
    let counted = allocation_counter::measure(|| runtime.block_on(ask(&mut client, 100)));
    let (each, left) = (counted.count_total as f64 / 100.0, counted.count_current);
    println!("{each} allocations of {} bytes in all for a request", counted.bytes_total / 100);
    assert!(each <= MOST as f64, "{each} allocations for a request, {MOST} are allowed");
    assert!(left.abs() <= 2, "{left} left after 100 requests");
    drop(web);
}

/// What a connection of the app holds that was used and now waits, at both of its ends here: a task, a future, two sockets as
/// the runtime knows them. The allocator rounds each up, by an eighth at most, and the kernel's part comes on top.
#[test]
fn memory_of_an_idle_connection() {
    const MOST: i64 = 4096;
    const CONNECTIONS: usize = 100;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let web = runtime.block_on(async {
        let web = Sidecar::new(&TestCa::new("weft.local"), "web");
        web.service(with_route);
        web.endpoints(REVIEWS, &[plain(app_apart())]);
        web
    });
    let mut clients = Vec::with_capacity(2 * CONNECTIONS);
    let mut open = || {
        runtime.block_on(async {
            for _ in 0..CONNECTIONS {
                let mut client = web.connect(VIP).await.stream;
                ask(&mut client, 1).await;
                clients.push(client);
            }
            // Long enough for each to have noticed that it waits.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        });
    };
    open();
    let each = allocation_counter::measure(open).bytes_current / CONNECTIONS as i64;
    println!("{each} bytes for a connection that waits");
    assert!((1..=MOST).contains(&each), "{each} bytes for a connection that waits, {MOST} are allowed");
}

/// What an open connection holds while it waits, besides its socket: a future per layer. These are their sizes, so that one
/// that grows is noticed. Everything rare is boxed where it happens.
#[tokio::test]
async fn futures_stay_small() {
    let pair = Pair::new(App::says("hello").await).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = || tokio::net::TcpStream::connect(address);
    let outbound = std::sync::Arc::clone(&pair.web.outbound).serve_to(socket().await.unwrap(), address, address);
    let inbound = std::sync::Arc::clone(&pair.web.inbound).serve_to(socket().await.unwrap(), address, address);
    let sizes =
        [("outbound connection", size_of_val(&outbound), 4608), ("inbound connection", size_of_val(&inbound), 4608)];
    for (what, size, bound) in sizes {
        println!("{what}: {size} bytes");
        assert!(size <= bound, "{what}: {size} bytes, {bound} are allowed");
    }
}
