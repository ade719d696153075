//! Buffers and header maps between two messages. A connection that waits holds none; the next message takes one that its
//! worker has to spare, with the bookkeeping that made it shareable, so that a kept-alive connection allocates nothing for its
//! bytes, nor for its fields.
//!
//! What was read and is still held by somebody (a header's value, a piece of a body) is not overwritten: such a buffer is
//! passed over until nobody does. A map is empty when it is left here. Bound: [`MOST`] buffers a thread, of [`ROOM`] each but
//! for the rare one that a large head has made grow; [`MOST_MAPS`] maps of [`FIELDS`] fields.

use std::cell::RefCell;

use bytes::BytesMut;
use http::HeaderMap;

/// Room for a head, and for what fits behind it.
pub(crate) const ROOM: usize = 4 * 1024;
/// Most buffers kept by a thread.
const MOST: usize = 64;
/// Of the newest: how many are looked at for one that nobody holds.
const LOOKED_AT: usize = 4;

/// Most header maps kept by a thread.
const MOST_MAPS: usize = 32;
/// A map that has grown beyond this many fields (100 bytes each) is not kept.
const FIELDS: usize = 32;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static SPARE_MAPS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
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

/// An empty map, with room for `count` fields if there is none to spare. `None`: that many fit into none.
pub(crate) fn take_map(count: usize) -> Option<HeaderMap> {
    let spare = SPARE_MAPS.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
    spare.or_else(|| HeaderMap::try_with_capacity(count).ok())
}

/// Leaves a message's map for the next: its fields are dropped.
pub(crate) fn give_map(mut map: HeaderMap) {
    if map.capacity() == 0 || map.capacity() > FIELDS {
        return;
    }
    map.clear();
    let _ = SPARE_MAPS.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < MOST_MAPS {
            spare.push(map);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{HeaderName, HeaderValue};

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
    fn a_map_left_for_the_next_message_holds_nothing_of_the_last() {
        let mut buf = take();
        buf.extend_from_slice(b"secret");
        let value = HeaderValue::from_maybe_shared(buf.split().freeze()).unwrap();
        let mut map = take_map(4).unwrap();
        for name in ["cookie", "x-one", "x-two"] {
            map.append(HeaderName::from_static(name), value.clone());
            map.append(HeaderName::from_static(name), value.clone());
        }
        drop(value);
        give_map(map);
        assert!(buf.try_reclaim(ROOM), "the map still holds its fields");
        let map = take_map(4).unwrap();
        assert_eq!((map.len(), map.iter().count(), map.get("cookie")), (0, 0, None));
        assert!(map.capacity() >= 3);
    }

    #[test]
    fn no_more_maps_are_kept_than_the_bound_and_none_that_has_grown() {
        for _ in 0..2 * MOST_MAPS {
            give_map(HeaderMap::with_capacity(8));
        }
        give_map(HeaderMap::with_capacity(8 * FIELDS));
        give_map(HeaderMap::new());
        SPARE_MAPS.with_borrow(|spare| {
            assert_eq!(spare.len(), MOST_MAPS);
            assert!(spare.iter().all(|map| map.is_empty() && (1..=FIELDS).contains(&map.capacity())));
        });
    }

    #[test]
    fn what_is_in_a_buffer_given_by_mistake_goes_to_nobody() {
        give(&mut BytesMut::from(&b"secret"[..]));
        assert!(SPARE.with_borrow(Vec::is_empty));
    }
}
