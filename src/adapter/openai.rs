//! Embeddings and chat of OpenAI and of services with the same API, through `async-openai` (decision 8).
//!
//! The library builds requests and reads answers. The transport below it is ours: status, `Retry-After` and retries are
//! decided here, and an error never carries or logs the provider's answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_openai::Client;
use async_openai::config::Config;
use async_openai::error::OpenAIError;
use async_openai::middleware::HttpRequestFactory;
use async_openai::types::chat::{
    ChatCompletionRequestSystemMessage, ChatCompletionRequestUserMessage, CreateChatCompletionRequest, FinishReason,
    ResponseFormat, ResponseFormatJsonSchema,
};
use async_openai::types::embeddings::{
    CreateEmbeddingRequest, CreateEmbeddingResponse, EmbeddingInput, EncodingFormat,
};
use async_trait::async_trait;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use secrecy::SecretString;
use tower::BoxError;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use super::http;
use super::retry::{Failure, with_retries};
use crate::domain::spend::Usage;
use crate::domain::tier::Calibration;
use crate::ports::{
    AnswerSchema, Attempt, Completion, Embedder, Finish, LanguageModel, ModelError, Priority, Prompt, Space, Vector,
};

/// Label in metrics.
const PROVIDER: &str = "openai";
/// Time for one attempt to embed (`spec/engramia/20` §14).
const EMBEDDING_TIMEOUT: Duration = Duration::from_secs(15);
/// Texts in one request; OpenAI takes 2,048.
const BATCH: usize = 256;
/// OpenAI takes 300,000 tokens in one request, and a token is at least one byte.
const BATCH_BYTES: usize = 300_000;
/// Largest answer with vectors: a full batch of the longest ones has about 12 MB.
const VECTORS_BODY: usize = 64 << 20;
/// Of a text, what is embedded. OpenAI refuses texts over 8,191 tokens; prose and code have three bytes or more to a
/// token.
const LONGEST: usize = 24_000;
/// What is embedded of a text that was refused nevertheless: it cannot have more tokens than bytes.
const SURELY_FITTING: usize = 8_191;

/// The vectors of an embedding model of OpenAI.
pub struct OpenAiEmbedder {
    api: Client<Endpoint>,
    model: String,
    space: Space,
}

impl OpenAiEmbedder {
    /// `base_url` has no slash at its end.
    ///
    /// # Errors
    /// When the key cannot be sent in a header or TLS cannot be set up.
    pub fn new(base_url: &str, key: &SecretString, model: &str) -> anyhow::Result<Self> {
        Self::with_timeout(base_url, key, model, EMBEDDING_TIMEOUT)
    }

    fn with_timeout(base_url: &str, key: &SecretString, model: &str, timeout: Duration) -> anyhow::Result<Self> {
        Ok(Self {
            api: api(base_url, key, timeout, VECTORS_BODY)?,
            model: model.to_owned(),
            space: Space(format!("openai/{model}").into()),
        })
    }

    /// One request for texts that fit into it.
    async fn request(&self, texts: &[&str], longest: usize) -> Result<Vec<Vector>, Failure> {
        let request = CreateEmbeddingRequest {
            model: self.model.clone(),
            input: EmbeddingInput::StringArray(texts.iter().map(|text| fitting(text, longest).to_owned()).collect()),
            // Every compatible service knows this one; the other is decoded by a function that panics on bad input.
            encoding_format: Some(EncodingFormat::Float),
            ..CreateEmbeddingRequest::default()
        };
        let embeddings = self.api.embeddings();
        let answer = with_retries(|| attempt(embeddings.create(request.clone()))).await?;
        self.vectors(answer, texts.len()).map_err(|what| Failure::Unusable(what.to_owned()))
    }

    /// The answer's vectors in the order of the texts.
    fn vectors(&self, answer: CreateEmbeddingResponse, count: usize) -> Result<Vec<Vector>, &'static str> {
        let mut places: Vec<Option<Vector>> = vec![None; count];
        for item in answer.data {
            let place = places.get_mut(item.index as usize).filter(|place| place.is_none());
            let vector = Vector::normalized(self.space.clone(), item.embedding);
            *place.ok_or("a vector without a text of its own")? = Some(vector.ok_or("a vector that has no direction")?);
        }
        let vectors: Vec<Vector> = places.into_iter().collect::<Option<_>>().ok_or("a text without a vector")?;
        let same_length = vectors.windows(2).all(|pair| pair[0].values.len() == pair[1].values.len());
        if same_length { Ok(vectors) } else { Err("vectors of different lengths") }
    }
}

#[async_trait]
impl Embedder for OpenAiEmbedder {
    async fn embed(&self, texts: &[&str], _priority: Priority) -> Result<Vec<Vector>, ModelError> {
        let mut vectors = Vec::with_capacity(texts.len());
        let mut rest = texts;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(batch(rest));
            let outcome = match self.request(now, LONGEST).await {
                Err(Failure::Status { status: StatusCode::BAD_REQUEST, .. })
                    if now.iter().any(|text| text.len() > SURELY_FITTING) =>
                {
                    self.request(now, SURELY_FITTING).await
                }
                outcome => outcome,
            };
            vectors.extend(outcome?);
            rest = later;
        }
        Ok(vectors)
    }

    fn space(&self) -> &Space {
        &self.space
    }

    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn calibration(&self) -> Calibration {
        Calibration::Identity
    }

    fn batch_size(&self) -> usize {
        BATCH
    }
}

/// How many of the first texts go into one request; at least one.
fn batch(texts: &[&str]) -> usize {
    let mut bytes = 0;
    let fits = |text: &&&str| {
        bytes += text.len().min(LONGEST);
        bytes <= BATCH_BYTES
    };
    texts.iter().take(BATCH).take_while(fits).count().max(1)
}

/// The beginning of `text`, at most `longest` bytes; a space for the empty text, which OpenAI refuses.
fn fitting(text: &str, longest: usize) -> &str {
    if text.is_empty() { " " } else { &text[..text.floor_char_boundary(longest)] }
}

/// A chat model of OpenAI.
pub struct OpenAiChat {
    api: Client<Endpoint>,
    model: String,
    /// Whether the service has refused a schema and taken the same request without it.
    refuses_schemas: AtomicBool,
}

impl OpenAiChat {
    /// `base_url` has no slash at its end; `timeout` is for one attempt.
    ///
    /// # Errors
    /// When the key cannot be sent in a header or TLS cannot be set up.
    pub fn new(base_url: &str, key: &SecretString, model: &str, timeout: Duration) -> anyhow::Result<Self> {
        Ok(Self {
            api: api(base_url, key, timeout, http::ANSWER_BODY)?,
            model: model.to_owned(),
            refuses_schemas: AtomicBool::new(false),
        })
    }

    async fn chat(&self, prompt: &Prompt, schema: Option<&AnswerSchema>) -> Result<Completion, Failure> {
        let mut messages = Vec::with_capacity(2);
        if !prompt.system.is_empty() {
            messages.push(ChatCompletionRequestSystemMessage::from(prompt.system.as_str()).into());
        }
        messages.push(ChatCompletionRequestUserMessage::from(prompt.user.as_str()).into());
        let request = CreateChatCompletionRequest {
            model: self.model.clone(),
            messages,
            max_completion_tokens: Some(prompt.max_tokens),
            response_format: schema.map(|answer| ResponseFormat::JsonSchema {
                json_schema: ResponseFormatJsonSchema {
                    description: None,
                    name: answer.name.to_owned(),
                    schema: answer.schema.clone(),
                    strict: Some(true),
                },
            }),
            ..CreateChatCompletionRequest::default()
        };
        let answer = attempt(self.api.chat().create(request)).await?;
        let choice = answer.choices.into_iter().next().ok_or_else(|| Failure::Unusable("no choice".to_owned()))?;
        let finish = match choice.finish_reason {
            Some(FinishReason::Stop) => Finish::Stop,
            Some(FinishReason::Length) => Finish::Length,
            _ => Finish::Other,
        };
        let usage = answer.usage.map(|usage| Usage {
            prompt_tokens: usage.prompt_tokens.into(),
            completion_tokens: usage.completion_tokens.into(),
        });
        Ok(Completion { text: choice.message.content.unwrap_or_default(), usage, finish })
    }
}

#[async_trait]
impl LanguageModel for OpenAiChat {
    async fn ask(&self, prompt: &Prompt) -> Result<Completion, Attempt> {
        let schema = prompt.schema.as_ref().filter(|_| !self.refuses_schemas.load(Ordering::Relaxed));
        match self.chat(prompt, schema).await {
            // Compatible services that know no schemas say so like this; the prompt itself asks for JSON, too.
            Err(Failure::Status { status: StatusCode::BAD_REQUEST, .. }) if schema.is_some() => {
                let plain = self.chat(prompt, None).await?;
                self.refuses_schemas.store(true, Ordering::Relaxed);
                Ok(plain)
            }
            outcome => Ok(outcome?),
        }
    }

    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn model(&self) -> &str {
        &self.model
    }
}

/// Address and key. The library's own type reads the environment and panics where a key is no header.
struct Endpoint {
    base_url: String,
    headers: HeaderMap,
    key: SecretString,
}

impl Config for Endpoint {
    fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base_url)
    }

    fn query(&self) -> Vec<(&str, &str)> {
        Vec::new()
    }

    fn api_base(&self) -> &str {
        &self.base_url
    }

    fn api_key(&self) -> &SecretString {
        &self.key
    }
}

/// The library's client over our transport, which replaces the one that retries by rules of its own. An answer has at
/// most `longest` bytes.
fn api(base_url: &str, key: &SecretString, timeout: Duration, longest: usize) -> anyhow::Result<Client<Endpoint>> {
    let headers = HeaderMap::from_iter([(AUTHORIZATION, http::secret("Bearer ", key)?)]);
    let endpoint = Endpoint { base_url: base_url.to_owned(), headers, key: key.clone() };
    let client = http::client(HeaderMap::new(), timeout)?;
    let transport = {
        let client = client.clone();
        tower::service_fn(move |request: HttpRequestFactory| {
            let client = client.clone();
            async move {
                let request = request.build().await?;
                let answer = http::checked(client.execute(request).await).await?;
                let body = http::body(answer, longest).await?;
                Ok::<_, BoxError>(::http::Response::new(body).into())
            }
        })
    };
    Ok(Client::build(client, endpoint).with_http_service(transport))
}

/// A call of the library, without its log messages: they repeat an answer that cannot be parsed.
async fn attempt<T>(call: impl Future<Output = Result<T, OpenAIError>>) -> Result<T, Failure> {
    call.with_subscriber(Dispatch::none()).await.map_err(failure)
}

/// What an error of the library means.
fn failure(error: OpenAIError) -> Failure {
    match error {
        OpenAIError::Boxed(error) => match error.downcast() {
            Ok(failure) => *failure,
            Err(other) => Failure::Transport(anyhow::Error::from_boxed(other)),
        },
        OpenAIError::Reqwest(error) => http::transport(error),
        OpenAIError::JSONDeserialize(error, _) => http::unusable(&error),
        // The rest belongs to parts of the library that are not used here; its texts may quote the answer.
        _ => Failure::Unusable("the client library gave up".into()),
    }
}

#[cfg(test)]
mod tests;
