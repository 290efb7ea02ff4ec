//! Edits: what changes in the catalog and in segment lists, as the journal keeps it.
//!
//! Always: an edit takes effect when its frame is durable, in journal order, by the same code live and at recovery. So
//! there is no second manifest that could disagree.

use serde::{Deserialize, Serialize};
use thermocline_schemas::{
    Code, Error, Identifier, Offset, PartitionBucket, PartitionValues, Result, TableDescriptor, TableId,
};

use crate::bucket::SegmentInfo;
use crate::journal::{Draft, FrameKind};
use crate::keys::IndexSnapshot;

/// Far below what a frame's header may have.
const EDIT_BYTES_MAX: usize = 16 << 20;

/// One change. JSON in the frame's extra, so that it can be read by eye and grown by fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "edit", rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    CreateDatabase {
        name: Identifier,
    },
    DropDatabase {
        name: Identifier,
    },
    CreateTable {
        table: TableDescriptor,
        /// Whether it has its name only once it is finished, and is gone if that does not come to be.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unfinished: bool,
    },
    /// An unfinished table has its rows, and gets its name: it is made now.
    FinishTable {
        table: TableId,
    },
    /// Another version of a table.
    AlterTable {
        table: TableDescriptor,
    },
    /// Partitions that a table gets, numbered on from those that it has.
    AddPartitions {
        table: TableId,
        partitions: Vec<PartitionValues>,
    },
    DropTable {
        table: TableId,
        /// Until when it can be brought back, in microseconds since 1970; with none it is gone, be it dropped before or not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<i64>,
    },
    /// Brings a dropped table back.
    UndropTable {
        table: TableId,
    },
    AddSegment {
        table: TableId,
        segment: SegmentInfo,
    },
    /// Takes the rows of a log table below these offsets away, from both tiers.
    RaiseStarts {
        table: TableId,
        starts: Vec<(PartitionBucket, Offset)>,
    },
    Trim {
        table: TableId,
        floors: Vec<(PartitionBucket, Offset)>,
        /// Of a primary-key table: those that hold what the rows said of their keys, where they are new.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        indexes: Vec<IndexSnapshot>,
    },
}

impl Edit {
    pub fn draft(&self) -> Result<Draft> {
        let json =
            serde_json::to_vec(self).map_err(|error| Error::internal("cannot write an edit").with_source(error))?;
        if json.len() > EDIT_BYTES_MAX {
            return Err(Error::new(
                Code::RequestTooLarge,
                format!("the change of the catalog takes {} bytes, {EDIT_BYTES_MAX} are the most", json.len()),
            ));
        }
        Ok(Draft::bare(FrameKind::Edit, json))
    }

    pub fn decode(extra: &[u8]) -> Result<Edit> {
        serde_json::from_slice(extra)
            .map_err(|error| Error::corrupt("the journal has an edit of a newer version").with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use thermocline_schemas::{ColumnType, Properties, TableName, TableSchema};

    use super::*;

    /// An earlier server must not go on with a table of which it does not know what its rows mean.
    #[test]
    fn what_a_later_version_wrote_is_refused() {
        let schema = TableSchema::new([("id".to_owned(), ColumnType::Int64, true)]).unwrap();
        let name = TableName::parse("public", "t").unwrap();
        let table = TableDescriptor::new(TableId(1), name, schema, &[], Properties::default(), 0).unwrap();
        let written = serde_json::to_value(Edit::CreateTable { table, unfinished: false }).unwrap();
        assert!(Edit::decode(written.to_string().as_bytes()).is_ok());
        for place in ["", "/table", "/table/schema", "/table/schema/columns/0", "/table/properties"] {
            let mut later = written.clone();
            let found = later.pointer_mut(place).and_then(Value::as_object_mut).unwrap();
            found.insert("of_a_later_version".to_owned(), json!(1));
            let error = Edit::decode(later.to_string().as_bytes()).unwrap_err();
            assert!(error.message().contains("newer version"), "{place}: {error}");
        }
    }
}
