//! What the world does to the agents.

use std::net::SocketAddr;

use anyhow::ensure;
use engramia::adapter::system::SystemClock;
use engramia::domain::unix_seconds;
use engramia::ports::Clock;
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use crate::world::{Agent, Solution, TASKS};

/// How hard a scenario is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Easy,
    Medium,
    Hard,
}

impl Level {
    /// One of three.
    fn of<T: Copy>(self, values: [T; 3]) -> T {
        values[self as usize]
    }
}

/// All difficulties with their names.
pub const LEVELS: [(&str, Level); 3] = [("easy", Level::Easy), ("medium", Level::Medium), ("hard", Level::Hard)];

/// Where a scenario takes place.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The server.
    pub address: SocketAddr,
    /// A project that nobody else uses.
    pub project: usize,
    /// Seed of chance.
    pub seed: u64,
}

/// How it ended.
pub struct Report {
    /// Tasks for which the right solution comes first.
    pub right: usize,
    /// Tasks in all.
    pub of: usize,
    /// The share of them after so many rounds.
    pub curve: Vec<(usize, f64)>,
}

/// A scenario.
#[derive(Clone, Copy)]
pub enum Scenario {
    /// One solution works, three do not; every report is wrong with a probability of 0, 20, 40 %.
    Noise,
    /// A solution with a long good record gets worse than its successor, by less and less.
    Deprecation,
    /// An old solution is better, a new one newer: which one, is the caller's to say by `recency_weight`.
    Conflict,
    /// A whole cohort of once good solutions has gone stale, among many other patterns.
    Drift,
    /// Authors praise their own solutions, again and again; others work.
    Praise,
}

/// All scenarios with their names.
pub const SCENARIOS: [(&str, Scenario); 5] = [
    ("noisy feedback", Scenario::Noise),
    ("deprecation", Scenario::Deprecation),
    ("conflict of age and quality", Scenario::Conflict),
    ("drift of a cohort", Scenario::Drift),
    ("spoofed self-scores", Scenario::Praise),
];

/// Tasks that are worked on at the same time.
const AGENTS: usize = 5;
/// Half of the agents try something else: where reports are wrong, only many of them tell.
const HALF: f64 = 0.5;

impl Scenario {
    /// Runs it to its end.
    pub async fn run(self, place: Place, level: Level) -> anyhow::Result<Report> {
        if matches!(self, Self::Drift) {
            fill(place, level.of([500, 2_000, 5_000])).await?;
        }
        let agents = (0..AGENTS).map(|agent| async move {
            let mut histories = Vec::new();
            for (at, task) in TASKS.iter().enumerate().filter(|(at, _)| at % AGENTS == agent) {
                let seed = place.seed.wrapping_mul(1_000_003).wrapping_add(at as u64);
                let mut agent = Agent::new(place.address, place.project, seed).await?;
                histories.push(self.live(&mut agent, task, level).await?);
            }
            anyhow::Ok(histories)
        });
        let histories: Vec<Vec<bool>> = try_join_all(agents).await?.into_iter().flatten().collect();
        ensure!(histories.len() == TASKS.len(), "every task is judged once");
        let rounds = histories[0].len();
        let after = |round: usize| histories.iter().filter(|history| history[round - 1]).count();
        let marks = [1, rounds / 8, rounds / 4, rounds / 2, rounds * 3 / 4, rounds];
        let mut curve: Vec<(usize, f64)> = Vec::new();
        for mark in marks.into_iter().filter(|mark| *mark > 0) {
            if curve.last().is_none_or(|(last, _)| *last < mark) {
                curve.push((mark, after(mark) as f64 / histories.len() as f64));
            }
        }
        Ok(Report { right: after(rounds), of: histories.len(), curve })
    }

    /// The life of one task; whether the right solution comes first after each round.
    async fn live(self, agent: &mut Agent, task: &str, level: Level) -> anyhow::Result<Vec<bool>> {
        match self {
            Self::Noise => noise(agent, task, level).await,
            Self::Deprecation => deprecation(agent, task, level).await,
            Self::Conflict => conflict(agent, task, level).await,
            Self::Drift => drift(agent, task, level).await,
            Self::Praise => praise(agent, task, level).await,
        }
    }
}

/// Rounds of recall, use and report.
struct Rounds<'a> {
    task: &'a str,
    solutions: &'a [Solution],
    right: usize,
    count: usize,
    /// Share of agents that try another solution than the first.
    explore: f64,
}

impl Rounds<'_> {
    /// Lives them; `using` says what comes of using a solution.
    async fn live(
        &self,
        agent: &mut Agent,
        mut using: impl FnMut(&mut Agent, usize) -> (bool, Option<f64>),
    ) -> anyhow::Result<Vec<bool>> {
        let all = json!({ "deduplicate": false, "limit": 50 });
        let mut history = Vec::with_capacity(self.count);
        for _ in 0..self.count {
            let found = agent.recall(self.task, all.clone()).await?;
            let own: Vec<usize> = found
                .iter()
                .filter_map(|key| self.solutions.iter().position(|solution| solution.key == *key))
                .collect();
            ensure!(!own.is_empty(), "no solution of the task was found");
            let explores = agent.chance.happens(self.explore);
            let used = if explores { own[agent.chance.below(own.len())] } else { own[0] };
            let (success, score) = using(agent, used);
            agent.report(&self.solutions[used], success, score).await?;
            history.push(agent.first(self.task, self.solutions, json!({})).await? == Some(self.right));
        }
        Ok(history)
    }
}

async fn noise(agent: &mut Agent, task: &str, level: Level) -> anyhow::Result<Vec<bool>> {
    let wrong = level.of([0.0, 0.2, 0.4]);
    let mut solutions = Vec::new();
    for _ in 0..4 {
        let praised = agent.chance.between(6.0, 9.0);
        solutions.push(agent.learn(task, praised).await?);
    }
    let right = agent.chance.below(solutions.len());
    let rounds = Rounds { task, solutions: &solutions, right, count: level.of([60, 160, 600]), explore: HALF };
    let using = |agent: &mut Agent, used: usize| {
        let works = agent.chance.happens(if used == right { 0.95 } else { 0.1 });
        (works != agent.chance.happens(wrong), None)
    };
    rounds.live(agent, using).await
}

async fn deprecation(agent: &mut Agent, task: &str, level: Level) -> anyhow::Result<Vec<bool>> {
    let old = agent.learn(task, 9.0).await?;
    for _ in 0..20 {
        let score = agent.chance.around(9.0, 0.5);
        agent.report(&old, true, Some(score)).await?;
    }
    let new = agent.learn(task, 8.0).await?;
    // What the old one is worth now, and how much scores scatter.
    let (worth, scatter) = level.of([(2.0, 0.0), (5.5, 0.5), (7.0, 1.0)]);
    let solutions = [old, new];
    let rounds = Rounds { task, solutions: &solutions, right: 1, count: level.of([20, 40, 80]), explore: 0.3 };
    let using = |agent: &mut Agent, used: usize| {
        let score = agent.chance.around(if used == 0 { worth } else { 8.0 }, scatter);
        (score >= 5.0, Some(score))
    };
    rounds.live(agent, using).await
}

async fn conflict(agent: &mut Agent, task: &str, level: Level) -> anyhow::Result<Vec<bool>> {
    let (age_days, good, medium) = level.of([(180.0, 9.0, 8.0), (60.0, 9.0, 7.0), (20.0, 9.5, 6.0)]);
    let mut solutions = Vec::new();
    for (name, age, score) in [("old", age_days, good), ("new", 0.5, medium)] {
        let key = format!("patterns/{name}_{}", task.replace(' ', "_"));
        let record = record(agent, &key, task, score, age, None);
        import(agent, vec![record]).await?;
        solutions.push(Solution { key });
    }
    // The old one has proved itself.
    for _ in 0..5 {
        agent.report(&solutions[0], true, Some(good)).await?;
        agent.report(&solutions[1], true, Some(medium)).await?;
    }
    let mut firsts = Vec::new();
    for tenths in 0..=10 {
        let question = json!({ "recency_weight": f64::from(tenths) / 10.0 });
        firsts.push(agent.first(task, &solutions, question).await?);
    }
    // Without recency the better, with all of it the newer, and one change between.
    let changes = firsts.windows(2).filter(|pair| pair[0] != pair[1]).count();
    Ok(vec![firsts[0] == Some(0) && firsts[10] == Some(1) && changes == 1])
}

async fn drift(agent: &mut Agent, task: &str, level: Level) -> anyhow::Result<Vec<bool>> {
    let stale = level.of([2, 4, 8]);
    let mut solutions = Vec::new();
    let mut records = Vec::new();
    for number in 0..stale {
        let key = format!("patterns/stale_{number}_{}", task.replace(' ', "_"));
        let proof = json!({ "weight": 10.0, "sum": 90.0, "count": 10, "variance": 0.5 });
        records.push(record(agent, &key, task, 9.0, 365.0, Some(proof)));
        solutions.push(Solution { key });
    }
    import(agent, records).await?;
    solutions.push(agent.learn(task, 7.5).await?);
    let scatter = level.of([0.0, 0.5, 1.0]);
    let rounds = Rounds { task, solutions: &solutions, right: stale, count: level.of([40, 80, 160]), explore: 0.3 };
    let using = |agent: &mut Agent, used: usize| {
        let score = agent.chance.around(if used == stale { 8.0 } else { 2.0 }, scatter);
        (score >= 5.0, Some(score))
    };
    rounds.live(agent, using).await
}

async fn praise(agent: &mut Agent, task: &str, level: Level) -> anyhow::Result<Vec<bool>> {
    let spoofers = level.of([1, 2, 3]);
    let mut solutions = Vec::new();
    for _ in 0..spoofers {
        let program = agent.program();
        let body = json!({ "task": task, "code": program, "eval_score": 10.0 });
        let mut key = String::new();
        for _ in 0..level.of([5, 20, 50]) {
            key = agent.post("/v1/learn", &body).await?["pattern_key"].as_str().unwrap_or_default().to_owned();
        }
        solutions.push(Solution { key });
    }
    solutions.push(agent.learn(task, 6.0).await?);
    let wrong = level.of([0.0, 0.1, 0.2]);
    let rounds = Rounds { task, solutions: &solutions, right: spoofers, count: level.of([30, 60, 120]), explore: 0.3 };
    let using = |agent: &mut Agent, used: usize| {
        let works = agent.chance.happens(if used == spoofers { 0.95 } else { 0.1 });
        (works != agent.chance.happens(wrong), None)
    };
    rounds.live(agent, using).await
}

/// Other patterns that have nothing to do with the tasks.
async fn fill(place: Place, count: usize) -> anyhow::Result<()> {
    let mut agent = Agent::new(place.address, place.project, place.seed).await?;
    let numbers: Vec<usize> = (0..count).collect();
    for chunk in numbers.chunks(500) {
        let records = chunk.iter().map(|number| {
            let task = format!("Keep record {number} of shelf {} in archive {}", number % 97, number % 13);
            record(&mut agent, &format!("patterns/other_{number}"), &task, 8.0, 400.0, None)
        });
        let records = records.collect();
        import(&mut agent, records).await?;
    }
    Ok(())
}

fn record(agent: &mut Agent, key: &str, task: &str, score: f64, age_days: f64, proof: Option<Value>) -> Value {
    let now = unix_seconds(SystemClock.now());
    let mut data = json!({
        "task": task, "design": { "code": agent.program() }, "success_score": score,
        "timestamp": now - age_days * 86_400.0,
    });
    if let Some(proof) = proof {
        data["_evidence"] = proof;
    }
    json!({ "key": key, "data": data })
}

/// Stores records.
pub async fn import(agent: &mut Agent, records: Vec<Value>) -> anyhow::Result<()> {
    let count = records.len();
    let answer = agent.post("/v1/import", &json!({ "records": records })).await?;
    ensure!(answer["imported"] == count, "import answered {answer}");
    Ok(())
}
