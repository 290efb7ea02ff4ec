//! Who sent a data frame: the frame's extra.
//!
//! Empty when nothing is to be kept. Else, little endian: name length u8, writer's name, and if it is not empty sequence
//! u64, digest 16 bytes, rows u64, ignored u64, rejected u64; then tag length u8, tag. The rest of the answer stands in the parts.

use thermocline_schemas::{Error, Result};

use crate::writers::{Digest, WriterSequence};

/// What a frame keeps of the request behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    pub writer: Option<(WriterSequence, Digest)>,
    /// How many rows the writer is told were applied: not always as many as the frame holds.
    pub rows: u64,
    pub ignored: u64,
    pub rejected: u64,
    /// The writer's own mark on these rows, to find them again.
    pub tag: String,
}

impl Source {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.writer.is_none() && self.tag.is_empty() {
            return bytes;
        }
        match &self.writer {
            None => bytes.push(0),
            Some((from, digest)) => {
                bytes.push(from.writer.len() as u8);
                bytes.extend(from.writer.as_bytes());
                bytes.extend(from.sequence.to_le_bytes());
                bytes.extend(digest);
                bytes.extend(self.rows.to_le_bytes());
                bytes.extend(self.ignored.to_le_bytes());
                bytes.extend(self.rejected.to_le_bytes());
            }
        }
        bytes.push(self.tag.len() as u8);
        bytes.extend(self.tag.as_bytes());
        bytes
    }

    pub fn decode(extra: &[u8]) -> Result<Source> {
        if extra.is_empty() {
            return Ok(Source::default());
        }
        read(extra).ok_or_else(|| Error::corrupt("a data frame whose source does not parse"))
    }
}

fn read(mut bytes: &[u8]) -> Option<Source> {
    let mut source = Source::default();
    let length = usize::from(*bytes.split_off_first()?);
    if length > 0 {
        let writer = str::from_utf8(bytes.split_off(..length)?).ok()?;
        let sequence = number(&mut bytes)?;
        let digest = bytes.split_off(..16)?.try_into().ok()?;
        source.writer = Some((WriterSequence::new(writer, sequence).ok()?, digest));
        source.rows = number(&mut bytes)?;
        source.ignored = number(&mut bytes)?;
        source.rejected = number(&mut bytes)?;
    }
    let length = usize::from(*bytes.split_off_first()?);
    source.tag = str::from_utf8(bytes.split_off(..length)?).ok()?.to_owned();
    bytes.is_empty().then_some(source)
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.split_off(..8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_come_back_and_bytes_stay() {
        let writer = Some((WriterSequence::new("ab", 7).unwrap(), [9; 16]));
        let source = Source { writer, rows: 3, ignored: 1, rejected: 2, tag: "t".to_owned() };
        let golden = [
            b"\x02ab".as_slice(),
            &[7, 0, 0, 0, 0, 0, 0, 0],
            &[9; 16],
            &[3, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &[2, 0, 0, 0, 0, 0, 0, 0],
            b"\x01t",
        ]
        .concat();
        assert_eq!(source.encode(), golden);
        let others = [Source::default(), Source { tag: "only".to_owned(), ..Source::default() }, source];
        for source in others {
            let bytes = source.encode();
            assert_eq!(Source::decode(&bytes).unwrap(), source);
            for cut in 1..bytes.len() {
                assert!(Source::decode(&bytes[..cut]).is_err(), "{cut}");
            }
        }
    }
}
