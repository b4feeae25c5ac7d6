//! A backup of a large memory while somebody learns: how long it takes, and what the learner notices.
//!
//! `cargo bench --bench backup -- [--count 100000] [--database-url URL]`. The database must be empty.

#[path = "common/server.rs"]
mod server;
#[path = "common/wire.rs"]
mod wire;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;
use server::{KEY, Server};
use wire::Connection;

/// Records of an import.
const BATCH: usize = 2_000;
/// How long learning alone is watched.
const ALONE: Duration = Duration::from_secs(5);

fn main() -> anyhow::Result<()> {
    let (mut count, mut database) = (100_000, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--count" => count = arguments.next().context("--count needs a number")?.parse()?,
            "--database-url" => database = arguments.next(),
            // What `cargo bench` adds.
            "--bench" => {}
            other => anyhow::bail!("unknown option {other}"),
        }
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(count, database))
}

async fn measure(count: usize, database: Option<String>) -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let path = |name: &str| root.path().join(name).display().to_string();
    let mut settings = vec![("ENGRAMIA_DATA_PATH".to_owned(), path("data"))];
    settings.extend(database.map(|url| ("ENGRAMIA_DATABASE_URL".to_owned(), url)));
    let server = Server::start(settings.clone()).await?;
    let mut filler = Connection::open(server.address, KEY).await?;
    for from in (0..count).step_by(BATCH) {
        let records: Vec<_> = (from..(from + BATCH).min(count)).map(record).collect();
        filler.post_to(0, "/v1/import", &json!({ "records": records })).await?;
    }
    println!("{count} patterns");

    let address = server.address;
    report("learning alone", learn_until(address, 0, tokio::time::sleep(ALONE)).await?);
    let (done, file) = (Arc::new(AtomicBool::new(false)), path("b.tar"));
    let backup = tokio::task::spawn_blocking({
        let (settings, file) = (settings.clone(), file.clone());
        move || engramia(&settings, &["backup", &file])
    });
    let watched = {
        let done = Arc::clone(&done);
        async move {
            while !done.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let backup = async {
        let took = backup.await?;
        done.store(true, Ordering::Relaxed);
        took
    };
    let (took, learned) = tokio::join!(backup, learn_until(address, 1_000_000, watched));
    println!("backup: {:.1} s, {:.0} MB", took?.as_secs_f64(), Path::new(&file).metadata()?.len() as f64 / 1e6);
    report("learning meanwhile", learned?);
    server.stop().await;
    let took = tokio::task::spawn_blocking(move || engramia(&settings, &["backup", "verify", &file])).await??;
    println!("verify: {:.1} s", took.as_secs_f64());
    Ok(())
}

fn record(number: usize) -> serde_json::Value {
    let task = format!("Sum up the rows of table number {number} by the column that the report asks for");
    let code = format!("rows[{number}]\n").repeat(60);
    json!({ "key": format!("patterns/{number:08}"), "data": { "task": task, "success_score": 8.0, "design": { "code": code } } })
}

/// Learns one thing after another; how long each took.
async fn learn_until(address: SocketAddr, from: usize, end: impl Future<Output = ()>) -> anyhow::Result<Vec<Duration>> {
    let mut connection = Connection::open(address, KEY).await?;
    let mut times = Vec::new();
    let learning = async {
        for number in from.. {
            let started = Instant::now();
            let lesson = json!({ "task": format!("lesson {number}"), "code": "pass", "eval_score": 8.0 });
            connection.post_to(1, "/v1/learn", &lesson).await?;
            times.push(started.elapsed());
        }
        anyhow::Ok(())
    };
    tokio::select! {
        outcome = learning => outcome?,
        () = end => {}
    }
    Ok(times)
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    println!("{what}: {} calls, p50 {:.1} ms, p99 {:.1} ms", times.len(), at(0.5), at(0.99));
}

fn engramia(settings: &[(String, String)], arguments: &[&str]) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_engramia"));
    let status = command.env_clear().envs(settings.iter().cloned()).args(arguments).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{arguments:?} failed");
    Ok(started.elapsed())
}
