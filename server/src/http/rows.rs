//! `POST /v1/tables/{database}/{table}/rows`: rows in, all or nothing, unless those that do not fit are set aside.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use thermocline_engine::{Answer, Change, ChangeRows, REQUEST_BYTES_MAX, Sender, Table, WriterSequence};
use thermocline_schemas::text::{DecodeOptions, EpochUnit, JsonShape};
use thermocline_schemas::{Code, Error, Result, TableKind};

use super::Problem;
use super::accept::{self, ARROW_STREAM, CSV, JSON, NDJSON, PARQUET};
use super::bodies;
use super::operations::json;
use super::parameters::{Address, Parameters, header, invalid};
use super::set_aside::{self, Upload};
use super::uploads::{self, UploadFormat};
use crate::app::{App, Store};

const TAG_BYTES_MAX: usize = 255;
/// How often the table may be altered under a request.
pub(super) const ATTEMPTS_MAX: usize = 4;

pub async fn append(
    State(app): State<Arc<App>>,
    Address(name): Address,
    mut parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let format = format(&headers)?;
    let options = options(&mut parameters, format)?;
    let change = parameters.take("change");
    let on_error = parameters.take("on_error");
    parameters.finish()?;
    let sender = sender(&headers)?;
    if name.is_rejected() {
        return Err(
            Error::new(Code::InvalidName, format!("{} belongs to its table and is only read", name.table)).into()
        );
    }
    let store = app.store()?;
    let table = store.table(&name)?;
    let change = change_of(change.as_deref(), table.descriptor().kind)?;
    let sets_aside = sets_aside(on_error.as_deref())?;
    let received = bodies::receive(&app, body, REQUEST_BYTES_MAX as usize).await?;
    let upload = Upload { format, body: received.bytes, options, change };
    let answer = match sets_aside {
        true => set_aside::append(&app, store.engine(), &table, &upload, sender).await?,
        false => whole(&app, &store, &table, &upload, sender).await?,
    };
    // Rows that wait for the journal are still this request's memory.
    drop(received.room);
    Ok(json(told(&store.engine().newest(&table), &answer)?))
}

/// All rows or none.
async fn whole(app: &App, store: &Store, table: &Arc<Table>, upload: &Upload, sender: Sender) -> Result<Answer> {
    let Upload { format, body, options, change } = upload;
    let mut attempts = 1;
    loop {
        // A body may be long on its way.
        let table = store.engine().newest(table);
        let rows = uploads::decode(app, table.clone(), *format, body.clone(), options.clone()).await?;
        let applied = match *change {
            None => store.engine().append(&table, rows, sender.clone()).await,
            Some(change) => {
                let rows = ChangeRows::from_upload(table.descriptor(), &rows, change)?;
                store.engine().change(&table, rows, sender.clone()).await
            }
        };
        match applied {
            // The table asks more of rows than when these were checked.
            Err(error) if error.code() == Code::WriteConflict && attempts < ATTEMPTS_MAX => attempts += 1,
            applied => return applied,
        }
    }
}

/// The answer with its partitions as paths spell them.
fn told(table: &Table, answer: &Answer) -> Result<String> {
    let mut told = serde_json::to_value(answer).map_err(|error| Error::internal("an answer").with_source(error))?;
    for (place, range) in answer.buckets.iter().enumerate() {
        let path = range.partition.and_then(|partition| table.descriptor().partition_path(partition));
        told["buckets"][place]["partition"] = path.into();
    }
    Ok(told.to_string())
}

fn format(headers: &HeaderMap) -> Result<UploadFormat> {
    let offered = [NDJSON, JSON, CSV, ARROW_STREAM, PARQUET].join(", ");
    match accept::content_type(headers)?.as_deref() {
        Some(NDJSON | "application/ndjson" | "application/jsonlines") => Ok(UploadFormat::Json(JsonShape::Lines)),
        Some(JSON) => Ok(UploadFormat::Json(JsonShape::Array)),
        Some(CSV) => Ok(UploadFormat::Csv),
        Some(ARROW_STREAM) => Ok(UploadFormat::Arrow),
        Some(PARQUET) => Ok(UploadFormat::Parquet),
        Some(other) => Err(Error::new(Code::UnsupportedMediaType, "rows are not read in that format")
            .with_value(other)
            .with_hint(format!("Content-Type is one of {offered}"))),
        None => Err(Error::new(Code::UnsupportedMediaType, "the request does not say its format")
            .with_hint(format!("Content-Type is one of {offered}"))),
    }
}

fn options(parameters: &mut Parameters, format: UploadFormat) -> Result<DecodeOptions> {
    let csv = format == UploadFormat::Csv;
    let epoch = match parameters.take("time").as_deref() {
        None => None,
        Some("ms") => Some(EpochUnit::Milliseconds),
        Some("us") => Some(EpochUnit::Microseconds),
        Some(other) => return Err(invalid("time", "must be ms or us").with_value(other)),
    };
    let header = parameters.boolean("header", true)?;
    let csv_null = parameters.take("null");
    if !csv && (!header || csv_null.is_some()) {
        let name = if header { "null" } else { "header" };
        return Err(invalid(name, "is for text/csv"));
    }
    let csv_columns = match (parameters.names("columns"), header) {
        (Some(columns), false) => Some(columns),
        (None, false) => return Err(invalid("header", "is false: the columns must be named with columns=a,b")),
        (Some(_), true) => return Err(Error::not_built("the partial update with columns=")),
        (None, true) => None,
    };
    Ok(DecodeOptions { epoch, csv_null: csv_null.unwrap_or_default(), csv_columns, ..DecodeOptions::default() })
}

/// What is wanted of rows that do not say it themselves; none in a log table, where rows are only appended.
fn change_of(change: Option<&str>, kind: TableKind) -> Result<Option<Change>> {
    match (change, kind) {
        (None | Some("append"), TableKind::Log) => Ok(None),
        (Some(change @ ("upsert" | "delete")), TableKind::Log) => {
            Err(Error::new(Code::WrongTableKind, format!("a log table takes no {change}"))
                .with_hint("rows of a log table are only appended: change=append"))
        }
        (None, TableKind::PrimaryKey) => Ok(Some(Change::Upsert)),
        (Some("append"), TableKind::PrimaryKey) => {
            Err(Error::new(Code::WrongTableKind, "a table with a primary key takes upserts and deletes")
                .with_hint("change=upsert or change=delete"))
        }
        (Some(other), kind) => match Change::named(other).filter(|_| kind == TableKind::PrimaryKey) {
            Some(change) => Ok(Some(change)),
            None => Err(invalid("change", "must be append, upsert or delete").with_value(other)),
        },
    }
}

fn sets_aside(on_error: Option<&str>) -> Result<bool> {
    match on_error {
        None => Ok(false),
        Some("set_aside") => Ok(true),
        Some(other) => Err(invalid("on_error", "must be set_aside").with_value(other)),
    }
}

fn sender(headers: &HeaderMap) -> Result<Sender> {
    let text = |name: &str| match header(headers, name)?.map(HeaderValue::to_str) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(Error::new(Code::InvalidRequest, format!("the header {name} is not ASCII"))),
    };
    let writer = match (text("thermocline-writer")?, text("thermocline-sequence")?) {
        (None, None) => None,
        (Some(writer), Some(sequence)) => {
            let number = sequence.parse().map_err(|_| {
                Error::new(Code::InvalidRequest, "Thermocline-Sequence must be a number from 0").with_value(sequence)
            })?;
            Some(WriterSequence::new(writer, number)?)
        }
        _ => {
            return Err(Error::new(
                Code::InvalidRequest,
                "Thermocline-Writer and Thermocline-Sequence come together or not at all",
            ));
        }
    };
    let tag = text("thermocline-tag")?.unwrap_or_default();
    if tag.len() > TAG_BYTES_MAX {
        return Err(Error::new(Code::InvalidRequest, format!("Thermocline-Tag is longer than {TAG_BYTES_MAX} bytes")));
    }
    Ok(Sender { writer, tag: tag.to_owned(), ..Sender::default() })
}
