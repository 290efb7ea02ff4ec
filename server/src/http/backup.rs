//! `POST /v1/backup`: a backup of everything, made by the server on its own disk.
//!
//! Where on its disk is for whoever starts the server to say (`serve --backup-dir`), and not for whoever asks: the request
//! names a directory inside of that one, which must be new. Without it the answer is 403, token or not: a token lets its
//! holder do with tables what he likes, and not with the machine.
//!
//! The answer are lines: how far it is, several times a second, and last the backup, or why there is none. A client that goes
//! away before that ends the backup, and what was written of it is removed; so does a stop of the server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures::stream;
use serde_json::{Value, json};
use thermocline_engine::disk::RealDisk;
use thermocline_schemas::{Code, Error, Result};
use thermocline_tiering::{BackupReport, Progress};
use tokio::task::JoinHandle;

use super::accept::NDJSON;
use super::parameters::{Parameters, invalid};
use super::{Problem, problem};
use crate::app::App;

const NAME_BYTES_MAX: usize = 128;
const INTERVAL: Duration = Duration::from_millis(250);
/// Between two looks whether it has begun, or failed.
const FIRST_INTERVAL: Duration = Duration::from_millis(10);

pub async fn make(State(app): State<Arc<App>>, mut parameters: Parameters) -> Result<Response, Problem> {
    let name = parameters.take("name");
    parameters.finish()?;
    let store = app.store()?;
    let directory = place(store.backup_dir.as_deref(), name)?;
    let running = {
        let progress = Arc::new(Progress::default());
        let (watched, tiering) = (progress.clone(), store.tiering.clone());
        let making = async move { tiering.back_up(Arc::new(RealDisk), directory, watched).await };
        Running { task: Some(app.background.spawn(making)), progress }
    };
    let running = begun(running).await?;
    let lines = stream::unfold((running, app.stopping.clone()), |(mut running, stopping)| async move {
        let task = running.task.as_mut()?;
        let line = tokio::select! {
            ended = &mut *task => {
                running.task = None;
                let ended = ended.unwrap_or_else(|error| Err(Error::internal("a backup").with_source(error)));
                match ended {
                    Ok(report) => json!({ "backup": described(&report) }),
                    Err(error) => json!({ "error": problem::document(&error) }),
                }
            }
            () = stopping.cancelled(), if !stopping.is_cancelled() => running.told(),
            () = tokio::time::sleep(INTERVAL) => running.told(),
        };
        if stopping.is_cancelled() {
            running.progress.cancel();
        }
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(format!("{line}\n"))), (running, stopping)))
    });
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response())
}

/// A backup that somebody waits for; broken off when nobody does.
struct Running {
    /// None once it has ended.
    task: Option<JoinHandle<Result<BackupReport>>>,
    progress: Arc<Progress>,
}

impl Running {
    fn told(&self) -> Value {
        let (done, of) = self.progress.bytes();
        json!({ "bytes": done, "of": of })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.progress.cancel();
    }
}

/// Waits until there is something to copy; what fails before is answered with its status.
async fn begun(mut running: Running) -> Result<Running> {
    loop {
        let ended = running.task.as_ref().is_none_or(JoinHandle::is_finished);
        if running.progress.bytes().1 > 0 {
            return Ok(running);
        }
        match running.task.take_if(|_| ended) {
            None => tokio::time::sleep(FIRST_INTERVAL).await,
            Some(task) => {
                task.await.map_err(|error| Error::internal("a backup").with_source(error))??;
                return Err(Error::internal("a backup of nothing"));
            }
        }
    }
}

fn place(backup_dir: Option<&Path>, name: Option<String>) -> Result<PathBuf> {
    let backup_dir = backup_dir.ok_or_else(|| {
        Error::new(Code::Forbidden, "this server was not told where backups may be made")
            .with_hint("start it with --backup-dir DIRECTORY; or stop it, and `thermocline backup DIR --data-dir …`")
    })?;
    let name = name.unwrap_or_else(|| Utc::now().format("%Y-%m-%dT%H-%M-%S%.3fZ").to_string());
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('.') || !name.bytes().all(is_plain) {
        return Err(
            invalid("name", "must be letters, digits, `.`, `_` and `-`, and not begin with `.`").with_value(name)
        );
    }
    Ok(backup_dir.join(name))
}

fn described(report: &BackupReport) -> Value {
    let made_at = DateTime::from_timestamp_micros(report.made_at);
    json!({
        "directory": report.directory.to_string_lossy(),
        "made_at": made_at.map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true)),
        "position": report.position,
        "files": report.files,
        "bytes": report.bytes,
        "tables": report.tables,
    })
}
