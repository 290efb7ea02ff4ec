//! What was read of immutable files, kept up to a number of bytes: what was not asked for the longest goes first.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) struct ByteCache<K, V> {
    bytes_max: usize,
    kept: Mutex<Kept<K, V>>,
}

struct Kept<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Keys by when they were last asked for.
    by_use: BTreeMap<u64, K>,
    uses: u64,
    bytes: usize,
}

struct Entry<V> {
    value: Arc<V>,
    bytes: usize,
    used: u64,
}

impl<K: Clone + Eq + Hash, V> ByteCache<K, V> {
    pub(crate) fn new(bytes_max: usize) -> ByteCache<K, V> {
        let kept = Kept { entries: HashMap::new(), by_use: BTreeMap::new(), uses: 0, bytes: 0 };
        ByteCache { bytes_max, kept: Mutex::new(kept) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<Arc<V>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept { entries, by_use, uses, .. } = &mut *kept;
        let entry = entries.get_mut(key)?;
        *uses += 1;
        if let Some(key) = by_use.remove(&entry.used) {
            by_use.insert(*uses, key);
        }
        entry.used = *uses;
        Some(entry.value.clone())
    }

    /// Keeps `value`, which takes about so many bytes, unless the cache has no room for as much.
    pub(crate) fn put(&self, key: K, value: Arc<V>, bytes: usize) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.uses += 1;
        let used = kept.uses;
        kept.bytes += bytes;
        kept.by_use.insert(used, key.clone());
        if let Some(before) = kept.entries.insert(key, Entry { value, bytes, used }) {
            kept.by_use.remove(&before.used);
            kept.bytes -= before.bytes;
        }
        while kept.bytes > self.bytes_max
            && let Some((_, oldest)) = kept.by_use.pop_first()
            && let Some(gone) = kept.entries.remove(&oldest)
        {
            kept.bytes -= gone.bytes;
        }
    }
}

impl<K, V> fmt::Debug for ByteCache<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        write!(formatter, "ByteCache({} of {} bytes)", kept.bytes, self.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_the_longest_goes_first() {
        let cache = ByteCache::new(10);
        cache.put("a", Arc::new(1), 4);
        cache.put("b", Arc::new(2), 4);
        assert_eq!(cache.get(&"a").as_deref(), Some(&1));
        cache.put("c", Arc::new(3), 4);
        assert_eq!(
            (cache.get(&"a").as_deref(), cache.get(&"b"), cache.get(&"c").as_deref()),
            (Some(&1), None, Some(&3))
        );
        // Another value under the same key takes the place of the first.
        cache.put("a", Arc::new(5), 6);
        assert_eq!((cache.get(&"a").as_deref(), cache.get(&"c").as_deref()), (Some(&5), Some(&3)));
        // What has no room by itself is not kept, and pushes out the rest.
        cache.put("d", Arc::new(6), 11);
        assert!(["a", "b", "c", "d"].iter().all(|key| cache.get(key).is_none()));
        assert_eq!(cache.kept.lock().unwrap().bytes, 0);
    }
}
