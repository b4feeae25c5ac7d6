//! How sensitive a pattern is: one truth, which recall, exports and other servers see at once.

use axum::http::Method;
use reqwest::Method as Verb;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp};
use crate::support::people::{Call, Person};
use crate::support::postgres::Database;
use crate::support::program::{Server, lesson, on_database};
use crate::support::{keys, run};

fn classify(person: &Person, key: &str, body: &Value) -> Call {
    person.call(Method::PUT, &format!("/v1/governance/patterns/{key}/classify")).body(body.to_string())
}

async fn learned(person: &Person, task: &str) -> String {
    person.post("/v1/learn", &run(task, "code()", 8.0)).await.ok();
    let found = person.post("/v1/recall", &json!({ "task": task, "limit": 1 })).await.ok();
    keys(&found)[0].clone()
}

async fn found(person: &Person, task: &str, word: &str) -> Vec<String> {
    keys(&person.post("/v1/recall", &json!({ "task": task, "classification": word })).await.ok())
}

#[tokio::test]
async fn recall_exports_and_imports_see_the_same_classification() {
    let database = Database::new().await;
    let other = Database::new().await;
    let searched = Database::new().await;
    for setup in [
        Setup::new(),
        Setup::new().postgres(&database),
        Setup::new().postgres(&searched).var("ENGRAMIA_SEARCH_MEMORY", "0"),
        Setup::new().postgres(&other).var("ENGRAMIA_EMBEDDING_MODEL", "none").configured_embedder(),
    ] {
        let app = setup.start().await;
        let owner = app.owner();
        let key = learned(&owner, "read a table").await;
        assert_eq!(found(&owner, "read a table", "internal").await, std::slice::from_ref(&key));
        let answer = classify(&owner, &key, &json!({ "classification": "confidential" })).await.ok();
        assert_eq!(answer, json!({ "pattern_key": key, "classification": "confidential" }));
        assert_eq!(found(&owner, "read a table", "confidential").await, std::slice::from_ref(&key));
        assert!(found(&owner, "read a table", "internal").await.is_empty());
        let exported = owner.get("/v1/export").await.ok();
        assert_eq!(exported["records"][0]["data"]["design"]["classification"], "confidential");
        let line: Value = owner.get("/v1/governance/export").await.json();
        assert_eq!(line["classification"], "confidential");
        assert_eq!(line["data"], exported["records"][0]["data"]);
        // It comes back with an import.
        owner.delete(&format!("/v1/patterns/{key}")).await.ok();
        owner.post("/v1/import", &json!({ "records": [line] })).await.ok();
        let line: Value = owner.get("/v1/governance/export").await.json();
        assert_eq!(line["classification"], "confidential");
    }
}

#[tokio::test]
async fn a_change_is_recorded_and_no_change_is_not() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let key = learned(&owner, "read a table").await;
    for _ in 0..2 {
        classify(&owner, &key, &json!({ "classification": "public" })).await.ok();
    }
    let events = owner.get("/v1/audit?action=pattern_classified").await.ok();
    assert_eq!(events["total"], 1);
    let event = &events["events"][0];
    assert_eq!((&event["resource_id"], &event["detail"]["before"]), (&json!(key), &json!("internal")));
    assert_eq!(event["detail"]["classification"], "public");
}

#[tokio::test]
async fn only_the_three_words_are_taken_and_only_known_patterns() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let key = learned(&owner, "read a table").await;
    for bad in [json!({}), json!({ "classification": "secret" }), json!({ "classification": "" })]
        .into_iter()
        .chain([json!(null), json!("Public"), json!(3)].map(|word| json!({ "classification": word })))
    {
        let refused = classify(&owner, &key, &bad).await.problem(422, "VALIDATION_ERROR");
        assert_eq!(refused["detail"][0]["loc"], json!(["body", "classification"]), "{bad}");
    }
    let good = json!({ "classification": "public" });
    classify(&owner, "patterns/none_1", &good).await.problem(404, "NOT_FOUND");
    classify(&owner, &key, &good).header("x-project-id", "other").await.problem(404, "NOT_FOUND");
    classify(&owner, "other/none_1", &good).await.problem(422, "VALIDATION_ERROR");
    let path = format!("/v1/governance/patterns/{key}");
    owner.call(Method::PUT, &path).body(good.to_string()).await.problem(404, "NOT_FOUND");
    owner.post(&format!("{path}/classify"), &good).await.problem(405, "METHOD_NOT_ALLOWED");
    assert_eq!(found(&owner, "read a table", "internal").await, std::slice::from_ref(&key), "nothing half-done");
    // Percent-encoded, as clients send it.
    classify(&owner, &key.replace('/', "%2F"), &good).await.ok();
    assert_eq!(found(&owner, "read a table", "public").await, [key]);
}

#[tokio::test]
async fn other_servers_over_the_same_database_see_it_at_once() {
    let database = Database::new().await;
    let (one, two) =
        tokio::join!(Server::start(on_database(&database.url())), Server::start(on_database(&database.url())));
    one.post("/v1/learn", &lesson("sum up the invoices of a month")).await.ok();
    let query = |word: &str| json!({ "task": "sum up the invoices of a month", "classification": word });
    let key = keys(&two.post("/v1/recall", &query("internal")).await.ok())[0].clone();
    for (word, other) in [("public", "internal"), ("confidential", "public")] {
        let path = format!("/v1/governance/patterns/{key}/classify");
        let body = json!({ "classification": word });
        one.ask(Verb::PUT, &path, Some(&body)).await.expect("an answer").ok();
        assert_eq!(keys(&two.post("/v1/recall", &query(word)).await.ok()), std::slice::from_ref(&key));
        assert!(keys(&two.post("/v1/recall", &query(other)).await.ok()).is_empty());
    }
}
