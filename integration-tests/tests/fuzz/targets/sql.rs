//! SQL texts, parsed and planned but not run: every query is explained. Some are made of one thing nested or chained until
//! it is a bomb. Each is answered or refused within its time.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use rand::Rng;
use rand::rngs::StdRng;
use thermocline_engine::disk::MemoryDisk;
use thermocline_engine::{Durability, Sender, SystemClock, Table};
use thermocline_integration_tests::node::Node;
use thermocline_integration_tests::oracle;
use thermocline_schemas::Code;
use thermocline_sql::SqlRequest;
use tokio::runtime::Runtime;

use crate::driver::{Outcome, Target};
use crate::mutate::{BYTES_MAX, Source, mutate, pick};

/// Far above what planning needs, also beside other work.
const TIME: Duration = Duration::from_secs(120);

const SEEDS: [(&str, &str); 12] = [
    (
        "join",
        "SELECT a.id, count(*) FROM t AS a JOIN t AS b ON a.id = b.id AND a.city <> 'x' GROUP BY a.id HAVING count(*) > 1",
    ),
    (
        "with",
        "WITH x AS (SELECT * FROM t WHERE price > 1.5), y AS (SELECT city FROM x) SELECT DISTINCT city FROM y ORDER BY 1 DESC LIMIT 3 OFFSET 1",
    ),
    (
        "window",
        "SELECT id, sum(price) OVER (PARTITION BY city ORDER BY at ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t",
    ),
    ("case", "SELECT CASE WHEN ok THEN 'a' WHEN small IS NULL THEN note ELSE upper(city) || 'x' END FROM t"),
    ("in", "SELECT * FROM t WHERE id IN (1, 2, 3) AND city LIKE 'c%' OR NOT ok AND id BETWEEN -5 AND 0x10"),
    (
        "subquery",
        "SELECT (SELECT max(id) FROM t WHERE city = o.city), EXISTS (SELECT 1 FROM t) FROM t AS o WHERE id > ALL (SELECT 1)",
    ),
    ("union", "SELECT id FROM t UNION ALL SELECT small FROM t EXCEPT (VALUES (1), (2)) INTERSECT SELECT 3"),
    (
        "times",
        "SELECT date_trunc('day', at), at + INTERVAL '1 day', CAST('2026-01-01' AS DATE), EXTRACT(year FROM at) FROM t",
    ),
    ("tiers", "SELECT *, __bucket, __offset FROM \"t$hot\" WHERE __offset >= 3"),
    ("recursive", "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT i FROM n"),
    (
        "functions",
        "SELECT regexp_replace(note, '(a+)+$', 'x'), md5(city), encode(sha256('x'), 'hex'), coalesce(price, 0)::int, repeat('a', 3), lpad('x', 4) FROM t",
    ),
    (
        "lists",
        "SELECT unnest([1, 2, 3]), array_agg(id), range(5), generate_series(1, 3), make_array(1, NULL)[1] FROM t GROUP BY GROUPING SETS ((city), ())",
    ),
];

/// What opens, what is inside, what closes.
const BOMBS: [(&str, &str, &str); 16] = [
    ("(", "1", ")"),
    ("NOT ", "true", ""),
    ("- ", "1", ""),
    ("abs(", "1", ")"),
    ("[", "1", "]"),
    ("CASE WHEN ok THEN ", "1", " END"),
    ("(SELECT ", "1", ")"),
    ("EXISTS (SELECT ", "1", ")"),
    ("", "1", " + 1"),
    ("", "id", " IS NULL"),
    ("", "id = 1", " OR id = 2"),
    ("", "1", "::int"),
    ("1, ", "1", ""),
    ("", "'a'", " || 'a'"),
    ("SELECT 1 UNION ALL ", "SELECT 1", ""),
    ("", "id", "[1]"),
];

pub struct SqlText {
    runtime: Runtime,
    node: Node,
}

impl SqlText {
    pub fn new() -> SqlText {
        let runtime = runtime();
        let (node, _) = runtime.block_on(start());
        SqlText { runtime, node }
    }
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be made")
}

/// A node, and its table, which has rows in both tiers.
pub async fn start() -> (Node, Arc<Table>) {
    let node = Node::start(&MemoryDisk::new(), Durability::Fsync, Arc::new(SystemClock)).await;
    let node = node.expect("a node starts in memory");
    let table = node.table("t", &[("buckets", "2"), ("bucket_key", "city")]).await.expect("a table");
    for ids in [[1, 2, 3, 4], [5, 6, 7, 8]] {
        let rows = oracle::rows(table.schema(), &ids);
        node.engine.append(&table, rows, Sender::default()).await.expect("rows are taken");
        if ids[0] == 1 {
            node.tiering.tier(&table).await.expect("a round");
        }
    }
    (node, table)
}

impl Target for SqlText {
    fn seeds(&self) -> Vec<(String, Vec<u8>)> {
        SEEDS.map(|(name, text)| (format!("{name}.sql"), text.as_bytes().to_vec())).into()
    }

    fn words(&self) -> &'static [&'static str] {
        &[
            " SELECT ",
            " FROM t ",
            " WHERE ",
            " AND ",
            " OR ",
            " NOT ",
            " NULL ",
            " AS ",
            " IN (",
            "(",
            ")",
            ", ",
            " = ",
            " + ",
            "'",
            "\"",
            "--",
            "/*",
            "*/",
            ";",
            "$1",
            "*",
            " JOIN t ON ",
            " GROUP BY ",
            " ORDER BY ",
            " LIMIT ",
            " UNION ",
            " OVER (",
            " LATERAL ",
            " CASE WHEN ",
            " THEN ",
            " END ",
            "::",
            "INTERVAL '1' ",
            "ARRAY[",
            "{",
            "}",
            "t.*",
            "id",
            "city",
            "price",
            "at",
            "__offset",
            "\"t$changes\"",
            "\"t$snapshots\"",
            "information_schema.tables",
            "EXTRACT(",
            "CAST(",
            "WITH RECURSIVE x AS (",
            " FILTER (WHERE ",
            " AS OF ",
            " FOR SYSTEM_TIME ",
            "E'\\",
            "x'",
            "0x",
            "1e999",
            "@",
            "#",
            "->",
            "~",
            "!",
            "?",
            ":=",
            "=>",
            "$$",
        ]
    }

    fn memory(&self) -> (usize, usize) {
        (4_000, 64 << 20)
    }

    fn change(&self, input: &mut Vec<u8>, source: &Source<'_>, random: &mut StdRng) {
        if random.random_bool(0.95) {
            return mutate(input, source, random);
        }
        let (open, inside, close) = pick(&BOMBS, random).expect("there are bombs");
        let most = BYTES_MAX / (open.len() + close.len());
        let times = if random.random() { random.random_range(1..300) } else { random.random_range(1..most) };
        let bomb = format!("{}{inside}{}", open.repeat(times), close.repeat(times));
        if random.random() {
            *input = format!("SELECT {bomb} FROM t").into_bytes();
        } else {
            let at = random.random_range(0..=input.len());
            input.splice(at..at, bomb.into_bytes());
        }
    }

    fn run(&mut self, input: &[u8]) -> Result<Outcome, String> {
        let text = String::from_utf8_lossy(input);
        let first = text.trim_start_matches(|character: char| !character.is_alphabetic()).to_ascii_uppercase();
        let as_it_is =
            ["EXPLAIN", "SHOW", "DESCRIBE", "CREATE", "DROP", "INSERT"].iter().any(|word| first.starts_with(word));
        let text = if as_it_is { text.into_owned() } else { format!("EXPLAIN {text}") };
        if first.starts_with("DROP") || first.starts_with("INSERT") || first.starts_with("CREATE") {
            return Ok(Outcome::Refused("not a query".to_owned()));
        }
        let sql = self.node.sql.clone();
        let answered = self.runtime.block_on(async move {
            let request = SqlRequest { timeout: Some(TIME), ..SqlRequest::default() };
            sql.execute(&text, request).await?.batches.try_collect::<Vec<_>>().await
        });
        match answered {
            Ok(batches) => Ok(Outcome::Taken(format!("{} batches", batches.len()))),
            Err(error) if error.code() == Code::QueryTimeout => Err(format!("planning took longer than {TIME:?}")),
            Err(error) => Outcome::refused(&error),
        }
    }
}
