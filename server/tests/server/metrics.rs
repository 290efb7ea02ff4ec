//! What `/metrics` and the log say of a server that has done something known. In processes of their own: numbers are one
//! process's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::command_line::Serving;
use crate::harness::{NDJSON, good, lines, problem};

/// What was scraped, after it was found to be well formed.
#[derive(Debug, Default)]
struct Scraped {
    /// Type and meaning by name.
    families: BTreeMap<String, (String, String)>,
    /// Values by name and labels, as they are spelled.
    samples: BTreeMap<String, f64>,
}

impl Scraped {
    /// The Prometheus text format, version 0.0.4, as strictly as a scraper could be.
    fn parse(text: &str) -> Scraped {
        let mut scraped = Scraped::default();
        let (mut family, mut meaning) = (String::new(), String::new());
        assert!(text.ends_with('\n'), "the last line has no end");
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, told) = help.split_once(' ').expect("a meaning");
                (family, meaning) = (name.to_owned(), told.to_owned());
                continue;
            }
            if let Some(told) = line.strip_prefix("# TYPE ") {
                let (name, kind) = told.split_once(' ').expect("a type");
                assert_eq!(name, family, "TYPE without its HELP");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                let told = (kind.to_owned(), meaning.clone());
                assert!(scraped.families.insert(name.to_owned(), told).is_none(), "{name} is there twice");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            let name = series.split('{').next().unwrap();
            let is_histogram = scraped.families.get(&family).is_some_and(|(kind, _)| kind == "histogram");
            let of_family = match is_histogram {
                true => ["_bucket", "_sum", "_count"].iter().any(|part| name == format!("{family}{part}")),
                false => name == family,
            };
            assert!(of_family, "{line} is not among its family {family}");
            check_labels(&series[name.len()..]);
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(scraped.samples.insert(series.to_owned(), value).is_none(), "{series} is there twice");
        }
        scraped.check_histograms();
        scraped
    }

    /// Buckets grow, and the last is the count.
    fn check_histograms(&self) {
        let mut all = BTreeMap::<String, Vec<(f64, f64)>>::new();
        for (series, count) in &self.samples {
            let name = series.split('{').next().unwrap();
            if name.ends_with("_bucket")
                && let Some((series, bound)) = series.rsplit_once("le=\"")
            {
                let (bound, _) = bound.split_once('"').unwrap();
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
                all.entry(series.trim_end_matches(['{', ',']).to_owned()).or_default().push((bound, *count));
            }
        }
        for (series, mut buckets) in all {
            buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
            assert!(buckets.is_sorted_by_key(|(_, count)| *count), "{series}: {buckets:?}");
            let (bound, last) = *buckets.last().unwrap();
            let closed = if series.contains('{') { "}" } else { "" };
            let count = format!("{}{closed}", series.replace("_bucket", "_count"));
            assert_eq!((bound, Some(&last)), (f64::INFINITY, self.samples.get(&count)), "{series}");
        }
    }

    #[track_caller]
    fn check(&self, expected: &[(&str, f64)]) {
        for (series, value) in expected {
            let got = self.samples.get(*series);
            let near: Vec<_> = self.samples.keys().filter(|known| known.starts_with(&series[..16])).collect();
            assert_eq!(got, Some(value), "{series} of {near:#?}");
        }
    }

    fn positive(&self, series: &str) {
        assert!(self.samples.get(series).is_some_and(|value| *value > 0.0), "{series}: {:?}", self.samples.get(series));
    }
}

/// `{name="value",…}` or nothing.
fn check_labels(labels: &str) {
    if labels.is_empty() {
        return;
    }
    let mut rest = labels.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).expect("labels in braces");
    let mut names = BTreeSet::new();
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{labels}"));
        assert!(name.chars().all(|character| character.is_ascii_lowercase() || character == '_'), "{labels}");
        assert!(names.insert(name), "{labels}");
        let mut escaped = false;
        let end = after.find(|character: char| {
            let ends = character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
            ends
        });
        let end = end.unwrap_or_else(|| panic!("{labels}"));
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

async fn scrape(server: &Serving) -> Scraped {
    Scraped::parse(&server.get("/metrics").await)
}

/// Scrapes until it is so.
async fn scrape_until(server: &Serving, is_so: impl Fn(&Scraped) -> bool) -> Scraped {
    for _ in 0..1_200 {
        let scraped = scrape(server).await;
        if is_so(&scraped) {
            return scraped;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it never was so: {:#?}", scrape(server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_workload_gives_known_numbers() {
    let server = Serving::start(&[], "info").await;
    let rows = |body: String| server.post("/v1/tables/public/t/rows").header("content-type", NDJSON).body(body);
    // Rounds only when asked for.
    server.sql("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR) WITH (lake_freshness = '1h')").await;
    server.sql("CREATE TABLE hot (id BIGINT PRIMARY KEY) WITH (lake_enabled = false)").await;
    good(rows(lines(0..3)).send().await.unwrap()).await;
    for _ in 0..2 {
        let numbered = rows(lines(3..5)).header("thermocline-writer", "w").header("thermocline-sequence", "0");
        good(numbered.send().await.unwrap()).await;
    }
    problem(rows("{\"id\":\"x\"}".into()).send().await.unwrap(), 422, "invalid_row").await;
    let round = server.post("/v1/tables/public/t/tier").send().await.unwrap();
    good(round).await;
    good(rows(lines(5..6)).send().await.unwrap()).await;
    server.sql("SELECT * FROM t").await;
    problem(server.post("/v1/sql").body("SELECT * FROM nothing").send().await.unwrap(), 404, "table_not_found").await;
    let slow = "SELECT sum(sin(value) + cos(value) + sqrt(value) + ln(value)) FROM generate_series(1, 10000000)";
    let timed = server.post("/v1/sql?timeout=200ms").body(slow).send().await.unwrap();
    problem(timed, 504, "query_timeout").await;
    let given_up = server.post("/v1/sql").body(slow).timeout(Duration::from_millis(300)).send().await;
    assert!(given_up.is_err());
    let follow = server.client.get(format!("{}/v1/tables/public/t/changes?from=offsets:0=2", server.url));
    let mut follow = good(follow.header("accept", NDJSON).send().await.unwrap()).await;
    let mut seen = String::new();
    while !seen.contains("\"offset\":5") {
        seen.push_str(std::str::from_utf8(&follow.chunk().await.unwrap().unwrap()).unwrap());
    }
    let scraped = scrape_until(&server, |scraped| {
        // What was given up is let go of soon, not at once.
        scraped.samples.get("thermocline_queries_total{outcome=\"cancelled\"}") == Some(&1.0)
            && scraped.samples["thermocline_memory_bytes{owner=\"queries\"}"] == 0.0
    })
    .await;
    scraped.check(&[
        ("thermocline_appended_rows_total{table=\"public.t\"}", 6.0),
        ("thermocline_appended_requests_total{table=\"public.t\"}", 3.0),
        ("thermocline_table_requests_total{table=\"public.t\",operation=\"writeRows\",status=\"200\"}", 4.0),
        ("thermocline_table_requests_total{table=\"public.t\",operation=\"writeRows\",status=\"422\"}", 1.0),
        ("thermocline_table_requests_total{table=\"public.t\",operation=\"tier\",status=\"200\"}", 1.0),
        ("thermocline_tiered_rows_total{table=\"public.t\"}", 5.0),
        ("thermocline_round_seconds_count{table=\"public.t\"}", 1.0),
        ("thermocline_lake_lag_rows{table=\"public.t\"}", 1.0),
        ("thermocline_hot_rows{table=\"public.t\"}", 6.0),
        ("thermocline_hot_rows{table=\"public.hot\"}", 0.0),
        ("thermocline_lake_lag_rows{table=\"public.hot\"}", 0.0),
        ("thermocline_refused_buckets{table=\"public.t\"}", 0.0),
        ("thermocline_segment_bytes{table=\"public.t\"}", 0.0),
        ("thermocline_followers{table=\"public.t\"}", 1.0),
        ("thermocline_followers{table=\"public.hot\"}", 0.0),
        ("thermocline_follower_behind_rows{table=\"public.t\"}", 0.0),
        ("thermocline_followed_rows_total", 4.0),
        ("thermocline_queries_running", 0.0),
        ("thermocline_queries_total{outcome=\"finished\"}", 3.0),
        ("thermocline_queries_total{outcome=\"refused\"}", 1.0),
        ("thermocline_queries_total{outcome=\"timed_out\"}", 1.0),
        ("thermocline_query_seconds_count", 6.0),
        ("thermocline_http_requests_total{route=\"/v1/sql\",method=\"POST\",status=\"404\"}", 1.0),
        ("thermocline_lake_commit_conflicts_total", 0.0),
        ("thermocline_memory_bytes{owner=\"bodies\"}", 0.0),
        // Two tables, three requests with rows, each by itself.
        ("thermocline_journal_group_requests_sum", 5.0),
        ("thermocline_journal_group_requests_count", 5.0),
    ]);
    for series in [
        "thermocline_appended_bytes_total{table=\"public.t\"}",
        "thermocline_journal_sync_seconds_count",
        "thermocline_journal_group_bytes_sum",
        "thermocline_journal_bytes",
        "thermocline_disk_free_bytes",
        "thermocline_memory_bytes{owner=\"tails\"}",
        "thermocline_lake_lag_seconds{table=\"public.t\"}",
        "thermocline_http_connections",
    ] {
        scraped.positive(series);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let newest = scraped.samples["thermocline_newest_row_timestamp_seconds{table=\"public.t\"}"];
    assert!((now - 60.0..=now).contains(&newest), "{newest} is not within the minute before {now}");

    // A subscriber that has gone and a table that was dropped leave nothing; another of its name begins anew.
    drop(follow);
    let gone = |scraped: &Scraped| scraped.samples["thermocline_followers{table=\"public.t\"}"] == 0.0;
    scrape_until(&server, gone).await;
    server.sql("DROP TABLE t").await;
    let scraped = scrape(&server).await;
    let left: Vec<_> = scraped.samples.keys().filter(|series| series.contains("table=\"public.t\"")).collect();
    assert!(left.is_empty(), "{left:?}");
    problem(rows(lines(0..1)).send().await.unwrap(), 404, "table_not_found").await;
    server.sql("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR)").await;
    good(rows(lines(0..2)).send().await.unwrap()).await;
    scrape(&server).await.check(&[("thermocline_appended_rows_total{table=\"public.t\"}", 2.0)]);
}

/// How far behind a subscriber is that does not read.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_does_not_read_falls_behind() {
    let server = Serving::start(&[], "info").await;
    server.sql("CREATE TABLE t (id BIGINT NOT NULL, name VARCHAR)").await;
    let follow = server.client.get(format!("{}/v1/tables/public/t/changes?from=earliest", server.url));
    let follow = good(follow.header("accept", NDJSON).send().await.unwrap()).await;
    let name = "x".repeat(1000);
    for first in [0, 10_000, 20_000] {
        let body: String = (first..first + 10_000).map(|id| format!("{{\"id\":{id},\"name\":\"{name}\"}}\n")).collect();
        let request = server.post("/v1/tables/public/t/rows").header("content-type", NDJSON).body(body);
        good(request.send().await.unwrap()).await;
    }
    let behind = |scraped: &Scraped| scraped.samples["thermocline_follower_behind_rows{table=\"public.t\"}"];
    let scraped = scrape_until(&server, |scraped| behind(scraped) > 5_000.0).await;
    assert!(behind(&scraped) <= 30_000.0);
    drop(follow);
    scrape_until(&server, |scraped| behind(scraped) == 0.0).await;
}

/// README lists what is served, with its type, its labels' names and its meaning.
#[tokio::test(flavor = "multi_thread")]
async fn readme_lists_what_is_served() {
    let server = Serving::start(&[], "info").await;
    let scraped = scrape(&server).await;
    let readme = include_str!("../../../README.md");
    let rows = readme.lines().filter(|line| line.starts_with("| `thermocline_"));
    let told: Vec<_> = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>()).collect();
    let told: BTreeMap<_, _> = told.iter().map(|row| (row[1].trim_matches('`'), (row[2], row[3], row[4]))).collect();
    let mut served = BTreeMap::new();
    for (name, (kind, meaning)) in &scraped.families {
        assert!(name.starts_with("thermocline_"), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        served.insert(name.as_str(), (kind.as_str(), meaning.as_str()));
    }
    for (name, (kind, meaning)) in &served {
        let row =
            told.get(name).unwrap_or_else(|| panic!("README does not have | `{name}` | {kind} | … | {meaning} |"));
        assert_eq!((row.0, row.2), (*kind, *meaning), "{name}");
    }
    let more: Vec<_> = told.keys().filter(|name| !served.contains_key(*name)).collect();
    assert!(more.is_empty(), "README lists what is not served: {more:?}");
    for (series, _) in scraped.samples {
        let name = series.split('{').next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| told.get(name.strip_suffix(part)?));
        let row = told.get(name).or(family).unwrap();
        let labels = series.split_once('{').map_or("", |(_, labels)| labels);
        for label in labels.split("\",").filter_map(|pair| Some(pair.split_once("=\"")?.0)).filter(|name| *name != "le")
        {
            assert!(row.1.split(", ").any(|told| told.trim_matches('`') == label), "{series}: README says {}", row.1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_json_and_names_each_request() {
    let mut server =
        Serving::start(&["--log-format", "json"], "info,thermocline::access=debug,thermocline_server=debug").await;
    let response = server.post("/v1/sql").header("x-request-id", "job-7").body("SELECT 1").send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "job-7");
    let body = response.bytes().await.unwrap();
    let request = server.post("/v1/sql").header("x-request-id", "not \"plain\"").body("SELEC 1");
    let refused = request.send().await.unwrap();
    let id = refused.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert!(!id.contains('"') && id.len() == 36, "{id}");
    problem(refused, 400, "invalid_sql").await;
    let long = server.post("/v1/sql").header("x-request-id", "x".repeat(129)).body("SELECT 1").send().await.unwrap();
    assert_eq!(long.headers()["x-request-id"].len(), 36);
    server.signal("TERM").await;
    assert_eq!(server.ended().await, Some(0));
    let log = server.log();
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let find = |id: &str, message: &str| {
        let mut found = entries
            .iter()
            .filter(|entry| (entry["id"] == id || entry["span"]["id"] == id) && entry["message"] == message);
        found.next().unwrap_or_else(|| panic!("no {message:?} of {id} in\n{log}"))
    };
    let answered = find("job-7", "answered");
    assert_eq!(answered["target"], "thermocline::access");
    assert_eq!((&answered["method"], &answered["path"]), (&"POST".into(), &"/v1/sql".into()));
    assert_eq!((&answered["status"], &answered["bytes"]), (&200.into(), &body.len().into()));
    assert!(answered["elapsed_ms"].as_f64().is_some_and(|elapsed| elapsed > 0.0));
    assert_eq!(answered["whole"], true);
    assert_eq!(find(&id, "answered")["status"], 400);
    assert_eq!(find(&id, "a request was refused")["code"], "invalid_sql");
    assert!(entries.iter().any(|entry| entry["message"] == "stopped"), "{log}");
}
