//! HAProxy where the client's sidecar would be: one thread, keep-alive and reuse on both sides, a retry where the
//! connection failed, no log. It has no role in a mesh here, so there is no TLS.

use std::net::SocketAddrV4;

use weft_proto::ports;

use super::envoy::Wire;

/// The whole configuration.
pub(crate) fn text(app: SocketAddrV4, client: Wire, server: Wire) -> String {
    let mode = if client == Wire::Tcp { "tcp" } else { "http" };
    let http2 = |wire| if wire == Wire::Http2 { " proto h2" } else { "" };
    // Weft's sidecar splices long streams too. This leaves to haproxy which bytes: of `tcp-bulk`'s some two fifths, in a trial.
    // Unless told, it sets two descriptors aside for each of 2,000 pipes, does not get them where 20,000 are all there are, and
    // does not start. Our streams need 32 pipes, two for each connection of `tcp-conn`.
    let (pipes, by_mode) = match client {
        Wire::Tcp => ("  maxpipes 64\n", "  option splice-auto\n"),
        _ => ("", "  http-reuse always\n  retry-on conn-failure\n"),
    };
    format!(
        "global\n  nbthread 1\n  maxconn 8000\n{pipes}\
         defaults\n  mode {mode}\n  timeout connect 2s\n  timeout client 60s\n  timeout server 15s\n  retries 2\n\
         frontend redirected\n  bind 0.0.0.0:{}{}\n  default_backend app\n\
         backend app\n{by_mode}  server app {app}{}\n",
        ports::OUTBOUND,
        http2(client),
        http2(server)
    )
}
