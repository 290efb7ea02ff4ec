//! The rows of a query on their way out, in four formats.
//!
//! Always: rows are encoded as the client takes them, a few hundred at a time, so an answer of any size needs the
//! memory of one batch. The first batch is there before the head is sent: a query that fails at once is a problem
//! document with a status. One that fails later ends NDJSON with a line `{"error":{…}}`, and breaks off the other
//! formats, whose readers then know that they have not got all.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use serde_json::json;
use thermocline_schemas::text::{CsvEncoder, JsonEncoder};
use thermocline_schemas::{Error, Result};
use thermocline_sql::Answer;
use tokio::sync::OwnedSemaphorePermit;

use super::accept::{ARROW_STREAM, JSON, NDJSON};
use super::problem;
use crate::metrics::CountedQuery;

/// The header that carries what whoever asked should know, once for each such thing, in every format.
pub const NOTE: &str = "thermocline-note";

/// So many rows are encoded before they are handed on.
const ROWS_AT_ONCE: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Lines,
    Csv,
    Arrow,
}

impl Format {
    fn media_type(self) -> &'static str {
        match self {
            Format::Json => JSON,
            Format::Lines => NDJSON,
            Format::Csv => "text/csv; charset=utf-8; header=present",
            Format::Arrow => ARROW_STREAM,
        }
    }
}

/// The answer as a response. The permit is kept to its end.
pub async fn respond(
    answer: Answer,
    format: Format,
    started: Instant,
    permit: OwnedSemaphorePermit,
    mut counted: CountedQuery,
) -> Result<Response> {
    let encoder = Encoder::new(format, &answer);
    let mut encoder = encoder.inspect_err(|error| counted.ended_with(error))?;
    let notes: Vec<_> = answer.notes.iter().filter_map(|note| HeaderValue::from_str(note).ok()).collect();
    let mut batches = answer.batches;
    let first = batches.next().await.transpose();
    let first = first.inspect_err(|error| counted.ended_with(error))?;
    let mut head = Vec::new();
    encoder.begin(&mut head)?;
    let stats = answer.stats;
    let rows = match first {
        Some(first) => stream::once(async { Ok(first) }).chain(batches).boxed(),
        None => batches,
    };
    let body = Sending { encoder, rows, pending: None, head: Some(head), done: false, counted };
    let body = stream::try_unfold(body, move |mut body| {
        let stats = stats.clone();
        async move {
            let stats = || {
                let (hot, lake) = (stats.hot_rows.load(Ordering::Relaxed), stats.lake_rows.load(Ordering::Relaxed));
                let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
                json!({"hot_rows": hot, "lake_rows": lake, "elapsed_ms": (elapsed_ms * 1e3).round() / 1e3})
            };
            match body.next(stats).await {
                Ok(Some(bytes)) => Ok(Some((bytes, body))),
                Ok(None) => Ok(None),
                Err(error) => {
                    tracing::debug!(%error, "an answer broke off");
                    Err(io::Error::other(error))
                }
            }
        }
    });
    let body = body.inspect_ok(move |_| {
        let _held = &permit;
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for note in notes {
        headers.append(NOTE, note);
    }
    Ok(response)
}

struct Sending {
    encoder: Encoder,
    rows: BoxStream<'static, Result<RecordBatch>>,
    /// A batch of which the rows from this one on are not yet sent.
    pending: Option<(RecordBatch, usize)>,
    head: Option<Vec<u8>>,
    done: bool,
    counted: CountedQuery,
}

impl Sending {
    /// The next bytes; none at the end.
    async fn next(&mut self, stats: impl Fn() -> serde_json::Value) -> Result<Option<Bytes>> {
        // The head goes with the first rows: one packet for a small answer.
        let mut out = self.head.take().unwrap_or_default();
        while !self.done {
            let Some((batch, from)) = &mut self.pending else {
                match self.rows.next().await {
                    Some(Ok(batch)) => self.pending = Some((batch, 0)),
                    Some(Err(error)) => {
                        self.done = true;
                        self.counted.ended_with(&error);
                        self.encoder.fail(error, &mut out)?;
                    }
                    None => {
                        self.done = true;
                        self.encoder.end(&stats(), &mut out)?;
                        self.counted.finished();
                    }
                }
                continue;
            };
            let count = ROWS_AT_ONCE.min(batch.num_rows() - *from);
            let rows = batch.slice(*from, count);
            *from += count;
            if *from >= batch.num_rows() {
                self.pending = None;
            }
            if rows.num_rows() > 0 {
                self.encoder.rows(&rows, &mut out)?;
                if out.len() >= 16 << 10 || self.pending.is_some() {
                    break;
                }
            }
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }
}

enum Encoder {
    Json { encoder: JsonEncoder, columns: serde_json::Value, rows: u64 },
    Lines(JsonEncoder),
    Csv(SchemaRef),
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl Encoder {
    /// Refuses columns that the format cannot spell.
    fn new(format: Format, answer: &Answer) -> Result<Encoder> {
        let schema = &answer.schema;
        Ok(match format {
            Format::Json => {
                let columns = schema.fields().iter().zip(&answer.column_types);
                let columns = columns.map(|(field, sql_type)| json!({"name": field.name(), "type": sql_type}));
                Encoder::Json { encoder: JsonEncoder::new(schema)?, columns: columns.collect(), rows: 0 }
            }
            Format::Lines => {
                let encoder = JsonEncoder::new(schema)?;
                encoder.check_objects()?;
                Encoder::Lines(encoder)
            }
            Format::Csv => Encoder::Csv(schema.clone()),
            Format::Arrow => Encoder::Arrow(Box::new(StreamWriter::try_new(Vec::new(), schema)?)),
        })
    }

    fn begin(&mut self, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Encoder::Json { columns, .. } => {
                out.extend_from_slice(format!("{{\"columns\":{columns},\"rows\":[").as_bytes());
            }
            Encoder::Lines(_) => {}
            Encoder::Csv(schema) => CsvEncoder.header(schema, out)?,
            Encoder::Arrow(writer) => out.append(writer.get_mut()),
        }
        Ok(())
    }

    fn rows(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Encoder::Json { encoder, rows, .. } => {
                for row in 0..batch.num_rows() {
                    if *rows > 0 {
                        out.push(b',');
                    }
                    *rows += 1;
                    encoder.write_array(batch, row, out)?;
                }
            }
            Encoder::Lines(encoder) => {
                for row in 0..batch.num_rows() {
                    encoder.write_object(batch, row, out)?;
                    out.push(b'\n');
                }
            }
            Encoder::Csv(_) => CsvEncoder.rows(batch, out)?,
            Encoder::Arrow(writer) => {
                writer.write(batch)?;
                out.append(writer.get_mut());
            }
        }
        Ok(())
    }

    fn end(&mut self, stats: &serde_json::Value, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Encoder::Json { .. } => out.extend_from_slice(format!("],\"stats\":{stats}}}\n").as_bytes()),
            Encoder::Lines(_) | Encoder::Csv(_) => {}
            Encoder::Arrow(writer) => {
                writer.finish()?;
                out.append(writer.get_mut());
            }
        }
        Ok(())
    }

    /// Says that rows are missing, where the format has words for it.
    fn fail(&mut self, error: Error, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Encoder::Lines(_) => {
                let error = json!({ "error": problem::document(&error) });
                out.extend_from_slice(format!("{error}\n").as_bytes());
                Ok(())
            }
            _ => Err(error),
        }
    }
}
