//! One journal file. Half of the changed ones get right checksums again, so that what is behind them is reached.
//!
//! What recovers can be read again, appended to, and recovers as the same frames. One flipped bit in what is known to be
//! durable is an error or a gap, or lies in padding, and changes no other frame; without that knowledge it may cost the
//! frames from it on.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use arrow::buffer::Buffer;
use rand::Rng;
use rand::rngs::StdRng;
use thermocline_engine::disk::{Disk, MemoryDisk};
use thermocline_engine::{Draft, Durability, FrameKind, LocalJournal, Loglet, Part, Position, Recovered, Span};
use thermocline_schemas::{PartitionBucket, Result, SchemaId, TableId};

use crate::driver::{Outcome, Target};
use crate::mutate::{Source, mutate};

const DIRECTORY: &str = "/journal";
const FILE: &str = "/journal/00000000000000000000.log";
const HEADER_BYTES: usize = 64;
/// What stands for frames that cannot be read any more, or not all of them.
const GAP: &str = "gap";

pub struct JournalFile;

impl Target for JournalFile {
    fn seeds(&self) -> Vec<(String, Vec<u8>)> {
        let rows = |bucket, bytes: &[u8]| {
            Part::new(PartitionBucket::unpartitioned(bucket), SchemaId(0), 3, Buffer::from(bytes))
        };
        let data = Draft {
            kind: FrameKind::Data,
            table: TableId(7),
            parts: vec![rows(0, b"some rows of a bucket"), rows(3, &[7; 200])],
            extra: b"\x00\x03tag".to_vec(),
        };
        let edit = Draft::bare(FrameKind::Edit, br#"{"edit":"create_database","name":"shop"}"#.to_vec());
        let mark = Draft::bare(FrameKind::Mark, Vec::new());
        let many = vec![data.clone(), data.clone(), edit.clone(), mark.clone(), data.clone()];
        [("empty", vec![]), ("one", vec![data]), ("kinds", many), ("edit", vec![edit, mark])]
            .map(|(name, drafts)| (name.to_owned(), written(&drafts)))
            .into()
    }

    fn words(&self) -> &'static [&'static str] {
        &["TCF1", "TCJ1"]
    }

    fn memory(&self) -> (usize, usize) {
        (16, 1 << 20)
    }

    fn change(&self, input: &mut Vec<u8>, source: &Source<'_>, random: &mut StdRng) {
        mutate(input, source, random);
        if random.random() {
            seal(input);
        }
    }

    fn run(&mut self, input: &[u8]) -> std::result::Result<Outcome, String> {
        let disk = disk_with(input);
        let (journal, frames) = match recover(&disk, Position(0)) {
            Ok(recovered) => recovered,
            Err(error) => return Outcome::refused(&error),
        };
        let mut again = Vec::new();
        let gaps = frames.iter().any(|frame| frame == GAP);
        let read = journal.read(Position(0), &mut |frame| keep(&mut again, Recovered::Frame(frame)));
        if !gaps {
            read.map_err(|error| format!("read: {error}"))?;
            same("read after recovery", &frames, &again)?;
        }
        let sealed = frames.iter().any(|frame| frame.contains("Seal"));
        let mut journal = journal;
        let appended = journal.append(&[Draft::bare(FrameKind::Mark, Vec::new())], 1);
        if appended.is_err() && !sealed {
            return Err(format!("a recovered journal takes no frame: {appended:?}"));
        }
        drop(journal);
        let (_, mut more) =
            recover(&disk, Position(0)).map_err(|error| format!("recovered once, not twice: {error}"))?;
        if appended.is_ok() {
            more.pop();
        }
        same("second recovery", &frames, &more)?;
        Ok(Outcome::Taken(format!("{} frames, cut {}", frames.len().min(9), disk.map(Path::new(FILE)).is_ok())))
    }

    fn run_flipped(&mut self, whole: &[u8], flipped: &[u8]) -> std::result::Result<Outcome, String> {
        let (journal, frames) = match recover(&disk_with(whole), Position(0)) {
            Ok(recovered) => recovered,
            Err(error) => return Outcome::refused(&error),
        };
        for durable in [journal.tail(), Position(0)] {
            let Ok((_, left)) = recover(&disk_with(flipped), durable) else { continue };
            let mut expected = frames.iter();
            let mut others = left.iter().filter(|frame| *frame != GAP);
            if let Some(other) = others.find(|left| !expected.any(|frame| frame == *left)) {
                return Err(format!("a flipped bit made another frame: {other}"));
            }
            if durable > Position(0) && !left.iter().any(|frame| frame == GAP) {
                same("a flipped bit in what was durable", &frames, &left)?;
            }
        }
        self.run(flipped)
    }
}

fn written(drafts: &[Draft]) -> Vec<u8> {
    let disk = MemoryDisk::new();
    let (mut journal, _) = recover(&disk, Position(0)).expect("an empty disk has an empty journal");
    for (second, draft) in drafts.iter().enumerate() {
        journal.append(std::slice::from_ref(draft), second as i64 * 1_000_000).expect("memory takes it");
    }
    disk.map(Path::new(FILE)).expect("the journal is there").to_vec()
}

fn disk_with(bytes: &[u8]) -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new();
    disk.create_directory(Path::new(DIRECTORY)).expect("memory takes it");
    put(&disk, Path::new(FILE), bytes);
    disk
}

pub fn put(disk: &MemoryDisk, path: &Path, bytes: &[u8]) {
    let file = disk.create(path).expect("the name is free");
    file.write_at(&mut [IoSlice::new(bytes)], 0).and_then(|()| file.sync()).expect("memory takes it");
}

fn recover(disk: &Arc<MemoryDisk>, durable: Position) -> Result<(LocalJournal, Vec<String>)> {
    let mut frames = Vec::new();
    let span = Span { from: Position(0), durable };
    let visit = &mut |found| keep(&mut frames, found);
    let journal = LocalJournal::recover(disk.clone(), Path::new(DIRECTORY), Durability::Fsync, 1 << 30, span, visit)?;
    Ok((journal, frames))
}

fn keep(frames: &mut Vec<String>, found: Recovered) -> Result<()> {
    let frame = match found {
        Recovered::Frame(frame) if frame.damage.is_empty() => frame,
        _ => {
            frames.push(GAP.to_owned());
            return Ok(());
        }
    };
    let parts: Vec<_> = frame.draft.parts.iter().map(|part| (part.target, part.rows, part.base, part.crc)).collect();
    frames.push(format!("{:?} {:?} {parts:?} {:?}", frame.place, frame.draft.kind, frame.draft.extra));
    Ok(())
}

fn same(what: &str, expected: &[String], found: &[String]) -> std::result::Result<(), String> {
    if expected == found {
        return Ok(());
    }
    let at = expected.iter().zip(found).take_while(|(expected, found)| expected == found).count();
    Err(format!(
        "{what}: {} frames, expected {}; first difference {:?}, expected {:?}",
        found.len(),
        expected.len(),
        found.get(at),
        expected.get(at)
    ))
}

/// Makes all checksums, chains and positions right that can be found.
pub fn seal(file: &mut [u8]) {
    if file.len() < HEADER_BYTES {
        return;
    }
    file[20..24].fill(0);
    let crc = crc32c::crc32c(&file[..HEADER_BYTES]);
    put_u32(file, 20, crc);
    let mut chain = u32_at(file, 16);
    let mut at = HEADER_BYTES;
    while at + 64 <= file.len() && file[at..at + 4] == *b"TCF1" {
        let length = u32_at(file, at + 8) as usize;
        if length < 64 || length > file.len() - at {
            return;
        }
        let mut end = at + length.next_multiple_of(64);
        for part in 0..(u32_at(file, at + 52) as usize).min((length - 64) / 40) {
            let place = at + 64 + 40 * part;
            let bytes = u32_at(file, place + 24) as usize;
            let Some(payload) = file.get(end..end.saturating_add(bytes)) else { break };
            let crc = crc32c::crc32c(payload);
            put_u32(file, place + 28, crc);
            end += bytes.next_multiple_of(64);
        }
        file[at + 16..at + 24].copy_from_slice(&((at - HEADER_BYTES) as u64).to_le_bytes());
        put_u32(file, at + 48, chain);
        put_u32(file, at + 12, 0);
        chain = crc32c::crc32c(&file[at..at + length]);
        put_u32(file, at + 12, chain);
        at = end;
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
