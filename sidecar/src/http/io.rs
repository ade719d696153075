//! What the engine asks of a connection beyond reading and writing: a true answer to "has the peer closed?", and (by
//! [`Abort`]) a way to end it that no peer takes for a clean end.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::listen::Prefixed;
use crate::tcp::{Abort, Wide};

/// A connection's bytes.
pub trait Io: AsyncRead + AsyncWrite + Abort + Send + Unpin + 'static {
    /// Whether the kernel holds neither bytes nor a FIN nor an error from the peer. Unlike a read it does not trust the
    /// runtime's cached readiness, which on a busy worker is many milliseconds old. The default, for connections
    /// without a socket, is yes.
    fn is_silent(&self) -> bool {
        true
    }

    /// Whether the runtime has heard nothing of an idle connection: no bytes, no end. What TLS has to read on its own account
    /// (session tickets) is read first.
    fn is_quiet(&mut self) -> bool {
        let mut byte = [0_u8; 1];
        let mut buf = ReadBuf::new(&mut byte);
        Pin::new(self).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf).is_pending()
    }

    /// Whether the peer reset the connection, of which a FIN is all that reading may have told. Without a socket: no.
    fn was_reset(&self) -> bool {
        false
    }
}

/// A connection of any kind. One virtual call per read or write.
pub type BoxedIo = Box<dyn Io>;

impl Io for TcpStream {
    fn is_quiet(&mut self) -> bool {
        // No waker is left behind, as a poll would.
        let mut byte = [0_u8; 1];
        matches!(self.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn is_silent(&self) -> bool {
        let mut byte = [MaybeUninit::uninit(); 1];
        matches!(socket2::SockRef::from(self).peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn was_reset(&self) -> bool {
        // A socket that has not been closed on this side has a peer until a reset takes it (getpeername(2), ENOTCONN).
        self.peer_addr().is_err()
    }
}

impl<T: Io> Io for tokio_rustls::client::TlsStream<T> {
    fn is_silent(&self) -> bool {
        self.get_ref().0.is_silent()
    }
}

impl<T: Io> Io for tokio_rustls::server::TlsStream<T> {
    fn is_silent(&self) -> bool {
        self.get_ref().0.is_silent()
    }
}

impl<T: Io> Io for tokio_rustls::TlsStream<T> {
    fn is_silent(&self) -> bool {
        self.get_ref().0.is_silent()
    }
}

impl<T: Io> Io for Prefixed<T> {
    fn is_silent(&self) -> bool {
        self.prefix().is_empty() && self.get_ref().is_silent()
    }
}

impl<T: Io> Io for Wide<T> {
    fn is_silent(&self) -> bool {
        !self.is_ahead() && self.get_ref().is_silent()
    }
}

impl Io for tokio::io::DuplexStream {}

impl Io for BoxedIo {
    fn is_quiet(&mut self) -> bool {
        (**self).is_quiet()
    }

    fn is_silent(&self) -> bool {
        (**self).is_silent()
    }

    fn was_reset(&self) -> bool {
        (**self).was_reset()
    }
}

impl Abort for BoxedIo {
    fn abort_on_drop(&self) {
        (**self).abort_on_drop();
    }

    fn plain(&self) -> Option<&TcpStream> {
        (**self).plain()
    }
}
