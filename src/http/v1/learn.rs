//! `POST /v1/learn`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Answer;
use crate::domain::record::{MAX_CODE, MAX_TASK};
use crate::domain::{Classification, Source};
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::extract::Body;
use crate::http::fields::{Fields, FromFields, Text};
use crate::http::openapi::Errors;
use crate::service::learn::{Learn, OnDuplicate};

/// A successful run to remember.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents the body that `FromFields for Learn` reads")]
pub struct LearnRequest {
    /// What was to be done.
    #[schema(max_length = 10_000, example = "Parse a CSV file and compute basic statistics")]
    task: String,
    /// The solution.
    #[schema(max_length = 500_000, example = "import csv\nimport statistics\n...")]
    code: String,
    /// Quality of the run.
    #[schema(minimum = 0.0, maximum = 10.0, example = 8.5)]
    eval_score: f64,
    /// Captured output.
    #[schema(max_length = 500_000, example = "mean=42.3, stdev=7.1")]
    output: Option<String>,
    /// Correlation id of the caller's run.
    #[schema(max_length = 200)]
    run_id: Option<String>,
    /// Sensitivity: `public`, `internal` (default), `confidential`.
    #[schema(pattern = "^(public|internal|confidential)$", default = "internal")]
    classification: Option<String>,
    /// Origin: `api` (default), `sdk`, `cli`, `import`.
    #[schema(pattern = "^(api|sdk|cli|import)$", default = "api")]
    source: Option<String>,
    /// When the pattern is there already: `merge` its evidence (default), `keep_both`, or `skip`.
    #[schema(pattern = "^(merge|keep_both|skip)$", default = "merge")]
    on_duplicate: Option<String>,
}

/// What learning did.
#[derive(Serialize, ToSchema)]
pub struct LearnResponse {
    /// Whether something new was stored; `false` for a near-identical pattern.
    stored: bool,
    /// Patterns of the project now.
    pattern_count: u64,
    /// The pattern that carries this run.
    #[schema(example = "patterns/0be2046e_1795319203747")]
    pattern_key: String,
}

impl FromFields for Learn {
    fn read(fields: &mut Fields) -> Self {
        Self {
            task: fields.required_text("task", Text::up_to(MAX_TASK).not_blank()),
            code: fields.required_text("code", Text::up_to(MAX_CODE).not_blank()),
            eval_score: fields.required_number("eval_score", 0.0, 10.0),
            output: fields.text("output", Text::up_to(MAX_CODE)),
            run_id: fields.text("run_id", Text::up_to(200)),
            classification: fields.word("classification").unwrap_or(Classification::Internal),
            source: fields.word("source").unwrap_or(Source::Api),
            on_duplicate: fields.word("on_duplicate").unwrap_or(OnDuplicate::Merge),
        }
    }
}

/// Store a successful run as a reusable pattern.
#[utoipa::path(post, path = "/v1/learn", operation_id = "learn", tag = "memory", request_body = LearnRequest,
    responses((status = 200, body = LearnResponse), Errors))]
pub async fn learn(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::Learn>,
    Body(run): Body<Learn>,
) -> Answer<LearnResponse> {
    let learned = state.services.learn(&caller, run).await?;
    Ok(Json(LearnResponse {
        stored: learned.stored,
        pattern_count: learned.pattern_count,
        pattern_key: learned.pattern_key.to_string(),
    }))
}
