//! Pipes for `splice`: bytes go from socket to socket without being copied into this process.
//!
//! A direction has a pipe only from a splice in until it has been emptied again, as with buffers, so a pipe is filled
//! only while it is empty. That makes `EAGAIN` unambiguous: from the side of filling the socket has nothing, from the side
//! of emptying the socket takes nothing, and it is never the pipe. The runtime's readiness, which is edge-triggered,
//! depends on that.
//!
//! Bound: [`OPEN`] pipes per thread, two descriptors and at most [`CAPACITY`] bytes each; [`IDLE`] of them empty.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::{pipe2, read};

use crate::tcp::buffers::LARGEST;

/// Bytes a pipe can take, and most bytes of one splice.
pub(super) const CAPACITY: usize = LARGEST;
/// Pipes of a thread at a time: half of what a user without privileges may have at this capacity (`pipe-user-pages-soft`,
/// 64 MiB), for two workers. Streams beyond are copied.
const OPEN: usize = 64;
/// Empty pipes a thread keeps open.
const IDLE: usize = 16;

thread_local! {
    static EMPTY: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// Both ends. Counts among its thread's open pipes.
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Ends {
    fn open() -> Result<Self, Errno> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Its owner has many pipes already if this fails, and then it may be smaller than the default as well.
        let capacity = fcntl(&write, FcntlArg::F_SETPIPE_SZ(CAPACITY as i32))?;
        if (capacity as usize) < CAPACITY {
            return Err(Errno::EPERM);
        }
        COUNT.set(COUNT.get() + 1);
        Ok(Self { read, write })
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        // A stream that moved to another thread is counted there; the bound is then approximate.
        let _ = COUNT.try_with(|count| count.set(count.get().saturating_sub(1)));
    }
}

/// A pipe with bytes in it, or about to have some. Dropped empty it is kept for the next stream.
pub(super) struct Pipe {
    ends: Option<Ends>,
    filled: usize,
}

/// Why there is no pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPipe {
    /// The thread has as many as it may: perhaps later.
    ForNow,
    /// The system gives none (descriptors, memory, policy).
    Never,
}

impl Pipe {
    /// An empty one.
    pub(super) fn take() -> Result<Self, NoPipe> {
        let ends = match EMPTY.with_borrow_mut(Vec::pop) {
            Some(ends) => ends,
            None if COUNT.get() >= OPEN => return Err(NoPipe::ForNow),
            None => Ends::open().map_err(|error| {
                tracing::debug!(%error, "no pipe to splice with: the stream is copied");
                NoPipe::Never
            })?,
        };
        Ok(Self { ends: Some(ends), filled: 0 })
    }

    /// Bytes in it.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// Moves bytes from `socket` into it, which must be empty. 0 is the end of the stream.
    pub(super) fn fill(&mut self, socket: impl AsFd) -> io::Result<usize> {
        debug_assert_eq!(self.filled, 0, "else EAGAIN could be the pipe's");
        let moved = splice(socket, None, &self.ends()?.write, None, CAPACITY, flags())?;
        self.filled += moved;
        Ok(moved)
    }

    /// Moves bytes out of it into `socket`. SIGPIPE is ignored by every Rust program, so a closed one is an error only.
    pub(super) fn empty(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let moved = splice(&self.ends()?.read, None, socket, None, self.filled, flags())?;
        self.filled = self.filled.saturating_sub(moved);
        Ok(moved)
    }

    /// Copies bytes out of it, when the socket cannot take them by splice.
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let moved = read(&self.ends()?.read, into)?;
        self.filled = self.filled.saturating_sub(moved);
        Ok(moved)
    }

    fn ends(&self) -> io::Result<&Ends> {
        // Only a drop takes them out.
        self.ends.as_ref().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // What is left in it must never reach another stream.
        let Some(ends) = self.ends.take().filter(|_| self.filled == 0) else { return };
        let _ = EMPTY.try_with(|empty| {
            if let Ok(mut empty) = empty.try_borrow_mut()
                && empty.len() < IDLE
            {
                empty.push(ends);
            }
        });
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE
}

/// Whether an error says that this cannot be spliced, rather than that the stream is broken.
pub(super) fn is_no_way(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EINVAL | Errno::ENOSYS | Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOMEM)
    )
}

/// Pipes of this thread, in use or empty.
#[cfg(test)]
pub(super) fn open() -> usize {
    COUNT.get()
}

/// Those of them that are empty.
#[cfg(test)]
pub(super) fn empty() -> usize {
    EMPTY.with_borrow(Vec::len)
}

/// Makes `count` pipes more seem to be open on this thread.
#[cfg(test)]
pub(super) fn pretend_open(count: usize) {
    COUNT.set(count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_pipe_is_used_again_and_a_filled_one_never() {
        std::thread::spawn(|| {
            let pipe = Pipe::take().unwrap();
            drop(pipe);
            assert_eq!((open(), empty()), (1, 1));
            let mut pipe = Pipe::take().unwrap();
            assert_eq!((open(), empty()), (1, 0));
            pipe.filled = nix::unistd::write(&pipe.ends().unwrap().write, b"left over").unwrap();
            drop(pipe);
            assert_eq!((open(), empty()), (0, 0), "closed with what was in it");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_has_a_bounded_number_of_pipes() {
        std::thread::spawn(|| {
            let many: Vec<_> = (0..OPEN).map(|_| Pipe::take().unwrap()).collect();
            assert_eq!(Pipe::take().err(), Some(NoPipe::ForNow));
            drop(many);
            assert_eq!((open(), empty()), (IDLE, IDLE));
        })
        .join()
        .unwrap();
    }
}
