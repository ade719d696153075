//! The indexed store of objects: what `source/` yields goes in, `translate/` asks.
//!
//! `objects` has the objects, `filters` what an HTTPRoute's filters say, `store` the [`Model`] that holds them and answers
//! "which routes name this Service?" without a scan. It decides nothing: what the objects mean is `translate/`'s. Bound: proportional to the objects held.

mod filters;
mod objects;
mod store;

pub use filters::*;
pub use objects::*;
pub use store::{Batch, Change, Model, ObjectKey, selects};
