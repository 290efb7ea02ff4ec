//! Deletion vectors, the deletes of format version 3: one Puffin file a commit, in it one blob for each data file.
//!
//! A blob (`deletion-vector-v1`) is the length of what is between it and the checksum, a magic number, the positions as
//! a 64-bit Roaring bitmap in its portable layout, and the CRC-32 of magic number and bitmap. Length and checksum are
//! big-endian, the bitmap is little-endian. Readers find a blob by what the manifest says, not by the Puffin footer;
//! both say the same.
//!
//! Shorter blobs come first, and two of one length have a byte between them. So the blobs between any two places are
//! always longer together than the blob before them, which is what DuckDB needs (seen in 1.5.5): of a file whose end it
//! knows it reads a blob and, if that is not more than the blob itself, what lies between it and the next part that it
//! has read before. Asked for a blob in between, it then takes the first one for it, and hides the wrong rows.

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path as StorePath;
use roaring::RoaringTreemap;
use serde_json::{Value, json};
use thermocline_schemas::{Error, Result};

use super::read::store_cannot_read;
use crate::Warehouse;

const PUFFIN_MAGIC: [u8; 4] = *b"PFA1";
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

/// A Puffin file with a blob for each data file, and where each blob is, in the order given.
pub(super) fn puffin(vectors: &[(String, RoaringTreemap)]) -> Result<(Bytes, Vec<BlobPlace>)> {
    let blobs: Vec<Vec<u8>> = vectors.iter().map(|(_, positions)| encode(positions)).collect();
    let mut order: Vec<usize> = (0..blobs.len()).collect();
    order.sort_by_key(|place| blobs[*place].len());
    let mut bytes = PUFFIN_MAGIC.to_vec();
    let mut places = vec![BlobPlace { offset: 0, length: 0 }; blobs.len()];
    let mut described = Vec::with_capacity(blobs.len());
    let mut before = 0;
    for place in order {
        let (data_file, positions) = &vectors[place];
        let length = blobs[place].len();
        if length == before {
            bytes.push(0);
        }
        before = length;
        places[place] = BlobPlace { offset: bytes.len() as u64, length: length as u64 };
        described.push(json!({
            "type": "deletion-vector-v1",
            "fields": [POSITION_FIELD],
            // Both are the commit's, which the blob does not know.
            "snapshot-id": -1,
            "sequence-number": -1,
            "offset": bytes.len(),
            "length": length,
            "properties": {"referenced-data-file": data_file, "cardinality": positions.len().to_string()},
        }));
        bytes.extend(&blobs[place]);
    }
    let creator = concat!("thermocline version ", env!("CARGO_PKG_VERSION"));
    let footer = json!({"blobs": described, "properties": {"created-by": creator}}).to_string();
    let length = u32::try_from(footer.len()).map_err(|_| Error::internal("a Puffin file of too many vectors"))?;
    bytes.extend(PUFFIN_MAGIC);
    bytes.extend(footer.as_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend([0; 4]); // no flags: the footer is not compressed
    bytes.extend(PUFFIN_MAGIC);
    Ok((bytes.into(), places))
}

/// A Puffin file with another footer; its blobs are the same, at the same places.
pub(super) fn with_footer(bytes: &[u8], change: impl FnOnce(&mut Value) -> Result<()>) -> Result<Vec<u8>> {
    // What follows the footer's text: its length, flags, the magic number.
    const TRAILER: usize = 12;
    let broken = |what: &str| Error::corrupt(format!("no Puffin file of ours: {what}"));
    let (before, trailer) = bytes.split_last_chunk::<TRAILER>().ok_or_else(|| broken("too short"))?;
    if trailer[8..] != PUFFIN_MAGIC || trailer[4..8] != [0; 4] {
        return Err(broken("another end, or a footer that is compressed"));
    }
    let length = u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]) as usize;
    let start = before.len().checked_sub(length).filter(|start| before[..*start].ends_with(&PUFFIN_MAGIC));
    let start = start.ok_or_else(|| broken("its footer is not where it says"))?;
    let mut footer =
        serde_json::from_slice(&before[start..]).map_err(|error| broken("its footer").with_source(error))?;
    change(&mut footer)?;
    let text = footer.to_string();
    let length = u32::try_from(text.len()).map_err(|_| Error::internal("a Puffin file of too many vectors"))?;
    Ok([&before[..start], text.as_bytes(), &length.to_le_bytes(), &[0; 4], &PUFFIN_MAGIC].concat())
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
    use iceberg::io::FileIO;
    use iceberg::puffin::{CompressionCodec, PuffinReader};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

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

    /// As Iceberg's own reader finds it.
    #[tokio::test]
    async fn a_puffin_file_says_where_its_blobs_are() {
        let vectors = [
            ("s3://bucket/a".to_owned(), (0..100_000).step_by(3).collect::<RoaringTreemap>()),
            ("s3://bucket/b".to_owned(), [3, 4].into_iter().collect()),
            ("s3://bucket/c".to_owned(), [5, 9].into_iter().collect()),
            ("s3://bucket/d".to_owned(), [7].into_iter().collect()),
        ];
        let (bytes, places) = puffin(&vectors).unwrap();
        assert_eq!(places.iter().map(|place| place.offset).collect::<Vec<_>>(), [4 + 42 + 44 + 1 + 44, 46, 91, 4]);
        for ((_, positions), place) in vectors.iter().zip(&places) {
            let blob = &bytes[place.offset as usize..(place.offset + place.length) as usize];
            assert_eq!(decode(blob).unwrap(), *positions);
        }
        let input = FileIO::new_with_memory().new_output("memory:/x.puffin").unwrap();
        input.write(bytes.clone()).await.unwrap();
        let reader = PuffinReader::new(input.to_input_file());
        let metadata = reader.file_metadata().await.unwrap();
        assert_eq!(metadata.blobs().len(), 4);
        for blob in metadata.blobs() {
            let place = BlobPlace { offset: blob.offset(), length: blob.length() };
            let (data_file, positions) = &vectors[places.iter().position(|other| *other == place).unwrap()];
            assert_eq!((blob.blob_type(), blob.fields()), ("deletion-vector-v1", &[2_147_483_645][..]));
            assert_eq!((blob.snapshot_id(), blob.sequence_number()), (-1, -1));
            assert_eq!(blob.properties()["referenced-data-file"], *data_file);
            assert_eq!(blob.properties()["cardinality"], positions.len().to_string());
            assert_eq!(blob.compression_codec(), CompressionCodec::None);
            assert_eq!(decode(reader.blob(blob).await.unwrap().data()).unwrap(), *positions);
        }
    }

    /// Whatever was read before, reading a blob and what lies up to the next known part never brings in another blob,
    /// if only as many bytes are brought in as the blob has.
    #[test]
    fn between_a_blob_and_a_later_one_lies_more_than_the_blob() {
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..200 {
            let many = random.random_range(1..12);
            let vectors: Vec<(String, RoaringTreemap)> = (0..many)
                .map(|number| {
                    let rows = 1 << random.random_range(0..9);
                    (format!("file {number}"), (0..random.random_range(1..=rows)).map(|row| row * 3).collect())
                })
                .collect();
            let (bytes, mut places) = puffin(&vectors).unwrap();
            places.sort_by_key(|place| place.offset);
            let end = |place: &BlobPlace| place.offset + place.length;
            for (at, place) in places.iter().enumerate() {
                let later = places.iter().skip(at + 2).map(|later| later.offset);
                let trailer = (at + 1 < places.len()).then_some(bytes.len() as u64 - 12);
                for next in later.chain(trailer) {
                    assert!(next - end(place) > place.length, "{places:?}");
                }
            }
        }
    }
}
