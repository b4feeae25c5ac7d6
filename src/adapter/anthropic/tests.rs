//! The adapter against a provider that answers as told.

use wiremock::matchers::{body_json, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::domain::spend::ModelRole;
use crate::ports::Trouble;

const PATIENT: Duration = Duration::from_secs(30);

fn prompt(schema: Option<AnswerSchema>) -> Prompt {
    Prompt { role: ModelRole::Eval, system: String::new(), user: "ping".into(), schema, max_tokens: 64 }
}

fn answer(content: Value) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({
        "type": "message", "content": content, "stop_reason": "end_turn",
        "usage": { "input_tokens": 3, "output_tokens": 5 },
    }))
}

fn chat(server: &MockServer, timeout: Duration) -> AnthropicChat {
    AnthropicChat::new(&server.uri(), &"key-1".into(), "claude", timeout).expect("a client")
}

/// The outcome where every request has the same answer; it is asked once.
async fn outcome(answer: ResponseTemplate, timeout: Duration) -> Result<Completion, Attempt> {
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(answer).expect(1).mount(&server).await;
    chat(&server, timeout).ask(&prompt(None)).await
}

#[tokio::test]
async fn sends_what_the_api_documents_and_takes_the_first_text() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/v1/messages"))
        .and(header("x-api-key", "key-1"))
        .and(header("anthropic-version", "2023-06-01"))
        .and(body_json(json!({
            "model": "claude", "max_tokens": 64, "messages": [{"role": "user", "content": "ping"}]
        })))
        .respond_with(answer(json!([
            {"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "pong"}, {"type": "text", "text": "!"}
        ])))
        .mount(&server)
        .await;
    let answer = chat(&server, PATIENT).ask(&prompt(None)).await.expect("an answer");
    let usage = Some(Usage { prompt_tokens: 3, completion_tokens: 5 });
    assert_eq!(answer, Completion { text: "pong".into(), usage, finish: Finish::Stop });
}

#[tokio::test]
async fn a_schema_goes_as_the_only_tool() {
    let server = MockServer::start().await;
    let schema = json!({ "type": "object" });
    Mock::given(method("POST"))
        .and(body_json(json!({
            "model": "claude", "max_tokens": 64, "messages": [{"role": "user", "content": "ping"}],
            "tools": [{ "name": "shape", "description": "The answer.", "input_schema": schema }],
            "tool_choice": { "type": "tool", "name": "shape" },
        })))
        .respond_with(answer(json!([
            {"type": "text", "text": "Here:"}, {"type": "tool_use", "id": "1", "name": "shape", "input": {"a": 1}}
        ])))
        .mount(&server)
        .await;
    let shape = AnswerSchema { name: "shape", schema: schema.clone() };
    assert_eq!(chat(&server, PATIENT).ask(&prompt(Some(shape))).await.expect("an answer").text, r#"{"a":1}"#);
}

#[tokio::test]
async fn failures_are_told_apart() {
    let kind = async |answer, timeout| outcome(answer, timeout).await.expect_err("no answer").kind;
    let refused = outcome(ResponseTemplate::new(401).set_body_string("key-1"), PATIENT).await.expect_err("refused");
    assert!(refused.kind == Trouble::Refused && !format!("{:#}", refused.source).contains("key-1"));
    let busy = ResponseTemplate::new(429).insert_header("retry-after", "7");
    let busy = outcome(busy, PATIENT).await.expect_err("busy");
    assert_eq!((busy.kind, busy.retry_after), (Trouble::RateLimited, Some(Duration::from_secs(7))));
    assert_eq!(kind(ResponseTemplate::new(529), PATIENT).await, Trouble::Failed);
    let late = answer(json!([])).set_delay(Duration::from_secs(60));
    assert_eq!(kind(late, Duration::from_millis(100)).await, Trouble::Silent);
    assert_eq!(kind(ResponseTemplate::new(200).set_body_string("<html>"), PATIENT).await, Trouble::Malformed);
    let long = answer(json!([{ "type": "text", "text": "x".repeat(10_000_000) }]));
    assert_eq!(kind(long, PATIENT).await, Trouble::Malformed);
    assert_eq!(outcome(answer(json!([])), PATIENT).await.expect("an empty one").text, "");
}
