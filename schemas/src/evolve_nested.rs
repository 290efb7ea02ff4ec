//! Fields inside nested columns that come, go, and get other names and wider types: `s.a`, `l.element.a`, `m.value`.
//!
//! Always: a field is its field id, as a column is. A struct keeps at least one field. The element of a list, the key and
//! the value of a map have their names for ever and stay; a key keeps its type too.

use crate::evolve::refuse;
use crate::{Alteration, Code, ColumnType, Error, FieldId, Identifier, NestedField, Place, Result, TableDescriptor};

impl TableDescriptor {
    /// Does what is said of a field inside a column; false if it is of a column or of the table.
    pub(crate) fn alter_inside(&mut self, alteration: &Alteration, has_rows: bool) -> Result<bool> {
        let path = match alteration {
            Alteration::Add { name, .. }
            | Alteration::Drop { name, .. }
            | Alteration::Rename { from: name, .. }
            | Alteration::SetType { name, .. }
            | Alteration::DropNotNull { name }
            | Alteration::SetDefault { name, .. }
            | Alteration::Move { name, .. } => name,
            Alteration::SetProperty { .. }
            | Alteration::AddCheck { .. }
            | Alteration::DropCheck { .. }
            | Alteration::ValidateCheck { .. } => return Ok(false),
        };
        let Some((parent, name)) = path.rsplit_once('.') else { return Ok(false) };
        let mut last_id = self.schema.last_id;
        let parent = self.type_at(parent)?;
        match alteration {
            Alteration::Add { column_type, nullable, default, place, if_not_exists, .. } => {
                let mut fields = fields_of(parent, path)?;
                if *if_not_exists && fields.iter().any(|field| field.name.as_str() == name) {
                    return Ok(true);
                }
                if default.is_some() {
                    return Err(refuse(path, "stands inside a column and has no default"));
                }
                if !nullable && has_rows {
                    return Err(refuse(path, "cannot be added NOT NULL: rows that are there have no value for it")
                        .with_hint("add it without NOT NULL; older rows read NULL"));
                }
                last_id = FieldId(last_id.0 + 1);
                let name = free_name(&fields, name, path)?;
                let (id, nullable) = (last_id, *nullable);
                let mut field = NestedField { id, name, column_type: column_type.clone(), nullable };
                field.column_type.give_ids(&mut last_id);
                let at = place_in(&fields, place.as_ref(), path)?.unwrap_or(fields.len());
                fields.insert(at, field);
                *parent = ColumnType::Struct(fields.into());
            }
            Alteration::Drop { if_exists, .. } => {
                let mut fields = fields_of(parent, path)?;
                match fields.iter().position(|field| field.name.as_str() == name) {
                    None if *if_exists => return Ok(true),
                    None => return Err(unknown(path)),
                    Some(_) if fields.len() == 1 => {
                        return Err(refuse(path, "is the struct's only field, and cannot be dropped"));
                    }
                    Some(place) => drop(fields.remove(place)),
                }
                *parent = ColumnType::Struct(fields.into());
            }
            Alteration::Rename { to, .. } => {
                let mut fields = fields_of(parent, path)?;
                let place = fields.iter().position(|field| field.name.as_str() == name).ok_or_else(|| unknown(path))?;
                let mut own = fields.remove(place);
                if name != to {
                    own.name = free_name(&fields, to, path)?;
                }
                fields.insert(place, own);
                *parent = ColumnType::Struct(fields.into());
            }
            Alteration::Move { place, .. } => {
                let mut fields = fields_of(parent, path)?;
                let from = fields.iter().position(|field| field.name.as_str() == name).ok_or_else(|| unknown(path))?;
                let own = fields.remove(from);
                let at = place_in(&fields, Some(place), path)?.unwrap_or(from);
                fields.insert(at, own);
                *parent = ColumnType::Struct(fields.into());
            }
            Alteration::SetType { column_type, .. } => {
                let is_key = is_key(parent, name);
                let field = field_of(parent, name, path)?;
                let from = &field.column_type;
                let wider = from.widened(column_type).filter(|wider| !is_key || from.is_same(wider));
                let Some(wider) = wider else {
                    return Err(refuse(path, &format!("is {from} and cannot become {column_type}")).with_hint(
                        "fields become wider: integers up to BIGINT, REAL to DOUBLE PRECISION, DECIMAL(p, s) with more digits; keys stay",
                    ));
                };
                field.column_type = wider;
            }
            Alteration::DropNotNull { .. } => {
                if is_key(parent, name) {
                    return Err(refuse(path, "is the key of a map, which is never null"));
                }
                field_of(parent, name, path)?.nullable = true;
            }
            Alteration::SetDefault { default: None, .. } => drop(field_of(parent, name, path)?),
            Alteration::SetDefault { default: Some(_), .. } => {
                return Err(refuse(path, "stands inside a column and has no default"));
            }
            Alteration::SetProperty { .. }
            | Alteration::AddCheck { .. }
            | Alteration::DropCheck { .. }
            | Alteration::ValidateCheck { .. } => {}
        }
        self.schema.last_id = last_id;
        for column in &self.schema.columns {
            column.column_type.clone().checked().map_err(|error| error.with_column(column.name.as_str()))?;
        }
        Ok(true)
    }

    /// The type of the column or field with this path.
    fn type_at(&mut self, path: &str) -> Result<&mut ColumnType> {
        let mut names = path.split('.');
        let first = names.next().unwrap_or_default();
        let column = self.schema.columns.iter_mut().find(|column| column.name.as_str() == first);
        let mut found = &mut column.ok_or_else(|| unknown(first))?.column_type;
        for name in names {
            found = &mut field_of(found, name, path)?.column_type;
        }
        Ok(found)
    }
}

fn field_of<'t>(parent: &'t mut ColumnType, name: &str, path: &str) -> Result<&'t mut NestedField> {
    let found = parent.inner_mut().iter_mut().find(|field| field.name.as_str() == name);
    found.ok_or_else(|| unknown(path))
}

/// The fields of a struct, of which alone some come and go.
fn fields_of(parent: &ColumnType, path: &str) -> Result<Vec<NestedField>> {
    match parent {
        ColumnType::Struct(fields) => Ok(Vec::from(&**fields)),
        other => Err(refuse(path, &format!("would be a field of {other}, which is no struct"))
            .with_hint("the fields of a list's structs are l.element.a, those of a map's are m.value.a")),
    }
}

fn is_key(parent: &ColumnType, name: &str) -> bool {
    matches!(parent, ColumnType::Map(sides) if sides[0].name.as_str() == name)
}

/// A name that none of the fields has.
fn free_name(fields: &[NestedField], name: &str, path: &str) -> Result<Identifier> {
    let name = Identifier::parse("field", name).map_err(|error| error.with_column(path))?;
    match fields.iter().find(|field| field.name.as_str().eq_ignore_ascii_case(name.as_str())) {
        None => Ok(name),
        Some(other) => Err(Error::new(Code::InvalidName, format!("field {} is there already", other.name))
            .with_column(path)
            .with_hint("names that differ only in case cannot stand in one struct: many readers fold them")),
    }
}

fn place_in(fields: &[NestedField], place: Option<&Place>, path: &str) -> Result<Option<usize>> {
    match place {
        None => Ok(None),
        Some(Place::First) => Ok(Some(0)),
        Some(Place::After(name)) => {
            let after = fields.iter().position(|field| field.name.as_str() == name);
            after.map(|place| Some(place + 1)).ok_or_else(|| {
                Error::new(Code::UnknownColumn, format!("there is no field {name} beside {path}")).with_column(name)
            })
        }
    }
}

fn unknown(path: &str) -> Error {
    Error::new(Code::UnknownColumn, format!("there is no column or field {path}")).with_column(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Properties, TableId, TableName, TableSchema};

    fn table() -> TableDescriptor {
        let s = || {
            let fields = [("a", ColumnType::Int16, true), ("b", ColumnType::String, false)];
            ColumnType::structure(fields.map(|(name, kind, nullable)| (name.to_owned(), kind, nullable))).unwrap()
        };
        let l = ColumnType::list(s(), true).unwrap();
        let m = ColumnType::map(ColumnType::Int8, ColumnType::Float32, false).unwrap();
        let columns = [("s", s()), ("l", l), ("m", m)].map(|(name, kind)| (name.to_owned(), kind, true));
        let name = TableName::parse("public", "t").unwrap();
        TableDescriptor::new(TableId(1), name, TableSchema::new(columns).unwrap(), &[], Properties::default(), 0)
            .unwrap()
    }

    fn add(name: &str, column_type: ColumnType) -> Alteration {
        Alteration::Add {
            name: name.to_owned(),
            column_type,
            nullable: true,
            default: None,
            place: None,
            if_not_exists: false,
        }
    }

    fn named(name: &str) -> String {
        name.to_owned()
    }

    #[test]
    fn fields_keep_their_ids_and_new_ones_get_new_ids() {
        let list = ColumnType::list(ColumnType::Int32, true).unwrap();
        let changes = [
            Alteration::Drop { name: named("s.a"), if_exists: false },
            add("s.a", ColumnType::String),
            Alteration::Rename { from: named("s.b"), to: named("c") },
            Alteration::DropNotNull { name: named("s.c") },
            add("l.element.more", list),
            Alteration::SetType { name: named("l.element.a"), column_type: ColumnType::Int64 },
            Alteration::SetType { name: named("m.value"), column_type: ColumnType::Float64 },
            Alteration::DropNotNull { name: named("m.value") },
            Alteration::Move { name: named("l.element.more"), place: Place::First },
        ];
        let before = table();
        let after = before.altered(&changes, true).unwrap();
        let types: Vec<_> = after.schema.columns().iter().map(|column| column.column_type.to_string()).collect();
        let expected = [
            "STRUCT(c VARCHAR, a VARCHAR)",
            "STRUCT(more INTEGER[], a BIGINT, b VARCHAR NOT NULL)[]",
            "MAP(TINYINT, DOUBLE PRECISION)",
        ];
        assert_eq!(types, expected);
        let id = |table: &TableDescriptor, path: &str| {
            let mut table = table.clone();
            let (parent, name) = path.rsplit_once('.').unwrap();
            field_of(table.type_at(parent).unwrap(), name, path).unwrap().id.0
        };
        assert_eq!(id(&before, "s.b"), id(&after, "s.c"));
        assert_eq!(id(&before, "l.element.a"), id(&after, "l.element.a"));
        let last = before.schema.last_id().0;
        assert_eq!(id(&after, "s.a"), last + 1);
        assert_eq!((id(&after, "l.element.more"), id(&after, "l.element.more.element")), (last + 2, last + 3));
        assert_eq!((after.schema.last_id().0, after.schema.id.0), (last + 3, 1));
    }

    #[test]
    fn what_a_nested_column_cannot_become_is_refused() {
        let table = table();
        let one = Alteration::Drop { name: named("s.a"), if_exists: false };
        let left = table.altered(&[one], true).unwrap();
        let only = Alteration::Drop { name: named("s.b"), if_exists: false };
        assert_eq!(left.altered(&[only], true).unwrap_err().code(), Code::InvalidType);
        let required = Alteration::Add {
            name: named("s.x"),
            column_type: ColumnType::Int8,
            nullable: false,
            default: None,
            place: None,
            if_not_exists: false,
        };
        assert!(table.altered(std::slice::from_ref(&required), false).is_ok());
        let mut deep = ColumnType::Int8;
        for _ in 0..8 {
            deep = ColumnType::list(deep, true).unwrap();
        }
        for (change, code) in [
            (required, Code::InvalidType),
            (add("s.x", deep), Code::InvalidType),
            (add("s.A", ColumnType::Int8), Code::InvalidName),
            (add("l.x", ColumnType::Int8), Code::InvalidType),
            (add("m.x", ColumnType::Int8), Code::InvalidType),
            (add("s.x.y", ColumnType::Int8), Code::UnknownColumn),
            (add("x.y", ColumnType::Int8), Code::UnknownColumn),
            (Alteration::Drop { name: named("l.element"), if_exists: false }, Code::InvalidType),
            (Alteration::Drop { name: named("s.x"), if_exists: false }, Code::UnknownColumn),
            (Alteration::Rename { from: named("m.key"), to: named("k") }, Code::InvalidType),
            (Alteration::Rename { from: named("s.a"), to: named("B") }, Code::InvalidName),
            (Alteration::SetType { name: named("m.key"), column_type: ColumnType::Int64 }, Code::InvalidType),
            (Alteration::SetType { name: named("s.a"), column_type: ColumnType::Int8 }, Code::InvalidType),
            (Alteration::DropNotNull { name: named("m.key") }, Code::InvalidType),
            (Alteration::SetDefault { name: named("s.a"), default: Some(named("1")) }, Code::InvalidType),
        ] {
            let error = table.altered(std::slice::from_ref(&change), true).unwrap_err();
            assert_eq!(error.code(), code, "{change:?}: {error}");
        }
    }
}
