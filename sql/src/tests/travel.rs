//! Time travel: random histories are asked at earlier cuts, and every form of version clause means something or is refused.

use std::time::Duration;

use arrow::array::RecordBatch;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thermocline_schemas::{Code, Error};
use thermocline_tiering::token_format;

use super::Node;

/// What a table was at a moment.
struct Then {
    moment: i64,
    header: String,
    rows: Vec<String>,
    ids: Vec<String>,
    /// `offsets:…` of all buckets.
    offsets: String,
    /// Which columns it had, counted.
    columns: usize,
    /// So many times had hot rows been let go.
    let_go: usize,
}

struct History {
    node: Node,
    random: StdRng,
    keyed: bool,
    buckets: u32,
    then: Vec<Then>,
    /// Names of columns beside the key, and how often they changed.
    columns: Vec<String>,
    versions: usize,
    dropped: bool,
    let_go: usize,
    next: i64,
    log: String,
}

impl History {
    async fn new(seed: u64, keyed: bool, retention: &str, lake: bool) -> History {
        let mut random = StdRng::seed_from_u64(seed);
        let node = Node::eager().await;
        let buckets = random.random_range(1..=3);
        let key = if keyed { ", PRIMARY KEY (id)" } else { "" };
        node.run(&format!(
            "CREATE TABLE t (id BIGINT NOT NULL, n INT, text VARCHAR{key}) WITH (buckets = {buckets}, \
             bucket_key = 'id', snapshot_retention = '{retention}', lake_enabled = {lake})"
        ))
        .await;
        let columns = vec!["n".to_owned(), "text".to_owned()];
        let log = format!("seed {seed}, keyed {keyed}, retention {retention}, lake {lake}");
        let (then, versions, dropped, let_go, next) = (Vec::new(), 0, false, 0, 0);
        History { node, random, keyed, buckets, then, columns, versions, dropped, let_go, next, log }
    }

    async fn note(&mut self) {
        let moment = self.node.engine.now_micros();
        let batches = self.node.batches("SELECT * FROM t ORDER BY id").await.unwrap();
        let ids = self.node.rows("SELECT id FROM t ORDER BY id").await;
        let ends = self.node.table("t").ends();
        let ends: Vec<_> = self
            .node
            .table("t")
            .buckets()
            .map(|(bucket, _)| format!("{}={}", bucket.bucket, ends.end(bucket)))
            .collect();
        self.then.push(Then {
            moment,
            header: header(&batches),
            ids,
            rows: super::lines(&batches),
            offsets: format!("offsets:{}", ends.join(",")),
            columns: self.versions,
            let_go: self.let_go,
        });
        while self.node.engine.now_micros() <= moment {
            std::hint::spin_loop();
        }
    }

    async fn step(&mut self) {
        let choice = self.random.random_range(0..100);
        let said = match choice {
            0..30 => self.insert().await,
            30..50 if self.keyed => self.change().await,
            30..50 => self.insert().await,
            50..68 => {
                if self.node.table("t").descriptor().properties.lake_enabled {
                    self.node.tier("t").await;
                }
                "tier".to_owned()
            }
            68..75 => {
                if self.node.table("t").descriptor().properties.lake_enabled {
                    self.node.let_go("t").await;
                    self.let_go += 1;
                }
                "let go".to_owned()
            }
            75..80 => {
                self.node.engine.seal(&self.node.table("t")).await.unwrap();
                "seal".to_owned()
            }
            80..88 => {
                if self.node.table("t").descriptor().properties.lake_enabled {
                    self.node.tiering.compact(&self.node.table("t")).await.unwrap();
                    self.node.tiering.sweep_now(&self.node.table("t")).await.unwrap();
                }
                "compact and sweep".to_owned()
            }
            88..94 => self.alter().await,
            94..97 => {
                self.node.engine.checkpoint().await.unwrap();
                "checkpoint".to_owned()
            }
            _ => {
                let node = std::mem::replace(&mut self.node, Node::new().await);
                self.node = node.restarted().await;
                "restart".to_owned()
            }
        };
        self.log += &format!("\n{}: {said}", self.then.len());
        self.note().await;
    }

    async fn insert(&mut self) -> String {
        let rows: Vec<_> = (0..self.random.random_range(1..6))
            .map(|_| {
                let id = if self.keyed { self.random.random_range(0..20) } else { self.next };
                self.next += 1;
                format!("({id}, {})", self.random.random_range(0..1000))
            })
            .collect();
        let column = self.columns.first().map_or("id", String::as_str).to_owned();
        let text = format!("INSERT INTO t (id, \"{column}\") VALUES {}", rows.join(", "));
        self.node.run(&text).await;
        text
    }

    async fn change(&mut self) -> String {
        let id = self.random.random_range(0..20);
        let text = match (self.random.random_range(0..3), self.columns.first()) {
            (0, _) | (_, None) => format!("DELETE FROM t WHERE id % 5 = {}", id % 5),
            (_, Some(column)) => format!("UPDATE t SET \"{column}\" = {} WHERE id % 3 = {}", id + 5000, id % 3),
        };
        self.node.run(&text).await;
        text
    }

    async fn alter(&mut self) -> String {
        self.versions += 1;
        let text = match self.random.random_range(0..4) {
            0 if self.columns.len() > 1 => {
                self.dropped = true;
                format!("DROP COLUMN \"{}\"", self.columns.remove(0))
            }
            1 if !self.columns.is_empty() => {
                let name = format!("r{}", self.versions);
                let before = std::mem::replace(&mut self.columns[0], name.clone());
                format!("RENAME COLUMN \"{before}\" TO {name}")
            }
            2 if self.columns.len() > 1 => {
                // One goes, and another comes under its name.
                self.dropped = true;
                let name = self.columns[0].clone();
                format!("DROP COLUMN \"{name}\", ADD COLUMN \"{name}\" BIGINT FIRST")
            }
            _ => {
                let name = format!("a{}", self.versions);
                self.columns.insert(0, name.clone());
                format!("ADD COLUMN {name} VARCHAR AFTER id")
            }
        };
        self.node.run(&format!("ALTER TABLE t {text}")).await;
        text
    }

    /// Asks for the table at an earlier cut; whether it was answered.
    async fn ask(&self, then: &Then, version: &str) -> bool {
        let text = format!("SELECT * FROM t FOR {version} ORDER BY id");
        match self.node.batches(&text).await {
            Ok(batches) => {
                if !then.header.is_empty() && !batches.is_empty() {
                    assert_eq!(header(&batches), then.header, "{}\n{text}", self.log);
                }
                assert_eq!(super::lines(&batches), then.rows, "{}\n{text}", self.log);
                let count = self.node.rows(&format!("SELECT count(*) FROM t FOR {version}")).await;
                assert_eq!(count, [then.rows.len().to_string()], "{}\n{text}", self.log);
                if self.keyed {
                    let few = format!("SELECT id FROM t FOR {version} WHERE id IN (3, 4, 11) ORDER BY id");
                    let wanted: Vec<_> = then.ids.iter().filter(|id| ["3", "4", "11"].contains(&id.as_str())).collect();
                    let found = self.node.rows(&few).await;
                    assert_eq!(found.iter().collect::<Vec<_>>(), wanted, "{}\n{few}", self.log);
                }
                true
            }
            Err(error) => {
                assert_eq!(error.code(), Code::OffsetOutOfRetention, "{}\n{text}: {error:?}", self.log);
                assert!(error.hint().is_some(), "{error:?}");
                false
            }
        }
    }

    /// Asks for every third cut; how many were answered.
    async fn verify(&mut self) -> (usize, usize) {
        let (mut answered, mut refused) = (0, 0);
        let first = self.random.random_range(0..3);
        for then in self.then.iter().skip(first).step_by(3) {
            let at = |moment: i64| format!("TIMESTAMP AS OF to_timestamp_micros({moment})");
            let moment = self.ask(then, &at(then.moment)).await;
            // Offsets are read in the columns of today.
            let offsets =
                then.columns != self.versions || self.ask(then, &format!("VERSION AS OF '{}'", then.offsets)).await;
            // Snapshots that are kept briefly may be gone whose changes are not hot.
            let kept = self.log.contains("retention 1h") && then.let_go == self.let_go;
            let certain = !self.dropped && (!self.keyed || kept);
            assert!(moment || !certain, "{}\nmoment {} was refused", self.log, then.moment);
            assert!(offsets || !certain, "{}\n{} were refused", self.log, then.offsets);
            if moment { answered += 1 } else { refused += 1 }
        }
        (answered, refused)
    }
}

/// The names of the columns.
fn header(batches: &[RecordBatch]) -> String {
    let schema = batches.first().map(RecordBatch::schema);
    let names = schema.iter().flat_map(|schema| schema.fields().iter().map(|field| field.name().as_str()));
    names.collect::<Vec<_>>().join("|")
}

async fn histories(seeds: std::ops::Range<u64>, keyed: bool) {
    let (mut answered, mut refused) = (0, 0);
    for seed in seeds {
        let retention = ["1h", "20ms"][seed as usize % 2];
        let mut history = History::new(seed, keyed, retention, seed % 7 != 6).await;
        history.note().await;
        for step in 0..24 {
            history.step().await;
            if step % 12 == 11 {
                let (yes, no) = history.verify().await;
                (answered, refused) = (answered + yes, refused + no);
            }
        }
        let node = std::mem::replace(&mut history.node, Node::new().await);
        history.node = node.restarted().await;
        history.verify().await;
        assert!(history.buckets > 0);
    }
    assert!(answered > 50, "{answered} answered, {refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_tables_are_what_they_were_at_every_earlier_cut() {
    histories(0..7, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_with_keys_are_what_they_were_at_every_earlier_cut() {
    histories(100..107, true).await;
}

/// What a snapshot was is what it stays, in the columns that it had, as long as it is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_read_as_it_is() {
    for key in ["", ", PRIMARY KEY (id)"] {
        for buckets in [1, 2] {
            let node = Node::eager().await;
            node.run(&format!(
                "CREATE TABLE t (id INT NOT NULL, text VARCHAR{key}) WITH (buckets = {buckets}, bucket_key = 'id', \
                 format_version = 2)"
            ))
            .await;
            let mut known: Vec<(String, String, Vec<String>)> = Vec::new();
            for round in 0..6 {
                node.run(&format!("INSERT INTO t (id) VALUES ({round}), ({})", round + 1)).await;
                if !key.is_empty() {
                    node.run(&format!("DELETE FROM t WHERE id = {}", round / 2)).await;
                }
                node.tier("t").await;
                if round == 2 {
                    node.run("ALTER TABLE t DROP COLUMN text, ADD COLUMN text BIGINT DEFAULT 7 FIRST").await;
                }
                if round == 3 {
                    node.run("ALTER TABLE t SET (format_version = 3)").await;
                }
                if round == 4 {
                    node.tiering.compact(&node.table("t")).await.unwrap();
                }
                node.let_go("t").await;
                let last = node
                    .rows("SELECT snapshot_id, offsets FROM \"t$snapshots\" ORDER BY sequence_number DESC LIMIT 1")
                    .await;
                let (id, offsets) = last[0].split_once('|').unwrap();
                let rows = match round {
                    // Its columns were changed since.
                    2 => node.rows("SELECT id, CAST(NULL AS VARCHAR) AS text FROM t ORDER BY id, text").await,
                    _ => node.rows("SELECT * FROM t ORDER BY id, text").await,
                };
                known.push((id.to_owned(), offsets.to_owned(), rows));
            }
            let check = async |node: &Node| {
                for (id, offsets, rows) in &known {
                    for version in [
                        format!("FOR VERSION AS OF {id}"),
                        format!("VERSION AS OF '{id}'"),
                        format!("FOR SYSTEM_VERSION AS OF {id}"),
                        format!("AT (VERSION => {id})"),
                    ] {
                        assert_eq!(node.rows(&format!("SELECT * FROM t {version} ORDER BY id, text")).await, *rows);
                    }
                    let count = node.rows(&format!("SELECT count(*) FROM t VERSION AS OF '{offsets}'")).await;
                    assert_eq!(count, [rows.len().to_string()]);
                    let at =
                        node.rows(&format!("SELECT newest_row_at FROM \"t$snapshots\" WHERE snapshot_id = {id}")).await;
                    let text = format!("SELECT count(*) FROM t TIMESTAMP AS OF '{}'", at[0]);
                    assert_eq!(node.rows(&text).await, count, "{text}");
                }
                let main = node.rows("SELECT * FROM t FOR VERSION AS OF 'main' ORDER BY id, text").await;
                assert_eq!(main, node.rows("SELECT * FROM \"t$lake\" ORDER BY id, text").await);
            };
            check(&node).await;
            let node = node.restarted().await;
            check(&node).await;
            // Nothing superseded is kept from here on.
            node.run("ALTER TABLE t SET (snapshot_retention = '0s')").await;
            node.run("INSERT INTO t (id) VALUES (100)").await;
            node.tier("t").await;
            node.tiering.sweep_now(&node.table("t")).await.unwrap();
            let error = node.refused(&format!("SELECT * FROM t VERSION AS OF {}", known[0].0)).await;
            assert_eq!(error.code(), Code::SnapshotExpired);
            assert!(error.hint().unwrap().contains("AS OF"), "{error:?}");
        }
    }
}

/// The values of a column that was dropped are read as long as they are kept, and never as nulls.
#[tokio::test(flavor = "multi_thread")]
async fn a_moment_is_read_in_its_own_columns_or_not_at_all() {
    for key in ["", ", PRIMARY KEY (id)"] {
        let node = Node::eager().await;
        node.run(&format!("CREATE TABLE t (id INT NOT NULL, word VARCHAR, n SMALLINT{key})")).await;
        for id in 0..3 {
            node.run(&format!("INSERT INTO t VALUES ({id}, 'w{id}', {id})")).await;
            node.tier("t").await;
        }
        let moment = node.engine.now_micros();
        tokio::time::sleep(Duration::from_millis(2)).await;
        node.run("ALTER TABLE t DROP COLUMN word, ALTER COLUMN n TYPE BIGINT, RENAME COLUMN n TO wide").await;
        node.run("INSERT INTO t VALUES (3, 5000000000)").await;
        let text = format!("SELECT * FROM t TIMESTAMP AS OF to_timestamp_micros({moment}) ORDER BY id");
        let then = ["0|w0|0", "1|w1|1", "2|w2|2"];
        let now = ["0|0", "1|1", "2|2", "3|5000000000"];
        assert_eq!(node.rows(&text).await, then);
        node.tier("t").await;
        node.let_go("t").await;
        assert_eq!(node.rows(&text).await, then);
        node.tiering.compact(&node.table("t")).await.unwrap();
        assert_eq!(node.rows(&format!("{} LIMIT 2", text)).await, then[..2]);
        assert_eq!(node.rows(&text.replace("*", "count(word), max(n)").replace("ORDER BY id", "")).await, ["3|2"]);
        let node = node.restarted().await;
        assert_eq!(node.rows(&text).await, then);
        // The files that had the column go with the last snapshot that names them.
        node.run("ALTER TABLE t SET (snapshot_retention = '0s')").await;
        node.run("INSERT INTO t VALUES (4, 4)").await;
        node.tier("t").await;
        let error = node.refused(&text).await;
        assert_eq!(error.code(), Code::OffsetOutOfRetention, "{error:?}");
        assert!(error.hint().unwrap().contains("AS OF"), "{error:?}");
        assert_eq!(node.rows("SELECT * FROM t WHERE id < 4 ORDER BY id").await, now);
    }
}

/// Between two rounds whose changes are no longer hot, the table with keys is not known; what is near is named, and works.
#[tokio::test(flavor = "multi_thread")]
async fn a_moment_that_is_gone_names_those_that_are_kept() {
    let node = Node::eager().await;
    node.run("CREATE TABLE t (id INT PRIMARY KEY)").await;
    let mut moments = Vec::new();
    for id in 0..6 {
        node.run(&format!("INSERT INTO t VALUES ({id})")).await;
        moments.push(node.engine.now_micros());
        tokio::time::sleep(Duration::from_millis(2)).await;
        if id % 2 == 1 {
            node.tier("t").await;
        }
    }
    let count = async |moment: i64| {
        code_of(&node, &format!("SELECT count(*) FROM t TIMESTAMP AS OF to_timestamp_micros({moment})")).await
    };
    for (place, moment) in moments.iter().enumerate() {
        assert_eq!(count(*moment).await.unwrap(), [(place + 1).to_string()]);
    }
    node.let_go("t").await;
    for (place, moment) in moments.iter().enumerate() {
        match count(*moment).await {
            Ok(rows) => assert!(place % 2 == 1 && rows == [(place + 1).to_string()], "{place} {rows:?}"),
            Err(error) => {
                assert!(place % 2 == 0 && error.code() == Code::OffsetOutOfRetention, "{place} {error:?}");
                let named: Vec<_> = error.hint().unwrap().split('\'').skip(1).step_by(2).collect();
                let before = usize::from(place > 0);
                assert_eq!(named.len(), 1 + before, "{error:?}");
                for (named, rows) in named.iter().zip([place + 2 * (1 - before), place + 2]) {
                    let text = format!("SELECT count(*) FROM t TIMESTAMP AS OF '{named}'");
                    assert_eq!(node.rows(&text).await, [rows.to_string()], "{text}");
                }
            }
        }
    }
    let before_all = node.table("t").descriptor().created_ms * 1000;
    let error = node.refused(&format!("SELECT * FROM t TIMESTAMP AS OF to_timestamp_micros({})", before_all - 1)).await;
    assert_eq!(error.code(), Code::InvalidOffset);
    assert_eq!(count(before_all).await.unwrap(), ["0"]);
}

/// A statement that has begun to read a snapshot reads it to its end, whatever is expired and swept meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_read_is_not_swept() {
    use futures::TryStreamExt;
    let node = Node::eager().await;
    node.run("CREATE TABLE t (id BIGINT PRIMARY KEY, text VARCHAR) WITH (snapshot_retention = '0s')").await;
    // So many files that most are not opened before the first rows are taken.
    for round in 0..8 {
        let ids = format!("generate_series({}, {})", round * 10_000, round * 10_000 + 9_999);
        node.run(&format!("INSERT INTO t SELECT value, 'first' FROM {ids}")).await;
        node.tier("t").await;
    }
    let id = node.rows("SELECT snapshot_id FROM \"t$snapshots\" ORDER BY sequence_number DESC LIMIT 1").await.remove(0);
    let old = node.answer(&format!("SELECT * FROM t VERSION AS OF {id}")).await.unwrap();
    node.run("UPDATE t SET text = 'second' WHERE id % 2 = 0").await;
    node.tier("t").await;
    node.tiering.compact(&node.table("t")).await.unwrap();
    node.run("INSERT INTO t VALUES (-1, 'third')").await;
    node.tier("t").await;
    node.tiering.sweep_now(&node.table("t")).await.unwrap();
    let batches: Vec<_> = old.batches.try_collect().await.unwrap();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 80_000);
    let error = node.refused(&format!("SELECT * FROM t VERSION AS OF {id}")).await;
    assert_eq!(error.code(), Code::SnapshotExpired);
}

/// The answer for a moment does not depend on when it is asked for, be it while rows of that moment are on their way.
#[tokio::test(flavor = "multi_thread")]
async fn a_moment_is_settled_when_it_is_asked_for() {
    let node = Node::new().await;
    node.run("CREATE TABLE a (id BIGINT)").await;
    node.run("CREATE TABLE b (id BIGINT)").await;
    let writing = async {
        for number in 0..400 {
            let (a, b) = (format!("INSERT INTO a VALUES ({number})"), format!("INSERT INTO b VALUES ({number})"));
            tokio::join!(node.run(&a), node.run(&b));
        }
    };
    let reading = async {
        let mut asked = Vec::new();
        for _ in 0..150 {
            let text = format!(
                "SELECT (SELECT count(*) FROM a FOR SYSTEM_TIME AS OF to_timestamp_micros({0})) AS a, \
                 (SELECT count(*) FROM b FOR SYSTEM_TIME AS OF to_timestamp_micros({0})) AS b",
                node.engine.now_micros()
            );
            asked.push((node.rows(&text).await, text));
        }
        asked
    };
    let ((), asked) = tokio::join!(writing, reading);
    for (rows, text) in asked {
        assert_eq!(node.rows(&text).await, rows, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_takes_in_what_was_accepted_at_it() {
    let node = Node::new().await;
    for (name, key) in [("l", ""), ("k", ", PRIMARY KEY (id)")] {
        node.run(&format!("CREATE TABLE {name} (id BIGINT NOT NULL, n INT{key})")).await;
        for number in 0..4 {
            node.run(&format!("INSERT INTO {name} VALUES ({number}, 1), (-{number}, 1)")).await;
            if number == 1 {
                node.tier(name).await;
            }
        }
        let check = async |node: &Node| {
            let stamps =
                node.rows(&format!("SELECT DISTINCT arrow_cast(__timestamp, 'Int64') FROM {name} ORDER BY 1")).await;
            for (place, stamp) in stamps.iter().enumerate() {
                let stamp: i64 = stamp.parse().unwrap();
                for (moment, requests) in [(stamp - 1, place), (stamp, place + 1)] {
                    let at = format!("FROM {name} TIMESTAMP AS OF to_timestamp_micros({moment})");
                    let max = node.rows(&format!("SELECT max(id) + 1 {at}")).await;
                    let wanted = if requests == 0 { String::new() } else { requests.to_string() };
                    assert_eq!(max, [wanted], "{name} {place}");
                }
            }
            // A table beside its own past.
            let stamp: i64 = stamps[1].parse().unwrap();
            let text = format!(
                "SELECT count(*), count({name}.id) FROM {name} AS now LEFT JOIN {name} FOR SYSTEM_TIME AS OF \
                 to_timestamp_micros({stamp}) ON now.id = {name}.id"
            );
            let (all, then) = if name == "l" { ("10", "6") } else { ("7", "3") };
            assert_eq!(node.rows(&text).await, [format!("{all}|{then}")], "{text}");
            let gone = format!(
                "SELECT * FROM {name} EXCEPT SELECT * FROM {name} FOR TIMESTAMP AS OF to_timestamp_micros({stamp})"
            );
            assert_eq!(node.rows(&format!("SELECT count(*) FROM ({gone})")).await, ["4"]);
        };
        check(&node).await;
        node.tier(name).await;
        check(&node).await;
    }
}

async fn code_of(node: &Node, text: &str) -> Result<Vec<String>, Error> {
    node.batches(text).await.map(|batches| super::lines(&batches))
}

/// DataFusion ignores version clauses. So each must change the answer, or be refused, wherever it stands.
#[tokio::test(flavor = "multi_thread")]
async fn no_version_clause_is_ignored() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id BIGINT PRIMARY KEY, at TIMESTAMPTZ)").await;
    node.run("CREATE TABLE u (id BIGINT)").await;
    node.run("INSERT INTO t (id) VALUES (1)").await;
    node.tier("t").await;
    let id = node.rows("SELECT snapshot_id FROM \"t$snapshots\"").await.remove(0);
    let token = |name: &str| {
        let table = node.table(name);
        token_format::encode(table.descriptor().id, &table.ends().ends)
    };
    let (token, of_another) = (token("t"), token("u"));
    let moment = node.engine.now_micros();
    let moment = format!("to_timestamp_micros({moment})");
    tokio::time::sleep(Duration::from_millis(2)).await;
    node.run("INSERT INTO t (id) VALUES (2)").await;
    let forms = [
        format!("FOR SYSTEM_TIME AS OF {moment}"),
        format!("FOR TIMESTAMP AS OF {moment}"),
        format!("TIMESTAMP AS OF {moment}"),
        format!("AT (TIMESTAMP => {moment})"),
        format!("at(timestamp => {moment})"),
        format!("FOR VERSION AS OF {id}"),
        format!("VERSION AS OF {id}"),
        format!("for system_version as of '{id}'"),
        format!("AT (VERSION => {id})"),
        "VERSION AS OF 'offsets:0=1'".to_owned(),
        format!("VERSION AS OF 'token:{token}'"),
        "FOR VERSION AS OF 'main'".to_owned(),
    ];
    // As it is now there would be 2.
    let places = [
        "SELECT count(*) FROM t {}",
        "SELECT count(*) FROM public.t {} AS x",
        "SELECT count(t.id) FROM t {}",
        "SELECT count(x.id) FROM t {} x WHERE x.id > 0",
        "SELECT count(*) FROM (SELECT t.* FROM t {})",
        "SELECT (SELECT count(*) FROM t {})",
        "WITH x AS (SELECT * FROM t {}) SELECT count(*) FROM x",
        "WITH x AS (SELECT 1) SELECT count(*) FROM t {}",
        "SELECT count(*) FROM t {} JOIN t AS now ON t.id = now.id",
        "SELECT count(*) FROM t AS now, t {} WHERE now.id = t.id",
        "SELECT count(*) FROM (t {} JOIN t AS now ON t.id = now.id)",
        "SELECT count(*) FROM (SELECT 1 WHERE false) AS none RIGHT JOIN t {} ON true",
        "SELECT count(*) FROM t WHERE id IN (SELECT id FROM t {})",
        "SELECT count(*) FROM t WHERE EXISTS (SELECT 1 FROM t {} WHERE t.id = 2) OR id = 1",
        "SELECT max(n) FROM (SELECT 0 AS n UNION ALL SELECT count(*) FROM t {})",
        "SELECT count(*) FROM (SELECT id FROM t INTERSECT SELECT id FROM t {})",
        "SELECT count(*) FROM (SELECT *, t.__offset FROM t {})",
    ];
    for form in &forms {
        for place in places {
            let text = place.replace("{}", form);
            assert_eq!(
                code_of(&node, &text).await.map_err(|error| format!("{error:?}")),
                Ok(vec!["1".to_owned()]),
                "{text}"
            );
        }
        let plan = node.rows(&format!("EXPLAIN SELECT * FROM t {form}")).await.join("\n");
        assert!(plan.contains("snapshot="), "{plan}");
        // Where nothing of the kind may stand.
        for (place, code) in [
            ("SELECT * FROM \"t$hot\" {}", Code::InvalidSql),
            ("SELECT * FROM \"t$lake\" {}", Code::InvalidSql),
            ("SELECT * FROM \"t$changes\" {}", Code::InvalidSql),
            ("SELECT * FROM \"t$snapshots\" {}", Code::InvalidSql),
            ("SELECT * FROM information_schema.tables {}", Code::InvalidSql),
            ("SELECT * FROM generate_series(1, 2) {}", Code::InvalidSql),
            ("SELECT * FROM (SELECT * FROM t) {}", Code::InvalidSql),
            ("WITH x AS (SELECT * FROM t) SELECT * FROM x {}", Code::InvalidSql),
            (
                "WITH RECURSIVE x AS (SELECT 1 AS id UNION ALL SELECT id FROM x {} WHERE id < 1) SELECT * FROM x",
                Code::InvalidSql,
            ),
            ("DELETE FROM t {} WHERE id = 1", Code::InvalidSql),
            ("UPDATE t {} SET at = now() WHERE id = 1", Code::InvalidSql),
            ("INSERT INTO u {} SELECT 1", Code::InvalidSql),
            ("TABLE t {}", Code::InvalidSql),
            ("DESCRIBE t {}", Code::InvalidSql),
            ("TRUNCATE t {}", Code::InvalidSql),
            ("SELECT * FROM nothing {}", Code::TableNotFound),
            ("DROP TABLE t {}", Code::InvalidSql),
            ("ALTER TABLE t {} ADD COLUMN x INT", Code::InvalidSql),
        ] {
            let text = place.replace("{}", form);
            match code_of(&node, &text).await {
                Ok(rows) => panic!("{text} was answered: {rows:?}"),
                Err(error) => assert_eq!(error.code(), code, "{text}: {error:?}"),
            }
        }
        // DML that reads an earlier version writes what was there then.
        node.run(&format!("INSERT INTO u SELECT id FROM t {form}")).await;
        node.run(&format!("CREATE TABLE v AS SELECT id FROM t {form}")).await;
        assert_eq!(node.rows("SELECT * FROM v").await, ["1"], "{form}");
        node.run("DROP TABLE v").await;
    }
    assert_eq!(node.rows("SELECT count(*), min(id), max(id) FROM u").await, [format!("{}|1|1", forms.len())]);
    // The words of a clause are names where they stand for names.
    for (text, rows) in [
        ("SELECT at.id, changes.id FROM t at, u changes LIMIT 1", 1),
        ("SELECT before.id FROM t before", 2),
        ("SELECT at AS version, id AS timestamp FROM t AS version", 2),
        ("SELECT at AT TIME ZONE 'UTC' FROM t", 2),
    ] {
        assert_eq!(node.rows(text).await.len(), rows, "{text}");
    }
    let now = "now() - INTERVAL '1 hour'";
    for (form, code) in [
        ("AS OF 12".to_owned(), Code::InvalidSql),
        ("FOR VERSION AS OF".to_owned(), Code::InvalidSql),
        ("FOR VERSION AS OF id".to_owned(), Code::InvalidSql),
        ("FOR VERSION BETWEEN 1 AND 2".to_owned(), Code::InvalidSql),
        ("FOR SYSTEM_TIME BETWEEN 1 AND 2".to_owned(), Code::InvalidSql),
        ("FOR SYSTEM_TIME FROM '2026-01-01' TO '2026-01-02'".to_owned(), Code::InvalidSql),
        ("FOR SYSTEM_TIME ALL".to_owned(), Code::InvalidSql),
        ("AT (STATEMENT => 'x')".to_owned(), Code::InvalidSql),
        ("AT (OFFSET => -60)".to_owned(), Code::InvalidSql),
        (format!("BEFORE (TIMESTAMP => {moment})"), Code::InvalidSql),
        ("CHANGES (INFORMATION => DEFAULT) AT (VERSION => 1)".to_owned(), Code::InvalidSql),
        ("FOR VERSION AS OF 7".to_owned(), Code::SnapshotExpired),
        ("FOR VERSION AS OF 'no such tag'".to_owned(), Code::InvalidOffset),
        ("FOR VERSION AS OF ''".to_owned(), Code::InvalidOffset),
        ("FOR VERSION AS OF 1.5".to_owned(), Code::InvalidOffset),
        ("FOR VERSION AS OF 'offsets:'".to_owned(), Code::InvalidOffset),
        ("FOR VERSION AS OF 'offsets:1=0'".to_owned(), Code::InvalidOffset),
        ("FOR VERSION AS OF 'offsets:0=3'".to_owned(), Code::InvalidOffset),
        ("FOR VERSION AS OF 'offsets:0=1,5=0'".to_owned(), Code::InvalidOffset),
        ("FOR VERSION AS OF 'token:x'".to_owned(), Code::InvalidToken),
        ("FOR VERSION AS OF 'toke:x'".to_owned(), Code::InvalidOffset),
        (format!("FOR VERSION AS OF 'token:{of_another}'"), Code::TableDropped),
        ("FOR TIMESTAMP AS OF 12".to_owned(), Code::InvalidOffset),
        ("FOR TIMESTAMP AS OF NULL".to_owned(), Code::InvalidOffset),
        ("FOR TIMESTAMP AS OF 'soon'".to_owned(), Code::InvalidOffset),
        ("FOR TIMESTAMP AS OF (SELECT max(at) FROM t)".to_owned(), Code::InvalidSql),
        ("FOR TIMESTAMP AS OF id".to_owned(), Code::InvalidSql),
        (format!("FOR TIMESTAMP AS OF {now}"), Code::InvalidOffset),
        ("FOR TIMESTAMP AS OF '1970-01-01'".to_owned(), Code::InvalidOffset),
        ("FOR TIMESTAMP AS OF now() + INTERVAL '1 minute'".to_owned(), Code::InvalidOffset),
        ("FOR TIMESTAMP AS OF '9999-12-31T00:00:00Z'".to_owned(), Code::InvalidOffset),
    ] {
        let error = node.refused(&format!("SELECT * FROM t {form}")).await;
        assert_eq!(error.code(), code, "{form}: {error:?}");
    }
    assert_eq!(node.rows("SELECT count(*) FROM t").await, ["2"]);
}
