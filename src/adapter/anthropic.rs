//! Chat of Anthropic and of services with the same API (`spec/engramia/20` §14).

use std::time::Duration;

use async_trait::async_trait;
use reqwest::Client;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use super::http;
use super::retry::{Failure, with_retries};
use crate::ports::{LanguageModel, ModelError};

/// Version of the API that requests and answers follow.
const API_VERSION: &str = "2023-06-01";
/// Longest answer asked for; the API wants a limit.
const MAX_TOKENS: u32 = 4096;

/// A chat model of Anthropic.
pub struct AnthropicChat {
    http: Client,
    url: String,
    model: String,
}

#[derive(Deserialize)]
struct Answer {
    content: Vec<Block>,
}

/// One part of an answer; only text parts have a `text`.
#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

impl AnthropicChat {
    /// `base_url` has no slash at its end; `timeout` is for one attempt.
    ///
    /// # Errors
    /// When the key cannot be sent in a header or TLS cannot be set up.
    pub fn new(base_url: &str, key: &SecretString, model: &str, timeout: Duration) -> anyhow::Result<Self> {
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static("x-api-key"), http::secret("", key)?),
            (HeaderName::from_static("anthropic-version"), HeaderValue::from_static(API_VERSION)),
        ]);
        Ok(Self {
            http: http::client(headers, timeout)?,
            url: format!("{base_url}/v1/messages"),
            model: model.to_owned(),
        })
    }

    async fn attempt(&self, request: &serde_json::Value) -> Result<Answer, Failure> {
        let response = http::checked(self.http.post(&self.url).json(request).send().await).await?;
        let body = response.bytes().await.map_err(http::transport)?;
        serde_json::from_slice(&body).map_err(|error| http::unusable(&error))
    }
}

#[async_trait]
impl LanguageModel for AnthropicChat {
    async fn complete(&self, prompt: &str) -> Result<String, ModelError> {
        let request = json!({
            "model": self.model,
            "max_tokens": MAX_TOKENS,
            "messages": [{ "role": "user", "content": prompt }],
        });
        let answer = with_retries(|| self.attempt(&request)).await?;
        let text = answer.content.into_iter().find(|block| block.kind == "text").and_then(|block| block.text);
        text.ok_or_else(|| ModelError::Malformed("no text block".into()))
    }

    fn provider(&self) -> &'static str {
        "anthropic"
    }

    fn model(&self) -> &str {
        &self.model
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wiremock::matchers::{body_json, header, method, path};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    const PATIENT: Duration = Duration::from_secs(30);

    fn answer(content: serde_json::Value) -> ResponseTemplate {
        ResponseTemplate::new(200).set_body_json(json!({ "type": "message", "content": content }))
    }

    async fn ask(server: &MockServer, timeout: Duration) -> Result<String, ModelError> {
        AnthropicChat::new(&server.uri(), &"key-1".into(), "claude", timeout).expect("a client").complete("ping").await
    }

    /// The outcome where every request has the same answer.
    async fn outcome(answer: ResponseTemplate, timeout: Duration, calls: u64) -> Result<String, ModelError> {
        let server = MockServer::start().await;
        Mock::given(method("POST")).respond_with(answer).expect(calls).mount(&server).await;
        ask(&server, timeout).await
    }

    #[tokio::test]
    async fn sends_what_the_api_documents_and_takes_the_first_text() {
        let server = MockServer::start().await;
        Mock::given(method("POST"))
            .and(path("/v1/messages"))
            .and(header("x-api-key", "key-1"))
            .and(header("anthropic-version", "2023-06-01"))
            .and(body_json(json!({
                "model": "claude", "max_tokens": 4096, "messages": [{"role": "user", "content": "ping"}]
            })))
            .respond_with(answer(json!([
                {"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "pong"}, {"type": "text", "text": "!"}
            ])))
            .mount(&server)
            .await;
        assert_eq!(ask(&server, PATIENT).await.expect("an answer"), "pong");
    }

    #[tokio::test]
    async fn comes_back_after_a_rate_limit() {
        let server = MockServer::start().await;
        let busy = ResponseTemplate::new(429).insert_header("retry-after", "0");
        Mock::given(method("POST")).respond_with(busy).up_to_n_times(1).with_priority(1).mount(&server).await;
        let pong = answer(json!([{"type": "text", "text": "pong"}]));
        Mock::given(method("POST")).respond_with(pong).expect(1).mount(&server).await;
        assert_eq!(ask(&server, PATIENT).await.expect("an answer"), "pong");
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        let refused = outcome(ResponseTemplate::new(401).set_body_string("key-1"), PATIENT, 1).await;
        assert!(matches!(&refused, Err(ModelError::Rejected(source)) if !format!("{source:#}").contains("key-1")));
        let overloaded = outcome(ResponseTemplate::new(529), PATIENT, 3).await;
        assert!(matches!(overloaded, Err(ModelError::Unavailable(_))));
        let late = answer(json!([])).set_delay(Duration::from_secs(60));
        assert!(matches!(outcome(late, Duration::from_millis(100), 3).await, Err(ModelError::Unavailable(_))));
        let prose = outcome(ResponseTemplate::new(200).set_body_string("<html>"), PATIENT, 1).await;
        assert!(matches!(prose, Err(ModelError::Malformed(_))));
        let no_text = outcome(answer(json!([{"type": "tool_use"}])), PATIENT, 1).await;
        assert!(matches!(no_text, Err(ModelError::Malformed(_))));
    }
}
