//! The copying relay's buffers, lent by the thread. A direction has one only from a read until the other side has taken
//! all of it, so a thread has as many as it has streams with bytes on their way, not as many as it has streams.
//!
//! Bound: one buffer of at most [`LARGEST`] bytes per direction; a thread keeps [`KEPT`] bytes of idle ones.

use std::cell::RefCell;

/// What a direction starts with: a read of this size costs little more than a small one.
pub(super) const SMALLEST: usize = 16 * 1024;
/// What a hot one ends with: larger reads save nothing more and leave the processor's cache.
pub(super) const LARGEST: usize = 256 * 1024;
/// Bytes of idle buffers a thread keeps; what comes back beyond that is freed.
const KEPT: usize = 1024 * 1024;
/// Sizes are powers of two from [`SMALLEST`] to [`LARGEST`].
const CLASSES: usize = (LARGEST / SMALLEST).ilog2() as usize + 1;

#[derive(Default)]
struct Idle {
    by_class: [Vec<Box<[u8]>>; CLASSES],
    bytes: usize,
}

thread_local! {
    static IDLE: RefCell<Idle> = RefCell::default();
}

#[cfg(test)]
thread_local! {
    static LENT: std::cell::Cell<isize> = const { std::cell::Cell::new(0) };
}

/// Buffers in use that this thread has lent.
#[cfg(test)]
pub(super) fn lent() -> isize {
    LENT.get()
}

/// Bytes of idle buffers of this thread.
#[cfg(test)]
pub(super) fn idle_bytes() -> usize {
    IDLE.with_borrow(|idle| idle.bytes)
}

/// A buffer and which part of it is still to be written. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty one of `size` bytes, rounded up to the next size there is.
    pub(super) fn take(size: usize) -> Self {
        let size = size.clamp(SMALLEST, LARGEST).next_power_of_two();
        let idle = IDLE.with_borrow_mut(|idle| {
            let bytes = idle.by_class[class(size)].pop()?;
            idle.bytes -= size;
            Some(bytes)
        });
        #[cfg(test)]
        LENT.set(LENT.get() + 1);
        Self { bytes: idle.unwrap_or_else(|| vec![0; size].into_boxed_slice()), start: 0, end: 0 }
    }

    /// All of it, to read into.
    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The first `len` bytes have been read into it.
    pub(super) fn set_filled(&mut self, len: usize) {
        (self.start, self.end) = (0, len.min(self.bytes.len()));
    }

    /// What is still to be written.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// `len` bytes of it have been.
    pub(super) fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
    }

    /// The same bytes, in a buffer that fits if this one is far too large: they may have to wait.
    pub(super) fn shrunk(self) -> Self {
        let filled = self.filled();
        if filled.len() > self.bytes.len() / 4 || self.bytes.len() == SMALLEST {
            return self;
        }
        let mut smaller = Self::take(filled.len());
        smaller.bytes[..filled.len()].copy_from_slice(filled);
        smaller.set_filled(filled.len());
        smaller
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // A thread that ends has no list any more.
        let _ = IDLE.try_with(|idle| {
            let Ok(mut idle) = idle.try_borrow_mut() else { return };
            if idle.bytes + bytes.len() <= KEPT {
                idle.bytes += bytes.len();
                idle.by_class[class(bytes.len())].push(bytes);
            }
        });
        #[cfg(test)]
        let _ = LENT.try_with(|lent| lent.set(lent.get() - 1));
    }
}

const fn class(size: usize) -> usize {
    (size / SMALLEST).ilog2() as usize
}

/// How much to read at a time: more while reads fill what they are given, less when they use little of it.
pub(super) fn next_size(size: usize, read: usize) -> usize {
    if read >= size {
        (size * 2).min(LARGEST)
    } else if read <= size / 4 {
        (size / 2).max(SMALLEST)
    } else {
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_grows_while_it_is_filled_and_shrinks_when_it_is_not() {
        for (size, read, next) in [
            (SMALLEST, 1, SMALLEST),
            (SMALLEST, SMALLEST, 2 * SMALLEST),
            (LARGEST, LARGEST, LARGEST),
            (LARGEST, LARGEST / 2, LARGEST),
            (LARGEST, LARGEST / 4, LARGEST / 2),
            (2 * SMALLEST, 1, SMALLEST),
        ] {
            assert_eq!(next_size(size, read), next, "{read} of {size}");
        }
    }

    #[test]
    fn a_buffer_comes_back_to_its_thread() {
        std::thread::spawn(|| {
            let first = Buffer::take(SMALLEST);
            let at = first.bytes.as_ptr();
            assert_eq!((lent(), idle_bytes()), (1, 0));
            drop(first);
            assert_eq!((lent(), idle_bytes()), (0, SMALLEST));
            assert_eq!(Buffer::take(1).bytes.as_ptr(), at, "the same again");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_keeps_a_bounded_amount_of_them() {
        std::thread::spawn(|| {
            let many: Vec<_> = (0..20).map(|_| Buffer::take(LARGEST)).collect();
            drop(many);
            assert_eq!((lent(), idle_bytes()), (0, KEPT));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_few_bytes_that_wait_do_not_wait_in_a_large_buffer() {
        let mut buffer = Buffer::take(LARGEST);
        buffer.space()[..5].copy_from_slice(b"bytes");
        buffer.set_filled(5);
        buffer.consume(1);
        let buffer = buffer.shrunk();
        assert_eq!((buffer.filled(), buffer.bytes.len()), (&b"ytes"[..], SMALLEST));
    }
}
