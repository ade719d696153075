//! What a Service port is declared to speak (SEMANTICS.md §1, "protocol"): `appProtocol` first, then Istio's port-name
//! prefixes; where neither says, [`Protocol::Auto`] and the bytes decide.
//!
//! Not here: attached routes and the opaque-port list, which `translate/` lays over this.

use weft_proto::v1::Protocol;

/// The declared protocol of a port. An `appProtocol` that we do not know says nothing: the name is asked next.
pub fn declared(app_protocol: Option<&str>, port_name: &str) -> Protocol {
    app_protocol
        .and_then(by_app_protocol)
        .or_else(|| by_word(port_name.split_once('-').map_or(port_name, |(prefix, _)| prefix)))
        .unwrap_or(Protocol::Auto)
}

/// `appProtocol`: the names of KEP-3726 (`kubernetes.io/…`), then IANA service names and Istio's words, any case.
fn by_app_protocol(value: &str) -> Option<Protocol> {
    match value {
        "kubernetes.io/h2c" => Some(Protocol::Http2),
        // A WebSocket begins as an HTTP/1.1 request.
        "kubernetes.io/ws" => Some(Protocol::Http),
        "kubernetes.io/wss" => Some(Protocol::Tls),
        other => by_word(&other.to_ascii_lowercase()),
    }
}

/// The words that may stand alone in `appProtocol` or before the first `-` of a port's name.
fn by_word(word: &str) -> Option<Protocol> {
    Some(match word {
        "http" | "ws" => Protocol::Http,
        "http2" | "h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "https" | "tls" | "wss" => Protocol::Tls,
        "tcp" | "redis" | "mongo" | "mongodb" | "mysql" | "postgres" | "postgresql" | "kafka" | "amqp" | "smtp" => {
            Protocol::Tcp
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_protocol_is_asked_before_the_port_name() {
        let rows: &[(Option<&str>, &str, Protocol)] = &[
            (Some("kubernetes.io/h2c"), "", Protocol::Http2),
            (Some("kubernetes.io/ws"), "", Protocol::Http),
            (Some("kubernetes.io/wss"), "", Protocol::Tls),
            (Some("http"), "", Protocol::Http),
            (Some("HTTP"), "", Protocol::Http),
            (Some("http2"), "", Protocol::Http2),
            (Some("https"), "", Protocol::Tls),
            (Some("tls"), "", Protocol::Tls),
            (Some("grpc"), "", Protocol::Grpc),
            (Some("tcp"), "", Protocol::Tcp),
            (Some("redis"), "", Protocol::Tcp),
            (Some("mysql"), "", Protocol::Tcp),
            (Some("mongo"), "", Protocol::Tcp),
            (Some("tcp"), "http", Protocol::Tcp),
            (Some("example.com/own"), "grpc-api", Protocol::Grpc),
            (Some("example.com/own"), "api", Protocol::Auto),
            (None, "http", Protocol::Http),
            (None, "http-web", Protocol::Http),
            (None, "http2-web", Protocol::Http2),
            (None, "grpc-web-api", Protocol::Grpc),
            (None, "tcp-x", Protocol::Tcp),
            (None, "tls-x", Protocol::Tls),
            (None, "https-x", Protocol::Tls),
            (None, "redis-a", Protocol::Tcp),
            (None, "mongo-a", Protocol::Tcp),
            (None, "mysql-a", Protocol::Tcp),
            (None, "httpx", Protocol::Auto),
            (None, "web-http", Protocol::Auto),
            (None, "", Protocol::Auto),
        ];
        for (app_protocol, name, expected) in rows {
            assert_eq!(declared(*app_protocol, name), *expected, "{app_protocol:?} {name:?}");
        }
    }
}
