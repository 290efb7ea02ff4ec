//! Every n-th call of every kind fails once; the disk is full from the n-th call on, and then is not.
//!
//! After each, the disk is looked at twice: as it is, and after a power cut, because what a failed sync was to make durable
//! may be gone.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rand::SeedableRng;
use rand::rngs::StdRng;
use thermocline_engine::disk::{Disk, MemoryDisk};
use thermocline_schemas::Code;

use crate::disk::{Call, Fault, TestDisk};
use crate::scenario::{Cast, Life, Node};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// One life with a fault. Whether it struck, or what it broke.
async fn live_with(cast: Cast, fault: Fault) -> Result<bool, String> {
    let disk = TestDisk::new(MemoryDisk::new(), Some(fault));
    let mut life = Life::new(&disk, cast);
    life.live().await;
    let after_cut = disk.memory().power_cut(&mut StdRng::seed_from_u64(7));
    for (state, left) in [("as it is", disk.memory().clone()), ("after a power cut", after_cut)] {
        let node = Node::start(left).await;
        let node = node.map_err(|error| format!("{fault:?}, {state}: does not start: {error:?}"))?;
        let checked = node.check(&life.known).await;
        let checked = checked.map_err(|error| format!("{fault:?}, {state}: does not read: {error:?}"))?;
        checked.map_err(|wrong| format!("{fault:?}, {state}: {wrong}; errors: {:?}", life.errors))?;
        node.stop().await;
    }
    Ok(disk.struck())
}

/// Lives with every fault of each row, the n-th for n = 0, 1, …, until none strikes; `dense` of them without a step.
/// Waits more than it works, so many at once. Answers how many struck in each row.
fn live_with_all<T: Send>(
    cast: Cast,
    rows: Vec<T>,
    dense: usize,
    fault: impl Fn(&T, usize) -> Fault + Sync,
) -> Vec<usize> {
    let struck: Vec<_> = rows.iter().map(|_| AtomicUsize::new(0)).collect();
    let queue = Mutex::new(rows.into_iter().enumerate().map(|(row, what)| (row, what, 0)).collect::<VecDeque<_>>());
    let broken = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let runtime = runtime();
                loop {
                    let next = {
                        let mut queue = queue.lock().expect("no holder panics");
                        let next = queue.pop_front();
                        next.map(|(row, what, n)| {
                            let tried = fault(&what, n);
                            queue.push_back((row, what, n + 1 + n / dense));
                            (row, tried)
                        })
                    };
                    let Some((row, tried)) = next else { return };
                    match runtime.block_on(live_with(cast, tried)) {
                        Ok(true) => drop(struck[row].fetch_add(1, Ordering::AcqRel)),
                        Ok(false) => queue.lock().expect("no holder panics").retain(|(own, _, _)| *own != row),
                        Err(wrong) => broken.lock().expect("no holder panics").push(wrong),
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().expect("no holder panics");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    struck.into_iter().map(AtomicUsize::into_inner).collect()
}

fn no_call_that_fails_loses_anything(cast: Cast) {
    // Where a kind of call is made hundreds of times, some are left out.
    let dense = if cast == Cast::Logs { 24 } else { 8 } * crate::times("THERMOCLINE_CALLS");
    let struck = live_with_all(cast, Call::ALL.to_vec(), dense, |call, n| Fault::Once(*call, n));
    let shown: Vec<_> = Call::ALL.iter().zip(&struck).map(|(call, struck)| format!("{call:?} {struck}")).collect();
    let uncut = live_with_all(cast, vec![()], dense, |(), n| Fault::WriteAndCuts(n))[0];
    let count = struck.iter().sum::<usize>() + uncut;
    let shown = shown.join(", ");
    println!("{cast:?}: failing calls: {count} tried: {shown}, writes that cannot be cut back {uncut}");
    for (call, struck) in Call::ALL.iter().zip(struck) {
        // Lengths are set to cut back only, which is after another failure.
        assert!(struck > 0 || *call == Call::SetLength, "no {call:?} ever failed");
    }
}

#[test]
fn a_call_that_fails_loses_nothing_that_was_acked() {
    no_call_that_fails_loses_anything(Cast::Logs);
}

#[test]
fn a_call_that_fails_loses_no_change_that_was_acked() {
    no_call_that_fails_loses_anything(Cast::Keys);
}

#[test]
fn a_disk_that_fills_up_refuses_rows_and_takes_them_again() {
    for cast in Cast::ALL {
        let dense = 6 * crate::times("THERMOCLINE_CALLS");
        let struck = live_with_all(cast, vec![()], dense, |(), n| Fault::FullFrom(n));
        println!("{cast:?}: full disks: {} tried", struck[0]);
        assert!(struck[0] > 15);
    }
}

/// Full in the middle of work, reads go on; with room again, so do writes, without a restart.
#[test]
fn a_full_disk_says_so_and_recovers() {
    for cast in Cast::ALL {
        runtime().block_on(fill_and_make_room(cast));
    }
}

async fn fill_and_make_room(cast: Cast) {
    let disk = TestDisk::new(MemoryDisk::new(), None);
    let node = Node::start(Arc::new(disk.clone())).await.unwrap();
    let mut life = Life::new(&disk, cast);
    let [one, other] = [cast.tables().start, cast.tables().start + 1];
    life.create(&node).await;
    for round in 0..40 {
        assert!(life.write(&node, one, 20).await && life.write(&node, other, 20).await);
        if round % 4 == 0 {
            life.tier(&node, one).await;
        }
        // Every call from here on that needs room fails: in the middle of a group, at a new file, at a checkpoint.
        disk.set_fault(Some(Fault::FullFrom(round % 3)));
        while life.write(&node, one + round % 2, 10).await {}
        assert_eq!(life.errors.pop().unwrap().code(), Code::DiskFull);
        let first = node.table(one).unwrap();
        for done in [
            node.engine.seal(&first).await,
            node.engine.checkpoint().await,
            node.tiering.tier(&first).await.map(drop),
            node.tiering.let_go_now(&first).await,
        ] {
            if let Err(error) = done {
                assert_eq!(error.code(), Code::DiskFull, "{error:?}");
            }
        }
        node.check(&life.known).await.unwrap().unwrap();
        assert_eq!(*node.engine.failure().borrow(), None);
        disk.set_fault(None);
        assert!(life.write(&node, one, 5).await && life.write(&node, other, 5).await, "{:?}", life.errors);
        let done = node.engine.upkeep().await;
        assert!(done.is_ok(), "{done:?}");
    }
    assert!(life.errors.is_empty(), "{:?}", life.errors);
    life.tier(&node, one).await;
    node.check(&life.known).await.unwrap().unwrap();
    node.stop().await;
    let node = Node::start(disk.memory().clone() as Arc<dyn Disk>).await.unwrap();
    node.check(&life.known).await.unwrap().unwrap();
    node.stop().await;
}

/// The disk is full at the last step: there is no such table, and with room again nothing of it.
#[test]
fn a_table_that_cannot_be_finished_goes() {
    runtime().block_on(async {
        let disk = TestDisk::new(MemoryDisk::new(), None);
        let node = Node::start(Arc::new(disk.clone())).await.unwrap();
        let mut life = Life::new(&disk, Cast::Logs);
        let (_, made) = life.begin(&node).await.unwrap();
        disk.set_fault(Some(Fault::FullFrom(0)));
        assert_eq!(node.engine.finish_table(made).await.unwrap_err().code(), Code::DiskFull);
        disk.set_fault(None);
        assert_eq!(node.tiering.purge_dropped().await.unwrap(), 1);
        assert!(node.engine.tables().is_empty() && node.engine.dropped_tables().is_empty());
        node.stop().await;
    });
}

/// A second sync may say that the disk has what it has lost: so there is none.
#[test]
fn a_failed_sync_of_the_journal_ends_the_engine() {
    runtime().block_on(async {
        let disk = TestDisk::new(MemoryDisk::new(), None);
        let node = Node::start(Arc::new(disk.clone())).await.unwrap();
        let mut life = Life::new(&disk, Cast::Logs);
        life.create(&node).await;
        assert!(life.append(&node, 0, 20).await);
        disk.set_fault(Some(Fault::Once(Call::Sync, 0)));
        assert!(!life.append(&node, 0, 20).await);
        assert!(node.engine.failure().borrow().is_some());
        assert!(!life.append(&node, 0, 20).await && !life.append(&node, 1, 1).await);
        node.stop().await;
        let left = disk.memory().power_cut(&mut StdRng::seed_from_u64(1));
        let node = Node::start(left).await.unwrap();
        node.check(&life.known).await.unwrap().unwrap();
        let shown = node.read(&node.table(0).unwrap()).await.unwrap().unwrap();
        assert_eq!(shown.buckets.values().map(Vec::len).sum::<usize>(), 20);
        node.stop().await;
    });
}
