//! `thermocline backup` and `restore`, and `POST /v1/backup`, against a server that writers do not wait for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use thermocline_server::serve::ServeOptions;

use crate::command_line::{Run, run};
use crate::harness::{NDJSON, TestServer, good, problem};

async fn done(arguments: &[&str]) -> Run {
    let run = run(arguments).await;
    assert_eq!(run.code, Some(0), "{arguments:?}: {run:?}");
    run
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn with_backups(directory: &Arc<TempDir>) -> impl FnOnce(&mut ServeOptions) + use<> {
    let backups = directory.path().join("backups");
    move |options: &mut ServeOptions| options.backup_dir = Some(backups)
}

/// The lines of `from=earliest&follow=false`, tokens and all.
async fn changes(server: &TestServer, table: &str, from: &str) -> String {
    let path = format!("/v1/tables/public/{table}/changes?follow=false&from={from}");
    let response = good(server.get(&path).header("accept", NDJSON).send().await.unwrap()).await;
    response.text().await.unwrap()
}

async fn rows(server: &TestServer, statement: &str) -> Value {
    server.sql(statement).await["rows"].clone()
}

async fn write(server: &TestServer, sequence: u64, lines: String) -> Value {
    let request = server.post("/v1/tables/public/w/rows").header("content-type", NDJSON);
    let request = request.header("thermocline-writer", "me").header("thermocline-sequence", sequence);
    good(request.body(lines).send().await.unwrap()).await.json().await.unwrap()
}

fn line(n: u64) -> String {
    format!("{{\"n\":{n}}}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_is_copied_restored_elsewhere_and_goes_on() {
    let directory = Arc::new(TempDir::new().unwrap());
    let backups = with_backups(&directory);
    let server = Arc::new(
        TestServer::start_in(directory.clone(), |options| {
            backups(options);
            options.tiering.scheduler = true;
        })
        .await,
    );
    server.sql("CREATE TABLE w (n BIGINT NOT NULL) WITH (lake_freshness = '200ms', hot_retention = '0s')").await;
    server
        .sql("CREATE TABLE k (id BIGINT PRIMARY KEY, tags VARCHAR[]) WITH (lake_freshness = '200ms', buckets = 2)")
        .await;
    server.sql("CREATE TABLE p (id BIGINT, part VARCHAR, PRIMARY KEY (part, id)) WITH (format_version = 2) PARTITION BY (part)").await;
    for round in 0..3 {
        server
            .sql(&format!(
                "INSERT INTO k SELECT value, ['{round}'] FROM generate_series({round}, {}) AS s(value)",
                round + 20
            ))
            .await;
        server.sql(&format!("DELETE FROM k WHERE id = {}", round * 5 + 3)).await;
        server
            .sql(&format!(
                "INSERT INTO p SELECT value, 'a/b ' || value % 2 FROM generate_series({round}, {}) AS s(value)",
                round + 9
            ))
            .await;
        server.sql(&format!("DELETE FROM p WHERE id = {}", round * 2 + 1)).await;
        server.tier("k").await;
        server.tier("p").await;
    }
    server.sql("INSERT INTO k VALUES (100, ['hot'])").await;
    let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = tokio::spawn({
        let (server, stop, acked) = (server.clone(), stop.clone(), acked.clone());
        async move {
            for n in 0.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                write(&server, n, line(n)).await;
                acked.store(n + 1, Ordering::SeqCst);
            }
        }
    });
    let mut before = 0;
    for name in ["one", "two"] {
        tokio::time::sleep(Duration::from_millis(700)).await;
        before = acked.load(Ordering::SeqCst);
        let made = done(&["backup", name, "--url", &server.url]).await;
        assert!(made.out.contains("public.k") && made.out.contains(&format!("backups/{name}")), "{made:?}");
    }
    stop.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    let refused = run(&["backup", "one", "--url", &server.url]).await;
    assert!(refused.code == Some(1) && refused.err.contains("there is something in"), "{refused:?}");

    let (backup, data, lakes) =
        (directory.path().join("backups/two"), directory.path().join("again"), directory.path().join("lakes"));
    let restored = done(&["restore", text(&backup), "--data-dir", text(&data), "--warehouse", text(&lakes)]).await;
    assert!(restored.out.contains("public.p"), "{restored:?}");
    let sound = done(&["check", text(&data), "--warehouse", text(&lakes)]).await;
    assert!(sound.out.contains("sound"), "{sound:?}");
    let over = run(&["restore", text(&backup), "--data-dir", text(&data), "--warehouse", text(&lakes)]).await;
    assert!(over.code == Some(1) && over.err.contains("there is something in"), "{over:?}");

    let again = {
        let (data, lakes) = (data.clone(), text(&lakes).to_owned());
        TestServer::start_in(directory.clone(), move |options| {
            options.data_dir = data;
            options.warehouse = Some(lakes);
        })
        .await
    };
    for statement in [
        "SELECT * FROM k ORDER BY id",
        "SELECT * FROM \"k$lake\" ORDER BY id",
        "SELECT * FROM p ORDER BY part, id",
        "SELECT * FROM \"p$lake\" ORDER BY part, id",
        "SELECT * FROM \"k$changes\" ORDER BY __bucket, __offset",
        "SELECT snapshot_id, offsets FROM \"k$snapshots\" ORDER BY sequence_number",
    ] {
        assert_eq!(rows(&again, statement).await, rows(&server, statement).await, "{statement}");
    }
    for row in rows(&server, "SELECT snapshot_id FROM \"k$snapshots\"").await.as_array().unwrap() {
        let statement = format!("SELECT * FROM k FOR VERSION AS OF {} ORDER BY id", row[0]);
        assert_eq!(rows(&again, &statement).await, rows(&server, &statement).await, "{statement}");
    }
    for table in ["k", "p"] {
        // Tokens are in it.
        assert_eq!(changes(&again, table, "earliest").await, changes(&server, table, "earliest").await);
    }
    let keys = json!({"keys": [{"id": 13}, {"id": 4}, {"id": 22}, {"id": 100}]});
    let mut found = Vec::new();
    for server in [&*server, &again] {
        let asked = server.post("/v1/tables/public/k/lookup").json(&keys).send().await.unwrap();
        found.push(good(asked).await.json::<Value>().await.unwrap());
    }
    assert_eq!(found[0], found[1]);
    assert!(found[0]["rows"][0].is_null() && found[0]["rows"][3]["tags"][0] == "hot", "{}", found[0]);

    // What was acked before the request is there, and what is there is a beginning of what was written.
    let count = again.value("SELECT count(*) FROM w").await.as_u64().unwrap();
    assert!(count >= before && before > 20, "{count} of {before}");
    assert_eq!(rows(&again, "SELECT min(n), max(n), count(DISTINCT n) FROM w").await, json!([[0, count - 1, count]]));
    // The writer goes on where the copy ends, and is known.
    let repeated = write(&again, count - 1, line(count - 1)).await;
    assert_eq!(repeated["duplicate"], true, "{repeated}");
    assert_eq!(write(&again, count, line(count)).await["duplicate"], false);
    let earlier = changes(&server, "w", "earliest").await;
    let token = earlier.lines().nth(20).unwrap();
    let token: Value = serde_json::from_str(token).unwrap();
    if let Some(token) = token["token"].as_str() {
        let rest = changes(&again, "w", &format!("token:{token}")).await;
        assert!(rest.lines().count() > 10);
    }
    for table in ["w", "k", "p"] {
        again.tier(table).await;
    }
    assert_eq!(rows(&again, "SELECT count(*) FROM \"w$lake\"").await, json!([[count + 1]]));
    again.stop().await;
    done(&["check", text(&data), "--warehouse", text(&lakes)]).await;
    // The first server was not disturbed.
    let server = Arc::into_inner(server).unwrap();
    server.tier("w").await;
    server.stop().await;
    done(&["check", text(&directory.path().join("data"))]).await;

    // And stopped, it is copied by the same command.
    let (stopped, third) = (directory.path().join("stopped"), directory.path().join("third"));
    done(&["backup", text(&stopped), "--data-dir", text(&directory.path().join("data"))]).await;
    done(&["restore", text(&stopped), "--data-dir", text(&third)]).await;
    done(&["check", text(&third)]).await;
}

/// Every file below a directory.
fn files(directory: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), path.metadata().unwrap().len())),
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_where_the_server_was_not_told() {
    let server = TestServer::with_table().await;
    let refused = problem(server.post("/v1/backup?name=x").send().await.unwrap(), 403, "forbidden").await;
    assert!(refused["hint"].as_str().unwrap().contains("--backup-dir"), "{refused}");
    let line = run(&["backup", "x", "--url", &server.url]).await;
    assert!(line.code == Some(1) && line.err.contains("--backup-dir"), "{line:?}");

    let directory = Arc::new(TempDir::new().unwrap());
    let backups = with_backups(&directory);
    let server = TestServer::start_in(directory.clone(), backups).await;
    let outside = directory.path().join("outside");
    for name in ["", "..", ".", "../outside", "a/b", text(&outside), "a%00b", "a b", &"x".repeat(129), ".hidden", "ä"]
    {
        let asked = server.post("/v1/backup").query(&[("name", name)]).send().await.unwrap();
        problem(asked, 400, "invalid_request").await;
    }
    assert!(!outside.exists() && files(&directory.path().join("backups")).is_empty());
    // A page in a browser may not ask for it.
    let page = server.post("/v1/backup").header("origin", "https://example.com").send().await.unwrap();
    problem(page, 403, "forbidden").await;
    // By default it is called by the time.
    let made = good(server.post("/v1/backup").send().await.unwrap()).await.text().await.unwrap();
    let last: Value = serde_json::from_str(made.lines().last().unwrap()).unwrap();
    assert!(last["backup"]["directory"].as_str().unwrap().contains("backups/20"), "{made}");
    assert!(files(&directory.path().join("backups")).len() >= 3);
}

/// What is refused or broken off leaves nothing that could be taken for a backup, and the next one is made.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_no_backup() {
    let directory = Arc::new(TempDir::new().unwrap());
    let backups = with_backups(&directory);
    let server = TestServer::start_in(directory.clone(), backups).await;
    server.sql("CREATE TABLE t (id BIGINT, word VARCHAR)").await;
    for _ in 0..4 {
        server.sql("INSERT INTO t SELECT value, repeat('word', 100) FROM generate_series(1, 20000) AS s(value)").await;
    }
    for wait_ms in [0, 5, 20, 60] {
        let asked = server.post(&format!("/v1/backup?name=broken-{wait_ms}"));
        let _ = tokio::time::timeout(Duration::from_millis(wait_ms), async move {
            asked.send().await.unwrap().text().await.unwrap();
        })
        .await;
    }
    // Not before the last of them has been given up.
    let made = loop {
        let asked = server.post("/v1/backup?name=whole").send().await.unwrap();
        if asked.status() != 429 {
            break good(asked).await.text().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(made.lines().last().unwrap().starts_with("{\"backup\""), "{made}");
    let all = files(&directory.path().join("backups"));
    for name in ["broken-0", "broken-5", "broken-20", "broken-60"] {
        let own: Vec<_> = all.keys().filter(|path| path.to_str().unwrap().contains(name)).collect();
        let is_whole = own.iter().any(|path| path.ends_with(format!("{name}/backup")));
        assert!(own.is_empty() || is_whole, "{name}: {own:?}");
    }
    assert!(files(&directory.path().join("data/backing-up")).is_empty());
    let data = directory.path().join("again");
    done(&["restore", text(&directory.path().join("backups/whole")), "--data-dir", text(&data)]).await;
    done(&["check", text(&data)]).await;
}
