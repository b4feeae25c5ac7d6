//! `POST /v1/compose`.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::record::MAX_TASK;
use crate::domain::{Caller, JobOperation, Permission};
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::fields::{Fields, FromFields, Text};
use crate::http::openapi::{Deferred, Errors, ModelErrors};
use crate::http::operation::{Asked, Operation, Size};
use crate::http::problem::Problem;
use crate::http::v1::recall::rounded;
use crate::service::compose::{Matched, Pipeline};
use crate::service::gateway::Meter;
use crate::service::jobs::Finish;
use crate::service::{self, Services};

/// Says whether the model decomposed the task, or could not be used: `llm` or `fallback`.
const MODE: HeaderName = HeaderName::from_static("x-engramia-compose-mode");

/// A task to decompose.
#[derive(ToSchema)]
pub struct ComposeRequest {
    /// The task.
    #[schema(max_length = 10_000, example = "Fetch stock data, analyze trends, and generate a report")]
    task: String,
}

/// A pipeline.
#[derive(Serialize, ToSchema)]
pub struct ComposeResponse {
    /// The task.
    task: String,
    /// At most four, in order.
    stages: Vec<StageView>,
    /// Whether the data flow is sound.
    valid: bool,
    /// What is wrong with it.
    contract_errors: Vec<String>,
}

/// One stage.
#[derive(Serialize, ToSchema)]
pub struct StageView {
    /// Unique in the pipeline.
    #[schema(example = "fetch_data")]
    name: String,
    /// What it is to do.
    task: String,
    /// What it needs.
    reads: Vec<String>,
    /// What it makes.
    writes: Vec<String>,
    /// What to do with the known pattern: `duplicate`, `adapt` or `fresh`.
    #[schema(example = "adapt")]
    reuse_tier: &'static str,
    /// Cosine similarity of the tasks.
    #[schema(minimum = 0.0, maximum = 1.0, example = 0.78)]
    similarity: f64,
    /// The pattern's solution.
    code: Option<String>,
}

impl FromFields for ComposeRequest {
    fn read(fields: &mut Fields) -> Self {
        Self { task: fields.required_text("task", Text::up_to(MAX_TASK).not_blank()) }
    }
}

impl StageView {
    fn new(matched: &Matched) -> Self {
        let Matched { stage, tier, similarity, code } = matched;
        Self {
            name: stage.name.clone(),
            task: stage.task.clone(),
            reads: stage.reads.clone(),
            writes: stage.writes.clone(),
            reuse_tier: tier.as_str(),
            similarity: rounded(*similarity),
            code: code.clone(),
        }
    }
}

impl Operation for ComposeRequest {
    const NAME: JobOperation = JobOperation::Compose;
    const PERMISSION: Permission = Permission::Compose;
    const SIZE: Size = Size::Plain;
    const ASKS_MODEL: bool = true;
    type Outcome = Pipeline;
    type Response = ComposeResponse;

    async fn run(
        self,
        services: &Services,
        caller: &Caller,
        meter: &Meter,
        _: &Finish<'_, Pipeline>,
    ) -> service::Result<Pipeline> {
        services.compose(caller, self.task, meter).await
    }

    fn response(pipeline: &Pipeline, _: usize) -> ComposeResponse {
        ComposeResponse {
            task: pipeline.task.clone(),
            stages: pipeline.stages.iter().map(StageView::new).collect(),
            valid: pipeline.errors.is_empty(),
            contract_errors: pipeline.errors.clone(),
        }
    }

    fn headers(pipeline: &Pipeline) -> HeaderMap {
        let mode = if pipeline.is_fallback { "fallback" } else { "llm" };
        HeaderMap::from_iter([(MODE, HeaderValue::from_static(mode))])
    }
}

/// Decompose a task into a pipeline of stages, with the pattern that serves each. Where the model cannot be used, the
/// whole task is one stage and the header `X-Engramia-Compose-Mode` says `fallback`. Experimental.
#[utoipa::path(post, path = "/v1/compose", operation_id = "compose", tag = "judgement", params(Deferred),
    request_body = ComposeRequest,
    responses((status = 200, body = ComposeResponse), Deferred, Errors, ModelErrors))]
pub async fn compose(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::Compose>,
    asked: Asked<ComposeRequest>,
) -> Result<Response, Problem> {
    asked.answer(&state, &caller).await
}
