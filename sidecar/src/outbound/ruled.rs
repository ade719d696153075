//! A connection to a port with rules for whole connections (TCPRoute, TLSRoute; SEMANTICS.md §2 "Connections"): which one it
//! gets, and where that leads. From there it is opaque bytes: what the client said is replayed, TLS is the app's own.
//!
//! Weights choose once, when the connection begins; it stays where it is when they change. What has no rule, or a share
//! that is not valid, is reset: there is no other answer to bytes.
//!
//! Bound: one ClientHello, for [`FIRST_MESSAGE`] from its first byte, and nothing at all where names do not matter.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Outbound;
use super::connection::Carrying;
use crate::config::{Backend, ServicePort};
use crate::listen::first::FIRST_MESSAGE;
use crate::listen::sni::server_name;
use crate::reason::Reason;
use crate::route::{ConnectionRule, ConnectionTable, Target};
use crate::tcp;

impl Outbound {
    /// Leads a connection by `rules`, those of `port`.
    pub(super) async fn by_rule(
        self: Arc<Self>,
        mut stream: TcpStream,
        client: SocketAddr,
        port: &ServicePort,
        rules: &ConnectionTable<Arc<Backend>>,
    ) -> Option<Carrying> {
        let mut buf = BytesMut::new();
        let mut name = None;
        if rules.goes_by_name() {
            // TLS clients speak first, so silence means nothing, but that a drain does not wait for it.
            tokio::select! {
                read = stream.read_buf(&mut buf) => match read {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                },
                () = async {
                    self.drain.draining().await;
                    tokio::time::sleep(FIRST_MESSAGE).await;
                } => return None,
            }
            match server_name(&mut stream, &mut buf, Instant::now() + FIRST_MESSAGE).await {
                Ok(read) => name = read,
                // It has no name, and gets what is for any connection, if something is.
                Err(error) => tracing::debug!(%client, backend = %port.backend.name, %error, "no server name"),
            }
        }
        let Some(rule) = rules.find(name.as_deref()) else {
            let name = name.as_deref().unwrap_or("none");
            self.turn_away(stream, client, Reason::NoRoute, &format!("server name {name}: no route has it"));
            return None;
        };
        let chosen = rule.choose(&mut rand::rng()).clone();
        match chosen {
            Target::Backend(backend) => Some(self.opaque(stream, buf, client, backend, None)),
            Target::Answer(answer) => {
                let why = format!("{}: {}", name_of(rule), answer.detail);
                self.turn_away(stream, client, Reason::InvalidBackend, &why);
                None
            }
        }
    }

    fn turn_away(&self, stream: TcpStream, client: SocketAddr, reason: Reason, detail: &str) {
        tracing::debug!(%client, %reason, detail, "outbound connection refused");
        self.telemetry.metrics.refused("outbound", reason);
        tcp::reset(stream);
    }
}

fn name_of<B>(rule: &ConnectionRule<B>) -> String {
    format!("{}#{}", rule.route, rule.name)
}
