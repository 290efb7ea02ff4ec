//! The real binary as a child process, spoken to over HTTP.

use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode};

/// Where the binary is: beside this test, built by the same `cargo test --workspace` (or `cargo bench --workspace`). It is
/// not built from here, because a build of it alone would have other features and compile DataFusion once more.
pub fn path() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows where it is");
    // target/<profile>/deps/<test> → target/<profile>/thermocline
    let profile = own.ancestors().nth(2).expect("a test lies two folders below its profile");
    let binary = profile.join("thermocline");
    let release = if cfg!(debug_assertions) { "" } else { " --release" };
    assert!(binary.exists(), "{} is missing: run `cargo build{release} --workspace --bins` first", binary.display());
    binary
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    started: Instant,
    /// Its standard error, after that of those before it, and where its own begins.
    log: PathBuf,
    log_start: u64,
    pub url: String,
    pub client: Client,
}

impl Server {
    /// Starts on a data directory and waits until it is ready. Answers how long that took, too.
    pub async fn start(data: &Path, arguments: &[&str]) -> (Server, Duration) {
        Server::start_with(data, arguments, &[]).await
    }

    /// The same, with variables in its environment.
    pub async fn start_with(data: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> (Server, Duration) {
        let mut server = Server::launch(data, arguments, environment);
        let ready = server.ready().await.unwrap_or_else(|failure| panic!("{failure}"));
        (server, ready)
    }

    /// Starts on a data directory and waits for nothing.
    pub fn launch(data: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Server {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|probe| probe.local_addr()).expect("a free port").port();
        let listen = format!("127.0.0.1:{port}");
        let log = data.with_extension("log");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log can be written");
        let log_start = file.metadata().expect("a log has a length").len();
        let started = Instant::now();
        let child = Command::new(path())
            .args(["serve", "--listen", &listen, "--data-dir"])
            .arg(data)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the binary starts");
        let client = Client::builder().timeout(Duration::from_secs(60)).build().expect("a client can be made");
        Server { child, started, log, log_start, url: format!("http://{listen}"), client }
    }

    /// Waits until it is ready, and answers how long that took; an error if it ends, halts, or takes a minute.
    pub async fn ready(&mut self) -> Result<Duration, String> {
        loop {
            let ready = self.client.get(format!("{}/ready", self.url)).timeout(Duration::from_secs(1)).send().await;
            if ready.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(self.started.elapsed());
            }
            if let Some(point) = self.halted() {
                return Err(format!("halted at {point}"));
            }
            let ended = self.child.try_wait().expect("a child can be asked");
            if let Some(status) = ended {
                return Err(format!("the server ended at start, {status}: {}", self.said()));
            }
            if self.started.elapsed() > Duration::from_secs(60) {
                return Err(format!("the server is not ready after a minute: {}", self.said()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What it has said on standard error.
    pub fn said(&self) -> String {
        let mut said = Vec::new();
        let read = std::fs::File::open(&self.log).and_then(|mut log| {
            log.seek(SeekFrom::Start(self.log_start))?;
            log.read_to_end(&mut said)
        });
        read.expect("its log can be read");
        String::from_utf8_lossy(&said).into_owned()
    }

    /// The point at which one of its threads has halted; see `thermocline_engine::faults`.
    pub fn halted(&self) -> Option<String> {
        self.said().lines().find_map(|line| line.strip_prefix("halted at ").map(str::to_owned))
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// SIGSTOP, SIGCONT and the like.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "signal {name}");
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        // It may have ended by itself, which is what the tests that look at its exit code see.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.child.wait().ok()?.code()
    }

    pub async fn sql(&self, sql: &str) -> Result<serde_json::Value, String> {
        let answer = self.client.post(format!("{}/v1/sql", self.url)).body(sql.to_owned()).send().await;
        json(answer).await.map_err(|failure| format!("{sql}: {failure}"))
    }

    /// POST of an Arrow stream, as writer's request number `sequence`.
    pub async fn append(
        &self,
        table: &str,
        batch: &arrow::array::RecordBatch,
        writer: Option<(&str, u64)>,
    ) -> Result<serde_json::Value, String> {
        let mut body = Vec::new();
        let mut stream =
            arrow::ipc::writer::StreamWriter::try_new(&mut body, &batch.schema()).map_err(|e| e.to_string())?;
        stream.write(batch).and_then(|()| stream.finish()).map_err(|error| error.to_string())?;
        let mut request = self
            .client
            .post(format!("{}/v1/tables/public/{table}/rows", self.url))
            .header("content-type", "application/vnd.apache.arrow.stream");
        if let Some((writer, sequence)) = writer {
            request = request.header("thermocline-writer", writer).header("thermocline-sequence", sequence);
        }
        json(request.body(body).send().await).await
    }
}

async fn json(answer: Result<Response, reqwest::Error>) -> Result<serde_json::Value, String> {
    let answer = answer.map_err(|error| format!("{error:?}"))?;
    let status = answer.status();
    let text = answer.text().await.map_err(|error| format!("{error:?}"))?;
    match status {
        StatusCode::OK => serde_json::from_str(&text).map_err(|error| format!("{error}: {text}")),
        _ => Err(format!("{status}: {text}")),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
