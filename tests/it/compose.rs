//! Pipelines: decomposition, matching, data flow, and what is left where the model fails.

use serde_json::{Value, json};
use wiremock::ResponseTemplate;

use crate::support::app::{Setup, TestApp};
use crate::support::provider::{Provider, said};
use crate::support::run;

fn stages(stages: Value) -> String {
    json!({ "stages": stages }).to_string()
}

async fn composed(app: &TestApp, task: &str) -> (Value, String) {
    let answer = app.owner().post("/v1/compose", &json!({ "task": task })).await;
    let mode = answer.header("x-engramia-compose-mode").expect("a mode").to_owned();
    (answer.ok(), mode)
}

#[tokio::test]
async fn a_task_becomes_stages_with_the_patterns_that_serve_them() {
    let text = stages(json!([
        { "name": "fetch", "task": "fetch the stock prices", "reads": [], "writes": ["prices"] },
        { "name": "fetch", "task": "zzz yyy xxx", "reads": ["prices"], "writes": ["report"] },
    ]));
    let provider = Provider::saying(&[&text]).await;
    let app = provider.of(Setup::new()).start().await;
    app.owner().post("/v1/learn", &run("fetch the stock prices", "get()", 9.0)).await.ok();
    let (body, mode) = composed(&app, "report on stocks").await;
    assert_eq!((mode.as_str(), &body["valid"], &body["contract_errors"]), ("llm", &json!(true), &json!([])));
    let first = json!({
        "name": "stage_0", "task": "fetch the stock prices", "reads": [], "writes": ["prices"],
        "reuse_tier": "duplicate", "similarity": 1.0, "code": "get()",
    });
    assert_eq!(body["stages"][0], first);
    assert_eq!((&body["stages"][1]["name"], &body["stages"][1]["reuse_tier"]), (&json!("fetch"), &json!("fresh")));
    assert_eq!(provider.asked().await[0].schema, "pipeline");
    let found = app.owner().post("/v1/recall", &json!({ "task": "fetch the stock prices", "readonly": true })).await;
    assert_eq!(found.ok()["matches"][0]["pattern"]["reuse_count"], 0, "a plan is no use");
}

#[tokio::test]
async fn what_is_wrong_with_the_data_flow_is_said() {
    let text = stages(json!([
        { "name": "one", "task": "t", "reads": ["b"], "writes": ["a"] },
        { "name": "two", "task": "t", "reads": ["a", "in.csv", "mystery.bin"], "writes": ["b"] },
    ]));
    let app = Provider::saying(&[&text]).await.of(Setup::new()).start().await;
    let (body, _) = composed(&app, "read in.csv").await;
    assert_eq!(body["valid"], false);
    assert_eq!(
        body["contract_errors"],
        json!([
            "Stage 'two' reads ['mystery.bin'] but these files are not produced by any prior stage.",
            "The stages form a cycle: 'one' -> 'two' -> 'one'.",
        ])
    );
}

#[tokio::test]
async fn a_model_that_fails_costs_the_decomposition_and_not_the_request() {
    for reply in [
        said("no JSON"),
        said("[]"),
        said(&stages(json!([]))),
        said(&stages(json!([{ "reads": [] }]))),
        said(&stages(json!([1, 2]))),
        ResponseTemplate::new(401),
        ResponseTemplate::new(500),
        ResponseTemplate::new(200).set_body_string("<html>"),
    ] {
        let app = Provider::by(move |_| reply.clone()).await.of(Setup::new()).start().await;
        let (body, mode) = composed(&app, "the whole task").await;
        let stage = json!({
            "name": "stage_0", "task": "the whole task", "reads": [], "writes": ["output.json"],
            "reuse_tier": "fresh", "similarity": 0.0, "code": null,
        });
        assert_eq!((mode.as_str(), &body["stages"], &body["valid"]), ("fallback", &json!([stage]), &json!(true)));
    }
}
