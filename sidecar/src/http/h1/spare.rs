//! Buffers between two messages. A connection that waits holds none; the next message takes one that its worker has to
//! spare, with the bookkeeping that made it shareable, so that a kept-alive connection allocates nothing for its bytes.
//!
//! What was read and is still held by somebody (a header's value, a piece of a body) is not overwritten: such a buffer is
//! passed over until nobody does. Bound: [`MOST`] buffers a thread, of [`ROOM`] each but for the rare one that a large head
//! has made grow.

use std::cell::RefCell;

use bytes::BytesMut;

/// Room for a head, and for what fits behind it.
pub(crate) const ROOM: usize = 4 * 1024;
/// Most buffers kept by a thread.
const MOST: usize = 64;
/// Of the newest: how many are looked at for one that nobody holds.
const LOOKED_AT: usize = 4;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with [`ROOM`].
pub(crate) fn take() -> BytesMut {
    let spare = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        let newest = spare.len().saturating_sub(LOOKED_AT)..spare.len();
        let free = newest.rev().find(|&place| spare[place].try_reclaim(ROOM))?;
        Some(spare.swap_remove(free))
    });
    spare.ok().flatten().unwrap_or_else(|| BytesMut::with_capacity(ROOM))
}

/// Leaves a buffer for the next; `buf` is without one then. Nothing may be in it.
pub(crate) fn give(buf: &mut BytesMut) {
    let buf = std::mem::take(buf);
    if !buf.is_empty() || buf.capacity() == 0 || buf.capacity() > 2 * ROOM {
        return;
    }
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < MOST {
            spare.push(buf);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_nobody_holds_what_was_in_it() {
        let mut first = take();
        let place = first.as_ptr();
        first.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
        let held = first.split().freeze();
        give(&mut first);
        let mut second = take();
        assert_ne!(second.as_ptr(), place, "it is held");
        second.extend_from_slice(b"something else");
        assert_eq!(&held[..], b"GET / HTTP/1.1\r\n\r\n");
        drop(held);
        let third = take();
        assert_eq!((third.as_ptr(), third.len()), (place, 0));
        assert!(third.capacity() >= ROOM);
    }

    #[test]
    fn no_more_are_kept_than_the_bound_and_none_that_has_grown() {
        for _ in 0..2 * MOST {
            give(&mut BytesMut::with_capacity(ROOM));
        }
        give(&mut BytesMut::with_capacity(64 * ROOM));
        give(&mut BytesMut::new());
        SPARE.with_borrow(|spare| {
            assert_eq!(spare.len(), MOST);
            assert!(spare.iter().all(|buf| buf.capacity() == ROOM));
        });
    }

    #[test]
    fn what_is_in_a_buffer_given_by_mistake_goes_to_nobody() {
        give(&mut BytesMut::from(&b"secret"[..]));
        assert!(SPARE.with_borrow(Vec::is_empty));
    }
}
