//! A map that is cheap to copy and cheap to change: copying shares everything, changing one key copies the one shard it
//! lies in (and only while an older copy is still held). So a snapshot per change costs 1/256 of the map at most.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::Arc;

/// At 100,000 pods a change copies some 400 entries; an empty map is 2 KiB.
const SHARDS: usize = 256;

#[derive(Clone, Debug)]
pub(super) struct Shards<K, V> {
    shards: Box<[Arc<HashMap<K, V>>]>,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashMap::new());
        Self { shards: vec![empty; SHARDS].into_boxed_slice() }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    fn shard<Q: Hash + ?Sized>(key: &Q) -> usize {
        // Any fixed hash does: it only spreads the keys.
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        // The remainder of 256 fits.
        (hash % SHARDS as u64) as usize
    }

    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards[Self::shard(key)].get(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        Arc::make_mut(&mut self.shards[Self::shard(&key)]).insert(key, value)
    }

    pub(super) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let shard = &mut self.shards[Self::shard(key)];
        // Do not copy a shard for a key that it does not hold.
        if shard.contains_key(key) { Arc::make_mut(shard).remove(key) } else { None }
    }

    /// In no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_does_not_see_later_changes() {
        let mut map = Shards::default();
        map.insert("a".to_owned(), 1);
        let before = map.clone();
        map.insert("a".to_owned(), 2);
        map.insert("b".to_owned(), 3);
        assert_eq!((before.get("a"), before.get("b")), (Some(&1), None));
        assert_eq!((map.get("a"), map.get("b")), (Some(&2), Some(&3)));
        assert_eq!((map.remove("a"), map.remove("z")), (Some(2), None));
        assert_eq!((before.get("a"), map.get("a"), map.iter().count()), (Some(&1), None, 1));
    }
}
