//! One directory: its clients, and cycle after cycle of start, verification, load and kill.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::Rng;
use thermocline_engine::faults::CrashPoint;
use thermocline_integration_tests::binary::{self, Server};
use tokio::task::JoinSet;

use super::clients::{self, Writing};
use super::followers::{self, Format};
use super::keyed::followers::Begin;
use super::world::{Phase, World, hold, sleep};
use super::{Kill, Report};
use super::{emptied, keyed, verify};

/// So small that some hundred requests make segments, journal files, checkpoints and rows that are carried.
const SMALL: [&str; 6] = ["--segment-bytes", "32768", "--journal-file-bytes", "65536", "--journal-bytes", "524288"];
const HALT_WAIT: Duration = Duration::from_secs(20);

pub async fn run(plan: &[Kill], report: &mut Report) {
    let directory = tempfile::tempdir().expect("a place for files");
    let data = directory.path().join("data");
    let world = Arc::new(World::new(data, report.first + report.directories as usize));
    let mut clients = spawn(&world);
    let outcome = tokio::select! {
        outcome = cycles(&world, plan, report) => outcome,
        // They end when all is over, and not before.
        Some(ended) = clients.join_next() => Err(format!("a client ended: {ended:?}")),
    };
    world.set(Phase { done: true, ..Phase::default() });
    if let Err(failure) = outcome {
        let kept = directory.keep();
        panic!("{failure}\nthe directory is kept: {}", kept.display());
    }
    clients.abort_all();
    while clients.join_next().await.is_some() {}
    report.directories += 1;
    for target in &world.targets {
        let totals = hold(&target.history).totals();
        report.acked_rows += totals.acked_rows;
        report.applied_unanswered += totals.applied_unanswered;
    }
    for target in &world.keyed {
        let totals = hold(&target.history).totals();
        report.keyed_acked_rows += totals.acked_rows;
        report.keyed_changes += totals.seen_rows;
        report.let_go += target.let_go.load(Ordering::Relaxed);
        report.applied_unanswered += totals.applied_unanswered;
    }
    let counts = &world.counts;
    report.lookups += counts.lookups.load(Ordering::Relaxed);
    report.snapshots += counts.snapshots.load(Ordering::Relaxed);
    report.fallen_behind += counts.fallen_behind.load(Ordering::Relaxed);
    report.reads += counts.reads.load(Ordering::Relaxed);
    report.repeats += counts.repeats.load(Ordering::Relaxed);
    report.followed_rows += counts.followed.load(Ordering::Relaxed);
    report.resumes += counts.resumes.load(Ordering::Relaxed);
    report.rounds += counts.rounds.load(Ordering::Relaxed);
}

fn spawn(world: &Arc<World>) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for number in 0..4 {
        let numbered = number != 3;
        let writing = Writing { target: 0, number, numbered, rows_max: 120, pause_max: 20 };
        clients.spawn(clients::write(world.clone(), writing));
    }
    let writing = Writing { target: 1, number: 9, numbered: true, rows_max: 3, pause_max: 300 };
    clients.spawn(clients::write(world.clone(), writing));
    for _ in 0..2 {
        clients.spawn(clients::query(world.clone()));
    }
    clients.spawn(clients::tier(world.clone()));
    clients.spawn(clients::alter(world.clone()));
    clients.spawn(clients::make_and_drop(world.clone()));
    clients.spawn(emptied::fill_and_truncate(world.clone()));
    clients.spawn(followers::follow(world.clone(), 0, Format::Events));
    clients.spawn(followers::follow(world.clone(), 0, Format::Lines));
    clients.spawn(followers::follow(world.clone(), 1, Format::Events));
    for (target, rows_max, pause_max) in [(0, 40, 20), (1, 3, 300)] {
        for number in world.keyed[target].writers.clone() {
            let writing = keyed::clients::Writing { target, number, rows_max, pause_max };
            clients.spawn(keyed::clients::write(world.clone(), writing));
        }
    }
    clients.spawn(keyed::clients::query(world.clone()));
    clients.spawn(keyed::followers::follow(world.clone(), 0, Format::Events, Begin::Earliest));
    clients.spawn(keyed::followers::follow(world.clone(), 0, Format::Lines, Begin::Snapshot));
    clients.spawn(keyed::followers::follow(world.clone(), 1, Format::Lines, Begin::Earliest));
    clients
}

async fn cycles(world: &World, plan: &[Kill], report: &mut Report) -> Result<(), String> {
    for (cycle, kill) in plan.iter().enumerate() {
        let mut server = start(world, cycle == 0, report).await?;
        match kill {
            Kill::Anywhen => anywhen(world, &mut server).await,
            Kill::Recovering => {
                anywhen(world, &mut server).await;
                killed(world, &mut server, report);
                let most = report.restarts.last().map_or(100, |last| last.as_millis() as u64);
                server = Server::launch(&world.data, &SMALL, &[]);
                sleep(0..most.max(2)).await;
            }
            Kill::At(point) => {
                killed(world, &mut server, report);
                server = halt_at(world, *point, report).await?;
            }
        }
        let ended = server.ended();
        killed(world, &mut server, report);
        if let Some(status) = ended {
            return Err(format!("the server ended by itself, {status}: {}", server.said()));
        }
        world.failure().map_or(Ok(()), Err).map_err(|failure| format!("cycle {cycle}, {kill:?}: {failure}"))?;
    }
    let mut server = start(world, false, report).await?;
    world.set(Phase::default());
    if server.terminate() != Some(0) {
        return Err(format!("a polite stop does not end with 0: {}", server.said()));
    }
    let check = tokio::process::Command::new(binary::path()).arg("check").arg(&world.data).output().await;
    let check = check.expect("the binary starts");
    if !check.status.success() {
        return Err(format!(
            "`thermocline check` ends with {}: {}",
            check.status,
            String::from_utf8_lossy(&check.stdout)
        ));
    }
    world.failure().map_or(Ok(()), Err)
}

/// A server that recovers, and everything read from it.
async fn start(world: &World, fresh: bool, report: &mut Report) -> Result<Server, String> {
    let mut server = Server::launch(&world.data, &SMALL, &[]);
    let ready = server.ready().await?;
    if fresh {
        for target in &world.targets {
            server.sql(&World::ddl(target)).await?;
        }
        for target in &world.keyed {
            server.sql(&target.ddl()).await?;
        }
        emptied::make(&server.url, world).await?;
    } else {
        report.restarts.push(ready);
    }
    world.set(Phase { url: Some(server.url.clone()), ..Phase::default() });
    verify::everything(world, &server.url).await;
    match world.failure() {
        None => Ok(server),
        Some(failure) => Err(format!("after the restart: {failure}")),
    }
}

fn killed(world: &World, server: &mut Server, report: &mut Report) {
    server.kill();
    world.set(Phase::default());
    report.kills += 1;
}

fn load(world: &World, server: &Server) {
    world.set(Phase { url: Some(server.url.clone()), load: true, done: false });
}

/// Load until a random moment, perhaps with a pause that the process knows nothing of.
async fn anywhen(world: &World, server: &mut Server) {
    load(world, server);
    sleep(50..1_500).await;
    if rand::rng().random_bool(0.4) {
        server.signal("STOP");
        sleep(10..300).await;
        if rand::rng().random_bool(0.3) {
            return;
        }
        server.signal("CONT");
        sleep(0..500).await;
    }
}

/// About how often a point is reached in a second or two of load.
fn often(point: CrashPoint) -> u32 {
    match point {
        CrashPoint::JournalWritten | CrashPoint::JournalSynced | CrashPoint::Published => 100,
        CrashPoint::RoundPlanned
        | CrashPoint::DataFilesWritten
        | CrashPoint::ManifestsWritten
        | CrashPoint::VersionCreated
        | CrashPoint::HintWritten
        | CrashPoint::BoundaryPublished => 8,
        // It takes some rounds until files are worth to be written anew.
        CrashPoint::RewriteWritten | CrashPoint::RewriteCommitted => 1,
        _ => 3,
    }
}

/// Load until a thread halts at `point`; then the others go on for a moment.
async fn halt_at(world: &World, point: CrashPoint, report: &mut Report) -> Result<Server, String> {
    let times = rand::rng().random_range(1..=often(point));
    let wanted = format!("{}:{times}", point.name());
    let mut server = Server::launch(&world.data, &SMALL, &[("THERMOCLINE_HALT_AT", &wanted)]);
    match server.ready().await {
        Ok(_) => load(world, &server),
        // It may come there before it is ready.
        Err(_) if server.halted().is_some() => {}
        Err(failure) => return Err(failure),
    }
    let asked = std::time::Instant::now();
    while server.halted().is_none() && asked.elapsed() < HALT_WAIT && world.failure().is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if server.halted().is_some() {
        *report.points.entry(point.name()).or_default() += 1;
    } else {
        println!("{wanted} was not reached in {HALT_WAIT:?}");
        report.missed.push(point);
    }
    sleep(0..250).await;
    Ok(server)
}
