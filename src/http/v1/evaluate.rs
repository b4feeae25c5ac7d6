//! `POST /v1/evaluate`.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::record::{MAX_CODE, MAX_TASK};
use crate::domain::score::Score;
use crate::domain::{Caller, JobOperation, PatternKey, Permission};
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::fields::{Fields, FromFields, Text};
use crate::http::openapi::{Deferred, Errors, ModelErrors};
use crate::http::operation::{Asked, Operation, Size};
use crate::http::problem::Problem;
use crate::http::usage::cut;
use crate::service::evaluate::{Evaluate, Evaluated};
use crate::service::gateway::Meter;
use crate::service::jobs::Finish;
use crate::service::{self, Services};

/// A piece of work to be judged.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents the body that `FromFields for Evaluate` reads")]
pub struct EvaluateRequest {
    /// What was to be done.
    #[schema(max_length = 10_000, example = "Parse a CSV file and compute basic statistics")]
    task: String,
    /// The solution.
    #[schema(max_length = 500_000, example = "import csv\nimport statistics\n...")]
    code: String,
    /// Captured output.
    #[schema(max_length = 500_000, example = "mean=42.3, stdev=7.1")]
    output: Option<String>,
    /// Independent judges.
    #[schema(minimum = 1, maximum = 10, default = 3)]
    num_evals: Option<u32>,
    /// Pattern whose evidence the median becomes.
    #[schema(example = "patterns/0be2046e_1795319203747")]
    pattern_key: Option<String>,
}

/// What the judges said.
#[derive(Serialize, ToSchema)]
pub struct EvaluateResponse {
    /// Median of the overall scores.
    #[schema(minimum = 0.0, maximum = 10.0, example = 8.2)]
    median_score: f64,
    /// Greatest minus least overall score.
    #[schema(example = 0.8)]
    variance: f64,
    /// Whether the judges disagree: a range above 1.5.
    high_variance: bool,
    /// What the strictest judge suggests.
    feedback: String,
    /// Whether the output is fixed in the code instead of computed.
    adversarial_detected: bool,
    /// Each judge that gave a verdict.
    scores: Vec<ScoreView>,
}

/// One judge's verdict, each number in [0, 10].
#[derive(Serialize, ToSchema)]
pub struct ScoreView {
    /// Whether it does what the task asks.
    task_alignment: f64,
    /// How well it is written.
    code_quality: f64,
    /// How it handles files and other resources.
    workspace_usage: f64,
    /// How it meets odd input and failures.
    robustness: f64,
    /// All in all.
    overall: f64,
    /// What to mend first.
    feedback: String,
}

impl FromFields for Evaluate {
    fn read(fields: &mut Fields) -> Self {
        Self {
            task: fields.required_text("task", Text::up_to(MAX_TASK).not_blank()),
            code: fields.required_text("code", Text::up_to(MAX_CODE).not_blank()),
            output: fields.text("output", Text::up_to(MAX_CODE)),
            judges: fields.integer("num_evals", 1, 10, 3) as usize,
            pattern: fields.pattern_key("pattern_key", PatternKey::MAX_CHARS),
        }
    }
}

impl EvaluateResponse {
    /// With texts of at most so many characters.
    fn new(evaluated: &Evaluated, most: usize) -> Self {
        let Evaluated { verdict, adversarial, scores } = evaluated;
        Self {
            median_score: verdict.median,
            variance: verdict.range,
            high_variance: verdict.disputed,
            feedback: cut(&verdict.feedback, most),
            adversarial_detected: *adversarial,
            scores: scores.iter().map(|score| ScoreView::new(score, most)).collect(),
        }
    }
}

impl ScoreView {
    fn new(score: &Score, most: usize) -> Self {
        Self {
            task_alignment: score.task_alignment,
            code_quality: score.code_quality,
            workspace_usage: score.workspace_usage,
            robustness: score.robustness,
            overall: score.overall,
            feedback: cut(&score.feedback, most),
        }
    }
}

impl Operation for Evaluate {
    const NAME: JobOperation = JobOperation::Evaluate;
    const PERMISSION: Permission = Permission::Evaluate;
    const SIZE: Size = Size::Plain;
    const ASKS_MODEL: bool = true;
    type Outcome = Evaluated;
    type Response = EvaluateResponse;

    async fn run(
        self,
        services: &Services,
        caller: &Caller,
        meter: &Meter,
        finish: &Finish<'_, Evaluated>,
    ) -> service::Result<Evaluated> {
        services.evaluate(caller, self, meter, finish).await
    }

    fn response(evaluated: &Evaluated, longest: usize) -> EvaluateResponse {
        EvaluateResponse::new(evaluated, longest)
    }
}

/// Have independent judges score a solution. The headers `X-Engramia-Usage-*` say what it took.
#[utoipa::path(post, path = "/v1/evaluate", operation_id = "evaluate", tag = "judgement", params(Deferred),
    request_body = EvaluateRequest,
    responses((status = 200, body = EvaluateResponse), Deferred, Errors, ModelErrors))]
pub async fn evaluate(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::Evaluate>,
    asked: Asked<Evaluate>,
) -> Result<Response, Problem> {
    asked.answer(&state, &caller).await
}
