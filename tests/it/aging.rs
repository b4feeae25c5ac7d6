//! How scores and recurring issues fade with age, and what is forgotten.

use std::sync::Arc;

use chrono::TimeDelta;
use engramia::domain::{Feedback, Ratings, Scope, Timestamp};
use engramia::ports::Clock;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp};
use crate::support::fakes::StoppedClock;
use crate::support::run;

/// Scores by key.
async fn scores(app: &TestApp) -> Vec<(String, f64)> {
    let exported = app.owner().get("/v1/export").await.ok();
    let records = exported["records"].as_array().expect("a list").clone();
    let score = |record: &Value| record["data"]["success_score"].as_f64().expect("a score");
    records.iter().map(|record| (record["key"].as_str().expect("a key").to_owned(), score(record))).collect()
}

async fn age(app: &TestApp) -> u64 {
    app.owner().call(axum::http::Method::POST, "/v1/aging").await.ok()["pruned"].as_u64().expect("a count")
}

#[tokio::test]
async fn aging_depends_on_age_and_not_on_how_often_it_runs() {
    let mut outcomes = Vec::new();
    for runs_a_week in [0u32, 1, 7, 40] {
        let clock = Arc::new(StoppedClock::new());
        let app = Setup::new().clock(clock.clone()).start().await;
        app.owner().post("/v1/learn", &run("a task", "code()", 8.0)).await.ok();
        for _ in 0..10 {
            for _ in 0..runs_a_week {
                clock.pass(TimeDelta::weeks(1) / i32::try_from(runs_a_week).expect("small"));
                assert_eq!(age(&app).await, 0);
            }
            if runs_a_week == 0 {
                clock.pass(TimeDelta::weeks(1));
            }
        }
        age(&app).await;
        outcomes.push(scores(&app).await[0].1);
    }
    let expected = 8.0 * 0.98f64.powi(10);
    assert!((outcomes[0] - expected).abs() < 1e-3, "{outcomes:?} against {expected}");
    assert!(outcomes.iter().all(|score| (score - outcomes[0]).abs() < 0.02), "{outcomes:?}");
}

#[tokio::test]
async fn aging_prunes_what_has_faded_and_nothing_else() {
    let clock = Arc::new(StoppedClock::new());
    let app = Setup::new().clock(clock.clone()).start().await;
    app.owner().post("/v1/learn", &run("a weak task", "weak()", 0.11)).await.ok();
    app.owner().post("/v1/learn", &run("a strong task", "strong()", 9.0)).await.ok();
    assert_eq!(age(&app).await, 0);
    clock.pass(TimeDelta::weeks(5));
    assert_eq!(age(&app).await, 1);
    assert_eq!(age(&app).await, 0);
    assert_eq!(scores(&app).await.len(), 1);
    assert_eq!(app.owner().get("/v1/health").await.ok()["pattern_count"], 1);
}

fn issue(text: &str, count: u32, score: f64, at: Timestamp) -> Feedback {
    Feedback { text: text.into(), count, score, ratings: Ratings::default(), last_seen: at, decayed_at: at }
}

async fn with_issues(clock: &Arc<StoppedClock>) -> TestApp {
    let now = clock.now();
    let issues = [
        issue("Missing error handling", 3, 0.9, now),
        issue("missing type hints", 2, 0.5, now),
        issue("Seen only once", 1, 1.0, now),
        issue("No tests", 4, 0.2, now),
    ];
    let setup = Setup::new().clock(clock.clone());
    let setup = setup.prepare(async |store| {
        let mut work = store.begin(&Scope::default()).await.expect("a writer");
        for issue in &issues {
            work.feedback().put(issue, None).await.expect("stored");
        }
        work.commit().await.expect("committed");
    });
    setup.await.start().await
}

#[tokio::test]
async fn recurring_issues_come_by_weight_and_in_pages() {
    let app = with_issues(&Arc::new(StoppedClock::new())).await;
    let page = async |query: &str| app.owner().get(&format!("/v1/feedback{query}")).await.ok();
    let all = json!(["Missing error handling", "missing type hints", "No tests"]);
    assert_eq!(page("").await, json!({ "feedback": all, "has_more": false, "next_offset": null }));
    let first =
        json!({ "feedback": ["Missing error handling", "missing type hints"], "has_more": true, "next_offset": 2 });
    assert_eq!(page("?limit=2").await, first);
    assert_eq!(page("?limit=2&offset=2").await["feedback"], json!(["No tests"]));
    let matching = page("?task_type=MISSING").await;
    assert_eq!(matching["feedback"], json!(["Missing error handling", "missing type hints"]));
    assert_eq!(page("?task_type=%25").await["feedback"], json!([]), "no wildcards");
    assert_eq!(page("?offset=10000").await["feedback"], json!([]));
    let other = app.owner().get("/v1/feedback").header("x-project-id", "other").await.ok();
    assert_eq!(other["feedback"], json!([]));
}

#[tokio::test]
async fn issues_fade_by_age_and_are_forgotten() {
    let clock = Arc::new(StoppedClock::new());
    let app = with_issues(&clock).await;
    let decay = async || app.owner().call(axum::http::Method::POST, "/v1/feedback/decay").await.ok()["pruned"].clone();
    assert_eq!(decay().await, 0);
    for _ in 0..3 {
        clock.pass(TimeDelta::days(7));
    }
    // 0.2 * 0.9^3 = 0.146 is below 0.15; 0.5 * 0.9^3 is not.
    assert_eq!(decay().await, 1);
    assert_eq!(decay().await, 0, "a second run at the same time changes nothing");
    let left = app.owner().get("/v1/feedback").await.ok();
    assert_eq!(left["feedback"], json!(["Missing error handling", "missing type hints"]));
}
