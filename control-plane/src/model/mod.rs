//! The indexed store of objects: what `source/` yields goes in, `translate/` asks.

mod objects;

pub use objects::*;

/// The key of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: ObjectName,
}

/// What changed at once: seen by proxies together or not at all. Removals come first, so an object that is in both is
/// there afterwards; of two upserts of one object the later counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Objects that are gone.
    pub removes: Vec<ObjectKey>,
    /// Objects that are new or changed. Unchanged ones cost a comparison.
    pub upserts: Vec<Object>,
}
