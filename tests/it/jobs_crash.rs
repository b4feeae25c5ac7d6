//! A server that is killed again and again while it works on jobs: at the end every job is over, and what it was to do
//! is done once.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::support::postgres::Database;
use crate::support::program::{Server, on_database, on_directory};
use crate::support::{eventually, record};

/// How often the server is killed where nobody says otherwise.
const KILLS: usize = 20;
/// Records of one job: three batches of an import.
const RECORDS: usize = 1_100;

/// `ENGRAMIA_TEST_KILLS=200 cargo nextest run jobs_crash` does it more often.
#[expect(clippy::disallowed_methods, reason = "how long a test takes is no setting of the program")]
fn kills() -> usize {
    std::env::var("ENGRAMIA_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS)
}

/// The records of one job; their keys tell it from others.
fn records(job: usize) -> Value {
    let one = |n: usize| record(&format!("patterns/j{job:05}_{n:05}"), &format!("task {n} of job {job}"), 5.0);
    json!({ "records": (0..RECORDS).map(one).collect::<Vec<_>>() })
}

/// Submits imports until the server is gone; the acknowledged ones by their ids.
async fn submit_until_gone(server: &Server, next: &mut usize, submitted: &mut BTreeMap<String, usize>) {
    loop {
        *next += 1;
        match server.submit("/v1/import", &records(*next)).await {
            Ok(answer) => {
                assert_eq!(answer.status, 202, "{answer:?}");
                submitted.insert(answer.json()["job_id"].as_str().expect("an id").to_owned(), *next);
            }
            Err(_) => return,
        }
        // The queue stays short, so that the kills meet work and not submissions.
        sleep(Duration::from_millis(150)).await;
    }
}

async fn every_job_is_done_once(start: impl Fn() -> Command) {
    let (mut next, mut submitted) = (0, BTreeMap::new());
    let random = RandomState::new();
    let begin = || {
        let mut command = start();
        // Embedding is not what is looked at here.
        command.env("ENGRAMIA_EMBEDDING_MODEL", "none").env("ENGRAMIA_JOB_POLL_INTERVAL", "0.2");
        Server::start(command)
    };
    for round in 0..kills() {
        let mut server = begin().await;
        let wait = Duration::from_millis(200 + random.hash_one(round) % 800);
        let killing = async {
            sleep(wait).await;
            server.signal("KILL");
        };
        tokio::join!(submit_until_gone(&server, &mut next, &mut submitted), killing);
        assert!(!server.wait().success());
    }
    assert!(submitted.len() >= kills() / 4, "there was something to do: {}", submitted.len());

    let server = begin().await;
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    let mut expected = BTreeSet::new();
    for (id, number) in &submitted {
        let job = eventually("every job ends", async || {
            let job = server.get(&format!("/v1/jobs/{id}")).await.ok();
            job["completed_at"].is_string().then_some(job)
        })
        .await;
        let state = job["status"].as_str().expect("a state").to_owned();
        if state == "completed" {
            assert_eq!(job["result"], json!({ "imported": RECORDS, "total": RECORDS }), "{job}");
            expected.insert(*number);
        } else {
            // Killed three times before anything was done: that is said, and not hidden.
            assert!(state == "failed" && job["attempts"].as_u64() >= Some(3), "{job}");
            assert!(job["error"].as_str().is_some_and(|error| error.starts_with("WorkerLost: ")), "{job}");
        }
        *states.entry(state).or_default() += 1;
    }
    for state in ["pending", "running"] {
        eventually("also what was not acknowledged is over", async || {
            let left = server.get(&format!("/v1/jobs?status={state}")).await.ok();
            (left == json!({ "jobs": [] })).then_some(())
        })
        .await;
    }
    println!("{} kills, jobs: {states:?}", kills());
    let exported = server.get("/v1/export").await.ok();
    let mut found: BTreeMap<usize, usize> = BTreeMap::new();
    for record in exported["records"].as_array().expect("a list") {
        let key = record["key"].as_str().expect("a key");
        let number = key.strip_prefix("patterns/j").and_then(|rest| rest[..5].parse().ok()).expect("a number");
        *found.entry(number).or_default() += 1;
    }
    for number in expected {
        assert_eq!(found.get(&number), Some(&RECORDS), "job {number}");
    }
    // Each import that came to its end says so in the same transaction, also those whose submission was not answered.
    let audit = server.get("/v1/audit?action=bulk_import&limit=1000").await.ok();
    let said = audit["events"].as_array().expect("a list").iter();
    let whole = said.filter(|event| event["detail"]["imported"] == RECORDS).count();
    let complete = found.values().filter(|count| **count == RECORDS).count();
    assert_eq!(whole, complete.min(1_000), "no job was done twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_embedded_server_does_every_job_once() {
    let data = TempDir::new().expect("a directory");
    every_job_is_done_once(|| on_directory(data.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_over_postgres_does_every_job_once() {
    let database = Database::new().await;
    every_job_is_done_once(|| on_database(&database.url())).await;
}
