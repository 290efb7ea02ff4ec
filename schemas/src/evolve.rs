//! Tables that change: columns come, go, move, and get other names and wider types.
//!
//! Always: a column is its field id, for ever. Rows stay as they were written; whoever reads them in the columns of
//! another version gets, for each of its columns, what the rows have under that id, widened, and null where they have
//! nothing ([`Fitting`]). So a column that was renamed keeps its values, and one that takes the name of a dropped one has
//! none of them. A default is for rows written from then on: older ones read null.
//!
//! What the lake's readers could not follow is refused: types only become wider, and in ways that Iceberg knows; columns
//! only lose NOT NULL; the columns that find a row's bucket or key keep their type and stay. The same holds of what stands
//! inside nested columns (see `evolve_nested`).

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::check::no_check;
use crate::table::{COLUMNS_MAX, Column, fold_for_clash};
use crate::{
    Bucketing, Check, Code, ColumnType, Conditions, Error, FIELD_ID_KEY, FieldId, Identifier, NoConditions, Properties,
    Result, SchemaId, TableDescriptor, fitted_values,
};

/// Every version of a table is kept, and every edit and checkpoint has them all.
const VERSIONED_COLUMNS_MAX: usize = 50_000;

/// Where a column is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    First,
    After(String),
}

/// One change of a table. A name is that of a column, or the path of a field inside one: `s.a`, `l.element.a`, `m.value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alteration {
    Add {
        name: String,
        column_type: ColumnType,
        nullable: bool,
        /// As CSV spells a value of the type.
        default: Option<String>,
        place: Option<Place>,
        if_not_exists: bool,
    },
    Drop {
        name: String,
        if_exists: bool,
    },
    Rename {
        from: String,
        to: String,
    },
    SetType {
        name: String,
        column_type: ColumnType,
    },
    DropNotNull {
        name: String,
    },
    SetDefault {
        name: String,
        default: Option<String>,
    },
    Move {
        name: String,
        place: Place,
    },
    SetProperty {
        name: String,
        value: String,
    },
    /// A constraint on rows that come from now on. Where there are rows already it is not valid: they may break it.
    AddCheck {
        /// Made of what it names if there is none.
        name: Option<String>,
        condition: String,
    },
    DropCheck {
        name: String,
        if_exists: bool,
        /// The version that it came with, if none that came later by that name is meant.
        since: Option<SchemaId>,
    },
    /// No row breaks it.
    ValidateCheck {
        name: String,
        since: SchemaId,
    },
}

impl TableDescriptor {
    /// The table after these changes, one after the other; with another version of its columns if they differ.
    /// `has_rows`: whether there is a row that a new column would be missing in.
    pub fn altered(&self, alterations: &[Alteration], has_rows: bool) -> Result<TableDescriptor> {
        self.altered_under(alterations, has_rows, &NoConditions)
    }

    /// The same where the table has constraints, or gets them.
    pub fn altered_under(
        &self,
        alterations: &[Alteration],
        has_rows: bool,
        conditions: &dyn Conditions,
    ) -> Result<TableDescriptor> {
        let mut table = self.clone();
        for alteration in alterations {
            // What the constraints say they say in the columns of one version.
            let before = (!table.schema.checks.is_empty()).then(|| table.schema.clone());
            match alteration {
                Alteration::AddCheck { name, condition } => {
                    let since = SchemaId(self.schema.id.0 + 1);
                    let own = self.name.table.as_str();
                    let name = table.schema.add_check(own, name.as_deref(), condition, since, conditions)?;
                    table.not_valid.extend(has_rows.then_some(name));
                }
                other => table.alter(other, has_rows)?,
            }
            if let Some(before) = before.filter(|before| before.columns != table.schema.columns) {
                table.schema.follow(&before, conditions)?;
            }
        }
        if table.schema != self.schema {
            table.earlier.push(self.schema.clone());
            table.schema.id = SchemaId(self.schema.id.0 + 1);
        }
        let all: usize = table.schemas().flat_map(|schema| &schema.columns).map(Column::fields_count).sum();
        if all > VERSIONED_COLUMNS_MAX {
            return Err(Error::new(
                Code::InvalidType,
                format!(
                    "the columns of all versions of the table would be {all}, {VERSIONED_COLUMNS_MAX} are the most"
                ),
            )
            .with_hint("make the table anew: INSERT INTO … SELECT"));
        }
        // What depends on all columns together, such as the format version that they need.
        table.check_columns()?;
        Ok(table)
    }

    fn alter(&mut self, alteration: &Alteration, has_rows: bool) -> Result<()> {
        if self.alter_inside(alteration, has_rows)? {
            return Ok(());
        }
        match alteration {
            Alteration::Add { name, column_type, nullable, default, place, if_not_exists } => {
                if self.schema.column(name).is_some() && *if_not_exists {
                    return Ok(());
                }
                if self.schema.columns.len() >= COLUMNS_MAX {
                    return Err(refuse(name, &format!("would be one more than {COLUMNS_MAX}")));
                }
                if !nullable && has_rows {
                    return Err(refuse(name, "cannot be added NOT NULL: rows that are there have no value for it")
                        .with_hint("add it without NOT NULL; older rows read NULL"));
                }
                let id = FieldId(self.schema.last_id.0 + 1);
                let name = self.free_name(name, None)?;
                let column_type = column_type.clone();
                let mut column = Column { id, name, column_type, nullable: *nullable, default: None };
                column.set_default(default.clone())?;
                self.schema.last_id = id;
                column.column_type.give_ids(&mut self.schema.last_id);
                self.schema.columns.push(column);
                let last = self.schema.columns.len() - 1;
                match place {
                    Some(place) => self.put(last, place),
                    None => Ok(()),
                }
            }
            Alteration::Drop { name, if_exists } => {
                if self.schema.column(name).is_none() && *if_exists {
                    return Ok(());
                }
                let place = self.place_of(name)?;
                self.check_free(place, "dropped")?;
                self.schema.columns.remove(place);
                Ok(())
            }
            Alteration::Rename { from, to } => {
                let place = self.place_of(from)?;
                if from != to {
                    let own = self.schema.columns.remove(place);
                    let name = self.free_name(to, Some(own.id));
                    self.schema.columns.insert(place, own);
                    self.schema.columns[place].name = name?;
                }
                if self.properties.bucket_key.as_ref() == Some(from) {
                    self.properties.bucket_key = Some(to.clone());
                }
                self.spell_partitioning();
                Ok(())
            }
            Alteration::SetType { name, column_type } => {
                let place = self.place_of(name)?;
                let from = &self.schema.columns[place].column_type;
                if from.is_same(column_type) {
                    return Ok(());
                }
                self.check_free(place, "given another type")?;
                let from = &self.schema.columns[place].column_type;
                let Some(wider) = from.widened(column_type) else {
                    return Err(refuse(name, &format!("is {from} and cannot become {column_type}")).with_hint(
                        "columns become wider: integers up to BIGINT, REAL to DOUBLE PRECISION, DECIMAL(p, s) with more digits",
                    ));
                };
                self.schema.columns[place].column_type = wider;
                Ok(())
            }
            Alteration::DropNotNull { name } => {
                let place = self.place_of(name)?;
                if self.key.contains(&self.schema.columns[place].id) {
                    return Err(refuse(name, "is of the primary key, which is never null"));
                }
                // The lake is partitioned by Iceberg's transform of it, which knows no null.
                self.check_free(place, "made nullable")?;
                self.schema.columns[place].nullable = true;
                Ok(())
            }
            Alteration::SetDefault { name, default } => {
                let place = self.place_of(name)?;
                self.schema.columns[place].set_default(default.clone())
            }
            Alteration::Move { name, place } => {
                let from = self.place_of(name)?;
                self.put(from, place)
            }
            Alteration::SetProperty { name, value } => {
                self.properties = self.properties.with(name, value)?;
                Ok(())
            }
            Alteration::DropCheck { name, if_exists, since } => {
                let is_meant = |check: &Check| since.is_none_or(|since| check.since == since);
                match self.schema.check(name).filter(|check| is_meant(check)) {
                    None if *if_exists => Ok(()),
                    None => Err(no_check(&self.name, name)),
                    Some(_) => {
                        self.schema.checks.retain(|check| check.name.as_str() != name);
                        self.not_valid.retain(|not_valid| not_valid.as_str() != name);
                        Ok(())
                    }
                }
            }
            Alteration::ValidateCheck { name, since } => {
                match self.schema.check(name).filter(|check| check.since == *since) {
                    None => Err(no_check(&self.name, name)),
                    Some(_) => {
                        self.not_valid.retain(|not_valid| not_valid.as_str() != name);
                        Ok(())
                    }
                }
            }
            Alteration::AddCheck { .. } => Err(Error::internal("a constraint without its meaning")),
        }
    }

    fn place_of(&self, name: &str) -> Result<usize> {
        let place = self.schema.columns.iter().position(|column| column.name.as_str() == name);
        place.ok_or_else(|| {
            Error::new(Code::UnknownColumn, format!("table {} has no column {name}", self.name)).with_column(name)
        })
    }

    /// A name that no other column has, for a column that is there or for a new one.
    fn free_name(&self, name: &str, column: Option<FieldId>) -> Result<Identifier> {
        let name = Identifier::parse("column", name)?;
        if self.is_partition_name(name.as_str(), column) {
            return Err(Error::new(Code::InvalidName, format!("{name} is what the lake calls its partitions"))
                .with_column(name.as_str())
                .with_hint("another name"));
        }
        let taken = |column: &&Column| fold_for_clash(&column.name) == fold_for_clash(&name);
        match self.schema.columns.iter().find(taken) {
            None => Ok(name),
            Some(other) => Err(Error::new(Code::InvalidName, format!("column {} is there already", other.name))
                .with_column(name.as_str())
                .with_hint("names that differ only in case cannot stand in one table: many readers fold them")),
        }
    }

    /// An error if rows find their key or their bucket by the column, or if it is the only one.
    fn check_free(&self, place: usize, what: &str) -> Result<()> {
        let column = &self.schema.columns[place];
        let refuse = |why: &str| Err(refuse(column.name.as_str(), &format!("{why}, and cannot be {what}")));
        if self.key.contains(&column.id) {
            return refuse("is of the primary key");
        }
        if matches!(self.bucketing, Bucketing::Hash { column: key, .. } if key == column.id) {
            return refuse("picks the bucket of each row");
        }
        if self.partitioning.iter().any(|field| field.source == column.id) {
            return refuse("tells the partition of each row");
        }
        if self.schema.columns.len() == 1 {
            return refuse("is the table's only column");
        }
        Ok(())
    }

    fn put(&mut self, from: usize, place: &Place) -> Result<()> {
        let column = self.schema.columns.remove(from);
        let at = match place {
            Place::First => Ok(0),
            Place::After(name) => self.place_of(name).map(|place| place + 1),
        };
        self.schema.columns.insert(*at.as_ref().unwrap_or(&from), column);
        at.map(drop)
    }
}

impl Properties {
    /// With one of them changed, if it may change.
    fn with(&self, name: &str, value: &str) -> Result<Properties> {
        let mut changed = self.clone();
        changed.set(name, value)?;
        if changed.format_version < self.format_version {
            return Err(Error::new(Code::InvalidProperty, "the format version of a table is raised and never lowered")
                .with_value(value));
        }
        let fixed = crate::DEFINITIONS.iter().find(|definition| definition.name == name && !definition.alterable);
        match fixed {
            Some(_) if changed != *self => {
                Err(Error::new(Code::InvalidProperty, format!("property {name} is settled when a table is made"))
                    .with_value(value))
            }
            _ => Ok(changed),
        }
    }
}

pub(crate) fn refuse(name: &str, why: &str) -> Error {
    Error::new(Code::InvalidType, format!("column {name} {why}")).with_column(name)
}

impl ColumnType {
    /// Whether it is the other type, whatever field ids stand inside.
    pub(crate) fn is_same(&self, other: &ColumnType) -> bool {
        self.to_string() == other.to_string()
    }

    /// The wider type that every value of this one is a value of, with the field ids of this one; none if it is not wider. What
    /// stands inside keeps its name, its place and whether it may be null.
    pub(crate) fn widened(&self, to: &ColumnType) -> Option<ColumnType> {
        if self.is_same(to) {
            return Some(self.clone());
        }
        if !self.is_nested() {
            return widens(self, to).then(|| to.clone());
        }
        let (own, others) = (self.inner(), to.inner());
        let alike = std::mem::discriminant(self) == std::mem::discriminant(to) && own.len() == others.len();
        if let (ColumnType::Map(own), ColumnType::Map(other)) = (self, to)
            && !own[0].column_type.is_same(&other[0].column_type)
        {
            // Iceberg lets keys be.
            return None;
        }
        let mut wider = self.clone();
        for ((field, own), other) in wider.inner_mut().iter_mut().zip(own).zip(others) {
            field.column_type = own.column_type.widened(&other.column_type)?;
            if (&own.name, own.nullable) != (&other.name, other.nullable) {
                return None;
            }
        }
        alike.then_some(wider)
    }
}

/// Whether every value of one type is a value of the other, also for readers of the lake.
fn widens(from: &ColumnType, to: &ColumnType) -> bool {
    use ColumnType as T;
    match (from, to) {
        (T::Int8, T::Int16 | T::Int32 | T::Int64)
        | (T::Int16, T::Int32 | T::Int64)
        | (T::Int32, T::Int64)
        | (T::UInt8, T::UInt16 | T::UInt32 | T::Int16 | T::Int32 | T::Int64)
        | (T::UInt16, T::UInt32 | T::Int32 | T::Int64)
        | (T::UInt32, T::Int64)
        | (T::Float32, T::Float64) => true,
        (T::Decimal { precision, scale }, T::Decimal { precision: wider, scale: same }) => {
            wider >= precision && scale == same
        }
        _ => false,
    }
}

/// How rows in some columns become rows in others: by field id, and by name where there is none.
#[derive(Clone, Debug)]
pub struct Fitting {
    target: SchemaRef,
    /// The columns that the target is made of, ascending.
    needed: Vec<usize>,
    /// Which of these each column of the target is.
    sources: Vec<Option<usize>>,
}

impl Fitting {
    pub fn new(from: &Schema, target: &SchemaRef) -> Fitting {
        let ids: HashMap<_, _> = from.fields().iter().zip(0..).map(|(field, place)| (identity(field), place)).collect();
        let places: Vec<_> = target.fields().iter().map(|field| ids.get(&identity(field)).copied()).collect();
        let mut needed: Vec<_> = places.iter().flatten().copied().collect();
        needed.sort_unstable();
        let sources = places.iter().map(|place| needed.binary_search(place.as_ref()?).ok()).collect();
        Fitting { target: target.clone(), needed, sources }
    }

    /// The columns that are needed, ascending.
    pub fn needed(&self) -> &[usize] {
        &self.needed
    }

    /// Rows, of which only the needed columns are here, in the target's columns. An error if a value does not fit, or if
    /// there is none where there must be one: rows of a later version, read in the columns of an earlier one.
    pub fn apply(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let column = |(source, field): (&Option<usize>, &Arc<Field>)| -> Result<ArrayRef> {
            match source {
                Some(place) => widened(rows.column(*place), field.data_type()),
                None => Ok(new_null_array(field.data_type(), rows.num_rows())),
            }
        };
        let columns = self.sources.iter().zip(self.target.fields()).map(column).collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(self.target.clone(), columns, &options).map_err(|error| {
            Error::new(Code::WriteConflict, "the table's columns have changed meanwhile")
                .with_source(error)
                .with_hint("try again")
        })
    }
}

/// The rows in these columns; see [`Fitting`].
pub fn fitted(rows: &RecordBatch, target: &SchemaRef) -> Result<RecordBatch> {
    if Arc::ptr_eq(rows.schema_ref(), target) {
        return Ok(rows.clone());
    }
    let fitting = Fitting::new(rows.schema_ref(), target);
    fitting.apply(&rows.project(fitting.needed())?)
}

/// The same columns, any of which may be null: rows of other versions may lack it, and deletes all but their key.
pub fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// What makes a column the same in all versions: its field id, or its name if it has none.
fn identity(field: &Field) -> std::result::Result<&str, &str> {
    field.metadata().get(FIELD_ID_KEY).map(String::as_str).ok_or(field.name().as_str())
}

fn widened(values: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    fitted_values(values, to).map_err(|error| {
        Error::new(Code::WriteConflict, "the table's columns have become wider meanwhile")
            .with_source(error)
            .with_hint("try again")
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int16Array, Int32Array, StringArray};
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::{TableId, TableName, TableSchema};

    fn table(key: &[&str], properties: &[(&str, &str)]) -> TableDescriptor {
        let columns =
            [("id", ColumnType::Int32, false), ("name", ColumnType::String, true), ("small", ColumnType::Int16, false)];
        let schema = TableSchema::new(columns.map(|(name, kind, null)| (name.to_owned(), kind, null))).unwrap();
        let key: Vec<_> = key.iter().map(|name| (*name).to_owned()).collect();
        let properties = Properties::parse(properties.iter().copied()).unwrap();
        TableDescriptor::new(TableId(1), TableName::parse("public", "t").unwrap(), schema, &key, properties, 0).unwrap()
    }

    fn add(name: &str, column_type: ColumnType) -> Alteration {
        let (name, if_not_exists) = (name.to_owned(), false);
        Alteration::Add { name, column_type, nullable: true, default: None, place: None, if_not_exists }
    }

    fn drop_column(name: &str) -> Alteration {
        Alteration::Drop { name: name.to_owned(), if_exists: false }
    }

    fn rename(from: &str, to: &str) -> Alteration {
        Alteration::Rename { from: from.to_owned(), to: to.to_owned() }
    }

    fn set_type(name: &str, column_type: ColumnType) -> Alteration {
        Alteration::SetType { name: name.to_owned(), column_type }
    }

    fn names(table: &TableDescriptor) -> Vec<&str> {
        table.schema.columns().iter().map(|column| column.name.as_str()).collect()
    }

    #[test]
    fn columns_are_their_ids_and_ids_are_never_given_twice() {
        let first = table(&[], &[]);
        let changes = [drop_column("name"), add("name", ColumnType::Int64), rename("small", "tiny")];
        let second = first.altered(&changes, true).unwrap();
        assert_eq!(names(&second), ["id", "tiny", "name"]);
        // Three columns of the user's, three of the system's.
        assert_eq!(second.schema.column("name").unwrap().id, FieldId(7));
        assert_eq!((second.schema.id, second.earlier.len()), (SchemaId(1), 1));
        let third = second.altered(&[drop_column("name"), add("name", ColumnType::String)], true).unwrap();
        assert_eq!(third.schema.column("name").unwrap().id, FieldId(8));
        assert_eq!(third.schema_of(SchemaId(0)), Some(&first.schema));
        let same = third.altered(&[rename("id", "x"), rename("x", "id")], true).unwrap();
        assert_eq!(same, third);
    }

    #[test]
    fn rows_are_read_in_the_columns_of_another_version() {
        let first = table(&[], &[]);
        let place = Some(Place::First);
        let changes = [
            drop_column("name"),
            add("name", ColumnType::Int64),
            rename("small", "wide"),
            set_type("wide", ColumnType::Int64),
            Alteration::Move { name: "wide".to_owned(), place: Place::First },
            Alteration::Add {
                name: "flag".to_owned(),
                column_type: ColumnType::Boolean,
                nullable: true,
                default: Some("true".to_owned()),
                place,
                if_not_exists: true,
            },
        ];
        let second = first.altered(&changes, true).unwrap();
        assert_eq!(names(&second), ["flag", "wide", "id", "name"]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(vec![1, 2])),
            Arc::new(StringArray::from(vec!["a", "b"])),
            Arc::new(Int16Array::from(vec![7, -7])),
        ];
        let rows = RecordBatch::try_new(first.schema.arrow(), columns).unwrap();
        let fitting = Fitting::new(rows.schema_ref(), &second.schema.arrow());
        assert_eq!(fitting.needed(), [0, 2]);
        let read = fitting.apply(&rows.project(&[0, 2]).unwrap()).unwrap();
        assert_eq!(read.column(1).as_primitive::<Int64Type>().values(), &[7, -7]);
        assert_eq!((read.column(0).null_count(), read.column(3).null_count()), (2, 2));
        // Backwards there is no name, and what became wider must still fit.
        let back = fitted(&read, &first.schema.arrow()).unwrap();
        assert_eq!((back.column(0), back.column(2)), (rows.column(0), rows.column(2)));
        assert_eq!(back.column(1).null_count(), 2);
    }

    #[test]
    fn versions_are_kept_up_to_a_number_of_columns() {
        let columns = (0..1_500).map(|number| (format!("c{number}"), ColumnType::Int32, true));
        let name = TableName::parse("public", "t").unwrap();
        let properties = Properties::parse([]).unwrap();
        let schema = TableSchema::new(columns).unwrap();
        let mut table = TableDescriptor::new(TableId(1), name, schema, &[], properties, 0).unwrap();
        let version =
            |number: usize| [Alteration::SetDefault { name: "c1".to_owned(), default: Some(number.to_string()) }];
        for number in 1..VERSIONED_COLUMNS_MAX / 1_500 {
            table = table.altered(&version(number), true).unwrap();
        }
        assert_eq!(table.altered(&version(0), true).unwrap_err().code(), Code::InvalidType);
    }

    #[test]
    fn what_readers_could_not_follow_is_refused() {
        let keyed = table(&["id"], &[("bucket_key", "id"), ("buckets", "2")]);
        for (change, code) in [
            (drop_column("nothing"), Code::UnknownColumn),
            (drop_column("id"), Code::InvalidType),
            (set_type("id", ColumnType::Int64), Code::InvalidType),
            (set_type("small", ColumnType::String), Code::InvalidType),
            (set_type("small", ColumnType::Int8), Code::InvalidType),
            (set_type("name", ColumnType::Binary), Code::InvalidType),
            (Alteration::DropNotNull { name: "id".to_owned() }, Code::InvalidType),
            (rename("name", "ID"), Code::InvalidName),
            (rename("name", "__offset"), Code::InvalidName),
            (add("Small", ColumnType::Int8), Code::InvalidName),
            (add("id_bucket", ColumnType::Int8), Code::InvalidName),
        ] {
            assert_eq!(keyed.altered(std::slice::from_ref(&change), true).unwrap_err().code(), code, "{change:?}");
        }
        let added = |nullable, default: Option<&str>| Alteration::Add {
            name: "more".to_owned(),
            column_type: ColumnType::Int32,
            nullable,
            default: default.map(str::to_owned),
            place: None,
            if_not_exists: false,
        };
        assert!(keyed.altered(&[add("at", ColumnType::TimestampNs)], true).is_ok());
        assert!(keyed.altered(&[added(false, Some("1"))], true).is_err());
        assert!(keyed.altered(&[added(false, None)], false).is_ok());
        assert!(keyed.altered(&[added(true, Some("x"))], true).is_err());
        let renamed = keyed.altered(&[rename("id", "number")], true).unwrap();
        assert_eq!(renamed.properties.bucket_key.as_deref(), Some("number"));
        let log = table(&[], &[]);
        assert!(log.altered(&[add("at", ColumnType::TimestampNs)], true).is_err());
        assert!(log.altered(&[drop_column("id"), drop_column("name"), drop_column("small")], true).is_err());
        let set = |name: &str, value: &str| Alteration::SetProperty { name: name.to_owned(), value: value.to_owned() };
        assert_eq!(log.altered(&[set("lake_freshness", "5s")], true).unwrap().properties.lake_freshness_ms, 5_000);
        let raised = log.altered(&[set("format_version", "3"), add("at", ColumnType::TimestampNs)], true).unwrap();
        assert!(raised.altered(&[set("format_version", "2")], true).is_err());
        for (name, value) in [("buckets", "2"), ("format_version", "4"), ("nothing", "1"), ("hot_retention", "soon")] {
            assert_eq!(log.altered(&[set(name, value)], true).unwrap_err().code(), Code::InvalidProperty, "{name}");
        }
    }
}
