//! Columns of data files are found by Parquet field id, never by name: after a RENAME the old files still say the old
//! name, and after DROP and ADD of one name they hold values of another column.
//!
//! A file's schema is looked at with its ids translated to the relation's names; DataFusion's own adapter then does the
//! rest (casts such as the lake's 32-bit integers to SMALLINT, nulls for columns that the file has not), and the columns
//! it leaves are renamed back to what the file calls them. `__kind`, which the lake does not hold, is always `+A`.
//!
//! Nested columns are read whole and fitted by us, since inside them too fields are found by id.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, lit};
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
};
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{ChangeKind, FIELD_ID_KEY, SystemColumn, fitted_values};

use super::{ScanColumn, ScanColumns};

/// Adapts expressions over a relation's columns to the schema of a data file.
#[derive(Debug)]
pub(super) struct ByFieldId(pub ScanColumns);

#[derive(Debug)]
struct Adapter {
    columns: ScanColumns,
    inner: Arc<dyn PhysicalExprAdapter>,
    physical: SchemaRef,
}

impl PhysicalExprAdapterFactory for ByFieldId {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let translated: Vec<_> =
            physical.fields().iter().enumerate().map(|(place, field)| self.translate(place, field)).collect();
        let translated = Arc::new(Schema::new(translated));
        let inner = DefaultPhysicalExprAdapterFactory.create(logical, translated)?;
        Ok(Arc::new(Adapter { columns: self.0.clone(), inner, physical }))
    }
}

impl ByFieldId {
    /// A file's field under the name that the relation has for its id.
    fn translate(&self, place: usize, field: &Field) -> Field {
        if faults::planted(Defect::ColumnsByName) {
            return field.clone();
        }
        let id = field.metadata().get(FIELD_ID_KEY).and_then(|id| id.parse::<i32>().ok());
        let own = id.and_then(|id| (0..self.0.len()).find(|own| self.0.field_id(*own).is_some_and(|own| own.0 == id)));
        match own.map(|own| self.0.schema().field(own)) {
            // The same but for metadata: no cast is needed.
            Some(own) if own.data_type() == field.data_type() || own.data_type().is_nested() => own.clone(),
            Some(own) => Field::new(own.name(), field.data_type().clone(), field.is_nullable()),
            // Names of ours never have a space, so this one meets none of them.
            None => Field::new(format!("not ours {place}"), field.data_type().clone(), field.is_nullable()),
        }
    }
}

impl PhysicalExprAdapter for Adapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let constants = expr.transform(|expr| match expr.downcast_ref::<Column>() {
            Some(column) if self.is_kind(column.name()) => {
                Ok(Transformed::yes(lit(ScalarValue::from(ChangeKind::Append.symbol()))))
            }
            _ => Ok(Transformed::no(expr)),
        });
        let translated = self.inner.rewrite(constants.data()?)?;
        translated
            .transform_down(|expr| match expr.downcast_ref::<Column>() {
                Some(column) if column.index() >= self.physical.fields().len() => {
                    internal_err!("column {} is not in the file", column.name())
                }
                Some(column) => {
                    let name = self.physical.field(column.index()).name();
                    let found: Arc<dyn PhysicalExpr> = Arc::new(Column::new(name, column.index()));
                    let own = self.columns.schema().index_of(column.name()).ok();
                    // What is inside is done: the walk does not come back to it.
                    Ok(match own.and_then(|own| Some((self.columns.nested(own)?, own))) {
                        Some((by_id, own)) => {
                            let field = Arc::new(self.columns.schema().field(own).clone());
                            let fitted = Fitted { found, by_id: by_id.clone(), field };
                            Transformed::new(Arc::new(fitted), true, TreeNodeRecursion::Jump)
                        }
                        None => Transformed::yes(found),
                    })
                }
                None => Ok(Transformed::no(expr)),
            })
            .data()
    }
}

/// A nested column of a file as the relation has it.
#[derive(Debug, Clone, Eq)]
struct Fitted {
    found: Arc<dyn PhysicalExpr>,
    /// Its type, with field ids inside it.
    by_id: DataType,
    /// The relation's.
    field: FieldRef,
}

impl PartialEq for Fitted {
    fn eq(&self, other: &Fitted) -> bool {
        (&self.found, &self.by_id, &self.field) == (&other.found, &other.by_id, &other.field)
    }
}

impl Hash for Fitted {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.found, &self.by_id, &self.field).hash(hasher);
    }
}

impl fmt::Display for Fitted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "by field id({})", self.found)
    }
}

impl PhysicalExpr for Fitted {
    fn return_field(&self, _: &Schema) -> Result<FieldRef> {
        Ok(self.field.clone())
    }

    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(self.field.data_type().clone())
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(self.field.is_nullable())
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let found = self.found.evaluate(batch)?.into_array(batch.num_rows())?;
        let by_id = match faults::planted(Defect::NestedByName) {
            true => found,
            false => fitted_values(&found, &self.by_id)?,
        };
        // Then only what the types say of themselves differs.
        Ok(ColumnarValue::Array(fitted_values(&by_id, self.field.data_type())?))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.found]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match <[_; 1]>::try_from(children) {
            Ok([found]) => Ok(Arc::new(Fitted { found, ..self.as_ref().clone() })),
            Err(_) => internal_err!("a fitted column has one child"),
        }
    }

    fn fmt_sql(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.found.fmt_sql(formatter)
    }
}

impl Adapter {
    fn is_kind(&self, name: &str) -> bool {
        self.columns
            .schema()
            .index_of(name)
            .is_ok_and(|place| self.columns.get(place) == ScanColumn::System(SystemColumn::Kind))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use datafusion::arrow::array::{Array, AsArray, Int32Array, StringArray};
    use datafusion::arrow::datatypes::Int16Type;
    use datafusion::physical_expr::expressions::col;
    use thermocline_schemas::{ColumnType, TableSchema};

    use super::*;

    /// A file from before `a` was renamed to `b`, and from before a new `a` came.
    #[test]
    fn a_column_is_found_by_its_id_whatever_the_file_calls_it() {
        let table = TableSchema::new([
            ("b".to_owned(), ColumnType::Int16, true),
            ("text".to_owned(), ColumnType::String, true),
            ("a".to_owned(), ColumnType::Int16, true),
        ]);
        let columns = ScanColumns::new(&table.unwrap(), &[], &[SystemColumn::Kind]);
        let field = |name: &str, id: i32, data_type: DataType| {
            let id = HashMap::from([(FIELD_ID_KEY.to_owned(), id.to_string())]);
            Field::new(name, data_type, true).with_metadata(id)
        };
        let file = Arc::new(Schema::new(vec![field("text", 2, DataType::Utf8), field("a", 1, DataType::Int32)]));
        let rows = RecordBatch::try_new(
            file.clone(),
            vec![Arc::new(StringArray::from(vec!["x", "y"])), Arc::new(Int32Array::from(vec![7, 8]))],
        );
        let rows = rows.unwrap();
        let adapter = ByFieldId(columns.clone()).create(columns.schema().clone(), file).unwrap();
        let values = |name: &str| {
            let expr = adapter.rewrite(col(name, columns.schema()).unwrap()).unwrap();
            expr.evaluate(&rows).unwrap().into_array(2).unwrap()
        };
        assert_eq!(values("b").as_primitive::<Int16Type>().values(), &[7, 8]);
        assert_eq!(values("a").null_count(), 2);
        assert_eq!(values("text").as_string::<i32>().value(1), "y");
        assert_eq!(values("__kind").as_string::<i32>().value(1), "+A");
    }
}
