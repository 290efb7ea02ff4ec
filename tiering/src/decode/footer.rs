//! Looks at the footer before the decoder builds anything from it.
//!
//! The decoder builds the schema by recursion, so a footer of a few megabytes that nests deep enough ends the process: a
//! stack overflow is no panic. So a schema that nests deeper than any table's is refused here, by walking over it.

use bytes::Bytes;
use thermocline_schemas::{Code, Error, Result};

use super::thrift::{BINARY, Cursor, I32, LIST, STRUCT};
use super::{DecodeLimits, broken, too_large};

const MAGIC: &[u8] = b"PAR1";
/// Magic at the front; length and magic at the end.
const FRAME_BYTES: usize = 12;
/// Of encoded metadata. In memory it takes some ten times as much.
const FOOTER_BYTES_MAX: usize = 16 << 20;

/// Of groups inside groups. A list or a map takes two, and the types of tables nest eight deep.
const DEPTH_MAX: usize = 24;

const SCHEMA: i16 = 2;
const ELEMENT_NAME: i16 = 4;
const ELEMENT_CHILDREN: i16 = 5;

pub(super) fn check(bytes: &Bytes, limits: &DecodeLimits) -> Result<()> {
    if bytes.len() < FRAME_BYTES || !bytes.starts_with(MAGIC) {
        return Err(broken("it is none, it does not start and end as Parquet does"));
    }
    let (front, tail) = bytes.split_at(bytes.len() - 8);
    let (length, magic) = tail.split_at(4);
    if magic == b"PARE" {
        return Err(Error::not_built("encrypted Parquet"));
    }
    if magic != MAGIC {
        return Err(broken("it does not end as Parquet does, is it whole?"));
    }
    let length = length.iter().rev().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
    if length > front.len() - MAGIC.len() {
        return Err(broken("its footer is longer than the file"));
    }
    if length > FOOTER_BYTES_MAX {
        return Err(too_large(format!("a footer of {length} bytes is more than {FOOTER_BYTES_MAX}")));
    }
    check_schema(&front[front.len() - length..], limits)
}

/// The schema is a list in depth-first order: a root with all the others as its children, and those without any.
fn check_schema(footer: &[u8], limits: &DecodeLimits) -> Result<()> {
    let mut refusal = None;
    let mut elements = None;
    // Columns that hold values.
    let mut leaves = 0u64;
    // The children that are still to come, of each group that is open.
    let mut open: Vec<u64> = Vec::new();
    let walked = Cursor::new(footer).structure(|cursor, id, kind| {
        if (id, kind) != (SCHEMA, LIST) || refusal.is_some() {
            return Some(false);
        }
        let (length, element) = cursor.list()?;
        elements = Some(length);
        if element != STRUCT {
            return None;
        }
        for place in 0..length {
            let (mut name, mut children) = (&b""[..], 0);
            cursor.structure(|cursor, id, kind| {
                match (id, kind) {
                    (ELEMENT_NAME, BINARY) => name = cursor.binary()?,
                    (ELEMENT_CHILDREN, I32) => children = cursor.i32()?,
                    _ => return Some(false),
                }
                Some(true)
            })?;
            while open.last() == Some(&0) {
                open.pop();
            }
            match open.last_mut() {
                Some(left) => *left -= 1,
                None if place > 0 => return None,
                None => {}
            }
            match children {
                0 => leaves += 1,
                _ => open.push(u64::try_from(children).ok()?),
            }
            if open.len() > DEPTH_MAX {
                let name = String::from_utf8_lossy(name).into_owned();
                let message = format!("a column nests more than {DEPTH_MAX} groups deep");
                refusal = Some(Error::new(Code::InvalidType, message).with_column(name));
                return None;
            }
        }
        Some(true)
    });
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    let columns = elements.filter(|_| walked.is_some()).and_then(|elements| elements.checked_sub(1));
    match columns {
        None => Err(broken("its footer cannot be read")),
        Some(0) => Err(broken("it has no columns")),
        Some(_) if leaves > limits.columns_max as u64 => {
            Err(too_large(format!("{leaves} columns are more than {}", limits.columns_max)))
        }
        Some(elements) if elements > leaves.saturating_mul(1 + DEPTH_MAX as u64) => {
            Err(broken("its schema has groups of nothing"))
        }
        Some(_) => Ok(()),
    }
}
