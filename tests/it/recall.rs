//! How recall searches, ranks, filters and pages, and what it leaves behind.

use std::sync::Arc;

use chrono::TimeDelta;
use engramia::domain::tier::Calibration;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp};
use crate::support::fakes::{Flaky, StoppedClock};
use crate::support::people::Answer;
use crate::support::{eventually, keys, record, run};

const MODE: &str = "x-engramia-recall-mode";

async fn import(app: &TestApp, records: Vec<Value>) {
    let body = json!({ "records": records });
    let answer = app.owner().post("/v1/import", &body).await.ok();
    assert_eq!(answer["imported"], answer["total"]);
}

async fn ask(app: &TestApp, question: Value) -> Answer {
    app.owner().post("/v1/recall", &question).await
}

/// Five solutions to each of six tasks. The better scored come first inside a group, so that they stand for it on a
/// page of any size.
async fn populated() -> TestApp {
    let app = TestApp::start().await;
    let topics = [
        "parse a large csv file with odd quotes",
        "write json lines to some disk",
        "build the sql query for json rows",
        "crawl every web page of one site",
        "resize an image and keep its colours",
        "read a log file from its end",
    ];
    let records = (0..30).map(|n| {
        let topic = topics[n % topics.len()];
        record(&format!("patterns/{n:02}"), topic, 9.0 - (n / topics.len()) as f64)
    });
    import(&app, records.collect()).await;
    app
}

/// Keys of all pages of `limit` matches, following `next_offset`.
async fn all_pages(app: &TestApp, question: &Value, limit: usize) -> Vec<String> {
    let (mut found, mut offset) = (Vec::new(), 0);
    loop {
        let mut question = question.clone();
        question["limit"] = json!(limit);
        question["offset"] = json!(offset);
        let page = ask(app, question).await.ok();
        found.extend(keys(&page));
        if page["has_more"] == false {
            assert_eq!(page["next_offset"], json!(null));
            return found;
        }
        assert_eq!(keys(&page).len(), limit, "only the last page may be short");
        offset += limit;
        assert_eq!(page["next_offset"], offset);
    }
}

#[tokio::test]
async fn pages_of_any_size_make_up_the_same_list() {
    let app = populated().await;
    for (deduplicate, hybrid) in [(false, false), (true, false), (false, true), (true, true)] {
        let question = json!({
            "task": "parse a json file", "deduplicate": deduplicate, "hybrid": hybrid, "readonly": true
        });
        let whole = all_pages(&app, &question, 50).await;
        assert_eq!(whole.len(), if deduplicate { 6 } else { 30 }, "deduplicate: {deduplicate}");
        for limit in [1, 2, 3, 7, 29] {
            assert_eq!(all_pages(&app, &question, limit).await, whole, "{limit} a page, deduplicate: {deduplicate}");
        }
    }
}

#[tokio::test]
async fn a_group_of_near_duplicates_appears_once_whatever_the_page_size() {
    let app = TestApp::start().await;
    // The best scored of the group is the least similar, so that it stands far down the list.
    let records = (0..12).map(|n| {
        let task = format!("parse a large csv file quickly and compute the mean of every column {}", "x".repeat(n));
        record(&format!("patterns/{n:02}"), &task, n as f64 / 2.0)
    });
    let other = record("patterns/other", "paint a picture of the sea", 5.0);
    import(&app, records.chain([other]).collect()).await;
    let question = json!({
        "task": "parse a large csv file quickly and compute the mean of every column", "readonly": true,
        "eval_weighted": false
    });
    for limit in [1, 2, 5, 50] {
        let found = all_pages(&app, &question, limit).await;
        assert_eq!(found.len(), 2, "{limit} a page: {found:?}");
        assert_eq!(found[1], "patterns/other", "{limit} a page");
    }
}

#[tokio::test]
async fn an_explanation_adds_up_to_the_score() {
    let clock = Arc::new(StoppedClock::new());
    let app = Setup::new().clock(clock.clone()).start().await;
    for (n, task) in ["sort a list of numbers", "sort numbers", "list files", "draw a map"].into_iter().enumerate() {
        app.owner().post("/v1/learn", &run(task, &format!("solve({n})"), 2.0 + n as f64)).await.ok();
        clock.pass(TimeDelta::days(10));
    }
    let question = json!({
        "task": "sort a list", "explain": true, "hybrid": true, "recency_weight": 0.4, "recency_half_life_days": 20
    });
    let answer = ask(&app, question).await;
    assert_eq!(answer.header(MODE), Some("hybrid"));
    let answer = answer.ok();
    let matches = answer["matches"].as_array().expect("a list");
    assert_eq!(matches.len(), 4);
    let mut last = f64::INFINITY;
    for (at, found) in matches.iter().enumerate() {
        let part = |name: &str| found["explain"][name].as_f64().unwrap_or_else(|| panic!("{name} in {found}"));
        let sum = part("similarity") + part("keyword_weight") * part("keyword");
        let score = sum * part("quality") * part("recency");
        assert!((score - part("effective_score")).abs() < 1e-9, "{found}");
        assert!((score - found["effective_score"].as_f64().expect("a score")).abs() < 1e-6);
        assert!((part("similarity") - found["similarity"].as_f64().expect("a similarity")).abs() < 1e-6);
        assert!((0.5..=1.0).contains(&part("quality")) && (0.6..1.0).contains(&part("recency")));
        assert!(score <= last, "match {at} is out of order");
        last = score;
    }
    assert!(matches.iter().any(|found| found["explain"]["keyword"] == 1.0), "the best keyword score is one");
    let plain = ask(&app, json!({ "task": "sort a list" })).await;
    assert_eq!(plain.header(MODE), Some("semantic"));
    assert!(plain.ok()["matches"][0].get("explain").is_none());
}

#[tokio::test]
async fn keywords_lift_a_match_that_shares_rare_words() {
    let app = TestApp::start().await;
    import(
        &app,
        vec![
            record("patterns/a", "list list list list files zebra", 5.0),
            record("patterns/b", "list list list list files quickly", 5.0),
        ],
    )
    .await;
    let first = async |hybrid: bool| {
        let question = json!({ "task": "list list list list zebra files", "hybrid": hybrid, "explain": true });
        ask(&app, question).await.ok()["matches"][0].clone()
    };
    assert_eq!(first(false).await["explain"]["keyword"], 0.0);
    let lifted = first(true).await;
    assert_eq!((&lifted["pattern_key"], &lifted["explain"]["keyword"]), (&json!("patterns/a"), &json!(1.0)));
}

#[tokio::test]
async fn filters_look_at_every_pattern_before_a_page_is_cut() {
    let app = TestApp::start().await;
    let records = (0..300).map(|n| {
        // The few that pass are the least similar.
        let task = if n % 30 == 0 { format!("sort {n} unrelated words here") } else { format!("sort a list {n}") };
        let mut record = record(&format!("patterns/{n:03}"), &task, if n % 30 == 0 { 9.0 } else { 3.0 });
        let design = &mut record["data"]["design"];
        design["classification"] = json!(if n % 30 == 0 { "public" } else { "internal" });
        design["source"] = json!(if n % 30 == 0 { "sdk" } else { "cli" });
        record
    });
    import(&app, records.collect()).await;
    let filters = [json!({ "classification": "public" }), json!({ "source": "sdk" }), json!({ "min_score": 9 })];
    for filter in filters {
        for (limit, expected, more) in [(10, 10, false), (9, 9, true), (50, 10, false)] {
            let mut question = json!({ "task": "sort a list", "limit": limit, "deduplicate": false, "readonly": true });
            question.as_object_mut().expect("an object").extend(filter.as_object().expect("an object").clone());
            let page = ask(&app, question).await.ok();
            assert_eq!(keys(&page).len(), expected, "{filter} {limit}");
            assert_eq!(page["has_more"], more, "{filter} {limit}");
            let found = page["matches"].as_array().expect("a list");
            assert!(found.iter().all(|m| m["pattern"]["design"]["classification"] == "public"), "{filter}");
        }
    }
    let nothing = json!({ "task": "sort a list", "classification": "confidential" });
    assert_eq!(ask(&app, nothing).await.ok(), json!({ "matches": [], "has_more": false, "next_offset": null }));
}

#[tokio::test]
async fn a_caller_can_say_how_similar_is_similar_enough() {
    let app = TestApp::start().await;
    let tasks = ["sort a list", "sort a tuple", "paint the sea"];
    import(&app, (0..3).map(|n| record(&format!("patterns/{n}"), tasks[n], 5.0)).collect()).await;
    let found = async |name: &str, least: f64| {
        let mut question = json!({ "task": "sort a list" });
        question[name] = json!(least);
        keys(&ask(&app, question).await.ok())
    };
    // Without a calibration the confidence of the fake space is the cosine itself.
    for name in ["min_similarity", "min_confidence"] {
        assert_eq!(found(name, 0.0).await.len(), 3, "{name}");
        assert_eq!(found(name, 0.5).await, ["patterns/0", "patterns/1"], "{name}");
        assert_eq!(found(name, 0.9).await, ["patterns/0"], "{name}");
    }
    let nothing = ask(&app, json!({ "task": "compile rust", "min_confidence": 0.9 })).await.ok();
    assert!(keys(&nothing).is_empty());
}

#[tokio::test]
async fn tiers_follow_the_similarity_and_the_configured_borders() {
    let records = || vec![record("patterns/0", "a b c d", 5.0), record("patterns/1", "a b c e", 5.0)];
    let tiers = async |app: &TestApp| -> Vec<Value> {
        import(app, records()).await;
        let answer = ask(app, json!({ "task": "a b c d", "deduplicate": false })).await.ok();
        answer["matches"].as_array().expect("a list").iter().map(|found| found["reuse_tier"].clone()).collect()
    };
    let app = TestApp::start().await;
    assert_eq!(tiers(&app).await, ["duplicate", "adapt"]);
    let setup = Setup::new().var("ENGRAMIA_TIER_DUPLICATE", "0.99").var("ENGRAMIA_TIER_ADAPT", "0.95");
    assert_eq!(tiers(&setup.start().await).await, ["duplicate", "fresh"]);
}

#[tokio::test]
async fn age_counts_only_when_it_is_asked_for() {
    let clock = Arc::new(StoppedClock::new());
    let app = Setup::new().clock(clock.clone()).start().await;
    let old = app.owner().post("/v1/learn", &run("sort a list", "old()", 8.0)).await.ok()["pattern_key"].clone();
    clock.pass(TimeDelta::days(90));
    let new = app.owner().post("/v1/learn", &run("sort a big list", "new()", 8.0)).await.ok()["pattern_key"].clone();
    let first = async |weight: f64| {
        let question = json!({ "task": "sort a list", "recency_weight": weight, "deduplicate": false });
        ask(&app, question).await.ok()["matches"][0]["pattern_key"].clone()
    };
    assert_eq!(first(0.0).await, old);
    assert_eq!(first(1.0).await, new);
}

#[tokio::test]
async fn quality_decides_between_equal_tasks_also_after_grouping() {
    let app = TestApp::start().await;
    let bodies = [run("sort a list", "bad_solution(1)", 1.0), run("sort a list quickly", "very(good, one)", 9.5)];
    let mut stored = Vec::new();
    for body in &bodies {
        stored.push(app.owner().post("/v1/learn", body).await.ok()["pattern_key"].clone());
    }
    let best = async |eval_weighted: bool, deduplicate: bool| {
        let question = json!({ "task": "sort a list", "eval_weighted": eval_weighted, "deduplicate": deduplicate });
        ask(&app, question).await.ok()["matches"][0]["pattern_key"].clone()
    };
    assert_eq!(best(false, false).await, stored[0], "by similarity alone the bad one is nearer");
    assert_eq!(best(true, false).await, stored[1]);
    assert_eq!(best(true, true).await, stored[1], "grouping keeps the weighted order");
}

#[tokio::test]
async fn recalls_count_reuse_and_never_change_scores() {
    let app = TestApp::start().await;
    let body = run("sort a list", "sorted(x)", 7.0);
    app.owner().post("/v1/learn", &body).await.ok();
    app.owner().post("/v1/learn", &run("paint the sea", "paint()", 7.0)).await.ok();
    let before = app.owner().get("/v1/export").await.ok();
    for n in 0..25 {
        let answer = ask(&app, json!({ "task": "sort a list", "limit": 1 })).await.ok();
        let pattern = &answer["matches"][0]["pattern"];
        assert_eq!(pattern["reuse_count"], n, "the count before this recall");
        assert_eq!(pattern["success_score"], 7.0);
    }
    let mut after = app.owner().get("/v1/export").await.ok();
    let counts: Vec<Value> = (0..2).map(|at| after["records"][at]["data"]["reuse_count"].take()).collect();
    assert!(counts.contains(&json!(25)) && counts.contains(&json!(0)), "only what was returned: {counts:?}");
    for at in 0..2 {
        after["records"][at]["data"]["reuse_count"] = json!(0);
    }
    assert_eq!(after, before, "nothing else changed");

    let app = Setup::on(app.stop().await).start().await;
    let answer = ask(&app, json!({ "task": "sort a list", "limit": 1 })).await.ok();
    assert_eq!(answer["matches"][0]["pattern"]["reuse_count"], 25, "counts survive a restart");
}

#[tokio::test]
async fn a_readonly_recall_leaves_no_trace() {
    let app = TestApp::start().await;
    app.owner().post("/v1/learn", &run("sort a list", "sorted(x)", 7.0)).await.ok();
    let before = (app.owner().get("/v1/export").await.ok(), app.owner().get("/v1/metrics").await.ok());
    for _ in 0..3 {
        assert_eq!(keys(&ask(&app, json!({ "task": "sort a list", "readonly": true })).await.ok()).len(), 1);
    }
    let after = (app.owner().get("/v1/export").await.ok(), app.owner().get("/v1/metrics").await.ok());
    assert_eq!(after, before);
}

#[tokio::test]
async fn without_embeddings_recall_goes_by_keywords() {
    let setup = Setup::new().configured_embedder().var("ENGRAMIA_EMBEDDING_MODEL", "none");
    let app = setup.start().await;
    for (n, task) in ["sort a list", "sort a tuple", "paint the sea"].into_iter().enumerate() {
        app.owner().post("/v1/learn", &run(task, &format!("solve({n})"), 5.0)).await.ok();
    }
    let answer = ask(&app, json!({ "task": "Sort a list" })).await;
    assert_eq!(answer.header(MODE), Some("keyword"));
    let body = answer.ok();
    let tasks: Vec<&Value> =
        body["matches"].as_array().expect("a list").iter().map(|found| &found["pattern"]["task"]).collect();
    assert_eq!(tasks, ["sort a list", "sort a tuple"]);
    assert_eq!(body["matches"][0]["similarity"], 1.0, "word Jaccard");
    assert!(body["matches"][0].get("confidence").is_none(), "no cosine, no confidence");
    let again = app.owner().post("/v1/learn", &run("sort a LIST", "solve(0)", 5.0)).await.ok();
    assert_eq!(again["stored"], false, "equal texts are found without vectors");
    assert_eq!(app.owner().get("/v1/health/deep").await.ok()["checks"]["embedding"]["status"], "not_configured");
}

#[tokio::test]
async fn keyword_pages_make_up_the_same_list() {
    let setup = Setup::new().configured_embedder().var("ENGRAMIA_EMBEDDING_MODEL", "none");
    let app = setup.start().await;
    let records = (0..120).map(|n| record(&format!("patterns/{n:03}"), &format!("sort list {n}"), (n % 10) as f64));
    import(&app, records.collect()).await;
    let question = json!({ "task": "sort list", "deduplicate": false, "readonly": true });
    let whole = all_pages(&app, &question, 50).await;
    assert_eq!(whole.len(), 120);
    assert_eq!(all_pages(&app, &question, 7).await, whole);
}

#[tokio::test]
async fn when_the_embedder_fails_recall_goes_by_keywords_and_says_so() {
    let embedder = Arc::new(Flaky::failing(0));
    let app = Setup::new().embedder(embedder).var("ENGRAMIA_EMBEDDING_CACHE", "0").start().await;
    app.owner().post("/v1/learn", &run("sort a list", "sorted(x)", 7.0)).await.ok();
    assert_eq!(ask(&app, json!({ "task": "sort a list" })).await.header(MODE), Some("semantic"));

    let root = app.stop().await;
    let app = Setup::on(root).embedder(Arc::new(Flaky::failing(1))).start().await;
    let answer = ask(&app, json!({ "task": "list to sort" })).await;
    assert_eq!(answer.header(MODE), Some("keyword"));
    assert_eq!(keys(&answer.ok()).len(), 1);
    assert_eq!(ask(&app, json!({ "task": "list to sort" })).await.header(MODE), Some("semantic"));
}

#[tokio::test]
async fn many_callers_at_once_meet_a_memory_that_is_not_loaded_yet() {
    for hybrid in [false, true] {
        let app = Setup::on(populated().await.stop().await).start().await;
        let question = json!({ "task": "parse a json file", "hybrid": hybrid });
        let answers = join_all((0..40).map(|_| ask(&app, question.clone()))).await;
        let first = keys(&answers[0].ok());
        assert!(!first.is_empty() && answers.iter().all(|answer| keys(&answer.ok()) == first), "hybrid: {hybrid}");
    }
    let app = Setup::on(populated().await.stop().await).start().await;
    let bodies: Vec<Value> = (0..40).map(|n| run(&format!("task {n}"), &format!("solve({n})"), 5.0)).collect();
    let answers = join_all(bodies.iter().map(async |body| app.owner().post("/v1/learn", body).await)).await;
    assert!(answers.iter().all(|answer| answer.ok()["stored"] == true));
}

#[tokio::test]
async fn odd_questions_get_an_answer() {
    let app = populated().await;
    for task in ["\" OR 1=1 --", "***", "NEAR(a b)", "🙂", "解析", "task: *", "\u{202e}abc", &"word ".repeat(1999)]
    {
        for hybrid in [false, true] {
            ask(&app, json!({ "task": task, "hybrid": hybrid })).await.ok();
        }
    }
    let far = ask(&app, json!({ "task": "csv", "offset": 10_000, "limit": 50 })).await.ok();
    assert_eq!(far, json!({ "matches": [], "has_more": false, "next_offset": null }));
}

#[tokio::test]
async fn the_built_in_model_finds_by_meaning_and_knows_when_nothing_fits() {
    let app = Setup::new().configured_embedder().start().await;
    let tasks = ["Parse a CSV file and compute statistics", "Send an e-mail with an attachment", "Resize an image"];
    for (n, task) in tasks.into_iter().enumerate() {
        app.owner().post("/v1/learn", &run(task, &format!("solve({n})"), 8.0)).await.ok();
    }
    let answer = ask(&app, json!({ "task": "Read comma separated data and calculate averages" })).await.ok();
    assert_eq!(answer["matches"][0]["pattern"]["task"], tasks[0]);
    let found = &answer["matches"][0];
    let number = |name: &str| found[name].as_f64().unwrap_or_else(|| panic!("{name} in {found}"));
    let expected = Calibration::BUILT_IN.confidence(number("similarity"));
    assert!((number("confidence") - expected).abs() < 1e-5, "the calibrated curve");
    let same = ask(&app, json!({ "task": tasks[2] })).await.ok();
    assert_eq!(same["matches"][0]["reuse_tier"], "duplicate");
    assert!(same["matches"][0]["confidence"].as_f64().expect("a confidence") > 0.8);
    let nothing = ask(&app, json!({ "task": "Prove the Riemann hypothesis", "min_confidence": 0.5 })).await.ok();
    assert!(keys(&nothing).is_empty());
}

#[tokio::test]
async fn another_model_makes_its_own_vectors_for_what_is_there() {
    let app = Setup::new().start().await;
    app.owner().post("/v1/learn", &run("Resize an image", "resize()", 8.0)).await.ok();
    let app = Setup::on(app.stop().await).configured_embedder().start().await;
    eventually("found in the new space", async || {
        let answer = ask(&app, json!({ "task": "Make a picture smaller", "readonly": true })).await;
        let found = answer.header(MODE) == Some("semantic") && keys(&answer.ok()).len() == 1;
        found.then_some(())
    })
    .await;
}
