//! Rate limits: by address, by key, and who counts as the address.

use serde_json::json;

use crate::support::app::{KEY, Setup, TestApp};
use crate::support::people::Answer;

fn assert_limited(answer: &Answer, text: &str) {
    let body = answer.problem(429, "RATE_LIMITED");
    assert_eq!(body["detail"], text);
    assert_eq!(body["error_context"], json!({ "retry_after": 60 }), "the whole allowance is back after a minute");
    assert_eq!(answer.header("retry-after"), Some("60"));
}

#[tokio::test]
async fn an_address_has_its_allowance_whoever_calls_from_it() {
    let app = Setup::new().var("ENGRAMIA_RATE_LIMIT_DEFAULT", "3").start().await;
    app.owner().get("/v1/metrics").await.ok();
    app.anonymous().get("/v1/metrics").await.problem(401, "UNAUTHORIZED");
    app.anonymous().get("/nowhere").await.problem(404, "NOT_FOUND");
    assert_limited(&app.owner().get("/v1/metrics").await, "Rate limit exceeded. Max 3 requests per minute.");
    app.owner().get("/v1/metrics").from("203.0.113.7").await.ok();
}

/// Limit, remaining and reset, as an answer says.
fn left(answer: &Answer) -> Option<[u32; 3]> {
    let number = |name: &str| answer.header(name).map(|value| value.parse().expect("a number"));
    Some([number("ratelimit-limit")?, number("ratelimit-remaining")?, number("ratelimit-reset")?])
}

#[tokio::test]
async fn answers_say_what_the_tighter_bucket_has_left() {
    let setup = Setup::new().var("ENGRAMIA_RATE_LIMIT_DEFAULT", "4").var("ENGRAMIA_RATE_LIMIT_EXPENSIVE", "2");
    let app = setup.var("ENGRAMIA_RATE_LIMIT_PER_KEY", "6").start().await;
    assert_eq!(left(&app.owner().get("/v1/metrics").await), Some([4, 3, 15]), "of the address");
    assert_eq!(left(&app.anonymous().get("/v1/metrics").await), Some([4, 2, 30]), "also where nobody is known");
    assert_eq!(left(&app.anonymous().get("/nowhere").await), Some([4, 1, 45]));
    assert_eq!(left(&app.owner().get("/v1/metrics").await), Some([4, 0, 60]));
    let refused = app.owner().get("/v1/metrics").await;
    assert_limited(&refused, "Rate limit exceeded. Max 4 requests per minute.");
    assert_eq!(left(&refused), Some([4, 0, 60]));
    // Six of the key, of which two are used.
    let elsewhere = async |path: &str, from: &str| left(&app.owner().get(path).from(from).await);
    assert_eq!(elsewhere("/v1/metrics", "203.0.113.1").await, Some([4, 3, 15]), "as many are left of the key");
    assert_eq!(elsewhere("/v1/health", "203.0.113.2").await, Some([6, 2, 40]), "only the key is limited here");
    assert_eq!(elsewhere("/v1/metrics", "203.0.113.3").await, Some([6, 1, 50]));
    let body = json!({ "task": "t" });
    let expensive = app.owner().post("/v1/compose", &body).from("203.0.113.4").await;
    assert_eq!(left(&expensive), Some([6, 0, 60]), "{}", expensive.text());
    let refused = app.owner().get("/v1/metrics").from("203.0.113.5").await;
    assert_limited(&refused, "Rate limit exceeded. Max 6 requests per minute per API key.");
    assert_eq!(left(&refused), Some([6, 0, 60]));
}

#[tokio::test]
async fn what_is_not_limited_says_nothing_of_limits() {
    let app = TestApp::start().await;
    for path in ["/livez", "/readyz", "/openapi.json", "/docs/"] {
        let answer = app.anonymous().get(path).await;
        assert_eq!((answer.status.as_u16(), left(&answer)), (200, None), "{path}");
    }
    assert_eq!(left(&app.anonymous().get("/v1/health").await), None, "no key, no limit of a key");
}

#[tokio::test]
async fn probes_are_never_limited_by_address() {
    let app = Setup::new().var("ENGRAMIA_RATE_LIMIT_DEFAULT", "1").start().await;
    app.owner().get("/v1/metrics").await.ok();
    for _ in 0..5 {
        assert_eq!(app.anonymous().get("/livez").await.status, 200);
        assert_eq!(app.anonymous().get("/readyz").await.status, 200);
        app.owner().get("/v1/health").await.ok();
    }
    assert_limited(&app.owner().get("/v1/metrics").await, "Rate limit exceeded. Max 1 requests per minute.");
}

#[tokio::test]
async fn a_key_has_its_allowance_wherever_it_is_used() {
    let setup = Setup::new().var("ENGRAMIA_RATE_LIMIT_PER_KEY", "2").var("ENGRAMIA_API_KEYS", &format!("{KEY},second"));
    let app = setup.start().await;
    app.owner().get("/v1/metrics").from("203.0.113.1").await.ok();
    app.owner().get("/v1/metrics").from("203.0.113.2").await.ok();
    let refused = app.owner().get("/v1/metrics").from("203.0.113.3").await;
    assert_limited(&refused, "Rate limit exceeded. Max 2 requests per minute per API key.");
    app.holder_of("second").get("/v1/metrics").await.ok();
}

#[tokio::test]
async fn an_ipv6_network_is_one_address() {
    let app = Setup::new().var("ENGRAMIA_RATE_LIMIT_DEFAULT", "1").start().await;
    app.owner().get("/v1/metrics").from("2001:db8::1").await.ok();
    app.owner().get("/v1/metrics").from("2001:db8::2").await.problem(429, "RATE_LIMITED");
    app.owner().get("/v1/metrics").from("2001:db8:0:1::1").await.ok();
}

#[tokio::test]
async fn a_client_is_not_believed_about_its_address() {
    let app = Setup::new().var("ENGRAMIA_RATE_LIMIT_DEFAULT", "1").start().await;
    let call =
        |forwarded: &str| app.owner().get("/v1/metrics").from("203.0.113.9").header("x-forwarded-for", forwarded);
    call("198.51.100.1").await.ok();
    call("198.51.100.2").await.problem(429, "RATE_LIMITED");
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_about_the_last_hop_only() {
    let setup = Setup::new().var("ENGRAMIA_RATE_LIMIT_DEFAULT", "1").var("ENGRAMIA_TRUSTED_PROXIES", "10.0.0.0/8");
    let app = setup.start().await;
    let call = |forwarded: &str| app.owner().get("/v1/metrics").from("10.0.0.1").header("x-forwarded-for", forwarded);
    call("198.51.100.1").await.ok();
    call("198.51.100.2").await.ok();
    call("6.6.6.6, 198.51.100.2").await.problem(429, "RATE_LIMITED");
    call("198.51.100.3, 10.0.0.2").await.ok();
    call("198.51.100.3").await.problem(429, "RATE_LIMITED");
}
