//! TCPRoute between real processes: shares, and connections that stay where they are (docs/reference/tcproute.md).

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use weft_e2e::manifest::{self, Port, Service, labels};
use weft_e2e::{Mesh, Pod, PodSpec, Process, probe};

/// `db`, whose connections a TCPRoute leads to `db-v1` and `db-v2`: servers that speak first.
struct Db {
    mesh: Mesh,
    client: Pod,
    service: Service,
    _servers: Vec<(Pod, Process)>,
}

fn route(weights: &[(&str, u32)]) -> String {
    manifest::split("demo", "db", "db", 9000, weights).replace("kind: HTTPRoute", "kind: TCPRoute")
}

impl Db {
    fn new(name: &str) -> Self {
        let mesh = Mesh::new(name).unwrap();
        mesh.manifests().write("namespace", &manifest::namespace("demo")).unwrap();
        let ports = [Port::new("db", 9000, 9000)];
        let service = mesh.service("demo", "db", &ports, labels([("app", "db-v1")])).unwrap();
        for version in ["db-v1", "db-v2"] {
            mesh.service("demo", version, &ports, labels([("app", version)])).unwrap();
        }
        mesh.manifests().write("route", &route(&[("db-v1", 1)])).unwrap();
        mesh.start_control_plane().unwrap();
        let client = mesh.pod(PodSpec::meshed("client", "client")).unwrap();
        let servers = ["db-v1", "db-v2"].map(|version| {
            let pod = mesh.pod(PodSpec::meshed(version, version)).unwrap();
            let app = pod.app("tcp", &["tcp-server", "--greeting", &format!("{version}\n")]).unwrap();
            pod.wait_listening(9000).unwrap();
            (pod, app)
        });
        let db = Self { mesh, client, service, _servers: servers.into() };
        probe::wait_until("an answer from db", Duration::from_secs(15), || db.connect().is_some()).unwrap();
        db
    }

    fn route(&self, weights: &[(&str, u32)]) {
        self.mesh.manifests().write("route", &route(weights)).unwrap();
    }

    /// A connection, and who greeted on it; `None` where it was reset.
    fn connect(&self) -> Option<(TcpStream, String)> {
        let address: SocketAddr = (self.service.vips.0, 9000).into();
        self.client
            .within(|| {
                let mut stream = TcpStream::connect(address).ok()?;
                stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
                let mut greeting = [0; 6];
                stream.read_exact(&mut greeting).ok()?;
                Some((stream, String::from_utf8_lossy(&greeting).trim().to_owned()))
            })
            .unwrap()
    }

    fn greets(&self, wanted: &str) {
        let greets = || self.connect().is_some_and(|(_, who)| who == wanted);
        probe::wait_until(&format!("connections to {wanted}"), Duration::from_secs(5), greets).unwrap();
    }
}

#[test]
fn connections_are_shared_by_weight_and_stay_where_they_are_when_it_changes() {
    let db = Db::new("tcp-route");
    db.greets("db-v1");
    let (mut old, _) = db.connect().unwrap();
    db.route(&[("db-v1", 0), ("db-v2", 1)]);
    db.greets("db-v2");
    let echoed = old.write_all(b"still there?").and_then(|()| {
        let mut echo = [0; 12];
        old.read_exact(&mut echo).map(|()| echo)
    });
    assert_eq!(&echoed.unwrap(), b"still there?", "a connection that is open is not moved");

    db.route(&[("db-v1", 3), ("db-v2", 1)]);
    db.greets("db-v1");
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..200 {
        *shares.entry(db.connect().unwrap().1).or_default() += 1;
    }
    println!("3 to 1 of 200 connections: {shares:?}");
    assert!((20..90).contains(&shares["db-v2"]), "{shares:?}");
}

#[test]
fn a_backend_that_is_not_there_costs_its_share_and_no_other() {
    let db = Db::new("tcp-invalid");
    db.route(&[("db-v1", 1), ("db-gone", 1)]);
    let refused = || db.connect().is_none();
    probe::wait_until("a connection that is reset", Duration::from_secs(5), refused).unwrap();
    let served = (0..100).filter(|_| db.connect().is_some()).count();
    assert!((25..75).contains(&served), "{served} of 100");
    assert!(db.client.metric("weft_refused_total", &["reason=\"invalid-backend\""]) >= 25.0);

    // Without the route it is as before.
    db.mesh.manifests().write("route", "").unwrap();
    let served = || (0..20).all(|_| db.connect().is_some());
    probe::wait_until("twenty connections in a row", Duration::from_secs(5), served).unwrap();
}
