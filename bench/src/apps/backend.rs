//! The server at the far end of every case, on port 8080. It must never be what is measured: one thread, one `epoll`, a
//! ready-made answer, one read and one write for each request, no parsing beyond finding where a request ends.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::http2::Http2;
use super::responder::{Bytes, Http1, Reply, Responder};
use super::{AppError, current_thread, grpc_backend};

/// What it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// HTTP/1.1: 200 with 1 KiB to whatever is asked.
    Http1,
    /// The same over HTTP/2 with prior knowledge.
    Http2,
    /// gRPC: messages are echoed.
    Grpc,
    /// TCP: `D` first sends for ever, `U` first takes everything and tells how much it was, anything else is echoed.
    Tcp,
}

/// Its options.
#[derive(Debug, clap::Args)]
pub(crate) struct Backend {
    /// What it speaks.
    #[arg(long)]
    kind: Kind,
    /// Where it listens, on all addresses.
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

/// Serves until it is killed.
///
/// # Errors
/// When it cannot listen.
pub(crate) fn run(options: &Backend) -> Result<(), AppError> {
    // As everybody's server: 128 connections that wait are too few for clients that open 16 at a time without a pause.
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, options.port))?;
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096)?)?;
    listener.set_nonblocking(true)?;
    match options.kind {
        Kind::Http1 => serve(&listener, Http1::default),
        Kind::Tcp => serve(&listener, Bytes::default),
        Kind::Http2 => serve(&listener, Http2::default),
        Kind::Grpc => current_thread()?.block_on(grpc_backend::serve(listener)),
    }
}

struct Connection<R> {
    stream: TcpStream,
    responder: R,
    /// What did not fit into the socket. Bound: one round of answers; nothing is read while it is not empty.
    pending: Vec<u8>,
    /// Sends this again and again.
    endless: bool,
    ends: bool,
}

fn serve<R: Responder>(listener: &TcpListener, new: impl Fn() -> R) -> Result<(), AppError> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let key = |fd: i32| u64::try_from(fd).unwrap_or(u64::MAX);
    let listening = key(listener.as_raw_fd());
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, listening))?;
    let mut connections = HashMap::new();
    let mut events = [EpollEvent::empty(); 256];
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let ready = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => 0,
            other => other?,
        };
        for event in &events[..ready] {
            if event.data() != listening {
                let Some(connection): Option<&mut Connection<R>> = connections.get_mut(&event.data()) else { continue };
                let waited = !connection.pending.is_empty() || connection.endless;
                if connection.go_on(&mut buffer).is_err() {
                    connections.remove(&event.data());
                } else if waited != (!connection.pending.is_empty() || connection.endless) {
                    let flags = if waited { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLOUT };
                    epoll.modify(&connection.stream, &mut EpollEvent::new(flags, event.data()))?;
                }
                continue;
            }
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let data = key(stream.as_raw_fd());
                epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, data))?;
                let connection =
                    Connection { stream, responder: new(), pending: Vec::new(), endless: false, ends: false };
                connections.insert(data, connection);
            }
        }
    }
}

impl<R: Responder> Connection<R> {
    /// Reads once or writes once. `Err` when the connection is over.
    fn go_on(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        if self.endless {
            return match self.stream.write(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
                other => other.map(drop),
            };
        }
        if self.pending.is_empty() {
            let read = match self.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            };
            match self.responder.receive(&buffer[..read]) {
                Reply::Nothing => {}
                Reply::Send(bytes) => self.pending = bytes,
                Reply::Last(bytes) => (self.pending, self.ends) = (bytes, true),
                Reply::Endless => self.endless = true,
            }
            self.ends |= read == 0;
        }
        if !self.pending.is_empty() {
            match self.stream.write(&self.pending) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if self.ends && self.pending.is_empty() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}
