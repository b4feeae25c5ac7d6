//! The edge of the server: other origins, open mode, projects, methods, documentation, clients that hang up.

use std::sync::Arc;

use axum::http::Method;
use serde_json::json;

use crate::support::app::{Setup, TestApp};
use crate::support::fakes::Gated;
use crate::support::people::{Answer, Person};
use crate::support::{eventually, run};

const PAGE: &str = "https://app.example";

async fn preflight(person: &Person, origin: &str, method: &str) -> Answer {
    let call = person.call(Method::OPTIONS, "/v1/learn").header("origin", origin);
    call.header("access-control-request-method", method).await
}

fn listed(answer: &Answer, name: &str) -> Vec<String> {
    let values = answer.header(name).unwrap_or_default().split(',');
    values.map(|value| value.trim().to_lowercase()).filter(|value| !value.is_empty()).collect()
}

#[tokio::test]
async fn configured_origins_may_call() {
    let app = Setup::new().var("ENGRAMIA_CORS_ORIGINS", PAGE).start().await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let answer = preflight(&app.anonymous(), PAGE, method).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE));
        assert!(listed(&answer, "access-control-allow-methods").contains(&method.to_lowercase()), "{method}");
        assert_eq!(answer.header("access-control-max-age"), Some("600"));
        for name in ["authorization", "content-type", "prefer", "x-request-id", "x-project-id", "idempotency-key"] {
            assert!(listed(&answer, "access-control-allow-headers").contains(&name.to_owned()), "{name}");
        }
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
    let refused = app.anonymous().get("/v1/health").header("origin", PAGE).await;
    refused.problem(401, "UNAUTHORIZED");
    assert_eq!(refused.header("access-control-allow-origin"), Some(PAGE), "a page may read why it was refused");
    let exposed = [
        "x-request-id",
        "location",
        "retry-after",
        "x-engramia-usage-prompt-tokens",
        "x-engramia-usage-completion-tokens",
        "x-engramia-usage-cost-usd",
        "idempotent-replayed",
        "ratelimit-limit",
        "ratelimit-remaining",
        "ratelimit-reset",
    ];
    assert_eq!(listed(&refused, "access-control-expose-headers"), exposed);
    assert!(listed(&refused, "vary").contains(&"origin".to_owned()));

    let stranger = preflight(&app.anonymous(), "https://evil.example", "POST").await;
    assert_eq!(stranger.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn pages_can_read_refusals_of_the_outer_layers() {
    let limited = Setup::new().var("ENGRAMIA_CORS_ORIGINS", "*").var("ENGRAMIA_RATE_LIMIT_DEFAULT", "1").start().await;
    limited.owner().get("/v1/metrics").await.ok();
    let closed = Setup::new().var("ENGRAMIA_CORS_ORIGINS", "*").var("ENGRAMIA_MAINTENANCE", "1").start().await;
    for (app, status) in [(limited, 429), (closed, 503)] {
        let answer = app.owner().get("/v1/metrics").header("origin", PAGE).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(preflight(&app.anonymous(), PAGE, "PATCH").await.status, 200, "preflights are not refused");
    }
}

#[tokio::test]
async fn without_configured_origins_there_is_no_cors_at_all() {
    let app = TestApp::start().await;
    let answers =
        [app.owner().get("/v1/health").header("origin", PAGE).await, preflight(&app.owner(), PAGE, "POST").await];
    for answer in answers {
        assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control-")));
        assert_eq!(answer.header("vary"), None);
    }
}

#[tokio::test]
async fn open_mode_serves_this_machine_and_no_web_page() {
    let app = Setup::new().open().start().await;
    let nobody = app.anonymous();
    nobody.post("/v1/learn", &run("t", "c", 5.0)).header("host", "localhost:8000").await.ok();
    nobody.get("/v1/export").header("host", "127.0.0.1:8000").header("origin", "http://localhost:3000").await.ok();
    let foreign = [
        ("evil.example:8000", None),
        ("localhost:8000", Some("https://evil.example")),
        ("localhost:8000", Some("null")),
        ("localhost.evil.example", None),
    ];
    for (host, origin) in foreign {
        let call = nobody.post("/v1/learn", &run("t", "c", 5.0)).header("host", host);
        let call = if let Some(origin) = origin { call.header("origin", origin) } else { call };
        call.await.problem(403, "FORBIDDEN");
    }
    // With keys a page could not act without one, so that names are not looked at.
    let app = TestApp::start().await;
    app.owner().get("/v1/health").header("host", "memory.example").header("origin", PAGE).await.ok();
}

#[tokio::test]
async fn open_mode_serves_the_pages_of_configured_origins() {
    let app = Setup::new().open().var("ENGRAMIA_CORS_ORIGINS", PAGE).start().await;
    let call = |origin: &str| app.anonymous().get("/v1/health").header("host", "localhost").header("origin", origin);
    call(PAGE).await.ok();
    call("https://evil.example").await.problem(403, "FORBIDDEN");
}

#[tokio::test]
async fn a_project_name_is_one_safe_word() {
    let app = TestApp::start().await;
    let call = |name: &[u8]| app.owner().get("/v1/health").header("x-project-id", name);
    let (longest, too_long) = ("x".repeat(100), "x".repeat(101));
    for good in ["default", "team-1.b_c", " padded ", &longest] {
        call(good.as_bytes()).await.ok();
    }
    for bad in ["", "..", "a/b", "a b", "ž", "default,other", &too_long] {
        let body = call(bad.as_bytes()).await.problem(403, "FORBIDDEN");
        assert!(body["detail"].as_str().is_some_and(|text| text.starts_with("X-Project-Id must be")), "{bad:?}");
    }
    call(b"\xff").await.problem(403, "FORBIDDEN");
}

#[tokio::test]
async fn head_answers_like_get_without_a_body() {
    let app = TestApp::start().await;
    let answer = app.owner().call(Method::HEAD, "/v1/health").await;
    assert_eq!((answer.status.as_u16(), answer.bytes.len()), (200, 0));
    assert_eq!(app.anonymous().call(Method::HEAD, "/v1/health").await.status, 401);
}

#[tokio::test]
async fn a_trailing_slash_leads_to_the_path_without_it() {
    let app = TestApp::start().await;
    let answer = app.owner().get("/v1/feedback/?limit=3").await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (307, Some("/v1/feedback?limit=3")));
    app.anonymous().get("/v1/feedback/").await.problem(401, "UNAUTHORIZED");
    // Nothing that could be read as the name of another host.
    for path in ["//evil.example/", "/v1//", "/"] {
        let location = app.owner().get(path).await.header("location").map(str::to_owned);
        assert!(location.is_none_or(|to| to.starts_with("/v1/") && !to.starts_with("//")), "{path}");
    }
}

#[tokio::test]
async fn odd_paths_are_refused_in_the_documented_shape() {
    let app = TestApp::start().await;
    let odd = ["/v1/health/", "/v1//health", "//v1/health", "/v1/health%2f", "/v1/%ff", "/v1/health;x=1", "/v1/HEALTH"];
    for path in odd {
        let answer = app.owner().get(path).await;
        assert!(answer.status.as_u16() < 500 || answer.status == 501, "{path}: {}", answer.text());
        if answer.status.as_u16() >= 400 {
            answer.assert_documented_error();
        }
    }
    let long = format!("/v1/{}", "x".repeat(10_000));
    app.owner().get(&long).await.problem(404, "NOT_FOUND");
}

#[tokio::test]
async fn a_pattern_key_may_be_sent_plain_or_encoded() {
    let app = TestApp::start().await;
    let records = ["patterns/plain", "patterns/encoded", "patterns/with space"]
        .map(|key| json!({ "key": key, "data": { "task": key } }));
    app.owner().post("/v1/import", &json!({ "records": records })).await.ok();
    let cases = [
        ("patterns/plain", "patterns/plain"),
        ("patterns%2Fencoded", "patterns/encoded"),
        ("patterns/with%20space", "patterns/with space"),
    ];
    for (sent, key) in cases {
        let body = app.owner().delete(&format!("/v1/patterns/{sent}")).await.ok();
        assert_eq!(body, json!({ "deleted": true, "pattern_key": key }));
    }
}

#[tokio::test]
async fn the_documentation_page_loads_only_what_this_server_serves() {
    let app = TestApp::start().await;
    for path in ["/docs", "/docs/", "/docs/index.html"] {
        let page = app.anonymous().get(path).await;
        assert_eq!(
            (page.status.as_u16(), page.header("content-type")),
            (200, Some("text/html; charset=utf-8")),
            "{path}"
        );
        let policy = page.header("content-security-policy").expect("a policy");
        assert!(policy.contains("script-src 'self'") && !policy.contains("http"), "{policy}");
        assert!(!page.text().contains("://"), "the page loads from elsewhere");
    }
    for file in ["start.js", "swagger-ui.css", "swagger-ui-bundle.js"] {
        assert_eq!(app.anonymous().get(&format!("/docs/{file}")).await.status, 200, "{file}");
    }
    let app = Setup::new().var("ENGRAMIA_DOCS", "false").start().await;
    for path in ["/docs", "/docs/start.js", "/openapi.json"] {
        app.anonymous().get(path).await.problem(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn prometheus_metrics_are_off_by_default_and_can_ask_for_a_token() {
    let app = TestApp::start().await;
    app.owner().get("/metrics").await.problem(404, "NOT_FOUND");

    let app = Setup::new().var("ENGRAMIA_METRICS", "true").start().await;
    app.owner().post("/v1/learn", &run("t", "c", 8.0)).await.ok();
    app.owner().delete("/v1/patterns/patterns/scanned").await.ok();
    app.anonymous().get("/scanned").await.problem(404, "NOT_FOUND");
    let answer = app.anonymous().get("/metrics").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text();
    for line in [
        "engramia_pattern_count 1",
        "engramia_total_runs 1",
        "engramia_avg_eval_score 8",
        "engramia_success_rate 1",
        "engramia_requests_total{method=\"POST\",path=\"/v1/learn\",status_code=\"200\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("scanned"), "labels hold what clients type");

    let app = Setup::new().var("ENGRAMIA_METRICS", "true").var("ENGRAMIA_METRICS_TOKEN", "scraper").start().await;
    assert_eq!(app.owner().get("/metrics").await.status, 401);
    assert_eq!(app.anonymous().get("/metrics").await.header("www-authenticate"), Some("Bearer"));
    assert_eq!(app.holder_of("scraper").get("/metrics").await.status, 200);
}

/// Sends a learn on a plain socket and hangs up while it is being worked on.
#[tokio::test]
async fn a_client_that_hangs_up_does_not_lose_its_write() {
    let embedder = Arc::new(Gated::default());
    let app = Setup::new().embedder(embedder.clone()).start().await;
    let address = app.listen().await;
    let body = run("t", "c", 5.0).to_string();
    let request = format!(
        "POST /v1/learn HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
        app.key(),
        body.len()
    );
    let mut socket = std::net::TcpStream::connect(address).expect("a listener");
    std::io::Write::write_all(&mut socket, request.as_bytes()).expect("an open socket");
    embedder.arrived.notified().await;
    drop(socket);
    // Long enough for the server to see the end of the connection.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    embedder.gate.0.add_permits(1);
    eventually("the pattern is stored", async || {
        let health = app.owner().get("/v1/health").await.ok();
        (health["pattern_count"] == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stopped_application_lets_go_of_its_directory() {
    let mut app = TestApp::start().await;
    for _ in 0..5 {
        app.owner().get("/v1/health").await.ok();
        app = Setup::on(app.stop().await).start().await;
    }
}

#[tokio::test]
async fn an_ordinary_client_is_served_over_a_real_connection() {
    let app = Setup::new().var("ENGRAMIA_RATE_LIMIT_DEFAULT", "2").start().await;
    let url = format!("http://{}", app.listen().await);
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let learn = client.post(format!("{url}/v1/learn")).bearer_auth(app.key()).json(&run("t", "c", 5.0));
    let stored: serde_json::Value = learn.send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(stored["stored"], true);
    let metrics = || client.get(format!("{url}/v1/metrics")).bearer_auth(app.key()).send();
    assert_eq!(metrics().await.expect("an answer").status(), 200);
    assert_eq!(metrics().await.expect("an answer").status(), 429, "the address of the connection counts");
}

#[tokio::test]
async fn a_refused_large_body_still_gets_its_answer_over_a_real_connection() {
    let app = Setup::new().var("ENGRAMIA_MAX_BODY_SIZE", "65536").start().await;
    let url = format!("http://{}/v1/learn", app.listen().await);
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client.post(url).bearer_auth(app.key()).body(vec![b' '; 200_000]).send().await.expect("an answer");
    assert_eq!(answer.status(), 413);
}
