//! The audit log over HTTP: what is recorded, who reads it, and how much of a flood is kept.

use std::sync::Arc;

use chrono::TimeDelta;
use engramia::domain::{Role, Scope, Timestamp};
use engramia::store::ApiKey;
use serde_json::{Value, json};

use crate::support::app::{BOOTSTRAP_TOKEN, KEY, Setup, TestApp, api_key, store_key};
use crate::support::fakes::StoppedClock;
use crate::support::people::Person;
use crate::support::{record, run};

/// Events of the caller's project, the newest first.
async fn events(person: &Person, query: &str) -> Vec<Value> {
    let page = person.get(&format!("/v1/audit?{query}")).await.ok();
    let events = page["events"].as_array().expect("a list").clone();
    assert_eq!(page["total"], events.len());
    events
}

fn actions(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["action"].as_str().expect("a text")).collect()
}

#[tokio::test]
async fn whatever_a_caller_does_is_recorded_with_its_actor() {
    let app = Setup::new().keyed().await.start().await;
    let owner = app.owner();
    let key = owner.post("/v1/keys", &json!({ "name": "CI", "role": "reader" })).header("x-request-id", "r-1").await;
    let id = key.json()["id"].clone();
    let path = format!("/v1/keys/{}", id.as_str().expect("a text"));
    owner.send(&format!("{path}/rotate"), "").await.ok();
    owner.delete(&path).await.ok();
    let records = json!({ "records": [record("patterns/a", "t", 5.0)], "overwrite": true });
    owner.post("/v1/import", &records).await.ok();
    owner.get("/v1/export").await.ok();
    owner.delete("/v1/patterns/patterns/a").await.ok();
    owner.delete("/v1/patterns/patterns/a").await.ok();

    let mut found = events(&owner, "limit=100").await;
    // The export is written in the background, so that its place may be another.
    let export = found.remove(found.iter().position(|event| event["action"] == "data_exported").expect("there"));
    assert_eq!(export["detail"]["patterns"], 1);
    assert_eq!(actions(&found), ["pattern_deleted", "bulk_import", "key_revoked", "key_rotated", "key_created"]);
    let me = api_key(KEY, Scope::default(), Role::Owner).id;
    for event in found.iter().chain([&export]) {
        assert_eq!((&event["actor"], &event["ip"]), (&json!(me), &json!("127.0.0.1")), "{event}");
        assert!(event["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{event}");
        assert!(event["detail"]["request_id"].is_string(), "{event}");
    }
    assert_eq!((&found[0]["resource_type"], &found[0]["resource_id"]), (&json!("pattern"), &json!("patterns/a")));
    for (name, value) in [("total", json!(1)), ("imported", json!(1)), ("overwrite", json!(true))] {
        assert_eq!(found[1]["detail"][name], value);
    }
    for event in &found[2..] {
        assert_eq!((&event["resource_type"], &event["resource_id"]), (&json!("api_key"), &id));
    }
    assert_eq!(found[4]["detail"], json!({ "name": "CI", "request_id": "r-1", "role": "reader" }));
}

#[tokio::test]
async fn no_secret_gets_into_the_log() {
    let app = Setup::new().stored_keys().var("ENGRAMIA_BOOTSTRAP_TOKEN", BOOTSTRAP_TOKEN).start().await;
    app.anonymous().post("/v1/keys/bootstrap", &json!({ "token": "almost-right" })).await.problem(401, "UNAUTHORIZED");
    let body = json!({ "token": BOOTSTRAP_TOKEN, "tenant_name": "Acme Inc." });
    let first = app.anonymous().post("/v1/keys/bootstrap", &body).await.json()["key"].clone();
    let owner = app.holder_of(first.as_str().expect("a key"));
    let second = owner.post("/v1/keys", &json!({ "name": "n" })).await.json();
    let path = format!("/v1/keys/{}/rotate", second["id"].as_str().expect("a text"));
    let third = owner.send(&path, "").await.ok()["key"].clone();
    let page = owner.get("/v1/audit").await;
    for secret in [&first, &second["key"], &third, &json!(BOOTSTRAP_TOKEN), &json!("almost-right")] {
        assert!(!page.text().contains(secret.as_str().expect("a text")), "{}", page.text());
    }
    let created = page.ok()["events"].as_array().and_then(|events| events.last().cloned()).expect("the first key");
    assert_eq!((&created["actor"], &created["detail"]["source"]), (&json!(null), &json!("bootstrap")));
    assert_eq!(created["detail"]["tenant_name"], "Acme Inc.");
}

#[tokio::test]
async fn what_is_refused_in_a_unit_of_work_leaves_no_entry() {
    let app = Setup::new().keyed().await.start().await;
    app.owner().delete("/v1/patterns/patterns/none").await.ok();
    app.owner().delete("/v1/keys/00000000-0000-0000-0000-000000000007").await.problem(404, "NOT_FOUND");
    app.of_role("admin").post("/v1/keys", &json!({ "name": "n", "role": "owner" })).await.problem(403, "FORBIDDEN");
    let flawed = json!({ "records": [{ "key": "patterns/x", "data": {} }] });
    app.owner().post("/v1/import", &flawed).await.problem(422, "VALIDATION_ERROR");
    assert_eq!(events(&app.owner(), "").await, [json!(null); 0]);
}

/// Calls of a key that is dead, or has used up its allowance.
async fn flooded(app: &TestApp, person: &Person, clock: &StoppedClock, action: &str, code: (u16, &str)) -> Value {
    for _ in 0..20 {
        person.get("/v1/metrics").await.problem(code.0, code.1);
    }
    // The first one is written soon, those like it once a minute.
    clock.pass(TimeDelta::seconds(61));
    let found = events(&app.of_role("admin"), &format!("action={action}")).await;
    assert!(found.len() <= 2, "{found:?}");
    let count = |event: &Value| event["detail"]["count"].as_u64().unwrap_or(1);
    assert_eq!(found.iter().map(count).sum::<u64>(), 20, "{found:?}");
    found[0].clone()
}

#[tokio::test]
async fn a_flood_of_a_known_key_becomes_few_entries() {
    let clock = Arc::new(StoppedClock::new());
    let revoked = ApiKey { revoked_at: Some(Timestamp::UNIX_EPOCH), ..api_key("dead", Scope::default(), Role::Owner) };
    let setup = Setup::new().clock(clock.clone()).keyed().await.prepare(async |store| store_key(store, &revoked).await);
    let app = setup.await.var("ENGRAMIA_RATE_LIMIT_PER_KEY", "3").start().await;
    let event = flooded(&app, &app.holder_of("dead"), &clock, "auth_failure", (401, "UNAUTHORIZED")).await;
    assert_eq!(event["actor"], json!(revoked.id));
    assert_eq!((&event["detail"]["reason"], &event["detail"]["state"]), (&json!("invalid_key"), &json!("revoked")));

    for _ in 0..3 {
        app.owner().get("/v1/metrics").await.ok();
    }
    let event = flooded(&app, &app.owner(), &clock, "rate_limited", (429, "RATE_LIMITED")).await;
    assert_eq!((&event["detail"]["path"], &event["detail"]["limit"]), (&json!("/v1/metrics"), &json!(3)));
}

#[tokio::test]
async fn strangers_leave_no_entry() {
    let app = Setup::new().keyed().await.start().await;
    app.anonymous().get("/v1/health").await.problem(401, "UNAUTHORIZED");
    app.holder_of("nobody's").get("/v1/health").await.problem(401, "UNAUTHORIZED");
    assert_eq!(events(&app.owner(), "").await, [json!(null); 0]);
}

#[tokio::test]
async fn what_is_gathered_is_written_at_the_end() {
    let app = Setup::new().keyed().await.start().await;
    for _ in 0..3 {
        app.owner().get("/v1/export").await.ok();
    }
    let app = Setup::on(app.stop().await).stored_keys().start().await;
    let found = events(&app.owner(), "action=data_exported").await;
    let count = |event: &Value| event["detail"]["count"].as_u64().unwrap_or(1);
    assert_eq!(found.iter().map(count).sum::<u64>(), 3, "{found:?}");
}

#[tokio::test]
async fn pages_follow_a_cursor_and_filters_hold() {
    let clock = Arc::new(StoppedClock::new());
    let app = Setup::new().clock(clock.clone()).keyed().await.start().await;
    for number in 0..7 {
        clock.pass(TimeDelta::seconds(1));
        let who = if number % 2 == 0 { app.owner() } else { app.of_role("admin") };
        assert_eq!(who.post("/v1/keys", &json!({ "name": number.to_string() })).await.status, 201);
    }
    let names = |page: &Value| -> Vec<String> {
        let events = page["events"].as_array().expect("a list").iter();
        events.map(|event| event["detail"]["name"].as_str().expect("a name").to_owned()).collect()
    };
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    for pages in 1.. {
        let page = app.owner().get(&format!("/v1/audit?limit=3{cursor}")).await.ok();
        seen.extend(names(&page));
        let Some(next) = page["next_cursor"].as_str() else {
            assert_eq!((pages, page.get("next_cursor")), (3, None));
            break;
        };
        cursor = format!("&cursor={next}");
        // What is new in the meantime does not move the pages.
        app.owner().post("/v1/keys", &json!({ "name": "late" })).await;
    }
    assert_eq!(seen, ["6", "5", "4", "3", "2", "1", "0"]);

    let filtered = async |query: &str| names(&app.owner().get(&format!("/v1/audit?{query}")).await.ok());
    let admin = api_key("admin-key-0123456789", Scope::default(), Role::Admin).id;
    assert_eq!(filtered(&format!("actor={admin}")).await, ["5", "3", "1"]);
    assert_eq!(filtered("since=2025-06-15T15:06:45Z&until=2025-06-15T15:06:47%2B00:00").await, ["5", "4"]);
    assert_eq!(filtered("action=key_revoked").await, [""; 0]);
    for (query, member) in
        [("limit=0", "limit"), ("since=soon", "since"), ("cursor=x", "cursor"), ("cursor=-1", "cursor")]
    {
        let refusal = app.owner().get(&format!("/v1/audit?{query}")).await.problem(422, "VALIDATION_ERROR");
        assert_eq!(refusal["detail"][0]["loc"], json!(["query", member]));
    }
}

#[tokio::test]
async fn a_project_reads_only_its_own_events() {
    let app = Setup::new().keyed().await.start().await;
    let body = json!({ "name": "n", "role": "admin", "project_id": "second" });
    let key = app.owner().post("/v1/keys", &body).await.json()["key"].clone();
    let second = app.holder_of(key.as_str().expect("a key"));
    second.post("/v1/import", &json!({ "records": [] })).await.ok();
    assert_eq!(actions(&events(&second, "").await), ["bulk_import", "key_created"], "where the key belongs");
    assert_eq!(events(&app.owner(), "").await, [json!(null); 0]);
    let page = app.owner().get("/v1/audit").header("x-project-id", "second").await.ok();
    assert_eq!(page["total"], 2, "an owner may look");
}

#[tokio::test]
async fn static_keys_have_a_log_too() {
    let app = TestApp::start().await;
    let key = app.owner().post("/v1/learn", &run("t", "c", 5.0)).await.ok()["pattern_key"].clone();
    app.owner().delete(&format!("/v1/patterns/{}", key.as_str().expect("a key"))).await.ok();
    let found = events(&app.owner(), "").await;
    assert_eq!((actions(&found), &found[0]["actor"]), (vec!["pattern_deleted"], &json!("env-key")));
}
