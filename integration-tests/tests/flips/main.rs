//! Bodies of rows with one byte changed, in every format, straight into the functions that the server decodes them with.
//!
//! None of these formats has a checksum, so a changed byte may be another valid value: a digit, a letter, a bit of a number.
//! What must hold of every changed body is that it is refused, or that its rows are what the changed bytes say and nothing
//! else:
//! - **NDJSON, JSON, CSV**: the changed text is read once more, by `serde_json` and by a CSV reader of the test's own, each
//!   value by `chrono`, `base64` and plain arithmetic. The rows are these, cell by cell, and as many. A body that these
//!   readers refuse is not taken.
//! - **Arrow, Parquet**: as many rows as before, in the same columns; at most one column differs. Where the byte is one of
//!   an Arrow buffer, at most eight cells do (one byte of nulls is eight), and where it is padding, none.
//! - **gzip, zstd** (of NDJSON, through the whole server without its sockets): the checksum finds every change, so the
//!   request is refused, or is known as the same one again by its rows. Never other rows.
//!
//! And each in bounded memory and time; the first cell that is wrong is printed with the seed and the change.
//!
//!     cargo test --workspace --test flips -- --nocapture                      # some ten seconds
//!     THERMOCLINE_BODY_FLIPS=100000 cargo test --workspace --test flips -- --nocapture
//!     THERMOCLINE_SEED=7                                                       # other changes

#![allow(clippy::print_stdout)] // what was covered is for people to see

mod cells;
mod compressed;
#[path = "../fuzz/memory.rs"]
mod memory;
#[path = "../fuzz/targets/rows.rs"]
mod rows;
mod texts;

use std::ops::Range;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::ipc::root_as_message;
use bytes::Bytes;
use cells::{Cell, cells_of};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_schemas::Code;
use thermocline_schemas::text::{DecodeOptions, JsonShape};
use thermocline_server::uploads::{UploadFormat, decode_rows};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// How many bodies of each format.
const FLIPS: u64 = 5_000;
const ROWS: i64 = 24;
/// A changed body that takes longer is a hang.
const TIME_MAX: Duration = Duration::from_secs(60);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// What became of the bodies of one format.
#[derive(Default)]
struct Tally {
    refused: u64,
    same: u64,
    other: u64,
    peak: usize,
    slowest: Duration,
}

impl Tally {
    fn print(&self, name: &str, bytes: usize) {
        let Tally { refused, same, other, peak, slowest } = self;
        println!(
            "{name}: {} changed bodies of {bytes} bytes: {refused} refused, {same} the same rows, {other} other values as \
             the byte says; at most {} KiB, {slowest:?}",
            refused + same + other,
            peak >> 10
        );
    }
}

/// A body with one byte changed, and where.
struct Flip {
    body: Vec<u8>,
    place: usize,
    context: String,
}

fn flipped(whole: &[u8], random: &mut StdRng, name: &str, seed: u64) -> Flip {
    let place = random.random_range(0..whole.len());
    let mut body = whole.to_vec();
    // Of all changes of a text nearly none is a text again; those to another of its own bytes, or of one bit, say more.
    while body[place] == whole[place] {
        body[place] = match random.random_range(0..4) {
            0 | 1 => whole[random.random_range(0..whole.len())],
            2 => whole[place] ^ (1 << random.random_range(0..8)),
            _ => random.random(),
        };
    }
    let context = format!("{name}, seed {seed}: byte {place} of {}, {} is {}", whole.len(), whole[place], body[place]);
    Flip { body, place, context }
}

/// One test, because memory is counted over the whole process.
#[test]
fn a_changed_byte_is_refused_or_is_what_it_says() {
    let (count, seed) = (setting("THERMOCLINE_BODY_FLIPS", FLIPS), setting("THERMOCLINE_SEED", 1));
    // Decoders are guarded against panics of libraries, which need not all be printed.
    std::panic::set_hook(Box::new(|info| {
        if info.location().is_some_and(|place| !place.file().contains(".cargo")) {
            println!("{info}");
        }
    }));
    let formats = [
        ("ndjson", UploadFormat::Json(JsonShape::Lines)),
        ("json", UploadFormat::Json(JsonShape::Array)),
        ("csv", UploadFormat::Csv),
        ("arrow", UploadFormat::Arrow),
        ("parquet", UploadFormat::Parquet),
    ];
    for (name, format) in formats {
        let mut random = StdRng::seed_from_u64(seed);
        let schema = rows::schema();
        let rows = rows::some(ROWS);
        let whole = rows::encode(&rows, format).unwrap();
        let original = cells_of(&rows);
        let bodies = if format == UploadFormat::Arrow { arrow_bodies(&whole) } else { Vec::new() };
        let mut tally = Tally::default();
        for _ in 0..count {
            let flip = flipped(&whole, &mut random, name, seed);
            let body = Bytes::from(flip.body.clone());
            let (started, begun) = (Instant::now(), memory::begin());
            let decoded = decode_rows(&schema, format, &body, &DecodeOptions::default());
            tally.peak = tally.peak.max(memory::peak_since(begun));
            tally.slowest = tally.slowest.max(started.elapsed());
            let got = match decoded {
                Err(error) => {
                    assert_ne!(error.code(), Code::Internal, "{}: a fault of ours: {error:?}", flip.context);
                    tally.refused += 1;
                    continue;
                }
                Ok(got) => got,
            };
            assert_eq!(got.schema().fields(), schema.arrow().fields(), "{}", flip.context);
            let got = cells_of(&got);
            let said = match format {
                UploadFormat::Json(shape) => Some(texts::json(&schema, &flip.body, shape)),
                UploadFormat::Csv => Some(texts::csv(&schema, &flip.body)),
                UploadFormat::Arrow | UploadFormat::Parquet => None,
            };
            match said {
                Some(Err(error)) => panic!("{}: it is taken, and another reader says: {error}", flip.context),
                Some(Ok(said)) => compare(&said, &got, &flip.context),
                None => check_change(&original, &got, &flip, &bodies),
            }
            if got == original { tally.same += 1 } else { tally.other += 1 }
        }
        tally.print(name, whole.len());
        assert!(tally.slowest < TIME_MAX, "{name}: {:?}", tally.slowest);
        // Page headers of Parquet may claim up to the limit of one upload before anything is known to be wrong.
        let constant = if format == UploadFormat::Parquet { 300 << 20 } else { 8 << 20 };
        assert!(tally.peak < 100 * whole.len() + constant, "{name}: {} bytes", tally.peak);
        assert!(tally.refused > 0 && tally.other > 0, "{name}: nothing was found out");
    }
    compressed::check(count, seed);
}

fn compare(said: &[Vec<Cell>], got: &[Vec<Cell>], context: &str) {
    assert_eq!(said.len(), got.len(), "{context}: columns");
    for (column, (said, got)) in said.iter().zip(got).enumerate() {
        assert_eq!(said.len(), got.len(), "{context}: rows");
        for (row, (said, got)) in said.iter().zip(got).enumerate() {
            assert_eq!(said, got, "{context}: row {row}, column {column}: what is said, and what was taken");
        }
    }
}

/// As many rows in as many columns, and few of them others.
fn check_change(original: &[Vec<Cell>], got: &[Vec<Cell>], flip: &Flip, bodies: &[Range<usize>]) {
    let rows = |columns: &[Vec<Cell>]| columns.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(rows(original), rows(got), "{}: rows of each column", flip.context);
    let differing =
        |(original, got): (&Vec<Cell>, &Vec<Cell>)| original.iter().zip(got).filter(|(a, b)| a != b).count();
    let differing: Vec<_> = original.iter().zip(got).map(differing).collect();
    let columns = differing.iter().filter(|cells| **cells > 0).count();
    assert!(columns <= 1, "{}: cells that differ by column: {differing:?}", flip.context);
    if bodies.iter().any(|body| body.contains(&flip.place)) {
        let cells: usize = differing.iter().sum();
        assert!(cells <= 8, "{}: {cells} cells differ by one byte of a buffer", flip.context);
    }
}

/// Where the buffers of a stream's messages lie.
fn arrow_bodies(stream: &[u8]) -> Vec<Range<usize>> {
    let (mut bodies, mut at) = (Vec::new(), 0);
    while at + 8 <= stream.len() {
        let length = u32::from_le_bytes(stream[at + 4..at + 8].try_into().unwrap()) as usize;
        if length == 0 {
            break;
        }
        let message = root_as_message(&stream[at + 8..at + 8 + length]).unwrap();
        let start = at + 8 + length;
        at = start + message.bodyLength() as usize;
        bodies.push(start..at);
    }
    assert!(bodies.iter().any(|body| body.len() > 1000), "{bodies:?}");
    bodies
}

#[allow(dead_code, reason = "the names of what is shared with the fuzz targets")]
fn shared(batch: &RecordBatch) {
    let _ = (rows::FORMATS, rows::compressed_parquet(batch), memory::peak_resident());
}
