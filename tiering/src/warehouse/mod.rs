//! Where lakes live: a directory of ours, or a prefix in a bucket, seen as one object store.
//!
//! Always: paths given to [`Warehouse::store`] are relative to the warehouse's root, and `root_url() + "/" + path` is the
//! absolute address of the same object, as Iceberg metadata spells it. URLs are plain text, never percent-encoded, because
//! that is how the other engines read them. Whatever a store answered `Ok` for is durable.
//!
//! Not here: what the objects mean (`lake`).

mod directories;
mod disk_store;
mod errors;
mod s3;
mod sums;
#[cfg(test)]
mod tests;
mod upload;

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as StorePath;
use thermocline_engine::disk::{Disk, ReadOnlyDisk, RealDisk};
use thermocline_schemas::{Code, Error, Result};

pub use disk_store::DiskStore;
pub(crate) use errors::store_error;

/// The store of all lake tables, and its address.
#[derive(Clone)]
pub struct Warehouse {
    store: Arc<dyn ObjectStore>,
    root_url: String,
}

impl Warehouse {
    /// A plain path or `file:///…` is a directory on `disk`; `s3://bucket/prefix` is a bucket, with credentials and
    /// endpoint from the usual `AWS_…` variables.
    pub fn open(url_or_path: &str, disk: Arc<dyn Disk>) -> Result<Warehouse> {
        if let Some(address) = url_or_path.strip_prefix("s3://") {
            let (root_url, store) = s3::open(address)?;
            return Ok(Warehouse { store, root_url });
        }
        match url_or_path.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => Warehouse::local(disk, Path::new(path)),
            Some(_) => Err(Error::new(Code::InvalidRequest, "a warehouse is a directory, file:///… or s3://…")
                .with_value(url_or_path)),
            None => Warehouse::local(disk, Path::new(url_or_path)),
        }
    }

    /// A directory, made if it is not there. What an earlier process staged and never finished is removed.
    pub fn local(disk: Arc<dyn Disk>, directory: &Path) -> Result<Warehouse> {
        let root = absolute(directory)?;
        let text = root.to_str().filter(|text| !text.contains(['?', '#']));
        let Some(text) = text else {
            // Engines that take the address for a URL would cut it at these characters.
            return Err(Error::new(Code::InvalidRequest, "a warehouse path must be UTF-8 without ? and #")
                .with_value(root.to_string_lossy()));
        };
        let root_url = format!("file://{}", text.trim_end_matches('/'));
        let store = DiskStore::open(disk, &root).map_err(|error| {
            Error::new(Code::StoreUnavailable, format!("cannot open the warehouse {}", root.display()))
                .with_source(error)
        })?;
        Ok(Warehouse { store: Arc::new(store), root_url })
    }

    /// `bucket/prefix` of an S3-compatible store, with endpoint, credentials and patience as `client` says.
    pub fn s3(address: &str, client: AmazonS3Builder) -> Result<Warehouse> {
        let (root_url, store) = s3::build(address, client)?;
        Ok(Warehouse { store, root_url })
    }

    /// As [`Self::open`], but only to read, also beside a server that writes: nothing is made or removed.
    pub fn open_to_read(url_or_path: &str) -> Result<Warehouse> {
        let path = match url_or_path.split_once("://") {
            Some(("s3", address)) => {
                let (root_url, store) = s3::open(address)?;
                return Ok(Warehouse { store, root_url });
            }
            Some(("file", path)) => path,
            Some(_) => {
                return Err(Error::new(Code::InvalidRequest, "a warehouse is a directory, file:///… or s3://…")
                    .with_value(url_or_path));
            }
            None => url_or_path,
        };
        let root = absolute(Path::new(path))?;
        let disk: Arc<dyn Disk> = Arc::new(ReadOnlyDisk(Arc::new(RealDisk)));
        let store = DiskStore::open_to_read(disk, &root).map_err(|error| {
            Error::new(Code::StoreUnavailable, format!("cannot open the warehouse {}", root.display()))
                .with_source(error)
        })?;
        let root_url = format!("file://{}", root.to_string_lossy().trim_end_matches('/'));
        Ok(Warehouse { store: Arc::new(store), root_url })
    }

    /// Any store whose root is the warehouse's root.
    pub fn with_store(root_url: &str, store: Arc<dyn ObjectStore>) -> Warehouse {
        Warehouse { store, root_url: root_url.trim_end_matches('/').to_owned() }
    }

    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// `file:///absolute/path` or `s3://bucket/prefix`, without a slash at the end.
    pub fn root_url(&self) -> &str {
        &self.root_url
    }

    /// The absolute address of an object.
    pub fn url(&self, path: &StorePath) -> String {
        format!("{}/{path}", self.root_url)
    }

    /// The object that an absolute address names, in the spellings of other engines too (`file:/…`, a bare path, `s3a://`).
    /// An address outside the warehouse is refused.
    pub fn path(&self, url: &str) -> Result<StorePath> {
        let (scheme, rest) = split_scheme(url);
        let (root_scheme, root) = split_scheme(&self.root_url);
        let inside = rest.strip_prefix(root).and_then(|inside| inside.strip_prefix('/'));
        let inside = inside.filter(|_| scheme == root_scheme).ok_or_else(|| {
            Error::new(Code::LakeConflict, format!("{url} lies outside the warehouse {}", self.root_url))
        })?;
        StorePath::parse(inside)
            .map_err(|error| Error::corrupt(format!("{url} is not an address of an object")).with_source(error))
    }
}

impl fmt::Debug for Warehouse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Warehouse({})", self.root_url)
    }
}

/// Scheme and the rest, with the spellings that mean the same brought together.
fn split_scheme(url: &str) -> (&str, &str) {
    match url.split_once("://") {
        Some(("s3" | "s3a" | "s3n", rest)) => ("s3", rest),
        Some((scheme, rest)) => (scheme, rest),
        None => ("file", url.strip_prefix("file:").unwrap_or(url)),
    }
}

/// `directory` from the root down, without `.` and `..`.
fn absolute(directory: &Path) -> Result<PathBuf> {
    let full = std::path::absolute(directory).map_err(|error| {
        Error::new(Code::InvalidRequest, "the warehouse path cannot be made absolute").with_source(error)
    })?;
    let mut plain = PathBuf::new();
    for component in full.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    Ok(plain)
}
