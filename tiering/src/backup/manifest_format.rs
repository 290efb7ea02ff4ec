//! What a backup holds: the file `backup`, which is written last. A directory without it is none.
//!
//! Lines: `TCBK1`; what the backup is, as JSON ([`Header`]); of each file what it is, as JSON ([`BackedUpFile`]); and last
//! `end <files> <CRC32C of all before, hex>`. So every bit is under a checksum: those of the files here, and these by the last
//! line.

use std::fmt::Write;

use object_store::path::Path as StorePath;
use serde::{Deserialize, Serialize};
use thermocline_schemas::{Error, Result};

use crate::lake::ObjectKind;

const MAGIC: &str = "TCBK1";

/// What a backup is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Which version of us made it.
    pub made_by: String,
    /// When, in microseconds since 1970: every row that was acked before is in it.
    pub made_at: i64,
    /// The journal's position: no row that was journalled later is in it.
    pub position: u64,
    /// The address of the warehouse, with which every address in the lake begins.
    pub warehouse: String,
    pub tables: Vec<BackedUpTable>,
}

/// A table in a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackedUpTable {
    pub name: String,
    pub id: u64,
    /// Rows, or changes, that are hot.
    pub hot_rows: u64,
    /// Those of them that are not in the lake.
    pub untiered_rows: u64,
    /// Buckets of which nothing was served, because of rot; they are as they were.
    #[serde(default, skip_serializing_if = "is_none")]
    pub refused_buckets: usize,
    /// None before its first round, or without a lake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lake: Option<BackedUpLake>,
}

/// Its lake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackedUpLake {
    /// The table's directory in the warehouse.
    pub root: String,
    /// N of `v<N>.metadata.json`.
    pub version: u64,
    pub snapshots: usize,
}

/// A file, by its path in the backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackedUpFile {
    pub path: String,
    pub bytes: u64,
    pub crc32c: u32,
    /// Of an object of a lake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ObjectKind>,
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

pub fn encode(header: &Header, files: &[BackedUpFile]) -> Result<Vec<u8>> {
    let fault = |error| Error::internal("what a backup holds does not serialise").with_source(error);
    let mut text = format!("{MAGIC}\n{}\n", serde_json::to_string(header).map_err(fault)?);
    for file in files {
        text.push_str(&serde_json::to_string(file).map_err(fault)?);
        text.push('\n');
    }
    let crc = crc32c::crc32c(text.as_bytes());
    // Writing to memory cannot fail.
    let _ = writeln!(text, "end {} {crc:08x}", files.len());
    Ok(text.into_bytes())
}

pub fn decode(bytes: &[u8]) -> Result<(Header, Vec<BackedUpFile>)> {
    let broken = |what: &str| Error::corrupt(format!("the file that says what the backup holds {what}"));
    let text = std::str::from_utf8(bytes).map_err(|_| broken("is no text"))?;
    let content = text.strip_suffix('\n').and_then(|text| text.rfind('\n')).map(|at| &text[..at + 1]);
    let content = content.ok_or_else(|| broken("is cut"))?;
    let mut lines = content.lines();
    let magic = lines.next();
    let count = lines.clone().count().saturating_sub(1);
    if text[content.len()..] != format!("end {count} {:08x}\n", crc32c::crc32c(content.as_bytes())) {
        return Err(broken("does not have its checksum"));
    }
    if magic != Some(MAGIC) {
        return Err(
            broken("is of another version").with_hint("restore it with the version that made it, or a later one")
        );
    }
    let newer = |error| broken("is of a newer version").with_source(error);
    let header: Header = serde_json::from_str(lines.next().unwrap_or_default()).map_err(newer)?;
    let files = lines.map(|line| serde_json::from_str(line).map_err(newer)).collect::<Result<Vec<BackedUpFile>>>()?;
    for file in &files {
        // Paths lead to places within the backup, and so do those that are made of them.
        let plain = StorePath::parse(&file.path).is_ok_and(|path| path.as_ref() == file.path);
        if !plain || !file.path.contains('/') {
            return Err(broken("names a file that cannot be in it").with_value(file.path.as_str()));
        }
    }
    Ok((header, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_every_flipped_bit() {
        let lake = BackedUpLake { root: "public/t".into(), version: 3, snapshots: 2 };
        let table = BackedUpTable {
            name: "public.t".into(),
            id: 1,
            hot_rows: 5,
            untiered_rows: 2,
            refused_buckets: 0,
            lake: Some(lake),
        };
        let header = Header {
            made_by: "0.1.0".into(),
            made_at: 7,
            position: 640,
            warehouse: "file:///w".into(),
            tables: vec![table],
        };
        let files = [
            BackedUpFile { path: "data/checkpoint".into(), bytes: 9, crc32c: 1, kind: None },
            BackedUpFile {
                path: "warehouse/public/t/metadata/v3.metadata.json".into(),
                bytes: 8,
                crc32c: 2,
                kind: Some(ObjectKind::Metadata),
            },
        ];
        let bytes = encode(&header, &files).unwrap();
        let golden = r#"TCBK1
{"made_by":"0.1.0","made_at":7,"position":640,"warehouse":"file:///w","tables":[{"name":"public.t","id":1,"hot_rows":5,"untiered_rows":2,"lake":{"root":"public/t","version":3,"snapshots":2}}]}
{"path":"data/checkpoint","bytes":9,"crc32c":1}
{"path":"warehouse/public/t/metadata/v3.metadata.json","bytes":8,"crc32c":2,"kind":"metadata"}
"#;
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            format!("{golden}end 2 {:08x}\n", crc32c::crc32c(golden.as_bytes()))
        );
        assert_eq!(decode(&bytes).unwrap(), (header.clone(), files.to_vec()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut {cut}");
        }
        for path in ["data/../../etc/passwd", "/data/x", "backup", "data//x"] {
            let file = BackedUpFile { path: path.into(), bytes: 1, crc32c: 1, kind: None };
            assert!(decode(&encode(&header, &[file]).unwrap()).is_err(), "{path}");
        }
    }
}
