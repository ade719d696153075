//! The indexed store of objects.

mod objects;

pub use objects::*;
