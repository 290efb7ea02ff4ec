//! An index snapshot: the keys of one bucket and where their rows stand, in a file.
//!
//! Hot rows that are let go take along what the log says of their keys. So before they go, a snapshot of the index is
//! durable that knows all changes below the new floor; a start loads it and lets the rows that are still hot say the rest.
//! Replaying a change that the snapshot knows already does no harm: of each key the last change decides.
//!
//! The file: `TCKEYS1\n`, table, partition, bucket, the hashes' secret, the end, the number of keys, the bytes of a key; per
//! key its hash, its offset, and, where keys are grouped, the hash of its group; CRC32C of all that. Integers are
//! little-endian. It is written once and replaced by a newer one.

use std::io::IoSlice;
use std::path::Path;

use serde::{Deserialize, Serialize};
use thermocline_schemas::{Error, Offset, PartitionBucket, Result, TableId};

use super::{KeyHash, KeyIndex, Secret};
use crate::disk::Disk;
use crate::engine::io_error;

const MAGIC: &[u8; 8] = b"TCKEYS1\n";
const HEADER_BYTES: usize = 64;
const KEY_BYTES: usize = 24;
const GROUPED_KEY_BYTES: usize = 40;
const CRC_BYTES: usize = 4;

/// A snapshot's file, as the journal and checkpoints name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexSnapshot {
    pub bucket: PartitionBucket,
    pub file: String,
    /// Every change below it is in the snapshot.
    pub end: Offset,
}

impl IndexSnapshot {
    pub fn new(table: TableId, bucket: PartitionBucket, end: Offset) -> IndexSnapshot {
        let file = format!("{table}-{}-{}-{end}.keys", bucket.partition, bucket.bucket);
        IndexSnapshot { bucket, file, end }
    }

    /// The file's bytes.
    pub fn encode(&self, table: TableId, secret: Secret, index: &KeyIndex) -> Vec<u8> {
        let groups = index.iter_groups();
        let key_bytes = if groups.is_some() { GROUPED_KEY_BYTES } else { KEY_BYTES };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + index.len() * key_bytes + CRC_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&table.0.to_le_bytes());
        bytes.extend_from_slice(&self.bucket.partition.0.to_le_bytes());
        bytes.extend_from_slice(&self.bucket.bucket.0.to_le_bytes());
        for number in [secret.0, secret.1, self.end.0, index.len() as u64, key_bytes as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let mut key = |key: KeyHash, offset: Offset, group: Option<KeyHash>| {
            bytes.extend_from_slice(&key.0.to_le_bytes());
            bytes.extend_from_slice(&offset.0.to_le_bytes());
            bytes.extend(group.into_iter().flat_map(|group| group.0.to_le_bytes()));
        };
        match groups {
            None => index.iter().for_each(|(hash, offset)| key(hash, offset, None)),
            Some(groups) => groups.for_each(|(hash, group, offset)| key(hash, offset, Some(group))),
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// Writes the file, durable with its name.
    pub fn write(&self, disk: &dyn Disk, directory: &Path, bytes: &[u8]) -> Result<()> {
        let path = directory.join(&self.file);
        let write = || {
            match disk.remove(&path) {
                // Of an attempt that failed: nothing names it.
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let file = disk.create(&path)?;
            file.write_at(&mut [IoSlice::new(bytes)], 0)?;
            file.sync()?;
            disk.sync_directory(directory)
        };
        write().map_err(|error| io_error("write", &path, error))
    }

    /// Reads the file back.
    pub fn read(&self, disk: &dyn Disk, directory: &Path, table: TableId) -> Result<(Secret, KeyIndex)> {
        let path = directory.join(&self.file);
        let bytes = disk.map(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::corrupt(format!("{} is missing", path.display())),
            _ => io_error("read", &path, error),
        })?;
        self.decode(&bytes, table).map_err(|error| error.while_doing(path.display()))
    }

    fn decode(&self, bytes: &[u8], table: TableId) -> Result<(Secret, KeyIndex)> {
        let Some((content, crc)) = bytes.split_last_chunk::<CRC_BYTES>() else {
            return Err(Error::corrupt(format!("an index snapshot of {} bytes", bytes.len())));
        };
        if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
            return Err(Error::corrupt("index snapshot checksum mismatch"));
        }
        let Some((header, keys)) = content.split_first_chunk::<HEADER_BYTES>() else {
            return Err(Error::corrupt("an index snapshot without its header"));
        };
        let number = |place: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&header[place..place + 8]);
            u64::from_le_bytes(number)
        };
        let place = u64::from(self.bucket.partition.0) | u64::from(self.bucket.bucket.0) << 32;
        let key_bytes = number(56) as usize;
        let whole = [KEY_BYTES, GROUPED_KEY_BYTES].contains(&key_bytes)
            && keys.len() % key_bytes == 0
            && (keys.len() / key_bytes) as u64 == number(48);
        if header[..8] != *MAGIC || number(8) != table.0 || number(16) != place || number(40) != self.end.0 || !whole {
            return Err(Error::corrupt("an index snapshot of something else"));
        }
        let mut index = KeyIndex::with_room(keys.len() / key_bytes, key_bytes == GROUPED_KEY_BYTES);
        let hash = |bytes: &[u8]| bytes.try_into().ok().map(|bytes| KeyHash(u128::from_le_bytes(bytes)));
        for key in keys.chunks_exact(key_bytes) {
            let mut offset = [0; 8];
            offset.copy_from_slice(&key[16..KEY_BYTES]);
            let named = hash(&key[..16]).ok_or_else(|| Error::internal("a key of another length"))?;
            index.put(named, hash(&key[KEY_BYTES..]), Offset(u64::from_le_bytes(offset)));
        }
        Ok(((number(24), number(32)), index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_every_flipped_bit() {
        let snapshot = IndexSnapshot::new(TableId(7), PartitionBucket::unpartitioned(3), Offset(10));
        let mut index = KeyIndex::default();
        index.put(KeyHash(1 << 64 | 2), None, Offset(9));
        let bytes = snapshot.encode(TableId(7), (4, 5), &index);
        let numbers = [7, 3 << 32, 4, 5, 10, 1, 24, 2, 1, 9_u64];
        let mut golden = MAGIC.to_vec();
        golden.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        golden.extend(0xf748_f73e_u32.to_le_bytes());
        assert_eq!(bytes, golden);
        assert_eq!(snapshot.file, "7-0-3-10.keys");
        let (secret, read) = snapshot.decode(&bytes, TableId(7)).unwrap();
        assert_eq!((secret, read.iter().collect::<Vec<_>>()), ((4, 5), vec![(KeyHash(1 << 64 | 2), Offset(9))]));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(snapshot.decode(&flipped, TableId(7)).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(snapshot.decode(&bytes[..cut], TableId(7)).is_err(), "cut {cut}");
        }
        assert!(snapshot.decode(&bytes, TableId(8)).is_err(), "another table's");

        let mut index = KeyIndex::with_room(0, true);
        index.put(KeyHash(1 << 64 | 2), Some(KeyHash(6)), Offset(9));
        let bytes = snapshot.encode(TableId(7), (4, 5), &index);
        let numbers = [7, 3 << 32, 4, 5, 10, 1, 40, 2, 1, 9, 6, 0_u64];
        assert_eq!(bytes[8..bytes.len() - 4], numbers.map(u64::to_le_bytes).concat());
        let (_, read) = snapshot.decode(&bytes, TableId(7)).unwrap();
        let grouped: Vec<_> = read.iter_groups().unwrap().collect();
        assert_eq!(grouped, [(KeyHash(1 << 64 | 2), KeyHash(6), Offset(9))]);
    }
}
