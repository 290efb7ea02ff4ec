//! Groups of keys: which keys begin with one value of the key's first column, for lookups by prefix.
//!
//! A group is known by the hash of that value, and lists the hashes of its keys; where their rows stand is the index's to
//! say. Always: every key of the index is in its group. A key that is gone may be listed still, and one that went and came
//! back twice; when there are more such entries than keys, all groups are made anew from what the index has.

use std::collections::{HashMap, HashSet};

use super::KeyHash;

/// So many entries may stand for nothing before it is worth a pass.
const STALE_MIN: usize = 1024;

#[derive(Debug, Default)]
pub struct KeyGroups {
    keys: HashMap<KeyHash, Vec<KeyHash>>,
    entries: usize,
}

impl KeyGroups {
    /// Adds a key that the index did not have.
    pub fn add(&mut self, group: KeyHash, key: KeyHash) {
        self.keys.entry(group).or_default().push(key);
        self.entries += 1;
    }

    /// A key was removed from an index that has `keys` now; `has` says which.
    pub fn removed(&mut self, keys: usize, has: impl Fn(KeyHash) -> bool) {
        if self.entries < keys * 2 + STALE_MIN {
            return;
        }
        let mut seen = HashSet::new();
        self.keys.retain(|_, listed| {
            seen.clear();
            listed.retain(|key| has(*key) && seen.insert(*key));
            listed.shrink_to_fit();
            !listed.is_empty()
        });
        self.entries = self.keys.values().map(Vec::len).sum();
    }

    /// The keys of a group, and maybe some that are gone; maybe one twice.
    pub fn of(&self, group: KeyHash) -> &[KeyHash] {
        self.keys.get(&group).map_or(&[], Vec::as_slice)
    }

    pub fn iter(&self) -> impl Iterator<Item = (KeyHash, &[KeyHash])> {
        self.keys.iter().map(|(group, keys)| (*group, keys.as_slice()))
    }

    /// About what this takes in memory.
    pub fn bytes(&self) -> u64 {
        let of_group = size_of::<(KeyHash, Vec<KeyHash>)>() * 2;
        (self.keys.len() * of_group + self.entries * size_of::<KeyHash>() * 3 / 2) as u64
    }
}
