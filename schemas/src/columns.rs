//! The columns that the system adds, and how columns carry their field id through Arrow and Parquet.

use arrow::datatypes::{DataType, Field, TimeUnit};

use crate::FieldId;
use crate::types::UTC;

/// The Arrow metadata key under which Parquet writers and readers find a column's field id.
pub const FIELD_ID_KEY: &str = "PARQUET:field_id";

/// A column that every table has and that only appears when it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SystemColumn {
    /// The kind of change, as `+A`; not in the lake.
    Kind,
    Bucket,
    Offset,
    /// When the row was accepted.
    Timestamp,
}

impl SystemColumn {
    pub const ALL: [SystemColumn; 4] =
        [SystemColumn::Kind, SystemColumn::Bucket, SystemColumn::Offset, SystemColumn::Timestamp];

    /// Those that a log table's lake files hold, in their order there.
    pub const LAKE: [SystemColumn; 3] = [SystemColumn::Bucket, SystemColumn::Offset, SystemColumn::Timestamp];

    pub fn name(self) -> &'static str {
        match self {
            SystemColumn::Kind => "__kind",
            SystemColumn::Bucket => "__bucket",
            SystemColumn::Offset => "__offset",
            SystemColumn::Timestamp => "__timestamp",
        }
    }

    pub fn from_name(name: &str) -> Option<SystemColumn> {
        Self::ALL.into_iter().find(|column| column.name() == name)
    }

    pub fn arrow(self) -> DataType {
        match self {
            SystemColumn::Kind => DataType::Utf8,
            SystemColumn::Bucket => DataType::Int32,
            SystemColumn::Offset => DataType::Int64,
            SystemColumn::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        }
    }

    /// The SQL spelling of its type.
    pub fn sql_type(self) -> &'static str {
        match self {
            SystemColumn::Kind => "VARCHAR",
            SystemColumn::Bucket => "INTEGER",
            SystemColumn::Offset => "BIGINT",
            SystemColumn::Timestamp => "TIMESTAMPTZ",
        }
    }

    pub fn field(self) -> Field {
        Field::new(self.name(), self.arrow(), false)
    }
}

/// `field` with its field id where Parquet looks for it.
pub(crate) fn with_field_id(field: Field, id: FieldId) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(FIELD_ID_KEY.to_owned(), id.to_string());
    field.with_metadata(metadata)
}
