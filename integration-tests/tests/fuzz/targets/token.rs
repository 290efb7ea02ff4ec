//! Resume tokens, as they come and with the right checksum. What decodes encodes to a token that says the same.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thermocline_schemas::{BucketId, Offset, PartitionBucket, PartitionId, TableId};
use thermocline_tiering::token_format::{Positions, decode, encode};

use crate::driver::{Outcome, Target};

/// Inputs are tokens without their checksum, before Base64.
pub struct ResumeToken;

impl Target for ResumeToken {
    fn seeds(&self) -> Vec<(String, Vec<u8>)> {
        let seed = |name: &str, positions: &[(u32, u32, u64)]| {
            let place = |(partition, bucket, offset): &(u32, u32, u64)| {
                (PartitionBucket { partition: PartitionId(*partition), bucket: BucketId(*bucket) }, Offset(*offset))
            };
            let positions: Positions = positions.iter().map(place).collect();
            let mut bytes = URL_SAFE_NO_PAD.decode(encode(TableId(7), &positions)).expect("our own token");
            bytes.truncate(bytes.len() - 4);
            (name.to_owned(), bytes)
        };
        vec![
            seed("one", &[(0, 0, 120)]),
            seed("three", &[(0, 0, 120), (0, 1, 98), (0, 2, 98)]),
            seed("partitions", &[(2, 5, u64::MAX), (9, 0, 1), (9, 7, 0)]),
        ]
    }

    fn memory(&self) -> (usize, usize) {
        (200, 64 << 10)
    }

    fn run(&mut self, input: &[u8]) -> Result<Outcome, String> {
        // As a text that nobody sealed.
        if let Ok(token) = decode(&String::from_utf8_lossy(input)) {
            return Err(format!("an unsealed text is a token: {token:?}"));
        }
        let mut sealed = input.to_vec();
        sealed.extend_from_slice(&crc32c::crc32c(input).to_le_bytes());
        let token = match decode(&URL_SAFE_NO_PAD.encode(&sealed)) {
            Ok(token) => token,
            Err(error) => return Outcome::refused(&error),
        };
        let again =
            decode(&encode(token.table, &token.positions)).map_err(|error| format!("no way back: {error:?}"))?;
        if again != token {
            return Err(format!("{token:?} became {again:?}"));
        }
        Ok(Outcome::Taken(format!("{} buckets", token.positions.len().min(20))))
    }

    fn run_flipped(&mut self, whole: &[u8], flipped: &[u8]) -> Result<Outcome, String> {
        let mut token = flipped.to_vec();
        token.extend_from_slice(&crc32c::crc32c(whole).to_le_bytes());
        match decode(&URL_SAFE_NO_PAD.encode(&token)) {
            Ok(token) => Err(format!("a flipped bit passed: {token:?}")),
            Err(_) => self.run(flipped),
        }
    }
}
