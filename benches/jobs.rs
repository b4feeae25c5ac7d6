//! How long a job waits for an idle worker: from its submission until it begins, over the whole application.
//!
//! `cargo bench --bench jobs -- [--count 300] [--database-url URL]` prints median, 95th percentile and maximum in
//! milliseconds. The clock of both ends is the application's own: `created_at` and `started_at` of each job.

use std::time::Duration;

use anyhow::{Context, ensure};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request};
use chrono::DateTime;
use engramia::app::{App, Overrides};
use engramia::config::Config;
use serde_json::Value;
use tower::ServiceExt;

const KEY: &str = "bench-key-0123456789abcdef";
/// Pause between two jobs: the worker has gone to sleep again.
const IDLE: Duration = Duration::from_millis(20);

fn main() -> anyhow::Result<()> {
    let (mut count, mut database) = (300, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--count" => count = value()?.parse::<usize>()?.max(1),
            "--database-url" => database = Some(value()?),
            // What `cargo bench` adds.
            "--bench" => {}
            other => anyhow::bail!("unknown option {other}"),
        }
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(count, database))
}

async fn run(count: usize, database: Option<String>) -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let settings = [
        ("ENGRAMIA_DATA_PATH", root.path().to_str().context("a path of text")?),
        ("ENGRAMIA_API_KEYS", KEY),
        ("ENGRAMIA_AUTH_MODE", "env"),
        ("ENGRAMIA_LLM_PROVIDER", "none"),
        ("ENGRAMIA_RATE_LIMIT_DEFAULT", "1000000000"),
        ("ENGRAMIA_RATE_LIMIT_PER_KEY", "1000000000"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let database = database.map(|url| ("ENGRAMIA_DATABASE_URL".to_owned(), url));
    let app = App::start(Config::load(settings.into_iter().chain(database))?.config, Overrides::default()).await?;
    let mut waits = Vec::with_capacity(count);
    for _ in 0..count {
        tokio::time::sleep(IDLE).await;
        let accepted = ask(&app.router, Method::POST, "/v1/aging").await?;
        let path = format!("/v1/jobs/{}", accepted["job_id"].as_str().context("an id")?);
        let job = loop {
            let job = ask(&app.router, Method::GET, &path).await?;
            if job["completed_at"].is_string() {
                break job;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        ensure!(job["status"] == "completed", "{job}");
        let at = |name: &str| anyhow::Ok(DateTime::parse_from_rfc3339(job[name].as_str().context("a time")?)?);
        waits.push((at("started_at")? - at("created_at")?).as_seconds_f64() * 1e3);
    }
    waits.sort_by(f64::total_cmp);
    let (median, most) = (waits[count / 2], waits[count - 1]);
    println!("{count} jobs: median {median:.2} ms, p95 {:.2} ms, longest {most:.2} ms", waits[count * 95 / 100]);
    app.shutdown().await;
    Ok(())
}

async fn ask(router: &Router, method: Method, path: &str) -> anyhow::Result<Value> {
    let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {KEY}"));
    let answer = router.clone().oneshot(request.header("prefer", "respond-async").body(Body::empty())?).await?;
    ensure!(answer.status().is_success(), "{path}: {}", answer.status());
    Ok(serde_json::from_slice(&to_bytes(answer.into_body(), usize::MAX).await?)?)
}
