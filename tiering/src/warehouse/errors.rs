//! What an object store's refusal means to us.

use std::error::Error as StdError;
use std::{fmt, io};

use thermocline_schemas::{Code, Error};

/// The outward error for a store's; `doing` says what was tried on what.
pub(crate) fn store_error(error: object_store::Error, doing: impl fmt::Display) -> Error {
    let code = match io_kind(&error) {
        Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Code::DiskFull,
        Some(io::ErrorKind::InvalidData) => Code::Corrupt,
        _ => Code::StoreUnavailable,
    };
    metrics::counter!(crate::metric_names::STORE_ERRORS.name, "reason" => code.as_str()).increment(1);
    let outward = Error::new(code, format!("cannot {doing}"));
    let outward = match &error {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            outward.with_hint("check the warehouse's credentials and permissions")
        }
        _ => outward,
    };
    outward.with_source(error)
}

/// What the file system said, if it was one.
fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        source = error.source();
    }
    None
}

/// A file system's error in the words of object stores.
pub(super) fn from_io(path: &impl ToString, error: io::Error) -> object_store::Error {
    let path = path.to_string();
    let source = Box::new(error);
    match source.kind() {
        // A directory has no bytes of its own: as an object it is not there.
        io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => {
            object_store::Error::NotFound { path, source }
        }
        io::ErrorKind::AlreadyExists => object_store::Error::AlreadyExists { path, source },
        io::ErrorKind::PermissionDenied => object_store::Error::PermissionDenied { path, source },
        _ => object_store::Error::Generic { store: "disk", source },
    }
}
