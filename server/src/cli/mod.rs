//! `thermocline` as people type it. `serve` and `demo` run a server; `sql`, `load` and `tail` are clients of one; `check`
//! reads what a stopped one left; `backup` and `restore` copy all of it, there and back.
//!
//! Exit codes: 0 done, 1 refused, failed or damaged, 2 a command line that makes no sense or nothing that can be checked,
//! 69 no server there, 70 the server's journal failed, 130 stopped a second time by Ctrl-C.

mod backup;
mod check;
mod client;
mod demo;
mod load;
mod output;
mod query;
mod restore;
mod serve;
mod signals;
mod table;
mod tail;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use thermocline_schemas::Error;

const ABOUT: &str =
    "A streaming table store: fresh rows hot on local disk, older rows in an Iceberg lake, one table over both.";

const EXAMPLES: &str = "\
First steps:
  thermocline demo                                       a server, real data, and what can be done with it
  thermocline serve                                      a server on http://127.0.0.1:8080, data in ./thermocline-data

Then, in another terminal:
  thermocline sql \"CREATE TABLE events (id BIGINT NOT NULL, word VARCHAR)\"
  thermocline load events.csv public.events              Parquet, CSV, NDJSON, JSON and Arrow files
  thermocline sql \"SELECT count(*) FROM events\"
  thermocline tail public.events --from earliest         what happened, and what happens
  curl -d 'SELECT 1' http://127.0.0.1:8080/v1/sql        all of it is plain HTTP

`thermocline <command> --help` says more about each.";

#[derive(Debug, Parser)]
#[command(name = "thermocline", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server until Ctrl-C
    Serve(serve::ServeArguments),
    /// Put the rows of a file into a table, which is made if it is missing
    Load(load::LoadArguments),
    /// Run one SQL statement and show its rows
    Sql(query::SqlArguments),
    /// Show what happened to a table, and what happens
    Tail(tail::TailArguments),
    /// Read a stopped data directory and its lake to the last byte, and say what is damaged
    Check(check::CheckArguments),
    /// Copy all rows of a server, running or stopped, as they are at one moment
    Backup(backup::BackupArguments),
    /// Make a data directory and a warehouse of a backup
    Restore(restore::RestoreArguments),
    /// Start a server, stream a year of flights into it, and show what it can do
    Demo(demo::DemoArguments),
}

/// Which server.
#[derive(Clone, Debug, Args)]
struct Connection {
    /// The server's address
    #[arg(long, env = "THERMOCLINE_URL", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    url: String,
    /// The server's token, if it wants one
    #[arg(long, env = "THERMOCLINE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

/// Why a command ends without having done what it should.
#[derive(Debug)]
struct Failure {
    message: String,
    hint: Option<String>,
    exit: u8,
}

const EXIT_REFUSED: u8 = 1;
const EXIT_CANNOT_CHECK: u8 = 2;
const EXIT_UNREACHABLE: u8 = 69;
const EXIT_JOURNAL: u8 = 70;
const EXIT_STOPPED_AT_ONCE: u8 = 130;

impl Failure {
    fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), hint: None, exit: EXIT_REFUSED }
    }

    fn with_hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Says in front what it is about.
    fn about(mut self, what: impl std::fmt::Display) -> Failure {
        self.message = format!("{what}: {}", self.message);
        self
    }

    fn with_exit(mut self, exit: u8) -> Failure {
        self.exit = exit;
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let mut message = error.to_string();
        if let Some(value) = error.value().map(|value| value.escape_debug().to_string())
            && !message.contains(&value)
        {
            message.push_str(&format!(": \"{value}\""));
        }
        let mut failure = Failure::new(message);
        failure.hint = error.hint().map(str::to_owned);
        failure
    }
}

type Outcome<T = ()> = Result<T, Failure>;

/// How long tasks that are given up may take for the step they are in.
const LAST_STEPS: Duration = Duration::from_secs(1);

/// Runs what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(format_args!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Serve(arguments) => serve::run(arguments).await,
            Command::Load(arguments) => load::run(arguments).await,
            Command::Sql(arguments) => query::run(arguments).await,
            Command::Tail(arguments) => tail::run(arguments).await,
            Command::Check(arguments) => check::run(arguments).await,
            Command::Backup(arguments) => backup::run(arguments).await,
            Command::Restore(arguments) => restore::run(arguments).await,
            Command::Demo(arguments) => demo::run(arguments).await,
        }
    });
    let Err(failure) = done else {
        runtime.shutdown_timeout(LAST_STEPS);
        return ExitCode::SUCCESS;
    };
    output::note(format_args!("error: {}", failure.message));
    if let Some(hint) = failure.hint {
        output::note(format_args!("hint: {hint}"));
    }
    if failure.exit == EXIT_JOURNAL {
        // At once: what is still under way must not be acked.
        std::process::exit(i32::from(EXIT_JOURNAL));
    }
    runtime.shutdown_timeout(LAST_STEPS);
    ExitCode::from(failure.exit)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
