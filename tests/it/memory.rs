//! What learn stores and joins, what deleting removes, what the statistics say.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::app::{Setup, TestApp};
use crate::support::fakes::Flaky;
use crate::support::{eventually, record, run};

const CODE: &str = "import csv\nrows = list(csv.reader(open(path)))";

async fn learn(app: &TestApp, body: &Value) -> Value {
    app.owner().post("/v1/learn", body).await.ok()
}

/// The only match of a recall that leaves no trace.
async fn only_match(app: &TestApp, task: &str) -> Value {
    let question = json!({ "task": task, "explain": true, "readonly": true, "deduplicate": false });
    let answer = app.owner().post("/v1/recall", &question).await.ok();
    assert_eq!(answer["matches"].as_array().map(Vec::len), Some(1), "{answer}");
    answer["matches"][0].clone()
}

/// Forty different words, so that one changed word leaves 95 per cent.
fn long_code(last: &str) -> String {
    let words: Vec<String> = (0..40).map(|n| format!("word{n}")).collect();
    format!("{} {last}", words.join(" "))
}

#[tokio::test]
async fn the_same_run_twice_is_one_pattern_with_more_evidence() {
    let app = TestApp::start().await;
    let first = learn(&app, &run("Parse a CSV file", CODE, 9.0)).await;
    assert_eq!((&first["stored"], &first["pattern_count"]), (&json!(true), &json!(1)));
    let before = only_match(&app, "Parse a CSV file").await;
    let second = learn(&app, &run("Parse a CSV file", CODE, 9.0)).await;
    assert_eq!(second, json!({ "stored": false, "pattern_count": 1, "pattern_key": first["pattern_key"] }));
    let after = only_match(&app, "Parse a CSV file").await;
    let quality = |found: &Value| found["explain"]["quality"].as_f64().expect("a number");
    assert!(quality(&after) > quality(&before), "good evidence counts more the second time");
}

#[tokio::test]
async fn case_punctuation_layout_and_word_order_do_not_make_another_pattern() {
    let app = TestApp::start().await;
    let first = learn(&app, &run("Parse a CSV file", CODE, 8.0)).await;
    for task in ["parse a csv FILE!", "  Parse: a CSV-file\n", "file CSV a parse"] {
        let again = learn(&app, &run(task, "import csv  rows=list( csv.reader(open(path)) )", 8.0)).await;
        assert_eq!(again["stored"], false, "{task}");
        assert_eq!(again["pattern_key"], first["pattern_key"], "{task}");
    }
}

#[tokio::test]
async fn another_solution_or_another_task_is_another_pattern() {
    let app = TestApp::start().await;
    learn(&app, &run("Parse a CSV file", CODE, 8.0)).await;
    let solution = learn(&app, &run("Parse a CSV file", "SELECT * FROM read_csv($1)", 9.0)).await;
    assert_eq!((&solution["stored"], &solution["pattern_count"]), (&json!(true), &json!(2)));
    let task = learn(&app, &run("Write a CSV file", CODE, 8.0)).await;
    assert_eq!((&task["stored"], &task["pattern_count"]), (&json!(true), &json!(3)));
}

#[tokio::test]
async fn a_better_variant_replaces_the_code_and_a_worse_one_does_not() {
    let app = TestApp::start().await;
    let first = learn(&app, &run("sort a list", &long_code("first"), 6.0)).await;

    let worse = learn(&app, &run("sort a list", &long_code("worse"), 4.0)).await;
    assert_eq!((&worse["stored"], &worse["pattern_key"]), (&json!(false), &first["pattern_key"]));
    let found = only_match(&app, "sort a list").await;
    assert_eq!(found["pattern"]["code"], long_code("first"));
    assert_eq!(found["pattern"]["success_score"], 5.0, "the mean of what was seen of it");

    let better = learn(&app, &run("sort a list", &long_code("better"), 9.5)).await;
    let expected = json!({ "stored": true, "pattern_count": 1, "pattern_key": first["pattern_key"] });
    assert_eq!(better, expected);
    let found = only_match(&app, "sort a list").await;
    assert_eq!(found["pattern"]["code"], long_code("better"));
    assert_eq!(found["pattern"]["success_score"], 9.5);
}

#[tokio::test]
async fn the_caller_may_keep_both_or_skip() {
    let app = TestApp::start().await;
    let with = |rule: &str| {
        let mut body = run("Parse a CSV file", CODE, 2.0);
        body["on_duplicate"] = json!(rule);
        body
    };
    let first = learn(&app, &run("Parse a CSV file", CODE, 8.0)).await;
    let before = only_match(&app, "Parse a CSV file").await;
    let skipped = learn(&app, &with("skip")).await;
    assert_eq!(skipped, json!({ "stored": false, "pattern_count": 1, "pattern_key": first["pattern_key"] }));
    assert_eq!(only_match(&app, "Parse a CSV file").await, before, "nothing changed");
    let kept = learn(&app, &with("keep_both")).await;
    assert_eq!((&kept["stored"], &kept["pattern_count"]), (&json!(true), &json!(2)));
    assert_ne!(kept["pattern_key"], first["pattern_key"]);
    assert_eq!(app.owner().get("/v1/metrics").await.ok()["runs"], 3, "every call was a run");
}

#[tokio::test]
async fn a_hundred_equal_runs_at_once_leave_one_pattern() {
    let app = TestApp::start().await;
    let body = run("Parse a CSV file", CODE, 8.0);
    let answers = join_all((0..100).map(|_| learn(&app, &body))).await;
    assert_eq!(answers.iter().filter(|answer| answer["stored"] == true).count(), 1);
    assert!(answers.iter().all(|answer| answer["pattern_key"] == answers[0]["pattern_key"]));
    let metrics = app.owner().get("/v1/metrics").await.ok();
    assert_eq!((&metrics["runs"], &metrics["pattern_count"]), (&json!(100), &json!(1)));
}

#[tokio::test]
async fn near_equal_runs_at_once_leave_one_pattern() {
    let app = TestApp::start().await;
    let words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"];
    let bodies: Vec<Value> = (0..40)
        .map(|n| {
            let mut words = words.to_vec();
            let by = n % words.len();
            words.rotate_left(by);
            words.swap(0, n % 3);
            run(&words.join(" "), CODE, 8.0)
        })
        .collect();
    join_all(bodies.iter().map(|body| learn(&app, body))).await;
    assert_eq!(app.owner().get("/v1/health").await.ok()["pattern_count"], 1);
}

#[tokio::test]
async fn different_runs_at_once_are_all_there() {
    let app = TestApp::start().await;
    let bodies: Vec<Value> = (0..80).map(|n| run(&format!("task number {n}"), &format!("solve({n})"), 6.0)).collect();
    let answers = join_all(bodies.iter().map(|body| learn(&app, body))).await;
    let mut counts: Vec<u64> =
        answers.iter().map(|answer| answer["pattern_count"].as_u64().expect("a count")).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=80).collect::<Vec<_>>(), "each run saw the memory right after its own write");
    let metrics = app.owner().get("/v1/metrics").await.ok();
    assert_eq!((&metrics["runs"], &metrics["pattern_count"]), (&json!(80), &json!(80)));

    let app = Setup::on(app.stop().await).start().await;
    let exported = app.owner().get("/v1/export").await.ok();
    let mut tasks: Vec<&str> =
        exported["records"].as_array().expect("a list").iter().filter_map(|r| r["data"]["task"].as_str()).collect();
    tasks.sort_unstable();
    tasks.dedup();
    assert_eq!(tasks.len(), 80, "all survive a restart");
}

/// The task part of the key of a stored task.
fn key_start(task: &str) -> String {
    format!("patterns/{}_", hex::encode(&Sha256::digest(task)[..4]))
}

#[tokio::test]
async fn secrets_are_gone_before_key_vector_and_row_are_made() {
    let embedder = Arc::new(Flaky::failing(0));
    let app = Setup::new().embedder(embedder.clone()).start().await;
    let body = json!({
        "task": "Mail the report to jane.doe@corp.example",
        "code": "send('jane.doe@corp.example')",
        "output": "sent to jane.doe@corp.example",
        "eval_score": 8
    });
    let stored = learn(&app, &body).await;
    let clean = "Mail the report to [REDACTED_EMAIL]";
    let key = stored["pattern_key"].as_str().expect("a key");
    assert!(key.starts_with(&key_start(clean)), "{key} is not made of the stored text");
    assert_eq!(*embedder.seen.lock().expect("no panic"), [clean], "what the embedder saw");
    let exported = app.owner().get("/v1/export").await;
    assert!(!exported.text().contains("jane.doe"), "{}", exported.text());
    assert_eq!(exported.ok()["records"][0]["data"]["task"], clean);

    let twin =
        json!({ "task": "Mail the report to bob@corp.example", "code": "send('bob@corp.example')", "eval_score": 8 });
    assert_eq!(learn(&app, &twin).await["stored"], false, "equal after redaction");
    let root = app.stop().await;
    for entry in std::fs::read_dir(root.path()).expect("a folder") {
        let bytes = std::fs::read(entry.expect("an entry").path()).expect("a file");
        assert!(!bytes.windows(8).any(|window| window == b"jane.doe"), "a secret is on the disk");
    }
}

#[tokio::test]
async fn redaction_can_be_switched_off() {
    let app = Setup::new().var("ENGRAMIA_REDACTION", "false").start().await;
    let task = "Mail the report to jane.doe@corp.example";
    let stored = learn(&app, &run(task, "send()", 8.0)).await;
    assert!(stored["pattern_key"].as_str().expect("a key").starts_with(&key_start(task)));
    assert_eq!(only_match(&app, task).await["pattern"]["task"], task);
}

#[tokio::test]
async fn imports_are_redacted_too() {
    let app = TestApp::start().await;
    let records = json!({ "records": [record("patterns/a", "Write to jane.doe@corp.example", 5.0)] });
    app.owner().post("/v1/import", &records).await.ok();
    assert_eq!(only_match(&app, "Write to somebody").await["pattern"]["task"], "Write to [REDACTED_EMAIL]");
}

#[tokio::test]
async fn deleting_a_pattern_removes_what_hangs_on_it() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let kept = learn(&app, &run("keep this one", "kept()", 8.0)).await["pattern_key"].clone();
    let gone = learn(&app, &run("remove that pattern", "gone()", 8.0)).await["pattern_key"].clone();
    for key in [&kept, &gone] {
        let tags = json!({ "pattern_key": key, "skills": ["tag"] });
        owner.post("/v1/skills/register", &tags).await.ok();
    }
    let path = format!("/v1/patterns/{}", gone.as_str().expect("a key"));
    assert_eq!(owner.delete(&path).await.ok(), json!({ "deleted": true, "pattern_key": gone }));
    assert_eq!(owner.delete(&path).await.ok()["deleted"], false, "once");

    let by_tag = owner.post("/v1/skills/search", &json!({ "required": ["tag"] })).await.ok();
    assert_eq!(crate::support::keys(&by_tag), [kept.as_str().expect("a key")]);
    for hybrid in [false, true] {
        let question = json!({ "task": "remove that pattern", "hybrid": hybrid });
        let found = owner.post("/v1/recall", &question).await.ok();
        assert_eq!(crate::support::keys(&found), [kept.as_str().expect("a key")], "hybrid: {hybrid}");
    }
    assert_eq!(owner.get("/v1/health").await.ok()["pattern_count"], 1);
    assert_eq!(owner.get("/v1/export").await.ok()["count"], 1);
    let again = learn(&app, &run("remove that pattern", "gone()", 8.0)).await;
    assert_eq!(again["stored"], true, "a deleted pattern is no twin");
}

#[tokio::test]
async fn tags_are_normalised_replaced_and_searched() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let records = ["patterns/a", "patterns/b", "patterns/c"].map(|key| record(key, key, 5.0));
    owner.post("/v1/import", &json!({ "records": records })).await.ok();
    let register = async |key: &str, skills: Value| {
        let body = json!({ "pattern_key": key, "skills": skills });
        owner.post("/v1/skills/register", &body).await.ok()["registered"].clone()
    };
    assert_eq!(register("patterns/b", json!([" CSV ", "csv", "", "Stats"])).await, 2);
    assert_eq!(register("patterns/a", json!(["csv"])).await, 1);
    assert_eq!(register("patterns/c", json!(["old"])).await, 1);
    assert_eq!(register("patterns/c", json!(["stats"])).await, 1, "new tags replace the old");
    assert_eq!(register("patterns/b", json!([])).await, 2, "an empty list changes nothing");

    let search = async |required: Value, all: bool| {
        let body = json!({ "required": required, "match_all": all });
        crate::support::keys(&owner.post("/v1/skills/search", &body).await.ok())
    };
    assert_eq!(search(json!(["CSV"]), true).await, ["patterns/b", "patterns/a"], "in order of registration");
    assert_eq!(search(json!(["csv", "stats"]), true).await, ["patterns/b"]);
    assert_eq!(search(json!(["csv", "stats"]), false).await, ["patterns/b", "patterns/a", "patterns/c"]);
    assert!(search(json!(["old"]), true).await.is_empty());
    assert!(search(json!([]), true).await.is_empty());

    let body = owner.post("/v1/skills/search", &json!({ "required": ["stats", "csv"] })).await.ok();
    assert_eq!((&body["has_more"], &body["next_offset"]), (&json!(false), &json!(null)));
    let found = &body["matches"][0];
    assert_eq!((&found["similarity"], &found["reuse_tier"]), (&json!(1.0), &json!("duplicate")));
    assert_eq!(found["pattern"]["reuse_count"], 0, "a search by tags counts as no reuse");
}

#[tokio::test]
async fn statistics_count_runs_successes_scores_and_reuse() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let metrics = async || owner.get("/v1/metrics").await.ok();
    let empty =
        json!({ "runs": 0, "success_rate": 0.0, "avg_eval_score": null, "pattern_count": 0, "reuse_rate": 0.0 });
    assert_eq!(metrics().await, empty);
    for (n, score) in [8.0, 4.9, 5.0].into_iter().enumerate() {
        learn(&app, &run(&format!("task {n}"), &format!("solve({n})"), score)).await;
    }
    owner.post("/v1/recall", &json!({ "task": "task 1" })).await.ok();
    owner.post("/v1/recall", &json!({ "task": "task 1", "min_similarity": 1.0, "min_score": 10 })).await.ok();
    owner.post("/v1/recall", &json!({ "task": "task 1", "readonly": true })).await.ok();
    let expected = json!({
        "runs": 3, "success_rate": 0.667, "avg_eval_score": 5.97, "pattern_count": 3, "reuse_rate": 0.5
    });
    assert_eq!(metrics().await, expected);
    // Written or not yet written, the numbers are the same.
    owner.get("/v1/export").await.ok();
    assert_eq!(metrics().await, expected);
    for n in 0..10 {
        learn(&app, &run(&format!("later {n}"), &format!("later({n})"), 10.0)).await;
    }
    assert_eq!(metrics().await["avg_eval_score"], 10.0, "the newest ten scores");
}

#[tokio::test]
async fn health_names_the_storage_and_probes_every_part() {
    let app = TestApp::start().await;
    let health = app.owner().get("/v1/health").await.ok();
    assert_eq!(health, json!({ "status": "ok", "storage": "json", "pattern_count": 0 }));
    let deep = app.owner().get("/v1/health/deep").await.ok();
    assert_eq!(deep["status"], "ok");
    assert_eq!(deep["checks"]["storage"]["status"], "ok");
    assert_eq!(deep["checks"]["embedding"]["status"], "ok");
    assert_eq!(deep["checks"]["llm"], json!({ "status": "not_configured", "latency_ms": null, "error": null }));

    let app = Setup::new().embedder(Arc::new(Flaky::failing(1))).start().await;
    let deep = app.owner().get("/v1/health/deep").await.ok();
    assert_eq!(deep["status"], "degraded", "{deep}");
    assert_eq!(deep["checks"]["embedding"]["error"], "the embedder does not answer");
    assert_eq!(app.owner().get("/v1/health/deep").await.ok()["status"], "ok", "the state of this moment");
}

#[tokio::test]
async fn a_pattern_learned_while_the_embedder_fails_gets_its_vector_later() {
    // The learn fails to embed; the background succeeds at once.
    let app = Setup::new().embedder(Arc::new(Flaky::failing(1))).start().await;
    let key = learn(&app, &run("sort a list of numbers", "sorted(x)", 8.0)).await["pattern_key"].clone();
    eventually("found by meaning", async || {
        let answer = app.owner().post("/v1/recall", &json!({ "task": "numbers sort", "readonly": true })).await;
        let semantic = answer.header("x-engramia-recall-mode") == Some("semantic");
        (semantic && answer.ok()["matches"][0]["pattern_key"] == key).then_some(())
    })
    .await;
}
