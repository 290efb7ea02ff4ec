//! A resume token: where a subscription is, in a text that its client keeps.
//!
//! Base64url without padding of
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | version, 1 |
//! | varint | table id |
//! | varint | number of runs |
//! | per run: varint | partition, as distance from the run before |
//! | varint | first bucket |
//! | varint | number of buckets, each one more than the one before |
//! | per bucket: zigzag varint | next offset, as distance from the bucket before; the first from 0 |
//! | 4 | CRC-32C of all bytes before, little-endian |
//!
//! Varints are LEB128. A table of one bucket takes some 16 characters; one of 4,096 buckets some 12 KB, which is sent
//! as it is: positions kept by the server, for tokens past 4 KB, are not built yet.
//!
//! A token is good as long as its table lives, whatever happens to segments, rounds and the server. It is not a secret,
//! and not proof of anything: what it says is checked like any other input.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thermocline_schemas::{BucketId, Code, Error, Offset, PartitionBucket, PartitionId, Result, TableId};

const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;

/// The next offset of each bucket.
pub type Positions = BTreeMap<PartitionBucket, Offset>;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub table: TableId,
    pub positions: Positions,
}

pub fn encode(table: TableId, positions: &Positions) -> String {
    let mut bytes = vec![VERSION];
    put(&mut bytes, table.0);
    let runs = runs(positions);
    put(&mut bytes, runs.len() as u64);
    let mut partition = 0;
    let mut offset = 0;
    for run in runs {
        let (first, _) = run[0];
        put(&mut bytes, u64::from(first.partition.0 - partition));
        partition = first.partition.0;
        put(&mut bytes, u64::from(first.bucket.0));
        put(&mut bytes, run.len() as u64);
        for (_, next) in run {
            // Wrapping: any two offsets have a distance that leads from one to the other.
            put(&mut bytes, zigzag(next.0.wrapping_sub(offset) as i64));
            offset = next.0;
        }
    }
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn decode(text: &str) -> Result<Token> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    bytes.and_then(|bytes| parse(&bytes)).ok_or_else(|| {
        Error::new(Code::InvalidToken, "that is not a token of this server")
            .with_value(text)
            .with_hint("take the last id or token that came, unchanged; or from=earliest")
    })
}

fn parse(bytes: &[u8]) -> Option<Token> {
    let (content, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
    if crc32c::crc32c(content) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (version, mut rest) = content.split_first()?;
    if *version != VERSION {
        return None;
    }
    let table = TableId(take(&mut rest)?);
    let mut positions = Positions::new();
    let (mut partition, mut offset) = (0u32, 0u64);
    for _ in 0..take(&mut rest)? {
        partition = partition.checked_add(u32::try_from(take(&mut rest)?).ok()?)?;
        let first = u32::try_from(take(&mut rest)?).ok()?;
        // Each bucket takes a byte at least, so the loop ends with the bytes, whatever the count says.
        for place in 0..u32::try_from(take(&mut rest)?).ok()? {
            offset = offset.wrapping_add(unzigzag(take(&mut rest)?) as u64);
            let bucket = BucketId(first.checked_add(place)?);
            positions.insert(PartitionBucket { partition: PartitionId(partition), bucket }, Offset(offset));
        }
    }
    rest.is_empty().then_some(Token { table, positions })
}

/// Buckets that follow one another, together.
fn runs(positions: &Positions) -> Vec<Vec<(PartitionBucket, Offset)>> {
    let mut runs: Vec<Vec<(PartitionBucket, Offset)>> = Vec::new();
    for (bucket, offset) in positions {
        let follows = |last: &(PartitionBucket, Offset)| {
            last.0.partition == bucket.partition && last.0.bucket.0.checked_add(1) == Some(bucket.bucket.0)
        };
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(follows) => run.push((*bucket, *offset)),
            _ => runs.push(vec![(*bucket, *offset)]),
        }
    }
    runs
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn positions(pairs: &[(u32, u32, u64)]) -> Positions {
        let pair = |(partition, bucket, offset): &(u32, u32, u64)| {
            (PartitionBucket { partition: PartitionId(*partition), bucket: BucketId(*bucket) }, Offset(*offset))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn tokens_of_version_1_are_read_for_ever() {
        let golden = [
            (7, vec![(0, 0, 120), (0, 1, 98), (0, 2, 98)], GOLDEN_THREE),
            (1, vec![(0, 0, 0)], GOLDEN_ONE),
            (300, vec![(2, 5, u64::MAX), (9, 0, 1)], GOLDEN_PARTITIONS),
        ];
        for (table, pairs, text) in golden {
            let token = Token { table: TableId(table), positions: positions(&pairs) };
            assert_eq!(encode(token.table, &token.positions), text);
            assert_eq!(decode(text).unwrap(), token);
        }
    }

    const GOLDEN_THREE: &str = "AQcBAAAD8AErADShmlo";
    const GOLDEN_ONE: &str = "AQEBAAABAGfavhc";
    const GOLDEN_PARTITIONS: &str = "AawCAgIFAQEHAAEEpbEfhw";

    #[test]
    fn garbage_is_refused() {
        for garbage in ["", "AA", "not a token", "AQcBAAAD8AErAA", "%00", &"A".repeat(10_000)] {
            assert_eq!(decode(garbage).unwrap_err().code(), Code::InvalidToken, "{garbage}");
        }
    }

    #[test]
    fn many_buckets_stay_small() {
        let many: Positions =
            (0..4096).map(|bucket| (PartitionBucket::unpartitioned(bucket), Offset(1 << 30))).collect();
        assert!(encode(TableId(1), &many).len() < 6_000);
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(
            table in any::<u64>(),
            pairs in prop::collection::btree_map((0u32..3, 0u32..9), any::<u64>(), 0..20),
        ) {
            let pairs: Vec<_> = pairs.into_iter().map(|((part, bucket), offset)| (part, bucket, offset)).collect();
            let token = Token { table: TableId(table), positions: positions(&pairs) };
            prop_assert_eq!(decode(&encode(token.table, &token.positions)).unwrap(), token);
        }

        #[test]
        fn any_text_is_answered(text in "[A-Za-z0-9_-]{0,64}", bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&text);
            let mut sealed = bytes.clone();
            sealed.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
            let _ = parse(&sealed);
        }
    }
}
