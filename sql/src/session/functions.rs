//! DataFusion's functions, less those that make much from little.
//!
//! A function call is not counted by the memory pool, so a short text could ask for any amount: `repeat('x', 1e10)`. Those
//! whose result's size is a number among their arguments are measured before they run; those that make arrays by number
//! are left out. Functions that multiply step by step (nested `replace`) are not caught here.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use crate::meaning::aggregate;

/// What one call for one batch may make.
const RESULT_BYTES_MAX: i128 = 64 << 20;
/// Of these, the second argument says how long, or how often, the result is.
const MEASURED: [&str; 3] = ["repeat", "lpad", "rpad"];
/// These make arrays by number.
const LEFT_OUT: [&str; 9] = [
    "range",
    "generate_series",
    "gen_series",
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
    "arrow_metadata",
    "version",
];

/// The state with its functions as above.
pub(super) fn tame(state: SessionState) -> SessionState {
    let functions = state.scalar_functions().iter().filter(|(name, _)| !LEFT_OUT.contains(&name.as_str()));
    let functions = functions.map(|(name, function)| match MEASURED.contains(&name.as_str()) {
        true => Arc::new(ScalarUDF::new_from_impl(Measured(function.clone()))),
        false => function.clone(),
    });
    let functions = functions.collect();
    let aggregates = state.aggregate_functions().values().map(aggregate).collect();
    let mut builder = SessionStateBuilder::new_from_existing(state);
    *builder.scalar_functions() = Some(functions);
    *builder.aggregate_functions() = Some(aggregates);
    builder.build()
}

/// A function that first looks at how much it is to make.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Measured(Arc<ScalarUDF>);

impl Measured {
    fn check(&self, args: &ScalarFunctionArgs) -> Result<()> {
        let [text, count, ..] = args.args.as_slice() else { return Ok(()) };
        let rows = args.number_rows as i128;
        let sum = |value: &ColumnarValue, of: fn(&ArrayRef) -> Result<i128>| -> Result<i128> {
            match value {
                ColumnarValue::Scalar(scalar) => Ok(of(&scalar.to_array()?)?.saturating_mul(rows)),
                ColumnarValue::Array(array) => of(array),
            }
        };
        let largest = |value: &ColumnarValue| -> Result<i128> {
            match value {
                ColumnarValue::Scalar(scalar) => longest(&scalar.to_array()?),
                ColumnarValue::Array(array) => longest(array),
            }
        };
        let counts = sum(count, positive_sum)?;
        let each = if self.0.name() == "repeat" { largest(text)? } else { 4 };
        let bytes = counts.saturating_mul(each);
        if bytes > RESULT_BYTES_MAX {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{} would make {bytes} bytes, more than {RESULT_BYTES_MAX}",
                self.0.name()
            )));
        }
        Ok(())
    }
}

fn positive_sum(counts: &ArrayRef) -> Result<i128> {
    let counts = cast(counts, &DataType::Int64)?;
    Ok(counts.as_primitive::<Int64Type>().iter().flatten().map(|count| i128::from(count.max(0))).sum())
}

fn longest(texts: &ArrayRef) -> Result<i128> {
    let texts = cast(texts, &DataType::LargeUtf8)?;
    Ok(texts.as_string::<i64>().iter().flatten().map(str::len).max().unwrap_or(0) as i128)
}

impl ScalarUDFImpl for Measured {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.0.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.0.return_field_from_args(args)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.0.coerce_types(arg_types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.check(&args)?;
        self.0.invoke_with_args(args)
    }
}
