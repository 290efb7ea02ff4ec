//! The journal on local disk: files of frames, one after the other.
//!
//! A file `journal/<start>.log` holds the frames from position `<start>` on, after a 64-byte header {magic `TCJ1`,
//! version, start, chain, CRC}. A new file is begun only when the one before it is durable to its end, and appears under
//! its name only when its own header is. So of all that can be half written only the end of the newest file can.
//!
//! What a crash can leave, and what [`LocalJournal::recover`] makes of it:
//! - a frame or a group half there at the end of the newest file: a torn tail, never acked. Cut off, the cut synced.
//! - of one unsynced group a later frame whole and an earlier one not: the same; disks may write in any order.
//! - a bad frame, and later a whole frame that knew the journal to be durable past it (`synced_end`): rot.
//! - a bad frame in any file but the newest: rot, for the same reason.
//! - a file not begun under its name: left-over `.staged`, removed.
//! - a group whose sync failed: cut off before the process ends, for a system may forget that it could not write it.
//!
//! Rot is not cut off, and nothing after it is lost. Where the frame's header is whole, its parts and its end are known: the
//! frame is handed out with the bad parts named ([`Frame::damage`]). Else the next frame is looked for, line by line, and
//! what lies between is handed out as a [`Gap`]; where there is no next frame, recovery is refused.
//!
//! What tells rot from a torn tail may itself be in a torn tail. So where rot was found in the newest file and its tail is
//! torn, a mark takes the tail's place: else the next recovery would take the rot for torn, and cut it off.
//!
//! Rot in the very last acked group of a journal without a mark after it looks like a torn tail; that is why an idle
//! journal gets a mark.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow::buffer::{Buffer, MutableBuffer};
use thermocline_schemas::{Code, Error, Result, TableId};

use super::frame_format::{
    FIXED_BYTES, Header, Place, claimed, decode_header, encode_header, frame_bytes, header_length, padded,
};
use super::loglet::Appended;
use super::{AppendError, Draft, Frame, FrameKind, Loglet, Part, Position};
use crate::disk::{Disk, DiskFile, create_directories, write_durably};
use crate::faults::{self, CrashPoint, Defect};
use crate::metric_names;

const FILE_MAGIC: [u8; 4] = *b"TCJ1";
const FILE_VERSION: u32 = 1;
const FILE_HEADER_BYTES: u64 = 64;
const PADDING: [u8; 64] = [0; 64];
/// Frames start on multiples of this.
const LINE_BYTES: u64 = 64;

/// When an append counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When the disk says that it has the bytes.
    #[default]
    Fsync,
    /// When the operating system has them: a crash of the machine, or a power cut, may take acked rows.
    Os,
}

/// The journal on local disk.
#[derive(Debug)]
pub struct LocalJournal {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    durability: Durability,
    file_bytes_max: u64,
    /// Oldest first; the last one is written to.
    files: Vec<JournalFile>,
    end: Position,
    /// Up to where the disk has said that it has the bytes.
    synced: Position,
    chain: u32,
    stamp: i64,
    sealed: bool,
    /// Set by the first failure that leaves the disk in an unknown state.
    broken: bool,
}

#[derive(Clone, Debug)]
struct JournalFile {
    start: Position,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
}

/// Which part of a journal to recover.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span {
    /// The first position that is needed.
    pub from: Position,
    /// Up to where the journal is known to have been durable: a bad frame below it is rot.
    pub durable: Position,
}

/// What recovery finds, in the order of the journal.
#[derive(Debug)]
pub enum Recovered {
    Frame(Frame),
    Gap(Gap),
}

/// Bytes that were durable and in which no frame can be read any more.
#[derive(Debug)]
pub struct Gap {
    pub from: Position,
    pub to: Position,
    /// What was there, as its header says, whose checksum is wrong. None if it may have been more than one frame: only
    /// when the next frame continues the very chain of this one was it alone.
    pub claim: Option<(FrameKind, TableId)>,
    /// File, byte, and what is wrong there.
    pub reason: String,
}

/// Why a frame cannot be read.
struct Bad(&'static str);

/// Of a frame whose header is whole.
const PAST_THE_END: &str = "payload past the end of the file";

impl LocalJournal {
    /// Opens the journal in `directory`, making it if it is new, and hands all that is in the span to `visit`.
    pub fn recover(
        disk: Arc<dyn Disk>,
        directory: &Path,
        durability: Durability,
        file_bytes_max: u64,
        span: Span,
        visit: &mut dyn FnMut(Recovered) -> Result<()>,
    ) -> Result<LocalJournal> {
        let from = span.from;
        create_directories(&*disk, directory).map_err(|error| failed(directory, "make", error))?;
        let mut journal = LocalJournal {
            files: list_files(&*disk, directory)?,
            disk,
            directory: directory.to_owned(),
            durability,
            file_bytes_max,
            end: from,
            synced: from,
            chain: 0,
            stamp: i64::MIN,
            sealed: false,
            broken: false,
        };
        // Left by a crash between a checkpoint and the removal of what it made superfluous.
        while journal.files.get(1).is_some_and(|next| next.start <= from) {
            journal.remove_oldest()?;
        }
        match journal.files.first() {
            None if from == Position(0) => {
                journal.begin_file().map_err(|error| failed(directory, "begin a file in", error))?;
            }
            Some(first) if first.start <= from => journal.scan(span, visit)?,
            first => {
                let start = first.map_or("none".to_owned(), |first| first.start.to_string());
                return Err(Error::corrupt(format!(
                    "the journal is needed from position {from}, its oldest file starts at {start}: {}",
                    directory.display()
                )));
            }
        }
        if journal.end < span.durable {
            return Err(Error::corrupt(format!(
                "the journal ends at position {}, and was durable up to {}: {}",
                journal.end,
                span.durable,
                directory.display()
            )));
        }
        journal.synced = journal.end;
        Ok(journal)
    }

    fn scan(&mut self, span: Span, visit: &mut dyn FnMut(Recovered) -> Result<()>) -> Result<()> {
        let files = self.files.clone();
        for (index, file) in files.iter().enumerate() {
            let following = files.get(index + 1);
            let mut length = file.file.len().map_err(|error| failed(&file.path, "read", error))?;
            let chain = file.read_header(length)?;
            let mut needs_mark = false;
            if index > 0 && (file.start != self.end || chain != self.chain) {
                return Err(Error::corrupt(format!("{}: does not follow the file before it", file.path.display())));
            }
            (self.end, self.chain) = (file.start, chain);
            loop {
                let read = file.read_frame(self.end, self.chain, length)?;
                let wrong = match &read {
                    Ok(None) => break,
                    Ok(Some((frame, _))) => frame.damage.values().next().cloned(),
                    Err(Bad(reason)) => Some(file.wrong_at(file.offset(self.end), reason)),
                };
                if let Some(wrong) = &wrong {
                    let rot = self.end < span.durable
                        || following.is_some()
                        || file.later_frame_past(self.end, length)?.is_some();
                    if !rot || faults::planted(Defect::RotCutOff) {
                        let marked = if std::mem::take(&mut needs_mark) { self.mark_over(file)? } else { None };
                        let end = marked.unwrap_or(file.offset(self.end));
                        cut_off(file, end, length, wrong)?;
                        length = end;
                        if marked.is_some() {
                            continue;
                        }
                        break;
                    }
                    needs_mark = following.is_none() && !faults::planted(Defect::RotForgotten);
                    if following.is_none() && matches!(read, Err(Bad(PAST_THE_END))) {
                        // What is told apart as later frames lies within this one: whatever happened, it was none of ours.
                        return Err(Error::corrupt(format!(
                            "{wrong}, in a part that was durable, with frames within it"
                        )));
                    }
                    tracing::error!(wrong, "a part of the journal that was durable is damaged");
                }
                let found = match read {
                    Ok(Some((frame, crc))) => {
                        self.chain = crc;
                        self.stamp = self.stamp.max(frame.place.stamp);
                        self.end = frame.end;
                        self.sealed |= frame.draft.kind == FrameKind::Seal;
                        Recovered::Frame(frame)
                    }
                    _ => Recovered::Gap(self.step_over(file, following, length, wrong.unwrap_or_default())?),
                };
                let needed = match &found {
                    Recovered::Frame(frame) => frame.place.position >= span.from,
                    Recovered::Gap(gap) => gap.to > span.from,
                };
                if needed {
                    visit(found)?;
                }
            }
        }
        if faults::planted(Defect::RecoveredNotSynced) {
            return Ok(());
        }
        // What was read is served; it must not be lost by the next power cut.
        let last = self.files.last().ok_or_else(|| Error::internal("a journal without files"))?;
        last.file.sync().map_err(|error| failed(&last.path, "sync", error))?;
        self.disk.sync_directory(&self.directory).map_err(|error| failed(&self.directory, "sync", error))
    }

    /// Goes on at the next frame after the bad one at `self.end`, or with the next file.
    fn step_over(
        &mut self,
        file: &JournalFile,
        following: Option<&JournalFile>,
        length: u64,
        reason: String,
    ) -> Result<Gap> {
        let next = match (file.next_frame(self.end, length)?, following) {
            (Some(header), _) => Some((header.place.position, header.place.chain)),
            (None, Some(following)) => {
                let length = following.file.len().map_err(|error| failed(&following.path, "read", error))?;
                Some((following.start, following.read_header(length)?))
            }
            (None, None) => None,
        };
        let Some((to, chain)) = next else {
            return Err(Error::corrupt(format!("{reason}, in a part that was durable, and no frame after it")));
        };
        let claim = file.claim(self.end, length)?.filter(|(_, crc)| *crc == chain).map(|(claim, _)| claim);
        let gap = Gap { from: self.end, to, claim, reason };
        (self.end, self.chain) = (to, chain);
        Ok(gap)
    }

    /// Writes over what is torn that all before it was durable. Answers where that ends in the file; none on a disk on which
    /// nothing changes.
    fn mark_over(&self, file: &JournalFile) -> Result<Option<u64>> {
        file.file.sync().map_err(|error| failed(&file.path, "sync", error))?;
        let place = Place { position: self.end, synced_end: self.end, stamp: self.stamp.max(0), chain: self.chain };
        let (header, _) = encode_header(&Draft::bare(FrameKind::Mark, Vec::new()), &place);
        let offset = file.offset(self.end);
        match file.file.write_at(&mut [IoSlice::new(&header)], offset) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => return Ok(None),
            Err(error) => return Err(failed(&file.path, "mark", error)),
        }
        // Until it is durable the tail says what it says.
        file.file.sync().map_err(|error| failed(&file.path, "sync", error))?;
        Ok(Some(offset + header.len() as u64))
    }

    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Bytes past the last whole frame: after recovery none, unless the disk is one on which nothing changes.
    pub fn torn_bytes(&self) -> Result<u64> {
        let Some(newest) = self.files.last() else { return Ok(0) };
        let length = newest.file.len().map_err(|error| failed(&newest.path, "read", error))?;
        Ok(length.saturating_sub(newest.offset(self.end)))
    }

    fn begin_file(&mut self) -> io::Result<()> {
        let path = self.directory.join(format!("{:020}.log", self.end.0));
        let header = file_header(self.end, self.chain);
        write_durably(&*self.disk, &path, &header)?;
        faults::reached(CrashPoint::JournalFileBegun);
        let file = self.disk.open(&path)?;
        self.files.push(JournalFile { start: self.end, path, file });
        Ok(())
    }

    fn remove_oldest(&mut self) -> Result<()> {
        let oldest = self.files.remove(0);
        self.disk.remove(&oldest.path).map_err(|error| failed(&oldest.path, "remove", error))
    }

    fn write_group(&mut self, drafts: &[Draft], now: i64) -> Result<Vec<Appended>, AppendError> {
        let file = self.files.last().expect("recover leaves at least one file").clone();
        let synced_end = self.synced;
        let (mut position, mut chain, mut stamp) = (self.end, self.chain, self.stamp);
        let mut headers = Vec::with_capacity(drafts.len());
        let mut appended = Vec::with_capacity(drafts.len());
        for draft in drafts {
            stamp = if faults::planted(Defect::StampGoesBack) { now } else { stamp.max(now) };
            let synced_end = if faults::planted(Defect::SyncedEndAhead) { position } else { synced_end };
            let (header, crc) = encode_header(draft, &Place { position, synced_end, stamp, chain });
            headers.push(header);
            chain = crc;
            let end = Position(position.0 + frame_bytes(draft));
            appended.push(Appended { position, end, stamp });
            position = end;
        }
        let mut slices = Vec::with_capacity(drafts.len() * 4);
        for (draft, header) in drafts.iter().zip(&headers) {
            slices.push(IoSlice::new(header));
            for part in &draft.parts {
                slices.push(IoSlice::new(&part.payload));
                slices.push(IoSlice::new(&PADDING[..padded(part.payload.len()) - part.payload.len()]));
            }
        }
        let offset = file.offset(self.end);
        if let Err(error) = file.file.write_at(&mut slices, offset) {
            // Part of the group may be in the file. It goes before anybody hears an answer, or nobody hears one.
            let cut = file.file.set_len(offset).and_then(|()| file.file.sync());
            return Err(match cut {
                Ok(()) => AppendError::Refused(refused(&file.path, error)),
                Err(error) => self.break_with(failed(&file.path, "cut back", error)),
            });
        }
        faults::reached(CrashPoint::JournalWritten);
        let synced = || {
            let started = Instant::now();
            let synced = file.file.sync();
            metrics::histogram!(metric_names::SYNC_SECONDS.name).record(started.elapsed());
            synced
        };
        if self.durability == Durability::Fsync
            && !faults::planted(Defect::AckBeforeSync)
            && let Err(error) = synced()
        {
            // It can still be read, but a second sync might lie: whoever starts next must not serve it.
            if let Err(error) = file.file.set_len(offset) {
                tracing::error!(file = %file.path.display(), %error, "what was not synced stays readable");
            }
            return Err(self.break_with(failed(&file.path, "sync", error)));
        }
        faults::reached(CrashPoint::JournalSynced);
        (self.end, self.chain, self.stamp) = (position, chain, stamp);
        if self.durability == Durability::Fsync {
            self.synced = position;
        }
        Ok(appended)
    }

    fn break_with(&mut self, error: Error) -> AppendError {
        self.broken = true;
        AppendError::Fatal(error)
    }
}

/// Nobody was told that what lies past `end` in a file lasts, and it is not whole.
fn cut_off(file: &JournalFile, end: u64, length: u64, reason: &str) -> Result<()> {
    let lost = length.saturating_sub(end);
    tracing::warn!(file = %file.path.display(), offset = end, bytes = lost, reason, "cut off a torn journal tail");
    file.file.set_len(end).map_err(|error| failed(&file.path, "cut", error))?;
    file.file.sync().map_err(|error| failed(&file.path, "sync", error))
}

impl Loglet for LocalJournal {
    fn not_before(&mut self, stamp: i64) {
        self.stamp = self.stamp.max(stamp);
    }

    fn append(&mut self, drafts: &[Draft], now: i64) -> Result<Vec<Appended>, AppendError> {
        if self.broken {
            return Err(AppendError::Fatal(Error::internal("the journal failed earlier")));
        }
        if self.sealed {
            return Err(AppendError::Refused(Error::new(Code::ShuttingDown, "the journal is sealed")));
        }
        let current = self.files.last().expect("recover leaves at least one file").start;
        if self.end.0 - current.0 >= self.file_bytes_max {
            // A file that is not the newest is durable to its end: recovery relies on it.
            self.sync().map_err(AppendError::Fatal)?;
            let directory = self.directory.clone();
            match self.begin_file() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    return Err(AppendError::Refused(refused(&directory, error)));
                }
                // Some name may be there and not last.
                Err(error) => return Err(self.break_with(failed(&directory, "begin a file in", error))),
            }
        }
        self.write_group(drafts, now)
    }

    fn sync(&mut self) -> Result<()> {
        if self.synced < self.end
            && let Some(newest) = self.files.last()
        {
            newest
                .file
                .sync()
                .map_err(|error| failed(&newest.path, "sync", error))
                .inspect_err(|_| self.broken = true)?;
            self.synced = self.end;
        }
        Ok(())
    }

    fn tail(&self) -> Position {
        self.end
    }

    fn head(&self) -> Position {
        self.files.first().map_or(self.end, |first| first.start)
    }

    fn seal(&mut self) -> Result<()> {
        let stamp = self.stamp;
        match self.append(&[Draft::bare(FrameKind::Seal, Vec::new())], stamp) {
            Ok(_) => {
                self.sealed = true;
                Ok(())
            }
            Err(AppendError::Refused(_)) if self.sealed => Ok(()),
            Err(AppendError::Refused(error) | AppendError::Fatal(error)) => Err(error),
        }
    }

    fn read(&self, from: Position, visit: &mut dyn FnMut(Frame) -> Result<()>) -> Result<()> {
        for (index, file) in self.files.iter().enumerate() {
            let end = self.files.get(index + 1).map_or(self.end, |next| next.start);
            if end <= from {
                continue;
            }
            let length = file.offset(end);
            let (mut position, mut chain) = (file.start, file.read_header(length)?);
            while position < end {
                match file.read_frame(position, chain, length)? {
                    Ok(Some((frame, crc))) => {
                        if let Some(wrong) = frame.damage.values().next() {
                            return Err(Error::corrupt(wrong));
                        }
                        (position, chain) = (frame.end, crc);
                        if frame.place.position >= from {
                            visit(frame)?;
                        }
                    }
                    Ok(None) => break,
                    Err(Bad(reason)) => return Err(Error::corrupt(file.wrong_at(file.offset(position), reason))),
                }
            }
        }
        Ok(())
    }

    fn trim(&mut self, position: Position) -> Result<()> {
        while self.files.get(1).is_some_and(|next| next.start <= position) {
            self.remove_oldest()?;
        }
        Ok(())
    }
}

impl JournalFile {
    /// The byte of the file at which a position lies.
    fn offset(&self, position: Position) -> u64 {
        FILE_HEADER_BYTES + (position.0 - self.start.0)
    }

    fn wrong_at(&self, offset: u64, reason: &str) -> String {
        format!("{}: {reason} at byte {offset}", self.path.display())
    }

    /// The chain that the file's first frame continues.
    fn read_header(&self, length: u64) -> Result<u32> {
        let mut header = [0; FILE_HEADER_BYTES as usize];
        if length >= FILE_HEADER_BYTES {
            self.file.read_at(&mut header, 0).map_err(|error| failed(&self.path, "read", error))?;
        }
        let chain = u32::from_le_bytes([header[16], header[17], header[18], header[19]]);
        if header != file_header(self.start, chain) {
            return Err(Error::corrupt(format!(
                "{}: not a journal file of this place and version",
                self.path.display()
            )));
        }
        Ok(chain)
    }

    /// The frame at `position` and its header's CRC; none at the exact end of the file.
    #[allow(clippy::type_complexity)]
    fn read_frame(&self, position: Position, chain: u32, length: u64) -> Result<Result<Option<(Frame, u32)>, Bad>> {
        let offset = self.offset(position);
        if offset == length {
            return Ok(Ok(None));
        }
        let header = match self.read_frame_header(position, length)? {
            Ok(header) => header,
            Err(bad) => return Ok(Err(bad)),
        };
        if header.place.chain != chain {
            return Ok(Err(Bad("a frame is missing before this one")));
        }
        let mut at = offset + header.bytes as u64;
        let mut parts = Vec::with_capacity(header.parts.len());
        let mut damage = BTreeMap::new();
        for (part, payload_bytes) in header.parts {
            if at + padded(payload_bytes) as u64 > length {
                if faults::planted(Defect::TornFrameInPart) {
                    break;
                }
                return Ok(Err(Bad(PAST_THE_END)));
            }
            let mut payload = MutableBuffer::from_len_zeroed(payload_bytes);
            self.file.read_at(&mut payload, at).map_err(|error| failed(&self.path, "read", error))?;
            let payload = Buffer::from(payload);
            if crc32c::crc32c(&payload) != part.crc && !faults::planted(Defect::PayloadUnchecked) {
                damage.insert(parts.len(), self.wrong_at(at, "payload checksum mismatch"));
            }
            at += padded(payload_bytes) as u64;
            parts.push(Part { payload, ..part });
        }
        let end = Position(position.0 + (at - offset));
        let draft = Draft { kind: header.kind, table: header.table, parts, extra: header.extra };
        Ok(Ok(Some((Frame { place: header.place, draft, end, damage }, header.crc))))
    }

    fn read_frame_header(&self, position: Position, length: u64) -> Result<Result<Header, Bad>> {
        let offset = self.offset(position);
        let mut fixed = [0; FIXED_BYTES];
        if offset + FIXED_BYTES as u64 > length {
            return Ok(Err(Bad("header past the end of the file")));
        }
        self.file.read_at(&mut fixed, offset).map_err(|error| failed(&self.path, "read", error))?;
        let header_bytes = match header_length(&fixed) {
            Ok(header_bytes) => header_bytes,
            Err(reason) => return Ok(Err(Bad(reason))),
        };
        if offset + padded(header_bytes) as u64 > length {
            return Ok(Err(Bad("header past the end of the file")));
        }
        let mut header = vec![0; header_bytes];
        self.file.read_at(&mut header, offset).map_err(|error| failed(&self.path, "read", error))?;
        Ok(match decode_header(&header) {
            Ok(header) if header.place.position != position => Err(Bad("a frame of another place")),
            Ok(header) => Ok(header),
            Err(reason) => Err(Bad(reason)),
        })
    }

    /// A whole frame header after `bad` whose writer knew the journal to be durable past `bad`.
    fn later_frame_past(&self, bad: Position, length: u64) -> Result<Option<Header>> {
        self.find_frame(bad, length, |header| header.place.synced_end > bad)
    }

    /// The first whole frame header after `bad`.
    fn next_frame(&self, bad: Position, length: u64) -> Result<Option<Header>> {
        self.find_frame(bad, length, |_| true)
    }

    fn find_frame(&self, bad: Position, length: u64, wanted: impl Fn(&Header) -> bool) -> Result<Option<Header>> {
        let mut position = Position(bad.0 + LINE_BYTES);
        while self.offset(position) + FIXED_BYTES as u64 <= length {
            if let Ok(header) = self.read_frame_header(position, length)?
                && wanted(&header)
            {
                return Ok(Some(header));
            }
            position.0 += LINE_BYTES;
        }
        Ok(None)
    }

    /// What the bad header at `position` says of its frame, and the checksum that it had.
    fn claim(&self, position: Position, length: u64) -> Result<Option<((FrameKind, TableId), u32)>> {
        let mut fixed = [0; FIXED_BYTES];
        if self.offset(position) + FIXED_BYTES as u64 > length {
            return Ok(None);
        }
        self.file.read_at(&mut fixed, self.offset(position)).map_err(|error| failed(&self.path, "read", error))?;
        Ok(claimed(&fixed))
    }
}

fn file_header(start: Position, chain: u32) -> [u8; FILE_HEADER_BYTES as usize] {
    let mut header = [0; FILE_HEADER_BYTES as usize];
    header[..4].copy_from_slice(&FILE_MAGIC);
    header[4..8].copy_from_slice(&FILE_VERSION.to_le_bytes());
    header[8..16].copy_from_slice(&start.0.to_le_bytes());
    header[16..20].copy_from_slice(&chain.to_le_bytes());
    let crc = crc32c::crc32c(&header);
    header[20..24].copy_from_slice(&crc.to_le_bytes());
    header
}

fn list_files(disk: &dyn Disk, directory: &Path) -> Result<Vec<JournalFile>> {
    let mut files = Vec::new();
    for entry in disk.list(directory).map_err(|error| failed(directory, "list", error))? {
        let path = directory.join(&entry.name);
        if entry.name.ends_with(".staged") {
            disk.remove(&path).map_err(|error| failed(&path, "remove", error))?;
        } else if let Some(start) = entry.name.strip_suffix(".log").and_then(|start| start.parse().ok()) {
            let file = disk.open(&path).map_err(|error| failed(&path, "open", error))?;
            files.push(JournalFile { start: Position(start), path, file });
        }
    }
    Ok(files)
}

fn failed(path: &Path, doing: impl Display, error: io::Error) -> Error {
    Error::internal(format!("cannot {doing} {}", path.display())).with_source(error)
}

/// The names of the files that hold what is between two positions, each with how many of its bytes that takes.
pub fn files_between(disk: &dyn Disk, directory: &Path, from: Position, end: Position) -> Result<Vec<(String, u64)>> {
    let listed = disk.list(directory).map_err(|error| failed(directory, "list", error))?;
    let starts = listed.into_iter().filter_map(|entry| {
        let start = Position(entry.name.strip_suffix(".log")?.parse().ok()?);
        Some((start, entry.name))
    });
    let mut starts: Vec<_> = starts.filter(|(start, _)| *start <= end).collect();
    starts.sort();
    let ends: Vec<_> = starts.iter().skip(1).map(|(start, _)| *start).chain([end]).collect();
    let files = starts.into_iter().zip(ends);
    // The newest one stays, however little is in it: the next frame goes there.
    let needed = files.filter(|(_, file_end)| *file_end > from || *file_end == end);
    Ok(needed.map(|((start, name), file_end)| (name, FILE_HEADER_BYTES + (file_end.0 - start.0))).collect())
}

fn refused(path: &Path, error: io::Error) -> Error {
    let code = if error.kind() == io::ErrorKind::StorageFull { Code::DiskFull } else { Code::StoreUnavailable };
    Error::new(code, format!("cannot write {}", path.display()))
        .with_source(error)
        .with_hint("nothing was written; free space and send again")
}
