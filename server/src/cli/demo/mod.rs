//! `thermocline demo`: a server, a year of flights streamed into it, and what can be done with them meanwhile.
//!
//! Everything after the start of the server goes over HTTP, as any client would. `flights` is the data, `feed` sends
//! it, `watch` subscribes to it, `questions` asks, `readers` says how others read the lake. A demo that was broken off
//! goes on where it was; one that is complete is shown again without loading anything.

mod feed;
mod flights;
mod questions;
mod readers;
mod screen;
mod watch;

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use thermocline_schemas::TableName;

use self::screen::Screen;
use super::client::{Client, table_path};
use super::output::{self, grouped};
use super::serve::{LogFormat, journal_failed, log_to_stderr, until_stopped};
use super::signals::Signals;
use super::{Connection, Outcome};
use crate::serve::{ServeOptions, Server};

const ABOUT_MORE: &str = "\
Starts a server, makes the table public.flights, and streams 336,776 flights into it over some fifteen seconds: a
progress bar, queries while rows arrive and what they read from which tier, a live subscription, rounds into Iceberg.
Then it asks the data some questions, shows how DuckDB, PyIceberg and Spark read the same table, and serves on until
Ctrl-C.

Run it again, and the data is there: nothing is loaded twice.";

#[derive(Debug, Args)]
#[command(long_about = ABOUT_MORE)]
pub struct DemoArguments {
    /// Where the data goes; delete it to begin anew
    #[arg(long, default_value = "thermocline-demo", value_name = "DIRECTORY")]
    data_dir: PathBuf,
    /// Where the server listens; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: String,
    /// As fast as it goes, instead of at a pace to watch
    #[arg(long)]
    fast: bool,
    /// Stop at the end, instead of serving on
    #[arg(long)]
    exit_when_done: bool,
}

pub async fn run(arguments: DemoArguments) -> Outcome {
    log_to_stderr(LogFormat::Text, "warn");
    let mut signals = Signals::listen()?;
    let server = Server::start(ServeOptions::new(&arguments.data_dir, &arguments.listen)).await?;
    let url = format!("http://{}", server.address());
    let shown = tokio::select! {
        shown = show(&server, &url, &arguments) => shown,
        () = signals.stop() => {
            output::line("\nbroken off; the next demo goes on from here");
            return stop(server, signals).await;
        }
        reason = server.failed() => Err(journal_failed(&reason)),
    };
    if let Err(failure) = shown {
        if failure.exit != super::EXIT_JOURNAL {
            // What went wrong is told; how the server ends adds nothing to it.
            let _ = server.stop().await;
        }
        return Err(failure);
    }
    if arguments.exit_when_done {
        return stop(server, signals).await;
    }
    output::line(format_args!("\nServing on {url} until Ctrl-C. In another terminal:"));
    // As it was called: in a fresh clone the binary is on no search path.
    let program = std::env::args().next().unwrap_or_else(|| "thermocline".to_owned());
    let flag = if url == "http://127.0.0.1:8080" { String::new() } else { format!(" --url {url}") };
    output::line(format_args!(
        "  {program} sql{flag} \"SELECT dest, count(*) FROM flights GROUP BY dest ORDER BY 2 DESC LIMIT 5\""
    ));
    output::line(format_args!("  {program} tail{flag} public.flights --from earliest -n 5"));
    output::line(format_args!("  curl -d 'SELECT count(*) FROM flights' {url}/v1/sql"));
    until_stopped(server, signals).await
}

async fn stop(server: Server, signals: Signals) -> Outcome {
    signals.force_on_second();
    Ok(server.stop().await?)
}

async fn show(server: &Server, url: &str, arguments: &DemoArguments) -> Outcome {
    server.ready().await?;
    let client = Client::new(&Connection { url: url.to_owned(), token: None })?;
    let table = TableName::parse("public", "flights")?;
    output::line(format_args!("Thermocline serves on {url}, with data and lake in {}", arguments.data_dir.display()));
    let rows = feed::rows_in(&client, &table).await?;
    let total = flights::ROWS;
    if rows >= total {
        heading("The flights are there from an earlier run");
        output::line(format_args!("{} in {table}; nothing is loaded again", output::rows(rows)));
    } else {
        if rows == 0 {
            heading("A table");
        } else {
            heading("A table, and rows of an earlier run that was broken off");
            output::line(format_args!("{} are there; the others follow", output::rows(rows)));
        }
        output::line(feed::create(&client).await?);
        heading(&format!("{} flights arrive, and sink into the lake", grouped(total - rows)));
        let screen = Screen::new(total, rows);
        let watcher = watch::start(&client, &table, &screen);
        let fed = feed::feed(&client, &table, rows, arguments.fast, &screen, &watcher).await;
        screen.finish();
        fed?;
        let seen = watcher.finish(total - rows).await;
        output::line(format_args!("All {} are in; the subscription saw {} changes", grouped(total), grouped(seen)));
    }
    heading("Questions, answered from both tiers");
    questions::ask_all(&client).await?;
    heading("The lake is an Iceberg table that others read");
    let round = client.json(client.post(&table_path(&table, "/tier"))).await?;
    output::line(format_args!(
        "A last round took {} into the lake in {:.2} s",
        output::rows(round["rows"].as_u64().unwrap_or(0)),
        round["seconds"].as_f64().unwrap_or(0.0)
    ));
    let described = client.json(client.get(&table_path(&table, ""))).await?;
    readers::show(&described)
}

fn heading(text: &str) {
    output::line(format_args!("\n── {text} {}", "─".repeat(96_usize.saturating_sub(text.chars().count()))));
}

/// A number in a description or an answer.
fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}
