//! The export for governance: every pattern as a line, page by page.

use axum::body::HttpBody;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp};
use crate::support::people::{Answer, Person};
use crate::support::postgres::{Database, numbers};

const PATH: &str = "/v1/governance/export";

fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(answer.header("content-disposition"), Some("attachment; filename=engramia_export.ndjson"));
    let text = answer.text();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn record(number: usize, code: &str) -> Value {
    let word = ["public", "internal", "confidential"][number % 3];
    let design = json!({ "code": code, "classification": word, "source": "sdk" });
    json!({ "key": format!("patterns/{number:05}"), "data": { "task": format!("task {number}"), "design": design } })
}

async fn import(person: &Person, records: Vec<Value>) {
    person.post("/v1/import", &json!({ "records": records })).await.ok();
}

#[tokio::test]
async fn every_pattern_is_a_line_in_key_order() {
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let app = setup.start().await;
        let owner = app.owner();
        assert_eq!(lines(&owner.get(PATH).await), Vec::<Value>::new());
        // Short and long ones: pages end where they would become too long.
        let code = |number: usize| if number % 100 == 7 { "x\n".repeat(200_000) } else { "a\u{2028}b".to_owned() };
        import(&owner, (0..1_100).rev().map(|number| record(number, &code(number))).collect()).await;
        let learned = json!({ "task": "mail to jana@example.org", "code": "c", "eval_score": 5, "run_id": "run-1" });
        owner.post("/v1/learn", &learned).header("x-project-id", "other").await.ok();
        let found = lines(&owner.get(PATH).await);
        let keys: Vec<_> = found.iter().map(|line| line["key"].as_str().expect("a key")).collect();
        assert_eq!(keys, (0..1_100).map(|number| format!("patterns/{number:05}")).collect::<Vec<_>>());
        for (number, line) in found.iter().enumerate() {
            let expected = record(number, &code(number));
            assert_eq!(line["data"]["design"], expected["data"]["design"]);
            assert_eq!(line["classification"], expected["data"]["design"]["classification"]);
            assert_eq!(
                (&line["version"], &line["redacted"], &line["source"]),
                (&json!(1), &json!(false), &json!("sdk"))
            );
            assert!(line.get("run_id").is_none());
        }
        let other = lines(&owner.get(PATH).header("x-project-id", "other").await);
        assert_eq!((other.len(), &other[0]["redacted"], &other[0]["run_id"]), (1, &json!(true), &json!("run-1")));
        assert_eq!(other[0]["classification"], "internal");
        // The plain export is the same, in its own shape.
        let plain = owner.get("/v1/export").await.ok();
        assert_eq!(plain["count"], 1_100);
        assert_eq!(plain["records"][1_099]["data"], found[1_099]["data"]);
        let again = TestApp::start().await;
        again.owner().post("/v1/import", &json!({ "records": found })).await.ok();
        assert_eq!(lines(&again.owner().get(PATH).await).len(), 1_100);
    }
}

#[tokio::test]
async fn a_filter_lets_only_its_words_through() {
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let app = setup.start().await;
        let owner = app.owner();
        import(&owner, (0..300).map(|number| record(number, "c")).collect()).await;
        for (query, count) in [
            ("classification=public", 100),
            ("classification=public,%20confidential", 200),
            ("classification=public,internal,confidential,public", 300),
            ("classification=", 300),
        ] {
            let found = lines(&owner.get(&format!("{PATH}?{query}")).await);
            assert_eq!(found.len(), count, "{query}");
            assert!(
                found.iter().all(|line| query.contains(line["classification"].as_str().expect("a word")))
                    || query.ends_with('=')
            );
        }
        let long = "public,".repeat(14) + "public";
        for bad in ["secret", "public,zz", "Public", "public,", ",", &(long + "x")] {
            let refused = owner.get(&format!("{PATH}?classification={bad}")).await.problem(422, "VALIDATION_ERROR");
            assert_eq!(refused["detail"][0]["loc"], json!(["query", "classification"]), "{bad}");
        }
        let refused = owner.get(&format!("{PATH}?classification=public,zz")).await.json();
        assert!(refused["detail"][0]["msg"].as_str().expect("a text").contains("'zz'"), "{refused}");
        let events = owner.get("/v1/audit?action=scope_exported").await.ok();
        assert_eq!(events["total"], 4, "refused ones export nothing");
        assert_eq!(events["events"][2]["detail"]["classification_filter"], "public,confidential");
        assert_eq!(events["events"][0]["detail"]["classification_filter"], Value::Null);
    }
}

#[tokio::test]
async fn a_slow_reader_holds_nothing_of_the_database() {
    let database = Database::new().await;
    let app = Setup::new().postgres(&database).var("ENGRAMIA_DB_POOL_SIZE", "2").start().await;
    let owner = app.owner();
    import(&owner, (0..1_000).map(|number| record(number, &"x".repeat(5_000))).collect()).await;
    let mut readers = Vec::new();
    for path in [PATH, "/v1/export", PATH] {
        let mut body = owner.get(path).stream().await.into_body();
        body.frame().await.expect("a frame").expect("sound");
        assert!(!body.is_end_stream());
        readers.push(body);
    }
    // More of them than connections, and everybody else is served.
    owner.post("/v1/recall", &json!({ "task": "task 5" })).await.ok();
    let open = "select count(*) from pg_stat_activity where datname = current_database() \
                and state like 'idle in transaction%'";
    assert_eq!(numbers(&mut database.connect().await, open).await, [0]);
    owner.delete("/v1/patterns/patterns/00999").await.ok();
    for body in readers {
        assert!(body.collect().await.expect("a whole body").to_bytes().len() > 4_000_000);
    }
}
