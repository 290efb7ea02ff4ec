//! Tables with partitions under rounds, rewrites, letting go and followers.

use std::collections::BTreeMap;

use super::*;

/// Path and bucket, then the ids in order of offset, which start at `first`.
async fn told(node: &Node, from: FollowFrom) -> BTreeMap<(String, u32), (u64, Vec<i64>)> {
    let followed = node.tiering.follow(&node.table, from, FollowOptions { follow: false }).await.unwrap();
    let batches: Vec<_> = followed.batches.map(Result::unwrap).collect().await;
    let mut told: BTreeMap<_, (u64, Vec<i64>)> = BTreeMap::new();
    for batch in batches {
        let place = (batch.partition.as_deref().unwrap().to_owned(), batch.bucket.bucket.0);
        let (first, ids) = told.entry(place).or_insert((batch.first.0, Vec::new()));
        assert_eq!(batch.first.0, *first + ids.len() as u64);
        ids.extend(batch.batch.column(0).as_primitive::<Int64Type>().values());
    }
    told
}

#[tokio::test]
async fn each_partition_has_its_own_offsets_in_every_tier_and_after_rewrites() {
    let (disk, warehouse) = (MemoryDisk::new(), memory());
    let properties = [("partition_by", "truncate(100, id)"), ("hot_retention", "0s")];
    let mut node = start(&disk, &warehouse, &properties, eager()).await;
    let expected = |to: i64| -> BTreeMap<(String, u32), (u64, Vec<i64>)> {
        let part = |part: i64| {
            let own = part * 100..(part * 100 + 100).min(to);
            ((format!("id_trunc={}", part * 100), 0), (0, own.collect()))
        };
        (0..(to + 99) / 100).map(part).collect()
    };
    for to in (0..10).map(|step| step * 70 + 70) {
        node.append(to - 70, to).await;
        match to / 70 % 4 {
            1 => drop(node.tiering.tier(&node.table).await.unwrap()),
            2 => {
                node.tiering.tier(&node.table).await.unwrap();
                node.tiering.let_go_now(&node.table).await.unwrap();
            }
            3 => {
                node.stop().await;
                node = start(&disk, &warehouse, &properties, eager()).await;
            }
            _ => while node.tiering.compact(&node.table).await.unwrap().replaced > 0 {},
        }
        assert_eq!(told(&node, FollowFrom::Earliest).await, expected(to), "{to}");
        let (cold, hot) = node.counts().await;
        assert_eq!((cold + hot) as i64, to);
    }
    // In the middle of one partition that is cold; those that are not named begin with their first rows.
    let partition = |number| PartitionBucket {
        partition: thermocline_schemas::PartitionId(number),
        bucket: thermocline_schemas::BucketId(0),
    };
    let from: BTreeMap<_, _> = (0..6).map(|number| (partition(number), Offset(100))).collect();
    let from = FollowFrom::Offsets(from.into_iter().chain([(partition(2), Offset(90))]).collect());
    let rest = told(&node, from).await;
    assert_eq!(rest[&("id_trunc=200".to_owned(), 0)], (90, (290..300).collect()));
    assert_eq!(rest[&("id_trunc=600".to_owned(), 0)], (0, (600..700).collect()));
    assert_eq!(rest.len(), 2);
    let lake = node.tiering.table_lake(&node.table).published.load().lake.clone().unwrap();
    let files = lake.0.data_files(&lake.1).await.unwrap();
    assert!(files.iter().all(|file| file.path.as_ref().contains("/data/id_trunc=")), "{files:?}");
    node.stop().await;
}
