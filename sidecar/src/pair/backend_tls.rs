//! BackendTLSPolicy: the app speaks plain text, a server outside the mesh hears TLS, or nothing at all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use weft_proto::v1;

use super::wire::End;
use super::{REVIEWS, Sidecar, VIP, plain};
use crate::backend_tls::tests::WebCa;
use crate::identity::testing::TestCa;
use crate::listen::client_hello::tests::real;

/// A server that says so, and how many TLS handshakes it completed.
async fn server(acceptor: TlsAcceptor, greets: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, shaken) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&shaken);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(tcp).await else { return };
                count.fetch_add(1, Ordering::Relaxed);
                if greets {
                    let _ = stream.write_all(b"220 secure\r\n").await;
                    let _ = stream.flush().await;
                }
                let mut read = Vec::new();
                while stream.read_buf(&mut read).await.is_ok_and(|count| count > 0) {
                    if read.ends_with(b"\r\n\r\n") {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecure").await;
                        let _ = stream.flush().await;
                        read.clear();
                    }
                }
            });
        }
    });
    (address, shaken)
}

fn with_policy(web: &Sidecar, protocol: v1::Protocol, tls: v1::BackendTls) {
    web.service(|port| {
        port.protocol = protocol.into();
        port.policy = Some(v1::BackendPolicy { tls: Some(Box::new(tls)), ..v1::BackendPolicy::default() });
    });
}

#[tokio::test]
async fn requests_travel_by_tls_on_connections_that_are_kept_until_the_policy_changes() {
    let (ca, web) = (WebCa::new(), Sidecar::new(&TestCa::new("weft.local"), "web"));
    let (address, shaken) = server(ca.server(&["db.example.com", "other.org"], &[]), false).await;
    with_policy(&web, v1::Protocol::Http, ca.policy("db.example.com"));
    web.endpoints(REVIEWS, &[plain(address)]);
    let mut client = web.connect(VIP).await;
    for _ in 0..3 {
        let answer = client.get("/").await;
        assert_eq!((answer.head.status(), answer.text()), (200, "secure"));
    }
    assert_eq!(shaken.load(Ordering::Relaxed), 1, "one connection for all of them");
    with_policy(&web, v1::Protocol::Http, ca.policy("other.org"));
    assert_eq!(client.get("/").await.head.status(), 200);
    assert_eq!(shaken.load(Ordering::Relaxed), 2, "under another policy it is verified anew");
}

#[tokio::test]
async fn a_server_that_cannot_be_verified_gets_nothing_and_the_client_an_error() {
    let (ca, web) = (WebCa::new(), Sidecar::new(&TestCa::new("weft.local"), "web"));
    let (address, shaken) = server(ca.server(&["db.example.com"], &[]), false).await;
    web.endpoints(REVIEWS, &[plain(address)]);
    let refused = "ConfigMap shop/ca is not there".to_owned();
    for (row, policy) in [
        ("another name", ca.policy("other.example.com")),
        ("another root", WebCa::new().policy("db.example.com")),
        ("a policy that cannot be done", v1::BackendTls { refused, roots: Vec::new(), ..ca.policy("db.example.com") }),
    ] {
        with_policy(&web, v1::Protocol::Http, policy);
        let answer = web.connect(VIP).await.get("/").await;
        let reason = answer.head.get("x-weft-reason").unwrap_or_default().to_owned();
        assert_eq!(answer.head.status(), 503, "{row}: {}", answer.text());
        assert!(reason.starts_with("connect-failed") && answer.text().contains("BackendTLSPolicy shop/tls"), "{row}");
    }
    assert_eq!(shaken.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn bytes_travel_by_tls_too_and_a_server_that_speaks_first_is_heard() {
    let (ca, web) = (WebCa::new(), Sidecar::new(&TestCa::new("weft.local"), "web"));
    let (address, _) = server(ca.server(&["mail.example.com"], &[]), true).await;
    web.endpoints(REVIEWS, &[plain(address)]);
    for protocol in [v1::Protocol::Tcp, v1::Protocol::Auto] {
        with_policy(&web, protocol, ca.policy("mail.example.com"));
        assert_eq!(web.connect(VIP).await.take(12).await, "220 secure\r\n", "{protocol:?}");
    }
    with_policy(&web, v1::Protocol::Tcp, ca.policy("other.example.com"));
    assert_eq!(web.connect(VIP).await.end().await, End::Reset);
}

#[tokio::test]
async fn tls_of_the_apps_own_is_not_put_into_more_of_it() {
    let (ca, web) = (WebCa::new(), Sidecar::new(&TestCa::new("weft.local"), "web"));
    let app = super::wire::App::raw(|mut wire, _| async move {
        while wire.more().await.is_ok() {
            let heard = wire.read.split();
            wire.send(heard).await;
        }
    })
    .await;
    web.endpoints(REVIEWS, &[plain(app.addr)]);
    let hello = real("db.example.com", &[]);
    for protocol in [v1::Protocol::Auto, v1::Protocol::Tls] {
        with_policy(&web, protocol, ca.policy("db.example.com"));
        let mut client = web.connect(VIP).await;
        client.send(&hello).await;
        assert_eq!(client.take(hello.len()).await, hello, "{protocol:?}");
    }
}

#[tokio::test]
async fn endpoints_in_the_mesh_are_reached_by_mesh_tls_whatever_the_policy() {
    let (ca, mesh) = (WebCa::new(), TestCa::new("weft.local"));
    let (web, reviews) = (Sidecar::new(&mesh, "web"), Sidecar::new(&mesh, "reviews"));
    let app = super::wire::App::says("meshed").await;
    with_policy(&web, v1::Protocol::Http, ca.policy("db.example.com"));
    web.endpoints(REVIEWS, &[reviews.meshed(app.addr).await]);
    assert_eq!(web.connect(VIP).await.get("/").await.text(), "meshed");
}
