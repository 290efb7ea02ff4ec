//! A frame: what one ticket, or one edit, leaves in the journal.
//!
//! Little endian; a frame starts on a multiple of 64 in its file, and so does each payload.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | magic `TCF1` |
//! | 4 | kind: 1 data, 2 carried, 3 edit, 4 mark, 5 seal |
//! | 5 | version, 1 |
//! | 6..8 | zero |
//! | 8..12 | header bytes: fixed part + parts + extra |
//! | 12..16 | CRC32C of the header bytes, these four taken as zero |
//! | 16..24 | position: where in the whole journal this frame starts |
//! | 24..32 | `synced_end`: up to where the journal was durable when this frame was made |
//! | 32..40 | stamp: microseconds since 1970, never less than the frame's before it |
//! | 40..48 | table id, 0 if none |
//! | 48..52 | chain: the header CRC of the frame before it |
//! | 52..56 | number of parts |
//! | 56..60 | bytes of extra |
//! | 60..64 | zero |
//! | 64.. | parts, 40 bytes each: partition u32, bucket u32, schema u32, rows u32, base offset u64, payload bytes u32, payload CRC32C u32, 8 zero bytes |
//! | .. | extra: what the kind says |
//! | padding to 64, then per part: payload (one IPC message, see `ipc.rs`), padding to 64 | |
//!
//! The position says that a frame is where it belongs, the chain that none is missing before it, `synced_end` that a bad
//! frame below it is rot and not a torn write.

use std::collections::BTreeMap;

use arrow::buffer::Buffer;
use thermocline_schemas::{BucketId, Offset, PartitionBucket, PartitionId, SchemaId, TableId};

use super::Position;

const MAGIC: [u8; 4] = *b"TCF1";
const VERSION: u8 = 1;
/// Bytes before the parts.
pub const FIXED_BYTES: usize = 64;
const PART_BYTES: usize = 40;
const LINE: usize = 64;
/// No header is longer; a length above it is damage.
pub const HEADER_BYTES_MAX: usize = 64 << 20;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// New rows of one request.
    Data = 1,
    /// Rows of older frames, verbatim, so that those can go.
    Carried = 2,
    /// A change of the catalog or of a segment list.
    Edit = 3,
    /// Nothing but a newer `synced_end`.
    Mark = 4,
    /// The end of this journal, for good.
    Seal = 5,
}

impl FrameKind {
    fn from_code(code: u8) -> Option<FrameKind> {
        use FrameKind::*;
        [Data, Carried, Edit, Mark, Seal].into_iter().find(|kind| *kind as u8 == code)
    }
}

/// What goes into a frame, before the journal gives it a place.
#[derive(Clone, Debug)]
pub struct Draft {
    pub kind: FrameKind,
    pub table: TableId,
    pub parts: Vec<Part>,
    pub extra: Vec<u8>,
}

impl Draft {
    /// A frame without rows.
    pub fn bare(kind: FrameKind, extra: Vec<u8>) -> Draft {
        Draft { kind, table: TableId(0), parts: Vec::new(), extra }
    }
}

/// The rows of one bucket in a frame.
#[derive(Clone, Debug)]
pub struct Part {
    pub target: PartitionBucket,
    pub schema: SchemaId,
    pub rows: u32,
    pub base: Offset,
    pub payload: Buffer,
    /// CRC32C of the payload.
    pub crc: u32,
}

impl Part {
    pub fn new(target: PartitionBucket, schema: SchemaId, rows: u32, payload: Buffer) -> Part {
        let crc = crc32c::crc32c(&payload);
        Part { target, schema, rows, base: Offset::ZERO, payload, crc }
    }

    pub fn end(&self) -> Offset {
        self.base.plus(u64::from(self.rows))
    }
}

/// What the journal adds to a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub position: Position,
    pub synced_end: Position,
    /// Microseconds since 1970.
    pub stamp: i64,
    /// Header CRC of the frame before.
    pub chain: u32,
}

/// A frame as it was read.
#[derive(Clone, Debug)]
pub struct Frame {
    pub place: Place,
    pub draft: Draft,
    /// Where the next frame starts.
    pub end: Position,
    /// The parts whose payload is not what was written, by their place in the draft, and what is wrong where.
    pub damage: BTreeMap<usize, String>,
}

/// `bytes` rounded up to a whole number of lines.
pub fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(LINE)
}

/// How long the frame will be.
pub fn frame_bytes(draft: &Draft) -> u64 {
    let header = padded(header_bytes(draft));
    let payloads: usize = draft.parts.iter().map(|part| padded(part.payload.len())).sum();
    (header + payloads) as u64
}

fn header_bytes(draft: &Draft) -> usize {
    FIXED_BYTES + PART_BYTES * draft.parts.len() + draft.extra.len()
}

/// The header with its padding, and its CRC; the payloads follow it, each padded.
pub fn encode_header(draft: &Draft, place: &Place) -> (Vec<u8>, u32) {
    let length = header_bytes(draft);
    let mut header = Vec::with_capacity(padded(length));
    header.extend(MAGIC);
    header.extend([draft.kind as u8, VERSION, 0, 0]);
    header.extend((length as u32).to_le_bytes());
    header.extend([0; 4]);
    header.extend(place.position.0.to_le_bytes());
    header.extend(place.synced_end.0.to_le_bytes());
    header.extend(place.stamp.to_le_bytes());
    header.extend(draft.table.0.to_le_bytes());
    header.extend(place.chain.to_le_bytes());
    header.extend((draft.parts.len() as u32).to_le_bytes());
    header.extend((draft.extra.len() as u32).to_le_bytes());
    header.extend([0; 4]);
    for part in &draft.parts {
        header.extend(part.target.partition.0.to_le_bytes());
        header.extend(part.target.bucket.0.to_le_bytes());
        header.extend(part.schema.0.to_le_bytes());
        header.extend(part.rows.to_le_bytes());
        header.extend(part.base.0.to_le_bytes());
        header.extend((part.payload.len() as u32).to_le_bytes());
        header.extend(part.crc.to_le_bytes());
        header.extend([0; 8]);
    }
    header.extend(&draft.extra);
    let crc = crc32c::crc32c(&header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header.resize(padded(length), 0);
    (header, crc)
}

/// A header that is whole.
#[derive(Debug)]
pub struct Header {
    pub kind: FrameKind,
    pub table: TableId,
    pub place: Place,
    pub crc: u32,
    /// With its padding.
    pub bytes: usize,
    /// Parts without their payloads, and the length of each payload.
    pub parts: Vec<(Part, usize)>,
    pub extra: Vec<u8>,
}

/// How long the header says that it is, if these bytes can be the start of one.
pub fn header_length(fixed: &[u8; FIXED_BYTES]) -> Result<usize, &'static str> {
    if fixed[..4] != MAGIC {
        return Err("no frame starts here");
    }
    if fixed[5] != VERSION {
        return Err("unknown frame version");
    }
    match u32_at(fixed, 8) as usize {
        length @ FIXED_BYTES..=HEADER_BYTES_MAX => Ok(length),
        _ => Err("impossible header length"),
    }
}

/// What a header whose checksum is wrong says of its frame, and the checksum that it names.
pub fn claimed(fixed: &[u8; FIXED_BYTES]) -> Option<((FrameKind, TableId), u32)> {
    let kind = FrameKind::from_code(fixed[4])?;
    Some(((kind, TableId(u64_at(fixed, 40))), u32_at(fixed, 12)))
}

/// Decodes a header of exactly [`header_length`] bytes.
pub fn decode_header(header: &[u8]) -> Result<Header, &'static str> {
    let stored = u32_at(header, 12);
    let mut crc = crc32c::crc32c(&header[..12]);
    crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc = crc32c::crc32c_append(crc, &header[16..]);
    if crc != stored {
        return Err("header checksum mismatch");
    }
    let kind = FrameKind::from_code(header[4]).ok_or("unknown frame kind")?;
    let (parts, extra) = (u32_at(header, 52) as usize, u32_at(header, 56) as usize);
    if FIXED_BYTES + PART_BYTES * parts + extra != header.len() {
        return Err("header lengths disagree");
    }
    let (parts, extra) = header[FIXED_BYTES..].split_at(PART_BYTES * parts);
    let parts = parts.chunks_exact(PART_BYTES).map(|part| {
        let target = PartitionBucket { partition: PartitionId(u32_at(part, 0)), bucket: BucketId(u32_at(part, 4)) };
        let empty = Buffer::from(Vec::<u8>::new());
        let (schema, rows, base) = (SchemaId(u32_at(part, 8)), u32_at(part, 12), Offset(u64_at(part, 16)));
        (Part { target, schema, rows, base, payload: empty, crc: u32_at(part, 28) }, u32_at(part, 24) as usize)
    });
    Ok(Header {
        kind,
        table: TableId(u64_at(header, 40)),
        place: Place {
            position: Position(u64_at(header, 16)),
            synced_end: Position(u64_at(header, 24)),
            stamp: u64_at(header, 32) as i64,
            chain: u32_at(header, 48),
        },
        crc,
        bytes: padded(header.len()),
        parts: parts.collect(),
        extra: extra.to_vec(),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> Draft {
        let mut part =
            Part::new(PartitionBucket::unpartitioned(3), SchemaId(1), 2, Buffer::from(b"payload".as_slice()));
        part.base = Offset(40);
        Draft { kind: FrameKind::Data, table: TableId(9), parts: vec![part], extra: b"extra".to_vec() }
    }

    const PLACE: Place = Place { position: Position(128), synced_end: Position(64), stamp: 1_000, chain: 7 };

    #[test]
    fn golden_bytes_of_version_1() {
        let (header, crc) = encode_header(&draft(), &PLACE);
        let hex: String = header.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = concat!(
            "5443463101010000",
            "6d000000",
            "CRC_____",
            "8000000000000000",
            "4000000000000000",
            "e803000000000000",
            "0900000000000000",
            "07000000",
            "01000000",
            "05000000",
            "00000000",
            "00000000",
            "03000000",
            "01000000",
            "02000000",
            "2800000000000000",
            "07000000",
            "PAYLOAD_",
            "0000000000000000",
            "6578747261",
            "00000000000000000000000000000000000000"
        );
        let payload = crc32c::crc32c(b"payload");
        let word = |value: u32| value.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex, expected.replace("CRC_____", &word(crc)).replace("PAYLOAD_", &word(payload)));
        assert_eq!(crc, 0xfa3b_3fea, "a checksum that moves is a new version");
    }

    #[test]
    fn a_header_comes_back() {
        let (bytes, crc) = encode_header(&draft(), &PLACE);
        let length = header_length(bytes[..FIXED_BYTES].try_into().unwrap()).unwrap();
        let header = decode_header(&bytes[..length]).unwrap();
        assert_eq!((header.place, header.crc, header.table, header.bytes), (PLACE, crc, TableId(9), bytes.len()));
        assert_eq!(
            (header.parts[0].0.base, header.parts[0].1, header.extra.as_slice()),
            (Offset(40), 7, b"extra".as_slice())
        );
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let (bytes, _) = encode_header(&draft(), &PLACE);
        let length = header_length(bytes[..FIXED_BYTES].try_into().unwrap()).unwrap();
        for bit in 0..length * 8 {
            let mut flipped = bytes[..length].to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let fixed: &[u8; FIXED_BYTES] = flipped[..FIXED_BYTES].try_into().unwrap();
            let seen = match header_length(fixed) {
                Ok(same) if same == length => decode_header(&flipped).is_err(),
                _ => true,
            };
            assert!(seen, "bit {bit}");
        }
    }
}
