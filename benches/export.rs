//! Memory of a server while it exports: how much larger it gets, and how long it takes.
//!
//! `cargo bench --bench export -- [--count 100000] [--code-bytes 3000] [--database-url URL]` fills a store and then reads
//! each export in a fresh process of its own, so that no memory of the filling is used again unseen. Linux only: the
//! resident size comes from `/proc`.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use engramia::app::{App, Overrides};
use engramia::config::Config;
use http_body_util::BodyExt;
use serde_json::json;
use tower::ServiceExt;

const KEY: &str = "bench-key-0123456789abcdef";
const PATHS: [&str; 3] = ["/v1/governance/export", "/v1/governance/export?classification=confidential", "/v1/export"];
/// Records of an import.
const BATCH: usize = 5_000;

/// What is asked for.
struct Arguments {
    count: usize,
    code_bytes: usize,
    database: Option<String>,
    /// Only read this export, of the store in this directory.
    read: Option<(String, String)>,
}

fn main() -> anyhow::Result<()> {
    let arguments = arguments()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some((path, data)) = &arguments.read {
        return runtime.block_on(read(path, data, arguments.database.as_deref()));
    }
    let root = tempfile::tempdir()?;
    let data = root.path().to_str().context("a path of text")?;
    runtime.block_on(fill(&arguments, data))?;
    for path in PATHS {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--read", path, data]);
        if let Some(url) = &arguments.database {
            command.args(["--database-url", url]);
        }
        ensure!(command.status()?.success(), "{path} failed");
    }
    Ok(())
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut parsed = Arguments { count: 100_000, code_bytes: 3_000, database: None, read: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--count" => parsed.count = value()?.parse()?,
            "--code-bytes" => parsed.code_bytes = value()?.parse()?,
            "--database-url" => parsed.database = Some(value()?),
            "--read" => parsed.read = Some((value()?, value()?)),
            // What `cargo bench` adds.
            "--bench" => {}
            other => anyhow::bail!("unknown option {other}"),
        }
    }
    Ok(parsed)
}

async fn start(data: &str, database: Option<&str>) -> anyhow::Result<App> {
    let settings = [
        ("ENGRAMIA_DATA_PATH", data),
        ("ENGRAMIA_API_KEYS", KEY),
        ("ENGRAMIA_AUTH_MODE", "env"),
        ("ENGRAMIA_LLM_PROVIDER", "none"),
        ("ENGRAMIA_EMBEDDING_MODEL", "none"),
        ("ENGRAMIA_RETENTION_DAYS", "0"),
        ("ENGRAMIA_RATE_LIMIT_DEFAULT", "1000000000"),
        ("ENGRAMIA_RATE_LIMIT_PER_KEY", "1000000000"),
    ];
    let database = database.map(|url| ("ENGRAMIA_DATABASE_URL", url));
    let settings = settings.into_iter().chain(database).map(|(name, value)| (name.to_owned(), value.to_owned()));
    App::start(Config::load(settings)?.config, Overrides::default()).await
}

async fn ask(router: &Router, method: Method, path: &str, body: String) -> anyhow::Result<Body> {
    let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {KEY}"));
    let answer = router.clone().oneshot(request.body(Body::from(body))?).await?;
    ensure!(answer.status().is_success(), "{path}: {}", answer.status());
    Ok(answer.into_body())
}

async fn fill(arguments: &Arguments, data: &str) -> anyhow::Result<()> {
    let app = start(data, arguments.database.as_deref()).await?;
    let record = |number: usize| {
        let code: String = (0..)
            .map(|line| format!("    total_{line} = combine(rows[{number}], {line})\n"))
            .scan(0, |length, line| {
                *length += line.len();
                (*length <= arguments.code_bytes).then_some(line)
            })
            .collect();
        let word = ["public", "internal", "internal", "confidential"][number % 4];
        let task = format!("Sum up the rows of table number {number} by the column that the report asks for");
        let design = json!({ "code": code, "output": "42 rows", "classification": word });
        json!({ "key": format!("patterns/{number:08}"), "data": { "task": task, "success_score": 8.0, "design": design } })
    };
    for from in (0..arguments.count).step_by(BATCH) {
        let records: Vec<_> = (from..(from + BATCH).min(arguments.count)).map(record).collect();
        let imported = ask(&app.router, Method::POST, "/v1/import", json!({ "records": records }).to_string()).await?;
        imported.collect().await?;
    }
    app.shutdown().await;
    println!("{} patterns of {} bytes of code", arguments.count, arguments.code_bytes);
    Ok(())
}

async fn read(path: &str, data: &str, database: Option<&str>) -> anyhow::Result<()> {
    let app = start(data, database).await?;
    let before = resident_kib()?;
    let started = Instant::now();
    let mut body = ask(&app.router, Method::GET, path, String::new()).await?;
    let (mut most, mut bytes) = (before, 0);
    while let Some(frame) = body.frame().await {
        bytes += frame?.into_data().map_or(0, |data| data.len());
        most = most.max(resident_kib()?);
    }
    let (seconds, grown) = (started.elapsed().as_secs_f64(), (most - before) as f64 / 1024.0);
    println!("{path}: {:.0} MB in {seconds:.1} s, resident size grew by {grown:.1} MiB", bytes as f64 / 1e6);
    app.shutdown().await;
    Ok(())
}

fn resident_kib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
