//! The real binary, as people and scripts run it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::{self, TestServer};

/// What a run of the binary said.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thermocline"));
    command.kill_on_drop(true).stdin(Stdio::null());
    for name in [
        "THERMOCLINE_URL",
        "THERMOCLINE_TOKEN",
        "THERMOCLINE_LISTEN",
        "THERMOCLINE_DATA_DIR",
        "THERMOCLINE_WAREHOUSE",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    command
}

pub async fn run(arguments: &[&str]) -> Run {
    let running = command().args(arguments).output();
    let output = tokio::time::timeout(Duration::from_secs(180), running).await.expect("it ends").unwrap();
    Run {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn good(arguments: &[&str]) -> Run {
    let run = run(arguments).await;
    assert_eq!(run.code, Some(0), "{arguments:?}: {run:?}");
    run
}

fn write(directory: &Path, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = directory.join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What is to be known of a table that was made reaches whoever made it, in every format.
#[tokio::test(flavor = "multi_thread")]
async fn notes_are_in_headers_and_on_standard_error() {
    let server = TestServer::start().await;
    for (number, accept) in ["application/json", "application/x-ndjson", "text/csv"].into_iter().enumerate() {
        let made = server.post("/v1/sql").header("accept", accept).body(format!("CREATE TABLE n{number} (at TIME)"));
        let answer = made.send().await.unwrap();
        let note = answer.headers()["thermocline-note"].to_str().unwrap();
        assert_eq!(note, "column at: Spark cannot read tables with TIME columns", "{accept}");
    }
    let made = good(&["sql", "--url", &server.url, "CREATE TABLE t (at TIME)"]).await;
    assert!(made.err.contains("note: column at: Spark cannot read tables with TIME columns"), "{made:?}");
    let silent = good(&["sql", "--url", &server.url, "CREATE TABLE u (id INT)"]).await;
    assert!(!silent.err.contains("note:"), "{silent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_teaches() {
    for command in ["serve", "load", "sql", "tail", "check", "backup", "restore", "demo"] {
        let help = good(&[command, "--help"]).await.out;
        assert!(help.contains("--"), "{help}");
    }
    let help = good(&["--help"]).await.out;
    assert!(help.contains("thermocline load events.csv public.events"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_shows_rows() {
    let server = TestServer::with_table().await;
    server.append("{\"id\":1,\"name\":\"a\"}\n{\"id\":2}").await;
    let url = server.url.as_str();
    let table = good(&["sql", "--url", url, "SELECT id, name FROM t ORDER BY id"]).await;
    assert!(table.out.contains("│  1 ┆ a    │") && table.out.contains("NULL"), "{}", table.out);
    assert!(table.err.contains("2 rows in") && table.err.contains("2 hot + 0 lake"), "{}", table.err);
    let csv = good(&["sql", "--url", url, "SELECT id, name FROM t ORDER BY id", "--format", "csv"]).await;
    assert_eq!(csv.out, "id,name\n1,a\n2,\n");
    let lines = good(&["sql", "--url", url, "SELECT id FROM t ORDER BY id", "--format", "ndjson"]).await;
    assert_eq!(lines.out, "{\"id\":1}\n{\"id\":2}\n");
    let json = good(&["sql", "--url", url, "SELECT id FROM t ORDER BY id", "--format", "json"]).await;
    assert!(
        json.out.starts_with("{\"columns\":[{\"name\":\"id\",\"type\":\"BIGINT\"}],\"rows\":[[1],[2]]"),
        "{}",
        json.out
    );
    let refused = run(&["sql", "--url", url, "SELECT nothing FROM t"]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("error: ") && refused.err.contains("[invalid_sql]"), "{}", refused.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_an_exit_code_of_its_own() {
    let refused = run(&["sql", "--url", "http://127.0.0.1:1", "SELECT 1"]).await;
    assert_eq!(refused.code, Some(69), "{refused:?}");
    assert!(refused.err.contains("thermocline serve"), "{}", refused.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn load_makes_the_table_and_loads_a_file_once() {
    let server = TestServer::start().await;
    let url = server.url.as_str();
    let directory = TempDir::new().unwrap();
    let csv: String = (0..1000).map(|id| format!("{id},\"word {id}\",0{id}\n")).collect();
    let csv = write(directory.path(), "words.csv", format!("id,word,code\n{csv}"));
    let first = good(&["load", "--url", url, &csv, "public.words"]).await;
    assert!(
        first.out.contains("CREATE TABLE public.words (\n    id BIGINT,\n    word VARCHAR,\n    code VARCHAR\n);"),
        "{first:?}"
    );
    assert!(first.err.contains("1,000 rows into public.words"), "{first:?}");
    let second = good(&["load", "--url", url, &csv, "public.words"]).await;
    assert!(second.err.contains("from an earlier load"), "{second:?}");
    assert_eq!(server.value("SELECT count(*) FROM words").await, 1000);
    let lines =
        write(directory.path(), "more.ndjson", "{\"id\":1000,\"word\":\"x\"}\n{\"id\":\"no\",\"word\":\"y\"}\n");
    let refused = run(&["load", "--url", url, &lines, "words"]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("row 1") && refused.err.contains("id"), "{refused:?}");
    let late = format!("{}{{\"id\":\"x\"}}\n", "{\"id\":1}\n".repeat(200_000));
    let late = write(directory.path(), "late.ndjson", late);
    let refused = run(&["load", "--url", url, &late, "late"]).await;
    assert!(refused.err.contains("DROP TABLE public.late"), "{refused:?}");
    let odd = write(directory.path(), "odd.csv", "First Name,b\n1,2\n");
    let refused = run(&["load", "--url", url, &odd, "odd"]).await;
    assert!(refused.err.contains("\"First Name\"") && refused.err.contains("letters, digits"), "{refused:?}");
    let array = write(directory.path(), "more.json", "[{\"id\":1000,\n\"word\":\"x\"}]");
    good(&["load", "--url", url, &array, "words"]).await;
    assert_eq!(server.value("SELECT count(*) FROM words").await, 1001);
}

#[tokio::test(flavor = "multi_thread")]
async fn load_takes_up_a_long_file_where_it_broke_off() {
    let server = TestServer::start().await;
    let url = server.url.as_str();
    // Eight requests: the first three are no longer remembered when it comes again.
    let flights = concat!(env!("CARGO_MANIFEST_DIR"), "/data/flights.parquet");
    let first = good(&["load", "--url", url, flights, "flights"]).await;
    assert!(first.out.contains("time_hour TIMESTAMPTZ"), "{first:?}");
    assert!(first.err.contains("336,776 rows"), "{first:?}");
    for _ in 0..2 {
        let again = good(&["load", "--url", url, flights, "flights"]).await;
        assert!(again.err.contains("all 336,776 rows of this file are in public.flights already"), "{again:?}");
    }
    assert_eq!(server.value("SELECT count(*) FROM flights").await, 336_776);
    let directory = TempDir::new().unwrap();
    let arrows = directory.path().join("some.arrows");
    let sql = "SELECT origin, dest, distance, time_hour FROM flights WHERE month = 1";
    let out = command().args(["sql", "--url", url, sql, "--format", "arrow"]).output().await.unwrap();
    std::fs::write(&arrows, &out.stdout).unwrap();
    let loaded = good(&["load", "--url", url, arrows.to_str().unwrap(), "january"]).await;
    assert!(loaded.err.contains("27,004 rows"), "{loaded:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_shows_changes() {
    let server = TestServer::with_table().await;
    server.append("{\"id\":1,\"name\":\"a\"}\n{\"id\":2}").await;
    let url = server.url.as_str();
    let all = good(&["tail", "--url", url, "public.t", "--from", "earliest", "--no-follow"]).await;
    let lines: Vec<_> = all.out.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("+A 0:0 ") && lines[0].ends_with("{\"id\":1,\"name\":\"a\"}"), "{}", lines[0]);
    let rows = good(&["tail", "--url", url, "t", "--from", "offsets:0=1", "-n", "1", "--format", "row"]).await;
    assert_eq!(rows.out, "{\"id\":2,\"name\":null}\n");
    let passing =
        ["tail", "--url", url, "t", "--from", "earliest", "--no-follow", "--where", "name = 'a'", "--format", "row"];
    assert_eq!(good(&passing).await.out, "{\"id\":1,\"name\":\"a\"}\n");
    let refused = run(&["tail", "--url", url, "nothing"]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("[table_not_found]"), "{refused:?}");
}

/// `thermocline serve` in a process of its own, which goes when this is dropped.
pub struct Serving {
    child: Child,
    pub url: String,
    pub client: reqwest::Client,
    directory: TempDir,
}

impl Serving {
    pub async fn start(arguments: &[&str], log: &str) -> Serving {
        let directory = TempDir::new().unwrap();
        let mut child = command()
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(directory.path().join("data"))
            .args(arguments)
            .env("RUST_LOG", log)
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next_line().await.unwrap().unwrap();
        let url = first.split_whitespace().last().unwrap().to_owned();
        assert!(url.starts_with("http://127.0.0.1:"), "{first}");
        let ready = lines.next_line().await.unwrap().unwrap();
        assert!(ready.starts_with("ready"), "{ready}");
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Serving { child, url, client, directory }
    }

    /// The text of a request that succeeds.
    pub async fn get(&self, path: &str) -> String {
        let response = self.client.get(format!("{}{path}", self.url)).send().await.unwrap();
        harness::good(response).await.text().await.unwrap()
    }

    pub fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.post(format!("{}{path}", self.url))
    }

    pub async fn sql(&self, statement: &str) -> serde_json::Value {
        let response = self.post("/v1/sql").body(statement.to_owned()).send().await.unwrap();
        harness::good(response).await.json().await.unwrap()
    }

    pub async fn signal(&self, name: &str) {
        let process = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &process]).status().await.unwrap().success());
    }

    /// Waits for its end; its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(Duration::from_secs(60), self.child.wait());
        ended.await.expect("it stops").unwrap().code()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_prints_its_address_and_stops_cleanly() {
    let mut server = Serving::start(&[], "info").await;
    good(&["sql", "--url", &server.url, "CREATE TABLE t (a INTEGER)"]).await;
    server.signal("TERM").await;
    assert_eq!(server.ended().await, Some(0));
    assert!(server.log().contains("stopped"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_runs_and_loads_its_data_once() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("demo");
    let arguments =
        ["demo", "--fast", "--exit-when-done", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()];
    let first = good(&arguments).await;
    for part in [
        "CREATE TABLE public.flights",
        "336,776 flights arrive",
        "the subscription saw 336,776 changes",
        "live   change 1: +A",
        "round  Iceberg snapshot",
        "hot + ",
        "Who flies most, and how late do they leave?",
        "58665",
        "iceberg_scan('",
        "StaticTable.from_metadata('",
        "spark.sql.catalog.lake.type=hadoop",
    ] {
        assert!(first.out.contains(part), "{part:?} is not in\n{}", first.out);
    }
    let second = good(&arguments).await;
    assert!(second.out.contains("nothing is loaded again"), "{}", second.out);
    assert!(second.out.contains("58665"), "{}", second.out);
}
