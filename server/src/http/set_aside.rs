//! `on_error=set_aside`: rows that fit are applied, those that do not are kept in `"t$rejected"` with what is wrong.
//!
//! What is no row at all (a broken Arrow stream, CSV that ends in a quote, a JSON array that breaks off) refuses the
//! request, and so does what is wrong with all rows alike: a column of another type, a header that names no column.
//!
//! Rows are set aside first, under a writer made of the request's own, then the good ones are applied. So whoever sends a
//! request again after a crash in between sets nothing aside twice. A request is known by its body here: what would be set
//! aside of it may have changed with the table. Without a writer, a crash in between leaves rows that were set aside of a
//! request which was not answered.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use thermocline_engine::faults::{self, Defect};
use thermocline_engine::{
    Answer, Change, ChangeRows, Digest, Engine, REQUEST_BYTES_MAX, Sender, Table, WriterSequence,
};
use thermocline_schemas::text::{DecodeOptions, JsonEncoder, KeptRows};
use thermocline_schemas::{Code, Error, Result, SetAside};

use super::rows::ATTEMPTS_MAX;
use super::uploads::{self, UploadFormat};
use crate::app::App;

/// Rows are held against their table so many at a time: each that does not fit costs memory until it is set aside.
const SLICE_ROWS: usize = 8_192;

/// What a client sent.
#[derive(Clone)]
pub struct Upload {
    pub format: UploadFormat,
    pub body: Bytes,
    pub options: DecodeOptions,
    /// With a primary key, what is wanted of rows that do not say it.
    pub change: Option<Change>,
}

/// A request taken apart.
struct Sifted {
    /// In the table's columns, with a primary key in those of its changes.
    good: RecordBatch,
    aside: SetAside,
}

/// Applies the rows that fit, and sets the others aside.
pub async fn append(
    app: &App,
    engine: &Arc<Engine>,
    table: &Arc<Table>,
    upload: &Upload,
    sender: Sender,
) -> Result<Answer> {
    let digest = sender.writer.as_ref().map(|_| upload.digest());
    let mut sender = Sender { digest, ..sender };
    if let Some(answer) = engine.repeat(table, &sender).await? {
        return Ok(answer);
    }
    let mut set_aside = HashSet::new();
    let mut attempts = 1;
    loop {
        let table = engine.newest(table);
        let Sifted { good, aside } = sift(app, engine, &table, upload, &set_aside).await?;
        if !aside.is_empty() {
            set_aside.extend(aside.numbers());
            keep(engine, &table, aside, &sender).await?;
        }
        sender.rejected = set_aside.len() as u64;
        let applied = match upload.change {
            None => engine.append(&table, good, sender.clone()).await,
            Some(change) => {
                let rows = ChangeRows::from_upload(table.descriptor(), &good, change)?;
                engine.change(&table, rows, sender.clone()).await
            }
        };
        match applied {
            // The table asks more of rows than when these were looked at. What was set aside stays so.
            Err(error) if error.code() == Code::WriteConflict && attempts < ATTEMPTS_MAX => attempts += 1,
            applied => return applied,
        }
    }
}

impl Upload {
    /// By what a repeat is known.
    fn digest(&self) -> Digest {
        let mut hasher = Sha256::new();
        hasher.update(format!("set aside\n{:?}\n{:?}\n{:?}\n", self.format, self.options, self.change));
        hasher.update(&self.body);
        let hash: [u8; 32] = hasher.finalize().into();
        std::array::from_fn(|place| hash[place])
    }
}

/// Keeps the rows that were set aside.
async fn keep(engine: &Arc<Engine>, table: &Arc<Table>, aside: SetAside, sender: &Sender) -> Result<()> {
    let from = sender.writer.as_ref();
    let rows = aside.into_rows(engine.now_micros(), from.map(|from| (from.writer.as_str(), from.sequence)))?;
    let writer = match from {
        Some(from) if !faults::planted(Defect::SetAsideTwice) => Some(writer_of(table, from)?),
        _ => None,
    };
    let rejected = engine.rejected_table(table).await?;
    engine.append(&rejected, rows, Sender { writer, digest: sender.digest, ..Sender::default() }).await?;
    Ok(())
}

/// Who sets aside what a request brings. Under another version of the columns it may be other rows.
fn writer_of(table: &Table, from: &WriterSequence) -> Result<WriterSequence> {
    let descriptor = table.descriptor();
    let (id, version) = (descriptor.id, descriptor.schema.id);
    let hash = Sha256::digest(format!("{id}\n{version}\n{}\n{}", from.writer, from.sequence));
    let hex: String = hash.iter().take(20).map(|byte| format!("{byte:02x}")).collect();
    WriterSequence::new(&format!("rejected-{hex}"), 0)
}

async fn sift(
    app: &App,
    engine: &Arc<Engine>,
    table: &Arc<Table>,
    upload: &Upload,
    set_aside: &HashSet<u64>,
) -> Result<Sifted> {
    let (engine, table, upload, set_aside) = (engine.clone(), table.clone(), upload.clone(), set_aside.clone());
    let permit = app.decoder_permit().await?;
    let task = tokio::task::spawn_blocking(move || {
        let _held = permit;
        sifted(&engine, &table, &upload, &set_aside)
    });
    task.await.map_err(|error| Error::internal("looking at rows").with_source(error))?
}

/// Takes a request apart; rows that were set aside before are in neither part.
fn sifted(engine: &Engine, table: &Table, upload: &Upload, set_aside: &HashSet<u64>) -> Result<Sifted> {
    let schema = uploads::schema_of(table);
    let mut aside = SetAside::new(REQUEST_BYTES_MAX as usize);
    let kept = uploads::sift_rows(&schema, upload.format, &upload.body, &upload.options, &mut aside)?;
    let mut content = Contents::new(&kept, &upload.body)?;
    let count = kept.rows.num_rows();
    let mut is_good = vec![true; count];
    for start in (0..count).step_by(SLICE_ROWS) {
        let rows = kept.rows.slice(start, SLICE_ROWS.min(count - start));
        for (row, error) in engine.wrong_rows(table, &rows, upload.change)? {
            is_good[start + row] = false;
            if !faults::planted(Defect::SetAsideRowLost) {
                aside.add(kept.numbers[start + row].into(), error, &content.of(start + row)?)?;
            }
        }
    }
    if !set_aside.is_empty() {
        aside.retain(|row| !set_aside.contains(&row));
        let known = kept.numbers.iter().map(|number| set_aside.contains(&u64::from(*number)));
        is_good.iter_mut().zip(known).for_each(|(is_good, known)| *is_good &= !known);
    }
    let good = filter_record_batch(&kept.rows, &BooleanArray::from(is_good))?;
    Ok(Sifted { good, aside })
}

/// The rows as they came.
struct Contents<'k> {
    kept: &'k KeptRows,
    body: &'k [u8],
    encoder: JsonEncoder,
}

impl<'k> Contents<'k> {
    fn new(kept: &'k KeptRows, body: &'k [u8]) -> Result<Contents<'k>> {
        Ok(Contents { kept, body, encoder: JsonEncoder::new(kept.rows.schema_ref())? })
    }

    fn of(&mut self, row: usize) -> Result<String> {
        let span = self.kept.spans.get(self.kept.numbers[row] as usize);
        let text = match span {
            Some(span) => self.body[span.start as usize..span.end as usize].to_vec(),
            None => {
                let mut text = Vec::new();
                self.encoder.write_object(&self.kept.rows, row, &mut text)?;
                text
            }
        };
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
