//! The world that agents live in: tasks, solutions, chance, and the server that remembers.

use anyhow::Context;
use serde_json::{Value, json};

use crate::server::KEY;
use crate::wire::Connection;

/// Things to do that have nothing to do with each other, so that a solution of one is none of another.
pub const TASKS: [&str; 50] = [
    "Parse a CSV file with quoted line breaks",
    "Resize a photograph to a square thumbnail",
    "Send a reminder e-mail to customers who have not paid",
    "Compute the shortest route between two cities",
    "Rotate the log files of a web server",
    "Translate subtitles from English to German",
    "Detect the language of a short text",
    "Deploy a container to the staging cluster",
    "Train a decision tree on the iris data",
    "Extract tables from a scanned PDF invoice",
    "Back up a PostgreSQL database to object storage",
    "Draw a bar chart of monthly sales",
    "Find duplicate songs in a music library",
    "Sign a JSON web token with an elliptic curve",
    "Measure the memory use of a running process",
    "Convert temperatures from Fahrenheit to Celsius",
    "Schedule a meeting across three time zones",
    "Scrape the headlines of a newspaper's front page",
    "Compress a directory into a tar archive",
    "Validate the checksum of a bank account number",
    "Generate a maze with a single solution",
    "Merge two branches that changed the same function",
    "Play chess endgames with a tablebase",
    "Transcribe a recorded phone call",
    "Simulate the orbit of a comet",
    "Render a Markdown document as a web page",
    "Estimate the reading time of an article",
    "Monitor the humidity of a greenhouse",
    "Order spare parts when the stock runs low",
    "Anonymise the names in a medical report",
    "Detect edges in a satellite image",
    "Solve a system of linear equations",
    "Recommend a recipe for leftover vegetables",
    "Count the unique visitors of a web site",
    "Upgrade the dependencies of a Rust project",
    "Encrypt a hard disk with a passphrase",
    "Summarise the minutes of a board meeting",
    "Predict tomorrow's electricity demand",
    "Format source code before each commit",
    "Reconcile two lists of payments",
    "Tune the garbage collector of a Java service",
    "Find the cheapest flight in a week",
    "Classify support tickets by urgency",
    "Build an index for full text search",
    "Restore deleted rows from an audit table",
    "Stream a video in three resolutions",
    "Calibrate the arm of a welding robot",
    "Read the serial port of a thermometer",
    "Compose a melody in a minor key",
    "Check a contract for missing clauses",
];

/// Seeded chance (SplitMix64, Steele, Lea and Flood 2014).
pub struct Chance(u64);

impl Chance {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number in [least, most).
    pub fn between(&mut self, least: f64, most: f64) -> f64 {
        least + self.unit() * (most - least)
    }

    /// Whether something of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A whole number below `most`.
    pub fn below(&mut self, most: usize) -> usize {
        (self.unit() * most as f64) as usize
    }

    /// A score around `mean`: triangular with about this standard deviation, kept in [0, 10].
    pub fn around(&mut self, mean: f64, deviation: f64) -> f64 {
        let wide = deviation * 6f64.sqrt();
        (mean + wide * (self.unit() - self.unit())).clamp(0.0, 10.0)
    }
}

/// An agent: one connection, one project.
pub struct Agent {
    connection: Connection,
    project: usize,
    /// What it meets.
    pub chance: Chance,
}

/// A solution that was stored.
#[derive(Debug, Clone)]
pub struct Solution {
    /// Its key.
    pub key: String,
}

impl Agent {
    /// Connects.
    pub async fn new(address: std::net::SocketAddr, project: usize, seed: u64) -> anyhow::Result<Self> {
        let connection = Connection::open(address, KEY).await?;
        Ok(Self { connection, project, chance: Chance::new(seed) })
    }

    /// Calls the API.
    pub async fn post(&mut self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.connection.post_to(self.project, path, body).await
    }

    /// A program that shares hardly a word with any other.
    pub fn program(&mut self) -> String {
        let words: Vec<String> = (0..12).map(|_| format!("step_{:x}()", self.chance.next() >> 40)).collect();
        words.join("\n")
    }

    /// Stores a solution with the score that its author gives it.
    pub async fn learn(&mut self, task: &str, score: f64) -> anyhow::Result<Solution> {
        let body = json!({ "task": task, "code": self.program(), "eval_score": score });
        let learned = self.post("/v1/learn", &body).await?;
        Ok(Solution { key: learned["pattern_key"].as_str().context("a key")?.to_owned() })
    }

    /// Says what came of using a solution.
    pub async fn report(&mut self, solution: &Solution, success: bool, score: Option<f64>) -> anyhow::Result<()> {
        let mut body = json!({ "success": success });
        if let Some(score) = score {
            body["score"] = json!(score);
        }
        self.post(&format!("/v1/patterns/{}/outcome", solution.key), &body).await?;
        Ok(())
    }

    /// Keys for a task, best first; `question` may say more.
    pub async fn recall(&mut self, task: &str, question: Value) -> anyhow::Result<Vec<String>> {
        let mut body = json!({ "task": task, "readonly": true });
        body.as_object_mut().context("an object")?.extend(question.as_object().cloned().unwrap_or_default());
        let answer = self.post("/v1/recall", &body).await?;
        let matches = answer["matches"].as_array().context("matches")?;
        Ok(matches.iter().filter_map(|found| Some(found["pattern_key"].as_str()?.to_owned())).collect())
    }

    /// Which of the solutions an agent with every setting at its default is given first; `question` may say more.
    pub async fn first(&mut self, task: &str, of: &[Solution], question: Value) -> anyhow::Result<Option<usize>> {
        let found = self.recall(task, question).await?;
        Ok(found.first().and_then(|key| of.iter().position(|solution| solution.key == *key)))
    }
}
