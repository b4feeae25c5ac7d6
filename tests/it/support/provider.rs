//! A provider of language models that answers as a test tells it, and notes what it was asked.

use std::sync::Mutex;

use serde_json::{Value, json};
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::app::Setup;

/// The provider's key; nobody may ever see it.
pub const SECRET: &str = "sk-of-the-provider";
/// Tokens of every answer: those sent, those that came back.
pub const TOKENS: (u64, u64) = (1_000, 500);

/// Speaks as OpenAI does.
pub struct Provider(MockServer);

/// One request to it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Name of the schema; empty without one.
    pub schema: String,
    /// Text of the system message.
    pub system: String,
    /// Text of the user's message.
    pub user: String,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let body: Value = request.body_json().expect("JSON");
        let text = |role: &str| {
            let messages = body["messages"].as_array().into_iter().flatten();
            let texts = messages.filter(|message| message["role"] == role).map(|message| message["content"].as_str());
            texts.flatten().collect()
        };
        let schema = body["response_format"]["json_schema"]["name"].as_str().unwrap_or_default().to_owned();
        Self { schema, system: text("system"), user: text("user") }
    }
}

impl Provider {
    /// Answers by a rule.
    pub async fn by(rule: impl Fn(&Asked) -> ResponseTemplate + Send + Sync + 'static) -> Self {
        let server = MockServer::start().await;
        let respond = move |request: &Request| rule(&Asked::of(request));
        Mock::given(method("POST")).respond_with(respond).mount(&server).await;
        Self(server)
    }

    /// Says these texts in turn, the last one for ever.
    pub async fn saying(texts: &[&str]) -> Self {
        let texts: Vec<String> = texts.iter().rev().map(|text| (*text).to_owned()).collect();
        let left = Mutex::new(texts);
        Self::by(move |_| {
            let mut left = left.lock().expect("no panic");
            let text = if left.len() > 1 { left.pop() } else { left.last().cloned() };
            said(&text.expect("at least one text"))
        })
        .await
    }

    /// An application that asks this provider.
    pub fn of(&self, setup: Setup) -> Setup {
        setup.var("OPENAI_API_KEY", SECRET).var("OPENAI_BASE_URL", &format!("{}/v1", self.0.uri()))
    }

    /// What it was asked.
    pub async fn asked(&self) -> Vec<Asked> {
        self.0.received_requests().await.expect("recorded").iter().map(Asked::of).collect()
    }
}

/// A completion with this text.
pub fn said(text: &str) -> ResponseTemplate {
    let (prompt, completion) = TOKENS;
    ResponseTemplate::new(200).set_body_json(json!({
        "id": "1", "object": "chat.completion", "created": 1, "model": "gpt-4.1",
        "choices": [{ "index": 0, "finish_reason": "stop", "message": { "role": "assistant", "content": text } }],
        "usage": { "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion },
    }))
}

/// What a judge says.
pub fn verdict(overall: f64, feedback: &str) -> String {
    json!({
        "task_alignment": 8, "code_quality": 8, "workspace_usage": 8, "robustness": 7, "overall": overall,
        "feedback": feedback,
    })
    .to_string()
}
