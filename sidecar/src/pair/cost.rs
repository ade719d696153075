//! What a request costs in instructions: nothing is asserted here. `make instructions` runs each of these under callgrind,
//! collects what happens inside `Outbound::serve_to` and `Inbound::serve_to`, and holds the figures against
//! `bench/instructions.txt`.
//!
//! One client connection, one request after the other, an app of the test's own. `WEFT_COST_REQUESTS` says how many: the
//! difference between two runs is free of what a first request costs.

use weft_proto::v1;

use super::wire::App;
use super::{Pair, REVIEWS, Sidecar, VIP, plain, routed, rule};
use crate::identity::testing::TestCa;

/// As an app's client sends it.
const REQUEST: &str =
    "GET /reviews/1?full=true HTTP/1.1\r\nhost: reviews\r\nuser-agent: curl/8.5.0\r\naccept: */*\r\n\r\n";

fn requests() -> usize {
    std::env::var("WEFT_COST_REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

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
    for _ in 0..requests() {
        assert_eq!(client.ask(REQUEST).await.text(), "hello");
    }
}

/// HTTP/1.1 apps, two sidecars, mesh TLS and HTTP/2 between them: `mesh` of the benchmarks.
#[tokio::test]
async fn two_sidecars() {
    let pair = Pair::new(App::says("hello").await).await;
    pair.web.service(with_route);
    let mut client = pair.connect().await;
    for _ in 0..requests() {
        assert_eq!(client.ask(REQUEST).await.text(), "hello");
    }
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
