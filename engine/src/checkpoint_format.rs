//! The checkpoint: all that the engine knows at one journal position, except the rows that only the journal holds.
//!
//! One file, `checkpoint`: a line `TCCK1 <CRC32C of the rest, hex>`, then JSON. It is replaced whole, so there is either the
//! old or the new one. After it is durable, the journal below [`Checkpoint::journal_floor`] and the files that it no longer
//! names may go, and not before.

use serde::{Deserialize, Serialize};
use thermocline_schemas::{Error, Identifier, Offset, PartitionBucket, Result, TableDescriptor};

use crate::bucket::SegmentInfo;
use crate::journal::Position;
use crate::keys::IndexSnapshot;
use crate::log_starts::Raised;
use crate::writers::WriterState;

const MAGIC: &str = "TCCK1";

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Edits before it are in here.
    pub position: Position,
    pub databases: Vec<Identifier>,
    pub next_table_id: u64,
    pub tables: Vec<TableState>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableState {
    pub table: TableDescriptor,
    /// Of a dropped table: until when it can be brought back, in microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_until: Option<i64>,
    pub buckets: Vec<BucketState>,
    /// When a log table lost rows last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_raised: Option<Raised>,
    pub writers: Vec<WriterState>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketState {
    pub bucket: PartitionBucket,
    /// Of a log table: the first offset that is kept, hot or cold.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub log_start: Offset,
    pub trim_floor: Offset,
    pub segments: Vec<SegmentInfo>,
    /// Where the first frame stands that holds rows of the tail. Frames of this bucket before it say nothing any more.
    pub replay_from: Option<Position>,
    /// Of a primary-key table that has let rows go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexSnapshot>,
}

fn is_zero(offset: &Offset) -> bool {
    *offset == Offset::ZERO
}

impl Checkpoint {
    /// The first journal position that recovery needs.
    pub fn journal_floor(&self) -> Position {
        let buckets = self.tables.iter().flat_map(|table| &table.buckets);
        buckets.filter_map(|bucket| bucket.replay_from).fold(self.position, Position::min)
    }

    pub fn encode(&self) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(self)
            .map_err(|error| Error::internal("cannot write a checkpoint").with_source(error))?;
        let mut bytes = format!("{MAGIC} {:08x}\n", crc32c::crc32c(&json)).into_bytes();
        bytes.extend(json);
        Ok(bytes)
    }

    pub fn decode(bytes: &[u8]) -> Result<Checkpoint> {
        let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let json = &bytes[(line + 1).min(bytes.len())..];
        if bytes[..line] != *format!("{MAGIC} {:08x}", crc32c::crc32c(json)).as_bytes() {
            return Err(Error::corrupt("checkpoint checksum mismatch"));
        }
        serde_json::from_slice(json)
            .map_err(|error| Error::corrupt("the checkpoint is of a newer version").with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_every_flipped_bit() {
        let checkpoint = Checkpoint { position: Position(640), next_table_id: 3, ..Checkpoint::default() };
        let bytes = checkpoint.encode().unwrap();
        let golden = "TCCK1 fd10349f\n{\"position\":640,\"databases\":[],\"next_table_id\":3,\"tables\":[]}";
        assert_eq!(String::from_utf8_lossy(&bytes), golden);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Checkpoint::decode(&flipped).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(Checkpoint::decode(&bytes[..cut]).is_err(), "cut {cut}");
        }
    }
}
