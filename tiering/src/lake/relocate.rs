//! The files of a lake at another address: wherever Iceberg spells an absolute address, the new one stands.
//!
//! Addresses stand in table metadata (the location, the log of earlier versions, lists, statistics, properties that say where
//! files go), in lists (manifests), in manifests (files, the data file that a delete file is of, bounds of the addresses in it),
//! in position-delete files (each row, and the statistics) and in Puffin files of deletion vectors (the data file of each). What is
//! rewritten has another length, which the file that names it says; so deletes are rewritten first, then manifests, lists
//! and metadata. Data files hold no addresses.
//!
//! Always: all else stays to the letter: ids, sequence numbers, row ids, snapshots and their history. An object keeps its
//! path within the warehouse. An address that is not of the old warehouse is an error, except where nothing is read from it.

use std::collections::HashMap;

use bytes::Bytes;
use object_store::path::Path as StorePath;
use serde_json::Value;
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{Code, Error, Result};

use super::avro_edit::{Editor, Leaf, Replacement, edited};
use super::position_deletes::{self, PATH_FIELD};
use super::vectors;
use crate::Warehouse;

/// Iceberg's ids of the fields with addresses and lengths.
const FILE_PATH: i64 = 100;
const FILE_BYTES: i64 = 104;
const BOUND_COLUMN: [i64; 2] = [126, 129];
const BOUND_VALUE: [i64; 2] = [127, 130];
const REFERENCED_FILE: i64 = 143;
const MANIFEST_PATH: i64 = 500;
const MANIFEST_BYTES: i64 = 501;

/// From one warehouse to another. The old one is read here, to find what deletes say.
#[derive(Debug)]
pub struct Relocation {
    from: Warehouse,
    to_root: String,
    /// How long those files are by now that were rewritten.
    lengths: HashMap<StorePath, u64>,
}

impl Relocation {
    pub fn new(from: &Warehouse, to: &Warehouse) -> Relocation {
        Relocation { from: from.clone(), to_root: to.root_url().to_owned(), lengths: HashMap::new() }
    }

    /// Whether every address stays as it is.
    pub fn is_none(&self) -> bool {
        self.from.root_url() == self.to_root
    }

    fn url(&self, url: &str) -> Result<String> {
        Ok(format!("{}/{}", self.to_root, self.from.path(url)?))
    }

    /// The same where an address outside the warehouse may stand, because nothing of ours is read from it.
    fn url_if_inside(&self, url: &str) -> String {
        self.url(url).unwrap_or_else(|_| url.to_owned())
    }

    fn rewritten(&mut self, path: &StorePath, bytes: Vec<u8>) -> Bytes {
        self.lengths.insert(path.clone(), bytes.len() as u64);
        bytes.into()
    }

    /// A Puffin file of deletion vectors. These stay where they are in it, as its footer comes last.
    pub fn vectors(&mut self, path: &StorePath, bytes: &[u8]) -> Result<Bytes> {
        if faults::planted(Defect::RestoreForgetsVectors) {
            return Ok(self.rewritten(path, bytes.to_vec()));
        }
        let changed = vectors::with_footer(bytes, |footer| {
            let blobs = footer["blobs"].as_array_mut().into_iter().flatten();
            for blob in blobs {
                if let Some(Value::String(url)) = blob.pointer_mut("/properties/referenced-data-file") {
                    *url = self.url(url)?;
                }
            }
            Ok(())
        });
        let changed = changed.map_err(|error| error.while_doing(path))?;
        Ok(self.rewritten(path, changed))
    }

    /// A Parquet file of position deletes, `bytes` long.
    pub async fn position_deletes(&mut self, path: &StorePath, bytes: u64) -> Result<Bytes> {
        let deleted = position_deletes::read_all(&self.from, path, bytes).await?;
        let mut moved = Vec::with_capacity(deleted.len());
        for (data_file, positions) in deleted {
            moved.push((format!("{}/{data_file}", self.to_root), positions));
        }
        moved.sort_by(|left, right| left.0.cmp(&right.0));
        let written = position_deletes::encode_all(&moved)?;
        Ok(self.rewritten(path, written.into()))
    }

    pub fn manifest(&mut self, path: &StorePath, bytes: &[u8]) -> Result<Bytes> {
        let mut editor = ManifestEditor { relocation: self, file: None, bound_column: 0 };
        let changed = edited(bytes, &mut editor).map_err(|error| error.while_doing(path))?;
        Ok(self.rewritten(path, changed))
    }

    pub fn manifest_list(&mut self, path: &StorePath, bytes: &[u8]) -> Result<Bytes> {
        let mut editor = ListEditor { relocation: self, manifest: None };
        let changed = edited(bytes, &mut editor).map_err(|error| error.while_doing(path))?;
        Ok(self.rewritten(path, changed))
    }

    /// Table metadata. Snapshots that it names stand at their old paths, whether their files are there or not.
    pub fn metadata(&self, path: &StorePath, bytes: &[u8]) -> Result<Bytes> {
        let broken = || Error::corrupt(format!("{path} is no table metadata"));
        let mut metadata: Value = serde_json::from_slice(bytes).map_err(|error| broken().with_source(error))?;
        let location = metadata.get_mut("location").ok_or_else(broken)?;
        *location = self.url(location.as_str().ok_or_else(broken)?)?.into();
        let lists = [
            ("metadata-log", "metadata-file"),
            ("snapshots", "manifest-list"),
            ("statistics", "statistics-path"),
            ("partition-statistics", "statistics-path"),
        ];
        for (list, name) in lists {
            for entry in metadata.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(Value::String(url)) = entry.get_mut(name) {
                    *url = if name == "statistics-path" { self.url_if_inside(url) } else { self.url(url)? };
                }
            }
        }
        for (name, value) in metadata.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
            // `write.data.path` and the like.
            if let Value::String(url) = value
                && name.starts_with("write.")
                && name.ends_with(".path")
            {
                *url = self.url_if_inside(url);
            }
        }
        let changed = serde_json::to_vec(&metadata)
            .map_err(|error| Error::internal("table metadata does not serialise").with_source(error))?;
        Ok(changed.into())
    }
}

struct ManifestEditor<'r> {
    relocation: &'r Relocation,
    /// Of the entry that is being edited.
    file: Option<StorePath>,
    bound_column: i64,
}

impl Editor for ManifestEditor<'_> {
    fn begin(&mut self) {
        self.file = None;
    }

    fn look(&mut self, field: i64, value: Leaf<'_>) -> Result<()> {
        if let (FILE_PATH, Leaf::Text(url)) = (field, value) {
            self.file = Some(self.relocation.from.path(url)?);
        }
        Ok(())
    }

    fn edit(&mut self, field: i64, value: Leaf<'_>) -> Result<Option<Replacement>> {
        let text = |url: &str| Ok(Some(Replacement::Bytes(self.relocation.url(url)?.into_bytes())));
        match (field, value) {
            (FILE_PATH | REFERENCED_FILE, Leaf::Text(url)) => text(url),
            (FILE_BYTES, Leaf::Long(_)) => {
                let length = self.file.as_ref().and_then(|file| self.relocation.lengths.get(file));
                Ok(length.map(|length| Replacement::Long(*length as i64)))
            }
            (field, Leaf::Long(column)) if BOUND_COLUMN.contains(&field) => {
                self.bound_column = column;
                Ok(None)
            }
            (field, Leaf::Bytes(bound))
                if BOUND_VALUE.contains(&field) && self.bound_column == i64::from(PATH_FIELD.0) =>
            {
                // One that was cut is the address of nothing.
                let url = std::str::from_utf8(bound).ok().filter(|url| self.relocation.from.path(url).is_ok());
                let url = url.ok_or_else(|| {
                    let file = self.file.as_ref().map_or("a delete file", |file| file.as_ref());
                    Error::new(Code::LakeConflict, format!("a bound of the addresses in {file} is no address"))
                })?;
                text(url)
            }
            _ => Ok(None),
        }
    }
}

struct ListEditor<'r> {
    relocation: &'r Relocation,
    manifest: Option<StorePath>,
}

impl Editor for ListEditor<'_> {
    fn begin(&mut self) {
        self.manifest = None;
    }

    fn look(&mut self, field: i64, value: Leaf<'_>) -> Result<()> {
        if let (MANIFEST_PATH, Leaf::Text(url)) = (field, value) {
            self.manifest = Some(self.relocation.from.path(url)?);
        }
        Ok(())
    }

    fn edit(&mut self, field: i64, value: Leaf<'_>) -> Result<Option<Replacement>> {
        Ok(match (field, value) {
            (MANIFEST_PATH, Leaf::Text(url)) => Some(Replacement::Bytes(self.relocation.url(url)?.into_bytes())),
            (MANIFEST_BYTES, Leaf::Long(_)) => {
                let length = self.manifest.as_ref().and_then(|manifest| self.relocation.lengths.get(manifest));
                length.map(|length| Replacement::Long(*length as i64))
            }
            _ => None,
        })
    }
}
