//! UUIDs among texts: what is written as text and compared with a UUID, or cast to one, is read as a UUID.
//!
//! A UUID column holds sixteen bytes, and a field's metadata says that they are a UUID. The planner would compare them with
//! the bytes of `'0189dd5c-…'`, or refuse to. So before it brings both sides of a comparison to one type, texts that meet
//! UUIDs are wrapped into a function that reads them, as PostgreSQL does it. A text that is no UUID is an error, not a
//! false.
//!
//! Not here: answers, where the metadata makes encoders write UUIDs, and INSERT, which fits values to columns.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use thermocline_schemas::text::{conform, uuid_text};
use thermocline_schemas::{Code, ColumnType, Error, TableSchema, is_uuid};

use super::comparisons::{each_expression, with_sides};

/// Runs before DataFusion's own type coercion.
#[derive(Debug)]
pub(super) struct UuidsAmongTexts;

impl AnalyzerRule for UuidsAmongTexts {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        each_expression(plan, rewritten)
    }

    fn name(&self) -> &str {
        "uuids_among_texts"
    }
}

fn rewritten(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let made = match &expr {
        Expr::Cast(Cast { expr, field }) if is_uuid(field) => {
            is_text(expr, schema).then(|| call(UuidFunction::Parse, expr.as_ref().clone()))
        }
        Expr::Cast(Cast { expr, field }) if is_text_type(field.data_type()) => {
            holds_uuids(expr, schema).then(|| call(UuidFunction::Spell, expr.as_ref().clone()))
        }
        _ => with_sides(&expr, |sides| all_uuids(sides, schema)),
    };
    made.map_or_else(|| Transformed::no(expr), Transformed::yes)
}

/// These with the texts among them read as UUIDs; none if it is not UUIDs and texts that meet.
fn all_uuids(exprs: &[&Expr], schema: &DFSchema) -> Option<Vec<Expr>> {
    let meets = |holds: fn(&Expr, &DFSchema) -> bool| exprs.iter().any(|expr| holds(expr, schema));
    if !meets(holds_uuids) || !meets(is_text) {
        return None;
    }
    let read = |expr: &&Expr| match is_text(expr, schema) {
        true => call(UuidFunction::Parse, (*expr).clone()),
        false => (*expr).clone(),
    };
    Some(exprs.iter().map(read).collect())
}

// A column of an outer query has no type here.

fn holds_uuids(expr: &Expr, schema: &DFSchema) -> bool {
    expr.to_field(schema).is_ok_and(|(_, field)| is_uuid(&field))
}

fn is_text(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|data_type| is_text_type(&data_type))
}

fn is_text_type(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn call(function: UuidFunction, argument: Expr) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(function)), vec![argument]))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum UuidFunction {
    Parse,
    Spell,
}

impl UuidFunction {
    fn apply(self, values: &ArrayRef) -> Result<ArrayRef> {
        match self {
            UuidFunction::Parse => parse(values).map_err(|error| DataFusionError::External(Box::new(error))),
            UuidFunction::Spell => {
                let uuids = values.as_fixed_size_binary();
                Ok(Arc::new(uuids.iter().map(|uuid| uuid.map(uuid_text)).collect::<StringArray>()))
            }
        }
    }
}

fn parse(values: &ArrayRef) -> Result<ArrayRef, Error> {
    let texts = cast(values, &DataType::Utf8)?;
    let column = TableSchema::new([("uuid".to_owned(), ColumnType::Uuid, true)])?;
    let texts =
        RecordBatch::try_new(Arc::new(Schema::new(vec![Field::new("uuid", DataType::Utf8, true)])), vec![texts])?;
    let parsed = conform(&column, &texts).map_err(|error| {
        let value = error.value().unwrap_or_default().to_owned();
        Error::new(Code::InvalidSql, format!("{value:?} is compared with a UUID, or cast to one, and is none"))
            .with_hint("as '0189dd5c-a2a5-7d1e-9a4c-0242ac120002'")
    })?;
    Ok(parsed.column(0).clone())
}

impl ScalarUDFImpl for UuidFunction {
    fn name(&self) -> &str {
        match self {
            UuidFunction::Parse => "uuid",
            UuidFunction::Spell => "uuid_text",
        }
    }

    fn signature(&self) -> &Signature {
        static SIGNATURE: std::sync::LazyLock<Signature> =
            std::sync::LazyLock::new(|| Signature::any(1, Volatility::Immutable));
        &SIGNATURE
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self {
            UuidFunction::Parse => ColumnType::Uuid.arrow(),
            UuidFunction::Spell => DataType::Utf8,
        })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        let made = match self {
            UuidFunction::Parse => ColumnType::Uuid,
            UuidFunction::Spell => ColumnType::String,
        };
        Ok(Arc::new(made.field(self.name(), ColumnType::arrow, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [argument] = args.args.as_slice() else {
            return Err(DataFusionError::Internal(format!("{} takes one value", self.name())));
        };
        Ok(match argument {
            ColumnarValue::Array(values) => ColumnarValue::Array(self.apply(values)?),
            ColumnarValue::Scalar(value) => {
                let made = self.apply(&value.to_array()?)?;
                ColumnarValue::Scalar(ScalarValue::try_from_array(&made, 0)?)
            }
        })
    }
}
