//! Socket options of every TCP connection we accept or open (SEMANTICS.md §3, "connections").

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::net::TcpSocket;

/// Silence after which the kernel asks whether the peer is still there; also the pause between its questions. Opaque
/// connections have no other idle limit but what a policy says (`idle.rs`).
pub const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// How long sent data may stay unacknowledged before the kernel gives the connection up (`TCP_USER_TIMEOUT`), or unsent since the
/// peer's window is full. A client that reads slowly, or an opaque stream that pauses, is alive; one that takes nothing for as long
/// as the kernel would try to reach a dead peer is not, or holds on to what it asked for on purpose.
pub const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// The same for peers that read whatever comes, as a server of HTTP does.
pub const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Sets them on a socket that will listen: what it accepts has them from the start.
pub fn tune_listener(socket: &Socket) -> io::Result<()> {
    apply(&SockRef::from(socket))
}

/// Sets them on a socket that is not connected yet.
pub(super) fn tune_socket(socket: &TcpSocket) -> io::Result<()> {
    apply(&SockRef::from(socket))
}

fn apply(socket: &SockRef<'_>) -> io::Result<()> {
    // Requests are written whole; waiting for more only delays them.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE))?;
    socket.set_tcp_user_timeout(Some(PATIENCE))
}

/// Gives the connection up when its peer takes nothing for [`USER_TIMEOUT`].
pub fn expect_reader(stream: &impl AsFd) {
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(USER_TIMEOUT)) {
        tracing::debug!(%error, "cannot bound how long a server may take nothing");
    }
}

/// Closes the connection with a RST, so that the peer sees an abrupt end and not a clean one.
pub fn reset(stream: impl AsFd) {
    abort_on_drop(&stream);
}

/// Makes dropping the stream send a RST.
pub(super) fn abort_on_drop(stream: &impl AsFd) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "cannot reset: the connection is gone already?");
    }
}
