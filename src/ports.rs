//! Traits for the outside world. Adapters implement them; services know only these.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;

use crate::domain::plan::Plan;
use crate::domain::spend::{ModelRole, Usage};
use crate::domain::tier::Calibration;
use crate::domain::{Timestamp, words};

/// The wall clock.
pub trait Clock: Send + Sync {
    /// Now, UTC.
    fn now(&self) -> Timestamp;
}

/// The system's randomness.
pub trait Entropy: Send + Sync {
    /// Fills the buffer with unpredictable bytes.
    fn fill(&self, bytes: &mut [u8]);
}

/// Which vectors may be compared with each other: one model of one provider at one version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Space(pub Arc<str>);

impl Space {
    /// The stable name, such as `local/all-minilm-l6-v2/w8g64-1`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An L2-normalised embedding with the space it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Vector {
    /// The space.
    pub space: Space,
    /// Components; their number is the dimension of the space.
    pub values: Arc<[f32]>,
}

impl Vector {
    /// Scales `values` to length one; `None` where that is impossible (empty, zero or not finite).
    pub fn normalized(space: Space, mut values: Vec<f32>) -> Option<Self> {
        let length = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
        if !(length.is_finite() && length > 0.0) {
            return None;
        }
        for value in &mut values {
            *value = (f64::from(*value) / length) as f32;
        }
        Some(Self { space, values: values.into() })
    }
}

/// Who waits for an embedding: an agent, or a bulk load that can give way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// A request that somebody waits for.
    Interactive,
    /// Import and re-embedding.
    Background,
}

/// Turns texts into vectors of one space.
#[async_trait]
pub trait Embedder: Send + Sync {
    /// One vector per text, in the same order.
    async fn embed(&self, texts: &[&str], priority: Priority) -> Result<Vec<Vector>, ModelError>;
    /// The space of every vector it makes.
    fn space(&self) -> &Space;
    /// Label of the provider in metrics: `local` or `openai`.
    fn provider(&self) -> &'static str;
    /// How a cosine in this space maps to confidence.
    fn calibration(&self) -> Calibration;
    /// How many texts a background load should pass at once.
    fn batch_size(&self) -> usize;
}

#[async_trait]
impl<T: Embedder + ?Sized> Embedder for Arc<T> {
    async fn embed(&self, texts: &[&str], priority: Priority) -> Result<Vec<Vector>, ModelError> {
        T::embed(self, texts, priority).await
    }
    fn space(&self) -> &Space {
        T::space(self)
    }
    fn provider(&self) -> &'static str {
        T::provider(self)
    }
    fn calibration(&self) -> Calibration {
        T::calibration(self)
    }
    fn batch_size(&self) -> usize {
        T::batch_size(self)
    }
}

/// What a language model is asked.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// What it is asked for.
    pub role: ModelRole,
    /// Who it is and what to do; empty for nothing.
    pub system: String,
    /// What to do it with.
    pub user: String,
    /// Shape of the answer; prose where there is none.
    pub schema: Option<AnswerSchema>,
    /// Longest answer.
    pub max_tokens: u32,
}

/// The JSON object that a language model shall answer.
#[derive(Debug, Clone)]
pub struct AnswerSchema {
    /// Name for the provider: letters and underscores.
    pub name: &'static str,
    /// JSON Schema in the subset that providers enforce: every member required, no further ones.
    pub schema: serde_json::Value,
}

/// What a language model answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The text; JSON where a schema was sent and the provider keeps to it.
    pub text: String,
    /// What it used; `None` where the provider does not say.
    pub usage: Option<Usage>,
    /// Why it ends.
    pub finish: Finish,
}

/// Why an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model was done.
    Stop,
    /// The longest answer was reached: the rest is missing.
    Length,
    /// Anything else, such as a filter.
    Other,
}

/// A chat model. A call is one attempt; who calls decides whether another one follows.
#[async_trait]
pub trait LanguageModel: Send + Sync {
    /// One attempt, bounded in time and bytes.
    async fn ask(&self, prompt: &Prompt) -> Result<Completion, Attempt>;
    /// Label of the provider in metrics.
    fn provider(&self) -> &'static str;
    /// Name of the model in metrics.
    fn model(&self) -> &str;
}

/// Why an attempt gave no answer. The texts carry no secret and no answer body.
#[derive(Debug, thiserror::Error)]
#[error("{}", kind.as_str())]
pub struct Attempt {
    /// What happened.
    pub kind: Trouble,
    /// When the provider wants to be asked again.
    pub retry_after: Option<Duration>,
    /// More about it.
    #[source]
    pub source: anyhow::Error,
}

words! {
    /// What can happen to an attempt.
    Trouble {
        /// The provider refuses our key or our request.
        Refused = "refused",
        /// Too many requests.
        RateLimited = "rate_limited",
        /// The provider says that it failed.
        Failed = "failed",
        /// It cannot be reached.
        Unreachable = "unreachable",
        /// It was reached, and there was no answer in time, or only a part of one.
        Silent = "silent",
        /// The answer is not what the provider documents.
        Malformed = "malformed"
    }
}

impl Trouble {
    /// Whether another attempt may succeed.
    pub fn may_pass(self) -> bool {
        !matches!(self, Self::Refused | Self::Malformed)
    }

    /// Whether nobody knows what the provider did, and charges for.
    pub fn may_be_charged(self) -> bool {
        matches!(self, Self::Silent | Self::Malformed)
    }
}

/// Why a model gave no answer. The texts carry no secret and no answer body.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The provider refuses our key or our request; trying again is pointless.
    #[error("the provider refused the request")]
    Rejected(#[source] anyhow::Error),
    /// The provider or the way to it failed; a later attempt may succeed.
    #[error("the provider is unavailable")]
    Unavailable(#[source] anyhow::Error),
    /// The answer is not what the provider documents.
    #[error("the provider's answer cannot be used: {0}")]
    Malformed(String),
    /// Our own compute queue is full or the wait was too long.
    #[error("the server is busy")]
    Busy {
        /// When to come back.
        retry_after: Duration,
    },
}

impl From<Attempt> for ModelError {
    fn from(attempt: Attempt) -> Self {
        match attempt.kind {
            Trouble::Refused => Self::Rejected(attempt.into()),
            Trouble::Malformed => Self::Malformed(format!("{:#}", attempt.source)),
            Trouble::RateLimited | Trouble::Failed | Trouble::Unreachable | Trouble::Silent => {
                Self::Unavailable(attempt.into())
            }
        }
    }
}

/// A public key as the issuer of tokens publishes it (RFC 7517); members that we do not need are left out.
#[derive(Debug, Clone, Deserialize)]
pub struct Jwk {
    /// Id by which tokens name it; unnamed keys are of no use.
    pub kid: String,
    /// Type: `RSA`, `EC`, ...
    pub kty: String,
    /// The only algorithm it is meant for.
    pub alg: Option<String>,
    /// What it is meant for: `sig` or `enc`.
    #[serde(rename = "use")]
    pub usage: Option<String>,
    /// The operations it is meant for, such as `verify`.
    pub key_ops: Option<Vec<String>>,
    /// Curve.
    pub crv: Option<String>,
    /// Modulus, base64url.
    pub n: Option<String>,
    /// Exponent, base64url.
    pub e: Option<String>,
    /// First coordinate, base64url.
    pub x: Option<String>,
    /// Second coordinate, base64url.
    pub y: Option<String>,
}

/// The signing keys of the issuer of tokens.
#[async_trait]
pub trait KeySource: Send + Sync {
    /// The key of this id; `None` where the issuer publishes no such key.
    ///
    /// # Errors
    /// When the key is not at hand and the issuer cannot be asked: this says nothing about the token.
    async fn find(&self, kid: &str) -> Result<Option<Arc<Jwk>>, IssuerUnavailable>;
}

/// The issuer of tokens cannot be asked; the reason is in the log.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("The token issuer cannot be reached. Please try again later.")]
pub struct IssuerUnavailable {
    /// When to come back.
    pub retry_after: Duration,
}

/// What a tenant buys.
#[derive(Debug, Clone)]
pub struct Purchase<'a> {
    /// The tenant as a customer of the payment service.
    pub customer_id: &'a str,
    /// Who buys.
    pub tenant: &'a str,
    /// What.
    pub price_id: &'a str,
    /// Its plan, where it is known.
    pub plan: Option<Plan>,
    /// Where the buyer goes afterwards.
    pub success_url: &'a str,
    /// Where the buyer goes instead.
    pub cancel_url: &'a str,
}

/// An amount on the next invoice of a customer.
#[derive(Debug, Clone)]
pub struct Charge<'a> {
    /// The customer.
    pub customer_id: &'a str,
    /// The tenant.
    pub tenant: &'a str,
    /// The month that is paid for, for whoever looks at the item.
    pub month: &'a str,
    /// Cents (USD).
    pub amount_cents: i64,
    /// What stands on the invoice.
    pub text: &'a str,
    /// The draft that it shall stand on; the next invoice where there is none.
    pub invoice_id: Option<&'a str>,
}

/// The payment service. With the same `once` the same call has its effect once, however often it is tried.
#[async_trait]
pub trait Payments: Send + Sync {
    /// Makes a customer; its id.
    async fn create_customer(&self, tenant: &str, once: &str) -> Result<String, PaymentError>;
    /// Begins a purchase; where the buyer pays.
    async fn checkout(&self, purchase: &Purchase<'_>, once: &str) -> Result<String, PaymentError>;
    /// Opens the page where a customer looks after everything, and comes back from; its address.
    async fn portal(&self, customer_id: &str, return_url: Option<&str>, once: &str) -> Result<String, PaymentError>;
    /// Puts an amount on an invoice; the id of the item.
    async fn charge(&self, charge: &Charge<'_>, once: &str) -> Result<String, PaymentError>;
    /// Whether anybody answers, whatever the answer is.
    async fn ping(&self) -> Result<(), PaymentError>;
}

/// Why the payment service did not do what it was asked. The texts carry no secret.
#[derive(Debug, thiserror::Error)]
pub enum PaymentError {
    /// It does not accept the request, whoever sends it how often.
    #[error("the payment service refused the request")]
    Refused {
        /// The parameter that it does not accept, if it says.
        param: Option<String>,
        /// More about it.
        #[source]
        source: anyhow::Error,
    },
    /// It does not accept our key.
    #[error("the payment service refused the key")]
    Key(#[source] anyhow::Error),
    /// It does nothing now, for certain: it may be asked again at any time.
    #[error("the payment service is unavailable")]
    Unavailable(#[source] anyhow::Error),
    /// Nobody knows whether it has done what it was asked.
    #[error("the payment service gave no answer")]
    Silent(#[source] anyhow::Error),
}
