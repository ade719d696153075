//! A destination outside whose Host or SNI the mesh knows (SEMANTICS.md §1 "outbound lookup" 3).

use std::time::Duration;

use bytes::Bytes;
use weft_proto::v1;

use super::detection::client_hello;
use super::wire::{Answer2, App, Wire, ask_h2};
use super::{Sidecar, plain};
use crate::config::Kind;
use crate::identity::testing::TestCa;

const HOSTS: [&str; 3] = ["ext.shop", "ext.shop.svc", "db.example.com"];

/// What the app's resolver gave it, and the Service `ext` that is known by [`HOSTS`], on the port of `outside`.
struct Known {
    web: Sidecar,
    outside: App,
    ext: App,
}

impl Known {
    async fn new(outside: App, ext: App) -> Self {
        let web = Sidecar::new(&TestCa::new("weft.local"), "web");
        let known = Self { web, outside, ext };
        known.settings(v1::OutboundPolicy::AllowAny);
        let service = v1::Service {
            namespace: "shop".into(),
            name: "ext".into(),
            hosts: HOSTS.map(str::to_owned).to_vec(),
            ports: vec![v1::ServicePort { port: known.outside.addr.port().into(), ..v1::ServicePort::default() }],
            ..v1::Service::default()
        };
        known.web.set(Kind::Service, "shop/ext", &HOSTS, &service);
        known.web.endpoints(&format!("shop/ext:{}", known.outside.addr.port()), &[plain(known.ext.addr)]);
        known
    }

    async fn says() -> Self {
        Self::new(App::says("outside").await, App::says("ext").await).await
    }

    fn settings(&self, policy: v1::OutboundPolicy) {
        let settings = v1::MeshSettings {
            outbound_policy: policy.into(),
            cluster_cidrs: vec!["10.0.0.0/8".into()],
            known_hosts: HOSTS.map(str::to_owned).to_vec(),
            ..v1::MeshSettings::default()
        };
        self.web.set(Kind::MeshSettings, "mesh", &[], &settings);
    }

    async fn connect(&self) -> Wire {
        self.web.connect(&self.outside.addr.to_string()).await
    }
}

#[tokio::test]
async fn the_host_of_each_request_says_where_it_goes() {
    let known = Known::says().await;
    let mut client = known.connect().await;
    for (row, request, answer) in [
        ("known", "GET / HTTP/1.1\r\nhost: ext.shop\r\n\r\n", "ext"),
        ("known, with its port", "GET / HTTP/1.1\r\nhost: DB.example.com.:1\r\n\r\n", "ext"),
        ("short, as the resolver has it", "GET / HTTP/1.1\r\nhost: ext\r\n\r\n", "ext"),
        ("another one, on the same connection", "GET / HTTP/1.1\r\nhost: example.org\r\n\r\n", "outside"),
        ("for a proxy", "GET http://ext.shop/ HTTP/1.1\r\nhost: ext.shop\r\n\r\n", "outside"),
        ("known again", "GET / HTTP/1.1\r\nhost: ext.shop.svc\r\n\r\n", "ext"),
    ] {
        assert_eq!(client.ask(request).await.text(), answer, "{row}");
    }
    assert_eq!(known.web.metric("weft_requests_total", "destination_service=\"shop/ext\""), 4);
}

#[tokio::test]
async fn what_no_known_host_leads_away_reaches_the_original_destination_byte_by_byte() {
    for bytes in [
        "GET / HTTP/1.1\r\nHoSt: example.org\r\nX-Odd:   kept\r\n\r\n",
        "GET http://ext.shop/ HTTP/1.1\r\nHost: ext.shop\r\n\r\n",
        "CONNECT ext.shop:80 HTTP/1.1\r\nHost: ext.shop:80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: ext.shop\r\nHost: ext.shop\r\n\r\n",
        "\0\0 no protocol we know",
    ] {
        let outside = super::detection::first_bytes_app(bytes.len()).await;
        let known = Known::new(outside, App::says("ext").await).await;
        let mut client = known.connect().await;
        // In two pieces: the look ahead waits for the second.
        let (first, rest) = bytes.split_at(6);
        client.send(first).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        client.send(rest).await;
        assert_eq!(client.take(4).await, "seen", "{bytes:?}");
        assert_eq!(known.outside.only().body, bytes);
        assert_eq!(known.ext.connections(), 0, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_and_a_client_that_is_slow_get_on() {
    let known = Known::new(super::detection::banner_app().await, App::says("ext").await).await;
    let mut client = known.connect().await;
    assert_eq!(client.take(11).await, "220 ready\r\n");
    client.send("hello\r\n").await;
    assert_eq!(client.take(7).await, "hello\r\n");

    let known = Known::says().await;
    let mut client = known.connect().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: ext.shop\r\n\r\n").await.text(), "ext");
}

#[tokio::test]
async fn tls_goes_by_its_server_name() {
    let hello = client_hello("db.example.com");
    let known = Known::new(App::says("outside").await, super::detection::first_bytes_app(hello.len()).await).await;
    let mut client = known.connect().await;
    let (first, rest) = hello.split_at(100);
    client.send(first).await;
    client.send(rest).await;
    assert_eq!(client.take(4).await, "seen");
    assert_eq!(known.ext.only().body, hello);
    assert_eq!(known.outside.connections(), 0);
}

#[tokio::test]
async fn http2_goes_by_the_authority_of_each_request() {
    let says = |text: &'static str| {
        move |_: &http::request::Parts, _: &Bytes| Answer2 {
            status: 200,
            body: Bytes::from_static(text.as_bytes()),
            ..Answer2::default()
        }
    };
    let known = Known::new(App::h2(says("outside")).await, App::h2(says("ext")).await).await;
    let client = known.connect().await.h2().await;
    for (host, answer) in [("ext.shop", "ext"), ("example.org", "outside"), ("db.example.com:80", "ext")] {
        let request = http::Request::get(format!("http://{host}/")).body(Bytes::new()).unwrap();
        assert_eq!(ask_h2(&client, request).await.unwrap().0.body(), answer, "{host}");
    }
}

#[tokio::test]
async fn registry_only_lets_known_hosts_pass_and_nothing_else() {
    let known = Known::says().await;
    known.settings(v1::OutboundPolicy::RegistryOnly);
    let mut client = known.connect().await;
    for (host, status, text) in [("ext.shop", 200, "ext"), ("example.org", 502, ""), ("ext.shop", 200, "ext")] {
        let response = client.ask(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(response.head.status(), status, "{host}");
        if status == 200 {
            assert_eq!(response.text(), text);
        } else {
            assert_eq!(response.head.get("x-weft-reason"), Some("registry-only"));
        }
    }
    let mut client = known.connect().await;
    let response = client.ask("GET / HTTP/1.1\r\nhost: example.org\r\n\r\n").await;
    assert_eq!(response.head.status(), 502, "also where it is the first");
    assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: ext.shop\r\n\r\n").await.text(), "ext");
    assert_eq!(known.outside.connections(), 0);
}
