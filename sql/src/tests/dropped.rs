//! Tables that are dropped, come back, and go.

use futures::TryStreamExt;
use object_store::ObjectStore;
use thermocline_schemas::Code;

use super::Node;

impl Node {
    /// How many objects lie in a directory of the warehouse.
    async fn objects(&self, directory: &str) -> usize {
        let prefix = object_store::path::Path::from(format!("public/{directory}"));
        self.warehouse.store().list(Some(&prefix)).try_collect::<Vec<_>>().await.unwrap().len()
    }

    async fn segments(&self) -> usize {
        use thermocline_engine::disk::Disk;
        self.disk.list(std::path::Path::new("/data/segments")).unwrap().len()
    }
}

/// Some rows in the lake alone, some in both tiers, some hot.
async fn with_rows(kind: &str) -> Node {
    let node = Node::eager().await;
    node.run(&format!("CREATE TABLE t (id INT NOT NULL, n INT{kind})")).await;
    node.run("INSERT INTO t VALUES (1, 1), (2, 2)").await;
    node.tier("t").await;
    node.let_go("t").await;
    node.run("INSERT INTO t VALUES (3, 3)").await;
    node.engine.seal(&node.table("t")).await.unwrap();
    node.tier("t").await;
    node.run("INSERT INTO t VALUES (4, 4)").await;
    node
}

const ALL: &str = "SELECT * FROM t ORDER BY id";

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_comes_back_with_all_it_had() {
    for kind in ["", ", PRIMARY KEY (id)"] {
        // Whether a checkpoint and a restart come between.
        for (checkpoint, restart) in [(false, false), (false, true), (true, true)] {
            let mut node = with_rows(kind).await;
            let rows = node.rows(ALL).await;
            let moment = node.engine.now_micros();
            let id = node.table("t").descriptor().id;
            node.run("DROP TABLE t").await;
            assert_eq!(node.rows("SHOW TABLES").await, [""; 0]);
            let error = node.refused(ALL).await;
            assert!(error.code() == Code::TableNotFound && error.hint().unwrap().contains("UNDROP"), "{error:?}");
            assert_eq!(node.refused("INSERT INTO t VALUES (9, 9)").await.code(), Code::TableNotFound);
            if checkpoint {
                node.engine.checkpoint().await.unwrap();
            }
            if restart {
                node = node.restarted().await;
            }
            node.engine.upkeep().await.unwrap();
            assert_eq!(node.tiering.purge_dropped().await.unwrap(), 0, "its time is not up");
            let shown = node.rows("SHOW DROPPED TABLES").await;
            assert!(shown.len() == 1 && shown[0].contains("|t|") && shown[0].contains(&format!("|{id}|")));
            node.run("UNDROP TABLE t").await;
            assert_eq!(node.table("t").descriptor().id, id);
            let check = async |node: &Node, more: &[&str]| {
                let all: Vec<_> = rows.iter().map(String::as_str).chain(more.iter().copied()).collect();
                assert_eq!(node.rows(ALL).await, all, "{kind} {checkpoint} {restart}");
                let then = format!("SELECT * FROM t TIMESTAMP AS OF to_timestamp_micros({moment}) ORDER BY id");
                assert_eq!(node.rows(&then).await, rows, "{kind} {checkpoint} {restart}");
                assert_eq!(node.rows("SELECT n FROM t WHERE id IN (1, 4) ORDER BY id").await, ["1", "4"]);
            };
            check(&node, &[]).await;
            node.run("INSERT INTO t VALUES (5, 5)").await;
            node.tier("t").await;
            check(&node, &["5|5"]).await;
            if !kind.is_empty() {
                node.run("UPDATE t SET n = 7 WHERE id = 5").await;
                check(&node, &["5|7"]).await;
            }
            let node = node.restarted().await;
            check(&node, &[if kind.is_empty() { "5|5" } else { "5|7" }]).await;
            assert_eq!(node.rows("SHOW DROPPED TABLES").await, [""; 0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_free_at_once_and_several_dropped_tables_may_have_had_it() {
    let node = with_rows("").await;
    node.run("DROP TABLE t").await;
    node.run("CREATE TABLE t (word VARCHAR)").await;
    node.run("INSERT INTO t VALUES ('new')").await;
    node.tier("t").await;
    let second = node.table("t").descriptor().id;
    assert!(node.objects(&format!("t-{second}")).await > 0, "the first place is the dropped table's");
    assert_eq!(node.refused("UNDROP TABLE t").await.code(), Code::TableExists);
    node.run("DROP TABLE t").await;
    let error = node.refused("UNDROP TABLE t").await;
    assert!(error.code() == Code::InvalidRequest && error.hint().unwrap().contains("ID 1 or 2"), "{error:?}");
    let node = node.restarted().await;
    assert_eq!(node.refused("UNDROP TABLE t ID 3").await.code(), Code::TableNotFound);
    node.run("UNDROP TABLE t ID 2").await;
    assert_eq!(node.rows("SELECT * FROM t").await, ["new"]);
    node.run("DROP TABLE t").await;
    node.run("UNDROP TABLE public.t id 1").await;
    assert_eq!(node.rows("SELECT count(*) FROM t").await, ["4"]);
    let node = node.restarted().await;
    assert_eq!(node.rows("SELECT count(*) FROM t").await, ["4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_bring_back_goes_from_disk_and_lake() {
    for kind in ["", ", PRIMARY KEY (id)"] {
        for drop in ["DROP TABLE t PURGE", "DROP TABLE t"] {
            let node = with_rows(kind).await;
            node.run("CREATE TABLE other (id INT)").await;
            node.run("INSERT INTO other VALUES (1)").await;
            node.tier("other").await;
            let others = node.objects("other").await;
            node.run("ALTER TABLE t SET (drop_retention = '0s')").await;
            assert!(node.objects("t").await > 0 && node.segments().await > 0);
            node.run(drop).await;
            assert_eq!(node.refused("UNDROP TABLE t").await.code(), Code::TableNotFound);
            assert_eq!(node.rows("SHOW DROPPED TABLES").await, [""; 0]);
            // A new one of the name has its own place, and keeps it.
            node.run("CREATE TABLE t (id INT)").await;
            node.run("INSERT INTO t VALUES (7)").await;
            node.tier("t").await;
            let node = node.restarted().await;
            assert_eq!(node.tiering.purge_dropped().await.unwrap(), 1);
            assert_eq!(node.tiering.purge_dropped().await.unwrap(), 0);
            node.engine.checkpoint().await.unwrap();
            assert_eq!((node.objects("t").await, node.segments().await), (0, 0), "{kind} {drop}");
            assert_eq!(node.objects("other").await, others);
            let node = node.restarted().await;
            assert_eq!(node.rows("SELECT * FROM t").await, ["7"]);
            assert_eq!(node.rows("SELECT count(*) FROM \"t$lake\"").await, ["1"]);
            assert_eq!(node.rows("SHOW TABLES").await.len(), 2);
        }
    }
}
