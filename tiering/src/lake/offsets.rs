//! How far each bucket of a table is in the lake: the first offset not yet tiered.
//!
//! Always: a bucket that is not in the map is at 0, and zeros are not kept, so equal maps are equal texts and equal hashes.
//! The text is persisted in table properties for ever: `{"version":1,"ends":[[partition,bucket,offset],…]}`, ascending.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thermocline_schemas::{BucketId, Error, Offset, PartitionBucket, PartitionId, Result};

const VERSION: u32 = 1;

/// The first offset not yet tiered, per bucket. A copy shares the map until one of both changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offsets(Arc<BTreeMap<PartitionBucket, Offset>>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    ends: Vec<(u32, u32, u64)>,
}

impl Offsets {
    /// 0 for a bucket that is not there.
    pub fn get(&self, bucket: PartitionBucket) -> Offset {
        self.0.get(&bucket).copied().unwrap_or(Offset::ZERO)
    }

    pub fn set(&mut self, bucket: PartitionBucket, offset: Offset) {
        let offsets = Arc::make_mut(&mut self.0);
        if offset == Offset::ZERO {
            offsets.remove(&bucket);
        } else {
            offsets.insert(bucket, offset);
        }
    }

    /// Takes the further offset of each bucket: offsets never go back.
    pub fn merge_max(&mut self, other: &Offsets) {
        for (bucket, offset) in other.iter() {
            if offset > self.get(bucket) {
                self.set(bucket, offset);
            }
        }
    }

    /// The buckets that are past 0, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionBucket, Offset)> + '_ {
        self.0.iter().map(|(bucket, offset)| (*bucket, *offset))
    }

    /// How many offsets lie below these.
    pub fn sum(&self) -> u64 {
        self.0.values().map(|offset| offset.0).sum()
    }

    /// Nothing has been tiered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether no bucket is behind `earlier`.
    pub fn covers(&self, earlier: &Offsets) -> bool {
        earlier.iter().all(|(bucket, offset)| self.get(bucket) >= offset)
    }

    /// The buckets that differ from `start`, as `(bucket, start, end)`, ascending.
    pub fn changes_since(&self, start: &Offsets) -> Vec<(PartitionBucket, Offset, Offset)> {
        let mut buckets: Vec<_> = self.0.keys().chain(start.0.keys()).copied().collect();
        buckets.sort();
        buckets.dedup();
        let changes = buckets.into_iter().map(|bucket| (bucket, start.get(bucket), self.get(bucket)));
        changes.filter(|(_, start, end)| start != end).collect()
    }

    /// The one text of this map.
    pub fn to_json(&self) -> String {
        let ends = self.iter().map(|(at, offset)| (at.partition.0, at.bucket.0, offset.0)).collect();
        serde_json::to_string(&Text { version: VERSION, ends }).unwrap_or_default() // numbers in vectors always serialise
    }

    /// What [`Self::to_json`] wrote; anything else is `Corrupt`.
    pub fn from_json(text: &str) -> Result<Offsets> {
        let unreadable = || Error::corrupt("tiered offsets cannot be read").with_value(text);
        let parsed: Text = serde_json::from_str(text).map_err(|error| unreadable().with_source(error))?;
        if parsed.version != VERSION {
            return Err(unreadable().with_hint(format!("version {} is not known here", parsed.version)));
        }
        let mut offsets = BTreeMap::new();
        for (partition, bucket, offset) in parsed.ends {
            let at = PartitionBucket { partition: PartitionId(partition), bucket: BucketId(bucket) };
            if offsets.insert(at, Offset(offset)).is_some() || offset == 0 {
                return Err(unreadable());
            }
        }
        Ok(Offsets(Arc::new(offsets)))
    }

    /// SHA-256 of the text, in hexadecimal.
    pub fn hash(&self) -> String {
        Sha256::digest(self.to_json()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl FromIterator<(PartitionBucket, Offset)> for Offsets {
    fn from_iter<I: IntoIterator<Item = (PartitionBucket, Offset)>>(pairs: I) -> Offsets {
        let mut offsets = Offsets::default();
        for (bucket, offset) in pairs {
            offsets.set(bucket, offset);
        }
        offsets
    }
}

impl fmt::Display for Offsets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<_> = self.iter().take(8).map(|(bucket, offset)| format!("{bucket}:{offset}")).collect();
        let more = if self.0.len() > shown.len() { ", …" } else { "" };
        write!(formatter, "[{}{more}]", shown.join(", "))
    }
}

impl Serialize for Offsets {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_json())
    }
}

impl<'de> Deserialize<'de> for Offsets {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Offsets, D::Error> {
        let text = String::deserialize(deserializer)?;
        Offsets::from_json(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(pairs: &[(u32, u64)]) -> Offsets {
        pairs.iter().map(|(bucket, offset)| (PartitionBucket::unpartitioned(*bucket), Offset(*offset))).collect()
    }

    #[test]
    fn the_text_is_what_is_in_the_lakes() {
        let some = offsets(&[(3, 7), (0, 12), (1, 0)]);
        assert_eq!(some.to_json(), r#"{"version":1,"ends":[[0,0,12],[0,3,7]]}"#);
        assert_eq!(Offsets::from_json(&some.to_json()).unwrap(), some);
        assert_eq!(Offsets::default().to_json(), r#"{"version":1,"ends":[]}"#);
        assert_eq!(some.hash(), "8048250440199591d7737edf8899123113979a20738f15858632d2dda10f586c");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "{}",
            r#"{"version":2,"ends":[]}"#,
            r#"{"version":1,"ends":[[0,0,1],[0,0,2]]}"#,
            r#"{"version":1,"ends":[[0,0,0]]}"#,
            r#"{"version":1,"ends":[[0,0,-1]]}"#,
        ] {
            assert!(Offsets::from_json(text).is_err(), "{text}");
        }
    }

    #[test]
    fn merging_never_goes_back() {
        let mut some = offsets(&[(0, 5), (1, 2)]);
        some.merge_max(&offsets(&[(0, 3), (1, 4), (2, 1)]));
        assert_eq!(some, offsets(&[(0, 5), (1, 4), (2, 1)]));
        assert!(some.covers(&offsets(&[(0, 5)])) && !offsets(&[(0, 4)]).covers(&offsets(&[(0, 5)])));
        let changes = some.changes_since(&offsets(&[(0, 5), (3, 9)]));
        let shown: Vec<_> = changes.iter().map(|(bucket, start, end)| (bucket.bucket.0, start.0, end.0)).collect();
        assert_eq!(shown, [(1, 0, 4), (2, 0, 1), (3, 9, 0)]);
    }
}
