//! What stands inside a nested type: the element of a list, the key and the value of a map, the fields of a struct.
//!
//! Always: types nest at most [`DEPTH_MAX`] deep, a struct has fields, and no two of them have names that differ only in
//! case. The keys of a map are never null and do not nest. Inside a table each of these fields has a field id of its own,
//! which stays when the name changes and is never given again.
//!
//! Ids are given as Iceberg gives them to a new table, so that the lake's are ours: all columns first, then what stands
//! inside the first column, then inside the second; of a struct all fields before what is inside them, of a map the key
//! with all that is inside it before the value.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};
use serde::{Deserialize, Serialize};

use crate::columns::with_field_id;
use crate::{Code, ColumnType, Error, FieldId, Identifier, Result, fixed_width, quoted};

/// So deep types nest: a list of numbers is one level.
pub(crate) const DEPTH_MAX: usize = 8;
/// So many fields a type may have, at all its levels together.
pub(crate) const FIELDS_MAX: usize = 2_000;

/// A field inside a nested type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NestedField {
    /// 0 until the type is that of a table's column.
    pub id: FieldId,
    pub name: Identifier,
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    pub nullable: bool,
}

/// How a type is spelled in Arrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// As answers have it: without field ids, and all but keys may be null. Where there is no struct its fields are null,
    /// also those that are NOT NULL, and many programs take fields at their word.
    Plain,
    /// As the log holds it, each field with its id.
    Log,
    /// As the lake's files hold it, each field with its id.
    Lake,
}

impl NestedField {
    fn new(name: &'static str, column_type: ColumnType, nullable: bool) -> NestedField {
        NestedField { id: FieldId(0), name: Identifier::of_system(name), column_type, nullable }
    }

    fn arrow(&self, name: &str, spelling: Spelling) -> Field {
        let of_type = match spelling {
            Spelling::Plain => ColumnType::arrow,
            Spelling::Log => ColumnType::log_arrow,
            Spelling::Lake => ColumnType::lake_arrow,
        };
        match spelling {
            Spelling::Plain => self.column_type.field(name, of_type, true),
            _ => with_field_id(self.column_type.field(name, of_type, self.nullable), self.id),
        }
    }
}

impl ColumnType {
    /// Lists of elements of this type.
    pub fn list(element: ColumnType, nullable: bool) -> Result<ColumnType> {
        ColumnType::List(Arc::new(NestedField::new("element", element, nullable))).checked()
    }

    /// Maps from keys to values of these types. Keys do not nest.
    pub fn map(key: ColumnType, value: ColumnType, nullable: bool) -> Result<ColumnType> {
        if key.is_nested() {
            return Err(Error::new(Code::InvalidType, format!("{key} cannot be the key of a MAP: keys do not nest"))
                .with_hint("a key of a plain type, or a list of structs"));
        }
        let fields = [NestedField::new("key", key, false), NestedField::new("value", value, nullable)];
        ColumnType::Map(Arc::new(fields)).checked()
    }

    /// Structs of fields with these names, types and nullability.
    pub fn structure(fields: impl IntoIterator<Item = (String, ColumnType, bool)>) -> Result<ColumnType> {
        let mut names = HashSet::new();
        let mut checked = Vec::new();
        for (name, column_type, nullable) in fields {
            let name = Identifier::parse("field", &name)?;
            if !names.insert(name.as_str().to_ascii_lowercase()) {
                return Err(Error::new(Code::InvalidName, format!("field {name} is there twice in one STRUCT"))
                    .with_hint("names that differ only in case cannot stand in one struct: many readers fold them"));
            }
            checked.push(NestedField { id: FieldId(0), name, column_type, nullable });
        }
        if checked.is_empty() {
            return Err(Error::new(Code::InvalidType, "a STRUCT needs at least one field"));
        }
        ColumnType::Struct(checked.into()).checked()
    }

    /// An error if it nests too deep or has too many fields.
    pub(crate) fn checked(self) -> Result<ColumnType> {
        if self.depth() > DEPTH_MAX {
            return Err(too_deep());
        }
        let fields = self.fields_count();
        if fields > FIELDS_MAX {
            let message = format!("a type of {fields} fields has more than {FIELDS_MAX}");
            return Err(Error::new(Code::InvalidType, message));
        }
        Ok(self)
    }

    /// Whether other types stand inside it.
    pub fn is_nested(&self) -> bool {
        !self.inner().is_empty()
    }

    /// What stands inside it: the element, key and value, or the fields.
    pub fn inner(&self) -> &[NestedField] {
        match self {
            ColumnType::List(element) => std::slice::from_ref(element),
            ColumnType::Map(fields) => &fields[..],
            ColumnType::Struct(fields) => fields,
            _ => &[],
        }
    }

    pub(crate) fn inner_mut(&mut self) -> &mut [NestedField] {
        match self {
            ColumnType::List(element) => std::slice::from_mut(Arc::make_mut(element)),
            ColumnType::Map(fields) => &mut Arc::make_mut(fields)[..],
            ColumnType::Struct(fields) => Arc::make_mut(fields),
            _ => &mut [],
        }
    }

    fn depth(&self) -> usize {
        self.inner().iter().map(|field| field.column_type.depth() + 1).max().unwrap_or(0)
    }

    /// How many fields stand inside it, at all levels.
    pub fn fields_count(&self) -> usize {
        self.inner().iter().map(|field| field.column_type.fields_count() + 1).sum()
    }

    /// What a value takes in memory at least, a null one too, rounded up to whole bytes.
    pub fn least_bytes(&self) -> usize {
        match self {
            ColumnType::Struct(fields) => 1 + fields.iter().map(|field| field.column_type.least_bytes()).sum::<usize>(),
            ColumnType::Boolean => 1,
            other => fixed_width(&other.arrow()).unwrap_or(size_of::<i32>()),
        }
    }

    /// Whether the type, or one inside it, is such.
    pub(crate) fn any(&self, is_such: &impl Fn(&ColumnType) -> bool) -> bool {
        is_such(self) || self.inner().iter().any(|field| field.column_type.any(is_such))
    }

    /// Gives what stands inside it ids after `last`, which becomes the last of them; see the module's text.
    pub(crate) fn give_ids(&mut self, last: &mut FieldId) {
        // Of a list and a map each field is followed by what is inside it; of a struct all fields come first.
        let is_struct = matches!(self, ColumnType::Struct(_));
        let next = |last: &mut FieldId| {
            *last = FieldId(last.0 + 1);
            *last
        };
        let fields = self.inner_mut();
        if is_struct {
            fields.iter_mut().for_each(|field| field.id = next(last));
        }
        for field in fields {
            if !is_struct {
                field.id = next(last);
            }
            field.column_type.give_ids(last);
        }
    }

    /// The Arrow type of a nested one.
    pub(crate) fn nested_arrow(&self, spelling: Spelling) -> DataType {
        let is_lake = spelling == Spelling::Lake;
        match self {
            // Parquet and Iceberg say element and key_value where Arrow says item and entries.
            ColumnType::List(element) => {
                DataType::List(Arc::new(element.arrow(if is_lake { "element" } else { "item" }, spelling)))
            }
            ColumnType::Map(fields) => {
                let [key, value] = fields.each_ref().map(|side| side.arrow(side.name.as_str(), spelling));
                let sides = Fields::from(vec![key.with_nullable(false), value]);
                let name = if is_lake { "key_value" } else { "entries" };
                DataType::Map(Arc::new(Field::new(name, DataType::Struct(sides), false)), false)
            }
            other => {
                DataType::Struct(other.inner().iter().map(|field| field.arrow(field.name.as_str(), spelling)).collect())
            }
        }
    }

    /// A nested type for Arrow data from outside, `depth` levels inside another.
    pub(crate) fn nested_from_arrow(data_type: &DataType, depth: usize) -> Result<ColumnType> {
        if depth >= DEPTH_MAX {
            return Err(too_deep());
        }
        let inner = |field: &Field| ColumnType::of_field_at(field, depth + 1);
        match data_type {
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                ColumnType::list(inner(item)?, item.is_nullable())
            }
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(sides) if sides.len() == 2 => {
                    ColumnType::map(inner(&sides[0])?, inner(&sides[1])?, sides[1].is_nullable())
                }
                other => Err(Error::new(Code::InvalidType, format!("a map of {other}, which are no keys and values"))),
            },
            DataType::Struct(fields) => {
                let named = |field: &Arc<Field>| Ok((field.name().clone(), inner(field)?, field.is_nullable()));
                ColumnType::structure(fields.iter().map(named).collect::<Result<Vec<_>>>()?)
            }
            other => Err(Error::not_built(format!("the column type {other}"))),
        }
    }

    /// The SQL spelling of a nested type.
    pub(crate) fn spell_nested(&self) -> String {
        let not_null = |field: &NestedField| if field.nullable { "" } else { " NOT NULL" };
        match self {
            ColumnType::List(element) if element.nullable => format!("{}[]", element.column_type),
            ColumnType::List(element) => format!("LIST({} NOT NULL)", element.column_type),
            ColumnType::Map(fields) => {
                let [key, value] = &**fields;
                format!("MAP({}, {}{})", key.column_type, value.column_type, not_null(value))
            }
            other => {
                let fields = other.inner().iter();
                let fields = fields
                    .map(|field| format!("{} {}{}", quoted(field.name.as_str()), field.column_type, not_null(field)));
                format!("STRUCT({})", fields.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

fn too_deep() -> Error {
    Error::new(Code::InvalidType, format!("a type nests at most {DEPTH_MAX} levels"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TableSchema;

    fn ids(column_type: &ColumnType, found: &mut Vec<(String, i32)>) {
        for field in column_type.inner() {
            found.push((field.name.as_str().to_owned(), field.id.0));
            ids(&field.column_type, found);
        }
    }

    /// As Iceberg's reference gives them to a new table.
    #[test]
    fn ids_go_by_level_and_a_key_with_its_inside_before_the_value() {
        let point = |names: [&str; 2]| {
            ColumnType::structure(names.map(|name| (name.to_owned(), ColumnType::Float32, true))).unwrap()
        };
        let quux = ColumnType::map(ColumnType::String, ColumnType::list(point(["x", "y"]), true).unwrap(), true);
        let person = ColumnType::structure([
            ("inner".to_owned(), point(["a", "b"]), true),
            ("age".to_owned(), ColumnType::Int32, false),
        ]);
        let columns = [("foo", ColumnType::String), ("quux", quux.unwrap()), ("person", person.unwrap())];
        let schema = TableSchema::new(columns.map(|(name, column_type)| (name.to_owned(), column_type, true))).unwrap();
        let mut found = Vec::new();
        schema.columns().iter().for_each(|column| ids(&column.column_type, &mut found));
        let found: Vec<_> = found.iter().map(|(name, id)| (name.as_str(), *id)).collect();
        let expected = [
            ("key", 7),
            ("value", 8),
            ("element", 9),
            ("x", 10),
            ("y", 11),
            ("inner", 12),
            ("a", 14),
            ("b", 15),
            ("age", 13),
        ];
        assert_eq!((found.as_slice(), schema.last_id()), (&expected[..], FieldId(15)));
        let json = serde_json::to_string(&schema).unwrap();
        assert_eq!(serde_json::from_str::<TableSchema>(&json).unwrap(), schema);
        for column in schema.columns().iter().skip(1) {
            let again = ColumnType::from_arrow(&column.column_type.lake_arrow()).unwrap();
            assert_eq!(again.to_string(), column.column_type.to_string());
        }
    }

    /// As versions wrote them that knew no nested types.
    #[test]
    fn older_descriptors_are_read() {
        let json = r#"{"id":0,"columns":[{"id":1,"name":"a","type":"int64","nullable":false},{"id":2,"name":"d","type":{"decimal":{"precision":5,"scale":2}},"nullable":true}],"system_ids":[3,4,5],"last_id":5}"#;
        let schema: TableSchema = serde_json::from_str(json).unwrap();
        assert_eq!(schema.columns()[1].column_type.to_string(), "DECIMAL(5, 2)");
        assert_eq!(serde_json::to_string(&schema).unwrap(), json);
    }

    #[test]
    fn golden_spelling_of_nested_types_in_descriptors() {
        let list = ColumnType::list(ColumnType::Int8, false).unwrap();
        let column_type = ColumnType::structure([("l".to_owned(), list, true)]).unwrap();
        let schema = TableSchema::new([("s".to_owned(), column_type, true)]).unwrap();
        let golden = r#"{"struct":[{"id":5,"name":"l","type":{"list":{"id":6,"name":"element","type":"int8","nullable":false}},"nullable":true}]}"#;
        assert_eq!(serde_json::to_string(&schema.columns()[0].column_type).unwrap(), golden);
    }
}
