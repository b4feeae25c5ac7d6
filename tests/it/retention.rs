//! How long patterns are kept, and that what is older goes.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use chrono::TimeDelta;
use engramia::domain::{Role, Scope, unix_seconds};
use engramia::ports::Clock;
use engramia::store::Sweep;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp, api_key, store_key};
use crate::support::eventually;
use crate::support::fakes::StoppedClock;
use crate::support::people::{Answer, Call, Person};
use crate::support::postgres::Database;

const PATH: &str = "/v1/governance/retention";

fn set(person: &Person, body: &Value) -> Call {
    person.call(Method::PUT, PATH).body(body.to_string())
}

async fn set_days(person: &Person, days: impl Into<Value>) -> Value {
    set(person, &json!({ "retention_days": days.into() })).await.ok()
}

fn says(answer: &Value) -> (Option<u64>, &str) {
    (answer["retention_days"].as_u64(), answer["source"].as_str().expect("a source"))
}

async fn apply(person: &Person, dry_run: bool) -> u64 {
    let answer = person.post(&format!("{PATH}/apply"), &json!({ "dry_run": dry_run })).await.ok();
    assert_eq!(answer["dry_run"], dry_run);
    answer["purged_count"].as_u64().expect("a count")
}

/// Imports so many patterns of each age in days.
async fn import(person: &Person, clock: &StoppedClock, ages: &[(usize, f64)]) {
    let mut records = Vec::new();
    for (count, days) in ages {
        for number in 0..*count {
            let timestamp = unix_seconds(clock.now()) - days * 86_400.0;
            let data = json!({ "task": format!("task {number} of age {days}"), "timestamp": timestamp });
            records.push(json!({ "key": format!("patterns/{days}_{number:05}"), "data": data }));
        }
    }
    person.post("/v1/import", &json!({ "records": records })).await.ok();
}

async fn count(person: &Person) -> u64 {
    person.get("/v1/health").await.ok()["pattern_count"].as_u64().expect("a count")
}

fn places(answer: &Answer) -> Vec<Value> {
    let body = answer.problem(422, "VALIDATION_ERROR");
    body["detail"].as_array().expect("a list").iter().map(|item| item["loc"].clone()).collect()
}

#[tokio::test]
async fn the_nearest_level_that_says_something_decides() {
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let app = setup.start().await;
        let owner = app.owner();
        let shown = async || owner.get(PATH).await.ok();
        assert_eq!(says(&shown().await), (Some(365), "default"));
        let tenant = set(&owner, &json!({ "retention_days": 36_500, "level": "tenant" })).await.ok();
        assert_eq!(says(&tenant), (Some(36_500), "tenant"));
        assert_eq!(says(&set_days(&owner, 1).await), (Some(1), "project"));
        assert_eq!(says(&shown().await), (Some(1), "project"));
        // Another project of the tenant, which nobody has registered.
        let other = owner.get(PATH).header("x-project-id", "other").await.ok();
        assert_eq!((says(&other), &other["project_id"]), ((Some(36_500), "tenant"), &json!("other")));
        let other = set(&owner, &json!({ "retention_days": 7 })).header("x-project-id", "other").await.ok();
        assert_eq!(says(&other), (Some(7), "project"));
        assert_eq!(says(&set_days(&owner, Value::Null).await), (Some(36_500), "tenant"));
        let cleared = set(&owner, &json!({ "retention_days": null, "level": "tenant" })).await.ok();
        assert_eq!(says(&cleared), (Some(365), "default"));
        assert_eq!(says(&set_days(&owner, Value::Null).await), (Some(365), "default"), "nothing to clear");
        let events = owner.get("/v1/audit?action=retention_set&limit=1").await.ok();
        assert_eq!(events["events"][0]["detail"]["level"], "project");
    }
}

#[tokio::test]
async fn days_are_whole_numbers_inside_the_bounds() {
    let app = TestApp::start().await;
    let owner = app.owner();
    for bad in [json!(0), json!(-1), json!(36_501), json!(1.5), json!("90"), json!(true), json!([]), json!({})] {
        let answer = set(&owner, &json!({ "retention_days": bad })).await;
        assert_eq!(places(&answer), [json!(["body", "retention_days"])], "{bad}");
    }
    assert_eq!(places(&set(&owner, &json!({})).await), [json!(["body", "retention_days"])]);
    let answer = set(&owner, &json!({ "retention_days": 5, "level": "default" })).await;
    assert_eq!(places(&answer), [json!(["body", "level"])]);
    for bad in [json!("false"), json!(1), json!(null), json!([1])] {
        let answer = owner.post(&format!("{PATH}/apply"), &json!({ "dry_run": bad })).await;
        assert_eq!(places(&answer), [json!(["body", "dry_run"])], "{bad}");
    }
    assert_eq!(places(&owner.send(&format!("{PATH}/apply"), "").await), [json!(["body"])]);
    assert_eq!(says(&owner.get(PATH).await.ok()), (Some(365), "default"), "nothing half-done");
}

#[tokio::test]
async fn only_owners_set_what_holds_for_the_whole_tenant() {
    let app = Setup::new().keyed().await.start().await;
    let admin = app.of_role("admin");
    let refused = set(&admin, &json!({ "retention_days": 5, "level": "tenant" })).await;
    refused.problem(403, "FORBIDDEN");
    assert_eq!(says(&set(&admin, &json!({ "retention_days": 5 })).await.ok()), (Some(5), "project"));
    let owner = set(&app.owner(), &json!({ "retention_days": 9, "level": "tenant" })).await.ok();
    assert_eq!(says(&owner), (Some(5), "project"), "what holds for this project");
}

#[tokio::test]
async fn zero_as_the_default_keeps_patterns_for_ever() {
    let clock = Arc::new(StoppedClock::new());
    let app = Setup::new().clock(clock.clone()).var("ENGRAMIA_RETENTION_DAYS", "0").start().await;
    let owner = app.owner();
    import(&owner, &clock, &[(1, 20_000.0)]).await;
    assert_eq!(says(&owner.get(PATH).await.ok()), (None, "default"));
    assert_eq!((apply(&owner, true).await, apply(&owner, false).await, count(&owner).await), (0, 0, 1));
}

#[tokio::test]
async fn what_is_older_goes_in_batches_with_everything_that_hangs_on_it() {
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let clock = Arc::new(StoppedClock::new());
        let app = setup.clock(clock.clone()).start().await;
        let owner = app.owner();
        import(&owner, &clock, &[(250, 91.0), (1, 90.0), (2, 89.0)]).await;
        let tags = json!({ "pattern_key": "patterns/91_00000", "skills": ["csv"] });
        owner.post("/v1/skills/register", &tags).await.ok();
        // Another project keeps its own.
        let elsewhere = json!({ "records": [{ "key": "patterns/x", "data": { "task": "t", "timestamp": 5.0 } }] });
        owner.post("/v1/import", &elsewhere).header("x-project-id", "other").await.ok();
        set_days(&owner, 90).await;
        assert_eq!((apply(&owner, true).await, count(&owner).await), (250, 253), "only counted");
        assert_eq!((apply(&owner, false).await, count(&owner).await), (250, 3), "what is 90 days old stays");
        assert_eq!((apply(&owner, true).await, apply(&owner, false).await), (0, 0));
        let found = owner.post("/v1/skills/search", &json!({ "required": ["csv"] })).await.ok();
        assert_eq!(found["matches"], json!([]));
        let recalled = owner.post("/v1/recall", &json!({ "task": "task 0 of age 91", "limit": 50 })).await.ok();
        assert_eq!(crate::support::keys(&recalled).len(), 3, "{recalled}");
        let other = owner.get("/v1/health").header("x-project-id", "other").await.ok();
        assert_eq!(other["pattern_count"], 1);
        let events = owner.get("/v1/audit?action=retention_applied").await.ok();
        let details: Vec<_> =
            events["events"].as_array().expect("a list").iter().map(|event| &event["detail"]).collect();
        let said = |at: usize| (details[at]["purged_count"].as_u64(), details[at]["dry_run"].as_bool());
        assert_eq!((details.len(), said(2), said(3)), (4, (Some(250), Some(false)), (Some(250), Some(true))));
    }
}

#[tokio::test]
async fn a_job_removes_what_the_request_would_have() {
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let clock = Arc::new(StoppedClock::new());
        let app = setup.clock(clock.clone()).start().await;
        let owner = app.owner();
        import(&owner, &clock, &[(150, 400.0), (1, 1.0)]).await;
        for (dry_run, left) in [(true, 151), (false, 1)] {
            let call = owner.post(&format!("{PATH}/apply"), &json!({ "dry_run": dry_run }));
            let accepted = call.header("prefer", "respond-async").await;
            assert_eq!(accepted.status.as_u16(), 202, "{}", accepted.text());
            let path = accepted.header("location").expect("a place").to_owned();
            let job = eventually("the job is over", async || {
                let job = owner.get(&path).await.ok();
                job["completed_at"].is_string().then_some(job)
            })
            .await;
            assert_eq!(job["result"], json!({ "purged_count": 150, "dry_run": dry_run }), "{job}");
            assert_eq!(count(&owner).await, left);
        }
        let events = owner.get("/v1/audit?action=retention_applied").await.ok();
        assert_eq!(events["events"][0]["detail"]["purged_count"], 150);
    }
}

#[tokio::test]
async fn what_is_too_old_goes_by_itself() {
    let database = Database::new().await;
    for database in [None, Some(&database)] {
        let clock = Arc::new(StoppedClock::new());
        let on = |setup: Setup| {
            let setup = setup.stored_keys().var("ENGRAMIA_RETENTION_DAYS", "0").clock(clock.clone());
            if let Some(database) = database { setup.postgres(database) } else { setup }
        };
        let scopes = [("acme", "one"), ("acme", "two"), ("other", "one")];
        let key = |at: usize| format!("key-{at}-0123456789");
        let setup = on(Setup::new())
            .without_worker()
            .prepare(async |store| {
                for (at, (tenant, project)) in scopes.iter().enumerate() {
                    store_key(store, &api_key(&key(at), Scope::verified(tenant, project), Role::Owner)).await;
                }
                // As if a server had run before.
                let sweep = Sweep { name: "retention", every: TimeDelta::hours(6), limit: 20 };
                store.sweep(&sweep, clock.now() - TimeDelta::hours(7)).await.expect("begun");
            })
            .await;
        let app = setup.start().await;
        for at in 0..3 {
            import(&app.holder_of(&key(at)), &clock, &[(120, 31.0), (3, 29.0)]).await;
        }
        set_days(&app.holder_of(&key(0)), 30).await;
        let tenant = json!({ "retention_days": 30, "level": "tenant" });
        set(&app.holder_of(&key(2)), &tenant).await.ok();
        let again = on(Setup::on(app.stop().await));
        let app = again.var("ENGRAMIA_METRICS", "true").var("ENGRAMIA_METRICS_TOKEN", "m").start().await;
        for (at, left) in [(0, 3), (2, 3), (1, 123)] {
            let person = app.holder_of(&key(at));
            eventually("the purge", async || (count(&person).await == left).then_some(())).await;
        }
        let events = eventually("the record", async || {
            let events = app.holder_of(&key(2)).get("/v1/audit?action=retention_applied").await.ok();
            (events["total"] == 1).then_some(events)
        });
        let events = events.await;
        let detail = &events["events"][0]["detail"];
        assert_eq!((&detail["purged_count"], &detail["automatic"]), (&json!(120), &json!(true)));
        let text = eventually("the metric", async || {
            let text = app.holder_of("m").get("/metrics").await.text();
            text.contains("engramia_retention_purged_total 240").then_some(text)
        });
        text.await;
        tokio::time::timeout(Duration::from_secs(20), app.stop()).await.expect("it stops");
    }
}
