//! Small manifests brought together, so that a snapshot has few however many commits made it.
//!
//! Every commit adds a manifest or two. Which of the earlier ones it brings together, data and deletes apart, follows from
//! their sizes alone ([`plan`]), in levels as for data files (see `compaction`): at least [`MANIFESTS_MIN`], smallest first,
//! none as large as the others together, and no more bytes than [`TARGET_BYTES`]. So an entry is written again only into a
//! manifest of at least twice the size, and the work of one commit is bounded, in bytes and in memory. Manifests of another
//! partition spec than the table's stay as they are.
//!
//! Always: an entry that is carried over says what it said: the snapshot that added it, both its sequence numbers, its row
//! ids (see `regroup`), the place of its vector. Entries of files that are gone are dropped, but for those that go by this
//! very commit. Counts, the least sequence number and the bounds of partitions are those of the entries.

use std::collections::HashSet;

use iceberg::spec::{DataFile, ManifestContentType, ManifestFile};

/// How many small ones are brought together. More would leave more for readers to open, fewer would write entries more often.
const MANIFESTS_MIN: usize = 16;
/// How large manifests may become: Iceberg's own default.
pub(super) const TARGET_BYTES: u64 = 8 << 20;
/// Manifests below this size are alike, and so are those up to 8 times that, and so on.
const FIRST_LEVEL_BYTES: u64 = 32 << 10;
const LEVEL_FACTOR: u64 = 8;

/// A manifest that a commit writes.
pub(super) struct NewManifest {
    pub(super) content: ManifestContentType,
    /// New by this commit.
    pub(super) added: Vec<DataFile>,
    pub(super) kept: Vec<Entry>,
    /// They go by this commit.
    pub(super) gone: Vec<Entry>,
    /// The least row id of what is kept; none if something kept has no ids, or nothing is kept.
    pub(super) first_row_id: Option<u64>,
}

/// An entry of an earlier manifest.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) file: DataFile,
    pub(super) snapshot_id: i64,
    pub(super) data_sequence: i64,
    pub(super) file_sequence: i64,
}

impl NewManifest {
    pub(super) fn of_added(content: ManifestContentType, added: Vec<DataFile>) -> NewManifest {
        NewManifest { content, added, kept: Vec::new(), gone: Vec::new(), first_row_id: None }
    }
}

/// Takes out of `earlier` the manifests of this kind that are worth to be brought together now.
pub(super) fn take_small(
    earlier: &mut Vec<ManifestFile>,
    content: ManifestContentType,
    spec: i32,
) -> Vec<ManifestFile> {
    let fits = |manifest: &ManifestFile| manifest.content == content && manifest.partition_spec_id == spec;
    let places: Vec<_> = (0..earlier.len()).filter(|place| fits(&earlier[*place])).collect();
    let sizes: Vec<_> = places.iter().map(|place| bytes(&earlier[*place])).collect();
    let chosen: HashSet<_> = plan(&sizes).into_iter().map(|chosen| places[chosen]).collect();
    let mut place = 0..;
    earlier.extract_if(.., |_| place.next().is_some_and(|place| chosen.contains(&place))).collect()
}

/// Which of manifests of these sizes are brought together now; none if nothing is worth it.
fn plan(sizes: &[u64]) -> Vec<usize> {
    let mut small: Vec<_> = (0..sizes.len()).filter(|place| sizes[*place] < TARGET_BYTES / 2).collect();
    small.sort_by_key(|place| sizes[*place]);
    let mut taken = 0;
    while taken < small.len() {
        let next = level(sizes[small[taken]]);
        taken += small[taken..].partition_point(|place| level(sizes[*place]) <= next);
        let run = &small[..taken];
        let total: u64 = run.iter().map(|place| sizes[*place]).sum();
        let largest = run.last().map_or(0, |place| sizes[*place]);
        if run.len() >= MANIFESTS_MIN && total >= 2 * largest {
            let mut left = TARGET_BYTES;
            let fits = |place: &&usize| {
                let rest = left.checked_sub(sizes[**place]);
                left = rest.unwrap_or(0);
                rest.is_some()
            };
            return run.iter().take_while(fits).copied().collect();
        }
    }
    Vec::new()
}

fn level(bytes: u64) -> u32 {
    match bytes / FIRST_LEVEL_BYTES {
        0 => 0,
        times => times.ilog(LEVEL_FACTOR) + 1,
    }
}

pub(super) fn bytes(manifest: &ManifestFile) -> u64 {
    manifest.manifest_length.unsigned_abs()
}

/// How many entries of those that manifests of so many bytes have make a manifest of the target's size.
pub(super) fn entries_max(bytes: u64, entries: usize) -> usize {
    let most = u128::from(TARGET_BYTES) * entries as u128 / u128::from(bytes.max(1));
    usize::try_from(most).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn small_ones_alike_are_brought_together() {
        let planned = |sizes: &[u64]| {
            let mut planned = plan(sizes);
            planned.sort_unstable();
            planned
        };
        assert_eq!(planned(&[]), [0; 0]);
        assert_eq!(planned(&[5_000; 15]), [0; 0]);
        assert_eq!(planned(&[5_000; 16]), (0..16).collect::<Vec<_>>());
        // A larger one stays where it is, wherever that is, until the others come to as much.
        let with_larger = |small: usize| [&[5_000; 3][..], &[100_000], &vec![5_000; small - 3]].concat();
        assert_eq!(planned(&with_larger(15)), [0; 0]);
        assert_eq!(planned(&with_larger(16)), (0..17).filter(|place| *place != 3).collect::<Vec<_>>());
        // What is large enough is left alone, and no more comes together than the target.
        assert_eq!(planned(&[TARGET_BYTES / 2; 40]), [0; 0]);
        assert_eq!(planned(&[TARGET_BYTES / 2 - 1; 16]).len(), 2);
        assert_eq!(planned(&[TARGET_BYTES / 10; 16]).len(), 10);
        assert_eq!(planned(&[u64::MAX; 16]), [0; 0]);
    }

    /// Commits of entries of many sizes: few manifests stay, and an entry is written a few times.
    #[test]
    fn few_stay_and_entries_are_written_few_times() {
        for seed in 0..12 {
            let mut random = StdRng::seed_from_u64(seed);
            let most = [6_000, 40_000, 600_000][seed as usize % 3];
            let (mut sizes, mut added, mut written) = (Vec::new(), 0, 0);
            for _ in 0..20_000 {
                let size = random.random_range(3_000..most);
                let planned: HashSet<_> = plan(&sizes).into_iter().collect();
                assert!(planned.is_empty() || planned.len() > 1, "alone it would only be written again");
                let together: u64 = planned.iter().map(|place| sizes[*place]).sum();
                assert!(together <= TARGET_BYTES);
                let mut place = 0..;
                sizes.retain(|_| place.next().is_some_and(|place| !planned.contains(&place)));
                sizes.extend([size, together].into_iter().filter(|size| *size > 0));
                (added, written) = (added + size, written + together);
                let large = (added / (TARGET_BYTES / 2)) as usize;
                assert!(sizes.len() <= 4 * MANIFESTS_MIN + large, "seed {seed}: {} manifests", sizes.len());
            }
            let times = written as f64 / added as f64;
            assert!(times < 12.0, "seed {seed}: each byte is written {times:.1} times more");
        }
    }
}
