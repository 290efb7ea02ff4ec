//! The contract as a table: of every operation its address, parameters, bodies, answers, refusals and examples.
//!
//! Always: the router is made of these operations and so is the OpenAPI document, so neither has an address that the other
//! lacks. That the rest is true is for tests: they send what the examples say, and hold every refusal that any of them
//! meets against the codes listed here.

use axum::routing::MethodFilter;
use thermocline_schemas::Code;

use super::accept::{ARROW_STREAM, CSV, EVENT_STREAM, JSON, NDJSON, PARQUET, TEXT};

/// What can be asked at one address with one method.
#[derive(Debug)]
pub struct Operation {
    pub method: Method,
    pub path: &'static str,
    /// Its name in the document, and in clients that are generated from it.
    pub id: &'static str,
    pub summary: &'static str,
    pub description: &'static str,
    pub parameters: &'static [&'static [Parameter]],
    /// Media types of the request, each with its schema; none if it has no body.
    pub bodies: &'static [Content],
    pub answer: &'static str,
    pub answers: &'static [Content],
    /// Success without content, and what it means.
    pub no_content: Option<&'static str>,
    pub refusals: &'static [&'static [Code]],
    pub examples: &'static [Example],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
}

impl Method {
    pub fn filter(self) -> MethodFilter {
        match self {
            Method::Get => MethodFilter::GET,
            Method::Post => MethodFilter::POST,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "get",
            Method::Post => "post",
        }
    }
}

#[derive(Debug)]
pub struct Parameter {
    pub place: &'static str,
    pub name: &'static str,
    pub meaning: &'static str,
    /// As JSON.
    pub schema: &'static str,
}

/// A media type, and the name of its schema in `shapes.json`; none where a schema has nothing to say.
#[derive(Debug)]
pub struct Content(pub &'static str, pub Option<&'static str>);

/// A request that can be sent, to a server where those before it were, and its answer.
#[derive(Debug)]
pub struct Example {
    pub name: &'static str,
    pub given: &'static [(&'static str, &'static str)],
    /// Its media type and text.
    pub body: Option<(&'static str, &'static str)>,
    pub status: u16,
    pub answer: (&'static str, &'static str),
}

const PROBLEM: &str = super::problem::PROBLEM_JSON;

const fn query(name: &'static str, schema: &'static str, meaning: &'static str) -> Parameter {
    Parameter { place: "query", name, meaning, schema }
}

const fn header(name: &'static str, schema: &'static str, meaning: &'static str) -> Parameter {
    Parameter { place: "header", name, meaning, schema }
}

const TEXT_SCHEMA: &str = r#"{"type":"string"}"#;
const NAMES_SCHEMA: &str = r#"{"type":"string","pattern":"^[^,]+(,[^,]+)*$"}"#;

/// The two names in the path of a table.
const TABLE: &[Parameter] = &[
    Parameter { place: "path", name: "database", meaning: "the database, exactly as it is spelled", schema: NAME },
    Parameter { place: "path", name: "table", meaning: "the table, exactly as it is spelled", schema: NAME },
];
const NAME: &str = r#"{"type":"string","pattern":"^(?!__)[A-Za-z_][A-Za-z0-9_]{0,127}$"}"#;

/// Of all that look at who asks and what for.
const ASKED: &[Code] = &[Code::InvalidRequest, Code::Unauthorized, Code::Forbidden, Code::Internal];
/// Of all that need the tables open.
const OPENED: &[Code] = &[Code::Starting, Code::ShuttingDown];
/// Of all that are about one table.
const NAMED: &[Code] =
    &[Code::InvalidName, Code::DatabaseNotFound, Code::TableNotFound, Code::TableDropped, Code::Corrupt];
/// Of all that take a body.
const SENT: &[Code] = &[Code::InvalidBody, Code::RequestTooLarge, Code::UnsupportedMediaType, Code::TooBusy];
/// Of all that may read the lake.
const LAKE: &[Code] = &[Code::SnapshotExpired, Code::LakeConflict, Code::StoreUnavailable];

pub const SQL: Operation = Operation {
    method: Method::Post,
    path: "/v1/sql",
    id: "sql",
    summary: "Run one SQL statement",
    description: "The body is the statement, or JSON with the statement and the values of `$1`, `$2`, …. Statements that \
                  make or change something answer one column, `rows`. A query that fails after its first rows ends NDJSON \
                  with `{\"error\":{…}}`, and breaks off the other formats. A client that goes away ends its query.",
    parameters: &[&[
        query("database", r#"{"type":"string","default":"public"}"#, "where names without a database are looked up"),
        query(
            "timeout",
            r#"{"type":"string","pattern":"^[0-9]+(ms|s|m|h)$"}"#,
            "at most so long, as `500ms` or `30s`; never longer than the server's own limit",
        ),
    ]],
    bodies: &[
        Content(TEXT, None),
        Content(JSON, Some("Statement")),
        Content("application/sql", None),
        Content("application/x-www-form-urlencoded", Some("StatementAsForm")),
    ],
    answer: "the rows",
    answers: &[Content(JSON, Some("Rows")), Content(NDJSON, None), Content(CSV, None), Content(ARROW_STREAM, None)],
    no_content: None,
    refusals: &[
        ASKED,
        OPENED,
        NAMED,
        SENT,
        LAKE,
        &[
            Code::NotAcceptable,
            Code::InvalidSql,
            Code::MultipleStatements,
            Code::SqlTooDeep,
            Code::InvalidType,
            Code::InvalidProperty,
            Code::TableExists,
            Code::DatabaseExists,
            Code::DatabaseNotEmpty,
            Code::WriteConflict,
            Code::InvalidRow,
            Code::CheckViolation,
            Code::UnknownColumn,
            Code::WrongTableKind,
            Code::IndexFull,
            Code::ResourcesExhausted,
            Code::NotBuilt,
            Code::DiskFull,
            Code::QueryTimeout,
        ],
    ],
    examples: &[
        Example {
            name: "create_table",
            given: &[],
            body: Some((TEXT, "CREATE TABLE events (id BIGINT NOT NULL, at TIMESTAMPTZ, what VARCHAR)")),
            status: 200,
            answer: (
                JSON,
                r#"{"columns":[{"name":"rows","type":"BIGINT"}],"rows":[[0]],"stats":{"hot_rows":0,"lake_rows":0,"elapsed_ms":1.5}}"#,
            ),
        },
        Example {
            name: "create_table_with_key",
            given: &[("database", "public")],
            body: Some((TEXT, "CREATE TABLE stock (item BIGINT PRIMARY KEY, place VARCHAR, pieces INTEGER NOT NULL)")),
            status: 200,
            answer: (
                JSON,
                r#"{"columns":[{"name":"rows","type":"BIGINT"}],"rows":[[0]],"stats":{"hot_rows":0,"lake_rows":0,"elapsed_ms":1.5}}"#,
            ),
        },
        Example {
            name: "insert",
            given: &[],
            body: Some((TEXT, "INSERT INTO events VALUES (1, '2026-11-23T13:00:00Z', 'started')")),
            status: 200,
            answer: (
                JSON,
                r#"{"columns":[{"name":"rows","type":"BIGINT"}],"rows":[[1]],"stats":{"hot_rows":0,"lake_rows":0,"elapsed_ms":1.5}}"#,
            ),
        },
        Example {
            name: "select_with_parameters",
            given: &[("timeout", "30s")],
            body: Some((JSON, r#"{"sql":"SELECT id, what FROM events WHERE id = $1","params":[1]}"#)),
            status: 200,
            answer: (
                JSON,
                r#"{"columns":[{"name":"id","type":"BIGINT"},{"name":"what","type":"VARCHAR"}],"rows":[[1,"started"]],"stats":{"hot_rows":1,"lake_rows":0,"elapsed_ms":1.5}}"#,
            ),
        },
        Example {
            name: "select_lines",
            given: &[],
            body: Some((TEXT, "SELECT id, at FROM events")),
            status: 200,
            answer: (NDJSON, "{\"id\":1,\"at\":\"2026-11-23T13:00:00Z\"}\n"),
        },
        Example {
            name: "select_csv",
            given: &[],
            body: Some((TEXT, "SELECT id, at FROM events")),
            status: 200,
            answer: (CSV, "id,at\n1,2026-11-23T13:00:00Z\n"),
        },
        Example {
            name: "no_such_table",
            given: &[],
            body: Some((TEXT, "SELECT * FROM nothing")),
            status: 404,
            answer: (
                PROBLEM,
                r#"{"type":"urn:thermocline:problem:table_not_found","title":"no such table","status":404,"detail":"no table public.nothing","code":"table_not_found","hint":"SHOW TABLES lists what there is"}"#,
            ),
        },
    ],
};

pub const TABLES: Operation = Operation {
    method: Method::Get,
    path: "/v1/tables",
    id: "listTables",
    summary: "All tables of all databases",
    description: "",
    parameters: &[],
    bodies: &[],
    answer: "the tables",
    answers: &[Content(JSON, Some("Tables"))],
    no_content: None,
    refusals: &[ASKED, OPENED],
    examples: &[Example {
        name: "two",
        given: &[],
        body: None,
        status: 200,
        answer: (
            JSON,
            r#"{"tables":[{"database":"public","name":"events","kind":"log"},{"database":"public","name":"stock","kind":"primary_key"}]}"#,
        ),
    }],
};

pub const TABLE_STATUS: Operation = Operation {
    method: Method::Get,
    path: "/v1/tables/{database}/{table}",
    id: "describeTable",
    summary: "A table's columns and properties, where its rows are, and how fresh its lake is",
    description: "",
    parameters: &[TABLE],
    bodies: &[],
    answer: "the table",
    answers: &[Content(JSON, Some("Table"))],
    no_content: None,
    refusals: &[ASKED, OPENED, NAMED, LAKE],
    examples: &[Example {
        name: "no_such_database",
        given: &[("database", "nowhere"), ("table", "events")],
        body: None,
        status: 404,
        answer: (
            PROBLEM,
            r#"{"type":"urn:thermocline:problem:database_not_found","title":"no such database","status":404,"detail":"no database nowhere","code":"database_not_found","hint":"CREATE DATABASE nowhere"}"#,
        ),
    }],
};

pub const ROWS: Operation = Operation {
    method: Method::Post,
    path: "/v1/tables/{database}/{table}/rows",
    id: "writeRows",
    summary: "Write rows, all or nothing; the answer comes when they are durable",
    description: "At most 64 MiB decoded. With `Thermocline-Writer` and `Thermocline-Sequence` a request may be sent again \
                  after any doubt: it is applied once, and a repeat gets the first answer with `\"duplicate\":true`. With `on_error=set_aside` \
                  rows that do not fit go into the table's `$rejected`, and `rejected` counts them.",
    parameters: &[
        TABLE,
        &[
            query(
                "change",
                r#"{"type":"string","enum":["append","upsert","delete"]}"#,
                "what to do with rows whose `__change` does not say it; by default `append`, or `upsert` with a primary key",
            ),
            query(
                "time",
                r#"{"type":"string","enum":["ms","us"]}"#,
                "numbers are taken for times, in this unit since 1970",
            ),
            query("header", r#"{"type":"boolean","default":true}"#, "CSV: whether the first line names the columns"),
            query("null", r#"{"type":"string","default":""}"#, "CSV: how null is spelled, unquoted"),
            query("columns", NAMES_SCHEMA, "CSV without a header: the columns, in order; with one: not built yet"),
            query(
                "on_error",
                r#"{"type":"string","enum":["set_aside"]}"#,
                "rows that do not fit are kept in the table's `$rejected` with the reason, the others are written",
            ),
            header(
                "Content-Encoding",
                r#"{"type":"string","enum":["identity","gzip","zstd"]}"#,
                "how the body is compressed",
            ),
            header(
                "Thermocline-Writer",
                r#"{"type":"string","pattern":"^[A-Za-z0-9._-]{1,128}$"}"#,
                "who writes; together with a sequence",
            ),
            header(
                "Thermocline-Sequence",
                r#"{"type":"integer","minimum":0}"#,
                "from 0, one more for each request of this writer to this table",
            ),
            header("Thermocline-Tag", r#"{"type":"string","maxLength":255}"#, "kept with the rows"),
        ],
    ],
    bodies: &[
        Content(NDJSON, None),
        Content(JSON, Some("RowObjects")),
        Content(CSV, None),
        Content(ARROW_STREAM, None),
        Content(PARQUET, None),
    ],
    answer: "the rows are durable",
    answers: &[Content(JSON, Some("Written"))],
    no_content: None,
    refusals: &[
        ASKED,
        OPENED,
        NAMED,
        SENT,
        LAKE,
        &[
            Code::InvalidType,
            Code::InvalidRow,
            Code::CheckViolation,
            Code::UnknownColumn,
            Code::WrongTableKind,
            Code::WriteConflict,
            Code::OutOfOrderSequence,
            Code::SequenceTooOld,
            Code::SequenceReused,
            Code::IndexFull,
            Code::NotBuilt,
            Code::DiskFull,
        ],
    ],
    examples: &[
        Example {
            name: "append_once",
            given: &[
                ("database", "public"),
                ("table", "events"),
                ("Thermocline-Writer", "me"),
                ("Thermocline-Sequence", "0"),
            ],
            body: Some((NDJSON, "{\"id\":2,\"what\":\"moved\"}\n{\"id\":3,\"what\":\"stopped\"}\n")),
            status: 200,
            answer: (
                JSON,
                r#"{"rows":2,"ignored":0,"rejected":0,"duplicate":false,"buckets":[{"partition":null,"bucket":0,"first_offset":1,"end_offset":3}]}"#,
            ),
        },
        Example {
            name: "append_again",
            given: &[
                ("database", "public"),
                ("table", "events"),
                ("Thermocline-Writer", "me"),
                ("Thermocline-Sequence", "0"),
            ],
            body: Some((NDJSON, "{\"id\":2,\"what\":\"moved\"}\n{\"id\":3,\"what\":\"stopped\"}\n")),
            status: 200,
            answer: (
                JSON,
                r#"{"rows":2,"ignored":0,"rejected":0,"duplicate":true,"buckets":[{"partition":null,"bucket":0,"first_offset":1,"end_offset":3}]}"#,
            ),
        },
        Example {
            name: "upsert_and_delete",
            given: &[("database", "public"), ("table", "stock"), ("change", "upsert")],
            body: Some((
                JSON,
                r#"[{"item":1,"place":"A","pieces":5},{"item":2,"place":"B","pieces":7},{"item":2,"__change":"delete"}]"#,
            )),
            status: 200,
            answer: (
                JSON,
                r#"{"rows":3,"ignored":0,"rejected":0,"duplicate":false,"buckets":[{"partition":null,"bucket":0,"first_offset":0,"end_offset":3}]}"#,
            ),
        },
        Example {
            name: "csv_without_header",
            given: &[
                ("database", "public"),
                ("table", "events"),
                ("header", "false"),
                ("columns", "id,what"),
                ("null", "-"),
            ],
            body: Some((CSV, "4,-\n")),
            status: 200,
            answer: (
                JSON,
                r#"{"rows":1,"ignored":0,"rejected":0,"duplicate":false,"buckets":[{"partition":null,"bucket":0,"first_offset":3,"end_offset":4}]}"#,
            ),
        },
        Example {
            name: "not_a_number",
            given: &[("database", "public"), ("table", "events")],
            body: Some((NDJSON, "{\"id\":\"x\"}\n")),
            status: 422,
            answer: (
                PROBLEM,
                r#"{"type":"urn:thermocline:problem:invalid_row","title":"a row does not fit the table","status":422,"detail":"column id is BIGINT: \"x\" is not a number","code":"invalid_row","row":0,"column":"id","value":"x"}"#,
            ),
        },
    ],
};

pub const CHANGES: Operation = Operation {
    method: Method::Get,
    path: "/v1/tables/{database}/{table}/changes",
    id: "followChanges",
    summary: "What happened to a table, and what happens",
    description: "Changes in offset order per bucket, without gap or duplicate: from the lake, through the hot tier, to what \
                  is written next. Each event carries a token; sent back as `Last-Event-ID` or `from=token:…` it goes on \
                  there. A stop of the server ends the stream after its last token.",
    parameters: &[
        TABLE,
        &[
            query(
                "from",
                r#"{"type":"string","default":"latest","pattern":"^(latest|earliest|snapshot|timestamp:.+|offsets:.+|token:.+)$"}"#,
                "`latest`, `earliest`, `snapshot` (with a primary key), `timestamp:<RFC 3339 or epoch ms>`, \
                 `offsets:0=120,1=98` or `token:<token>`",
            ),
            query("follow", r#"{"type":"boolean","default":true}"#, "false: end where the table ends now"),
            query("columns", NAMES_SCHEMA, "these columns alone"),
            query("where", TEXT_SCHEMA, "only rows for which this SQL condition is true, each tested by itself"),
            header("Last-Event-ID", TEXT_SCHEMA, "the token that came last; it beats `from`"),
        ],
    ],
    bodies: &[],
    answer: "the changes, until the client goes away",
    answers: &[Content(EVENT_STREAM, None), Content(NDJSON, None), Content(ARROW_STREAM, None)],
    no_content: Some("nothing is left after `Last-Event-ID` and `follow=false`: an event source does not come again"),
    refusals: &[
        ASKED,
        OPENED,
        NAMED,
        LAKE,
        &[
            Code::NotAcceptable,
            Code::InvalidToken,
            Code::InvalidOffset,
            Code::InvalidSql,
            Code::MultipleStatements,
            Code::SqlTooDeep,
            Code::UnknownColumn,
            Code::WrongTableKind,
            Code::OffsetOutOfRetention,
            Code::TooBusy,
            Code::ResourcesExhausted,
            Code::NotBuilt,
            Code::QueryTimeout,
        ],
    ],
    examples: &[
        Example {
            name: "events",
            given: &[
                ("database", "public"),
                ("table", "events"),
                ("from", "offsets:0=2"),
                ("follow", "false"),
                ("columns", "id,what"),
            ],
            body: None,
            status: 200,
            answer: (
                EVENT_STREAM,
                "id: AQEBAAACBPCxVN8\n\nevent: change\nid: AQEBAAACBo89HzE\ndata: {\"kind\":\"+A\",\"partition\":null,\"bucket\":0,\
                 \"offset\":2,\"timestamp\":\"2026-11-23T13:00:01.000001Z\",\"row\":{\"id\":3,\"what\":\"stopped\"}}\n\n\
                 event: change\nid: AQEBAAACCPDxVN8\ndata: {\"kind\":\"+A\",\"partition\":null,\"bucket\":0,\"offset\":3,\
                 \"timestamp\":\"2026-11-23T13:00:02.000001Z\",\"row\":{\"id\":4,\"what\":null}}\n\n\
                 event: end\nid: AQEBAAACCPDxVN8\ndata: {}\n\n",
            ),
        },
        Example {
            name: "lines",
            given: &[
                ("database", "public"),
                ("table", "events"),
                ("from", "earliest"),
                ("follow", "false"),
                ("where", "what = 'moved'"),
            ],
            body: None,
            status: 200,
            answer: (
                NDJSON,
                "{\"token\":\"AQEBAAABAGfavhc\"}\n{\"kind\":\"+A\",\"partition\":null,\"bucket\":0,\"offset\":1,\
                 \"timestamp\":\"2026-11-23T13:00:01.000001Z\",\"row\":{\"id\":2,\"at\":null,\"what\":\"moved\"}}\n\
                 {\"token\":\"AQEBAAABBo89HzE\"}\n",
            ),
        },
        Example {
            name: "not_a_token",
            given: &[("database", "public"), ("table", "events"), ("Last-Event-ID", "yesterday")],
            body: None,
            status: 400,
            answer: (
                PROBLEM,
                r#"{"type":"urn:thermocline:problem:invalid_token","title":"the resume token is not one of ours","status":400,"detail":"that is not a token of this server","code":"invalid_token","value":"yesterday","hint":"take the last id or token that came, unchanged; or from=earliest"}"#,
            ),
        },
    ],
};

pub const LOOKUP: Operation = Operation {
    method: Method::Post,
    path: "/v1/tables/{database}/{table}/lookup",
    id: "lookUp",
    summary: "The newest rows of up to 10,000 keys, in their order",
    description: "`prefixes` asks for all keys that begin with some values of the key's first column, where that is the \
                  `bucket_key`. Keys that come as Arrow are answered as Arrow, one row for each.",
    parameters: &[
        TABLE,
        &[query(
            "columns",
            NAMES_SCHEMA,
            "of keys that come as Arrow: these columns alone; in JSON it is part of the body",
        )],
    ],
    bodies: &[Content(JSON, Some("Lookup")), Content(ARROW_STREAM, None)],
    answer: "for each key its row, or null; for each prefix an array of rows",
    answers: &[Content(JSON, Some("LookedUp")), Content(ARROW_STREAM, None)],
    no_content: None,
    refusals: &[
        ASKED,
        OPENED,
        NAMED,
        SENT,
        LAKE,
        &[Code::InvalidType, Code::InvalidRow, Code::UnknownColumn, Code::WrongTableKind, Code::NotBuilt],
    ],
    examples: &[
        Example {
            name: "keys",
            given: &[("database", "public"), ("table", "stock")],
            body: Some((JSON, r#"{"keys":[{"item":1},{"item":2}],"columns":["place","pieces"]}"#)),
            status: 200,
            answer: (JSON, r#"{"rows":[{"place":"A","pieces":5},null]}"#),
        },
        Example {
            name: "log_table",
            given: &[("database", "public"), ("table", "events")],
            body: Some((JSON, r#"{"keys":[{"id":1}]}"#)),
            status: 422,
            answer: (
                PROBLEM,
                r#"{"type":"urn:thermocline:problem:wrong_table_kind","title":"the operation does not fit this kind of table","status":422,"detail":"table public.events has no primary key","code":"wrong_table_kind","hint":"SELECT … WHERE finds rows of log tables"}"#,
            ),
        },
    ],
};

pub const TIER: Operation = Operation {
    method: Method::Post,
    path: "/v1/tables/{database}/{table}/tier",
    id: "tier",
    summary: "Take all rows that were acked before into the lake, now",
    description: "Rounds come by themselves within `lake_freshness`; this waits for one.",
    parameters: &[TABLE],
    bodies: &[],
    answer: "the round",
    answers: &[Content(JSON, Some("Round"))],
    no_content: None,
    refusals: &[ASKED, OPENED, NAMED, LAKE, &[Code::WrongTableKind, Code::TooBusy, Code::DiskFull]],
    examples: &[Example {
        name: "round",
        given: &[("database", "public"), ("table", "events")],
        body: None,
        status: 200,
        answer: (JSON, r#"{"snapshot_id":218998842235821030,"rows":4,"files":1,"seconds":0.015}"#),
    }],
};

pub const BACKUP: Operation = Operation {
    method: Method::Post,
    path: "/v1/backup",
    id: "backUp",
    summary: "Copy all rows of all tables, as they are at one moment, into a directory of the server's machine",
    description: "Every row that was acked before is in it; writers, queries and rounds go on meanwhile. The directory is made inside \
                  of the one that the server was started with (`--backup-dir`); without one there are no backups. Lines \
                  `{\"bytes\":…,\"of\":…}` say how far it is; the last one is `{\"backup\":{…}}`, or `{\"error\":{…}}`. A \
                  client that goes away before that ends it.",
    parameters: &[&[query(
        "name",
        r#"{"type":"string","pattern":"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"}"#,
        "the backup's directory, which must be new; by default the time",
    )]],
    bodies: &[],
    answer: "how far it is, and last the backup",
    answers: &[Content(NDJSON, None)],
    no_content: None,
    refusals: &[ASKED, OPENED, LAKE, &[Code::Corrupt, Code::TooBusy, Code::DiskFull]],
    examples: &[Example {
        name: "nowhere",
        given: &[("name", "monday")],
        body: None,
        status: 403,
        answer: (
            PROBLEM,
            r#"{"type":"urn:thermocline:problem:forbidden","title":"the request reaches where it may not","status":403,"detail":"this server was not told where backups may be made","code":"forbidden","hint":"start it with --backup-dir DIRECTORY; or stop it, and `thermocline backup DIR --data-dir …`"}"#,
        ),
    }],
};

pub const HEALTH: Operation = Operation {
    method: Method::Get,
    path: "/health",
    id: "health",
    summary: "Whether the process is alive; never wants a token",
    description: "",
    parameters: &[],
    bodies: &[],
    answer: "it is",
    answers: &[Content(JSON, Some("Health"))],
    no_content: None,
    refusals: &[&[Code::InvalidRequest, Code::Internal]],
    examples: &[Example {
        name: "alive",
        given: &[],
        body: None,
        status: 200,
        answer: (JSON, r#"{"status":"alive"}"#),
    }],
};

pub const READY: Operation = Operation {
    method: Method::Get,
    path: "/ready",
    id: "ready",
    summary: "Whether tables are open and rows can be acked; never wants a token",
    description: "",
    parameters: &[],
    bodies: &[],
    answer: "they can",
    answers: &[Content(JSON, Some("Ready"))],
    no_content: None,
    refusals: &[&[Code::InvalidRequest, Code::Internal], OPENED],
    examples: &[Example {
        name: "ready",
        given: &[],
        body: None,
        status: 200,
        answer: (JSON, r#"{"status":"ready","refused_buckets":0}"#),
    }],
};

pub const METRICS: Operation = Operation {
    method: Method::Get,
    path: "/metrics",
    id: "metrics",
    summary: "What the server does, for Prometheus",
    description: "",
    parameters: &[],
    bodies: &[],
    answer: "samples in the Prometheus text format",
    answers: &[Content(TEXT, None)],
    no_content: None,
    refusals: &[ASKED],
    examples: &[],
};

pub const OPENAPI: Operation = Operation {
    method: Method::Get,
    path: "/openapi.json",
    id: "openapi",
    summary: "This document",
    description: "",
    parameters: &[],
    bodies: &[],
    answer: "the document",
    answers: &[Content(JSON, Some("Document"))],
    no_content: None,
    refusals: &[ASKED],
    examples: &[],
};
