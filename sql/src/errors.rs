//! DataFusion's errors as ours: what is the statement's fault is `invalid_sql`, what is the machine's or ours is not.

use std::error::Error as StdError;
use std::io;

use datafusion::arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use thermocline_schemas::{Code, Error};

use crate::meaning::ALONE;

/// The error that a client gets.
pub(crate) fn from_datafusion(error: DataFusionError) -> Error {
    // Ours travelled through DataFusion as a foreign error.
    if let Some(own) = find::<Error>(&error) {
        return copied(own);
    }
    if let Some(object_store::Error::NotFound { path, .. }) = find::<object_store::Error>(&error) {
        return Error::new(Code::SnapshotExpired, format!("the data file {path} is gone"))
            .with_hint("the snapshot that the query read was expired; ask again");
    }
    // A warehouse on disk says so when an object is not what was written.
    if let Some(rotten) = find::<io::Error>(&error).filter(|error| error.kind() == io::ErrorKind::InvalidData) {
        return Error::corrupt(rotten.to_string());
    }
    if let Some(store) = find::<object_store::Error>(&error) {
        return Error::new(Code::StoreUnavailable, format!("the warehouse does not answer: {store}"));
    }
    if let Some(disk) = find::<io::Error>(&error) {
        let code = match disk.kind() {
            io::ErrorKind::StorageFull => Code::DiskFull,
            _ => Code::Internal,
        };
        return Error::new(code, "reading or spilling failed").with_source(error);
    }
    let message = said(&error);
    if let Some(failed) = failed_filter(&message) {
        return Error::new(Code::InvalidSql, failed);
    }
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => Error::new(Code::ResourcesExhausted, message)
            .with_hint("read fewer rows or columns at once, or wait until other queries are done"),
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            ArrowError::MemoryError(_) => Error::new(Code::ResourcesExhausted, message),
            ArrowError::CastError(_)
            | ArrowError::ParseError(_)
            | ArrowError::DivideByZero
            | ArrowError::ArithmeticOverflow(_)
            | ArrowError::ComputeError(_)
            | ArrowError::InvalidArgumentError(_)
            | ArrowError::NotYetImplemented(_)
            | ArrowError::OffsetOverflowError(_) => Error::new(Code::InvalidSql, message),
            _ => Error::internal("a query failed").with_source(error),
        },
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::Execution(_)
        | DataFusionError::Configuration(_)
        | DataFusionError::Diagnostic(..)
        | DataFusionError::Collection(_) => {
            // A text in double quotes is a name.
            let is_name = message.starts_with("no field named");
            let error = Error::new(Code::InvalidSql, message);
            if is_name {
                error.with_hint("names may stand in double quotes, texts stand in single ones")
            } else {
                error
            }
        }
        DataFusionError::NotImplemented(_) if message == ALONE || message.contains("logical expression InSubquery") => {
            Error::new(Code::NotBuilt, ALONE)
                .with_hint("JOIN what it would find, with DISTINCT, or count it: (SELECT count(*) FROM … WHERE …) > 0")
        }
        DataFusionError::NotImplemented(_) => Error::new(Code::NotBuilt, message),
        _ => Error::internal("a query failed").with_source(error),
    }
}

/// Whether an error says for itself what is wrong: it came from our code, or memory was over.
pub(crate) fn is_ours(error: &DataFusionError) -> bool {
    find::<Error>(error).is_some() || matches!(error.find_root(), DataFusionError::ResourcesExhausted(_))
}

/// What a filter that ran inside the scan of a data file failed of. Parquet's reader leaves its text alone, and of that what
/// `{:?}` makes of an error.
fn failed_filter(text: &str) -> Option<String> {
    let (_, failed) = text.split_once("Error evaluating filter predicate: ")?;
    // One of ours: its code and what it says.
    let ours = failed.strip_prefix("External(").and_then(|error| error.strip_suffix(')')?.split_once(": "));
    if let Some((_, message)) = ours {
        return Some(message.to_owned());
    }
    Some(match quoted(failed) {
        Some(quoted) => quoted,
        None if failed.contains("DivideByZero") => ArrowError::DivideByZero.to_string().to_lowercase(),
        None => failed.to_owned(),
    })
}

/// What stands first between quotes that `{:?}` made, as it was before.
fn quoted(text: &str) -> Option<String> {
    let (_, behind) = text.split_once('"')?;
    let mut found = String::new();
    let mut characters = behind.chars();
    loop {
        match characters.next()? {
            '"' if found.is_empty() => return quoted(characters.as_str()),
            '"' => return Some(found),
            '\\' => match characters.next()? {
                'n' => found.push('\n'),
                other => found.push(other),
            },
            other => found.push(other),
        }
    }
}

/// The first error of a type on the way down to the root.
fn find<T: StdError + 'static>(error: &DataFusionError) -> Option<&T> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    // Sources form a line, but nobody promises that it is short.
    for _ in 0..64 {
        let current = next?;
        if let Some(found) = current.downcast_ref::<T>() {
            return Some(found);
        }
        if let Some(DataFusionError::External(boxed)) = current.downcast_ref::<DataFusionError>()
            && let Some(found) = boxed.downcast_ref::<T>()
        {
            return Some(found);
        }
        next = current.source();
    }
    None
}

/// An error of ours that is behind a reference, said anew.
fn copied(error: &Error) -> Error {
    let mut copy = Error::new(error.code(), error.message());
    if let Some(row) = error.row() {
        copy = copy.with_row(row);
    }
    if let Some(column) = error.column() {
        copy = copy.with_column(column);
    }
    if let Some(value) = error.value() {
        copy = copy.with_value(value);
    }
    if let Some(hint) = error.hint() {
        copy = copy.with_hint(hint);
    }
    copy
}

/// The message without DataFusion's words for its own parts, in our style.
fn said(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    // Behind the names of rules that were at it.
    let mut text = text.rsplit("\ncaused by\n").next().unwrap_or_default();
    const PARTS: [&str; 7] = [
        "Error during planning: ",
        "SQL error: ",
        "Schema error: ",
        "Execution error: ",
        "Arrow error: ",
        "Resources exhausted: ",
        "This feature is not implemented: ",
    ];
    while let Some(rest) = PARTS.iter().find_map(|part| text.strip_prefix(part)) {
        text = rest;
    }
    let text = text.trim().trim_end_matches('.');
    let mut characters = text.chars();
    match characters.next() {
        // A word in capitals, such as EXCLUDE, stays.
        Some(first) if first.is_uppercase() && !characters.clone().next().is_some_and(char::is_uppercase) => {
            first.to_lowercase().chain(characters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_gets_the_code_that_says_who_must_act() {
        let not_found = object_store::Error::NotFound { path: "a/b".into(), source: "gone".into() };
        let cases = [
            (DataFusionError::Plan("No field named x.".into()), Code::InvalidSql),
            (DataFusionError::ResourcesExhausted("much".into()), Code::ResourcesExhausted),
            (DataFusionError::Internal("oops".into()), Code::Internal),
            (DataFusionError::ArrowError(Box::new(ArrowError::DivideByZero), None), Code::InvalidSql),
            (DataFusionError::ObjectStore(Box::new(not_found)), Code::SnapshotExpired),
            (
                DataFusionError::Context(
                    "doing".into(),
                    Box::new(DataFusionError::External(Box::new(Error::corrupt("flipped")))),
                ),
                Code::Corrupt,
            ),
        ];
        for (error, code) in cases {
            let text = error.to_string();
            assert_eq!(from_datafusion(error).code(), code, "{text}");
        }
        let plan = from_datafusion(DataFusionError::Plan("No field named x.".into()));
        assert_eq!(plan.message(), "no field named x");
    }
}
