//! What tables there are, how each stands, and a round on demand.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value, json};
use thermocline_engine::Table;
use thermocline_schemas::{Error, Result, TableDescriptor};
use thermocline_tiering::TableStatus;

use super::Problem;
use super::operations::json;
use super::parameters::{Address, Parameters};
use crate::app::App;

/// `GET /v1/tables`
pub async fn list(State(app): State<Arc<App>>, parameters: Parameters) -> Result<Response, Problem> {
    parameters.finish()?;
    let tables = app.store()?.engine().tables();
    // What was set aside of a table is part of it.
    let tables = tables.iter().filter(|table| table.descriptor().rejected_of.is_none()).map(|table| {
        let descriptor = table.descriptor();
        json!({
            "database": descriptor.name.database.as_str(),
            "name": descriptor.name.table.as_str(),
            "kind": descriptor.kind.as_str(),
        })
    });
    Ok(json(json!({ "tables": tables.collect::<Vec<_>>() }).to_string()))
}

/// `GET /v1/tables/{database}/{table}`
pub async fn show(
    State(app): State<Arc<App>>,
    Address(name): Address,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let store = app.store()?;
    let table = store.table(&name)?;
    let status = store.tiering.status(&table).await?;
    Ok(json(described(&table, &status).to_string()))
}

fn described(table: &Table, status: &TableStatus) -> Value {
    let descriptor = table.descriptor();
    let columns = descriptor.schema.columns().iter().map(|column| {
        json!({
            "id": column.id,
            "name": column.name.as_str(),
            "type": column.column_type.to_string(),
            "nullable": column.nullable,
        })
    });
    let checks = descriptor.schema.checks().iter().map(|check| {
        json!({
            "name": check.name.as_str(),
            "check": check.condition,
            "valid": !descriptor.not_valid.contains(&check.name),
        })
    });
    let properties = descriptor.properties.rows(descriptor.kind);
    let properties: Map<_, _> =
        properties.into_iter().map(|row| (row.definition.name.to_owned(), Value::from(row.value))).collect();
    let buckets = status.buckets.iter().map(|bucket| {
        let mut described = json!({
            "partition": descriptor.partition_path(bucket.bucket.partition),
            "bucket": bucket.bucket_id(),
            "log_start": bucket.log_start,
            "tiered_end": bucket.tiered_end,
            "durable_end": bucket.durable_end,
        });
        if let Some(reason) = status.refused.get(&bucket.bucket) {
            described["refused"] = json!(reason.as_ref());
        }
        described
    });
    let last_round = status.last_round_ms.and_then(DateTime::from_timestamp_millis);
    json!({
        "database": descriptor.name.database.as_str(),
        "name": descriptor.name.table.as_str(),
        "kind": descriptor.kind.as_str(),
        "id": descriptor.id,
        "schema": { "id": descriptor.schema.id, "columns": columns.collect::<Vec<_>>() },
        "primary_key": key_names(descriptor),
        "constraints": checks.collect::<Vec<_>>(),
        "properties": properties,
        "lake": { "location": status.location, "snapshot_id": status.snapshot_id },
        "buckets": buckets.collect::<Vec<_>>(),
        "freshness": {
            "lake_lag_rows": status.lake_lag_rows,
            "lake_lag_seconds": status.lake_lag_seconds,
            "last_round": last_round.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)),
            "last_error": status.last_error,
        },
    })
}

/// The key's columns in the key's order; null for a log table.
fn key_names(descriptor: &TableDescriptor) -> Option<Vec<&str>> {
    let columns = descriptor.schema.columns();
    let names = descriptor.key_places().into_iter().map(|place| columns[place].name.as_str());
    descriptor.is_keyed().then(|| names.collect())
}

/// `POST /v1/tables/{database}/{table}/tier`
pub async fn tier(
    State(app): State<Arc<App>>,
    Address(name): Address,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let store = app.store()?;
    let table = store.table(&name)?;
    // A client that goes away leaves the round to its end.
    let round = app.background.spawn(async move { store.tiering.tier(&table).await });
    let round = round.await.map_err(|error| Error::internal("a round").with_source(error))??;
    let report = json!({
        "snapshot_id": round.snapshot_id, "rows": round.rows, "files": round.files, "seconds": round.seconds,
    });
    Ok(json(report.to_string()))
}
