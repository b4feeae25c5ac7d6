//! Errors on the wire: status, code, text and headers of every kind this version can produce.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Method;
use futures_util::stream;
use serde_json::{Value, json};

use crate::support::app::{BOOTSTRAP_TOKEN, KEY, Setup, TestApp};
use crate::support::fakes::StoppedClock;
use crate::support::people::{Answer, Person};
use crate::support::run;

#[tokio::test]
async fn credentials_that_are_missing_or_odd_are_a_401() {
    let app = TestApp::start().await;
    let missing = "Missing or malformed Authorization header. Expected: Bearer <key>";
    let cases: &[(&[u8], &str)] = &[
        (b"", missing),
        (b"Bearer", missing),
        (b"Bearer ", missing),
        (b"Basic dXNlcjpwYXNz", missing),
        (b"it-key-0123456789", missing),
        (b"Bearer \xff\xfe", missing),
        ("Bearer klíč".as_bytes(), "Invalid API key."),
        (b"Bearer it-key", "Invalid API key."),
        (b"Bearer it-key-0123456789 x", "Invalid API key."),
    ];
    for (header, text) in cases {
        let shown = String::from_utf8_lossy(header);
        let answer = app.anonymous().get("/v1/health").header("authorization", header).await;
        assert_eq!(answer.problem(401, "UNAUTHORIZED")["detail"], *text, "{shown}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{shown}");
    }
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let call = app.anonymous().get("/v1/health").header("authorization", format!("{scheme} {KEY}"));
        call.await.ok();
    }
}

#[tokio::test]
async fn unknown_routes_exist_for_nobody_and_inside_the_api_only_callers_learn_so() {
    let app = TestApp::start().await;
    for path in ["/v1/nothing", "/v1/learn/more", "/v1/patterns"] {
        app.anonymous().get(path).await.problem(401, "UNAUTHORIZED");
        assert_eq!(app.owner().get(path).await.problem(404, "NOT_FOUND")["detail"], "Not Found", "{path}");
    }
    for path in ["/", "/favicon.ico", "/v2/learn", "/docs/../Cargo.toml", "/docs/%2e%2e/x"] {
        app.anonymous().get(path).await.problem(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn a_wrong_method_is_a_405_that_names_the_right_one() {
    let app = TestApp::start().await;
    let cases = [
        (Method::GET, "/v1/learn", "POST"),
        (Method::POST, "/v1/health", "GET"),
        (Method::PUT, "/v1/patterns/patterns/x", "DELETE"),
        (Method::from_bytes(b"BREW").expect("a method"), "/v1/export", "GET"),
    ];
    for (method, path, right) in cases {
        app.anonymous().call(method.clone(), path).await.problem(401, "UNAUTHORIZED");
        let answer = app.owner().call(method, path).await;
        assert_eq!(answer.problem(405, "METHOD_NOT_ALLOWED")["detail"], "Method Not Allowed", "{path}");
        assert!(answer.header("allow").is_some_and(|allowed| allowed.contains(right)), "{path}");
    }
}

fn chunked(bytes: usize) -> Body {
    let chunks = bytes.div_ceil(100);
    Body::from_stream(stream::iter((0..chunks).map(|_| Ok::<_, std::io::Error>(vec![b' '; 100]))))
}

#[tokio::test]
async fn a_body_that_is_too_large_is_a_413_announced_or_not() {
    let app = Setup::new().var("ENGRAMIA_MAX_BODY_SIZE", "1024").start().await;
    let owner = app.owner();
    let large = run("t", &"x".repeat(1024), 5.0).to_string();
    let answers = [
        owner.send("/v1/learn", large.clone()).header("content-length", large.len().to_string()).await,
        owner.send("/v1/learn", large.clone()).await,
        owner.send("/v1/learn", chunked(1100)).await,
        owner.send("/v1/learn", "{}").header("content-length", "1025").await,
    ];
    for answer in answers {
        let body = answer.problem(413, "PAYLOAD_TOO_LARGE");
        assert_eq!(body["detail"], "Request body too large. Maximum allowed: 1024 bytes.");
        assert_eq!(body["error_context"], json!({ "max_bytes": 1024 }));
    }
    let small = run("t", "x", 5.0).to_string();
    let full = format!("{small}{}", " ".repeat(1024 - small.len()));
    owner.send("/v1/learn", full).await.ok();
    owner.send("/v1/learn", chunked(1000)).await.problem(422, "VALIDATION_ERROR");
}

#[tokio::test]
async fn an_import_may_be_larger_than_other_bodies_but_not_endless() {
    let app = Setup::new().var("ENGRAMIA_MAX_BODY_SIZE", "1024").start().await;
    let code = "x".repeat(10_000);
    let records = json!({ "records": [{ "key": "patterns/a", "data": { "task": "t", "design": { "code": code } } }] });
    assert_eq!(app.owner().post("/v1/import", &records).await.ok()["imported"], 1);
    let body = app.owner().send("/v1/import", chunked(64 * 1024 + 1)).await.problem(413, "PAYLOAD_TOO_LARGE");
    assert_eq!(body["error_context"]["max_bytes"], 64 * 1024);
}

/// Kind and place of every mistake.
fn mistakes(answer: &Answer) -> Vec<(String, Value)> {
    let body = answer.problem(422, "VALIDATION_ERROR");
    let items = body["detail"].as_array().unwrap_or_else(|| panic!("a list in {body}"));
    items.iter().map(|item| (item["type"].as_str().expect("a kind").to_owned(), item["loc"].clone())).collect()
}

#[tokio::test]
async fn wrong_input_is_described_mistake_by_mistake() {
    let app = TestApp::start().await;
    let learn = async |body: &str| mistakes(&app.owner().send("/v1/learn", body.to_owned()).await);
    let one = |kind: &str, place: Value| vec![(kind.to_owned(), place)];

    assert_eq!(learn(r#"{"task":"t","eval_score":5}"#).await, one("missing", json!(["body", "code"])));
    assert_eq!(learn(r#"{"task":7,"code":"c","eval_score":5}"#).await, one("string_type", json!(["body", "task"])));
    assert_eq!(
        learn(r#"{"task":" ","code":"c","eval_score":5}"#).await,
        one("string_too_short", json!(["body", "task"]))
    );
    assert_eq!(
        learn(r#"{"task":"t","code":"c","eval_score":"much"}"#).await,
        one("float_parsing", json!(["body", "eval_score"]))
    );
    assert_eq!(
        learn(r#"{"task":"t","code":"c","eval_score":11}"#).await,
        one("less_than_equal", json!(["body", "eval_score"]))
    );
    assert_eq!(learn("[1]").await, one("model_attributes_type", json!(["body"])));
    assert_eq!(learn("null").await, one("model_attributes_type", json!(["body"])));
    assert_eq!(learn("").await, one("missing", json!(["body"])));
    assert_eq!(learn(r#"{"source":"x"}"#).await.len(), 4, "all at once: three missing, one unknown word");

    let many = json!({ "pattern_key": "patterns/x", "skills": vec!["s"; 51] });
    let answer = app.owner().post("/v1/skills/register", &many).await;
    assert_eq!(mistakes(&answer), one("too_long", json!(["body", "skills"])));
    let tag = json!({ "pattern_key": "patterns/x", "skills": ["fine", "s".repeat(201)] });
    let answer = app.owner().post("/v1/skills/register", &tag).await;
    assert_eq!(mistakes(&answer), one("string_too_long", json!(["body", "skills", 1])));
    let answer = app.owner().get("/v1/feedback?limit=many").await;
    assert_eq!(mistakes(&answer), one("int_parsing", json!(["query", "limit"])));
}

#[tokio::test]
async fn json_that_cannot_be_read_is_located() {
    let app = TestApp::start().await;
    for (body, offset) in [("{\"task\": nope}", 10..=12), ("{\n\n  \"task\": nope}", 13..=15), ("{", 1..=1)] {
        let found = mistakes(&app.owner().send("/v1/recall", body).await);
        assert_eq!(found[0].0, "json_invalid", "{body}");
        let at = found[0].1[1].as_u64().unwrap_or_else(|| panic!("an offset in {found:?}"));
        assert!(offset.contains(&at), "{body}: {at}");
    }
    let bad: [&[u8]; 4] = [b"{\"task\":\"\xff\"}", b"{\"task\":\"\\ud800\"}", b"{\"task\":NaN}", b"{\"task\":\"t\"} x"];
    for bytes in bad {
        let found = mistakes(&app.owner().send("/v1/recall", bytes).await);
        assert_eq!(found[0].0, "json_invalid", "{}", String::from_utf8_lossy(bytes));
    }
}

#[tokio::test]
async fn input_is_not_echoed() {
    let app = TestApp::start().await;
    let secret = "hunter2-".repeat(2000);
    let body = json!({ "task": secret, "code": [secret], "eval_score": secret, "source": secret });
    let answer = app.owner().post("/v1/learn", &body).await;
    assert_eq!(mistakes(&answer).len(), 4);
    assert!(!answer.text().contains("hunter2"), "{}", answer.text());
}

#[tokio::test]
async fn json_is_read_whatever_the_content_type() {
    let app = TestApp::start().await;
    for kind in ["application/json", "text/plain", "application/x-www-form-urlencoded", "nonsense"] {
        app.owner().send("/v1/recall", r#"{"task":"t"}"#).header("content-type", kind).await.ok();
    }
    app.owner().send("/v1/recall", r#"{"task":"t","unknown":{"x":1}}"#).await.ok();
}

#[tokio::test]
async fn a_pattern_key_must_look_like_one() {
    let app = TestApp::start().await;
    let encoded = "patterns%2F..%2Fx";
    let long = format!("patterns/{}", "x".repeat(500));
    for key in ["nope", "metrics/_global", encoded, "patterns/%00", "patterns/%ff", "%ff", &long] {
        let body = app.owner().delete(&format!("/v1/patterns/{key}")).await.problem(422, "VALIDATION_ERROR");
        assert_eq!(body["detail"], "Invalid pattern key.", "{key}");
    }
    let tags = json!({ "pattern_key": "nope", "skills": ["x"] });
    let body = app.owner().post("/v1/skills/register", &tags).await.problem(422, "VALIDATION_ERROR");
    assert_eq!(body["detail"], "Invalid pattern key.");
    let unknown = json!({ "pattern_key": "patterns/none", "skills": ["x"] });
    let body = app.owner().post("/v1/skills/register", &unknown).await.problem(404, "NOT_FOUND");
    assert_eq!(body["detail"], "Pattern not found.");
}

#[tokio::test]
async fn maintenance_closes_everything_but_health() {
    let app = Setup::new().var("ENGRAMIA_MAINTENANCE", "true").start().await;
    for (person, path) in [(app.owner(), "/v1/metrics"), (app.anonymous(), "/v1/version"), (app.anonymous(), "/x")] {
        let answer = person.get(path).await;
        let body = answer.problem(503, "SERVICE_UNAVAILABLE");
        assert_eq!(body["detail"], "Service is under scheduled maintenance. Please try again later.", "{path}");
        assert_eq!(body["error_context"], json!({ "retry_after": 3600 }));
        assert_eq!(answer.header("retry-after"), Some("3600"));
    }
    for path in ["/v1/health", "/v1/health/deep"] {
        app.owner().get(path).await.ok();
        app.anonymous().get(path).await.problem(401, "UNAUTHORIZED");
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(app.anonymous().get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn without_any_configured_key_the_api_is_closed() {
    let cases = [
        (
            "env",
            "No API keys configured. Set ENGRAMIA_API_KEYS, use ENGRAMIA_AUTH_MODE=db, or set ENGRAMIA_ALLOW_NO_AUTH=true to explicitly allow unauthenticated access.",
        ),
        ("dev", "ENGRAMIA_AUTH_MODE=dev needs ENGRAMIA_ALLOW_NO_AUTH=true to explicitly allow unauthenticated access."),
    ];
    for (mode, text) in cases {
        let app = Setup::new().var("ENGRAMIA_API_KEYS", "").var("ENGRAMIA_AUTH_MODE", mode).start().await;
        for person in [app.anonymous(), app.owner()] {
            assert_eq!(person.get("/v1/health").await.problem(503, "SERVICE_UNAVAILABLE")["detail"], text);
        }
        app.anonymous().get("/v1/version").await.ok();
    }
}

/// One answer of every kind.
async fn one_of_every_kind() -> Vec<(u16, Answer)> {
    let app = Setup::new().var("ENGRAMIA_MAX_BODY_SIZE", "1024").start().await;
    let owner: Person = app.owner();
    let limited = Setup::new().var("ENGRAMIA_RATE_LIMIT_DEFAULT", "1").start().await;
    limited.owner().get("/v1/metrics").await.ok();
    let closed = Setup::new().var("ENGRAMIA_MAINTENANCE", "1").start().await;
    let keyed = Setup::new().keyed().await.var("ENGRAMIA_MAX_PROJECTS", "1").start().await;
    vec![
        (201, keyed.owner().post("/v1/keys", &json!({ "name": "n" })).await),
        (409, keyed.anonymous().post("/v1/keys/bootstrap", &json!({ "token": BOOTSTRAP_TOKEN })).await),
        (429, keyed.owner().post("/v1/keys", &json!({ "name": "n", "project_id": "one-too-many" })).await),
        (200, owner.get("/v1/health").await),
        (200, app.anonymous().get("/livez").await),
        (200, owner.get("/v1/export").await),
        (401, app.anonymous().get("/v1/health").await),
        (403, owner.get("/v1/health").header("x-project-id", "..").await),
        (404, app.anonymous().get("/nowhere").await),
        (405, owner.get("/v1/learn").await),
        (413, owner.send("/v1/learn", chunked(2000)).await),
        (422, owner.send("/v1/learn", "{").await),
        (429, limited.owner().get("/v1/metrics").await),
        (503, closed.owner().get("/v1/metrics").await),
    ]
}

#[tokio::test]
async fn every_answer_carries_the_security_headers_and_its_request_id() {
    let expected = [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("x-permitted-cross-domain-policies", "none"),
        ("referrer-policy", "no-referrer"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("permissions-policy", "interest-cohort=()"),
        ("strict-transport-security", "max-age=63072000; includeSubDomains"),
        ("x-api-version", "v1"),
    ];
    for (status, answer) in one_of_every_kind().await {
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
        for (name, value) in expected {
            assert_eq!(answer.header(name), Some(value), "{status} {name}");
        }
        let id = answer.header("x-request-id").expect("an id");
        assert!(uuid::Uuid::parse_str(id).is_ok(), "{status} {id}");
        if status >= 400 {
            answer.assert_documented_error();
        }
    }
}

#[tokio::test]
async fn a_callers_request_id_is_kept_if_it_is_harmless() {
    let app = TestApp::start().await;
    let seen = async |sent: &[u8]| {
        let answer = app.anonymous().get("/v1/health").header("x-request-id", sent).await;
        answer.assert_documented_error();
        answer.header("x-request-id").expect("an id").to_owned()
    };
    let longest = "x".repeat(128);
    for good in ["abc-123", "a/b?c=d", &longest] {
        assert_eq!(seen(good.as_bytes()).await, good);
    }
    assert_eq!(seen(b"  padded ").await, "padded");
    let too_long = "x".repeat(129);
    let bad: [&[u8]; 6] = [b"", b"   ", b"a b", b"tab\tbed", "ž".as_bytes(), too_long.as_bytes()];
    for bad in bad {
        let id = seen(bad).await;
        assert!(uuid::Uuid::parse_str(&id).is_ok(), "{id:?}");
    }
}

#[tokio::test]
async fn a_clock_that_stands_still_gives_every_run_its_own_key() {
    let app = Setup::new().clock(Arc::new(StoppedClock::new())).start().await;
    let learn =
        async |code: &str| app.owner().post("/v1/learn", &run("t", code, 5.0)).await.ok()["pattern_key"].clone();
    let (one, two) = (learn("first()").await, learn("quite(another, thing)").await);
    assert_ne!(one, two);
    assert_eq!(app.owner().get("/v1/health").await.ok()["pattern_count"], 2);
}
