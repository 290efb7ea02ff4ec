//! `min` and `max` where DataFusion 54 loses something.
//!
//! - Over a frame that moves, of which all values are null, they are null, and not what was there before.
//! - A group of which all values are null is a group for ORDER BY … LIMIT too: here groups are not dropped while they are
//!   made, which DataFusion does for aggregates that say in which order they come.
//! - In groups, NaN is above all other numbers, as it is without groups and in ORDER BY. There floats are compared as the
//!   integers that stand in the same order.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type, Int32Type, Int64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, SetMonotonicity, Signature,
    StatisticsArgs,
};

/// See the module's text.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Extreme(pub Arc<AggregateUDF>);

impl AggregateUDFImpl for Extreme {
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
        self.0.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.0.accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let none = ScalarValue::try_from(args.return_field.data_type())?;
        Ok(Box::new(Moving { inner: self.0.create_sliding_accumulator(args)?, values: 0, none }))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.0.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let Some(floats) = Floats::of(args.return_field.data_type()) else {
            return self.0.create_groups_accumulator(args);
        };
        let return_field = Arc::new(Field::new(args.name, floats.integers(), true));
        let inner = self.0.create_groups_accumulator(AccumulatorArgs { return_field, ..args })?;
        Ok(Box::new(FloatGroups { inner, floats }))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.0.reverse_udf()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn value_from_stats(&self, args: &StatisticsArgs) -> Option<ScalarValue> {
        self.0.value_from_stats(args)
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.0.inner().set_monotonicity(data_type)
    }
}

/// Of a frame that moves, with the number of values in it that are not null.
#[derive(Debug)]
struct Moving {
    inner: Box<dyn Accumulator>,
    values: usize,
    none: ScalarValue,
}

fn valid(values: &[ArrayRef]) -> usize {
    values[0].len() - values[0].logical_null_count()
}

impl Accumulator for Moving {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values += valid(values);
        self.inner.update_batch(values)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values -= valid(values).min(self.values);
        self.inner.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.values += valid(states);
        self.inner.merge_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.values == 0 { Ok(self.none.clone()) } else { self.inner.evaluate() }
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}

/// Floats of one width, and the integers in their order.
#[derive(Clone, Copy)]
enum Floats {
    Single,
    Double,
}

impl Floats {
    fn of(data_type: &DataType) -> Option<Floats> {
        match data_type {
            DataType::Float32 => Some(Floats::Single),
            DataType::Float64 => Some(Floats::Double),
            _ => None,
        }
    }

    fn integers(self) -> DataType {
        match self {
            Floats::Single => DataType::Int32,
            Floats::Double => DataType::Int64,
        }
    }

    /// As [`f64::total_cmp`] orders them, all NaN being one.
    fn to_integers(self, values: &ArrayRef) -> ArrayRef {
        match self {
            Floats::Single => Arc::new(values.as_primitive::<Float32Type>().unary::<_, Int32Type>(|value| {
                let bits = if value.is_nan() { f32::NAN.to_bits() & !(1 << 31) } else { value.to_bits() } as i32;
                bits ^ ((bits >> 31) as u32 >> 1) as i32
            })),
            Floats::Double => Arc::new(values.as_primitive::<Float64Type>().unary::<_, Int64Type>(|value| {
                let bits = if value.is_nan() { f64::NAN.to_bits() & !(1 << 63) } else { value.to_bits() } as i64;
                bits ^ ((bits >> 63) as u64 >> 1) as i64
            })),
        }
    }

    /// Back: the order's map is its own inverse.
    fn to_floats(self, values: &ArrayRef) -> ArrayRef {
        match self {
            Floats::Single => Arc::new(
                values
                    .as_primitive::<Int32Type>()
                    .unary::<_, Float32Type>(|bits| f32::from_bits((bits ^ ((bits >> 31) as u32 >> 1) as i32) as u32)),
            ),
            Floats::Double => Arc::new(
                values
                    .as_primitive::<Int64Type>()
                    .unary::<_, Float64Type>(|bits| f64::from_bits((bits ^ ((bits >> 63) as u64 >> 1) as i64) as u64)),
            ),
        }
    }
}

/// Floats from outside, integers inside.
struct FloatGroups {
    inner: Box<dyn GroupsAccumulator>,
    floats: Floats,
}

impl FloatGroups {
    fn inward(&self, values: &[ArrayRef]) -> [ArrayRef; 1] {
        [self.floats.to_integers(&values[0])]
    }

    fn outward(&self, values: Vec<ArrayRef>) -> Vec<ArrayRef> {
        values.iter().map(|values| self.floats.to_floats(values)).collect()
    }
}

impl GroupsAccumulator for FloatGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        let values = self.inward(values);
        self.inner.update_batch(&values, group_indices, filter, groups)
    }

    fn merge_batch(
        &mut self,
        states: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        let states = self.inward(states);
        self.inner.merge_batch(&states, group_indices, filter, groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(self.floats.to_floats(&self.inner.evaluate(emit_to)?))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let state = self.inner.state(emit_to)?;
        Ok(self.outward(state))
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        Ok(self.outward(self.inner.convert_to_state(&self.inward(values), filter)?))
    }

    fn supports_convert_to_state(&self) -> bool {
        self.inner.supports_convert_to_state()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}
