//! Errors on the wire: one closed list of codes, one shape (`spec/engramia/00` §5, decision 12).
//!
//! `{"error_code": "...", "detail": "..." | [...], "error_context": {...}?, "request_id": "..."}`. Internal texts go to
//! the log only.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::context;
use super::fields::Finding;
use crate::domain::spend::Overspent;
use crate::domain::{Feature, Plan, words};
use crate::ports::{ModelError, PaymentError};
use crate::service::ServiceError;
use crate::service::quotas::Quota;
use crate::store::StoreError;

words! {
    /// Machine-readable cause of an error.
    ErrorCode {
        Unauthorized = "UNAUTHORIZED",
        Forbidden = "FORBIDDEN",
        NotFound = "NOT_FOUND",
        MethodNotAllowed = "METHOD_NOT_ALLOWED",
        Validation = "VALIDATION_ERROR",
        PayloadTooLarge = "PAYLOAD_TOO_LARGE",
        /// The state of the thing does not allow it; the original gives such errors no code of their own.
        Conflict = "ERROR",
        PaymentRequired = "PAYMENT_REQUIRED",
        EntitlementRequired = "ENTITLEMENT_REQUIRED",
        QuotaExceeded = "QUOTA_EXCEEDED",
        RateLimited = "RATE_LIMITED",
        Internal = "INTERNAL_ERROR",
        Provider = "PROVIDER_ERROR",
        NotConfigured = "PROVIDER_NOT_CONFIGURED",
        Storage = "STORAGE_ERROR",
        Unavailable = "SERVICE_UNAVAILABLE"
    }
}

impl ErrorCode {
    /// The status that goes with the code.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Validation => StatusCode::UNPROCESSABLE_ENTITY,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Conflict => StatusCode::CONFLICT,
            Self::PaymentRequired | Self::EntitlementRequired => StatusCode::PAYMENT_REQUIRED,
            Self::RateLimited | Self::QuotaExceeded => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Provider => StatusCode::BAD_GATEWAY,
            Self::NotConfigured => StatusCode::NOT_IMPLEMENTED,
            Self::Storage | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// An error on its way to the client.
#[derive(Debug)]
pub struct Problem {
    code: ErrorCode,
    detail: Value,
    context: Map<String, Value>,
    retry_after: Option<Duration>,
    /// Another status than that of the code.
    status: Option<StatusCode>,
    /// Members beside the others, where the guide prints an error in its own shape.
    flat: Map<String, Value>,
}

impl Problem {
    /// An error with a text.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: Value::String(detail.into()),
            context: Map::new(),
            retry_after: None,
            status: None,
            flat: Map::new(),
        }
    }

    /// 400, where the original has it: what is wrong stands in no single field.
    fn bad_request(detail: String) -> Self {
        Self { status: Some(StatusCode::BAD_REQUEST), ..Self::new(ErrorCode::Validation, detail) }
    }

    /// Everything that is wrong with the input, one item each (`spec/engramia/00` §5.3).
    pub fn invalid(findings: &[Finding]) -> Self {
        let items = findings.iter().map(Finding::to_json).collect();
        Self { detail: Value::Array(items), ..Self::new(ErrorCode::Validation, "") }
    }

    /// Adds a member to `error_context`.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.context.insert(name.to_owned(), value.into());
        self
    }

    /// Tells the client when to come back: header and context, in whole seconds.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.retry_after = Some(Duration::from_secs(seconds));
        self.with("retry_after", seconds)
    }

    /// 401: no credentials, or of another kind.
    pub fn missing_credentials() -> Self {
        Self::new(ErrorCode::Unauthorized, "Missing or malformed Authorization header. Expected: Bearer <key>")
    }

    /// 401: a key that opens nothing.
    pub fn invalid_key() -> Self {
        Self::new(ErrorCode::Unauthorized, "Invalid API key.")
    }

    /// 413, with the limit.
    pub fn too_large(limit: usize) -> Self {
        let detail = format!("Request body too large. Maximum allowed: {limit} bytes.");
        Self::new(ErrorCode::PayloadTooLarge, detail).with("max_bytes", limit)
    }

    /// 429: a limit that no waiting lifts, in both documented shapes.
    fn quota(text: String, quota: &Quota) -> Self {
        let problem = Self::new(ErrorCode::QuotaExceeded, text.as_str()).with("metric", quota.metric());
        let problem = problem.with("current", quota.current).with("limit", quota.limit);
        let problem = match quota.resets() {
            Some(day) => problem.with("reset_date", day.to_string()),
            None => problem,
        };
        problem.in_both_shapes(quota.word(), text)
    }

    /// 402: the plan does not have a feature, in both shapes.
    fn not_entitled(text: String, feature: Feature, plan: Plan) -> Self {
        let problem = Self::new(ErrorCode::EntitlementRequired, text.as_str()).with("feature", feature.as_str());
        let problem = problem.with("current_tier", plan.as_str()).with("required_tier", feature.least_plan().as_str());
        problem.in_both_shapes("entitlement_required", text)
    }

    /// 429: the budget of a day, in both documented shapes.
    fn overspent(text: String, overspent: &Overspent) -> Self {
        let problem = Self::new(ErrorCode::QuotaExceeded, text.as_str()).with("metric", "llm_budget_usd");
        let problem = problem.with("current", overspent.current).with("limit", overspent.limit);
        problem.with("reset_date", overspent.reset.to_string()).in_both_shapes("quota_exceeded", text)
    }

    /// With the members of the context beside the others, and the words of the guide.
    fn in_both_shapes(mut self, word: &'static str, text: String) -> Self {
        self.flat = self.context.clone();
        self.flat.insert("error".to_owned(), json!(word));
        self.flat.insert("message".to_owned(), json!(text));
        self
    }

    /// `Kind: sentence`, where there is no response: the error of a job.
    pub fn sentence(&self) -> String {
        let kind = match self.code {
            ErrorCode::Unauthorized => "Unauthorized",
            ErrorCode::Forbidden => "Forbidden",
            ErrorCode::NotFound | ErrorCode::MethodNotAllowed => "NotFound",
            ErrorCode::Validation | ErrorCode::PayloadTooLarge => "ValidationError",
            ErrorCode::Conflict => "Conflict",
            ErrorCode::PaymentRequired => "PaymentRequired",
            ErrorCode::EntitlementRequired => "EntitlementRequired",
            ErrorCode::QuotaExceeded => "QuotaExceeded",
            ErrorCode::RateLimited => "RateLimited",
            ErrorCode::Internal => "InternalError",
            ErrorCode::Provider | ErrorCode::NotConfigured => "ProviderError",
            ErrorCode::Storage => "StorageError",
            ErrorCode::Unavailable => "ServiceUnavailable",
        };
        let first = |item: &Value| {
            let place = item["loc"].as_array().into_iter().flatten().map(|part| match part {
                Value::String(name) => name.clone(),
                other => other.to_string(),
            });
            let place = place.collect::<Vec<_>>().join(".");
            format!("{place}: {}", item["msg"].as_str().unwrap_or_default())
        };
        match &self.detail {
            Value::String(text) => format!("{kind}: {text}"),
            Value::Array(items) => format!("{kind}: {}", items.first().map(first).unwrap_or_default()),
            _ => kind.to_owned(),
        }
    }

    /// When to come back.
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// 500 without a reason; the reason is in the log under the request id.
    pub fn internal() -> Self {
        Self::new(ErrorCode::Internal, "An internal error occurred.")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({ "error_code": self.code.as_str(), "detail": self.detail });
        for (name, value) in self.flat {
            body[name] = value;
        }
        if !self.context.is_empty() {
            body["error_context"] = Value::Object(self.context);
        }
        if let Some(id) = context::request_id() {
            body["request_id"] = json!(*id);
        }
        let mut response =
            (self.status.unwrap_or(self.code.status()), [(header::CONTENT_TYPE, "application/json")], body.to_string())
                .into_response();
        if self.code == ErrorCode::Unauthorized {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs()));
        }
        response
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let text = error.to_string();
        match error {
            ServiceError::InvalidKey => Self::new(ErrorCode::Validation, text),
            ServiceError::InvalidRecords(flaws) => {
                let findings: Vec<_> = flaws.into_iter().map(|(at, flaw)| Finding::of_record(at, flaw)).collect();
                Self::invalid(&findings)
            }
            ServiceError::PatternNotFound
            | ServiceError::KeyNotFound
            | ServiceError::JobNotFound
            | ServiceError::RequestNotFound
            | ServiceError::NoRollup(_) => Self::new(ErrorCode::NotFound, text),
            ServiceError::Forbidden(..)
            | ServiceError::NotTheAuthor
            | ServiceError::RoleTooHigh { .. }
            | ServiceError::RankTooLow { .. }
            | ServiceError::ForeignProject
            | ServiceError::ForeignErasure(_)
            | ServiceError::ForeignTenant => Self::new(ErrorCode::Forbidden, text),
            ServiceError::Founded
            | ServiceError::AlreadyRevoked
            | ServiceError::RotatesRevoked
            | ServiceError::JobLost => Self::new(ErrorCode::Conflict, text),
            ServiceError::InvalidOverage | ServiceError::InvalidReturnUrl | ServiceError::InvalidNotice(_) => {
                Self::bad_request(text)
            }
            ServiceError::InvalidField { field, message } => {
                Self::invalid(&[Finding::new("value_error", vec![json!("body"), json!(field)], message)])
            }
            ServiceError::NoPayments => Self::new(ErrorCode::Unavailable, text),
            ServiceError::Payment(error) => Self::from(error),
            ServiceError::NotesFull => {
                let place = vec![json!("body"), json!("handler_notes")];
                Self::invalid(&[Finding::new("string_too_long", place, text)])
            }
            ServiceError::Unwritable(error) => {
                tracing::error!(error = chain(error.as_ref()), "a result cannot be written");
                Self::internal()
            }
            ServiceError::Quota(quota) => Self::quota(text, &quota),
            ServiceError::Unpaid => {
                Self::new(ErrorCode::PaymentRequired, text.as_str()).in_both_shapes("payment_required", text)
            }
            ServiceError::NotEntitled { feature, plan } => Self::not_entitled(text, feature, plan),
            ServiceError::NoModel(_) => Self::new(ErrorCode::NotConfigured, text),
            ServiceError::Overspent(overspent) => Self::overspent(text, &overspent),
            ServiceError::ModelDown { retry_after } => Self::new(ErrorCode::Unavailable, text).retry_after(retry_after),
            ServiceError::Busy { retry_after } => Self::new(ErrorCode::Unavailable, text).retry_after(retry_after),
            ServiceError::Model(error) => Self::from(error),
            ServiceError::Store(error) => Self::from(error),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy(busy) => Self::from(ServiceError::from(busy)),
            StoreError::Erased => Self::new(ErrorCode::Conflict, error.to_string()),
            StoreError::Contended(_) => {
                tracing::warn!(error = chain(&error), "transactions got in each other's way");
                Self::new(ErrorCode::Storage, "Storage backend error.").retry_after(Duration::from_secs(1))
            }
            StoreError::Corrupt { .. } | StoreError::Backend(_) => {
                tracing::error!(error = chain(&error), "storage failed");
                Self::new(ErrorCode::Storage, "Storage backend error.").retry_after(Duration::from_secs(1))
            }
        }
    }
}

impl From<ModelError> for Problem {
    fn from(error: ModelError) -> Self {
        tracing::warn!(error = chain(&error), "a provider failed");
        Self::new(ErrorCode::Provider, "The model provider failed. Please try again later.")
    }
}

impl From<PaymentError> for Problem {
    fn from(error: PaymentError) -> Self {
        tracing::warn!(error = chain(&error), "the payment service failed");
        match error {
            PaymentError::Refused { .. } => {
                Self::new(ErrorCode::Provider, "The payment service refused the request. Please contact support.")
            }
            PaymentError::Key(_) | PaymentError::Unavailable(_) | PaymentError::Silent(_) => {
                let text = "The payment service is unavailable. Please try again later.";
                Self::new(ErrorCode::Unavailable, text).retry_after(Duration::from_secs(5))
            }
        }
    }
}

/// An error with everything that led to it, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
