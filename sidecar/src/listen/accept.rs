//! Listeners that survive what `accept` returns, and that lose no connection when they close.
//!
//! One socket per family, each for its family only, so that no address is ever IPv4 mapped into IPv6. A host without IPv6
//! gets the IPv4 one alone.
//!
//! `accept(2)` reports errors of the connection it would have returned; those are skipped. Out of descriptors or memory, it
//! is asked again after 5 ms, doubling to 1 s: the connection stays in the queue. Bound: the kernel's queue of
//! [`BACKLOG`] connections per socket.
//!
//! Connections have the listener's socket options, which Linux passes on (socket(7), tcp(7)); set on each, they were five
//! system calls.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::errno::Errno;
use smallvec::SmallVec;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

use crate::tcp::options;

/// Connections the kernel keeps for us per socket (it takes at most `net.core.somaxconn`, by default as many).
pub const BACKLOG: i32 = 4096;

const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Who can reach a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// This pod only: 127.0.0.1 and `::1`.
    Loopback,
    /// Everybody: 0.0.0.0 and `::`.
    Any,
}

/// One port, listened to on IPv4 and IPv6.
#[derive(Debug)]
pub struct Accept {
    listeners: SmallVec<[TcpListener; 2]>,
    /// Which one is asked first next time, so that neither starves the other.
    turn: usize,
    backoff: Duration,
    /// Until when nothing is accepted. Kept here and not in a future, so that dropping one loses nothing.
    paused: Option<Instant>,
}

impl Accept {
    /// Binds `port` (0: one that is free) and starts to listen.
    ///
    /// # Errors
    /// When a socket cannot be bound; an absent IPv6 is no error.
    pub fn bind(scope: Scope, port: u16) -> io::Result<Self> {
        let (v4, v6) = match scope {
            Scope::Loopback => (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
            Scope::Any => (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
        };
        let mut listeners: SmallVec<[TcpListener; 2]> = SmallVec::new();
        let first = listen(SocketAddr::from((v4, port)))?;
        let port = first.local_addr()?.port();
        listeners.push(first);
        match listen(SocketAddr::from((v6, port))) {
            Ok(second) => listeners.push(second),
            Err(error) if no_such_family(&error) => {
                tracing::debug!(%error, port, "no IPv6 here: listening on IPv4 only");
            }
            Err(error) => return Err(error),
        }
        Ok(Self::from_listeners(listeners))
    }

    /// Takes over sockets that are already listening.
    pub fn from_listeners(listeners: impl IntoIterator<Item = TcpListener>) -> Self {
        Self { listeners: listeners.into_iter().collect(), turn: 0, backoff: BACKOFF_MIN, paused: None }
    }

    /// The port.
    pub fn port(&self) -> Option<u16> {
        self.listeners.first().and_then(|listener| listener.local_addr().ok()).map(|addr| addr.port())
    }

    /// The addresses listened to.
    pub fn local_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok())
    }

    /// The next connection, with our options ([`options`]), and who opened it. Never fails; dropping the future loses nothing.
    pub async fn next(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            if let Some(until) = self.paused {
                sleep_until(until).await;
                self.paused = None;
            }
            match poll_fn(|cx| self.poll_accept(cx)).await {
                Ok((stream, peer)) => {
                    self.backoff = BACKOFF_MIN;
                    return (stream, peer);
                }
                Err(error) => match Failure::of(&error) {
                    Failure::OneConnection => tracing::debug!(%error, "a connection was gone before it was accepted"),
                    Failure::Resources => {
                        tracing::warn!(%error, again_in = ?self.backoff, "cannot accept: raise the limit of open files?");
                        self.paused = Some(Instant::now() + self.backoff);
                        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                    }
                },
            }
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let count = self.listeners.len();
        for at in 0..count {
            let which = (self.turn + at) % count;
            if let Poll::Ready(accepted) = self.listeners[which].poll_accept(cx) {
                self.turn = which + 1;
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }

    /// Stops listening after the connections that are already in the queue have been taken: their clients believe to be
    /// connected, and closing the socket would reset them. The sockets close when the iterator is dropped.
    pub fn into_queued(self) -> Queued {
        Queued { listeners: self.listeners.into_iter().filter_map(|listener| listener.into_std().ok()).collect() }
    }
}

/// The connections left in the queue of a listener that closes. Bound: it yields at most what the queue holds, and what
/// arrives meanwhile.
#[derive(Debug)]
pub struct Queued {
    listeners: SmallVec<[std::net::TcpListener; 2]>,
}

impl Iterator for Queued {
    type Item = (TcpStream, SocketAddr);

    fn next(&mut self) -> Option<Self::Item> {
        // Straight from the kernel: tokio's readiness may not know of them yet. The sockets do not block.
        while let Some(listener) = self.listeners.last() {
            match listener.accept() {
                Ok((stream, peer)) => {
                    let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                    if let Ok(stream) = stream {
                        return Some((stream, peer));
                    }
                }
                Err(error)
                    if Failure::of(&error) == Failure::OneConnection && error.kind() != io::ErrorKind::WouldBlock => {}
                Err(_) => _ = self.listeners.pop(),
            }
        }
        None
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// Of the connection that would have been accepted: go on at once.
    OneConnection,
    /// Of this process or host: wait.
    Resources,
}

impl Failure {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            // accept(2), "Error handling": network errors already pending on the new socket.
            Some(
                Errno::ECONNABORTED
                | Errno::ECONNRESET
                | Errno::EINTR
                | Errno::EPERM
                | Errno::EPROTO
                | Errno::ENOPROTOOPT
                | Errno::ENETDOWN
                | Errno::ENETUNREACH
                | Errno::EHOSTDOWN
                | Errno::EHOSTUNREACH
                | Errno::ENONET
                | Errno::EOPNOTSUPP
                | Errno::ETIMEDOUT,
            ) => Self::OneConnection,
            _ => Self::Resources,
        }
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // A restarted sidecar finds connections of its predecessor in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    options::tune_listener(&socket)?;
    socket.bind(&SockAddr::from(addr))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// IPv6 not compiled in, or switched off by sysctl.
pub(crate) fn no_such_family(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EPROTONOSUPPORT)
    )
}

#[cfg(test)]
mod tests;
