//! TCPRoute and TLSRoute: which app a connection reaches, and that nothing of it is lost, changed or answered on the way.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use weft_proto::v1;

use super::wire::{App, End, Wire};
use super::{Sidecar, VIP};
use crate::identity::testing::TestCa;
use crate::listen::client_hello::tests::{in_records, real};

/// What it is called, and whatever it hears after that.
async fn named(name: &'static str) -> App {
    App::raw(move |mut wire, _| async move {
        wire.send(name).await;
        while wire.more().await.is_ok() {
            let heard = wire.read.split();
            wire.send(heard).await;
        }
    })
    .await
}

/// Server names, and backends with their weights; none is an answer.
type RuleOf<'a> = (&'a [&'a str], &'a [(&'a str, u32)]);

/// `web`, and three apps behind one sidecar that speak first.
struct Db {
    web: Sidecar,
    server: Sidecar,
    _apps: [App; 3],
}

impl Db {
    async fn new() -> Self {
        let ca = TestCa::new("weft.local");
        let (web, server) = (Sidecar::new(&ca, "web"), Sidecar::new(&ca, "reviews"));
        let apps = [named("own").await, named("v1.").await, named("v2.").await];
        for (app, service) in apps.iter().zip(["shop/reviews:80", "shop/v1:80", "shop/v2:80"]) {
            web.endpoints(service, &[server.meshed(app.addr).await]);
        }
        Self { web, server, _apps: apps }
    }

    fn ruled(&self, rules: &[RuleOf<'_>]) {
        let target = |(service, weight): &(&str, u32)| {
            let target = if service.is_empty() {
                let detail = "there is no Service shop/gone".to_owned();
                v1::weighted_target::Target::Answer(v1::FixedAnswer { status: 500, detail })
            } else {
                let backend = v1::Backend { service: (*service).into(), port: 80, ..v1::Backend::default() };
                v1::weighted_target::Target::Backend(backend)
            };
            v1::WeightedTarget { weight: *weight, target: Some(target), filters: Vec::new() }
        };
        let rules = rules.iter().map(|(hosts, targets)| v1::ConnectionRule {
            route: "TLSRoute/shop/db".into(),
            rule: "0".into(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            targets: targets.iter().map(target).collect(),
        });
        let connections = v1::ConnectionRoutes { rules: rules.collect() };
        self.web.service(|port| {
            port.protocol = v1::Protocol::Tcp.into();
            port.connections = Some(connections);
        });
    }

    /// A connection on which the app has said its name.
    async fn connect(&self) -> (Wire, String) {
        let mut client = self.web.connect(VIP).await;
        let name = client.take(3).await;
        (client, String::from_utf8_lossy(&name).into_owned())
    }
}

#[tokio::test]
async fn connections_are_shared_by_weight_and_each_stays_where_it_is() {
    let db = Db::new().await;
    db.ruled(&[(&[], &[("shop/v1", 3), ("shop/v2", 1), ("shop/reviews", 0)])]);
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..80 {
        *shares.entry(db.connect().await.1).or_default() += 1;
    }
    assert!(shares.len() == 2 && (5..40).contains(&shares["v2."]), "{shares:?}");

    db.ruled(&[(&[], &[("shop/v1", 1)])]);
    let (mut old, name) = db.connect().await;
    assert_eq!(name, "v1.");
    db.ruled(&[(&[], &[("shop/v1", 0), ("shop/v2", 1)])]);
    assert_eq!(db.connect().await.1, "v2.", "what begins goes by the new weights");
    old.send("still there?").await;
    assert_eq!(old.take(12).await, "still there?");
}

#[tokio::test]
async fn a_share_that_is_not_valid_or_has_nobody_is_reset_and_counted() {
    let db = Db::new().await;
    for (row, target, reason) in [
        ("not valid", "", "invalid-backend"),
        ("no endpoints", "shop/nobody", "no-endpoints"),
        ("weights of zero", "zero", "invalid-backend"),
    ] {
        let before = db.web.metric("weft_refused_total", reason);
        match target {
            "zero" => db.ruled(&[(&[], &[("shop/v1", 0)])]),
            target => db.ruled(&[(&[], &[(target, 1)])]),
        }
        db.web.endpoints("shop/nobody:80", &[]);
        let mut client = db.web.connect(VIP).await;
        assert_eq!(client.end().await, End::Reset, "{row}");
        assert_eq!(db.web.metric("weft_refused_total", reason), before + 1, "{row}");
    }
    // And only its share.
    db.ruled(&[(&[], &[("", 1), ("shop/v1", 1)])]);
    let (mut served, mut refused) = (0, 0);
    for _ in 0..60 {
        match db.web.connect(VIP).await.more().await {
            Ok(()) => served += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(served > 10 && refused > 10, "{served} served, {refused} refused");
}

#[tokio::test]
async fn a_server_name_leads_and_the_hello_arrives_as_it_was_sent() {
    let db = Db::new().await;
    db.ruled(&[(&["db.example.com"], &[("shop/v1", 1)]), (&["*.example.com"], &[("shop/v2", 1)])]);
    for (name, app) in [("db.example.com", "v1."), ("a.b.example.com", "v2."), ("DB.example.com", "v1.")] {
        let hello = in_records(&real(name, &[b"postgresql"]), 300);
        let mut client = db.web.connect(VIP).await;
        for piece in hello.chunks(700) {
            client.send(piece).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(client.take(3).await, app, "{name}");
        assert_eq!(client.take(hello.len()).await, hello, "{name}");
    }
    assert!(db.server.metric("weft_connections_total", "") > 0);
}

#[tokio::test]
async fn without_a_name_that_a_route_has_a_connection_is_closed_and_counted() {
    let db = Db::new().await;
    db.ruled(&[(&["db.example.com"], &[("shop/v1", 1)])]);
    let rows: [(&str, Vec<u8>); 3] = [
        ("another name", real("other.example.com", &[])),
        ("an address is no name", real("10.0.0.1", &[])),
        ("no TLS at all", b"GET / HTTP/1.1\r\nhost: db.example.com\r\n\r\n".to_vec()),
    ];
    for (index, (row, said)) in rows.into_iter().enumerate() {
        let mut client = db.web.connect(VIP).await;
        client.send(said).await;
        assert_eq!(client.end().await, End::Reset, "{row}");
        assert_eq!(db.web.metric("weft_refused_total", "no-route"), index as u64 + 1, "{row}");
    }
    // One that ends within its hello wants nothing more.
    let mut client = db.web.connect(VIP).await;
    client.send(&real("db.example.com", &[])[..100]).await;
    client.stream.shutdown().await.unwrap();
    assert!(client.more().await.is_err());
}
