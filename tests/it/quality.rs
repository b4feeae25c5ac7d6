//! What came of a pattern's use changes where it stands.

use std::sync::Arc;

use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp};
use crate::support::fakes::StoppedClock;
use crate::support::{record, run};

async fn learn(app: &TestApp, code: &str, score: f64) -> String {
    let learned = app.owner().post("/v1/learn", &run("rotate the log files", code, score)).await.ok();
    learned["pattern_key"].as_str().expect("a key").to_owned()
}

async fn report(app: &TestApp, key: &str, body: Value) -> Value {
    app.owner().post(&format!("/v1/patterns/{key}/outcome"), &body).await.ok()
}

/// Key of the pattern that an agent is given, with everything at its default.
async fn best(app: &TestApp) -> String {
    let question = json!({ "task": "rotate the log files", "readonly": true });
    let answer = app.owner().post("/v1/recall", &question).await.ok();
    assert_eq!(answer["matches"].as_array().map(Vec::len), Some(1), "one task, one answer: {answer}");
    answer["matches"][0]["pattern_key"].as_str().expect("a key").to_owned()
}

#[tokio::test]
async fn what_fails_sinks_and_what_works_rises() {
    let app = TestApp::start().await;
    let (praised, humble) = (learn(&app, "mv a b", 9.5).await, learn(&app, "logrotate -f", 6.0).await);
    assert_eq!(best(&app).await, praised);
    let before = report(&app, &praised, json!({ "success": false, "note": "permission denied" })).await;
    let after = report(&app, &praised, json!({ "success": false, "score": 1.5 })).await;
    assert!(after["quality"].as_f64() < before["quality"].as_f64());
    assert_eq!((&after["evidence"]["count"], &after["recorded"]), (&json!(3), &json!(true)));
    assert_eq!(best(&app).await, humble);
    report(&app, &humble, json!({ "success": true })).await;
    assert_eq!(best(&app).await, humble);
}

#[tokio::test]
async fn praising_oneself_beats_nothing_that_was_tried() {
    let app = TestApp::start().await;
    let (praised, tried) = (learn(&app, "mv a b", 10.0).await, learn(&app, "logrotate -f", 7.0).await);
    for _ in 0..30 {
        assert_eq!(learn(&app, "mv a b", 10.0).await, praised);
    }
    assert_eq!(best(&app).await, praised);
    for _ in 0..3 {
        report(&app, &tried, json!({ "success": true, "score": 8.5 })).await;
    }
    assert_eq!(best(&app).await, tried);
}

#[tokio::test]
async fn a_correction_outweighs_a_long_record() {
    let app = TestApp::start().await;
    let (old, new) = (learn(&app, "mv a b", 9.0).await, learn(&app, "logrotate -f", 6.0).await);
    for _ in 0..40 {
        report(&app, &old, json!({ "success": true })).await;
    }
    assert_eq!(best(&app).await, old);
    let judged = report(&app, &old, json!({ "success": false, "score": 1, "correction": true })).await;
    assert!(judged["evidence"]["mean"].as_f64() < Some(4.0), "{judged}");
    assert_eq!(best(&app).await, new);
}

#[tokio::test]
async fn one_run_counts_once_however_often_it_is_reported() {
    let app = TestApp::start().await;
    let key = learn(&app, "mv a b", 9.0).await;
    let body = json!({ "success": false, "run_id": "run-17" });
    let path = format!("/v1/patterns/{key}/outcome");
    let owner = app.owner();
    let answers = join_all((0..20).map(|_| async { owner.post(&path, &body).await.ok() })).await;
    assert_eq!(answers.iter().filter(|answer| answer["recorded"] == true).count(), 1);
    assert!(answers.iter().all(|answer| answer["evidence"]["count"] == 2), "{answers:?}");
    let other = report(&app, &key, json!({ "success": false, "run_id": "run-18" })).await;
    assert_eq!((&other["recorded"], &other["evidence"]["count"]), (&json!(true), &json!(3)));
}

#[tokio::test]
async fn an_imported_pattern_keeps_what_was_known_of_it() {
    let app = TestApp::start().await;
    let mut known = record("patterns/known", "rotate the log files", 9.0);
    known["data"]["_evidence"] = json!({ "weight": 20.0, "sum": 190.0, "count": 21, "variance": 0.4 });
    app.owner().post("/v1/import", &json!({ "records": [known, record("patterns/new", "paint", 5.0)] })).await.ok();
    let one_failure = report(&app, "patterns/known", json!({ "success": false })).await;
    assert_eq!(one_failure["evidence"]["count"], 22, "{one_failure}");
    assert!(one_failure["quality"].as_f64() > Some(0.9), "one failure after twenty: {one_failure}");
    let exported = app.owner().get("/v1/export").await.ok();
    let records = exported["records"].as_array().expect("a list");
    let again = records.iter().find(|record| record["key"] == "patterns/known").expect("there");
    assert_eq!(again["data"]["_evidence"]["count"], 22);
}

#[tokio::test]
async fn evidence_fades_with_time() {
    let clock = Arc::new(StoppedClock::new());
    let app = Setup::new().clock(clock.clone()).start().await;
    let key = learn(&app, "mv a b", 5.0).await;
    for _ in 0..10 {
        report(&app, &key, json!({ "success": true })).await;
    }
    clock.pass(TimeDelta::days(720));
    let judged = report(&app, &key, json!({ "success": false })).await;
    assert!(judged["quality"].as_f64() < Some(0.75), "ten old successes count less than one: {judged}");
}

#[tokio::test]
async fn wrong_outcomes_are_refused_by_name() {
    let app = TestApp::start().await;
    let key = learn(&app, "mv a b", 9.0).await;
    let path = format!("/v1/patterns/{key}/outcome");
    for (body, field) in [
        (json!({}), "success"),
        (json!({ "success": "maybe" }), "success"),
        (json!({ "success": null }), "success"),
        (json!({ "success": true, "score": 11 }), "score"),
        (json!({ "success": true, "run_id": "x".repeat(201) }), "run_id"),
        (json!({ "success": true, "note": 5 }), "note"),
        (json!({ "success": true, "correction": "perhaps" }), "correction"),
    ] {
        let refused = app.owner().post(&path, &body).await.problem(422, "VALIDATION_ERROR");
        assert_eq!(refused["detail"][0]["loc"], json!(["body", field]), "{refused}");
    }
    let good = json!({ "success": true });
    app.owner().post("/v1/patterns/patterns/nobody/outcome", &good).await.problem(404, "NOT_FOUND");
    app.owner().post("/v1/patterns/nonsense/outcome", &good).await.problem(422, "VALIDATION_ERROR");
    let wrong = app.owner().post(&format!("/v1/patterns/{key}"), &good).await;
    wrong.problem(405, "METHOD_NOT_ALLOWED");
    assert_eq!(wrong.header("allow"), Some("DELETE"));
    let encoded = path.replacen("patterns/patterns/", "patterns/patterns%2F", 1);
    assert_eq!(app.owner().post(&encoded, &good).await.ok()["recorded"], true);
}

#[tokio::test]
async fn the_note_of_a_failure_joins_the_recurring_issues() {
    let app = TestApp::start().await;
    let key = learn(&app, "mv a b", 9.0).await;
    for (success, run_id) in [(true, "a"), (false, "b"), (false, "b"), (false, "c")] {
        let note = "The disk was full before the rotation began.";
        report(&app, &key, json!({ "success": success, "note": note, "run_id": run_id })).await;
    }
    let clusters = app.owner().post("/v1/analyze-failures", &json!({})).await.ok()["clusters"].clone();
    assert_eq!((&clusters[0]["total_count"], &clusters[0]["avg_score"]), (&json!(2), &json!(0.0)), "{clusters}");
    let question = json!({ "task": "rotate the log files", "readonly": true });
    let warned = app.owner().post("/v1/recall", &question).await.ok();
    assert_eq!(warned["warnings"][0]["count"], 2, "{warned}");
}

#[tokio::test]
async fn secrets_in_a_note_are_not_kept() {
    let app = TestApp::start().await;
    let key = learn(&app, "mv a b", 9.0).await;
    report(&app, &key, json!({ "success": false, "note": "refused: AKIAIOSFODNN7EXAMPLE" })).await;
    let root = app.stop().await;
    let kept = walk(root.path());
    assert!(!kept.windows(20).any(|window| window == b"AKIAIOSFODNN7EXAMPLE"));
    assert!(kept.windows(8).any(|window| window == b"refused:"), "the rest of the note is there");
}

/// Every byte of every file of a directory.
fn walk(root: &std::path::Path) -> Vec<u8> {
    let entries = std::fs::read_dir(root).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.is_file()).flat_map(|path| std::fs::read(path).expect("readable")).collect()
}
