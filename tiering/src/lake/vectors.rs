//! Deletion vectors, the deletes of format version 3: one Puffin file a commit, in it one blob for each data file.
//!
//! A blob (`deletion-vector-v1`) is the length of what is between it and the checksum, a magic number, the positions as a
//! 64-bit Roaring bitmap in its portable layout, and the CRC-32 of magic number and bitmap. Length and checksum are
//! big-endian, the bitmap is little-endian. Readers find a blob by what the manifest says, not by the Puffin footer; both
//! say the same.

use std::collections::HashMap;

use bytes::Bytes;
use iceberg::io::FileIO;
use iceberg::puffin::{Blob, CREATED_BY_PROPERTY, CompressionCodec, DELETION_VECTOR_V1, PuffinReader, PuffinWriter};
use object_store::ObjectStoreExt;
use object_store::path::Path as StorePath;
use roaring::RoaringTreemap;
use thermocline_schemas::{Error, Result};

use super::read::store_cannot_read;
use crate::Warehouse;

const MAGIC: [u8; 4] = [0xd1, 0xd3, 0x39, 0x64];
/// Iceberg's id of the column that numbers the rows of a file.
const POSITION_FIELD: i32 = i32::MAX - 2;
/// What comes before the bitmap, and what comes after it.
const FRAME: usize = 4 + MAGIC.len() + 4;

/// A blob in a Puffin file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlobPlace {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The positions that a blob says are deleted.
pub(super) async fn read_vector(warehouse: &Warehouse, path: &StorePath, place: BlobPlace) -> Result<RoaringTreemap> {
    let range = place.offset..place.offset.saturating_add(place.length);
    let url = warehouse.url(path);
    let read = warehouse.store().get_range(path, range).await;
    let bytes = read.map_err(|error| store_cannot_read(&url, error))?;
    if bytes.len() as u64 != place.length {
        let (found, said) = (bytes.len(), place.length);
        return Err(Error::corrupt(format!("{url} was answered with {found} of {said} bytes at {}", place.offset)));
    }
    decode(&bytes).map_err(|error| error.while_doing(format!("read the deletion vector at {} of {url}", place.offset)))
}

/// A Puffin file at `url` with a blob for each data file, and where each blob is.
pub(super) async fn puffin(url: &str, vectors: Vec<(String, RoaringTreemap)>) -> Result<(Bytes, Vec<BlobPlace>)> {
    let written = write_puffin(url, vectors).await;
    written.map_err(|error| Error::internal("a Puffin file of deletion vectors").with_source(error))
}

async fn write_puffin(url: &str, vectors: Vec<(String, RoaringTreemap)>) -> iceberg::Result<(Bytes, Vec<BlobPlace>)> {
    let memory = FileIO::new_with_memory();
    let creator = concat!("thermocline version ", env!("CARGO_PKG_VERSION")).to_owned();
    let properties = HashMap::from([(CREATED_BY_PROPERTY.to_owned(), creator)]);
    let mut writer = PuffinWriter::new(&memory.new_output(url)?, properties, false).await?;
    for (data_file, positions) in vectors {
        let properties = HashMap::from([
            ("referenced-data-file".to_owned(), data_file),
            ("cardinality".to_owned(), positions.len().to_string()),
        ]);
        // -1: both are the commit's, which the blob does not know.
        let blob = Blob::builder()
            .r#type(DELETION_VECTOR_V1.to_owned())
            .fields(vec![POSITION_FIELD])
            .snapshot_id(-1)
            .sequence_number(-1)
            .data(encode(&positions))
            .properties(properties)
            .build();
        writer.add(blob, CompressionCodec::None).await?;
    }
    writer.close().await?;
    let reader = PuffinReader::new(memory.new_input(url)?);
    let blobs = reader.file_metadata().await?.blobs().iter();
    let places = blobs.map(|blob| BlobPlace { offset: blob.offset(), length: blob.length() }).collect();
    Ok((memory.new_input(url)?.read().await?, places))
}

fn encode(positions: &RoaringTreemap) -> Vec<u8> {
    let inner = MAGIC.len() + positions.serialized_size();
    let mut bytes = Vec::with_capacity(FRAME + positions.serialized_size());
    bytes.extend((inner as u32).to_be_bytes());
    bytes.extend(MAGIC);
    // Writing to memory cannot fail.
    let _ = positions.serialize_into(&mut bytes);
    bytes.extend(crc32fast::hash(&bytes[4..]).to_be_bytes());
    bytes
}

/// The positions in a blob.
pub(super) fn decode(bytes: &[u8]) -> Result<RoaringTreemap> {
    let be = |bytes: &[u8]| bytes.try_into().map(u32::from_be_bytes).unwrap_or_default();
    if bytes.len() < FRAME || be(&bytes[..4]) as usize != bytes.len() - 8 || bytes[4..8] != MAGIC {
        return Err(Error::corrupt("no deletion vector"));
    }
    let (inner, sum) = bytes[4..].split_at(bytes.len() - 8);
    if crc32fast::hash(inner) != be(sum) {
        return Err(Error::corrupt("a deletion vector does not have its checksum"));
    }
    let mut bitmap = &inner[MAGIC.len()..];
    let positions = RoaringTreemap::deserialize_from(&mut bitmap);
    let positions = positions.map_err(|error| Error::corrupt("no bitmap in a deletion vector").with_source(error))?;
    if !bitmap.is_empty() {
        return Err(Error::corrupt(format!("{} bytes after the bitmap of a deletion vector", bitmap.len())));
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the specification, byte by byte: an array container, one past 2^32, and a run.
    #[test]
    fn a_blob_is_laid_out_as_specified() {
        let positions: RoaringTreemap = [1, 5, (1 << 32) + 7].into_iter().collect();
        let bitmap: &[&[u8]] = &[
            &[2, 0, 0, 0, 0, 0, 0, 0],       // two 32-bit bitmaps
            &[0, 0, 0, 0],                   // the first: high bits 0
            &[0x3a, 0x30, 0, 0, 1, 0, 0, 0], // no runs, one container
            &[0, 0, 1, 0],                   // its key, its cardinality less one
            &[16, 0, 0, 0],                  // where it starts
            &[1, 0, 5, 0],                   // its values
            &[1, 0, 0, 0],                   // the second: high bits 1
            &[0x3a, 0x30, 0, 0, 1, 0, 0, 0],
            &[0, 0, 0, 0],
            &[16, 0, 0, 0],
            &[7, 0],
        ];
        let inner = [&MAGIC[..], &bitmap.concat()].concat();
        let expected =
            [&(inner.len() as u32).to_be_bytes()[..], &inner, &crc32_bit_by_bit(&inner).to_be_bytes()].concat();
        assert_eq!(encode(&positions), expected);
        assert_eq!(decode(&expected).unwrap(), positions);

        let mut run: RoaringTreemap = (10..5_000).collect();
        run.optimize();
        let bitmap: &[&[u8]] = &[
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0],
            &[0x3b, 0x30, 0, 0],        // with runs, one container
            &[1],                       // which is one of runs
            &[0, 0, 0x7d, 0x13],        // key 0, 4,990 values
            &[1, 0, 10, 0, 0x7d, 0x13], // one run, from 10, 4,990 long
        ];
        let inner = [&MAGIC[..], &bitmap.concat()].concat();
        let expected =
            [&(inner.len() as u32).to_be_bytes()[..], &inner, &crc32_bit_by_bit(&inner).to_be_bytes()].concat();
        assert_eq!(encode(&run), expected);
        assert_eq!(decode(&expected).unwrap(), run);
    }

    /// Another way to the same checksum.
    fn crc32_bit_by_bit(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn any_other_bit_is_noticed() {
        let good = encode(&[1, 5, 70_000, (1 << 32) + 7].into_iter().collect());
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(decode(&bad).is_err(), "byte {at}, bit {bit}");
            }
            assert!(decode(&good[..at]).is_err(), "cut at {at}");
        }
        // With a checksum that fits, the rest is still looked at.
        for inner in [
            &[][..],
            &MAGIC,
            &[&MAGIC[..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat(),
            &[&good[4..good.len() - 4], &[0]].concat(),
        ] {
            let bad = [&(inner.len() as u32).to_be_bytes()[..], inner, &crc32fast::hash(inner).to_be_bytes()].concat();
            assert!(decode(&bad).is_err(), "{inner:?}");
        }
    }

    #[tokio::test]
    async fn a_puffin_file_says_where_its_blobs_are() {
        let vectors = vec![
            ("s3://bucket/a".to_owned(), [3, 4].into_iter().collect()),
            ("s3://bucket/b".to_owned(), (0..100_000).step_by(3).collect::<RoaringTreemap>()),
        ];
        let (bytes, places) = puffin("memory:/x.puffin", vectors.clone()).await.unwrap();
        assert_eq!(places.len(), 2);
        assert_eq!(places[0].offset, 4, "after the magic number");
        assert_eq!(places[1].offset, places[0].offset + places[0].length);
        for ((_, positions), place) in vectors.iter().zip(&places) {
            let blob = &bytes[place.offset as usize..(place.offset + place.length) as usize];
            assert_eq!(decode(blob).unwrap(), *positions);
        }
        let text = String::from_utf8_lossy(&bytes);
        for part in [r#""type":"deletion-vector-v1""#, r#""fields":[2147483645]"#, r#""cardinality":"33334""#] {
            assert!(text.contains(part), "{part}");
        }
        assert!(!text.contains("compression-codec"));
    }
}
