//! Events and roll-ups over HTTP: what is counted, over which time, and what stays.

use std::sync::Arc;

use axum::http::Method;
use chrono::TimeDelta;
use engramia::domain::analytics::Event;
use engramia::domain::{PatternKey, Scope, unix_seconds};
use engramia::ports::Clock;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp};
use crate::support::fakes::StoppedClock;
use crate::support::postgres::Database;
use crate::support::{eventually, keys, run};

/// One application on each store.
async fn on_both_stores() -> Vec<(TestApp, Arc<StoppedClock>, Option<Database>)> {
    let clock = Arc::new(StoppedClock::new());
    let mut both = vec![(Setup::new().clock(clock.clone()).start().await, clock, None)];
    let (clock, database) = (Arc::new(StoppedClock::new()), Database::new().await);
    both.push((Setup::new().clock(clock.clone()).postgres(&database).start().await, clock, Some(database)));
    both
}

async fn events(app: &TestApp, query: &str) -> Value {
    app.owner().get(&format!("/v1/analytics/events{query}")).await.ok()
}

async fn roll_up(app: &TestApp, window: &str) -> Value {
    app.owner().post("/v1/analytics/rollup", &json!({ "window": window })).await.ok()
}

#[tokio::test]
async fn a_caller_sees_its_own_learns_and_recalls_at_once() {
    for (app, clock, _database) in on_both_stores().await {
        assert_eq!(events(&app, "").await, json!({ "events": [], "total": 0 }));
        let at = unix_seconds(clock.now());
        let learned = app.owner().post("/v1/learn", &run("read a table", "code()", 8.5)).await.ok();
        clock.pass(TimeDelta::seconds(10));
        app.owner().post("/v1/recall", &json!({ "task": "read a table" })).await.ok();
        clock.pass(TimeDelta::seconds(10));
        app.owner().post("/v1/recall", &json!({ "task": "read a table", "min_score": 9 })).await.ok();
        app.owner().post("/v1/recall", &json!({ "task": "read a table", "readonly": true })).await.ok();
        let none = json!({ "kind": "recall", "ts": at + 20.0, "eval_score": null, "similarity": null,
            "reuse_tier": null, "pattern_key": "" });
        let hit = json!({ "kind": "recall", "ts": at + 10.0, "eval_score": null, "similarity": 1.0,
            "reuse_tier": "duplicate", "pattern_key": learned["pattern_key"] });
        let learn = json!({ "kind": "learn", "ts": at, "eval_score": 8.5, "similarity": null,
            "reuse_tier": null, "pattern_key": learned["pattern_key"] });
        assert_eq!(events(&app, "").await, json!({ "events": [none, hit, learn], "total": 3 }));
        assert_eq!(events(&app, "?limit=1").await, json!({ "events": [none], "total": 3 }));
        let since = format!("?since={}", at + 10.0);
        assert_eq!(events(&app, &since).await, json!({ "events": [none, hit], "total": 2 }));
        let other = app.owner().get("/v1/analytics/events").header("x-project-id", "other").await.ok();
        assert_eq!(other["total"], 0);
    }
    let app = TestApp::start().await;
    for bad in ["limit=0", "limit=1001", "limit=x", "since=-1", "since=x", "since=1e300", "since=NaN"] {
        app.owner().get(&format!("/v1/analytics/events?{bad}")).await.problem(422, "VALIDATION_ERROR");
    }
}

#[tokio::test]
async fn a_rollup_covers_the_window_until_now() {
    for (app, clock, _database) in on_both_stores().await {
        assert_eq!(roll_up(&app, "daily").await, json!({ "window": "daily", "rollups": [], "scopes_processed": 1 }));
        let last = async |window: &str| app.owner().get(&format!("/v1/analytics/rollup/{window}")).await;
        let missing = last("daily").await.problem(404, "NOT_FOUND");
        let text = "No 'daily' rollup found for this scope. POST /v1/analytics/rollup to compute one.";
        assert_eq!(missing["detail"], text);

        app.owner().post("/v1/learn", &run("an old task", "old()", 2.0)).await.ok();
        clock.pass(TimeDelta::hours(25));
        for (task, score) in [("read a table", 6.0), ("paint a fence", 8.0), ("boil an egg", 9.0)] {
            app.owner().post("/v1/learn", &run(task, "code()", score)).await.ok();
        }
        app.owner().post("/v1/recall", &json!({ "task": "read a table" })).await.ok();
        app.owner().post("/v1/recall", &json!({ "task": "read a table", "min_score": 9.5 })).await.ok();
        let daily = roll_up(&app, "daily").await;
        let now = clock.now();
        let expected = json!({
            "tenant_id": "default", "project_id": "default", "window": "daily",
            "window_start": "2025-06-16T00:00:00Z",
            "recall": { "total": 2, "duplicate_hits": 1, "adapt_hits": 0, "fresh_misses": 0, "reuse_rate": 0.5,
                "avg_similarity": 1.0 },
            "learn": { "total": 3, "avg_eval_score": 7.6667, "p50_eval_score": 8.0, "p90_eval_score": 9.0 },
            "roi_score": 6.0667,
            "computed_at": engramia::domain::time::iso(now)
        });
        assert_eq!(daily, json!({ "window": "daily", "rollups": [expected], "scopes_processed": 1 }));
        assert_eq!(last("daily").await.ok(), expected);
        last("hourly").await.problem(404, "NOT_FOUND");
        assert_eq!(roll_up(&app, "weekly").await["rollups"][0]["learn"]["total"], 4);
        let unnamed = app.owner().post("/v1/analytics/rollup", &json!({})).await.ok();
        assert_eq!(unnamed["window"], "daily");

        clock.pass(TimeDelta::hours(2));
        let hourly = roll_up(&app, "hourly").await;
        assert_eq!(hourly["rollups"][0]["roi_score"], 0.0, "a quiet hour of a scope that has events");
        assert_eq!(last("daily").await.ok(), expected, "the others stay");
        for bad in ["monthly", "%FF", "Daily", "%20"] {
            last(bad).await.problem(422, "VALIDATION_ERROR");
        }
        for bad in [json!("monthly"), json!(1)] {
            let body = json!({ "window": bad });
            app.owner().post("/v1/analytics/rollup", &body).await.problem(422, "VALIDATION_ERROR");
        }
    }
}

#[tokio::test]
async fn what_is_rolled_up_outlives_a_restart_and_its_patterns() {
    let app = TestApp::start().await;
    let learned = app.owner().post("/v1/learn", &run("read a table", "code()", 8.0)).await.ok();
    let found = app.owner().post("/v1/recall", &json!({ "task": "read a table" })).await.ok();
    let rolled = roll_up(&app, "weekly").await;
    app.owner().delete(&format!("/v1/patterns/{}", keys(&found)[0])).await.ok();
    let app = Setup::on(app.stop().await).start().await;
    let last = app.owner().get("/v1/analytics/rollup/weekly").await.ok();
    assert_eq!(last, rolled["rollups"][0]);
    let left = events(&app, "").await;
    assert_eq!((&left["total"], &left["events"][1]["pattern_key"]), (&json!(2), &learned["pattern_key"]));
    assert_eq!(roll_up(&app, "weekly").await["rollups"][0]["learn"]["total"], 1);
    app.owner().call(Method::POST, "/v1/aging").await.ok();
}

#[tokio::test]
async fn only_the_newest_events_of_a_scope_stay() {
    let setup = Setup::new().prepare(async |store| {
        let key = PatternKey::parse("patterns/x").expect("a key");
        let at = |n: u32| engramia::domain::Timestamp::UNIX_EPOCH + TimeDelta::seconds(i64::from(n));
        let old = (0..Event::KEPT).map(|n| Event::learned(format!("{n:05}"), at(n), 5.0, key.clone()));
        let mut work = store.begin(&Scope::default()).await.expect("a unit of work");
        work.analytics().append(&old.collect::<Vec<_>>()).await.expect("appended");
        work.commit().await.expect("committed");
    });
    let app = setup.await.start().await;
    for _ in 0..600 {
        app.owner().post("/v1/recall", &json!({ "task": "anything" })).await.ok();
    }
    eventually("the oldest events are gone", async || {
        (events(&app, "?limit=1").await["total"] == Event::KEPT).then_some(())
    })
    .await;
    let newest = events(&app, "?limit=1000").await["events"].clone();
    let recalls = newest.as_array().expect("a list").iter().filter(|event| event["kind"] == "recall").count();
    assert_eq!(recalls, 600, "not the newest");
}
