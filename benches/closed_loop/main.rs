//! The closed loop: agents recall, use what they get, and say what came of it. Does the memory end up recommending what
//! is right?
//!
//! `cargo bench --bench closed_loop -- [--seed 1] [--only noisy]` runs five scenarios at three difficulties through the
//! HTTP API, with the built-in model and seeded chance, and prints how often the right solution comes first and how that
//! share grows; then what evidence costs a recall (`--only cost`). `docs/quality.md` tells what each scenario means and what came out.

mod cost;
mod scenarios;
#[path = "../common/server.rs"]
mod server;
#[path = "../common/wire.rs"]
mod wire;
mod world;

use anyhow::Context;
use scenarios::{LEVELS, Report, SCENARIOS};
use server::Server;

fn main() -> anyhow::Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(options))
}

struct Options {
    seed: u64,
    only: Option<String>,
    settings: Vec<(String, String)>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self { seed: 1, only: None, settings: Vec::new() };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--seed" => options.seed = value()?.parse()?,
                "--only" => options.only = Some(value()?),
                "--database-url" => options.settings.push(("ENGRAMIA_DATABASE_URL".into(), value()?)),
                // What `cargo bench` adds.
                "--bench" => {}
                other => anyhow::bail!("unknown option {other}"),
            }
        }
        Ok(options)
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let server = Server::start(options.settings).await?;
    println!("| scenario | difficulty | right | of | share | share after so many rounds |\n|---|---|---|---|---|---|");
    for (at, (name, scenario)) in SCENARIOS.into_iter().enumerate() {
        if options.only.as_deref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        for (difficulty, level) in LEVELS {
            let place = scenarios::Place {
                address: server.address,
                project: at * LEVELS.len() + level as usize,
                seed: options.seed.wrapping_mul(1_000) + (at * LEVELS.len() + level as usize) as u64,
            };
            let Report { right, of, curve } = scenario.run(place, level).await?;
            let share = 100.0 * right as f64 / of as f64;
            let curve: Vec<String> =
                curve.iter().map(|(round, share)| format!("{round}: {:.0}", share * 100.0)).collect();
            println!("| {name} | {difficulty} | {right} | {of} | {share:.1} % | {} |", curve.join(", "));
        }
    }
    if options.only.as_deref().is_none_or(|only| "cost".contains(only)) {
        cost::compare(server.address, SCENARIOS.len() * LEVELS.len(), options.seed).await?;
    }
    server.stop().await;
    Ok(())
}
