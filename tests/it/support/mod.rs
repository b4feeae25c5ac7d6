//! What the tests share: an application in a temporary directory, the people who call it, stand-ins for the outside,
//! an issuer of tokens, databases, the real program, and the operations of the OpenAPI document.

pub mod app;
pub mod cluster;
pub mod fakes;
pub mod issuer;
pub mod memory;
pub mod operations;
pub mod payments;
pub mod people;
pub mod postgres;
pub mod program;
pub mod provider;

use std::time::Duration;

use serde_json::{Value, json};

/// Body of a learn.
pub fn run(task: &str, code: &str, score: f64) -> Value {
    json!({ "task": task, "code": code, "eval_score": score })
}

/// A record of an import.
pub fn record(key: &str, task: &str, score: f64) -> Value {
    json!({
        "key": key,
        "data": { "task": task, "success_score": score, "design": { "code": format!("solve({key:?})") } }
    })
}

/// Keys of the matches of a recall, best first.
pub fn keys(answer: &Value) -> Vec<String> {
    let matches = answer["matches"].as_array().expect("a list of matches");
    matches.iter().map(|found| found["pattern_key"].as_str().expect("a key").to_owned()).collect()
}

/// Asks again until there is an answer, for work that is done in the background.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    for _ in 0..1200 {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never happened: {what}");
}
