//! DDL and INSERT on a node in memory. A table that was made says its own DDL, and that makes the same table again.

use std::sync::Arc;

use futures::TryStreamExt;
use thermocline_engine::Table;
use thermocline_integration_tests::node::Node;
use thermocline_schemas::Error;
use thermocline_sql::SqlRequest;
use tokio::runtime::Runtime;

use super::sql::{runtime, start};
use crate::driver::{Outcome, Target};

/// Rows that INSERTs may leave before there is a new node.
const ROWS_MAX: u64 = 50_000;

const SEEDS: [(&str, &str); 10] = [
    (
        "types",
        "CREATE TABLE x (a BOOLEAN, b TINYINT, c SMALLINT, d INTEGER, e BIGINT NOT NULL, f REAL, g DOUBLE PRECISION, h DECIMAL(12, 2), i DATE, j TIMESTAMP, k TIMESTAMPTZ, l VARCHAR, m BYTEA)",
    ),
    (
        "properties",
        "CREATE TABLE IF NOT EXISTS public.x (a BIGINT, b VARCHAR) WITH (buckets = 4, bucket_key = 'a', lake_enabled = false, lake_freshness = '30s', format_version = 3, hot_retention = '1h')",
    ),
    ("defaults", "CREATE TABLE x (a BIGINT) WITH (format_version = '2', buckets = '1', lake_freshness = '30s')"),
    (
        "key",
        "CREATE TABLE x (a BIGINT, b VARCHAR, c DATE, PRIMARY KEY (a, b)) WITH (bucket_key = 'a', buckets = 2, changelog = 'upsert', delete_behavior = 'refuse', format_version = 3)",
    ),
    ("quoted", "CREATE TABLE \"Mixed case\" (\"select\" INT NULL, \"a b\" VARCHAR NOT NULL)"),
    ("database", "CREATE DATABASE IF NOT EXISTS shop"),
    ("drop", "DROP TABLE IF EXISTS nowhere.x"),
    (
        "insert",
        "INSERT INTO t (id, city, ratio, price, at) VALUES (1, 'x', 0.5, 12.30, '2026-11-23T13:00:00Z'), (-2, 'y', 1e3, NULL, NULL)",
    ),
    ("insert_select", "INSERT INTO t (id, city, ratio) SELECT id + 1, upper(city), ratio * 2 FROM t WHERE id < 3"),
    ("describe", "DESCRIBE TABLE public.t"),
];

pub struct Ddl {
    runtime: Runtime,
    node: Node,
    table: Arc<Table>,
}

impl Ddl {
    pub fn new() -> Ddl {
        let runtime = runtime();
        let (node, table) = runtime.block_on(start());
        Ddl { runtime, node, table }
    }

    fn execute(&self, text: &str) -> Result<(), Error> {
        let (sql, text) = (self.node.sql.clone(), text.to_owned());
        self.runtime.block_on(async move {
            let answer = sql.execute(&text, SqlRequest::default()).await?;
            answer.batches.try_collect::<Vec<_>>().await.map(drop)
        })
    }

    /// Whatever the last text made is checked, and goes.
    fn check_and_clear(&self) -> Result<(), String> {
        for table in self.node.engine.tables() {
            let made = table.descriptor().clone();
            if made.name == self.table.descriptor().name {
                continue;
            }
            let ddl = made.ddl();
            let failed = |what: &str| {
                let (what, ddl) = (what.to_owned(), ddl.clone());
                move |error: Error| format!("{what} of {ddl}: {error:?}")
            };
            self.runtime.block_on(self.node.engine.drop_table(&made.name, false, false)).map_err(failed("drop"))?;
            self.execute(&ddl).map_err(failed("its own DDL"))?;
            let again = self.node.engine.table(&made.name).map_err(failed("a table elsewhere"))?;
            let again = again.descriptor().clone();
            let same = format!("{:?}{:?}", made.schema, made.properties)
                == format!("{:?}{:?}", again.schema, again.properties);
            if !same {
                return Err(format!("{ddl} makes {again:?}, not {made:?}"));
            }
            self.runtime.block_on(self.node.engine.drop_table(&made.name, false, false)).map_err(failed("drop"))?;
        }
        for database in self.node.engine.databases() {
            if database.as_str() != thermocline_engine::DEFAULT_DATABASE {
                self.runtime
                    .block_on(self.node.engine.drop_database(database.as_str(), false))
                    .map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

impl Target for Ddl {
    fn seeds(&self) -> Vec<(String, Vec<u8>)> {
        SEEDS.map(|(name, text)| (format!("{name}.sql"), text.as_bytes().to_vec())).into()
    }

    fn words(&self) -> &'static [&'static str] {
        &[
            "CREATE",
            "TABLE ",
            "DROP ",
            "DATABASE ",
            "IF NOT EXISTS ",
            "IF EXISTS ",
            " WITH (",
            " NOT NULL",
            " NULL",
            ", ",
            "(",
            ")",
            " = ",
            "'",
            "\"",
            "\"\"",
            "''",
            "buckets",
            "bucket_key",
            "hot_retention",
            "'36500d'",
            "'0ms'",
            "4096",
            "DECIMAL(38, 38)",
            "DECIMAL(",
            "BIGINT",
            "VARCHAR",
            "TIMESTAMPTZ",
            "ARRAY<",
            "STRUCT<",
            ">",
            "DEFAULT 1",
            "CHECK (",
            "COMMENT 'x'",
            "PRIMARY KEY",
            "format_version",
            " VALUES (",
            "NULL",
            "-",
            "1e999",
            "'NaN'",
            "x'00'",
            "::",
            "public.",
            "$",
            ".",
            ";",
            "--",
            "LIKE t",
            " SELECT * FROM t",
            "ä",
            "\u{0}",
        ]
    }

    fn memory(&self) -> (usize, usize) {
        (4_000, 64 << 20)
    }

    fn run(&mut self, input: &[u8]) -> Result<Outcome, String> {
        if self.table.ends().ends.values().map(|end| end.0).sum::<u64>() > ROWS_MAX
            || self.node.engine.table(&self.table.descriptor().name).is_err()
        {
            self.runtime.block_on(self.node.stop());
            (self.node, self.table) = self.runtime.block_on(start());
        }
        let text = String::from_utf8_lossy(input);
        let done = self.execute(&text);
        self.check_and_clear()?;
        match done {
            Ok(()) => Ok(Outcome::Taken(text.chars().take(12).collect())),
            Err(error) => Outcome::refused(&error),
        }
    }
}
