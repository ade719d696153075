//! Opens TCP connections. A plain-text one needs a [`PlainAddr`], which only an endpoint without mesh TLS gives out, so
//! that "never plain text to a peer known to speak mesh TLS" is a matter of types.
//!
//! Not here: TLS (`identity/`), retries (`resilience/`), which endpoint (`balance/`).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::options;
use crate::balance::PlainAddr;

/// How long to wait for a connection unless told otherwise (SEMANTICS.md §3, "connections").
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no connection. Not one byte has been sent.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// RST in answer to our SYN.
    #[error("{addr} refused the connection: is the app listening on that port, and on that address?")]
    Refused {
        /// Whom we dialled.
        addr: SocketAddr,
    },
    /// No answer.
    #[error("{addr} did not answer within {after:?}: is the node up, and does a NetworkPolicy allow it?")]
    TimedOut {
        /// Whom we dialled.
        addr: SocketAddr,
        /// How long we waited.
        after: Duration,
    },
    /// No way there.
    #[error("no route to {addr}: {source}")]
    Unreachable {
        /// Whom we dialled.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// This side has no socket left to dial with.
    #[error("no socket to dial {addr} with: {source} (out of descriptors or of local ports?)")]
    Exhausted {
        /// Whom we wanted to dial.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot connect to {addr}: {source}")]
    Failed {
        /// Whom we dialled.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Opens a plain-text connection.
///
/// # Errors
/// [`DialError`], at the latest after `within`.
pub async fn dial_plain(addr: PlainAddr, within: Duration) -> Result<TcpStream, DialError> {
    dial(addr.get(), within).await
}

/// Opens the TCP connection for mesh TLS: nothing may be written to it but a handshake.
///
/// # Errors
/// [`DialError`], at the latest after `within`.
pub async fn dial_mesh_tcp(addr: SocketAddr, within: Duration) -> Result<TcpStream, DialError> {
    dial(addr, within).await
}

async fn dial(addr: SocketAddr, within: Duration) -> Result<TcpStream, DialError> {
    let exhausted = |source| DialError::Exhausted { addr, source };
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(exhausted)?;
    options::tune_socket(&socket).map_err(|source| DialError::Failed { addr, source })?;
    match timeout(within, socket.connect(addr)).await {
        Ok(Ok(stream)) => Ok(stream),
        Err(_) => Err(DialError::TimedOut { addr, after: within }),
        Ok(Err(source)) => Err(match source.kind() {
            io::ErrorKind::ConnectionRefused => DialError::Refused { addr },
            io::ErrorKind::TimedOut => DialError::TimedOut { addr, after: within },
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                DialError::Unreachable { addr, source }
            }
            io::ErrorKind::AddrNotAvailable => DialError::Exhausted { addr, source },
            _ => DialError::Failed { addr, source },
        }),
    }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_dialled_connection_has_our_options() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(local).await.unwrap();
            let addr = PlainAddr::outside_mesh(listener.local_addr().unwrap());
            let stream = dial_plain(addr, CONNECT_TIMEOUT).await.unwrap();
            let socket = SockRef::from(&stream);
            assert!(socket.tcp_nodelay().unwrap());
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), options::KEEP_ALIVE);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(options::PATIENCE), "it may read slowly");
            options::expect_reader(&stream);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(options::USER_TIMEOUT));
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_by_name() {
        let addr = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let error = dial_mesh_tcp(addr, CONNECT_TIMEOUT).await.unwrap_err();
        assert!(matches!(error, DialError::Refused { addr: refused } if refused == addr), "{error:?}");
        assert!(error.to_string().contains(&addr.to_string()));
    }
}
