//! What a text says, by readers that are not the server's.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use serde_json::value::RawValue;
use thermocline_schemas::text::JsonShape;
use thermocline_schemas::{ColumnType, TableSchema};

use super::cells::Cell;

/// A value before its type is looked at.
enum Given {
    Null,
    Boolean(bool),
    Number(String),
    Text(String),
}

type Object = BTreeMap<String, Box<RawValue>>;

pub fn json(schema: &TableSchema, body: &[u8], shape: JsonShape) -> Result<Vec<Vec<Cell>>, String> {
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    let objects: Vec<Object> = match shape {
        JsonShape::Array => serde_json::from_str(text).map_err(|error| error.to_string())?,
        JsonShape::Lines => {
            let lines = text.split('\n').filter(|line| !line.trim().is_empty());
            lines.map(serde_json::from_str).collect::<Result<_, _>>().map_err(|error| error.to_string())?
        }
    };
    let names: Vec<_> = schema.columns().iter().map(|column| column.name.as_str()).collect();
    for object in &objects {
        if let Some(unknown) = object.keys().find(|key| !names.contains(&key.as_str())) {
            return Err(format!("no column {unknown:?}"));
        }
    }
    let column = |column: &thermocline_schemas::Column| {
        let of_row = |object: &Object| match object.get(column.name.as_str()) {
            None => Ok(Cell::Null),
            Some(raw) => typed(column.column_type.clone(), given(raw.get())?),
        };
        objects.iter().map(of_row).collect()
    };
    schema.columns().iter().map(column).collect()
}

fn given(raw: &str) -> Result<Given, String> {
    Ok(match raw.as_bytes()[0] {
        b'n' => Given::Null,
        b't' => Given::Boolean(true),
        b'f' => Given::Boolean(false),
        b'"' => Given::Text(serde_json::from_str(raw).map_err(|error| error.to_string())?),
        b'[' | b'{' => return Err(format!("{raw} is nested")),
        _ => Given::Number(raw.to_owned()),
    })
}

/// By its own reading of RFC 4180: fields, quoted or not, between commas, in lines.
pub fn csv(schema: &TableSchema, body: &[u8]) -> Result<Vec<Vec<Cell>>, String> {
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    let mut lines = vec![vec![(String::new(), false)]];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let line = lines.last_mut().ok_or("no line")?;
        let (field, quoted) = line.last_mut().ok_or("no field")?;
        match character {
            '"' if field.is_empty() && !*quoted => {
                *quoted = true;
                loop {
                    match characters.next().ok_or("a quote is open at the end")? {
                        '"' if characters.next_if_eq(&'"').is_some() => field.push('"'),
                        '"' => break,
                        other => field.push(other),
                    }
                }
                if characters.peek().is_some_and(|next| !matches!(next, ',' | '\n' | '\r')) {
                    return Err("something after a closing quote".to_owned());
                }
            }
            '"' => return Err("a quote within a field".to_owned()),
            ',' => line.push((String::new(), false)),
            '\r' if characters.peek() != Some(&'\n') => return Err("a carriage return alone".to_owned()),
            '\r' => {}
            '\n' => lines.push(vec![(String::new(), false)]),
            other => field.push(other),
        }
    }
    // Nothing follows the last line end; and lines of nothing are no rows.
    lines.retain(|line| !matches!(line.as_slice(), [(field, false)] if field.is_empty()));
    let (header, lines) = lines.split_first().ok_or("no header")?;
    let places = schema.columns().iter().map(|column| {
        let mut places = (0..header.len()).filter(|place| header[*place].0 == column.name.as_str());
        (column.column_type.clone(), places.next())
    });
    let places: Vec<_> = places.collect();
    if places.iter().filter(|(_, place)| place.is_some()).count() != header.len() {
        return Err("a header that names what is not there, or twice".to_owned());
    }
    if let Some(line) = lines.iter().find(|line| line.len() != header.len()) {
        return Err(format!("{} fields below {}", line.len(), header.len()));
    }
    let column = |(column_type, place): (ColumnType, Option<usize>)| {
        let Some(place) = place else { return Ok(vec![Cell::Null; lines.len()]) };
        let of_line = |line: &Vec<(String, bool)>| match &line[place] {
            (field, false) if field.is_empty() => Ok(Cell::Null),
            (field, _) => typed(column_type.clone(), Given::Text(field.clone())),
        };
        lines.iter().map(of_line).collect()
    };
    places.into_iter().map(column).collect()
}

fn typed(column_type: ColumnType, given: Given) -> Result<Cell, String> {
    let wrong = |text: &str| format!("{text:?} is no {column_type}");
    let (text, is_text) = match given {
        Given::Null => return Ok(Cell::Null),
        Given::Boolean(value) if column_type == ColumnType::Boolean => return Ok(Cell::Boolean(value)),
        Given::Boolean(value) => return Err(wrong(&value.to_string())),
        Given::Number(text) => (text, false),
        Given::Text(text) => (text, true),
    };
    let finite = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    let cell = match column_type {
        // In CSV alone: JSON has words for it.
        ColumnType::Boolean => match text.to_ascii_lowercase().as_str() {
            "true" => Some(Cell::Boolean(true)),
            "false" => Some(Cell::Boolean(false)),
            _ => None,
        },
        ColumnType::Int8 | ColumnType::Int16 | ColumnType::Int32 | ColumnType::Int64 | ColumnType::Decimal { .. } => {
            Cell::exact(&text)
        }
        ColumnType::Float32 => match named(&text) {
            Some(value) => Some(Cell::real(value as f32)),
            None => text.parse().ok().filter(|_| finite(&text)).map(Cell::real),
        },
        ColumnType::Float64 => match named(&text) {
            Some(value) => Some(Cell::double(value)),
            None => text.parse().ok().filter(|_| finite(&text)).map(Cell::double),
        },
        _ if !is_text => None,
        ColumnType::Date => text.parse::<NaiveDate>().ok().map(|date| {
            let since = date.signed_duration_since(NaiveDate::from_ymd_opt(1970, 1, 1).expect("a day"));
            Cell::Days(since.num_days())
        }),
        ColumnType::Timestamp => {
            let moment = text.replacen([' ', 't'], "T", 1).parse::<NaiveDateTime>().ok();
            moment.map(|moment| Cell::Micros(moment.and_utc().timestamp_micros()))
        }
        ColumnType::TimestampTz => {
            let mut moment = text.replacen([' ', 't'], "T", 1).replace('z', "Z");
            // `+02` is `+02:00`.
            let zone = moment.rfind(['+', '-']).filter(|place| *place > 10);
            if let Some(zone) = zone.map(|place| moment.len() - place).filter(|length| *length == 3) {
                moment.push_str(if zone == 3 { ":00" } else { "" });
            }
            let parsed = DateTime::parse_from_rfc3339(&moment)
                .or_else(|_| DateTime::parse_from_str(&moment, "%Y-%m-%dT%H:%M:%S%.f%z"));
            parsed.ok().map(|moment| Cell::Micros(moment.timestamp_micros()))
        }
        ColumnType::String => Some(Cell::Text(text.clone())),
        ColumnType::Binary => BASE64_STANDARD.decode(&text).ok().map(Cell::Bytes),
        other => panic!("no table of the test has {other}"),
    };
    cell.ok_or_else(|| wrong(&text))
}

fn named(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}
