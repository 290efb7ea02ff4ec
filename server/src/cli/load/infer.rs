//! The columns of a file whose table is missing.
//!
//! Parquet and Arrow say their types. For text, each column of a sample takes the first type that reads all its values,
//! by the very decoder that the server will use. Integers must also be written back as they were: `007` is a word. What
//! later rows hold is not known; if it does not fit, the server says which row, and the table can be made by hand.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;
use thermocline_schemas::text::{CsvEncoder, DecodeOptions, EpochUnit, JsonShape, decode_csv, decode_json};
use thermocline_schemas::{ColumnType, TableSchema};

use super::source::{self, FileFormat, TextOptions};
use super::text::{csv_row_end, cut_csv, cut_lines, json_array_as_lines};
use super::{Columns, Failure, Outcome, TimeUnit, arrow_columns};

/// So much of a text is looked at.
const SAMPLE_BYTES: usize = 1 << 20;

const CANDIDATES: [ColumnType; 6] = [
    ColumnType::Boolean,
    ColumnType::Int64,
    ColumnType::Float64,
    ColumnType::Date,
    ColumnType::TimestampTz,
    ColumnType::Timestamp,
];

pub fn columns(file: &Bytes, format: FileFormat, options: &TextOptions) -> Outcome<Columns> {
    let columns = match format {
        FileFormat::Parquet | FileFormat::Arrow => arrow_columns(&source::batches(file.clone(), format)?.0)?,
        FileFormat::Csv => csv_columns(file, options)?,
        FileFormat::Ndjson => json_columns(file.clone())?,
        FileFormat::Json => json_columns(json_array_as_lines(file)?.into())?,
    };
    if columns.is_empty() {
        return Err(Failure::new("the table is missing, and the file has no rows to make it from"));
    }
    Ok(columns)
}

fn csv_columns(file: &Bytes, options: &TextOptions) -> Outcome<Columns> {
    let names: Vec<String> = match &options.columns {
        Some(names) => names.split(',').map(|name| name.trim().to_owned()).collect(),
        None => header(file)?,
    };
    let Some(sample) = cut_csv(file.clone(), options.columns.is_none(), SAMPLE_BYTES).next() else {
        return Ok(names.into_iter().map(|name| (name, ColumnType::String, true)).collect());
    };
    let words = TableSchema::new(names.iter().map(|name| (name.clone(), ColumnType::String, true)))?;
    let mut decoding = DecodeOptions { csv_null: options.null.clone().unwrap_or_default(), ..DecodeOptions::default() };
    decoding.csv_columns = options.columns.is_some().then(|| names.clone());
    let rows = decode_csv(&words, &sample.body, &decoding)?;
    let mut columns = Columns::new();
    for (place, name) in names.into_iter().enumerate() {
        let mut text = Vec::new();
        CsvEncoder.rows(&rows.project(&[place]).map_err(|error| Failure::new(error.to_string()))?, &mut text)?;
        let is_known = rows.column(place).null_count() < rows.num_rows();
        let column_type = if is_known { csv_type(&name, &text, options.time)? } else { ColumnType::String };
        columns.push((name, column_type, true));
    }
    Ok(columns)
}

/// The names in the first row, without their quotes. Names with commas or quotes in them are none that a table can
/// have.
fn header(file: &[u8]) -> Outcome<Vec<String>> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let line = &file[..csv_row_end(file, 0)];
    let line = std::str::from_utf8(line).map_err(|_| Failure::new("the file is not UTF-8"))?.trim_end();
    if line.is_empty() {
        return Err(Failure::new("the CSV file has no header").with_hint("name its columns: --columns a,b,c"));
    }
    Ok(line.split(',').map(|name| name.trim_matches('"').to_owned()).collect())
}

/// The type of a CSV text of one column.
fn csv_type(name: &str, text: &[u8], time: Option<TimeUnit>) -> Outcome<ColumnType> {
    let options =
        DecodeOptions { epoch: time.map(unit), csv_columns: Some(vec![name.to_owned()]), ..DecodeOptions::default() };
    for candidate in CANDIDATES {
        let schema = TableSchema::new([(name.to_owned(), candidate.clone(), true)])?;
        let Ok(rows) = decode_csv(&schema, text, &options) else { continue };
        let mut again = Vec::new();
        CsvEncoder.rows(&rows, &mut again)?;
        let fits = match candidate {
            ColumnType::Int64 => again == text,
            ColumnType::Float64 => !has_leading_zero(text),
            _ => true,
        };
        if fits {
            return Ok(candidate);
        }
    }
    Ok(ColumnType::String)
}

/// Whether a line starts like `00` or `-01`, which numbers do not.
fn has_leading_zero(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| {
        let digits = line.strip_prefix(b"-").unwrap_or(line);
        matches!(digits, [b'0', b'0'..=b'9', ..])
    })
}

fn json_columns(lines: Bytes) -> Outcome<Columns> {
    let Some(sample) = cut_lines(lines, SAMPLE_BYTES).next() else { return Ok(Columns::new()) };
    let mut names = Vec::new();
    let mut values: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in sample.body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        let row: serde_json::Map<String, Value> = serde_json::from_slice(line)
            .map_err(|error| Failure::new(format!("a line is not a JSON object: {error}")))?;
        for (name, value) in row {
            if !values.contains_key(&name) {
                names.push(name.clone());
            }
            values.entry(name).or_default().push(value);
        }
    }
    let column = |name: String| {
        let values = values.get(&name).map(Vec::as_slice).unwrap_or_default();
        let column_type = json_type(&name, values)?;
        Ok((name, column_type, true))
    };
    names.into_iter().map(column).collect()
}

fn json_type(name: &str, values: &[Value]) -> Outcome<ColumnType> {
    if values.iter().all(Value::is_null) {
        return Ok(ColumnType::String);
    }
    if values.iter().any(|value| value.is_array() || value.is_object()) {
        return nested_json_type(name, values);
    }
    let has_text = values.iter().any(Value::is_string);
    let mut lines = Vec::new();
    for value in values {
        lines.extend_from_slice(format!("{}\n", serde_json::json!({ name: value })).as_bytes());
    }
    for candidate in CANDIDATES {
        if has_text && matches!(candidate, ColumnType::Int64 | ColumnType::Float64) {
            // A number in quotes is somebody's text.
            continue;
        }
        let schema = TableSchema::new([(name.to_owned(), candidate.clone(), true)])?;
        if decode_json(&schema, &lines, JsonShape::Lines, &DecodeOptions::default()).is_ok() {
            return Ok(candidate);
        }
    }
    // A text column takes texts alone.
    match values.iter().find(|value| !value.is_null() && !value.is_string()) {
        Some(other) if has_text => {
            Err(Failure::new(format!("column {name} has texts in some rows and {other} in another"))
                .with_hint("values of one column are of one type: put the others in quotes, or leave them out"))
        }
        Some(other) => Err(Failure::new(format!("column {name} has values of several types, {other} among them"))),
        None => Ok(ColumnType::String),
    }
}

/// Lists of what all their elements are, structs of all fields that some object has.
fn nested_json_type(name: &str, values: &[Value]) -> Outcome<ColumnType> {
    let (mut elements, mut names) = (Vec::new(), Vec::new());
    let mut fields: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for value in values {
        match value {
            Value::Null => {}
            Value::Array(items) if names.is_empty() => elements.push(items),
            Value::Object(object) if elements.is_empty() => {
                for (field, value) in object {
                    if !fields.contains_key(field.as_str()) {
                        names.push(field.as_str());
                    }
                    fields.entry(field).or_default().push(value.clone());
                }
            }
            _ => return Err(Failure::new(format!("column {name} has lists in some rows and other values in others"))),
        }
    }
    if names.is_empty() && !elements.is_empty() {
        let elements: Vec<_> = elements.into_iter().flatten().cloned().collect();
        return Ok(ColumnType::list(json_type(name, &elements)?, true)?);
    }
    let field = |field: &str| Ok((field.to_owned(), json_type(field, &fields[field])?, true));
    let fields = names.into_iter().map(field).collect::<Outcome<Vec<_>>>()?;
    Ok(ColumnType::structure(fields)?)
}

fn unit(time: TimeUnit) -> EpochUnit {
    match time {
        TimeUnit::Ms => EpochUnit::Milliseconds,
        TimeUnit::Us => EpochUnit::Microseconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(columns: &Columns) -> Vec<String> {
        columns.iter().map(|(name, column_type, _)| format!("{name} {column_type}")).collect()
    }

    #[test]
    fn csv_columns_take_the_type_that_reads_their_values() {
        let file = "id,price,\"day\",at,zoned,on,zip,word,empty\n\
            1,1.50,2026-11-23,2026-11-23T13:00:01,2026-11-23T13:00:01Z,true,01234,x,\n\
            -2,,2026-11-24,2026-11-23T13:00:01.5,2026-11-23T13:00:01Z,false,99999,,\n";
        let columns = csv_columns(&Bytes::from(file), &TextOptions::default()).unwrap();
        let expected = [
            "id BIGINT",
            "price DOUBLE PRECISION",
            "day DATE",
            "at TIMESTAMP",
            "zoned TIMESTAMPTZ",
            "on BOOLEAN",
            "zip VARCHAR",
            "word VARCHAR",
            "empty VARCHAR",
        ];
        assert_eq!(types(&columns), expected);
    }

    #[test]
    fn json_columns_take_the_type_that_reads_their_values() {
        let lines =
            "{\"id\":1,\"quoted\":\"1\",\"mixed\":1}\n{\"id\":2,\"mixed\":1.5,\"at\":\"2026-11-23T13:00:01Z\"}\n";
        let columns = json_columns(Bytes::from(lines)).unwrap();
        assert_eq!(types(&columns), ["id BIGINT", "quoted VARCHAR", "mixed DOUBLE PRECISION", "at TIMESTAMPTZ"]);
        let nested = "{\"a\":[1,null],\"s\":{\"x\":1,\"y\":[\"t\"]}}\n{\"a\":[2.5],\"s\":{\"z\":true}}\n{\"a\":[]}\n";
        let columns = json_columns(Bytes::from(nested)).unwrap();
        assert_eq!(types(&columns), ["a DOUBLE PRECISION[]", "s STRUCT(x BIGINT, y VARCHAR[], z BOOLEAN)"]);
        for mixed in [
            "{\"a\":1}\n{\"a\":\"x\"}",
            "{\"a\":true}\n{\"a\":1}",
            "{\"a\":[1]}\n{\"a\":{\"x\":1}}",
            "{\"a\":[1]}\n{\"a\":1}",
        ] {
            assert!(json_columns(Bytes::from(mixed)).unwrap_err().message.contains("column a"), "{mixed}");
        }
    }
}
