//! Export and import.

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp};
use crate::support::{keys, record, run};

async fn import(app: &TestApp, body: &Value) -> Value {
    app.owner().post("/v1/import", body).await.ok()
}

#[tokio::test]
async fn an_export_says_everything_about_a_pattern() {
    let app = TestApp::start().await;
    let body = json!({
        "task": "sort a list", "code": "sorted(x)", "eval_score": 7.5, "output": "[1, 2]", "run_id": "r1",
        "classification": "public", "source": "sdk"
    });
    let key = app.owner().post("/v1/learn", &body).await.ok()["pattern_key"].clone();
    let exported = app.owner().get("/v1/export").await;
    assert_eq!(exported.header("content-type"), Some("application/json"));
    let mut exported = exported.ok();
    let at = exported["records"][0]["data"]["timestamp"].take();
    assert!(at.as_f64().is_some_and(|seconds| seconds > 1.7e9), "{at}");
    let data = json!({
        "task": "sort a list", "success_score": 7.5, "reuse_count": 0, "timestamp": null, "_author_key_id": "env-key",
        "design": { "code": "sorted(x)", "output": "[1, 2]", "classification": "public", "source": "sdk" }
    });
    assert_eq!(exported, json!({ "records": [{ "version": 1, "key": key, "data": data }], "count": 1 }));
}

#[tokio::test]
async fn an_empty_memory_exports_an_empty_list() {
    let app = TestApp::start().await;
    assert_eq!(app.owner().get("/v1/export").await.ok(), json!({ "records": [], "count": 0 }));
}

#[tokio::test]
async fn a_large_export_arrives_in_pieces_and_is_whole() {
    let app = TestApp::start().await;
    let records: Vec<Value> =
        (0..1_201).map(|n| record(&format!("patterns/{n:05}"), &format!("task {n}"), 5.0)).collect();
    assert_eq!(import(&app, &json!({ "records": records })).await, json!({ "imported": 1_201, "total": 1_201 }));
    let mut pieces = app.owner().get("/v1/export").stream().await.into_body().into_data_stream();
    let (mut text, mut count) = (Vec::new(), 0);
    while let Some(piece) = pieces.next().await {
        text.extend_from_slice(&piece.expect("a whole export"));
        count += 1;
    }
    assert!(count > 2, "in {count} pieces");
    let exported: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(exported["count"], 1_201);
    let found: Vec<&str> =
        exported["records"].as_array().expect("a list").iter().filter_map(|r| r["key"].as_str()).collect();
    assert_eq!(found.len(), 1_201);
    assert!(found.is_sorted(), "in key order");
}

#[tokio::test]
async fn an_imported_export_exports_the_same_bytes() {
    let app = TestApp::start().await;
    for n in 0..5 {
        let body = run(&format!("tâsk \"{n}\"\n\\ 🙂"), &format!("solve({n})\t"), 1.1 * f64::from(n));
        app.owner().post("/v1/learn", &body).await.ok();
        app.owner().post("/v1/learn", &body).await.ok();
    }
    let legacy = json!({
        "key": "patterns/legacy one", "version": 1,
        "data": {
            "task": "from long ago", "success_score": 3.3, "reuse_count": 12, "timestamp": 1_600_000_000.123456,
            "unknown": { "b": [1, null, 2.5], "a": "x" }, "design": { "workflow": ["step"], "code": "x", "source": "cli" },
            "_decayed_at": 1_600_000_100.5
        }
    });
    import(&app, &json!({ "records": [legacy] })).await;
    app.owner().post("/v1/recall", &json!({ "task": "from long ago" })).await.ok();
    let first = app.owner().get("/v1/export").await;

    let copy = Setup::new().start().await;
    let imported = import(&copy, &first.json()).await;
    assert_eq!(imported, json!({ "imported": 6, "total": 6 }));
    let second = copy.owner().get("/v1/export").await;
    assert!(first.bytes == second.bytes, "{}\n{}", first.text(), second.text());

    let again = json!({ "records": first.json()["records"], "overwrite": true });
    assert_eq!(import(&copy, &again).await["imported"], 6);
    assert!(copy.owner().get("/v1/export").await.bytes == first.bytes, "over itself it changes nothing");
}

#[tokio::test]
async fn an_imported_memory_recalls_as_the_original_does() {
    let app = TestApp::start().await;
    for (n, task) in ["sort a list", "sort a tuple", "sort numbers", "paint"].into_iter().enumerate() {
        for _ in 0..=n {
            app.owner().post("/v1/learn", &run(task, &format!("solve({n})"), 2.0 * n as f64)).await.ok();
        }
    }
    let copy = TestApp::start().await;
    import(&copy, &app.owner().get("/v1/export").await.ok()).await;
    let question = json!({ "task": "sort a list of numbers", "explain": true, "readonly": true, "deduplicate": false });
    let (original, copied) =
        (app.owner().post("/v1/recall", &question).await.ok(), copy.owner().post("/v1/recall", &question).await.ok());
    assert_eq!(copied, original);
}

#[tokio::test]
async fn an_import_skips_what_is_there_and_what_it_does_not_know() {
    let app = TestApp::start().await;
    import(&app, &json!({ "records": [record("patterns/a", "first", 5.0)] })).await;
    let newer = json!({ "version": 2, "key": "patterns/newer", "data": { "anything": true } });
    let records = json!([
        record("patterns/a", "second", 5.0),
        record("metrics/_global", "no pattern", 5.0),
        record("patterns/../x", "no pattern", 5.0),
        newer,
        record("patterns/b", "third", 5.0),
    ]);
    assert_eq!(import(&app, &json!({ "records": records })).await, json!({ "imported": 1, "total": 5 }));
    let task = async |at: usize| app.owner().get("/v1/export").await.ok()["records"][at]["data"]["task"].clone();
    assert_eq!(task(0).await, "first");
    assert_eq!(import(&app, &json!({ "records": records, "overwrite": true })).await["imported"], 2);
    assert_eq!(task(0).await, "second");
    assert_eq!(app.owner().get("/v1/export").await.ok()["count"], 2);
    let found = app.owner().post("/v1/recall", &json!({ "task": "second", "limit": 1 })).await.ok();
    assert_eq!(keys(&found), ["patterns/a"], "the new text is found");
    assert!((found["matches"][0]["similarity"].as_f64().expect("a number") - 1.0).abs() < 1e-6);
}

#[tokio::test]
async fn an_import_with_flaws_stores_nothing_and_names_each_of_them() {
    let app = TestApp::start().await;
    let records = json!([
        record("patterns/good", "fine", 5.0),
        { "key": "patterns/b", "data": { "task": " " } },
        { "key": "patterns/c", "data": { "task": "t", "success_score": 11, "design": { "code": 5, "source": "x" } } },
        { "key": "patterns/d", "data": { "task": "t", "design": [] } },
        { "key": "patterns/e", "data": { "task": "t", "timestamp": 1e300 } },
        record("patterns/also good", "fine too", 5.0),
    ]);
    let body = json!({ "records": records });
    let refusal = app.owner().post("/v1/import", &body).await.problem(422, "VALIDATION_ERROR");
    let places: Vec<&Value> = refusal["detail"].as_array().expect("a list").iter().map(|item| &item["loc"]).collect();
    let at = |n: usize, path: &[&str]| {
        let mut place = vec![json!("body"), json!("records"), json!(n), json!("data")];
        place.extend(path.iter().map(|name| json!(name)));
        Value::Array(place)
    };
    let expected = [
        at(1, &["task"]),
        at(2, &["success_score"]),
        at(2, &["design", "code"]),
        at(2, &["design", "source"]),
        at(3, &["design"]),
        at(4, &["timestamp"]),
    ];
    assert_eq!(places, expected.iter().collect::<Vec<_>>());
    assert_eq!(app.owner().get("/v1/health").await.ok()["pattern_count"], 0, "nothing is stored");
}

#[tokio::test]
async fn the_shape_of_records_is_checked_first() {
    let app = TestApp::start().await;
    let body = json!({ "records": [{ "key": 5, "data": {} }, "no record", { "data": [] }] });
    let refusal = app.owner().post("/v1/import", &body).await.problem(422, "VALIDATION_ERROR");
    let places: Vec<&Value> = refusal["detail"].as_array().expect("a list").iter().map(|item| &item["loc"]).collect();
    let expected = [
        json!(["body", "records", 0, "key"]),
        json!(["body", "records", 1]),
        json!(["body", "records", 2, "key"]),
        json!(["body", "records", 2, "data"]),
    ];
    assert_eq!(places, expected.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn one_key_twice_in_an_import_is_stored_once() {
    let app = TestApp::start().await;
    let records = json!([record("patterns/a", "one", 5.0), record("patterns/a", "two", 5.0)]);
    assert_eq!(import(&app, &json!({ "records": records })).await, json!({ "imported": 1, "total": 2 }));
    assert_eq!(app.owner().get("/v1/export").await.ok()["records"][0]["data"]["task"], "one");
}
