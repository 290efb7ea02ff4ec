//! A segment: an immutable file of consecutive rows of one bucket, which any Arrow reader opens.
//!
//! It is a standard Arrow IPC *file*: uncompressed, buffers on 64-byte lines, the table's columns in order, rows in offset
//! order. The footer's custom metadata says what Arrow has no word for:
//!
//! | key | value |
//! |---|---|
//! | `thermocline.version` | `1` |
//! | `thermocline.table` | table id |
//! | `thermocline.bucket` | `partition/bucket` |
//! | `thermocline.base_offset` | offset of the first row |
//! | `thermocline.stamps` | JSON `[[rows, microseconds], …]` |
//! | `thermocline.column_crc` | per batch, a line of CRC32Cs in hex, one a column |
//!
//! Each column's CRC is over its buffers in that batch, with the padding after them. All other bytes of the file (schema,
//! message headers, footer) are under one more CRC, the skeleton's, which stands with the file's length in the
//! [`SegmentInfo`] that the journal and the checkpoint keep. So no bit of the file is without a checksum.

use std::collections::HashMap;
use std::ops::Range;

use arrow::ipc::root_as_footer;
use serde::{Deserialize, Serialize};
use thermocline_schemas::{Error, Offset, PartitionBucket, Result, SchemaId, TableId};

use super::Stamps;

const VERSION: &str = "1";
/// `ARROW1` and two zero bytes at the start; the footer's length and `ARROW1` at the end.
const TRAILER_BYTES: usize = 10;

/// What the engine knows of a segment without opening it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentInfo {
    pub bucket: PartitionBucket,
    pub schema: SchemaId,
    pub base: Offset,
    pub rows: u64,
    pub file: String,
    pub bytes: u64,
    pub skeleton_crc: u32,
}

impl SegmentInfo {
    pub fn end(&self) -> Offset {
        self.base.plus(self.rows)
    }
}

/// What the footer says in our own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFooter {
    pub table: TableId,
    pub bucket: PartitionBucket,
    pub base: Offset,
    pub stamps: Stamps,
    /// Per batch, per column.
    pub column_crcs: Vec<Vec<u32>>,
}

impl SegmentFooter {
    pub fn encode(&self) -> Vec<(String, String)> {
        let line = |crcs: &Vec<u32>| crcs.iter().map(|crc| format!("{crc:08x}")).collect::<Vec<_>>().join(" ");
        let crcs = self.column_crcs.iter().map(line).collect::<Vec<_>>().join("\n");
        // Runs of two integers cannot fail to be JSON.
        let stamps = serde_json::to_string(&self.stamps).unwrap_or_default();
        let pairs = [
            ("version", VERSION.to_owned()),
            ("table", self.table.to_string()),
            ("bucket", self.bucket.to_string()),
            ("base_offset", self.base.to_string()),
            ("stamps", stamps),
            ("column_crc", crcs),
        ];
        pairs.into_iter().map(|(key, value)| (format!("thermocline.{key}"), value)).collect()
    }

    pub fn decode(metadata: &HashMap<String, String>, bucket: PartitionBucket) -> Result<SegmentFooter> {
        let value = |key: &str| metadata.get(&format!("thermocline.{key}")).map(String::as_str).unwrap_or_default();
        let wrong = |what: &str| Error::corrupt(format!("segment footer: {what}"));
        if value("version") != VERSION {
            return Err(wrong("unknown version"));
        }
        if value("bucket") != bucket.to_string() {
            return Err(wrong("another bucket's file"));
        }
        let crcs = value("column_crc").lines().map(|line| {
            line.split(' ').map(|crc| u32::from_str_radix(crc, 16).map_err(|_| wrong("column_crc"))).collect()
        });
        Ok(SegmentFooter {
            table: TableId(value("table").parse().map_err(|_| wrong("table"))?),
            bucket,
            base: Offset(value("base_offset").parse().map_err(|_| wrong("base_offset"))?),
            stamps: serde_json::from_str(value("stamps")).map_err(|_| wrong("stamps"))?,
            column_crcs: crcs.collect::<Result<_>>()?,
        })
    }
}

/// The raw parts of an IPC file: each record batch's message, and the footer's metadata.
pub struct FileLayout {
    pub messages: Vec<Range<usize>>,
    pub metadata: HashMap<String, String>,
}

/// Finds the messages of an IPC file through its footer.
pub fn read_layout(file: &[u8]) -> Result<FileLayout> {
    let wrong = || Error::corrupt("segment footer does not parse");
    let trailer = file.len().checked_sub(TRAILER_BYTES).ok_or_else(wrong)?;
    let length = i32::from_le_bytes([file[trailer], file[trailer + 1], file[trailer + 2], file[trailer + 3]]);
    let start = usize::try_from(length).ok().and_then(|length| trailer.checked_sub(length)).ok_or_else(wrong)?;
    let footer = root_as_footer(&file[start..trailer]).map_err(|_| wrong())?;
    let mut messages = Vec::new();
    for block in footer.recordBatches().ok_or_else(wrong)? {
        let from = usize::try_from(block.offset()).map_err(|_| wrong())?;
        let bytes = i64::from(block.metaDataLength()).checked_add(block.bodyLength());
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(wrong)?;
        let to = from.checked_add(bytes).filter(|to| *to <= start).ok_or_else(wrong)?;
        messages.push(from..to);
    }
    let pairs = footer.custom_metadata();
    let metadata = pairs.iter().flatten().filter_map(|pair| Some((pair.key()?.to_owned(), pair.value()?.to_owned())));
    Ok(FileLayout { messages, metadata: metadata.collect() })
}

/// The CRC of all bytes that no column's CRC covers. `columns` are the columns' ranges in file order.
pub fn skeleton_crc(file: &[u8], columns: impl Iterator<Item = Range<usize>>) -> Result<u32> {
    let mut crc = 0;
    let mut at = 0;
    for range in columns {
        // Where a damaged footer points is not known to lie in the file.
        let between = file.get(at..range.start).ok_or_else(|| Error::corrupt("segment batches are out of order"))?;
        crc = crc32c::crc32c_append(crc, between);
        at = range.end;
    }
    let rest = file.get(at..).ok_or_else(|| Error::corrupt("segment batches reach past the file"))?;
    Ok(crc32c::crc32c_append(crc, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_footer_of_version_1() {
        let footer = SegmentFooter {
            table: TableId(7),
            bucket: PartitionBucket::unpartitioned(2),
            base: Offset(1200),
            stamps: Stamps::one(3, 1_700_000_000_000_000),
            column_crcs: vec![vec![1, 0xffff_ffff], vec![2, 3]],
        };
        let golden = [
            ("thermocline.version", "1"),
            ("thermocline.table", "7"),
            ("thermocline.bucket", "0/2"),
            ("thermocline.base_offset", "1200"),
            ("thermocline.stamps", "[[3,1700000000000000]]"),
            ("thermocline.column_crc", "00000001 ffffffff\n00000002 00000003"),
        ];
        let encoded = footer.encode();
        assert_eq!(encoded.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>(), golden);
        let metadata = encoded.into_iter().collect();
        assert_eq!(SegmentFooter::decode(&metadata, footer.bucket).unwrap(), footer);
        assert!(SegmentFooter::decode(&metadata, PartitionBucket::unpartitioned(3)).is_err());
    }
}
