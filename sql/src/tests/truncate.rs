//! Rows that are taken away: TRUNCATE of log tables, and partitions whose time is over.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use thermocline_schemas::{BucketId, Code, Error, Offset, PartitionBucket, PartitionId};
use thermocline_tiering::{FollowFrom, FollowOptions, LakeTable, Tiering, TieringOptions};

use super::Node;

const ALL: &str = "SELECT id, n FROM t ORDER BY id";
const NOTHING: [&str; 0] = [];

impl Node {
    /// The offsets that a follower of `t` gets, up to the end that the table has now.
    async fn followed(&self, from: FollowFrom) -> Result<Vec<(PartitionBucket, u64)>, Error> {
        let options = FollowOptions { follow: false };
        let followed = self.tiering.follow(&self.table("t"), from, options).await?;
        let batches: Vec<_> = followed.batches.try_collect().await?;
        let offsets = batches
            .iter()
            .flat_map(|batch| (0..batch.batch.num_rows() as u64).map(|row| (batch.bucket, batch.first.plus(row).0)));
        Ok(offsets.collect())
    }

    fn bucket_of(&self, partition: u32) -> PartitionBucket {
        PartitionBucket { partition: PartitionId(partition), bucket: BucketId(0) }
    }

    async fn offsets_of(&self, relation: &str) -> Vec<String> {
        self.rows(&format!("SELECT __bucket, __offset FROM \"{relation}\" ORDER BY 1, 2")).await
    }
}

/// Rows 1 and 2 cold, 3 in both tiers, 4 hot.
async fn in_all_tiers(properties: &str) -> Node {
    let node = Node::eager().await;
    node.run(&format!("CREATE TABLE t (id INT NOT NULL, n INT) {properties}")).await;
    node.run("INSERT INTO t VALUES (1, 1), (2, 2)").await;
    node.tier("t").await;
    node.let_go("t").await;
    node.run("INSERT INTO t VALUES (3, 3)").await;
    node.tier("t").await;
    node.run("INSERT INTO t VALUES (4, 4)").await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_log_is_empty_in_every_tier_and_goes_on_at_its_offsets() {
    for properties in ["", "WITH (format_version = 3)", "WITH (buckets = 2)", "PARTITION BY (n)"] {
        for restart in [false, true] {
            let mut node = in_all_tiers(properties).await;
            node.engine.seal(&node.table("t")).await.unwrap();
            assert_eq!(node.rows("TRUNCATE TABLE t").await, ["4"], "{properties}");
            if restart {
                node.engine.checkpoint().await.unwrap();
                node = node.restarted().await;
            }
            for statement in
                [ALL, "SELECT id, n FROM \"t$hot\"", "SELECT id, n FROM \"t$changes\"", "SELECT id FROM t WHERE n > 1"]
            {
                assert_eq!(node.rows(statement).await, NOTHING, "{properties}: {statement}");
            }
            assert_eq!(node.rows("SELECT count(*), min(id) FROM t").await, ["0|"], "{properties}");
            assert_eq!(node.followed(FollowFrom::Earliest).await.unwrap(), []);
            assert_eq!(node.rows("TRUNCATE t").await, ["0"]);
            node.run("INSERT INTO t VALUES (5, 5), (6, 1)").await;
            assert_eq!(node.rows(ALL).await, ["5|5", "6|1"], "{properties}");
            let followed = node.followed(FollowFrom::Earliest).await.unwrap();
            assert_eq!(followed.len(), 2, "{properties}");
            assert!(
                properties.contains("PARTITION") || followed.iter().all(|(_, offset)| *offset >= 1),
                "{followed:?}"
            );
            node.tier("t").await;
            node.let_go("t").await;
            assert_eq!(node.rows(ALL).await, ["5|5", "6|1"], "{properties}");
            assert_eq!(node.offsets_of("t$lake").await, node.offsets_of("t").await);
            assert_eq!(node.followed(FollowFrom::Earliest).await.unwrap(), followed);
            let status = node.tiering.status(&node.table("t")).await.unwrap();
            assert!(status.lake_lag_rows == 0, "{status:?}");
            let in_order = |marks: &thermocline_tiering::BucketStatus| {
                marks.log_start <= marks.trim_floor
                    && marks.trim_floor <= marks.tiered_end
                    && marks.tiered_end <= marks.durable_end
            };
            assert!(status.buckets.iter().all(in_order), "{status:?}");
            node.engine.checkpoint().await.unwrap();
            node = node.restarted().await;
            assert_eq!(node.rows(ALL).await, ["5|5", "6|1"], "{properties}");
            assert_eq!(node.rows("TRUNCATE t").await, ["2"], "{properties}");
            // With nothing new, the next round has only to say so.
            node.tier("t").await;
            assert_eq!(node.rows("SELECT count(*) FROM \"t$lake\"").await, ["0"]);
            let operations = node.rows("SELECT operation FROM \"t$snapshots\" ORDER BY committed_at").await;
            assert_eq!(operations.last().map(String::as_str), Some("delete"), "{operations:?}");
            let before = operations.len();
            node.tier("t").await;
            assert_eq!(node.rows("SELECT count(*) FROM \"t$snapshots\"").await, [before.to_string()]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_a_lake_is_truncated() {
    let node = Node::new().await;
    node.run("CREATE TABLE t (id INT, n INT) WITH (lake_enabled = false)").await;
    node.run("INSERT INTO t VALUES (1, 1), (2, 2)").await;
    assert_eq!(node.rows("TRUNCATE t").await, ["2"]);
    node.run("INSERT INTO t VALUES (3, 3)").await;
    let node = node.restarted().await;
    assert_eq!(node.rows(ALL).await, ["3|3"]);
    assert_eq!(node.rows("SELECT __offset FROM t").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_keeps_what_it_reads_and_who_comes_later_hears_that_it_is_gone() {
    let node = in_all_tiers("").await;
    let bucket = PartitionBucket::unpartitioned(0);
    let before =
        node.rows("SELECT snapshot_id FROM \"t$snapshots\" ORDER BY committed_at DESC LIMIT 1").await.remove(0);
    let moment = node.engine.now_micros();
    node.engine.settle(moment).await.unwrap();
    let open = node.answer(ALL).await.unwrap();
    node.run("TRUNCATE t").await;
    node.run("INSERT INTO t VALUES (5, 5)").await;
    node.tier("t").await;
    node.tiering.sweep_now(&node.table("t")).await.unwrap();
    assert_eq!(super::lines(&open.batches.try_collect::<Vec<_>>().await.unwrap()), ["1|1", "2|2", "3|3", "4|4"]);

    // A snapshot is what it was as long as it is kept.
    assert_eq!(
        node.rows(&format!("SELECT id, n FROM t FOR VERSION AS OF {before} ORDER BY id")).await,
        ["1|1", "2|2", "3|3"]
    );
    for version in [
        format!("FOR TIMESTAMP AS OF to_timestamp_micros({moment})"),
        "FOR VERSION AS OF 'offsets:0=3'".to_owned(),
        "FOR VERSION AS OF 'offsets:0=4'".to_owned(),
    ] {
        let error = node.refused(&format!("SELECT * FROM t {version}")).await;
        assert_eq!(error.code(), Code::OffsetOutOfRetention, "{version}: {error}");
        assert!(error.hint().unwrap().contains(&format!("VERSION AS OF {before}")), "{version}: {:?}", error.hint());
    }
    assert_eq!(node.rows("SELECT id FROM t FOR VERSION AS OF 'offsets:0=5'").await, ["5"]);
    assert_eq!(node.rows("SELECT id FROM t FOR TIMESTAMP AS OF now()").await, ["5"]);
    let from = |offset| FollowFrom::Offsets(BTreeMap::from([(bucket, Offset(offset))]));
    let error = node.followed(from(2)).await.unwrap_err();
    assert_eq!(error.code(), Code::OffsetOutOfRetention);
    assert!(error.message().contains("kept from offset 4"), "{error}");
    assert_eq!(node.followed(from(4)).await.unwrap(), [(bucket, 4)]);
    assert_eq!(node.followed(FollowFrom::Timestamp(0)).await.unwrap(), [(bucket, 4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn truncate_goes_with_columns_that_change_and_drops_that_are_undone() {
    let node = in_all_tiers("").await;
    node.run("ALTER TABLE t ADD COLUMN more VARCHAR, DROP COLUMN n").await;
    node.run("TRUNCATE t").await;
    node.run("INSERT INTO t VALUES (7, 'new')").await;
    assert_eq!(node.rows("SELECT * FROM t").await, ["7|new"]);
    node.run("DROP TABLE t").await;
    assert_eq!(node.refused("TRUNCATE t").await.code(), Code::TableNotFound);
    node.run("UNDROP TABLE t").await;
    node.engine.checkpoint().await.unwrap();
    let node = node.restarted().await;
    assert_eq!(node.rows("SELECT * FROM t").await, ["7|new"]);
    node.tier("t").await;
    assert_eq!(node.rows("SELECT * FROM \"t$lake\"").await, ["7|new"]);
}

/// The lake hears of what went although nobody writes or reads.
#[tokio::test(flavor = "multi_thread")]
async fn the_lake_of_a_truncated_table_is_emptied_after_a_restart() {
    let node = in_all_tiers("").await;
    node.run("TRUNCATE t").await;
    let mut node = node.restarted().await;
    node.tiering.close().await;
    let eager = TieringOptions { interval: Duration::from_millis(20), ..TieringOptions::default() };
    node.run("ALTER TABLE t SET (lake_freshness = '100ms')").await;
    node.tiering = Tiering::open(node.engine.clone(), node.warehouse.clone(), eager).await.unwrap();
    let lake = LakeTable::create_or_open(&node.warehouse, node.table("t").descriptor()).await.unwrap();
    for attempt in 0.. {
        let version = lake.refresh().await.unwrap();
        if lake.data_files(&version).await.unwrap().is_empty() {
            break;
        }
        assert!(attempt < 200, "{:?}", version.offsets);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A cut that was there before rows went is told from one that came after.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_from_after_a_partition_expired_name_what_their_follower_had() {
    let node = Node::eager().await;
    node.run("CREATE TABLE t (id INT, at DATE) PARTITION BY (at) WITH (partition_retention = '1d')").await;
    node.run("INSERT INTO t VALUES (1, '2020-01-01'), (2, '2020-01-02'), (3, '2999-01-01')").await;
    let id = node.table("t").descriptor().id;
    let token = |offsets: [u64; 3]| {
        let positions =
            (0..3).map(|partition| PartitionBucket { partition: PartitionId(partition), bucket: BucketId(0) });
        let positions = positions.zip(offsets.map(Offset)).collect();
        let token = thermocline_tiering::token_format::encode(id, &positions);
        format!("SELECT id FROM t FOR VERSION AS OF 'token:{token}' ORDER BY id")
    };
    assert_eq!(node.rows(&token([1, 1, 1])).await, ["1", "2", "3"]);
    node.tier("t").await;
    assert_eq!(node.tiering.expire_partitions(&node.table("t")).await.unwrap(), 2);
    assert_eq!(node.refused(&token([1, 1, 1])).await.code(), Code::OffsetOutOfRetention);
    assert_eq!(node.rows(&token([0, 0, 1])).await, ["3"], "who had nothing of them");
    node.run("INSERT INTO t VALUES (4, '2999-01-01')").await;
    assert_eq!(node.rows(&token([1, 1, 2])).await, ["3", "4"]);
    assert_eq!(node.refused(&token([1, 1, 1])).await.code(), Code::OffsetOutOfRetention);
    let node = node.restarted().await;
    assert_eq!(node.rows(&token([1, 1, 2])).await, ["3", "4"]);
}

const DAYS: &str = "(1, '2020-02-28T23:00:00'), (2, '2020-02-29T01:00:00'), (3, '2020-02-29T02:00:00'), (4, NULL)";

#[tokio::test(flavor = "multi_thread")]
async fn partitions_go_when_their_time_is_over_and_they_are_in_the_lake() {
    let rows = "SELECT id FROM t ORDER BY id";
    for key in ["", ", PRIMARY KEY (id, at)"] {
        let null = if key.is_empty() { ", (4, NULL)" } else { "" };
        let days = DAYS.replace(", (4, NULL)", null);
        let last: &[&str] = if key.is_empty() { &["4"] } else { &[] };
        let node = Node::eager().await;
        node.run(&format!("CREATE TABLE t (id INT NOT NULL, at TIMESTAMP{key}) PARTITION BY (day(at))")).await;
        node.run(&format!("INSERT INTO t VALUES {days}, (5, now()::timestamp)")).await;
        let table = || node.table("t");
        assert_eq!(node.tiering.expire_partitions(&table()).await.unwrap(), 0, "it does not say so");
        node.run("ALTER TABLE t SET (partition_retention = '1d')").await;
        assert_eq!(node.tiering.expire_partitions(&table()).await.unwrap(), 0, "nothing is in the lake");
        node.tier("t").await;
        node.run("INSERT INTO t VALUES (6, '2020-02-29T03:00:00')").await;
        let token = FollowFrom::Offsets(BTreeMap::from([(node.bucket_of(0), Offset(1))]));
        assert_eq!(node.tiering.expire_partitions(&table()).await.unwrap(), 3, "{key}: one row is not in the lake");
        let left: Vec<_> = last.iter().chain(&["5", "6"]).copied().collect();
        assert_eq!(node.rows(rows).await, left, "{key}");
        if key.is_empty() {
            // Who had one day alone goes on behind what has expired of the others.
            assert_eq!(node.followed(token).await.unwrap().len(), 3);
        }
        node.tier("t").await;
        assert_eq!(node.tiering.expire_partitions(&table()).await.unwrap(), 1, "{key}");
        let left: Vec<_> = last.iter().chain(&["5"]).copied().collect();
        assert_eq!(node.rows(rows).await, left, "{key}");
        assert_eq!(node.tiering.expire_partitions(&table()).await.unwrap(), 0);
        node.tier("t").await;
        assert_eq!(node.rows("SELECT id FROM \"t$lake\" ORDER BY id").await, left, "{key}");
        node.run("ALTER TABLE t SET (partition_retention = '')").await;
        node.run("INSERT INTO t VALUES (7, '2020-02-29T04:00:00')").await;
        node.tier("t").await;
        assert_eq!(node.tiering.expire_partitions(&table()).await.unwrap(), 0);
        node.engine.checkpoint().await.unwrap();
        let node = node.restarted().await;
        let left: Vec<_> = last.iter().chain(&["5", "7"]).copied().collect();
        assert_eq!(node.rows(rows).await, left, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_of_partitions_needs_partitions_of_time() {
    let node = Node::new().await;
    for (table, properties) in [
        ("(id INT)", "partition_retention = '1d'"),
        ("(id INT, at DATE)", "partition_retention = '1d', partition_by = 'id'"),
        ("(id INT, at DATE)", "partition_retention = '1d', partition_by = 'day(at)', lake_enabled = false"),
        (
            "(id INT, at DATE, PRIMARY KEY (id, at))",
            "partition_retention = '1d', partition_by = 'day(at)', delete_behavior = 'ignore'",
        ),
        ("(id INT, at DATE)", "partition_retention = 'soon', partition_by = 'day(at)'"),
    ] {
        let error = node.refused(&format!("CREATE TABLE t {table} WITH ({properties})")).await;
        assert_eq!(error.code(), Code::InvalidProperty, "{properties}: {error}");
    }
    node.run("CREATE TABLE t (id INT, at DATE) WITH (partition_retention = '30d', partition_by = 'id, at')").await;
}
