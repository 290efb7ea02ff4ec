//! Files written anew beside rounds, followers and splits of log tables, by hand and by the scheduler.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::TryStreamExt;

use super::*;
use crate::lake::LakeInspection;

async fn ids_of(split: &ReadSplit) -> Vec<i64> {
    let mut ids = Vec::new();
    let lake = split.lake.as_ref().unwrap();
    for file in lake.files.iter() {
        let rows = lake.table.read_file(file, &split.table.descriptor().schema, Offset::ZERO).await.unwrap();
        for rows in rows.try_collect::<Vec<_>>().await.unwrap() {
            ids.extend(rows.batch.column(0).as_primitive::<Int64Type>().values());
        }
    }
    ids
}

impl Node {
    async fn rounds(&self, from: i64, rounds: i64, rows: i64) {
        for round in 0..rounds {
            self.append(from + round * rows, from + (round + 1) * rows).await;
            self.tiering.tier(&self.table).await.unwrap();
            self.tiering.let_go_now(&self.table).await.unwrap();
        }
    }

    async fn one_split(&self) -> ReadSplit {
        self.tiering.read_split(std::slice::from_ref(&self.table)).await.unwrap().remove(0)
    }

    async fn operations(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for snapshot in self.tiering.snapshots(&self.table).await.unwrap() {
            *found.entry(snapshot.operation).or_default() += 1;
        }
        found
    }
}

#[tokio::test]
async fn followers_and_old_splits_read_on_across_a_rewrite() {
    for format in ["2", "3"] {
        let (disk, warehouse) = (MemoryDisk::new(), memory());
        let properties = [("hot_retention", "0s"), ("format_version", format), ("snapshot_retention", "0s")];
        let node = start(&disk, &warehouse, &properties, eager()).await;
        node.rounds(0, 6, 100).await;
        let before = node.one_split().await;
        let live =
            node.tiering.follow(&node.table, FollowFrom::Earliest, FollowOptions { follow: true }).await.unwrap();
        let mut live = live.batches;
        let mut seen = changes(vec![live.next().await.unwrap().unwrap()]);

        let report = node.tiering.compact(&node.table).await.unwrap();
        assert_eq!((report.replaced, report.written, report.rows), (6, 1, 600));
        let nothing = node.tiering.compact(&node.table).await.unwrap();
        assert_eq!((nothing.replaced, nothing.written), (0, 0), "once is enough");
        node.rounds(600, 1, 100).await;
        // The follower and the split hold what they have to read; the round has let the old snapshots go.
        node.tiering.sweep_now(&node.table).await.unwrap();
        assert_eq!(ids_of(&before).await, (0..600).collect::<Vec<_>>());
        while seen.len() < 700 {
            let change = tokio::time::timeout(Duration::from_secs(60), live.next()).await.unwrap().unwrap().unwrap();
            seen.extend(changes(vec![change]));
        }
        assert_eq!(seen, in_order(0..700));
        drop((before, live));
        // The follower's task ends a moment later.
        let mut swept = 0;
        for _ in 0..200 {
            swept += node.tiering.sweep_now(&node.table).await.unwrap();
            if swept >= 6 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(swept >= 6, "{swept}");

        let from = |offset| FollowFrom::Offsets([(PartitionBucket::unpartitioned(0), Offset(offset))].into());
        assert_eq!(node.follow(FollowFrom::Earliest).await, in_order(0..700));
        for offset in [0, 1, 99, 100, 350, 599, 600, 650] {
            assert_eq!(node.follow(from(offset)).await, in_order(0..700)[offset as usize..]);
        }
        assert_eq!(ids_of(&node.one_split().await).await, (0..700).collect::<Vec<_>>());
        assert_eq!(node.counts().await, (700, 0));
        node.stop().await;

        let node = start(&disk, &warehouse, &properties, eager()).await;
        assert_eq!(node.follow(FollowFrom::Earliest).await, in_order(0..700), "also after a restart");
        node.stop().await;
    }
}

#[tokio::test]
async fn timestamps_find_their_row_in_files_written_anew() {
    let properties = [("hot_retention", "0s")];
    let node = start(&MemoryDisk::new(), &memory(), &properties, eager()).await;
    let mut moments = Vec::new();
    for round in 0..6 {
        tokio::time::sleep(Duration::from_millis(3)).await;
        moments.push(node.engine.now_micros());
        node.rounds(round * 10, 1, 10).await;
    }
    assert_eq!(node.tiering.compact(&node.table).await.unwrap().replaced, 6);
    for (round, moment) in moments.into_iter().enumerate() {
        assert_eq!(node.follow(FollowFrom::Timestamp(moment)).await, in_order(0..60)[round * 10..], "round {round}");
    }
    node.stop().await;
}

/// Readers of all kinds while rounds, rewrites and sweeps race.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_row_once_while_rounds_and_rewrites_race() {
    let properties = [("hot_retention", "0s"), ("snapshot_retention", "0s")];
    let grace = Grace { files: Duration::from_millis(300), versions: Duration::from_secs(3600) };
    let options = TieringOptions { grace, ..eager() };
    let node = Arc::new(start(&MemoryDisk::new(), &memory(), &properties, options).await);
    let rewrites = Arc::new(AtomicU64::new(0));
    // However slow the machine is, some rewrites fall among the rounds.
    let sink = tokio::spawn({
        let (node, rewrites) = (node.clone(), rewrites.clone());
        async move {
            let mut rows = 0;
            while rows < 600 || rewrites.load(Ordering::Relaxed) < 4 {
                assert!(rows < 20_000, "there are no rewrites");
                node.rounds(rows, 10, 10).await;
                rows += 100;
            }
            rows
        }
    });
    let rewriter = tokio::spawn({
        let (node, sink) = (node.clone(), sink.abort_handle());
        async move {
            while !sink.is_finished() {
                let replaced = node.tiering.compact(&node.table).await.unwrap().replaced;
                rewrites.fetch_add(u64::from(replaced > 0), Ordering::Relaxed);
                node.tiering.sweep_now(&node.table).await.unwrap();
            }
        }
    });
    while !sink.is_finished() {
        let split = node.one_split().await;
        let end = split.ends.end(PartitionBucket::unpartitioned(0)).0;
        assert_eq!(split.lake_rows() + split.hot_rows(), end);
        if split.lake.is_some() {
            let ids = ids_of(&split).await;
            assert_eq!(ids, (0..split.lake_rows() as i64).collect::<Vec<_>>());
        }
        let seen = node.follow(FollowFrom::Earliest).await;
        assert!(seen.len() as u64 >= end, "a follower that came later sees no less");
        assert_eq!(seen, in_order(0..seen.len() as i64));
    }
    let rows = sink.await.unwrap();
    rewriter.await.unwrap();
    assert_eq!(node.follow(FollowFrom::Earliest).await, in_order(0..rows));
}

/// With nobody's help: rounds several times a second, few files, nothing left lying about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scheduler_keeps_files_few() {
    let warehouse = memory();
    let properties = [("lake_freshness", "20ms"), ("hot_retention", "0s"), ("snapshot_retention", "0s")];
    let options = TieringOptions {
        interval: Duration::from_millis(5),
        grace: Grace { files: Duration::ZERO, versions: Duration::ZERO },
        ..TieringOptions::default()
    };
    let node = start(&MemoryDisk::new(), &warehouse, &properties, options).await;
    let mut next = 0;
    let (mut most, mut replaces, mut deadline) = (0, 0, 0);
    // As it is by default, eight small files are one run.
    while replaces < 3 {
        node.append(next, next + 10).await;
        next += 10;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let split = node.one_split().await;
        assert_eq!(split.lake_rows() + split.hot_rows(), next as u64);
        most = most.max(split.lake.map_or(0, |lake| lake.files.len()));
        if let Some(snapshot) = node.tiering.snapshots(&node.table).await.unwrap().last()
            && snapshot.operation == "replace"
        {
            replaces += 1;
        }
        deadline += 1;
        assert!(deadline < 5_000, "{replaces} rewrites seen, {most} files");
    }
    assert!(most < 40, "{most} files");
    assert_eq!(node.follow(FollowFrom::Earliest).await, in_order(0..next));
    // The sweep comes by itself too.
    let count = async || {
        let listed: Vec<_> = warehouse.store().list(None).try_collect().await.unwrap();
        listed.iter().filter(|object| object.location.extension() == Some("parquet")).count()
    };
    for _ in 0..1_000 {
        let split = node.one_split().await;
        if count().await <= split.lake.map_or(0, |lake| lake.files.len()) + 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let files = node.one_split().await.lake.unwrap().files.len();
    assert!(count().await <= files + 1, "{} files lie there, {files} are named", count().await);
    node.tiering.tier(&node.table).await.unwrap();
    node.stop().await;
    // As another engine finds it.
    let lake = LakeInspection::newest(&warehouse, "public/t").await.unwrap().unwrap();
    let mut rows = 0;
    for manifest in lake.manifests().await.unwrap() {
        for file in lake.data_files(&manifest).await.unwrap() {
            rows += lake
                .rows(&file)
                .await
                .unwrap()
                .map(|rows| rows.unwrap().num_rows())
                .collect::<Vec<_>>()
                .await
                .iter()
                .sum::<usize>();
        }
    }
    assert_eq!(rows as i64, next);
}

#[tokio::test]
async fn what_has_no_lake_or_is_stopping_is_not_written_anew() {
    let node = start(&MemoryDisk::new(), &memory(), &[("lake_enabled", "false")], eager()).await;
    assert_eq!(node.tiering.compact(&node.table).await.unwrap_err().code(), Code::WrongTableKind);
    node.stop().await;

    let warehouse = memory();
    let disk = MemoryDisk::new();
    let node = start(&disk, &warehouse, &[], eager()).await;
    node.rounds(0, 4, 10).await;
    node.tiering.close().await;
    assert_eq!(node.tiering.compact(&node.table).await.unwrap_err().code(), Code::ShuttingDown);
    node.engine.close();
    let node = start(&disk, &warehouse, &[], eager()).await;
    assert_eq!(node.tiering.compact(&node.table).await.unwrap().replaced, 4);
    assert_eq!(node.operations().await, [("append".to_owned(), 4), ("replace".to_owned(), 1)].into());
    node.engine.drop_table(&node.table.descriptor().name, false, false).await.unwrap();
    node.stop().await;
}
