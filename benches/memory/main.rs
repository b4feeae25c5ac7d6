//! The project's benchmark: the whole server over HTTP, with the built-in model, on a seeded corpus of its own.
//!
//! `cargo bench --bench memory -- [--sizes 1000,10000] [--seconds 3]` prints one table of latencies and one of recall
//! quality (the ablation of ranking by meaning, by both, and by keywords). With `--database-url URL` it runs on an empty
//! PostgreSQL database, with `--search-memory 0` by SQL alone; `--projects N` spreads the corpus over so many projects.
//! `docs/performance.md` says how to read it.

mod corpus;
#[path = "../common/server.rs"]
mod server;
#[path = "../common/wire.rs"]
mod wire;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use server::{KEY, Server};
use wire::Connection;

/// Queries of one quality figure.
const JUDGED: usize = 300;

fn main() -> anyhow::Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(options))
}

struct Options {
    sizes: Vec<usize>,
    seconds: f64,
    projects: usize,
    /// Settings that take the place of the defaults.
    settings: Vec<(String, String)>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self { sizes: vec![1_000, 10_000], seconds: 3.0, projects: 1, settings: Vec::new() };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--sizes" => {
                    options.sizes = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--seconds" => options.seconds = value()?.parse()?,
                "--projects" => options.projects = value()?.parse::<usize>()?.max(1),
                "--database-url" => options.settings.push(("ENGRAMIA_DATABASE_URL".into(), value()?)),
                "--search-memory" => options.settings.push(("ENGRAMIA_SEARCH_MEMORY".into(), value()?)),
                // What `cargo bench` adds.
                "--bench" => {}
                other => anyhow::bail!("unknown option {other}"),
            }
        }
        options.sizes.sort_unstable();
        Ok(options)
    }
}

/// Requests over one connection, spread over projects.
struct Load {
    connection: Connection,
    projects: usize,
}

async fn run(options: Options) -> anyhow::Result<()> {
    let server = Server::start(options.settings).await?;
    let mut load = Load { connection: Connection::open(server.address, KEY).await?, projects: options.projects };
    let mut stored = 0;
    println!("| patterns | operation | p50 ms | p99 ms | per second |\n|---|---|---|---|---|");
    for size in &options.sizes {
        fill(&mut load, stored..*size).await?;
        stored = stored.max(*size);
        latencies(&mut load, *size, options.seconds).await?;
        quality(&mut load, *size).await?;
    }
    server.stop().await;
    Ok(())
}

/// Loads the corpus through the import endpoint.
async fn fill(load: &mut Load, range: std::ops::Range<usize>) -> anyhow::Result<()> {
    let (count, started) = (range.len(), Instant::now());
    for project in 0..load.projects {
        let own: Vec<usize> = range.clone().filter(|at| at % load.projects == project).collect();
        for chunk in own.chunks(500) {
            let records: Vec<Value> = chunk.iter().map(|at| corpus::record(*at)).collect();
            let answer = load.connection.post_to(project, "/v1/import", &json!({ "records": records })).await?;
            ensure!(answer["imported"] == chunk.len(), "import answered {answer}");
        }
    }
    if count > 0 {
        eprintln!("imported {count} patterns at {:.0}/s", count as f64 / started.elapsed().as_secs_f64());
    }
    Ok(())
}

async fn latencies(load: &mut Load, size: usize, seconds: f64) -> anyhow::Result<()> {
    for (name, long) in [("recall, 12 tokens", false), ("recall, 40 tokens", true)] {
        measure(load, size, name, seconds, |counter| ("/v1/recall", json!({ "task": corpus::fresh(counter, long) })))
            .await?;
    }
    measure(load, size, "recall, embedding cached", seconds, |counter| {
        ("/v1/recall", json!({ "task": corpus::query(counter % 512) }))
    })
    .await?;
    measure(load, size, "learn, 40 tokens", seconds, |counter| {
        let task = corpus::fresh(counter + size * 1_000, true);
        ("/v1/learn", json!({ "task": task, "code": format!("run({counter})"), "eval_score": 7 }))
    })
    .await
}

async fn measure(
    load: &mut Load,
    size: usize,
    name: &str,
    seconds: f64,
    request: impl Fn(usize) -> (&'static str, Value),
) -> anyhow::Result<()> {
    let mut samples = Vec::new();
    let (warm, end) = (Duration::from_secs_f64(seconds * 0.2), Duration::from_secs_f64(seconds * 1.2));
    let started = Instant::now();
    for counter in 0.. {
        if started.elapsed() > end {
            break;
        }
        let (path, body) = request(counter);
        let sent = Instant::now();
        load.connection.post_to(counter % load.projects, path, &body).await?;
        if started.elapsed() > warm {
            samples.push(sent.elapsed());
        }
    }
    samples.sort_unstable();
    let at = |share: f64| samples[(share * (samples.len() - 1) as f64) as usize].as_secs_f64() * 1e3;
    let rate = samples.len() as f64 / samples.iter().sum::<Duration>().as_secs_f64();
    println!("| {size} | {name} | {:.3} | {:.3} | {rate:.0} |", at(0.5), at(0.99));
    Ok(())
}

/// The ablation: how often the paraphrased pattern comes back first, and among the first ten.
async fn quality(load: &mut Load, size: usize) -> anyhow::Result<()> {
    for (name, hybrid) in [("by meaning", false), ("hybrid", true)] {
        let (mut first, mut ten) = (0, 0);
        for judged in 0..JUDGED.min(size) {
            let wanted = judged * 31 % size;
            let query = json!({
                "task": corpus::query(wanted), "limit": 10, "deduplicate": false, "eval_weighted": false,
                "readonly": true, "hybrid": hybrid
            });
            let answer = load.connection.post_to(wanted % load.projects, "/v1/recall", &query).await?;
            let matches = answer["matches"].as_array().context("matches")?;
            let place = matches.iter().position(|found| found["pattern_key"] == corpus::key(wanted));
            first += usize::from(place == Some(0));
            ten += usize::from(place.is_some());
        }
        let share = |n: usize| n as f64 / JUDGED.min(size) as f64;
        println!("| {size} | quality {name}: hit@1 {:.3}, recall@10 {:.3} | | | |", share(first), share(ten));
    }
    Ok(())
}
