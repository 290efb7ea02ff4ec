//! Offsets of buckets as people write them.

use std::collections::BTreeMap;

use thermocline_schemas::{Code, Error, Offset, PartitionBucket, Result};

/// Offsets as people write them: `0=120,1=98`.
pub fn parse_offsets(text: &str) -> Result<BTreeMap<PartitionBucket, Offset>> {
    let refused = |part: &str| {
        Error::new(Code::InvalidOffset, "offsets are bucket=offset, separated by commas")
            .with_value(part)
            .with_hint("as offsets:0=120,1=98")
    };
    let mut offsets = BTreeMap::new();
    for part in text.split(',') {
        let parsed = part.split_once('=').and_then(|(bucket, offset)| {
            Some((bucket.trim().parse::<u32>().ok()?, offset.trim().parse::<u64>().ok()?))
        });
        let (bucket, offset) = parsed.ok_or_else(|| refused(part))?;
        if offsets.insert(PartitionBucket::unpartitioned(bucket), Offset(offset)).is_some() {
            return Err(refused(part));
        }
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_offsets() {
        let parsed = parse_offsets("0=120,1=98").unwrap();
        assert_eq!(parsed[&PartitionBucket::unpartitioned(1)], Offset(98));
        for bad in ["", "0", "0=-1", "0=1,0=2", "a=1", "0=18446744073709551616", "0=1,"] {
            assert_eq!(parse_offsets(bad).unwrap_err().code(), Code::InvalidOffset, "{bad}");
        }
    }
}
