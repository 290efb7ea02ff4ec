//! Whole numbers that do not wrap: what is too large for its type is an error, as in Postgres, and never another number.
//!
//! DataFusion adds, subtracts, multiplies and sums them modulo 2^64. Here arithmetic is checked, and `sum` of a BIGINT is
//! kept in 128 bits until it is answered: whatever the order of its rows, only a sum that is too large itself is an error.
//!
//! Not here: what DataFusion makes of sums beside one DISTINCT, sums of sums, of which each must fit; and UBIGINT, which row
//! numbers are, and whose differences are taken.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, Datum};
use datafusion::arrow::compute::kernels::numeric::{add, mul, sub};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Int64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue, not_impl_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, BinaryExpr, ColumnarValue, EmitTo, Expr, ExprSchemable,
    GroupsAccumulator, LogicalPlan, Operator, ReturnFieldArgs, ReversedUDAF, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, SetMonotonicity, Signature, Volatility, lit,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr_common::datum::apply;

use super::comparisons::each_expression;

/// Runs behind DataFusion's own type coercion, when both sides of an operator have one type.
#[derive(Debug)]
pub(super) struct IntegersDoNotWrap;

impl AnalyzerRule for IntegersDoNotWrap {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        each_expression(plan, checked)
    }

    fn name(&self) -> &str {
        "integers_do_not_wrap"
    }
}

fn checked(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let is_integer = |expr: &Expr| {
        expr.get_type(schema).is_ok_and(|data_type| data_type.is_integer() && data_type != DataType::UInt64)
    };
    let call = |function: Checked, left: Expr, right: Expr| {
        let function = Arc::new(ScalarUDF::new_from_impl(function));
        Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![left, right])))
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match Checked::of(op) {
            Some(function) if is_integer(&left) && left.get_type(schema).ok() == right.get_type(schema).ok() => {
                call(function, *left, *right)
            }
            _ => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
        },
        Expr::Negative(inner) if is_integer(&inner) && !matches!(*inner, Expr::Literal(..)) => {
            let zero = inner.get_type(schema).and_then(|data_type| ScalarValue::new_zero(&data_type));
            match zero {
                Ok(zero) => call(Checked::Minus, lit(zero), *inner),
                Err(_) => Transformed::no(Expr::Negative(inner)),
            }
        }
        other => Transformed::no(other),
    }
}

/// An operator of two integers of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Checked {
    Plus,
    Minus,
    Times,
}

impl Checked {
    fn of(operator: Operator) -> Option<Checked> {
        match operator {
            Operator::Plus => Some(Checked::Plus),
            Operator::Minus => Some(Checked::Minus),
            Operator::Multiply => Some(Checked::Times),
            _ => None,
        }
    }

    fn compute(self, left: &dyn Datum, right: &dyn Datum) -> std::result::Result<ArrayRef, ArrowError> {
        match self {
            Checked::Plus => add(left, right),
            Checked::Minus => sub(left, right),
            Checked::Times => mul(left, right),
        }
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        match self {
            Checked::Plus => "plus",
            Checked::Minus => "minus",
            Checked::Times => "times",
        }
    }

    fn signature(&self) -> &Signature {
        static SIGNATURE: LazyLock<Signature> = LazyLock::new(|| Signature::any(2, Volatility::Immutable));
        &SIGNATURE
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types[0].clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), args.arg_fields[0].data_type().clone(), nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        apply(&args.args[0], &args.args[1], |left, right| self.compute(left, right))
    }
}

/// `sum`, of which that of BIGINT is as the module's text says.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ExactSum(pub Arc<AggregateUDF>);

/// What sums of BIGINT are kept in.
const WIDE: DataType = DataType::Decimal128(38, 0);

fn wide(name: &str) -> FieldRef {
    Arc::new(Field::new(name, WIDE, true))
}

fn widened(values: &[ArrayRef]) -> [ArrayRef; 1] {
    let values = values[0].as_primitive::<Int64Type>();
    [Arc::new(values.unary::<_, Decimal128Type>(i128::from).with_data_type(WIDE))]
}

fn narrowed(values: &ArrayRef) -> Result<ArrayRef> {
    let exactly = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(values, &DataType::Int64, &exactly).map_err(|_| too_large())
}

fn too_large() -> DataFusionError {
    let message = "the sum is too large for BIGINT: sum(CAST(x AS DECIMAL(38, 0))) has room".to_owned();
    DataFusionError::ArrowError(Box::new(ArrowError::ArithmeticOverflow(message)), None)
}

impl ExactSum {
    fn with_wide<'a, T>(
        &self,
        args: AccumulatorArgs<'a>,
        make: impl FnOnce(AccumulatorArgs<'_>) -> Result<T>,
        wrap: impl FnOnce(T) -> T,
    ) -> Result<T> {
        if *args.return_field.data_type() != DataType::Int64 {
            return make(args);
        }
        make(AccumulatorArgs { return_field: wide(args.name), ..args }).map(wrap)
    }
}

impl AggregateUDFImpl for ExactSum {
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

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.0.coerce_types(arg_types)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        match args.return_field.data_type() {
            DataType::Int64 => self.0.state_fields(StateFieldsArgs { return_field: wide(args.name), ..args }),
            _ => self.0.state_fields(args),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.with_wide(args, |args| self.0.accumulator(args), |inner| Box::new(WideSum(inner)))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            // DataFusion's counts what stands behind nulls, too.
            return not_impl_err!("sum(DISTINCT …) OVER a frame that moves");
        }
        self.with_wide(args, |args| self.0.create_sliding_accumulator(args), |inner| Box::new(WideSum(inner)))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.0.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.with_wide(args, |args| self.0.create_groups_accumulator(args), |inner| Box::new(WideSums(inner)))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.0.inner().set_monotonicity(data_type)
    }
}

/// One sum, of BIGINT from outside and wide inside.
#[derive(Debug)]
struct WideSum(Box<dyn Accumulator>);

impl Accumulator for WideSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.update_batch(&widened(values))
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.retract_batch(&widened(values))
    }

    fn supports_retract_batch(&self) -> bool {
        self.0.supports_retract_batch()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.state()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        match self.0.evaluate()? {
            ScalarValue::Decimal128(Some(sum), ..) => {
                i64::try_from(sum).map(|sum| ScalarValue::Int64(Some(sum))).map_err(|_| too_large())
            }
            _ => Ok(ScalarValue::Int64(None)),
        }
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}

/// The same of many groups.
struct WideSums(Box<dyn GroupsAccumulator>);

impl GroupsAccumulator for WideSums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        self.0.update_batch(&widened(values), group_indices, filter, groups)
    }

    fn merge_batch(
        &mut self,
        states: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        self.0.merge_batch(states, group_indices, filter, groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        narrowed(&self.0.evaluate(emit_to)?)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.0.state(emit_to)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.0.convert_to_state(&widened(values), filter)
    }

    fn supports_convert_to_state(&self) -> bool {
        self.0.supports_convert_to_state()
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}
