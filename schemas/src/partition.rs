//! Partitions: rows that lie together because a few values of theirs, or something made of them, are the same.
//!
//! What is made of a column is one of Iceberg's transforms, computed as its specification says, so that the lake's
//! partitions hold the same rows as ours: a date or a time cut to years, months, days or hours since 1970, text or a number
//! cut short, a hash modulo n, or the value as it is. A row whose value is null is in a partition of null.
//!
//! Always: which partition a row is in is told by its own columns alone, whatever they are called and in whichever version
//! it was written: columns that partitions are made of keep their type and stay. A partition's number, its
//! [`PartitionId`](crate::PartitionId), is its place in the list of the table's partitions, which only grows.
//!
//! Not here: floats, which are no identity; bytes and UUIDs as they are, which engines spell differently (their hash is fine).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int32Array, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Int32Type, Int64Type, TimeUnit};
use arrow::row::{RowConverter, SortField};
use serde::{Deserialize, Serialize};

use crate::bucket::{bucket_of_hash, hash_column};
use crate::{Code, Column, ColumnType, Error, FieldId, Identifier, Result};

/// More than these make partitions of single rows.
const FIELDS_MAX: usize = 8;
/// The most partitions of one table: each has hot rows, files and offsets of its own.
pub const PARTITIONS_MAX: usize = 10_000;
/// The most buckets of one table over all its partitions.
pub const BUCKETS_MAX: usize = 10_000;
/// A text that is a partition's value is in paths and in the catalog.
pub(crate) const TEXT_BYTES_MAX: usize = 256;
const WIDTH_MAX: u32 = i32::MAX as u32;

/// What is made of a column's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    Identity,
    /// Since 1970, as the three below.
    Year,
    Month,
    Day,
    Hour,
    /// The hash of the value modulo so many.
    Bucket(u32),
    /// So many characters of a text; of a number, the next lower multiple of so many.
    Truncate(u32),
}

/// One thing that all rows of a partition have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionField {
    /// The column that it is made of.
    pub source: FieldId,
    pub transform: Transform,
    /// What the lake calls it.
    pub name: String,
}

/// What a transform makes of a value that is not null.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionValue {
    Boolean(bool),
    /// Integers, dates, times, what is counted since 1970, buckets.
    Integer(i64),
    /// Its digits without the point.
    Decimal(#[serde(with = "digits")] i128),
    Text(String),
}

/// The values of a partition, one for each field, and none where it is null.
pub type PartitionValues = Vec<Option<PartitionValue>>;

/// JSON numbers are not so wide everywhere.
mod digits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &i128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i128, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The fields that a text like `day(ts), region, bucket(16, id)` names, checked against the columns of a table.
pub(crate) fn partition_fields(text: &str, columns: &[Column]) -> Result<Vec<PartitionField>> {
    let mut fields: Vec<PartitionField> = Vec::new();
    for (transform, name) in parse(text)? {
        let Some(column) = columns.iter().find(|column| column.name.as_str() == name) else {
            return Err(refuse(text, format!("{name} is not a column of the table")).with_column(&name));
        };
        if !transform.takes(&column.column_type) {
            let why = match (transform, &column.column_type) {
                (Transform::Identity, ColumnType::Float32 | ColumnType::Float64) => {
                    ": NaN and −0 make floats no identity"
                }
                (Transform::Identity, _) => ": bucket(n, …) of it can be",
                _ => "",
            };
            let message =
                format!("{} cannot be made of {name}, which is {}{why}", transform.name(), column.column_type);
            return Err(refuse(text, message).with_column(&name));
        }
        let clashes = |other: &PartitionField| other.source == column.id && other.transform.clashes(transform);
        if fields.iter().any(clashes) {
            return Err(refuse(text, format!("{name} is there twice in the same way")).with_column(&name));
        }
        let named = field_name(column, transform, columns, &fields);
        fields.push(PartitionField { source: column.id, transform, name: named });
    }
    match fields.len() {
        1..=FIELDS_MAX => Ok(fields),
        0 => Err(refuse(text, "names no column".to_owned())),
        count => Err(refuse(text, format!("has {count} parts, {FIELDS_MAX} are the most"))),
    }
}

/// What the lake calls a field: as Spark does, unless a column or another field is called so.
fn field_name(column: &Column, transform: Transform, columns: &[Column], others: &[PartitionField]) -> String {
    let suffix = match transform {
        Transform::Identity => return column.name.as_str().to_owned(),
        Transform::Truncate(_) => "trunc",
        other => other.name(),
    };
    let mut name = format!("{}_{suffix}", column.name);
    let taken = |name: &str| {
        let mut columns = columns.iter().map(|column| column.name.as_str());
        columns.any(|column| column.eq_ignore_ascii_case(name))
            || others.iter().any(|other| other.name.eq_ignore_ascii_case(name))
    };
    while taken(&name) {
        // No column of a user starts with two underscores, and none of ours ends so.
        name.insert_str(0, "__");
    }
    name
}

/// The transforms and columns of a text. Names are exact; those of transforms are Iceberg's, or Spark's in the plural.
fn parse(text: &str) -> Result<Vec<(Transform, String)>> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_usize, 0);
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    let part = |part: &str| -> Option<(Transform, String)> {
        let part = part.trim();
        let name = |name: &str| Identifier::parse("column", name.trim()).ok().map(|name| name.as_str().to_owned());
        let Some((transform, arguments)) = part.split_once('(') else {
            return Some((Transform::Identity, name(part)?));
        };
        let arguments: Vec<_> = arguments.strip_suffix(')')?.split(',').collect();
        let transform = transform.trim().to_ascii_lowercase();
        let width = |text: &str| text.trim().parse().ok().filter(|width| (1..=WIDTH_MAX).contains(width));
        match (transform.as_str(), arguments.as_slice()) {
            ("identity", [column]) => Some((Transform::Identity, name(column)?)),
            ("year" | "years", [column]) => Some((Transform::Year, name(column)?)),
            ("month" | "months", [column]) => Some((Transform::Month, name(column)?)),
            ("day" | "days", [column]) => Some((Transform::Day, name(column)?)),
            ("hour" | "hours", [column]) => Some((Transform::Hour, name(column)?)),
            ("bucket", [count, column]) => Some((Transform::Bucket(width(count)?), name(column)?)),
            ("truncate", [length, column]) => Some((Transform::Truncate(width(length)?), name(column)?)),
            _ => None,
        }
    };
    let unclear = |found: &str| {
        refuse(text, format!("{} is neither a column nor something made of one", found.trim().escape_debug()))
            .with_hint(
                "a column, year(c), month(c), day(c), hour(c), bucket(n, c) or truncate(n, c), separated by commas",
            )
    };
    parts.into_iter().map(|found| part(found).ok_or_else(|| unclear(found))).collect()
}

fn refuse(text: &str, why: String) -> Error {
    Error::new(Code::InvalidProperty, format!("partition_by: {why}")).with_value(text)
}

/// As a property says it.
pub(crate) fn partition_text(transform: Transform, column: &str) -> String {
    match transform {
        Transform::Identity => column.to_owned(),
        Transform::Bucket(width) | Transform::Truncate(width) => format!("{}({width}, {column})", transform.name()),
        other => format!("{}({column})", other.name()),
    }
}

impl Transform {
    pub fn name(self) -> &'static str {
        match self {
            Transform::Identity => "identity",
            Transform::Year => "year",
            Transform::Month => "month",
            Transform::Day => "day",
            Transform::Hour => "hour",
            Transform::Bucket(_) => "bucket",
            Transform::Truncate(_) => "truncate",
        }
    }

    fn takes(self, column: &ColumnType) -> bool {
        use ColumnType::*;
        let is_instant = matches!(column, Timestamp | TimestampTz | TimestampNs | TimestampTzNs);
        let is_integer = matches!(column, Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32);
        match self {
            Transform::Identity => {
                is_instant || is_integer || matches!(column, Boolean | Decimal { .. } | Date | Time | String)
            }
            Transform::Year | Transform::Month | Transform::Day => is_instant || matches!(column, Date),
            Transform::Hour => is_instant,
            Transform::Bucket(_) => column.can_be_bucket_key(),
            Transform::Truncate(_) => is_integer || matches!(column, Decimal { .. } | String),
        }
    }

    /// Whether one table cannot have both of one column: one says all that the other does.
    fn clashes(self, other: Transform) -> bool {
        let is_time =
            |transform| matches!(transform, Transform::Year | Transform::Month | Transform::Day | Transform::Hour);
        self == other || is_time(self) && is_time(other)
    }

    /// What it makes of each value: a column of Boolean, Int32, Int64, Decimal128 or Utf8, null where the value is.
    fn apply(self, column: &ArrayRef) -> Result<ArrayRef> {
        let unfit = || Error::internal(format!("{} of {}", self.name(), column.data_type()));
        Ok(match self {
            Transform::Identity => match column.data_type() {
                DataType::Boolean | DataType::Utf8 | DataType::Decimal128(_, _) => column.clone(),
                _ => whole_numbers(column)?,
            },
            Transform::Bucket(buckets) => {
                let hashes = hash_column(column)?.into_iter();
                let values = hashes.map(|hash| bucket_of_hash(hash, buckets) as i32).collect::<Vec<_>>();
                Arc::new(Int32Array::new(values.into(), column.nulls().cloned()))
            }
            Transform::Truncate(width) => match column.data_type() {
                DataType::Utf8 => {
                    let values = column.as_string::<i32>().iter();
                    Arc::new(values.map(|text| text.map(|text| first_characters(text, width))).collect::<StringArray>())
                }
                DataType::Decimal128(_, _) => {
                    let down = |value: i128| value.wrapping_sub(value.rem_euclid(i128::from(width)));
                    Arc::new(
                        column
                            .as_primitive::<Decimal128Type>()
                            .unary::<_, Decimal128Type>(down)
                            .with_data_type(column.data_type().clone()),
                    )
                }
                // As wide as the lake has it: what goes below the lowest comes out on top, as the specification's integers do.
                DataType::Int64 | DataType::UInt32 => {
                    let down = |value: i64| value.wrapping_sub(value.rem_euclid(i64::from(width)));
                    Arc::new(whole_numbers(column)?.as_primitive::<Int64Type>().unary::<_, Int64Type>(down))
                }
                _ => {
                    let down = |value: i32| value.wrapping_sub(value.rem_euclid(width as i32));
                    let values = cast(column, &DataType::Int32)?;
                    let values = values.as_primitive_opt::<Int32Type>().ok_or_else(unfit)?;
                    Arc::new(values.unary::<_, Int32Type>(down))
                }
            },
            Transform::Year | Transform::Month | Transform::Day | Transform::Hour => {
                let values = match column.data_type() {
                    DataType::Date32 => {
                        let days = column.as_primitive::<Date32Type>();
                        days.unary::<_, Int64Type>(|day| self.of_hours(i64::from(day) * 24))
                    }
                    DataType::Timestamp(unit, _) => {
                        let per_hour = per_second(*unit) * 3_600;
                        let instants = whole_numbers(column)?;
                        instants
                            .as_primitive::<Int64Type>()
                            .unary::<_, Int64Type>(|instant| self.of_hours(instant.div_euclid(per_hour)))
                    }
                    _ => return Err(unfit()),
                };
                let values = cast(&values, &DataType::Int32)?;
                if values.null_count() > column.null_count() {
                    let message = format!("a time is too far away for the lake to tell its {}", self.name());
                    return Err(Error::new(Code::InvalidRow, message));
                }
                values
            }
        })
    }

    /// Of an hour since 1970.
    fn of_hours(self, hours: i64) -> i64 {
        let day = hours.div_euclid(24);
        match self {
            Transform::Hour => hours,
            Transform::Day => day,
            Transform::Month => {
                let (year, month) = month_of(day);
                (year - 1970) * 12 + month - 1
            }
            _ => month_of(day).0 - 1970,
        }
    }

    /// The first hour since 1970 of what is counted so.
    fn first_hour(self, value: i64) -> Option<i64> {
        match self {
            Transform::Hour => Some(value),
            Transform::Day => value.checked_mul(24),
            Transform::Month => first_day(1970 + value.div_euclid(12), value.rem_euclid(12) + 1)?.checked_mul(24),
            _ => first_day(1970 + value, 1)?.checked_mul(24),
        }
    }
}

/// Integers, dates and times as what they are made of, 64 bits wide.
fn whole_numbers(column: &ArrayRef) -> Result<ArrayRef> {
    let raw = match column.data_type() {
        DataType::Date32 => cast(column, &DataType::Int32)?,
        _ => column.clone(),
    };
    Ok(cast(&raw, &DataType::Int64)?)
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

fn first_characters(text: &str, width: u32) -> &str {
    text.char_indices().nth(width as usize).map_or(text, |(end, _)| &text[..end])
}

/// The year and the month, 1 to 12, of a day since 1970. Of a calendar whose years begin in March, so that the day that
/// some years have more is their last.
fn month_of(day: i64) -> (i64, i64) {
    // Days since the first of March of the year 0, in spans of 400 years, which all have as many days.
    let day = day + 719_468;
    let (span, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (span * 400 + year + later, month)
}

/// The day since 1970 on which a month begins.
fn first_day(year: i64, month: i64) -> Option<i64> {
    let date = chrono::NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, u32::try_from(month).ok()?, 1)?;
    Some(date.signed_duration_since(chrono::NaiveDate::default()).num_days())
}

/// When what rows of a partition have in common is over, in microseconds since 1970: the first moment that is in none of
/// them. None of a field that says nothing of time, or of a time too far away.
pub(crate) fn time_end(field: &PartitionField, column: &ColumnType, value: &PartitionValue) -> Option<i64> {
    use ColumnType::{Date, Timestamp, TimestampNs, TimestampTz, TimestampTzNs};
    const HOUR: i64 = 3_600_000_000;
    let PartitionValue::Integer(value) = value else { return None };
    let next = value.checked_add(1)?;
    match (field.transform, column) {
        (Transform::Year, _) => first_day(next.checked_add(1970)?, 1)?.checked_mul(24 * HOUR),
        (Transform::Month, _) => {
            first_day(next.div_euclid(12).checked_add(1970)?, next.rem_euclid(12) + 1)?.checked_mul(24 * HOUR)
        }
        (Transform::Day, _) | (Transform::Identity, Date) => next.checked_mul(24 * HOUR),
        (Transform::Hour, _) => next.checked_mul(HOUR),
        (Transform::Identity, Timestamp | TimestampTz) => Some(next),
        (Transform::Identity, TimestampNs | TimestampTzNs) => value.div_euclid(1000).checked_add(1),
        _ => None,
    }
}

/// Whether a field of a column of this type says when.
pub(crate) fn tells_time(field: &PartitionField, column: &ColumnType) -> bool {
    time_end(field, column, &PartitionValue::Integer(0)).is_some()
}

/// Which partition each of these rows is in: the different values there are, in the order in which they come, and for each
/// row the number of its own among them. `source` gives the rows' column of a field id.
pub fn partition_rows<'a>(
    fields: &[PartitionField],
    source: impl Fn(FieldId) -> Option<&'a ArrayRef>,
) -> Result<(Vec<PartitionValues>, Vec<u32>)> {
    let made = fields.iter().map(|field| {
        let column = source(field.source).ok_or_else(|| Error::internal("rows without a column of their partition"))?;
        field.transform.apply(column)
    });
    let made = made.collect::<Result<Vec<_>>>()?;
    let sorts = made.iter().map(|column| SortField::new(column.data_type().clone()));
    let rows = RowConverter::new(sorts.collect())?.convert_columns(&made)?;
    let mut known: HashMap<&[u8], u32> = HashMap::new();
    let (mut values, mut numbers) = (Vec::new(), Vec::with_capacity(rows.num_rows()));
    for row in 0..rows.num_rows() {
        // Rows of one partition mostly come together.
        if let Some(last) = numbers.last().filter(|_| rows.row(row) == rows.row(row - 1)) {
            numbers.push(*last);
            continue;
        }
        let number = match known.get(rows.row(row).data()) {
            Some(number) => *number,
            None => {
                let number = values.len() as u32;
                if values.len() == PARTITIONS_MAX {
                    let message =
                        format!("the rows are of more than {PARTITIONS_MAX} partitions, the most of one table");
                    return Err(Error::new(Code::InvalidRow, message).with_row(row as u64));
                }
                values.push(made.iter().map(|column| value(column, row)).collect::<Result<_>>()?);
                known.insert(rows.row(row).data(), number);
                number
            }
        };
        numbers.push(number);
    }
    Ok((values, numbers))
}

fn value(column: &ArrayRef, row: usize) -> Result<Option<PartitionValue>> {
    if column.is_null(row) {
        return Ok(None);
    }
    Ok(Some(match column.data_type() {
        DataType::Boolean => PartitionValue::Boolean(column.as_boolean().value(row)),
        DataType::Int32 => PartitionValue::Integer(i64::from(column.as_primitive::<Int32Type>().value(row))),
        DataType::Int64 => PartitionValue::Integer(column.as_primitive::<Int64Type>().value(row)),
        DataType::Decimal128(_, _) => PartitionValue::Decimal(column.as_primitive::<Decimal128Type>().value(row)),
        DataType::Utf8 => PartitionValue::Text(column.as_string::<i32>().value(row).to_owned()),
        other => return Err(Error::internal(format!("{other} as a partition's value"))),
    }))
}

/// Between which values, both included, a column lies in all rows of a partition, as arrays of one; none where that is not
/// known. Of rows that all have null, the lower bound is null.
pub fn partition_bounds(
    transform: Transform,
    value: &Option<PartitionValue>,
    column: &ColumnType,
) -> (Option<ArrayRef>, Option<ArrayRef>) {
    let data_type = column.arrow();
    let Some(value) = value else {
        return (Some(arrow::array::new_null_array(&data_type, 1)), None);
    };
    let array = |value: Option<i64>| value.and_then(|value| one(&data_type, value));
    match (transform, value) {
        (Transform::Identity, value) => {
            let array: Option<ArrayRef> = match value {
                PartitionValue::Boolean(value) => Some(Arc::new(BooleanArray::from(vec![*value]))),
                PartitionValue::Integer(value) => one(&data_type, *value),
                PartitionValue::Decimal(value) => {
                    Some(Arc::new(Decimal128Array::from(vec![*value]).with_data_type(data_type)))
                }
                PartitionValue::Text(value) => Some(Arc::new(StringArray::from(vec![value.as_str()]))),
            };
            (array.clone(), array)
        }
        (Transform::Truncate(width), PartitionValue::Integer(value)) => match value.checked_add(i64::from(width) - 1) {
            // One that went below the lowest number tells nothing.
            Some(upper) if *value <= upper && array(Some(*value)).is_some() && array(Some(upper)).is_some() => {
                (array(Some(*value)), array(Some(upper)))
            }
            _ => (None, None),
        },
        (Transform::Truncate(_), PartitionValue::Text(value)) => {
            (Some(Arc::new(StringArray::from(vec![value.as_str()]))), None)
        }
        (Transform::Year | Transform::Month | Transform::Day | Transform::Hour, PartitionValue::Integer(value)) => {
            let hours =
                (transform.first_hour(*value), value.checked_add(1).and_then(|next| transform.first_hour(next)));
            let (lower, upper) = match (&data_type, hours) {
                (DataType::Date32, (Some(first), Some(next))) => {
                    (first.div_euclid(24).into(), (next.div_euclid(24) - 1).into())
                }
                (DataType::Timestamp(unit, _), (Some(first), Some(next))) => {
                    let per_hour = per_second(*unit) * 3_600;
                    (first.checked_mul(per_hour), next.checked_mul(per_hour).map(|next| next - 1))
                }
                _ => (None, None),
            };
            (array(lower), array(upper))
        }
        _ => (None, None),
    }
}

/// An array of one number, date or time; none if it does not fit.
fn one(data_type: &DataType, value: i64) -> Option<ArrayRef> {
    let narrow: ArrayRef = match data_type {
        DataType::Date32 => Arc::new(Int32Array::from(vec![i32::try_from(value).ok()?])),
        _ => Arc::new(Int64Array::from(vec![value])),
    };
    cast(&narrow, data_type).ok().filter(|array| array.is_valid(0))
}

/// How paths spell a null; the text that is spelled so has an escape.
const NO_VALUE: &str = "null";

/// A partition as paths spell it, `ts_day=2026-11-23/region=eu`; `columns` are those of any version of the table. No two
/// partitions of a table are spelled alike.
pub struct PartitionPath<'a> {
    pub fields: &'a [PartitionField],
    pub values: &'a PartitionValues,
    pub columns: &'a [Column],
}

impl fmt::Display for PartitionPath<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (field, value)) in self.fields.iter().zip(self.values).enumerate() {
            let slash = if at > 0 { "/" } else { "" };
            let column = self.columns.iter().find(|column| column.id == field.source);
            let text = column.map(|column| value_text(field.transform, value, &column.column_type)).unwrap_or_default();
            match value {
                // A text, and not no value.
                Some(PartitionValue::Text(text)) if text == NO_VALUE => {
                    write!(formatter, "{slash}{}=%6Eull", field.name)?
                }
                _ => write!(formatter, "{slash}{}={}", field.name, escaped(&text))?,
            }
        }
        Ok(())
    }
}

fn value_text(transform: Transform, value: &Option<PartitionValue>, column: &ColumnType) -> String {
    let Some(value) = value else { return NO_VALUE.to_owned() };
    match (transform, value) {
        (Transform::Year, PartitionValue::Integer(value)) => format!("{:04}", 1970 + value),
        (Transform::Month, PartitionValue::Integer(value)) => {
            format!("{:04}-{:02}", 1970 + value.div_euclid(12), value.rem_euclid(12) + 1)
        }
        (Transform::Day, PartitionValue::Integer(value)) => day_text(*value),
        (Transform::Hour, PartitionValue::Integer(value)) => {
            format!("{}-{:02}", day_text(value.div_euclid(24)), value.rem_euclid(24))
        }
        (Transform::Bucket(_), PartitionValue::Integer(value)) => value.to_string(),
        (_, PartitionValue::Text(text)) => text.clone(),
        (_, PartitionValue::Boolean(value)) => value.to_string(),
        (_, PartitionValue::Integer(value)) => {
            one(&column.arrow(), *value).map_or_else(|| value.to_string(), |array| crate::text::spelled(&array, 0))
        }
        (_, PartitionValue::Decimal(value)) => {
            let array: ArrayRef = Arc::new(Decimal128Array::from(vec![*value]).with_data_type(column.arrow()));
            crate::text::spelled(&array, 0)
        }
    }
}

fn day_text(day: i64) -> String {
    one(&DataType::Date32, day).map_or_else(|| day.to_string(), |array| crate::text::spelled(&array, 0))
}

/// Bytes that are not safe in a path as `%` and two digits.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, TimestampMicrosecondArray, TimestampNanosecondArray};
    use chrono::{DateTime, Datelike, Days, NaiveDate};
    use proptest::prelude::*;

    use super::*;
    use crate::TableSchema;

    fn columns() -> Vec<Column> {
        let columns = [
            ("id", ColumnType::Int64),
            ("region", ColumnType::String),
            ("day", ColumnType::Date),
            ("at", ColumnType::TimestampTz),
            ("price", ColumnType::Decimal { precision: 10, scale: 2 }),
            ("ratio", ColumnType::Float64),
            ("flag", ColumnType::Boolean),
            ("key", ColumnType::Uuid),
            ("at_day", ColumnType::Int32),
        ];
        let columns = columns.map(|(name, kind)| (name.to_owned(), kind, true));
        TableSchema::new(columns).unwrap().columns().to_vec()
    }

    #[test]
    fn texts_say_what_partitions_are_made_of() {
        for (text, names, spelled) in [
            ("region", "region", "region"),
            (" days( at ) ,region,bucket( 16 , id)", "__at_day region id_bucket", "day(at), region, bucket(16, id)"),
            (
                "truncate(100, id), truncate(2, region)",
                "id_trunc region_trunc",
                "truncate(100, id), truncate(2, region)",
            ),
            ("month(day), hour(at)", "day_month at_hour", "month(day), hour(at)"),
            ("identity(flag), bucket(2, key), price", "flag key_bucket price", "flag, bucket(2, key), price"),
            ("bucket(2, id), bucket(3, id)", "id_bucket __id_bucket", "bucket(2, id), bucket(3, id)"),
        ] {
            let columns = columns();
            let fields = partition_fields(text, &columns).unwrap();
            let named: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
            assert_eq!(named.join(" "), names, "{text}");
            let name = |id| columns.iter().find(|column| column.id == id).unwrap().name.as_str();
            let text: Vec<_> = fields.iter().map(|field| partition_text(field.transform, name(field.source))).collect();
            assert_eq!(text.join(", "), spelled);
        }
    }

    #[test]
    fn what_no_partition_can_be_made_of_is_refused() {
        for (text, why) in [
            ("", "neither"),
            ("nothing", "not a column"),
            ("Region", "not a column"),
            ("ratio", "no identity"),
            ("key", "bucket(n"),
            ("day(region)", "day cannot"),
            ("hour(day)", "hour cannot"),
            ("bucket(0, id)", "neither"),
            ("bucket(4294967296, id)", "neither"),
            ("bucket(id)", "neither"),
            ("bucket(2, ratio)", "bucket cannot"),
            ("truncate(2, flag)", "truncate cannot"),
            ("week(at)", "neither"),
            ("region, region", "twice"),
            ("day(at), hour(at)", "twice"),
            ("region)", "neither"),
            ("day(at, region", "neither"),
            ("region; DROP TABLE t", "neither"),
            ("id, region, day, at, price, flag, at_day, bucket(2, id), bucket(3, id)", "8 are the most"),
        ] {
            let error = partition_fields(text, &columns()).unwrap_err();
            assert_eq!(error.code(), Code::InvalidProperty, "{text}");
            assert!(error.message().contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn years_and_months_are_those_of_the_calendar() {
        let first = NaiveDate::from_ymd_opt(-400, 1, 1).unwrap();
        for day in (0..1_100_000).step_by(7) {
            let date = first.checked_add_days(Days::new(day)).unwrap();
            let since = date.signed_duration_since(NaiveDate::default()).num_days();
            assert_eq!(month_of(since), (i64::from(date.year()), i64::from(date.month())), "{date}");
        }
    }

    fn made(transform: Transform, column: ArrayRef) -> Vec<Option<PartitionValue>> {
        let field = PartitionField { source: FieldId(1), transform, name: "p".to_owned() };
        let (values, numbers) = partition_rows(&[field], |_| Some(&column)).unwrap();
        numbers.into_iter().map(|number| values[number as usize][0].clone()).collect()
    }

    fn path(transform: Transform, column_type: ColumnType, value: Option<PartitionValue>) -> String {
        let field = PartitionField { source: FieldId(1), transform, name: "p".to_owned() };
        let schema = TableSchema::new([("c".to_owned(), column_type, true)]).unwrap();
        let (fields, values) = (&[field][..], &vec![value]);
        PartitionPath { fields, values, columns: schema.columns() }.to_string()
    }

    #[test]
    fn values_are_those_of_the_iceberg_specification() {
        let micros = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros();
        let before = micros("1969-12-31T23:59:58.999999Z");
        let after = micros("2017-11-16T22:31:08Z");
        let instants: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(before), Some(after), None]));
        let nanos: ArrayRef =
            Arc::new(TimestampNanosecondArray::from(vec![Some(before * 1000 + 999), Some(after * 1000), None]));
        for (transform, values, paths) in [
            (Transform::Year, [-1, 47], ["1969", "2017"]),
            (Transform::Month, [-1, 574], ["1969-12", "2017-11"]),
            (Transform::Day, [-1, 17_486], ["1969-12-31", "2017-11-16"]),
            (Transform::Hour, [-1, 419_686], ["1969-12-31-23", "2017-11-16-22"]),
        ] {
            let expected = [Some(PartitionValue::Integer(values[0])), Some(PartitionValue::Integer(values[1])), None];
            assert_eq!(made(transform, instants.clone()), expected, "{transform:?}");
            assert_eq!(made(transform, nanos.clone()), expected, "{transform:?}");
            let texts = expected.map(|value| path(transform, ColumnType::TimestampTz, value));
            assert_eq!(texts, [format!("p={}", paths[0]), format!("p={}", paths[1]), "p=null".to_owned()]);
        }
        let text =
            |text: &str| path(Transform::Identity, ColumnType::String, Some(PartitionValue::Text(text.to_owned())));
        assert_eq!([text("null"), text("Null"), text("")], ["p=%6Eull", "p=Null", "p="]);
        assert_eq!(path(Transform::Identity, ColumnType::String, None), "p=null", "no value is not the text");
        let text = |text: &str| Some(PartitionValue::Text(text.to_owned()));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("iceberg"), Some("häé/="), Some(""), None]));
        assert_eq!(made(Transform::Truncate(3), texts), [text("ice"), text("häé"), text(""), None]);
        assert_eq!(path(Transform::Identity, ColumnType::String, text("häé/=")), "p=h%C3%A4%C3%A9%2F%3D");
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, -1, 10, i32::MIN]));
        let cut = [0, -10, 10, 2_147_483_646].map(|value| Some(PartitionValue::Integer(value)));
        assert_eq!(made(Transform::Truncate(10), numbers), cut, "the last one as 32 bits wrap around");
        let decimals: ArrayRef =
            Arc::new(Decimal128Array::from(vec![1065, -1]).with_precision_and_scale(10, 2).unwrap());
        let decimal = |value| Some(PartitionValue::Decimal(value));
        assert_eq!(made(Transform::Truncate(50), decimals), [decimal(1050), decimal(-50)]);
        let price = ColumnType::Decimal { precision: 10, scale: 2 };
        assert_eq!(path(Transform::Truncate(50), price, decimal(-50)), "p=-0.50");
        let days: ArrayRef = Arc::new(Date32Array::from(vec![17_486]));
        assert_eq!(made(Transform::Identity, days), [Some(PartitionValue::Integer(17_486))]);
        assert_eq!(path(Transform::Identity, ColumnType::Date, Some(PartitionValue::Integer(17_486))), "p=2017-11-16");
    }

    #[test]
    fn rows_are_numbered_by_their_values() {
        let region: ArrayRef = Arc::new(StringArray::from(vec![Some("b"), Some("a"), None, Some("a"), Some("b")]));
        let flag: ArrayRef = Arc::new(BooleanArray::from(vec![true, true, true, false, true]));
        let field = |source, name: &str| PartitionField {
            source: FieldId(source),
            transform: Transform::Identity,
            name: name.to_owned(),
        };
        let fields = [field(1, "region"), field(2, "flag")];
        let (values, numbers) =
            partition_rows(&fields, |id| Some(if id == FieldId(1) { &region } else { &flag })).unwrap();
        assert_eq!(numbers, [0, 1, 2, 3, 0]);
        let text = |text: &str| Some(PartitionValue::Text(text.to_owned()));
        let flag = |flag| Some(PartitionValue::Boolean(flag));
        let expected = [
            vec![text("b"), flag(true)],
            vec![text("a"), flag(true)],
            vec![None, flag(true)],
            vec![text("a"), flag(false)],
        ];
        assert_eq!(values, expected);
        let json = serde_json::to_string(&values).unwrap();
        assert_eq!(serde_json::from_str::<Vec<PartitionValues>>(&json).unwrap(), values);
        let wide: PartitionValues = vec![Some(PartitionValue::Decimal(-(10_i128.pow(37)))), None];
        assert_eq!(serde_json::from_str::<PartitionValues>(&serde_json::to_string(&wide).unwrap()).unwrap(), wide);
    }

    fn check_bounds(transform: Transform, column_type: ColumnType, column: ArrayRef) {
        let column = cast(&column, &column_type.arrow()).unwrap();
        let field = PartitionField { source: FieldId(1), transform, name: "p".to_owned() };
        let value = match partition_rows(&[field], |_| Some(&column)) {
            Ok((mut values, _)) => values.remove(0).remove(0),
            Err(error) => return assert_eq!(error.code(), Code::InvalidRow),
        };
        assert_eq!(value.is_some(), column.is_valid(0), "{transform:?} {column:?}");
        let (lower, upper) = partition_bounds(transform, &value, &column_type);
        let sort = SortField::new(column_type.arrow());
        let order = |one: &ArrayRef, other: &ArrayRef| {
            let rows = RowConverter::new(vec![sort.clone()]).unwrap();
            let [one, other] = [one, other].map(|column| rows.convert_columns(std::slice::from_ref(column)).unwrap());
            one.row(0).cmp(&other.row(0))
        };
        assert!(lower.is_none_or(|lower| order(&lower, &column).is_le()), "{transform:?} {column:?} {value:?}");
        assert!(upper.is_none_or(|upper| order(&column, &upper).is_le()), "{transform:?} {column:?} {value:?}");
    }

    proptest! {
        #[test]
        fn bounds_hold_every_value(number: i64, text in ".{0,6}", width in 1_u32..2_000) {
            let numbers = |number: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![number])) };
            let texts: ArrayRef = Arc::new(StringArray::from(vec![text.as_str()]));
            for transform in [Transform::Identity, Transform::Truncate(width), Transform::Bucket(width)] {
                check_bounds(transform, ColumnType::String, texts.clone());
                check_bounds(transform, ColumnType::Int64, numbers(number));
                check_bounds(transform, ColumnType::Int16, numbers(i64::from(number as i16)));
                check_bounds(transform, ColumnType::UInt32, numbers(i64::from(number as u32)));
            }
            for transform in [Transform::Identity, Transform::Year, Transform::Month, Transform::Day, Transform::Hour] {
                check_bounds(transform, ColumnType::TimestampTz, numbers(number));
                check_bounds(transform, ColumnType::TimestampNs, numbers(number));
                if transform != Transform::Hour {
                    let day: ArrayRef = Arc::new(Int32Array::from(vec![number as i32]));
                    check_bounds(transform, ColumnType::Date, day);
                }
            }
        }
    }
}
