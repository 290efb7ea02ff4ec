//! Which version of a table a clause means: its constant becomes a moment, a snapshot or offsets.

use std::collections::HashMap;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use thermocline_schemas::{Code, Error, Result};
use thermocline_tiering::{Version, parse_offsets, token_format};

use crate::errors::from_datafusion;
use crate::front::{VersionClause, invalid};
use crate::session::Names;
use crate::sql::Sql;
use crate::values::computed;

impl Sql {
    /// The versions that these clauses mean, as of one moment: `now()` is the same in all of them.
    pub(crate) fn versions(&self, clauses: &[VersionClause]) -> Result<Vec<Version>> {
        if clauses.is_empty() {
            return Ok(Vec::new());
        }
        let state = self.session().query();
        let names = Names::new(&state, "", HashMap::new());
        let each = clauses.iter().map(|clause| {
            let value = computed(&state, &names, clause.value()).map_err(from_datafusion)?;
            let value = value.ok_or_else(|| {
                invalid("the version of a table is a constant").with_hint("read what you need of other tables first")
            })?;
            match clause {
                VersionClause::Moment(_) => moment(&value),
                VersionClause::Version(_) => version(&value),
            }
        });
        each.collect()
    }
}

/// A time, or a text or date that says one; without a zone in UTC.
fn moment(value: &ScalarValue) -> Result<Version> {
    let refused = || {
        Error::new(Code::InvalidOffset, "that is not a moment")
            .with_value(value.to_string())
            .with_hint("TIMESTAMP AS OF '2026-11-23T13:00:00Z', or now() - INTERVAL '5 minutes'")
    };
    let is_time = matches!(
        value.data_type(),
        DataType::Timestamp(..)
            | DataType::Date32
            | DataType::Date64
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
    );
    if !is_time {
        return Err(refused());
    }
    match value.cast_to(&DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))) {
        Ok(ScalarValue::TimestampMicrosecond(Some(micros), _)) => Ok(Version::Moment(micros)),
        _ => Err(refused()),
    }
}

/// The id of a snapshot, offsets, or the name of a tag or branch.
fn version(value: &ScalarValue) -> Result<Version> {
    let refused = || {
        Error::new(Code::InvalidOffset, "that is no version of a table")
            .with_value(value.to_string())
            .with_hint("the id of a snapshot, as \"t$snapshots\" lists them, or 'offsets:0=120,1=98'")
    };
    let text = match value {
        ScalarValue::Int64(Some(id)) => return Ok(Version::Snapshot(*id)),
        ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)) => text,
        _ => return Err(refused()),
    };
    match text.split_once(':') {
        Some(("offsets", offsets)) => Ok(Version::Offsets(parse_offsets(offsets)?)),
        Some(("token", token)) => Ok(Version::Token(token_format::decode(token)?)),
        Some(_) => Err(refused()),
        None if text.is_empty() => Err(refused()),
        None => Ok(text.parse().map_or_else(|_| Version::Reference(text.clone()), Version::Snapshot)),
    }
}
