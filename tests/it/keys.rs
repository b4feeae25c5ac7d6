//! API keys over HTTP: bootstrap, create, list, revoke, rotate; and what a key is worth at the door.

use std::sync::Arc;

use chrono::TimeDelta;
use engramia::domain::{Role, Scope};
use engramia::store::ApiKey;
use serde_json::{Value, json};

use crate::support::app::{BOOTSTRAP_TOKEN, Setup, TestApp, api_key, store_key};
use crate::support::fakes::StoppedClock;
use crate::support::people::{Answer, Person};
use crate::support::{eventually, run};

/// The body of an answer that made something.
fn made(answer: &Answer) -> Value {
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

async fn create(person: &Person, body: Value) -> Value {
    made(&person.post("/v1/keys", &body).await)
}

async fn list(person: &Person) -> Vec<Value> {
    person.get("/v1/keys").await.ok()["keys"].as_array().expect("a list").clone()
}

/// An application with no key at all and a bootstrap token.
async fn virgin() -> TestApp {
    Setup::new().stored_keys().var("ENGRAMIA_BOOTSTRAP_TOKEN", BOOTSTRAP_TOKEN).start().await
}

async fn keyed() -> TestApp {
    Setup::new().keyed().await.start().await
}

#[tokio::test]
async fn bootstrap_makes_one_owner_key_and_no_second() {
    let app = virgin().await;
    app.owner().get("/v1/health").await.problem(401, "UNAUTHORIZED");
    let bootstrap = |body: Value| app.anonymous().post("/v1/keys/bootstrap", &body);
    let key = made(&bootstrap(json!({ "token": format!(" {BOOTSTRAP_TOKEN}\n"), "key_name": "Mine" })).await);
    assert_eq!((&key["id"], &key["key"]), (&key["key_id"], &key["secret"]));
    assert_eq!(
        (&key["name"], &key["role"], &key["tenant_id"], &key["project_id"], &key["max_patterns"]),
        (&json!("Mine"), &json!("owner"), &json!("default"), &json!("default"), &json!(null))
    );
    let secret = text(&key["secret"]);
    assert!(secret.starts_with(text(&key["key_prefix"]).trim_end_matches('.')), "{key}");
    assert!(text(&key["created_at"]).ends_with('Z'));
    let owner = app.holder_of(secret);
    owner.get("/v1/health").await.ok();
    owner.get("/v1/health").header("x-project-id", "default").await.ok();
    for name in ["token", "bootstrap_token"] {
        let again = bootstrap(json!({ name: BOOTSTRAP_TOKEN })).await.problem(409, "ERROR");
        assert_eq!(
            again["detail"],
            "Bootstrap already completed. Use an existing admin/owner key to create more keys."
        );
    }
    owner.delete(&format!("/v1/keys/{}", text(&key["id"]))).await.ok();
    bootstrap(json!({ "token": BOOTSTRAP_TOKEN })).await.problem(409, "ERROR");
}

#[tokio::test]
async fn a_wrong_bootstrap_token_makes_nothing() {
    let app = virgin().await;
    let longer = format!("{BOOTSTRAP_TOKEN}x");
    let wrong = [json!({}), json!({ "token": "" }), json!({ "token": "wrong" }), json!({ "bootstrap_token": longer })];
    for body in wrong.into_iter().chain([json!({ "token": "ž" }), json!({ "token": null })]) {
        let answer = app.anonymous().post("/v1/keys/bootstrap", &body).await;
        assert_eq!(answer.problem(401, "UNAUTHORIZED")["detail"], "Invalid bootstrap token.", "{body}");
    }
    let odd = json!({ "token": 5, "key_name": " " });
    app.anonymous().post("/v1/keys/bootstrap", &odd).await.problem(422, "VALIDATION_ERROR");
    made(&app.anonymous().post("/v1/keys/bootstrap", &json!({ "bootstrap_token": BOOTSTRAP_TOKEN })).await);
}

#[tokio::test]
async fn of_many_bootstraps_at_once_one_wins() {
    let app = virgin().await;
    let body = json!({ "token": BOOTSTRAP_TOKEN });
    let calls = (0..8).map(|_| app.anonymous().post("/v1/keys/bootstrap", &body).into_future());
    let answers = futures_util::future::join_all(calls).await;
    let (winners, losers): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert_eq!(winners.len(), 1);
    for loser in losers {
        loser.problem(409, "ERROR");
    }
    let owner = app.holder_of(text(&winners[0].json()["key"]));
    assert_eq!(list(&owner).await.len(), 1);
    assert_eq!(owner.get("/v1/audit?action=key_created").await.ok()["total"], 1);
}

#[tokio::test]
async fn without_a_long_token_bootstrap_is_off() {
    let disabled = "Bootstrap is disabled. Set ENGRAMIA_BOOTSTRAP_TOKEN in the server environment and supply it as \
                    'bootstrap_token' in the request body.";
    for token in ["", "shorter than thirty-two"] {
        let app = Setup::new().stored_keys().var("ENGRAMIA_BOOTSTRAP_TOKEN", token).start().await;
        let answer = app.anonymous().post("/v1/keys/bootstrap", &json!({ "token": token })).await;
        assert_eq!(answer.problem(503, "SERVICE_UNAVAILABLE")["detail"], disabled);
        let expected = if token.is_empty() { 200 } else { 401 };
        assert_eq!(
            app.owner().get("/v1/health").await.status,
            expected,
            "only without a token a key is made by itself"
        );
    }
}

#[tokio::test]
async fn keys_are_managed_only_where_they_are_in_the_store() {
    let id = "0be2046e-0000-7000-8000-000000000000";
    for app in [TestApp::start().await, Setup::new().open().start().await] {
        let owner = app.owner();
        let answers = [
            app.anonymous().post("/v1/keys/bootstrap", &json!({ "token": BOOTSTRAP_TOKEN })).await,
            owner.post("/v1/keys", &json!({ "name": "n" })).await,
            owner.send("/v1/keys", "{").await,
            owner.get("/v1/keys").await,
            owner.delete(&format!("/v1/keys/{id}")).await,
            owner.send(&format!("/v1/keys/{id}/rotate"), "").await,
        ];
        for answer in answers {
            let text = "Key management requires DB auth mode (ENGRAMIA_AUTH_MODE=db).";
            assert_eq!(answer.problem(503, "SERVICE_UNAVAILABLE")["detail"], text);
        }
    }
    TestApp::start().await.anonymous().get("/v1/keys").await.problem(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn a_new_key_is_shown_once_and_listed_without_its_secret() {
    let app = keyed().await;
    let body = json!({
        "name": "CI", "role": "admin", "max_patterns": 7, "expires_at": "2090-01-01T01:00:00+01:00", "unknown": 1
    });
    let key = create(&app.owner(), body).await;
    assert_eq!((&key["max_patterns"], &key["expires_at"]), (&json!(7), &json!("2090-01-01T00:00:00Z")));
    app.holder_of(text(&key["key"])).get("/v1/keys").await.ok();
    let plain = create(&app.owner(), json!({ "name": "plain" })).await;
    assert_eq!((&plain["role"], &plain["expires_at"]), (&json!("editor"), &json!(null)));
    assert_ne!(plain["key"], key["key"]);

    let answer = app.owner().get("/v1/keys").await;
    for secret in [text(&key["key"]), text(&plain["key"]), "hash"] {
        assert!(!answer.text().contains(secret), "{}", answer.text());
    }
    let listed = list(&app.owner()).await;
    assert_eq!(listed.len(), 6, "two new ones before one of each role");
    assert_eq!((&listed[0]["id"], &listed[1]["id"]), (&plain["id"], &key["id"]), "the newest first");
    let mut view = listed[1].clone();
    // It was used above; that is noted soon.
    view["last_used_at"].take();
    let expected = json!({
        "id": key["id"], "name": "CI", "key_prefix": key["key_prefix"], "role": "admin", "tenant_id": "default",
        "project_id": "default", "max_patterns": 7, "created_at": key["created_at"], "last_used_at": null,
        "revoked_at": null, "expires_at": "2090-01-01T00:00:00Z"
    });
    assert_eq!(view, expected);
}

#[tokio::test]
async fn what_is_wrong_with_a_new_key_is_said() {
    let app = keyed().await;
    let cases = [
        (json!({}), "name"),
        (json!({ "name": "" }), "name"),
        (json!({ "name": null }), "name"),
        (json!({ "name": "n", "role": "root" }), "role"),
        (json!({ "name": "n", "role": 1 }), "role"),
        (json!({ "name": "n", "max_patterns": 0 }), "max_patterns"),
        (json!({ "name": "n", "max_patterns": 1.5 }), "max_patterns"),
        (json!({ "name": "n", "expires_at": "soon" }), "expires_at"),
        (json!({ "name": "n", "expires_at": 1_775_304_000 }), "expires_at"),
        (json!({ "name": "n", "project_id": "a/b" }), "project_id"),
        (json!({ "name": "n", "project_id": "" }), "project_id"),
        (json!({ "name": "n", "project_id": "x".repeat(101) }), "project_id"),
    ];
    for (body, member) in cases {
        let refusal = app.owner().post("/v1/keys", &body).await.problem(422, "VALIDATION_ERROR");
        assert_eq!(refusal["detail"][0]["loc"], json!(["body", member]), "{body}");
        assert_eq!(refusal["detail"].as_array().map(Vec::len), Some(1), "{body}");
    }
    assert_eq!(list(&app.owner()).await.len(), 4);
}

#[tokio::test]
async fn nobody_makes_a_key_that_does_more_than_they_may() {
    let app = keyed().await;
    let admin = app.of_role("admin");
    for role in ["admin", "owner"] {
        let answer = admin.post("/v1/keys", &json!({ "name": "n", "role": role })).await;
        let text = format!("Role 'admin' may assign at most 'editor' keys. Requested role '{role}' is not permitted.");
        assert_eq!(answer.problem(403, "FORBIDDEN")["detail"], text);
    }
    for role in ["editor", "reader"] {
        create(&admin, json!({ "name": "n", "role": role })).await;
    }
    for role in ["owner", "admin", "editor", "reader"] {
        create(&app.owner(), json!({ "name": "n", "role": role })).await;
    }
}

#[tokio::test]
async fn members_that_are_not_asked_for_have_no_effect() {
    let app = keyed().await;
    let id = "0be2046e-0000-7000-8000-000000000000";
    let body = json!({
        "name": "n", "role": "reader", "id": id, "key_id": id, "tenant_id": "other", "scope": "other",
        "key": "mine", "secret": "mine", "key_hash": "00", "key_prefix": "mine", "created_at": "1999-01-01",
        "revoked_at": null, "last_used_at": "2020-01-01", "permissions": ["*"],
    });
    let key = create(&app.of_role("admin"), body).await;
    assert_eq!(
        (&key["tenant_id"], &key["project_id"], &key["role"]),
        (&json!("default"), &json!("default"), &json!("reader"))
    );
    assert_ne!(key["id"], id);
    assert!(text(&key["key"]).starts_with("engramia_sk_") && !text(&key["created_at"]).starts_with("1999"));
    app.holder_of("mine").get("/v1/health").await.problem(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn only_owners_open_other_projects_by_keys() {
    let app = keyed().await;
    let body = json!({ "name": "n", "role": "reader", "project_id": "second" });
    let refusal = app.of_role("admin").post("/v1/keys", &body).await.problem(403, "FORBIDDEN");
    assert_eq!(refusal["detail"], "Only an owner may create keys for another project.");
    create(&app.of_role("admin"), json!({ "name": "n", "project_id": "default" })).await;
    let in_second = || app.owner().get("/v1/health").header("x-project-id", "second");
    in_second().await.problem(403, "FORBIDDEN");

    let key = create(&app.owner(), json!({ "name": "n", "role": "admin", "project_id": "second" })).await;
    assert_eq!((&key["tenant_id"], &key["project_id"]), (&json!("default"), &json!("second")));
    let second = app.holder_of(text(&key["key"]));
    second.post("/v1/learn", &run("t", "c", 5.0)).await.ok();
    assert_eq!(in_second().await.ok()["pattern_count"], 1, "the owner may go there now");
    assert_eq!(app.owner().get("/v1/health").await.ok()["pattern_count"], 0);
    assert_eq!(list(&second).await.len(), 1, "its own project");
    assert!(list(&app.owner()).await.iter().all(|listed| listed["id"] != key["id"]));
    let path = format!("/v1/keys/{}", text(&key["id"]));
    app.owner().delete(&path).await.problem(404, "NOT_FOUND");
    app.owner().delete(&path).header("x-project-id", "second").await.ok();
}

#[tokio::test]
async fn a_revoked_key_is_dead_at_once_and_for_good() {
    let app = keyed().await;
    let key = create(&app.owner(), json!({ "name": "n" })).await;
    let holder = app.holder_of(text(&key["key"]));
    holder.get("/v1/health").await.ok();
    let path = format!("/v1/keys/{}", text(&key["id"]));
    assert_eq!(app.owner().delete(&path).await.ok(), json!({ "id": key["id"], "revoked": true }));
    assert_eq!(holder.get("/v1/health").await.problem(401, "UNAUTHORIZED")["detail"], "Invalid API key.");
    assert_eq!(app.owner().delete(&path).await.problem(409, "ERROR")["detail"], "Key is already revoked.");
    let rotate = app.owner().send(&format!("{path}/rotate"), "").await;
    assert_eq!(rotate.problem(409, "ERROR")["detail"], "Cannot rotate a revoked key.");
    assert!(list(&app.owner()).await[0]["revoked_at"].is_string());
    let root = app.stop().await;
    let app = Setup::on(root).stored_keys().start().await;
    app.holder_of(text(&key["key"])).get("/v1/health").await.problem(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn a_rotated_key_has_a_new_secret_and_nothing_else_new() {
    let app = keyed().await;
    let key = create(&app.owner(), json!({ "name": "n", "role": "reader", "max_patterns": 7 })).await;
    let old = app.holder_of(text(&key["key"]));
    old.get("/v1/health").await.ok();
    let path = format!("/v1/keys/{}/rotate", text(&key["id"]).to_uppercase());
    let answer = app.owner().send(&path, "").await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let rotated = answer.ok();
    assert_eq!((&rotated["id"], &rotated["key_id"]), (&key["id"], &key["id"]));
    assert_eq!(rotated["key"], rotated["secret"]);
    assert_ne!(rotated["key"], key["key"]);
    old.get("/v1/health").await.problem(401, "UNAUTHORIZED");
    let listed = list(&app.owner()).await.remove(0);
    assert_eq!((&listed["role"], &listed["max_patterns"]), (&json!("reader"), &json!(7)));
    assert_eq!((&listed["key_prefix"], &listed["last_used_at"]), (&rotated["key_prefix"], &json!(null)));
    let new = app.holder_of(text(&rotated["key"]));
    new.get("/v1/health").await.ok();
    new.get("/v1/keys").await.problem(403, "FORBIDDEN");
}

#[tokio::test]
async fn an_admin_neither_takes_over_nor_ends_an_owner() {
    let app = keyed().await;
    let id_of = async |role: &str| {
        let listed = list(&app.owner()).await.into_iter().find(|key| key["role"] == role);
        text(&listed.expect("one of each role")["id"]).to_owned()
    };
    let (owner, admin) = (id_of("owner").await, id_of("admin").await);
    let refused = "Role 'admin' may not revoke or rotate a key with the role 'owner'.";
    let answers = [
        app.of_role("admin").send(&format!("/v1/keys/{owner}/rotate"), "").await,
        app.of_role("admin").delete(&format!("/v1/keys/{owner}")).await,
    ];
    for answer in answers {
        assert_eq!(answer.problem(403, "FORBIDDEN")["detail"], refused);
    }
    app.owner().get("/v1/health").await.ok();
    let rotated = app.of_role("admin").send(&format!("/v1/keys/{admin}/rotate"), "").await.ok();
    let renewed = app.holder_of(text(&rotated["key"]));
    renewed.delete(&format!("/v1/keys/{admin}")).await.ok();
    renewed.get("/v1/keys").await.problem(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn ids_that_are_unknown_foreign_or_no_ids_are_not_found() {
    let foreign = api_key("foreign", Scope::verified("other", "default"), Role::Reader);
    let setup = Setup::new().keyed().await.prepare(async |store| store_key(store, &foreign).await);
    let app = setup.await.start().await;
    let unknown = "00000000-0000-0000-0000-000000000007";
    for id in [unknown, &foreign.id, "nope", "%27%20OR%201=1", "%00", "%ff", "..%2f..", "bootstrap2"] {
        let answers = [
            app.owner().delete(&format!("/v1/keys/{id}")).await,
            app.owner().send(&format!("/v1/keys/{id}/rotate"), "").await,
        ];
        for answer in answers {
            assert_eq!(answer.problem(404, "NOT_FOUND")["detail"], "Key not found.", "{id}");
        }
    }
    app.holder_of("foreign").get("/v1/health").await.ok();
}

#[tokio::test]
async fn an_expired_key_is_dead_also_while_it_is_remembered() {
    let clock = Arc::new(StoppedClock::new());
    let app = Setup::new().clock(clock.clone()).keyed().await.start().await;
    let past = create(&app.owner(), json!({ "name": "n", "expires_at": "2020-01-01T00:00:00Z" })).await;
    let refusal = app.holder_of(text(&past["key"])).get("/v1/health").await.problem(401, "UNAUTHORIZED");
    assert_eq!(refusal["detail"], "Invalid API key.");
    // The stopped clock shows 2025-06-15T15:06:40Z.
    let soon = create(&app.owner(), json!({ "name": "n", "expires_at": "2025-06-15T15:06:50Z" })).await;
    let holder = app.holder_of(text(&soon["key"]));
    for (seconds, status) in [(0, 200), (9, 200), (1, 401), (1, 401)] {
        clock.pass(TimeDelta::seconds(seconds));
        assert_eq!(holder.get("/v1/health").await.status, status);
    }
}

#[tokio::test]
async fn odd_tokens_open_nothing() {
    let app = keyed().await;
    let cases: &[(&[u8], &str)] = &[
        ("Bearer klíč".as_bytes(), "Invalid API key."),
        (b"Bearer engramia_sk_", "Invalid API key."),
        (b"Bearer ' or 1=1 --", "Invalid API key."),
        (b"Bearer \xff\xfe", "Missing or malformed Authorization header. Expected: Bearer <key>"),
    ];
    for (header, text) in cases {
        for _ in 0..2 {
            let answer = app.anonymous().get("/v1/health").header("authorization", header).await;
            assert_eq!(answer.problem(401, "UNAUTHORIZED")["detail"], *text);
        }
    }
}

#[tokio::test]
async fn the_last_use_of_a_key_is_noted_to_the_minute() {
    let clock = Arc::new(StoppedClock::new());
    let app = Setup::new().clock(clock.clone()).keyed().await.start().await;
    let used = async |app: &TestApp| {
        let listed = list(&app.owner()).await.into_iter().find(|key| key["role"] == "reader");
        listed.expect("one of each role")["last_used_at"].clone()
    };
    assert_eq!(used(&app).await, json!(null));
    for (seconds, expected) in [(0, "15:06:40"), (59, "15:06:40"), (1, "15:07:40")] {
        clock.pass(TimeDelta::seconds(seconds));
        app.of_role("reader").get("/v1/health").await.ok();
        let expected = json!(format!("2025-06-15T{expected}Z"));
        eventually("the use is written", async || (used(&app).await == expected).then_some(())).await;
    }
    clock.pass(TimeDelta::seconds(100));
    app.of_role("reader").get("/v1/health").await.ok();
    let app = Setup::on(app.stop().await).stored_keys().clock(clock).start().await;
    assert_eq!(used(&app).await, "2025-06-15T15:09:20Z", "written at the end");
}

#[tokio::test]
async fn a_key_brings_its_limits_along() {
    let key = ApiKey { max_patterns: Some(1), ..api_key("k", Scope::verified("t", "p"), Role::Editor) };
    let setup = Setup::new().stored_keys().prepare(async |store| store_key(store, &key).await);
    let app = setup.await.start().await;
    let learn = |task: &str| app.holder_of("k").post("/v1/learn", &run(task, task, 5.0));
    assert_eq!(learn("sort numbers").await.ok()["pattern_count"], 1);
    learn("parse a date").await.problem(429, "QUOTA_EXCEEDED");
}
