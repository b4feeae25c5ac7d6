//! How much a key may store, and how many projects a tenant may have.

use engramia::domain::{Role, Scope};
use engramia::store::ApiKey;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp, api_key, store_key};
use crate::support::people::Answer;
use crate::support::{record, run};

/// An application with a key that may fill its project up to three patterns, and one without a limit.
async fn limited() -> TestApp {
    let narrow = ApiKey { max_patterns: Some(3), ..api_key("narrow", Scope::default(), Role::Admin) };
    let setup = Setup::new().keyed().await;
    setup.prepare(async |store| store_key(store, &narrow).await).await.start().await
}

fn assert_refused(answer: &Answer, metric: &str, text: &str, (current, limit): (u64, u64)) {
    let body = answer.problem(429, "QUOTA_EXCEEDED");
    assert_eq!(body["detail"], text);
    assert_eq!(body["message"], text);
    assert_eq!(body["error"], if metric == "projects" { "project_quota_exceeded" } else { "quota_exceeded" });
    assert_eq!(body["error_context"], json!({ "metric": metric, "current": current, "limit": limit }));
    for (name, value) in [("metric", json!(metric)), ("current", json!(current)), ("limit", json!(limit))] {
        assert_eq!(body[name], value, "{body}");
    }
    assert_eq!(answer.header("retry-after"), None, "waiting does not help");
}

const PATTERNS: &str = "Pattern quota reached. Delete old patterns or upgrade your plan.";

fn distinct(number: usize) -> Value {
    run(&format!("task{number} word{number} thing{number}"), &format!("code{number}(a{number}, b{number})"), 5.0)
}

#[tokio::test]
async fn learns_at_once_never_go_beyond_the_limit_of_their_key() {
    let app = limited().await;
    let calls = (0..12).map(|number| app.holder_of("narrow").post("/v1/learn", &distinct(number)).into_future());
    let answers = futures_util::future::join_all(calls).await;
    let (stored, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!(stored.len(), 3);
    for answer in refused {
        assert_refused(answer, "patterns", PATTERNS, (3, 3));
    }
    assert_eq!(app.owner().get("/v1/health").await.ok()["pattern_count"], 3);
    assert_eq!(app.owner().get("/v1/metrics").await.ok()["runs"], 3, "what was refused has not happened");
}

#[tokio::test]
async fn a_full_project_still_takes_what_is_not_new() {
    let app = limited().await;
    let narrow = app.holder_of("narrow");
    for number in 0..3 {
        narrow.post("/v1/learn", &distinct(number)).await.ok();
    }
    assert_eq!(narrow.post("/v1/learn", &distinct(1)).await.ok()["stored"], false, "evidence joins");
    assert_refused(&narrow.post("/v1/learn", &distinct(3)).await, "patterns", PATTERNS, (3, 3));
    assert_eq!(app.owner().post("/v1/learn", &distinct(3)).await.ok()["pattern_count"], 4, "another key is free");
    assert_refused(&narrow.post("/v1/learn", &distinct(4)).await, "patterns", PATTERNS, (4, 3));
    let key = app.owner().get("/v1/export").await.ok()["records"][0]["key"].clone();
    let again = json!({ "records": [record(key.as_str().expect("a key"), "t", 5.0)], "overwrite": true });
    assert_eq!(narrow.post("/v1/import", &again).await.ok()["imported"], 1, "it replaces");
}

#[tokio::test]
async fn an_import_beyond_the_limit_stores_nothing() {
    let app = limited().await;
    let narrow = app.holder_of("narrow");
    let records = |count: usize| -> Vec<Value> {
        (0..count).map(|number| record(&format!("patterns/{number}"), &format!("task {number}"), 5.0)).collect()
    };
    // More than one batch of an import without a limit.
    for count in [4, 700] {
        let answer = narrow.post("/v1/import", &json!({ "records": records(count) })).await;
        assert_refused(&answer, "patterns", PATTERNS, (0, 3));
        assert_eq!(app.owner().get("/v1/health").await.ok()["pattern_count"], 0);
    }
    assert_eq!(narrow.post("/v1/import", &json!({ "records": records(3) })).await.ok()["imported"], 3);
    let mixed = json!({ "records": records(4), "overwrite": true });
    assert_refused(&narrow.post("/v1/import", &mixed).await, "patterns", PATTERNS, (3, 3));
    assert_eq!(narrow.post("/v1/import", &json!({ "records": [] })).await.ok()["imported"], 0);
}

#[tokio::test]
async fn a_tenant_has_as_many_projects_as_it_may() {
    let app = Setup::new().keyed().await.var("ENGRAMIA_MAX_PROJECTS", "2").start().await;
    let create = |project: &str| app.owner().post("/v1/keys", &json!({ "name": "n", "project_id": project }));
    assert_eq!(create("second").await.status, 201);
    let text = "Project quota reached. Delete old projects or upgrade your plan.";
    assert_refused(&create("third").await, "projects", text, (2, 2));
    assert_eq!(create("second").await.status, 201, "it is there");
    assert_eq!(create("default").await.status, 201);
    let refusals = app.owner().get("/v1/audit?action=quota_exceeded").await.ok();
    assert_eq!(refusals["events"][0]["detail"]["metric"], "projects", "{refusals}");
}
