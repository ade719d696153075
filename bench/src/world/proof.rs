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
use crate::subject::Family;

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
        if connections.is_empty() && !stage.spec.many {
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
    // HTTP/2 squeezes what it carries; the other clients' words go as they are.
    let literal = matches!(first.plan.client, App::Http1 | App::Tcp) && first.plan.way != Way::ServerSidecar;
    if literal && !first.is_mesh() && seen(false) == 0 {
        return Err(world.not_as_meant(first.subject, "the capture saw nothing of what was said in plain text"));
    }
    Ok(())
}

fn contains(connection: &Connection, marker: &[u8]) -> bool {
    let has = |bytes: &[u8]| bytes.windows(marker.len()).any(|window| window == marker);
    has(&connection.to_server) || has(&connection.to_client)
}

/// What Envoy itself says of the connections it accepted.
fn envoy_counts_mutual_tls(world: &World, stage: &Stage) -> Result<()> {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::ADMIN));
    let stats = stage.server.within(|| probe::get(admin, "localhost", "/stats?filter=ssl"))?;
    let stats = stats.map_or(String::new(), |answer| answer.text);
    let count = |name: &str| -> u64 {
        let lines = stats.lines().filter(|line| line.starts_with("listener.") && line.contains(name));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.trim().parse::<u64>().ok()).sum()
    };
    let (handshakes, v13, anonymous) =
        (count("ssl.handshake:"), count("ssl.versions.TLSv1.3:"), count("ssl.no_certificate:"));
    if handshakes == 0 || v13 != handshakes || anonymous != 0 {
        let what = format!("Envoy counts {handshakes} handshakes, {v13} of TLS 1.3, {anonymous} without certificate");
        return Err(world.not_as_meant(stage.subject, what));
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
