//! Checksums of the objects of a local warehouse, beside them and out of sight.
//!
//! Neither Iceberg's metadata files nor, as they are written today, Parquet pages have checksums, and a file system has
//! none either: one rotten bit would be another value. So every object that is written once and for all has a file of
//! sums, `.sums/<path>`: {magic `TCS1`, bytes of the object u64, CRC32C of each [`BLOCK_BYTES`] u32 each, CRC32C of all
//! that}, little endian. It is durable before the object has its name, and every read of the object is held against it.
//!
//! Only a name that nobody gives twice has sums: the version hint, which is replaced, has none; nor have files that other
//! engines wrote, or that a copy left behind. Those are read as they are. Sums whose object never got its name, or lost it,
//! are harmless: a name is not used again.

use std::io::{self, IoSlice};
use std::ops::Range;

use bytes::Bytes;
use thermocline_engine::disk::DiskFile;

/// What is summed at once: a read of less reads this much.
pub(super) const BLOCK_BYTES: u64 = 64 << 10;
const MAGIC: [u8; 4] = *b"TCS1";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sums {
    bytes: u64,
    blocks: Vec<u32>,
}

impl Sums {
    /// Of a whole file, as it is.
    pub(super) fn of(file: &dyn DiskFile) -> io::Result<Sums> {
        let bytes = file.len()?;
        let mut sums = Sums { bytes, blocks: Vec::new() };
        let mut buffer = vec![0; BLOCK_BYTES.min(bytes) as usize];
        for block in sums.blocks_of(0..bytes) {
            let place = sums.range_of(block);
            let buffer = &mut buffer[..(place.end - place.start) as usize];
            file.read_at(buffer, place.start)?;
            sums.blocks.push(crc32c::crc32c(buffer));
        }
        Ok(sums)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut encoded = MAGIC.to_vec();
        encoded.extend(self.bytes.to_le_bytes());
        self.blocks.iter().for_each(|block| encoded.extend(block.to_le_bytes()));
        let crc = crc32c::crc32c(&encoded);
        encoded.extend(crc.to_le_bytes());
        encoded
    }

    pub(super) fn decode(encoded: &[u8]) -> Option<Sums> {
        let (content, crc) = encoded.split_last_chunk::<4>()?;
        if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (bytes, blocks) = content.strip_prefix(&MAGIC)?.split_first_chunk::<8>()?;
        let bytes = u64::from_le_bytes(*bytes);
        let (blocks, rest) = blocks.as_chunks::<4>();
        let whole = rest.is_empty() && blocks.len() as u64 == bytes.div_ceil(BLOCK_BYTES);
        whole.then(|| Sums { bytes, blocks: blocks.iter().map(|block| u32::from_le_bytes(*block)).collect() })
    }

    /// Writes it into a file that is then durable, except for its name.
    pub(super) fn write(&self, file: &dyn DiskFile) -> io::Result<()> {
        file.write_at(&mut [IoSlice::new(&self.encode())], 0)?;
        file.sync()
    }

    /// The object has the length that was written.
    pub(super) fn check_length(&self, bytes: u64) -> io::Result<()> {
        if bytes == self.bytes {
            return Ok(());
        }
        Err(rotten(format!("{bytes} bytes long, {} were written", self.bytes)))
    }

    /// The bytes of `range`, read with the blocks around them.
    pub(super) fn read(&self, file: &dyn DiskFile, range: Range<u64>) -> io::Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let blocks = self.blocks_of(range.clone());
        let around = self.range_of(blocks.start).start..self.range_of(blocks.end - 1).end;
        let mut buffer = vec![0; (around.end - around.start) as usize];
        file.read_at(&mut buffer, around.start)?;
        for (block, bytes) in blocks.zip(buffer.chunks(BLOCK_BYTES as usize)) {
            if self.blocks.get(block) != Some(&crc32c::crc32c(bytes)) {
                let place = self.range_of(block);
                return Err(rotten(format!("checksum mismatch in bytes {} to {}", place.start, place.end)));
            }
        }
        let start = (range.start - around.start) as usize;
        Ok(Bytes::from(buffer).slice(start..start + (range.end - range.start) as usize))
    }

    fn blocks_of(&self, range: Range<u64>) -> Range<usize> {
        (range.start / BLOCK_BYTES) as usize..range.end.div_ceil(BLOCK_BYTES) as usize
    }

    fn range_of(&self, block: usize) -> Range<u64> {
        let start = block as u64 * BLOCK_BYTES;
        start..(start + BLOCK_BYTES).min(self.bytes)
    }
}

/// An error that becomes `corrupt`, whoever hands it on.
pub(super) fn rotten(wrong: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, wrong)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use thermocline_engine::disk::{Disk, MemoryDisk};

    use super::*;

    #[test]
    fn sums_come_back_and_every_flipped_bit_is_seen() {
        let golden = Sums { bytes: 5, blocks: vec![0x0102_0304] };
        let encoded = golden.encode();
        assert_eq!(encoded[..16], *b"TCS1\x05\0\0\0\0\0\0\0\x04\x03\x02\x01");
        assert_eq!(Sums::decode(&encoded), Some(golden));
        for bit in 0..encoded.len() * 8 {
            let mut flipped = encoded.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Sums::decode(&flipped), None, "bit {bit}");
        }
        for cut in 0..encoded.len() {
            assert_eq!(Sums::decode(&encoded[..cut]), None, "cut {cut}");
        }
    }

    #[test]
    fn any_range_is_read_and_any_block_checked() {
        let disk = MemoryDisk::new();
        for length in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 7] {
            let path = format!("/{length}");
            let file = disk.create(Path::new(&path)).unwrap();
            let bytes: Vec<u8> = (0..length).map(|place| (place % 251) as u8).collect();
            file.write_at(&mut [IoSlice::new(&bytes)], 0).unwrap();
            let sums = Sums::of(&*file).unwrap();
            assert_eq!(sums.blocks.len() as u64, length.div_ceil(BLOCK_BYTES));
            let edges = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, length.saturating_sub(1), length];
            for from in edges {
                for to in edges.into_iter().filter(|to| from <= *to && *to <= length) {
                    assert_eq!(sums.read(&*file, from..to).unwrap(), bytes[from as usize..to as usize], "{from}..{to}");
                }
            }
            if length > 0 {
                disk.flip_bit(Path::new(&path), (length - 1) * 8).unwrap();
                assert!(sums.read(&*file, length - 1..length).is_err());
                assert_eq!(sums.read(&*file, 0..1).is_err(), length <= BLOCK_BYTES, "the first block is another one");
            }
        }
    }
}
