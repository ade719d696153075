//! What a request is counted under: labels that mostly are those of the request before it on the same worker. Who ends leaves
//! them here, and the next one takes them: a label that is the same again is compared by its address and not touched, where
//! taking and dropping a reference to it would be two writes to a line that all workers share.
//!
//! Bound: [`MOST`] times three labels a thread.

use std::cell::RefCell;
use std::sync::Arc;

use super::Label;

/// As many as a busy worker has requests under way.
const MOST: usize = 128;

thread_local!(static SPARE: RefCell<Vec<Told>> = const { RefCell::new(Vec::new()) });

/// A request's labels.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// `namespace/name` of the Service asked for, or `outside`.
    pub(crate) service: Slot,
    /// The chosen backend.
    pub(crate) backend: Slot,
    /// The rule's route.
    pub(crate) route: Slot,
}

/// One label; empty until it is told, whatever it was before.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// Of the request before, unless `told`.
    label: Label,
    told: bool,
}

impl Told {
    /// Nothing told so far.
    pub(crate) fn take() -> Self {
        SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default()
    }

    /// Leaves them for the next request.
    pub(crate) fn give(mut self) {
        for slot in [&mut self.service, &mut self.backend, &mut self.route] {
            slot.told = false;
        }
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MOST {
                spare.push(self);
            }
        });
    }
}

impl Slot {
    /// Tells a text that is shared with the next requests.
    pub(crate) fn tell(&mut self, text: &Arc<str>) {
        if !self.label.is(text) {
            self.label = text.into();
        }
        self.told = true;
    }

    /// Tells any other.
    pub(crate) fn set(&mut self, label: impl Into<Label>) {
        (self.label, self.told) = (label.into(), true);
    }

    /// The label.
    pub(crate) fn get(&self) -> &Label {
        if self.told { &self.label } else { const { &Label::EMPTY } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_request_before_told_is_not_told_of_the_next() {
        let [one, other]: [Arc<str>; 2] = ["shop/reviews".into(), "shop/ratings".into()];
        let mut told = Told::take();
        told.service.tell(&one);
        told.route.tell(&one);
        told.backend.set("outside");
        told.give();
        let mut told = Told::take();
        let texts =
            |told: &Told| [&told.service, &told.backend, &told.route].map(|slot| slot.get().as_str().to_owned());
        assert_eq!(texts(&told), ["", "", ""]);
        told.service.tell(&one);
        told.backend.tell(&other);
        assert_eq!(texts(&told), ["shop/reviews", "shop/ratings", ""]);
        // The same text elsewhere, and an empty one, are other labels.
        told.service.tell(&"shop/reviews".into());
        told.backend.tell(&"".into());
        assert_eq!(texts(&told), ["shop/reviews", "", ""]);
    }

    #[test]
    fn a_label_that_is_the_same_again_is_not_counted_again() {
        let text: Arc<str> = "shop/reviews".into();
        for _ in 0..3 {
            let mut told = Told::take();
            told.service.tell(&text);
            assert_eq!(Arc::strong_count(&text), 2);
            told.give();
        }
    }

    #[test]
    fn no_more_are_kept_than_a_worker_has_requests() {
        let all: Vec<_> = (0..MOST + 10).map(|_| Told::take()).collect();
        all.into_iter().for_each(Told::give);
        assert_eq!(SPARE.with_borrow(Vec::len), MOST);
    }
}
