//! Chat of Anthropic and of services with the same API (`spec/engramia/20` §14).

use std::time::Duration;

use async_trait::async_trait;
use reqwest::Client;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};

use super::http;
use super::retry::Failure;
use crate::domain::spend::Usage;
use crate::ports::{AnswerSchema, Attempt, Completion, Finish, LanguageModel, Prompt};

/// Version of the API that requests and answers follow.
pub(super) const API_VERSION: &str = "2023-06-01";

/// A chat model of Anthropic.
pub struct AnthropicChat {
    http: Client,
    url: String,
    model: String,
}

#[derive(Deserialize)]
struct Answer {
    content: Vec<Block>,
    stop_reason: Option<String>,
    usage: Option<AnswerUsage>,
}

/// One part of an answer; a tool has an `input`, a text a `text`.
#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    input: Option<Value>,
}

#[derive(Deserialize)]
struct AnswerUsage {
    input_tokens: u64,
    output_tokens: u64,
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

    /// A schema goes as the only tool, which every model of the API knows to fill in.
    fn request(&self, prompt: &Prompt) -> Value {
        let mut request = json!({
            "model": self.model,
            "max_tokens": prompt.max_tokens,
            "messages": [{ "role": "user", "content": prompt.user }],
        });
        if !prompt.system.is_empty() {
            request["system"] = json!(prompt.system);
        }
        if let Some(AnswerSchema { name, schema }) = &prompt.schema {
            request["tools"] = json!([{ "name": name, "description": "The answer.", "input_schema": schema }]);
            request["tool_choice"] = json!({ "type": "tool", "name": name });
        }
        request
    }

    async fn attempt(&self, prompt: &Prompt) -> Result<Answer, Failure> {
        let response = http::checked(self.http.post(&self.url).json(&self.request(prompt)).send().await).await?;
        let body = http::body(response, http::ANSWER_BODY).await?;
        serde_json::from_slice(&body).map_err(|error| http::unusable(&error))
    }
}

#[async_trait]
impl LanguageModel for AnthropicChat {
    async fn ask(&self, prompt: &Prompt) -> Result<Completion, Attempt> {
        let Answer { content, stop_reason, usage } = self.attempt(prompt).await?;
        let filled = content.iter().find_map(|block| block.input.as_ref().filter(|_| block.kind == "tool_use"));
        let text = filled
            .map(Value::to_string)
            .or_else(|| content.iter().find(|block| block.kind == "text").and_then(|block| block.text.clone()));
        let finish = match stop_reason.as_deref() {
            Some("end_turn" | "tool_use" | "stop_sequence") => Finish::Stop,
            Some("max_tokens") => Finish::Length,
            _ => Finish::Other,
        };
        let usage =
            usage.map(|usage| Usage { prompt_tokens: usage.input_tokens, completion_tokens: usage.output_tokens });
        Ok(Completion { text: text.unwrap_or_default(), usage, finish })
    }

    fn provider(&self) -> &'static str {
        "anthropic"
    }

    fn model(&self) -> &str {
        &self.model
    }
}

#[cfg(test)]
mod tests;
