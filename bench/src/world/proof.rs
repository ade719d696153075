//! That a mesh is one: before a case is measured, what was on the wire is looked at, and the server is asked in plain text.
//!
//! While the pods started and were asked for the first time, everything between them was captured. Where there is to be
//! mutual TLS, every connection to the server's port must be TLS, none may contain what the client asked for, Weft's must
//! say TLS 1.3 and hybrid, Envoy's own statistics must count TLS 1.3 handshakes and no connection without a client
//! certificate, and a client without TLS must not be answered. Where there is to be none, the words must be seen:
//! so the capture itself is known to work.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use weft_e2e::capture::{Connection, Spoke, TLS_1_3, Traffic, X25519_MLKEM768};
use weft_e2e::probe;
use weft_proto::ports;

use super::{APP_PORT, Stage, World};
use crate::case::{App, Way};
use crate::error::Result;
use crate::subject::{Family, Variant};

/// What the first request of every client contains.
pub(crate) const MARKER: &str = "a-secret-of-the-bench-5d1c";

/// Checks every stage.
///
/// # Errors
/// Says what was seen instead.
pub(super) fn check(world: &World, traffic: Traffic) -> Result<()> {
    for stage in &world.stages {
        let server = [stage.server.v4()];
        let connections: Vec<&Connection> = traffic.to(&server, |port| port == APP_PORT).collect();
        let not = |what: String| Err(world.not_as_meant(stage.subject, what));
        let only_connects = stage.plan.way == Way::ServerSidecar && !stage.is_mesh();
        if connections.is_empty() && !only_connects {
            return not("nothing was seen on its way to the server".to_owned());
        }
        if !stage.is_mesh() {
            continue;
        }
        for connection in &connections {
            let spoke = connection.spoke();
            let good = match stage.subject.family {
                // Our own client offers one group, which it checks itself.
                Family::Weft if stage.plan.way == Way::ServerSidecar => {
                    matches!(spoke, Spoke::MeshTls { version, .. } if version == TLS_1_3)
                }
                Family::Weft => spoke == Spoke::MeshTls { version: TLS_1_3, group: X25519_MLKEM768 },
                _ => spoke == Spoke::OtherTls,
            };
            if !good {
                return not(format!("{} to {} spoke {spoke:?}", connection.client, connection.server));
            }
        }
        if stage.subject.family == Family::Envoy {
            envoy_counts_mutual_tls(world, stage)?;
        }
        let plain = answers_plain_text(world, stage);
        if plain {
            return not("the server was reached in plain text".to_owned());
        }
    }
    let seen = |mesh: bool| {
        let stages = world.stages.iter().filter(|stage| stage.is_mesh() == mesh && !stage.spec.many);
        let servers: Vec<_> = stages.map(|stage| stage.server.v4()).collect();
        let contain = |c: &&Connection| servers.contains(&c.server.ip()) && contains(c, MARKER.as_bytes());
        traffic.connections.iter().filter(contain).count()
    };
    let Some(first) = world.stages.first() else { return Ok(()) };
    if seen(true) > 0 {
        return Err(world.not_as_meant(first.subject, "what a client of a mesh said was read on the wire"));
    }
    // HTTP/2 squeezes what it carries; other words go as they are.
    let squeezed = [first.plan.client, first.plan.server].iter().any(|app| !matches!(app, App::Http1 | App::Tcp));
    let literal = !squeezed && first.plan.way != Way::ServerSidecar;
    if literal && !first.is_mesh() && seen(false) == 0 {
        return Err(world.not_as_meant(first.subject, "the capture saw nothing of what was said in plain text"));
    }
    Ok(())
}

fn contains(connection: &Connection, marker: &[u8]) -> bool {
    let has = |bytes: &[u8]| bytes.windows(marker.len()).any(|window| window == marker);
    has(&connection.to_server) || has(&connection.to_client)
}

/// Checks, after the case, that rows that say "resumed" were: nine of ten connections. Where our own client makes the
/// handshakes, it looks itself.
///
/// # Errors
/// Says how many were.
pub(crate) fn check_resumed(world: &World) -> Result<()> {
    for stage in world.stages.iter().filter(|stage| stage.subject.variant == Variant::Resumed) {
        let stats = EnvoyTls::of(stage)?;
        if stats.resumed * 10 < stats.handshakes * 9 {
            let what = format!("only {} of {} handshakes were resumed", stats.resumed, stats.handshakes);
            return Err(world.not_as_meant(stage.subject, what));
        }
    }
    Ok(())
}

/// What the server's Envoy says of the connections it accepted.
#[derive(Debug)]
struct EnvoyTls {
    handshakes: u64,
    tls13: u64,
    resumed: u64,
    without_certificate: u64,
}

impl EnvoyTls {
    fn of(stage: &Stage) -> Result<Self> {
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::ADMIN));
        let stats = stage.server.within(|| probe::get(admin, "localhost", "/stats?filter=ssl"))?;
        let stats = stats.map_or(String::new(), |answer| answer.text);
        let count = |name: &str| -> u64 {
            let lines = stats.lines().filter(|line| line.starts_with("listener.") && line.contains(name));
            lines.filter_map(|line| line.rsplit_once(' ')?.1.trim().parse::<u64>().ok()).sum()
        };
        Ok(Self {
            handshakes: count(".ssl.handshake:"),
            tls13: count(".ssl.versions.TLSv1.3:"),
            resumed: count(".ssl.session_reused:"),
            without_certificate: count(".ssl.no_certificate:"),
        })
    }
}

fn envoy_counts_mutual_tls(world: &World, stage: &Stage) -> Result<()> {
    let stats = EnvoyTls::of(stage)?;
    // The count of versions leaves resumed connections out.
    if stats.handshakes == 0 || stats.tls13 + stats.resumed < stats.handshakes || stats.without_certificate != 0 {
        return Err(world.not_as_meant(stage.subject, format!("Envoy counts {stats:?}")));
    }
    Ok(())
}

/// Whether somebody outside the mesh is answered.
fn answers_plain_text(world: &World, stage: &Stage) -> bool {
    let server = stage.server_address();
    let request = format!("GET /{MARKER} HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n");
    let answer = world.mesh.from_switch(|| probe::raw(server, request.as_bytes(), Duration::from_millis(300)).ok());
    answer.is_some_and(|answer| !answer.is_empty())
}
