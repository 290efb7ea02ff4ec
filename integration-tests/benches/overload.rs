//! More than the server can take: `cargo build --release --workspace --bins`, then `cargo bench --workspace --bench overload`.
//!
//! The real binary, with little memory, on loopback. First the peak: writers that send again as soon as they are answered.
//! Then requests come at 1, 2 and 10 times that rate, whatever becomes of the earlier ones, while a thousand subscribers read
//! slowly and a query eats memory over and over. Then the load stops. For each part it prints goodput, how long accepted
//! requests took (from when they were due), what was refused and how, the server's anonymous memory, and how far the
//! subscribers are behind.
//!
//! Load and server share the machine: at ten times the peak the clients take cores that the server would have had. A part takes 15
//! seconds; `THERMOCLINE_OVERLOAD_SECONDS=5` makes it 5, which shows that it works and little else.
#![allow(clippy::print_stdout)] // printing is what a bench is for

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use reqwest::Client;
use thermocline_integration_tests::binary::Server;
use thermocline_integration_tests::oracle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

const HOT_MIB: u64 = 64;
const BODY_MIB: u64 = 64;
const QUERY_MIB: u64 = 128;
const ROWS: i64 = 500;
const WRITERS: usize = 16;
const FOLLOWERS: usize = 1_000;
/// A subscriber takes so many bytes, then rests for as long.
const SIP_BYTES: usize = 4 << 10;
const SIP_PAUSE: Duration = Duration::from_secs(1);
/// Requests that clients have under way at one time; what would be more is counted and not sent.
const IN_FLIGHT_MAX: usize = 1_500;
const RECOVERY_MAX: Duration = Duration::from_secs(60);

/// Each row of `t` with others until memory is over: an aggregate that cannot go to disk.
const EATER: &str = "SELECT length(string_agg(a.city || b.city || a.note, '')), count(DISTINCT a.ratio * b.ratio) \
     FROM t AS a CROSS JOIN (SELECT city, ratio FROM t LIMIT 200) AS b";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(run());
}

/// How long each part takes.
fn part() -> Duration {
    let seconds = std::env::var("THERMOCLINE_OVERLOAD_SECONDS").ok();
    Duration::from_secs(seconds.map_or(15, |text| text.parse().expect("THERMOCLINE_OVERLOAD_SECONDS is a number")))
}

struct Load {
    client: Client,
    url: String,
    body: Bytes,
    first_failure: OnceLock<()>,
}

impl Load {
    /// Sends one request: its status, and whether a refusal says when to come again.
    async fn send(&self, body: Bytes) -> (u16, bool) {
        let request = self.client.post(&self.url).header("content-type", "application/vnd.apache.arrow.stream");
        let whole = async {
            let answer = request.body(body).send().await?;
            let (status, retry) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
            answer.bytes().await?;
            Ok::<_, reqwest::Error>((status, retry))
        };
        whole.await.unwrap_or_else(|error| {
            // The first says what the others are.
            self.first_failure.get_or_init(|| println!("    a request was not answered: {error:?}"));
            (0, false)
        })
    }
}

#[derive(Default)]
struct Seen {
    accepted: Vec<Duration>,
    busy: u64,
    unavailable: u64,
    without_retry_after: u64,
    others: u64,
    held_back: u64,
}

impl Seen {
    fn note(&mut self, (status, retry): (u16, bool), took: Duration) {
        match status {
            200 => self.accepted.push(took),
            429 => self.busy += 1,
            503 => self.unavailable += 1,
            _ => self.others += 1,
        }
        self.without_retry_after += u64::from(matches!(status, 429 | 503) && !retry);
    }
}

async fn run() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let memory = [HOT_MIB, BODY_MIB, QUERY_MIB].map(|mib| mib.to_string());
    let arguments = ["--hot-memory", &memory[0], "--body-memory", &memory[1], "--query-memory", &memory[2]];
    let (server, _) = Server::start(&directory.path().join("data"), &arguments).await;
    let profile = if cfg!(debug_assertions) { "not optimised: built for tests" } else { "optimised" };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{cores} cores, {profile}; rows {HOT_MIB} MiB, bodies {BODY_MIB} MiB, queries {QUERY_MIB} MiB; {ROWS} rows a request\n"
    );
    server.sql(&format!("CREATE TABLE t ({})", oracle::DDL_COLUMNS)).await.expect("a table");
    let load = Arc::new(Load {
        client: Client::builder().timeout(Duration::from_secs(60)).build().expect("a client can be made"),
        url: format!("{}/v1/tables/public/t/rows", server.url),
        body: body(ROWS),
        first_failure: OnceLock::new(),
    });
    let gauge = Gauge::start(server.pid());

    let idle = singles(&load, 100).await;
    println!("idle: a single row is acked in {} at p50, {} at p99", millis(at(&idle, 50)), millis(at(&idle, 99)));
    let peak = closed_loop(&load).await;
    println!("{}", line("peak, 16 writers", &peak.0, peak.1, &gauge));
    let per_second = peak.0.accepted.len() as f64 / peak.1.as_secs_f64();

    let followers = Followers::start(&server.url);
    let eater = Eater::start(&server);
    let mut goodputs = Vec::new();
    for factor in [1.0, 2.0, 10.0] {
        let (seen, took) = open_loop(&load, per_second * factor).await;
        println!("{}", line(&format!("{factor} × peak, followers, eater"), &seen, took, &gauge));
        goodputs.push(seen.accepted.len() as f64 / took.as_secs_f64() / per_second);
        let ends = server.sql("SELECT count(*) FROM t").await;
        let rows = ends.ok().and_then(|answer| answer.pointer("/rows/0/0")?.as_u64());
        println!("    {}; {}", followers.report(rows), eater.report());
    }
    let stopped = Instant::now();
    let recovered = loop {
        let now = singles(&load, 50).await;
        if at(&now, 99) <= 2 * at(&idle, 99) {
            break Some(stopped.elapsed());
        }
        if stopped.elapsed() > RECOVERY_MAX {
            break None;
        }
    };
    let recovered = recovered.map_or(format!("not within {RECOVERY_MAX:?}"), |after| format!("after {after:.1?}"));
    println!("\nthe load has stopped, followers and query go on: p99 of a single row within twice idle {recovered}");
    eater.stop.store(true, Relaxed);
    println!("goodput at 1, 2 and 10 times the peak's rate, of the peak: {goodputs:.2?}");
    println!("anonymous memory at most {} MiB", gauge.most_ever.load(Relaxed) >> 20);
}

fn body(rows: i64) -> Bytes {
    let schema = oracle::schema().arrow();
    let batch = oracle::rows(&schema, &(0..rows).collect::<Vec<_>>());
    let mut body = Vec::new();
    let mut writer = StreamWriter::try_new(&mut body, &schema).expect("the schema can be written");
    writer.write(&batch).and_then(|()| writer.finish()).expect("the batch can be written");
    drop(writer);
    body.into()
}

/// Single rows, one after the other; those that were accepted, ascending.
async fn singles(load: &Load, count: usize) -> Vec<Duration> {
    let one = body(1);
    let mut took = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        if load.send(one.clone()).await.0 == 200 {
            took.push(began.elapsed());
        }
    }
    took.sort();
    took
}

async fn closed_loop(load: &Arc<Load>) -> (Seen, Duration) {
    let began = Instant::now();
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let load = load.clone();
        writers.spawn(async move {
            let mut own = Vec::new();
            while began.elapsed() < part() {
                let sent = Instant::now();
                own.push((load.send(load.body.clone()).await, sent.elapsed()));
            }
            own
        });
    }
    let mut seen = Seen::default();
    while let Some(own) = writers.join_next().await {
        own.expect("a writer ends").into_iter().for_each(|(answer, took)| seen.note(answer, took));
    }
    (seen, began.elapsed())
}

async fn open_loop(load: &Arc<Load>, per_second: f64) -> (Seen, Duration) {
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let seen = Arc::new(Mutex::new(Seen::default()));
    let began = Instant::now();
    let mut sent = 0u64;
    while began.elapsed() < part() {
        let due = began.elapsed().as_secs_f64() * per_second;
        while (sent as f64) < due {
            let at = began + Duration::from_secs_f64(sent as f64 / per_second);
            sent += 1;
            let Ok(permit) = room.clone().try_acquire_owned() else {
                seen.lock().await.held_back += 1;
                continue;
            };
            let (load, seen) = (load.clone(), seen.clone());
            tokio::spawn(async move {
                let answer = load.send(load.body.clone()).await;
                seen.lock().await.note(answer, at.elapsed());
                drop(permit);
            });
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Answers that come later than this part are part of it, and so is the time that they take.
    let _all = room.acquire_many(IN_FLIGHT_MAX as u32).await.expect("the semaphore stays open");
    let took = began.elapsed();
    let seen = std::mem::take(&mut *seen.lock().await);
    (seen, took)
}

/// A thousand subscriptions that read slowly.
struct Followers {
    /// The last offset that each has seen; the maximum when it was cut off.
    offsets: Arc<Vec<AtomicU64>>,
}

const CUT_OFF: u64 = u64::MAX;

impl Followers {
    fn start(url: &str) -> Followers {
        let address = url.trim_start_matches("http://").to_owned();
        let offsets: Arc<Vec<_>> = Arc::new((0..FOLLOWERS).map(|_| AtomicU64::new(0)).collect());
        for place in 0..FOLLOWERS {
            let (address, offsets) = (address.clone(), offsets.clone());
            tokio::spawn(async move {
                // However it ends, it has ended.
                let _ = follow(&address, &offsets[place]).await;
                offsets[place].store(CUT_OFF, Relaxed);
            });
        }
        Followers { offsets }
    }

    fn report(&self, rows: Option<u64>) -> String {
        let mut seen: Vec<_> = self.offsets.iter().map(|offset| offset.load(Relaxed)).collect();
        seen.sort_unstable();
        let open: Vec<_> = seen.iter().copied().filter(|offset| *offset != CUT_OFF).collect();
        let lag = |offset: Option<&u64>| rows.zip(offset).map_or(0, |(rows, offset)| rows.saturating_sub(*offset));
        format!(
            "{} of {FOLLOWERS} followers are there, behind by {} to {} rows",
            open.len(),
            lag(open.last()),
            lag(open.first())
        )
    }
}

async fn follow(address: &str, offset: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET /v1/tables/public/t/changes?from=latest HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut sip = vec![0; SIP_BYTES];
    loop {
        let read = stream.read(&mut sip).await?;
        if read == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&sip[..read]);
        let last = text.rfind("\"offset\":").and_then(|at| text[at + 9..].split_once(','));
        if let Some(last) = last.and_then(|(last, _)| last.parse().ok()) {
            offset.store(last, Relaxed);
        }
        tokio::time::sleep(SIP_PAUSE).await;
    }
}

/// A query that takes all the memory that it is given, again and again.
struct Eater {
    stop: Arc<AtomicBool>,
    answers: Arc<std::sync::Mutex<std::collections::BTreeMap<String, u64>>>,
}

impl Eater {
    fn start(server: &Server) -> Eater {
        let eater = Eater { stop: Arc::default(), answers: Arc::default() };
        let (stop, answers) = (eater.stop.clone(), eater.answers.clone());
        let (client, url) = (server.client.clone(), format!("{}/v1/sql?timeout=20s", server.url));
        tokio::spawn(async move {
            while !stop.load(Relaxed) {
                let answer = client.post(&url).body(EATER).send().await;
                let answer = match answer {
                    Ok(answer) => {
                        let status = answer.status().as_u16();
                        let text = answer.text().await.unwrap_or_default();
                        let document: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                        format!("{status} {}", document["code"].as_str().unwrap_or("answered"))
                    }
                    Err(_) => "no answer".to_owned(),
                };
                *answers.lock().expect("nobody panics with it").entry(answer).or_default() += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        eater
    }

    fn report(&self) -> String {
        let answers = std::mem::take(&mut *self.answers.lock().expect("nobody panics with it"));
        let answers: Vec<_> = answers.iter().map(|(answer, count)| format!("{count} × {answer}")).collect();
        format!("the query: {}", if answers.is_empty() { "still running".to_owned() } else { answers.join(", ") })
    }
}

/// The server's anonymous memory, looked at ten times a second.
struct Gauge {
    most: Arc<AtomicU64>,
    most_ever: Arc<AtomicU64>,
}

impl Gauge {
    fn start(pid: u32) -> Gauge {
        let gauge = Gauge { most: Arc::default(), most_ever: Arc::default() };
        let (most, most_ever) = (gauge.most.clone(), gauge.most_ever.clone());
        tokio::spawn(async move {
            loop {
                let now = anonymous_bytes(pid);
                most.fetch_max(now, Relaxed);
                most_ever.fetch_max(now, Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        gauge
    }
}

fn anonymous_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Of ascending times, the one below which so many in a hundred are.
fn at(times: &[Duration], percent: usize) -> Duration {
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or(Duration::MAX)
}

fn millis(time: Duration) -> String {
    if time == Duration::MAX { "-".to_owned() } else { format!("{:.1} ms", time.as_secs_f64() * 1e3) }
}

fn line(what: &str, seen: &Seen, took: Duration, gauge: &Gauge) -> String {
    let mut accepted = seen.accepted.clone();
    accepted.sort();
    let most = gauge.most.swap(0, Relaxed) >> 20;
    format!(
        "{what:<28} {:>7.0} requests/s ({:>7.0} k rows/s)  p50 {}  p99 {}  429: {}  503: {} ({} without Retry-After)  other: {}  not sent: {}  memory {most} MiB",
        accepted.len() as f64 / took.as_secs_f64(),
        accepted.len() as f64 * ROWS as f64 / took.as_secs_f64() / 1e3,
        millis(at(&accepted, 50)),
        millis(at(&accepted, 99)),
        seen.busy,
        seen.unavailable,
        seen.without_retry_after,
        seen.others,
        seen.held_back,
    )
}
