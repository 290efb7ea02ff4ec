//! `thermocline serve`.

use std::io::IsTerminal;
use std::path::PathBuf;

use axum::http::{HeaderValue, Uri};
use clap::{Args, ValueEnum};
use thermocline_engine::Durability;
use tracing_subscriber::EnvFilter;

use super::signals::Signals;
use super::{EXIT_JOURNAL, Failure, Outcome, output};
use crate::serve::{ServeOptions, Server};

const EXAMPLES: &str = "\
Examples:
  thermocline serve
  thermocline serve --data-dir /srv/thermocline --warehouse s3://bucket/lake
  thermocline serve --listen 0.0.0.0:8080 --token \"$(openssl rand -hex 32)\"

An S3 warehouse takes AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL and AWS_ALLOW_HTTP from the
environment. RUST_LOG says how much is logged, as RUST_LOG=info,thermocline_tiering=debug; with thermocline::access=debug
each request is.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArguments {
    /// Where to listen; port 0 takes any free one, which is printed
    #[arg(long, env = "THERMOCLINE_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: String,
    /// Hot rows and the journal live here; one server locks it
    #[arg(long, env = "THERMOCLINE_DATA_DIR", default_value = "thermocline-data", value_name = "DIRECTORY")]
    data_dir: PathBuf,
    /// Where the Iceberg tables live: a directory, file:///… or s3://bucket/prefix [default: <data-dir>/warehouse]
    #[arg(long, env = "THERMOCLINE_WAREHOUSE", value_name = "PLACE")]
    warehouse: Option<String>,
    /// What clients must send as `Authorization: Bearer <TOKEN>`; needed to listen beyond this machine
    #[arg(long, env = "THERMOCLINE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// An origin whose web pages may ask, as https://app.example.com; to be given again for each
    #[arg(long, env = "THERMOCLINE_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    allow_origin: Vec<Option<HeaderValue>>,
    /// Where backups may be made, each a directory of its own; without it none are made while the server runs
    #[arg(long, env = "THERMOCLINE_BACKUP_DIR", value_name = "DIRECTORY")]
    backup_dir: Option<PathBuf>,
    /// When rows are acked: once the disk has them, or once the operating system has (a power cut may then take some)
    #[arg(long, value_enum, default_value_t = DurabilityChoice::Fsync)]
    durability: DurabilityChoice,
    /// Memory for rows that are not in a segment yet, in MiB: more lets bursts through, less fits small machines
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(16..), value_name = "MIB")]
    hot_memory: u64,
    /// Memory for primary keys, in MiB: 30 to 50 bytes a key; upserts are refused when it is full
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..), value_name = "MIB")]
    key_memory: u64,
    /// Memory for request bodies, in MiB: one request may have 64
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(64..), value_name = "MIB")]
    body_memory: u64,
    /// Memory for queries, in MiB: what sorts and joins need beyond it goes to disk
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(64..), value_name = "MIB")]
    query_memory: u64,
    /// Queries at one time; more wait
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=10_000), value_name = "COUNT")]
    queries: u64,
    /// A tail of so many bytes becomes a segment; for tests that want many small ones
    #[arg(long, hide = true, value_name = "BYTES")]
    segment_bytes: Option<u64>,
    /// A journal file ends past so many bytes; for tests
    #[arg(long, hide = true, value_name = "BYTES")]
    journal_file_bytes: Option<u64>,
    /// What the journal should not grow past; for tests
    #[arg(long, hide = true, value_name = "BYTES")]
    journal_bytes: Option<u64>,
    /// How the log on standard error looks
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DurabilityChoice {
    Fsync,
    Os,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// An origin as browsers send it, which is compared byte by byte; none of an empty text.
fn origin(text: &str) -> Result<Option<HeaderValue>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let spelled = |uri: &Uri| {
        let scheme = uri.scheme_str()?;
        // Browsers leave a scheme's own port out.
        let own = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        (uri.port_u16() != Some(own)).then_some(format!("{scheme}://{}", uri.authority()?))
    };
    match text.parse::<Uri>().ok().as_ref().and_then(spelled) {
        Some(spelled) if spelled == text && text == text.to_lowercase() && !text.contains('@') => {
            text.parse().map(Some).map_err(|_| "an origin is plain ASCII".to_owned())
        }
        _ => Err("an origin is a scheme, a host, and a port if it is not the scheme's own, in small letters: \
                  https://app.example.com"
            .to_owned()),
    }
}

pub async fn run(arguments: ServeArguments) -> Outcome {
    log_to_stderr(arguments.log_format, "info");
    let mut options = ServeOptions::new(&arguments.data_dir, &arguments.listen);
    options.warehouse = arguments.warehouse.filter(|warehouse| !warehouse.is_empty());
    options.token = arguments.token;
    options.origins = arguments.allow_origin.into_iter().flatten().collect();
    options.backup_dir = arguments.backup_dir;
    options.engine.memory_bytes_max = arguments.hot_memory << 20;
    options.engine.key_bytes_max = arguments.key_memory << 20;
    let engine = &mut options.engine;
    engine.segment_bytes = arguments.segment_bytes.unwrap_or(engine.segment_bytes);
    engine.journal_file_bytes = arguments.journal_file_bytes.unwrap_or(engine.journal_file_bytes);
    engine.journal_bytes_max = arguments.journal_bytes.unwrap_or(engine.journal_bytes_max);
    options.engine.durability = match arguments.durability {
        DurabilityChoice::Fsync => Durability::Fsync,
        DurabilityChoice::Os => Durability::Os,
    };
    options.limits.body_bytes_max = (arguments.body_memory as usize) << 20;
    options.sql.memory_bytes_max = (arguments.query_memory as usize) << 20;
    options.sql.query_memory_bytes_max = options.sql.query_memory_bytes_max.min(options.sql.memory_bytes_max);
    options.limits.queries_max = arguments.queries as usize;
    let mut signals = Signals::listen()?;
    let server = Server::start(options).await?;
    output::line(format_args!("thermocline {} on http://{}", env!("CARGO_PKG_VERSION"), server.address()));
    let opened = tokio::select! {
        opened = server.ready() => opened,
        // Recovery can be broken off anywhere; the next start begins it again.
        () = signals.stop() => return Ok(()),
    };
    opened?;
    output::line(format_args!("ready; data in {}", arguments.data_dir.display()));
    until_stopped(server, signals).await
}

/// Serves until a signal, and then stops cleanly, or until the journal fails.
pub async fn until_stopped(server: Server, mut signals: Signals) -> Outcome {
    tokio::select! {
        () = signals.stop() => {}
        reason = server.failed() => return Err(journal_failed(&reason)),
    }
    tracing::info!("stopping");
    signals.force_on_second();
    server.stop().await?;
    tracing::info!("stopped");
    Ok(())
}

/// The process must end at once: nothing more can be made durable.
pub fn journal_failed(reason: &str) -> Failure {
    Failure::new(format!("the journal cannot go on: {reason}"))
        .with_hint("rows that were acked are safe; mend the disk, then start again")
        .with_exit(EXIT_JOURNAL)
}

/// The log, once for the process; `RUST_LOG` beats the level.
pub fn log_to_stderr(format: LogFormat, level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let builder = builder.with_ansi(std::io::stderr().is_terminal());
    // A second one is refused, and the first goes on.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn origins() {
        for origin in ["https://app.example.com", "http://localhost:3000", "http://[::1]:3000", "http://a:443"] {
            assert_eq!(super::origin(origin).unwrap().unwrap(), origin);
        }
        assert_eq!(super::origin(""), Ok(None));
        for other in [
            "*",
            "null",
            "app.example.com",
            "https://app.example.com/",
            "https://App.example.com",
            "ftp://a",
            "https://me@a",
            "http://a:80",
            "https://a:443",
        ] {
            assert!(super::origin(other).is_err(), "{other}");
        }
    }
}
