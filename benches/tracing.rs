//! What traces cost: recall with traces off and on, asked in turn of two servers.
//!
//! `cargo bench --bench tracing -- [--count 5000]` starts the program twice, on directories of its own; the second sends
//! every trace to a collector in this process. Prints the medians in milliseconds of A B A B, and how much more the
//! traces take.

#[path = "common/count.rs"]
mod count;
#[path = "common/wire.rs"]
mod wire;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use serde_json::json;
use tempfile::TempDir;

use wire::Connection;

const KEY: &str = "bench-key-0123456789abcdef";
/// Patterns to search in.
const STORED: usize = 1_000;

fn main() -> anyhow::Result<()> {
    let count = count::count_or(5_000)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(count))
}

async fn run(count: usize) -> anyhow::Result<()> {
    let received = Arc::new(AtomicUsize::new(0));
    let collector = collector(Arc::clone(&received)).await?;
    let servers = [Server::start(None)?, Server::start(Some(&collector))?];
    let mut connections = Vec::new();
    for server in &servers {
        let mut connection = Connection::open(server.address, KEY).await?;
        for number in 0..STORED {
            let body = json!({ "task": format!("write file number {number}"), "code": "write()", "eval_score": 7.0 });
            connection.post_to(0, "/v1/learn", &body).await?;
        }
        connections.push(connection);
    }
    println!("| recall | off, p50 ms | on, p50 ms | more |\n|---|---|---|---|");
    for (name, questions) in [("embedding cached", 16), ("embedding made", usize::MAX)] {
        for _ in 0..2 {
            let mut times = [Vec::with_capacity(count), Vec::with_capacity(count)];
            for turn in 0..count {
                let body = json!({ "task": format!("parse file number {}", turn % questions), "readonly": true });
                for step in 0..2 {
                    let at = (turn + step) % 2;
                    let sent = Instant::now();
                    connections[at].post_to(0, "/v1/recall", &body).await?;
                    times[at].push(sent.elapsed());
                }
            }
            let [off, on] = times.map(median);
            println!("| {name} | {off:.3} | {on:.3} | {:+.1} % |", (on / off - 1.0) * 100.0);
        }
    }
    println!("\nThe collector received {} messages.", received.load(Ordering::Relaxed));
    Ok(())
}

/// Takes every message; its address.
async fn collector(received: Arc<AtomicUsize>) -> anyhow::Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let routes = Router::new().route("/v1/traces", post(take)).with_state(received);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(endpoint)
}

async fn take(State(received): State<Arc<AtomicUsize>>, body: Bytes) {
    received.fetch_add(usize::from(!body.is_empty()), Ordering::Relaxed);
}

/// The program, until it is dropped.
struct Server {
    process: Child,
    address: SocketAddr,
    _root: TempDir,
}

impl Server {
    fn start(collector: Option<&str>) -> anyhow::Result<Self> {
        let root = tempfile::tempdir()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_engramia"));
        command
            .env_clear()
            .env("ENGRAMIA_DATA_PATH", root.path())
            .env("ENGRAMIA_PORT", "0")
            .env("ENGRAMIA_AUTH_MODE", "env")
            .env("ENGRAMIA_API_KEYS", KEY)
            .env("ENGRAMIA_LLM_PROVIDER", "none")
            .env("ENGRAMIA_RATE_LIMIT_DEFAULT", "1000000000")
            .env("ENGRAMIA_RATE_LIMIT_PER_KEY", "1000000000")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if let Some(collector) = collector {
            command
                .env("ENGRAMIA_TELEMETRY", "true")
                .env("ENGRAMIA_OTEL_ENDPOINT", collector)
                .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        }
        let mut process = command.spawn()?;
        let mut log = BufReader::new(process.stderr.take().context("piped")?).lines();
        let address = loop {
            let line = log.next().context("the server ended")??;
            if let Some((_, rest)) = line.split_once("listening on http://") {
                break rest.split(' ').next().unwrap_or_default().parse()?;
            }
        };
        // Reads to the end, so that the pipe never fills.
        std::thread::spawn(move || log.for_each(drop));
        Ok(Self { process, address, _root: root })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}
