//! Segments come back as they were written, whatever the projection, and damage is seen.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use thermocline_schemas::{Code, Offset, PartitionBucket, SchemaId, TableId};

use super::*;
use crate::disk::{Disk, MemoryDisk, RealDisk, create_directories};
use crate::journal::Position;
use crate::memory_budget::MemoryBudget;

const BUCKET: PartitionBucket =
    PartitionBucket { partition: thermocline_schemas::PartitionId(0), bucket: thermocline_schemas::BucketId(0) };

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)]))
}

fn columns() -> ReadColumns {
    ReadColumns { version: SchemaId(0), schema: schema() }
}

fn batch(from: i64, to: i64) -> RecordBatch {
    let names = StringArray::from_iter((from..to).map(|id| (id % 5 > 0).then(|| format!("name {id}"))));
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(from..to)), Arc::new(names)]).unwrap()
}

fn chunk(budget: &Arc<MemoryBudget>, from: i64, to: i64) -> Chunk {
    let stamps = Stamps::one((to - from) as usize, from);
    Chunk::new(Offset(from as u64), SchemaId(0), batch(from, to), stamps, Position(0), budget.force(1))
}

fn filled(sizes: &[i64]) -> (BucketLog, Arc<MemoryBudget>) {
    let (log, budget) = (BucketLog::default(), MemoryBudget::new(1 << 30));
    let mut at = 0;
    for size in sizes {
        log.push(chunk(&budget, at, at + size), &budget).unwrap();
        at += size;
    }
    (log, budget)
}

fn ids(log: &BucketLog, from: u64, to: u64) -> Vec<i64> {
    let rows = log.rows(Offset(from), Offset(to), &columns()).unwrap();
    let batches = rows.iter().flat_map(|rows| rows.read(Some(&[0])).collect::<Vec<_>>());
    batches
        .flat_map(|batch| {
            let batch = batch.unwrap();
            let ids: Vec<i64> = batch.batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec();
            assert_eq!(batch.first.0 as i64, ids[0]);
            assert_eq!(batch.stamps.rows(), ids.len());
            ids
        })
        .collect()
}

#[test]
fn small_chunks_become_few() {
    let (log, _) = filled(&[1; 1000]);
    assert!(log.tail_up_to(Offset(1000)).len() < 60);
    assert_eq!(ids(&log, 3, 997), (3..997).collect::<Vec<_>>());
}

#[test]
fn a_tail_becomes_a_segment_and_reads_the_same() {
    for (disk, root) in [
        (MemoryDisk::new() as Arc<dyn Disk>, Path::new("/segments").to_owned()),
        (Arc::new(RealDisk), tempfile::tempdir().unwrap().keep()),
    ] {
        create_directories(&*disk, &root).unwrap();
        let (log, budget) = filled(&[10, 200_000, 3, 70_000]);
        let info =
            write_segment(&*disk, &root, "a.arrow", TableId(1), BUCKET, &log.tail_up_to(Offset(200_013))).unwrap();
        assert_eq!((info.base, info.end()), (Offset(0), Offset(200_013)));
        let segment = Segment::open(&*disk, &root, info, schema()).unwrap();
        log.add_segment(Arc::new(segment)).unwrap();
        log.push(chunk(&budget, 270_013, 270_020), &budget).unwrap();
        for (from, to) in [(0, 270_020), (5, 15), (200_000, 200_020), (200_013, 200_014), (65_535, 65_537)] {
            assert_eq!(ids(&log, from, to), (from as i64..to as i64).collect::<Vec<_>>());
        }
        assert_eq!(log.offset_at(5, Offset(270_020)), Offset(10));
        let gone = log.trim(Offset(200_500)).unwrap();
        assert_eq!(gone.len(), 1);
        assert_eq!(ids(&log, 200_500, 270_020), (200_500..270_020).collect::<Vec<_>>());
        assert_eq!(log.rows(Offset(10), Offset(20), &columns()).unwrap_err().code(), Code::OffsetOutOfRetention);
    }
}

#[test]
fn every_kind_of_flipped_bit_in_a_segment_is_seen() {
    let (disk, root) = (MemoryDisk::new(), Path::new("/segments"));
    create_directories(&*disk, root).unwrap();
    let (log, _) = filled(&[500]);
    let info = write_segment(&*disk, root, "a.arrow", TableId(1), BUCKET, &log.tail_up_to(Offset(500))).unwrap();
    for bit in (0..info.bytes * 8).step_by(11) {
        disk.flip_bit(&root.join("a.arrow"), bit).unwrap();
        let read = Segment::open(&*disk, root, info.clone(), schema())
            .and_then(|segment| segment.read(0, 500, None).collect::<thermocline_schemas::Result<Vec<_>>>());
        assert_eq!(read.err().map(|error| error.code()), Some(Code::Corrupt), "bit {bit}");
        disk.flip_bit(&root.join("a.arrow"), bit).unwrap();
    }
    Segment::open(&*disk, root, info, schema()).unwrap();
}

#[test]
fn a_gap_is_refused() {
    let (log, budget) = filled(&[5]);
    assert_eq!(log.push(chunk(&budget, 6, 7), &budget).unwrap_err().code(), Code::Corrupt);
}
