//! Which files are worth to be written anew: a pure function of a version's list of files.
//!
//! Rounds leave small files, and upserts leave files of which little lives. A rewrite is worth it
//! - for a run of files in a row that are alike in size: at least [`CompactionPolicy::files_min`] of them, none as large as
//!   the others together. So a row is written again only into a file of at least twice the size, a few times in its life;
//!   and where rounds stay alike, by the factor `files_min`. Sizes are told in levels, smallest first, so that young small
//!   files are brought together and not, each time, with the large old one beside them;
//! - for a file of which a good share of the rows is deleted, if that share has some size;
//! - for files of which nothing lives, whenever something is rewritten at all: they are only taken off the list.
//!
//! Always: runs are of one bucket, in a row, of files whose rows are known to stand in order, no file is in two, and each
//! makes less of what it was made for. So planning and rewriting in turn comes to an end when nothing new comes. The work of
//! one plan is bounded; what is more is for the next one, and what removes most files for its bytes comes first.

use std::ops::Range;
use std::sync::Arc;

use super::LakeFile;

/// When files are written anew. The defaults are for all tables; tests have others.
#[derive(Clone, Copy, Debug)]
pub struct CompactionPolicy {
    /// How many files alike make a run. More would leave more small files, fewer would write rows more often.
    pub files_min: usize,
    /// How large files may become. A reader with many threads wants several to share, object stores want few.
    pub target_bytes: u64,
    /// A bound on what is known of a file row by row.
    pub rows_max: u64,
    /// Files below this size are alike, and so are those up to 8 times that, and so on.
    pub first_level_bytes: u64,
    /// Which share of a file's rows is worth a rewrite of it alone, in percent: below half, so that readers skip less than
    /// they read; not far below, or a row would be written again for every few that end.
    pub dead_percent: u64,
    /// What that share must come to: small files wait for their run.
    pub dead_bytes_min: u64,
    /// What one plan may read and write.
    pub bytes_at_once: u64,
    pub files_at_once: usize,
}

impl Default for CompactionPolicy {
    fn default() -> CompactionPolicy {
        CompactionPolicy {
            files_min: 8,
            target_bytes: 256 << 20,
            rows_max: 16 << 20,
            first_level_bytes: 32 << 10,
            dead_percent: 35,
            dead_bytes_min: 1 << 20,
            bytes_at_once: 512 << 20,
            files_at_once: 512,
        }
    }
}

const LEVEL_FACTOR: u64 = 8;

/// Files to be written anew as one.
pub type Run = Vec<Arc<LakeFile>>;

impl CompactionPolicy {
    /// The runs that are worth it, out of a version's files by bucket and offset.
    pub fn plan(&self, files: &[Arc<LakeFile>], is_keyed: bool) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut dead: Vec<Run> = Vec::new();
        for bucket in files.chunk_by(|left, right| left.bucket == right.bucket) {
            let mut is_taken = vec![false; bucket.len()];
            let is_free = |place: usize, is_taken: &[bool]| !is_taken[place] && is_known(&bucket[place], is_keyed);
            let level_max = bucket.iter().map(|file| self.level(file)).max().unwrap_or(0);
            for level in 0..=level_max {
                let fits = |place: usize| {
                    is_free(place, &is_taken) && self.is_small(&bucket[place]) && self.level(&bucket[place]) <= level
                };
                let found: Vec<_> = stretches(bucket.len(), fits).collect();
                for stretch in found.into_iter().filter(|stretch| self.is_run(&bucket[stretch.clone()])) {
                    for piece in self.pieces(bucket, stretch) {
                        is_taken[piece.clone()].fill(true);
                        runs.push(bucket[piece].to_vec());
                    }
                }
            }
            for (place, file) in bucket.iter().enumerate().filter(|(place, _)| is_free(*place, &is_taken)) {
                if self.is_much_deleted(file) {
                    runs.push(vec![bucket[place].clone()]);
                } else if file.live_rows() == 0 {
                    dead.push(vec![bucket[place].clone()]);
                }
            }
        }
        if runs.is_empty() && dead.len() < self.files_min {
            return Vec::new();
        }
        runs.sort_by_key(|run| bytes(run) / run.len() as u64);
        let (mut bytes_left, mut files_left) = (self.bytes_at_once, self.files_at_once);
        let mut plan: Vec<Run> = Vec::new();
        for run in dead.into_iter().chain(runs) {
            let (bytes, files) = (if lives(&run) { bytes(&run) } else { 0 }, run.len());
            if plan.is_empty() || bytes <= bytes_left && files <= files_left {
                bytes_left = bytes_left.saturating_sub(bytes);
                files_left = files_left.saturating_sub(files);
                plan.push(run);
            }
        }
        plan
    }

    fn is_small(&self, file: &LakeFile) -> bool {
        live_bytes(file) < self.target_bytes / 2 && file.live_rows() < self.rows_max / 2
    }

    fn level(&self, file: &LakeFile) -> u32 {
        match live_bytes(file) / self.first_level_bytes.max(1) {
            0 => 0,
            times => times.ilog(LEVEL_FACTOR) + 1,
        }
    }

    fn is_run(&self, files: &[Arc<LakeFile>]) -> bool {
        let sizes = files.iter().map(|file| live_bytes(file));
        let largest = sizes.clone().max().unwrap_or(0);
        files.len() >= self.files_min && sizes.sum::<u64>() >= 2 * largest
    }

    /// A stretch of files in pieces that are not too large; a file that is left alone is in none.
    fn pieces(&self, files: &[Arc<LakeFile>], stretch: Range<usize>) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        let mut start = stretch.start;
        let (mut bytes, mut rows) = (0, 0);
        for place in stretch.clone() {
            let (own_bytes, own_rows) = (live_bytes(&files[place]), files[place].live_rows());
            let is_full = bytes + own_bytes > self.target_bytes || rows + own_rows > self.rows_max;
            if is_full || place - start >= self.files_at_once {
                pieces.push(start..place);
                (start, bytes, rows) = (place, 0, 0);
            }
            bytes += own_bytes;
            rows += own_rows;
        }
        pieces.push(start..stretch.end);
        pieces.retain(|piece| piece.len() > 1);
        pieces
    }

    fn is_much_deleted(&self, file: &LakeFile) -> bool {
        let dead_bytes = file.bytes.saturating_sub(live_bytes(file));
        file.deleted() * 100 >= file.rows * self.dead_percent && dead_bytes >= self.dead_bytes_min
    }
}

/// Whether it is known where the file's rows stand, and that nothing but entries of its own hides some. What other engines
/// wrote may be without bounds, or in another order, which those who read it find.
fn is_known(file: &LakeFile, is_keyed: bool) -> bool {
    let span = file.end_offset.since(file.first_offset);
    match is_keyed {
        true => file.rows <= span && span < u64::MAX / 2 && file.has_own_deletes(),
        false => file.rows == span && file.deletes.is_none(),
    }
}

/// About how large a file of the living rows would be.
fn live_bytes(file: &LakeFile) -> u64 {
    let bytes = u128::from(file.bytes) * u128::from(file.live_rows()) / u128::from(file.rows.max(1));
    bytes as u64
}

fn bytes(run: &Run) -> u64 {
    run.iter().map(|file| file.bytes).sum()
}

fn lives(run: &Run) -> bool {
    run.iter().any(|file| file.live_rows() > 0)
}

/// The longest ranges of places that all fit.
fn stretches(places: usize, fits: impl Fn(usize) -> bool) -> impl Iterator<Item = Range<usize>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let start = (next..places).find(|place| fits(*place))?;
        let end = (start..places).find(|place| !fits(*place)).unwrap_or(places);
        next = end;
        Some(start..end)
    })
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const POLICY: CompactionPolicy = CompactionPolicy {
        files_min: 8,
        target_bytes: 1 << 20,
        rows_max: 1 << 30,
        first_level_bytes: 64,
        dead_percent: 35,
        dead_bytes_min: 1_000,
        bytes_at_once: 4 << 20,
        files_at_once: 64,
    };

    /// Files in a row of one bucket, of these sizes, a row for each byte.
    fn files(sizes: &[u64]) -> Vec<Arc<LakeFile>> {
        let mut next = 0;
        let file = |(place, bytes): (usize, &u64)| {
            let first = next;
            next += *bytes;
            Arc::new(LakeFile::example(&format!("{place}"), 0, first..next, *bytes, 0))
        };
        sizes.iter().enumerate().map(file).collect()
    }

    /// The places of the files of each run, in order.
    fn planned(policy: &CompactionPolicy, files: &[Arc<LakeFile>], is_keyed: bool) -> Vec<Vec<usize>> {
        let place = |file: &Arc<LakeFile>| files.iter().position(|other| other.path == file.path).unwrap();
        let mut runs: Vec<Vec<_>> =
            policy.plan(files, is_keyed).iter().map(|run| run.iter().map(place).collect()).collect();
        runs.sort();
        runs
    }

    fn of_sizes(sizes: &[u64]) -> Vec<Vec<usize>> {
        planned(&POLICY, &files(sizes), false)
    }

    fn run(places: Range<usize>) -> Vec<usize> {
        places.collect()
    }

    #[test]
    fn files_alike_in_a_row_are_a_run() {
        assert_eq!(of_sizes(&[10; 7]), [[0; 0]; 0]);
        assert_eq!(of_sizes(&[10; 8]), [run(0..8)]);
        assert_eq!(of_sizes(&[10; 20]), [run(0..20)]);
        // The old large one stays where it is.
        assert_eq!(of_sizes(&[5_000, 10, 10, 10, 10, 10, 10, 10]), [[0; 0]; 0]);
        assert_eq!(of_sizes(&[5_000, 10, 10, 10, 10, 10, 10, 10, 10]), [run(1..9)]);
        // Seven here and seven there.
        let apart = [&[10; 7][..], &[90_000], &[10; 7]].concat();
        assert_eq!(of_sizes(&apart), [[0; 0]; 0]);
        // Small ones between large ones go with those.
        assert_eq!(of_sizes(&[5_000, 10, 6_000, 10, 5_000, 10, 10, 5_000]), [run(0..8)]);
        // What is large enough is left alone.
        assert_eq!(of_sizes(&[600_000; 20]), [[0; 0]; 0]);
        // Pieces of the target at most.
        assert_eq!(of_sizes(&[300_000; 8]), [run(0..3), run(3..6), run(6..8)]);
        assert_eq!(of_sizes(&[300_000; 10]), [run(0..3), run(3..6), run(6..9)], "alone it would only be written again");
    }

    #[test]
    fn a_bucket_is_a_row_of_its_own() {
        let of = |bucket: u32, count: u64| {
            (0..count).map(move |at| {
                Arc::new(LakeFile::example(&format!("{bucket} {at}"), bucket, at * 5..at * 5 + 5, 10, 0))
            })
        };
        let files: Vec<_> = of(0, 5).chain(of(1, 8)).chain(of(2, 5)).collect();
        assert_eq!(planned(&POLICY, &files, false), [run(5..13)]);
    }

    #[test]
    fn files_of_another_order_are_left_alone() {
        let mut some = files(&[10; 17]);
        // Others wrote it: it has no bounds, and nobody knows where its rows stand.
        let mut unknown = (*some[8]).clone();
        (unknown.first_offset, unknown.end_offset) = (Default::default(), thermocline_schemas::Offset(u64::MAX));
        some[8] = Arc::new(unknown);
        for is_keyed in [false, true] {
            assert_eq!(planned(&POLICY, &some, is_keyed), [run(0..8), run(9..17)]);
        }
    }

    #[test]
    fn a_file_of_which_much_is_deleted_is_written_alone() {
        let deleted = |rows: u64, deleted: u64| {
            vec![
                Arc::new(LakeFile::example("a", 0, 0..rows, rows, deleted)),
                Arc::new(LakeFile::example("b", 0, rows..rows + 10, 10, 0)),
            ]
        };
        let plan = |rows, gone| planned(&POLICY, &deleted(rows, gone), true);
        assert_eq!(plan(800_000, 279_000), [[0; 0]; 0]);
        assert_eq!(plan(800_000, 280_000), [[0]]);
        assert_eq!(plan(800_000, 800_000), [[0]]);
        assert_eq!(plan(900, 900), [[0; 0]; 0], "what is small waits for its run");
        assert_eq!(plan(900, 500), [[0; 0]; 0]);
    }

    #[test]
    fn files_of_which_nothing_lives_go_along() {
        let dead = |place: u64| Arc::new(LakeFile::example(&format!("dead {place}"), 0, place..place + 1, 10, 1));
        let large = |place: u64, deleted| {
            Arc::new(LakeFile::example(&format!("large {place}"), 0, place..place + 800_000, 800_000, deleted))
        };
        let step = 1_000_000;
        let row = |worn: u64| [large(0, worn), dead(step), large(2 * step, 0), dead(3 * step), large(4 * step, 0)];
        assert_eq!(planned(&POLICY, &row(0), true), [[0; 0]; 0]);
        assert_eq!(planned(&POLICY, &row(400_000), true), [[0], [1], [3]]);
        // Enough of them are worth it by themselves, also apart.
        let many: Vec<_> = (0..16).map(|at| if at % 2 == 0 { large(at * step, 0) } else { dead(at * step) }).collect();
        assert_eq!(planned(&POLICY, &many, true).len(), 8);
    }

    #[test]
    fn a_plan_is_bounded() {
        let some: Vec<_> = (0..100)
            .flat_map(|bucket| {
                (0..8).map(move |at| {
                    let (first, size) = (at * 100_000, if bucket == 7 { 10 } else { 100_000 });
                    Arc::new(LakeFile::example(&format!("{bucket} {at}"), bucket, first..first + size, size, 0))
                })
            })
            .collect();
        let plan = POLICY.plan(&some, false);
        assert_eq!(plan[0][0].bucket.bucket.0, 7, "what costs least first");
        let (bytes, count) = (plan.iter().map(bytes).sum::<u64>(), plan.iter().map(Vec::len).sum::<usize>());
        assert!(bytes <= POLICY.bytes_at_once && count <= POLICY.files_at_once && plan.len() > 4, "{bytes} {count}");
        // One that is larger than the bound is done all the same, alone.
        let tight = CompactionPolicy { bytes_at_once: 10, files_at_once: 64, ..POLICY };
        assert_eq!(tight.plan(&files(&[100_000; 16]), false).len(), 1);
    }

    /// Rounds of random sizes with rewrites in between, to a table of many times the target: few files stay, a byte is
    /// written a few times, and each plan is what it must always be.
    #[test]
    fn few_files_stay_and_rows_are_written_few_times() {
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let is_keyed = seed % 2 == 1;
            let round_bytes = [50, 500, 5_000][random.random_range(0..3)];
            let (mut files, mut names, mut end): (Vec<Arc<LakeFile>>, u64, u64) = (Vec::new(), 0, 0);
            let (mut added, mut written, mut most) = (0, 0, 0);
            let rounds = if round_bytes == 50 { 8_000 } else { 2_500 };
            for _ in 0..rounds {
                let bytes = random.random_range(1..=2 * round_bytes);
                names += 1;
                files.push(Arc::new(LakeFile::example(&format!("{names}"), 0, end..end + bytes, bytes, 0)));
                (end, added) = (end + bytes, added + bytes);
                if is_keyed {
                    // Rows of a few files end.
                    for _ in 0..2 {
                        let place = random.random_range(0..files.len());
                        let file = &files[place];
                        let gone = file.live_rows().min(random.random_range(0..round_bytes));
                        let offsets = file.first_offset.0..file.end_offset.0;
                        let (name, rows) = (file.path.to_string(), file.rows);
                        let worn = LakeFile::example(&name, 0, offsets, file.bytes, file.deleted() + gone);
                        files[place] = Arc::new(worn.with_rows(rows));
                    }
                }
                for step in 0.. {
                    let plan = POLICY.plan(&files, is_keyed);
                    if plan.is_empty() {
                        break;
                    }
                    assert!(step < 100, "seed {seed}: no end");
                    for run in plan {
                        let place = files.iter().position(|file| file.path == run[0].path).unwrap();
                        let own = files.splice(place..place + run.len(), []).collect::<Vec<_>>();
                        assert!(own.iter().zip(&run).all(|(own, planned)| own.path == planned.path), "in a row");
                        let live: u64 = run.iter().map(|file| file.live_rows()).sum();
                        written += live;
                        assert!(live <= POLICY.target_bytes);
                        if live > 0 {
                            names += 1;
                            let (first, end) = (run[0].first_offset.0, run[run.len() - 1].end_offset.0);
                            let new = LakeFile::example(&format!("{names}"), 0, first..end, live, 0);
                            // Fewer rows than offsets, and a byte for each row.
                            files.insert(place, Arc::new(new.with_rows(live)));
                        }
                    }
                }
                most = most.max(files.len());
            }
            // Seven of each level, between files that are large enough, of which there are as many as the bytes need.
            let large = (added / POLICY.target_bytes * 2) as usize;
            assert!(most <= 7 * 7 + large, "seed {seed}: {most} files");
            let times = written as f64 / added as f64;
            assert!(times < 8.0, "seed {seed}: each byte is written {times:.1} times more");
        }
    }
}
