//! What a recall pays for evidence and for issues: three projects with the same patterns, asked in turn.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::scenarios::import;
use crate::world::{Agent, Solution, TASKS};

/// Patterns of a project: so many variants of every task.
const VARIANTS: usize = 20;
/// Recalls of each project.
const RECALLS: usize = 2_000;
/// Issues that recur.
const ISSUES: usize = 50;

/// Prints the medians.
pub async fn compare(address: SocketAddr, first_project: usize, seed: u64) -> anyhow::Result<()> {
    let names = ["without evidence", "with evidence", "with evidence and 50 issues"];
    let mut agents = Vec::new();
    for at in 0..names.len() {
        let mut agent = Agent::new(address, first_project + at, seed).await?;
        let keys = fill(&mut agent).await?;
        if at > 0 {
            praise(&mut agent, &keys).await?;
        }
        if at > 1 {
            complain(&mut agent, &keys).await?;
        }
        agents.push(agent);
    }
    let mut times: Vec<Vec<Duration>> = vec![Vec::with_capacity(RECALLS); names.len()];
    for turn in 0..RECALLS {
        let question = json!({ "task": question(turn), "readonly": true });
        // The first one pays for the embedding, which is cached then.
        agents[turn % names.len()].post("/v1/recall", &question).await?;
        for step in 0..names.len() {
            let at = (turn + step) % names.len();
            let sent = Instant::now();
            agents[at].post("/v1/recall", &question).await?;
            times[at].push(sent.elapsed());
        }
    }
    println!("\n| recall, embedding cached | p50 ms | ratio |\n|---|---|---|");
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    for (name, p50) in names.iter().zip(&medians) {
        println!("| {name} | {p50:.3} | {:.3} |", p50 / medians[0]);
    }
    Ok(())
}

fn question(turn: usize) -> String {
    format!("{}, variant {}", TASKS[turn % TASKS.len()], turn % (2 * VARIANTS))
}

async fn fill(agent: &mut Agent) -> anyhow::Result<Vec<Solution>> {
    let mut keys = Vec::new();
    let mut records: Vec<Value> = Vec::new();
    for (at, task) in TASKS.iter().enumerate() {
        for variant in 0..VARIANTS {
            let key = format!("patterns/{at}_{variant}");
            let design = json!({ "code": agent.program() });
            let data = json!({ "task": format!("{task}, variant {variant}"), "design": design, "success_score": 7.0 });
            records.push(json!({ "key": key, "data": data }));
            keys.push(Solution { key });
        }
    }
    import(agent, records).await?;
    Ok(keys)
}

async fn praise(agent: &mut Agent, keys: &[Solution]) -> anyhow::Result<()> {
    for key in keys {
        for _ in 0..3 {
            let score = agent.chance.between(4.0, 10.0);
            agent.report(key, true, Some(score)).await?;
        }
    }
    Ok(())
}

async fn complain(agent: &mut Agent, keys: &[Solution]) -> anyhow::Result<()> {
    for key in keys.iter().step_by(VARIANTS).take(ISSUES) {
        let note = agent.program();
        for _ in 0..2 {
            let body = json!({ "success": false, "note": note });
            agent.post(&format!("/v1/patterns/{}/outcome", key.key), &body).await?;
        }
    }
    Ok(())
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}
