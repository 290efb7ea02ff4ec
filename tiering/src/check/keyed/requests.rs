//! What one writer's requests come to: the changes that each makes in each bucket, and the writer's rows after each.
//!
//! Nobody else writes a writer's keys, so both follow from its requests alone, whatever others do. Where a request's
//! changes stand in the log is learned later, from its answer or from who sees them first: they stand side by side in
//! each bucket, and behind those of the writer's requests before it.

use std::collections::{BTreeMap, BTreeSet};

use thermocline_schemas::{ChangeKind, Changelog, Offset, PartitionBucket};

use super::{Key, Wanted};
use crate::check::{AckedRange, Row};

/// A writer, and all that it has sent.
#[derive(Debug)]
pub struct Writer {
    pub name: String,
    pub requests: Vec<Request>,
    /// So many of its first requests were answered.
    pub acked: usize,
    /// So many of its first requests some reader has seen.
    pub seen: usize,
    /// Every row that a key was left with, in the order of requests.
    versions: BTreeMap<Key, Vec<Version>>,
    /// In the order of requests, which is that of offsets.
    places: BTreeMap<PartitionBucket, Vec<Place>>,
}

#[derive(Debug)]
pub struct Request {
    pub wanted: Vec<Wanted>,
    pub changes: BTreeMap<PartitionBucket, Vec<Change>>,
    pub acked: Option<Vec<AckedRange>>,
    /// How many rows the writer has after it.
    pub rows: u64,
}

/// One row of the changelog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub kind: ChangeKind,
    pub key: Key,
    pub row: Row,
}

/// What a request leaves a key with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub request: usize,
    pub bucket: PartitionBucket,
    /// The number of the change that made it, among the request's in the bucket.
    pub change: usize,
    /// None where the key was deleted.
    pub row: Option<Row>,
}

/// Where a request's changes of one bucket stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub writer: usize,
    pub request: usize,
    pub first: Offset,
    pub end: Offset,
}

/// Which prefixes of a writer's requests fit.
#[derive(Debug)]
pub struct Fit {
    /// Numbers of requests, ascending.
    pub prefixes: Vec<usize>,
    /// The prefix that comes nearest, and a key that does not fit it.
    pub nearest: Option<(usize, Key)>,
}

impl Writer {
    pub fn new(name: &str) -> Writer {
        Writer {
            name: name.to_owned(),
            requests: Vec::new(),
            acked: 0,
            seen: 0,
            versions: BTreeMap::new(),
            places: BTreeMap::new(),
        }
    }

    /// Adds a request, which meets the state that those before it leave, row by row.
    pub fn add(&mut self, wanted: &[Wanted], changelog: Changelog) {
        let request = self.requests.len();
        let mut changes: BTreeMap<PartitionBucket, Vec<Change>> = BTreeMap::new();
        let mut rows = self.rows_after(request);
        for Wanted { bucket, key, row } in wanted.iter().copied() {
            let versions = self.versions.entry(key).or_default();
            let old = versions.last().and_then(|version| version.row);
            let own = changes.entry(bucket).or_default();
            let mut make = |kind, row| own.push(Change { kind, key, row });
            match (old, row, changelog) {
                (None, None, _) => continue,
                (None, Some(new), Changelog::Full) => make(ChangeKind::Insert, new),
                (Some(old), Some(new), Changelog::Full) => {
                    make(ChangeKind::UpdateBefore, old);
                    make(ChangeKind::UpdateAfter, new);
                }
                (_, Some(new), Changelog::Upsert) => make(ChangeKind::UpdateAfter, new),
                (Some(old), None, _) => make(ChangeKind::Delete, old),
            }
            rows = rows + u64::from(row.is_some()) - u64::from(old.is_some());
            let version = Version { request, bucket, change: own.len() - 1, row };
            match versions.last_mut().filter(|last| last.request == request) {
                Some(last) => *last = version,
                None => versions.push(version),
            }
        }
        changes.retain(|_, own| !own.is_empty());
        self.requests.push(Request { wanted: wanted.to_vec(), changes, acked: None, rows });
    }

    /// How many rows the writer has after its first `prefix` requests.
    pub fn rows_after(&self, prefix: usize) -> u64 {
        prefix.checked_sub(1).map_or(0, |last| self.requests[last].rows)
    }

    /// What a key has after the first `prefix` requests; none if no request had touched it.
    pub fn version(&self, key: Key, prefix: usize) -> Option<&Version> {
        let versions = self.versions.get(&key)?;
        versions[..versions.partition_point(|version| version.request < prefix)].last()
    }

    /// What a key has after the first `prefix` requests, and after each later one that touches it.
    pub fn versions_from(&self, key: Key, prefix: usize) -> impl Iterator<Item = Option<&Version>> {
        let later = self.versions.get(&key).into_iter().flatten().filter(move |version| version.request >= prefix);
        std::iter::once(self.version(key, prefix)).chain(later.map(Some))
    }

    /// The prefixes from `least` to `most` after which every key is left with a version that `fits`.
    pub fn fit(&self, least: usize, most: usize, fits: impl Fn(Key, Option<&Version>) -> bool) -> Fit {
        let misfits = |key: &Key, prefix| !fits(*key, self.version(*key, prefix));
        let mut wrong: BTreeSet<Key> = self.versions.keys().copied().filter(|key| misfits(key, least)).collect();
        let (mut prefixes, mut fewest) = (Vec::new(), usize::MAX);
        let mut nearest = None;
        for prefix in least..=most {
            match wrong.first() {
                None => prefixes.push(prefix),
                Some(key) if wrong.len() < fewest => {
                    fewest = wrong.len();
                    nearest = Some((prefix, *key));
                }
                Some(_) => {}
            }
            let next = self.requests.get(prefix).filter(|_| prefix < most);
            for Wanted { key, .. } in next.into_iter().flat_map(|request| &request.wanted) {
                match self.versions.contains_key(key) && misfits(key, prefix + 1) {
                    true => wrong.insert(*key),
                    false => wrong.remove(key),
                };
            }
        }
        Fit { prefixes, nearest }
    }

    /// Where a request's changes of a bucket stand, if that is known.
    pub fn place(&self, request: usize, bucket: PartitionBucket) -> Option<&Place> {
        let places = self.places.get(&bucket)?;
        places.binary_search_by_key(&request, |place| place.request).ok().map(|found| &places[found])
    }

    /// The last place in a bucket of a request below `prefix`, and the first one of one at or past it.
    pub fn around(&self, prefix: usize, bucket: PartitionBucket) -> (Option<&Place>, Option<&Place>) {
        let places = self.places.get(&bucket).map_or(&[][..], Vec::as_slice);
        let (before, after) = places.split_at(places.partition_point(|place| place.request < prefix));
        (before.last(), after.first())
    }

    /// The places in a bucket that end at or below an offset, and the others.
    pub fn places_by(&self, bucket: PartitionBucket, offset: Offset) -> (&[Place], &[Place]) {
        let places = self.places.get(&bucket).map_or(&[][..], Vec::as_slice);
        places.split_at(places.partition_point(|place| place.end <= offset))
    }

    /// The buckets in which something of the writer's has a known place.
    pub fn placed_buckets(&self) -> impl Iterator<Item = PartitionBucket> + '_ {
        self.places.keys().copied()
    }

    /// Notes the place of a request that comes after all those whose places are known in the bucket. False if it stands
    /// before one of them.
    pub fn put_place(&mut self, bucket: PartitionBucket, place: Place) -> bool {
        let places = self.places.entry(bucket).or_default();
        let in_order = places.last().is_none_or(|last| last.request < place.request && last.end <= place.first);
        if in_order {
            places.push(place);
        }
        in_order
    }

    /// How many changes have a known place.
    pub fn placed_changes(&self) -> u64 {
        self.places.values().flatten().map(|place| place.end.since(place.first)).sum()
    }
}
