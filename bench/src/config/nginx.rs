//! nginx where the client's sidecar would be: one process, keep-alive on both sides, a retry where the connection failed,
//! no log. Debian's speaks HTTP/1.1 only towards servers, and HTTP/2 without TLS towards clients.

use std::net::SocketAddrV4;

use weft_proto::ports;

use super::envoy::Wire;

/// The whole configuration; `temporary` is a folder it may write to.
pub(crate) fn text(app: SocketAddrV4, client: Wire, temporary: &str) -> String {
    let http2 = if client == Wire::Http2 { " http2" } else { "" };
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {temporary}/nginx-{kind};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {temporary}/nginx.pid;\nerror_log stderr;\nworker_rlimit_nofile 20000;\n\
         events {{ worker_connections 10000; }}\n\
         http {{\n  access_log off;\n{folders}  \
           upstream app {{ server {app}; keepalive 512; keepalive_requests 1000000000; keepalive_time 1h; }}\n  \
           server {{\n    listen {}{http2};\n    keepalive_requests 1000000000;\n    keepalive_time 1h;\n    \
             location / {{\n      proxy_pass http://app;\n      proxy_http_version 1.1;\n      \
               proxy_set_header Connection \"\";\n      proxy_set_header Host $http_host;\n      \
               proxy_connect_timeout 2s;\n      proxy_read_timeout 15s;\n      proxy_next_upstream error;\n    \
             }}\n  }}\n}}\n",
        ports::OUTBOUND
    )
}
