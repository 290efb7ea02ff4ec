//! Tables with partitions: the same rows as without, in every tier, and fewer of them read.

use thermocline_schemas::Code;

use super::Node;

const ROWS: &str = "(1, 'eu', TIMESTAMP '2026-11-23 01:00:00', 10), (2, 'us', TIMESTAMP '2026-11-23 23:59:59', 20), \
    (3, 'eu', TIMESTAMP '2026-11-24 00:00:00', 30), (4, 'a/b=%', TIMESTAMP '1969-12-31 23:00:00', 40), \
    (5, '', TIMESTAMP '2026-11-24 12:00:00', NULL)";

/// A table with partitions, and one without that gets the same statements.
struct Pair {
    node: Node,
    tables: [&'static str; 2],
}

impl Pair {
    async fn new(columns: &str, partition_by: &str, properties: &str) -> Pair {
        let node = Node::new().await;
        node.run(&format!("CREATE TABLE p ({columns}) WITH ({properties}) PARTITION BY ({partition_by})")).await;
        node.run(&format!("CREATE TABLE q ({columns}) WITH ({properties})")).await;
        Pair { node, tables: ["p", "q"] }
    }

    async fn run(&self, statement: &str) {
        for table in self.tables {
            self.node.run(&statement.replace("{t}", table)).await;
        }
    }

    async fn same(&self, statement: &str) -> Vec<String> {
        let [with, without] = self.tables.map(|table| statement.replace("{t}", table));
        let (with, without) = (self.node.rows(&with).await, self.node.rows(&without).await);
        assert_eq!(with, without, "{statement}");
        with
    }

    async fn check(&self) {
        for condition in [
            "true",
            "region = 'eu'",
            "region <> 'eu'",
            "region = 'a/b=%'",
            "region IN ('us', '')",
            "region IS NULL",
            "at >= '2026-11-24'",
            "at < '1970-01-01'",
            "at = '2026-11-23T23:59:59'",
            "at BETWEEN '2026-11-23 12:00:00' AND '2026-11-24 00:00:00'",
            "id = 3",
            "id > 2 AND region = 'eu'",
            "amount IS NULL",
            "amount > 15 AND at < '2026-11-24'",
        ] {
            self.same(&format!("SELECT * FROM {{t}} WHERE {condition} ORDER BY id")).await;
            self.same(&format!("SELECT count(*), sum(amount) FROM {{t}} WHERE {condition}")).await;
        }
        self.same("SELECT region, count(*), min(at) FROM {t} GROUP BY region ORDER BY region").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_part_a_log_table_has_the_same_rows_in_every_tier() {
    for (partition_by, properties) in [
        ("region", "buckets = 1"),
        ("day(at)", "buckets = 3"),
        ("region, month(at)", "buckets = 2, bucket_key = id"),
        ("bucket(4, id), truncate(1, region)", "buckets = 2"),
        ("hour(at), identity(id)", "format_version = 3"),
        ("year(at), truncate(3, id)", "buckets = 1"),
        ("amount, at", "buckets = 1"),
    ] {
        let columns = "id BIGINT NOT NULL, region VARCHAR, at TIMESTAMP, amount DECIMAL(9, 2)";
        let mut pair = Pair::new(columns, partition_by, properties).await;
        pair.run(&format!("INSERT INTO {{t}} VALUES {ROWS}")).await;
        pair.check().await;
        pair.run("INSERT INTO {t} VALUES (6, NULL, NULL, 60)").await;
        for table in pair.tables {
            pair.node.tier(table).await;
        }
        pair.check().await;
        pair.run("INSERT INTO {t} VALUES (7, 'eu', TIMESTAMP '2026-11-23 02:00:00', 70), (8, 'new', NULL, 80)").await;
        pair.check().await;
        for table in pair.tables {
            pair.node.let_go(table).await;
        }
        pair.check().await;
        pair.run("ALTER TABLE {t} RENAME COLUMN region TO place, ADD COLUMN extra INT").await;
        pair.run("INSERT INTO {t} (id, place, extra) VALUES (9, 'us', 9)").await;
        pair.node = pair.node.restarted().await;
        assert_eq!(
            pair.same("SELECT id, place, extra FROM {t} WHERE place = 'us' ORDER BY id").await,
            ["2|us|", "9|us|9"]
        );
        for table in pair.tables {
            pair.node.tier(table).await;
            pair.node.let_go(table).await;
        }
        assert_eq!(
            pair.same("SELECT id, place, extra FROM {t} WHERE place = 'us' ORDER BY id").await,
            ["2|us|", "9|us|9"]
        );
        assert_eq!(pair.same("SELECT count(*) FROM {t}").await, ["9"], "{partition_by}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_part_a_table_with_a_key_has_the_same_state_in_every_tier() {
    for (key, partition_by, properties) in [
        ("region, id", "region", "buckets = 2"),
        ("id, region", "region", "bucket_key = id"),
        ("region, id", "region, bucket(3, id)", "buckets = 1"),
        ("at, region, id", "day(at), truncate(1, region)", "buckets = 2, format_version = 2"),
        ("id", "bucket(4, id)", "changelog = upsert"),
        ("id", "truncate(2, id)", "buckets = 3"),
        ("flag, id", "flag", "buckets = 1"),
    ] {
        let columns =
            format!("id BIGINT, region VARCHAR, at TIMESTAMP, amount DECIMAL(9, 2), flag BOOLEAN, PRIMARY KEY ({key})");
        let mut pair = Pair::new(&columns, partition_by, properties).await;
        let insert = |rows: &str| format!("INSERT INTO {{t}} (id, region, at, amount, flag) VALUES {rows}");
        let rows = ROWS.replace("), (", ", true), (").trim_end_matches(')').to_owned() + ", false)";
        pair.run(&insert(&rows)).await;
        pair.check().await;
        for round in 0..3 {
            if round > 0 {
                for table in pair.tables {
                    pair.node.tier(table).await;
                    if round > 1 {
                        pair.node.let_go(table).await;
                    }
                }
                pair.check().await;
            }
            pair.run("UPDATE {t} SET amount = coalesce(amount, 0) + 1 WHERE id <> 2").await;
            pair.run(&format!("DELETE FROM {{t}} WHERE id = {}", round + 1)).await;
            pair.run(&insert(&format!("({}, 'eu', TIMESTAMP '2026-11-2{round} 05:00:00', 7, true)", 100 + round)))
                .await;
            pair.check().await;
            // Of a partition that is not there.
            assert!(
                pair.same("SELECT * FROM {t} WHERE id = 4000 AND region = 'nowhere' AND at = '1999-01-01' AND flag")
                    .await
                    .is_empty()
            );
            pair.run("DELETE FROM {t} WHERE id = 4000").await;
        }
        pair.node = pair.node.restarted().await;
        pair.check().await;
        pair.same(
            "SELECT id, amount FROM {t} WHERE id IN (4, 5, 100, 101) AND region IN ('eu', '', 'a/b=%') ORDER BY id",
        )
        .await;
        pair.run("DELETE FROM {t} WHERE true").await;
        assert_eq!(pair.same("SELECT count(*) FROM {t}").await, ["0"], "{partition_by}");
        for table in pair.tables {
            pair.node.tier(table).await;
        }
        assert_eq!(pair.same("SELECT count(*) FROM {t}").await, ["0"], "{partition_by}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_condition_rules_out_is_not_read() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id INT, region VARCHAR, at TIMESTAMPTZ) PARTITION BY (region, Day(at))").await;
    for (region, day, id) in [("'eu'", 22, 1), ("'us'", 22, 2), ("'eu'", 23, 3), ("NULL", 23, 4)] {
        node.run(&format!("INSERT INTO t VALUES ({id}, {region}, '2026-11-{day}T10:00:00Z')")).await;
    }
    let scanned = async |condition: &str| {
        let plan = node.rows(&format!("EXPLAIN SELECT id FROM t WHERE {condition}")).await.join("\n");
        let rows = plan.split("rows=").nth(1).unwrap_or_else(|| panic!("{plan}"));
        rows.split(',').next().unwrap().trim().parse::<u64>().unwrap()
    };
    for (condition, rows) in [
        ("true", 4),
        ("region = 'eu'", 2),
        ("region = 'nowhere'", 0),
        ("region IS NULL", 1),
        ("region IS NOT NULL", 3),
        ("at < '2026-11-23T00:00:00Z'", 2),
        ("at >= '2026-11-23T00:00:00Z' AND region > 'e'", 1),
        ("id > 0", 4),
    ] {
        assert_eq!(scanned(condition).await, rows, "{condition}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_says_what_it_is_parted_by_also_after_its_columns_were_renamed() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id INT, \"Region\" VARCHAR, at TIMESTAMP) PARTITIONED BY (days(at), \"Region\", bucket(4, id))").await;
    node.run("INSERT INTO t VALUES (1, 'a', TIMESTAMP '2026-01-01 00:00:00')").await;
    let ddl = node.rows("SHOW CREATE TABLE t").await.join("\n");
    assert!(ddl.contains("partition_by = 'day(at), Region, bucket(4, id)'"), "{ddl}");
    node.run("ALTER TABLE t RENAME COLUMN at TO moment").await;
    node.run("ALTER TABLE t RENAME COLUMN \"Region\" TO place").await;
    let ddl = node.rows("SHOW CREATE TABLE t").await.join("\n");
    assert!(ddl.contains("partition_by = 'day(moment), place, bucket(4, id)'"), "{ddl}");
    for (statement, code) in [
        ("ALTER TABLE t ADD COLUMN \"Region\" INT", Code::InvalidName),
        ("ALTER TABLE t ADD COLUMN at_day INT", Code::InvalidName),
        ("ALTER TABLE t DROP COLUMN place", Code::InvalidType),
        ("ALTER TABLE t ALTER COLUMN id TYPE BIGINT", Code::InvalidType),
        ("ALTER TABLE t SET (partition_by = 'id')", Code::InvalidProperty),
        ("CREATE TABLE u (id INT, PRIMARY KEY (id), r INT) PARTITION BY (r)", Code::InvalidProperty),
        ("CREATE TABLE u (id REAL) PARTITION BY (id)", Code::InvalidProperty),
        ("CREATE TABLE u (id INT) PARTITION BY (id + 1)", Code::InvalidSql),
        ("CREATE TABLE u (id INT) PARTITION BY (x)", Code::InvalidProperty),
        ("CREATE TABLE u (id INT) PARTITION BY ()", Code::InvalidProperty),
        ("CREATE TABLE u (id INT) PARTITION BY (id", Code::InvalidSql),
    ] {
        assert_eq!(node.refused(statement).await.code(), code, "{statement}");
    }
    node.run("ALTER TABLE t RENAME COLUMN place TO \"Region\"").await;
    let ddl = node.rows("SHOW CREATE TABLE t").await.join("\n");
    node.run(&ddl.replace("public.t ", "public.again ")).await;
    assert_eq!(node.rows("SHOW CREATE TABLE again").await.join("\n"), ddl.replace("public.t ", "public.again "));
    node.tier("t").await;
    assert_eq!(node.rows("SELECT count(*) FROM \"t$lake\"").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_not_without_number() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id BIGINT, text VARCHAR) WITH (buckets = 150) PARTITION BY (id)").await;
    let error = node.refused("INSERT INTO t SELECT value, 'x' FROM generate_series(1, 67)").await;
    assert_eq!(error.code(), Code::InvalidRow);
    assert!(error.message().contains("67 partitions, 66 are the most"), "{error}");
    assert_eq!(node.rows("SELECT count(*) FROM t").await, ["0"]);
    let error = node.refused("INSERT INTO t SELECT value, 'x' FROM generate_series(1, 20000)").await;
    assert!(error.message().contains("more than 10000 partitions"), "{error}");
    node.run("INSERT INTO t SELECT value, 'x' FROM generate_series(1, 66)").await;
    node.refused("INSERT INTO t VALUES (67, 'x')").await;
    node.run("INSERT INTO t VALUES (66, 'y')").await;
    let node = node.restarted().await;
    assert_eq!(node.rows("SELECT count(*), sum(id) FROM t").await, ["67|2277"]);
    node.run("CREATE TABLE long (text VARCHAR) PARTITION BY (text)").await;
    let error = node.refused(&format!("INSERT INTO long VALUES ('{}')", "x".repeat(257))).await;
    assert_eq!((error.code(), error.value().map(str::len)), (Code::InvalidRow, Some(256)));
    node.run("CREATE TABLE far (at TIMESTAMP) PARTITION BY (hour(at))").await;
    let far =
        node.refused("INSERT INTO far VALUES (arrow_cast(7826000000000000000, 'Timestamp(Microsecond, None)'))").await;
    assert_eq!(far.code(), Code::InvalidRow, "{far:?}");
    node.run("CREATE TABLE short (c DECIMAL(2, 0)) PARTITION BY (truncate(70, c))").await;
    assert_eq!(node.refused("INSERT INTO short VALUES (-71)").await.code(), Code::InvalidRow, "it would be -140");
    node.run("INSERT INTO short VALUES (-70), (99)").await;
    node.tier("short").await;
    assert_eq!(node.rows("SELECT c FROM \"short$lake\" ORDER BY c").await, ["-70", "99"]);
    node.run(&format!("INSERT INTO long VALUES ('{}')", "ö".repeat(128))).await;
    node.tier("long").await;
    assert_eq!(node.rows("SELECT count(*) FROM \"long$lake\"").await, ["1"]);
}
