//! `POST /v1/evolve`.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Caller, JobOperation, Permission};
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::fields::{Fields, FromFields, Text};
use crate::http::openapi::{Deferred, Errors, ModelErrors};
use crate::http::operation::{Asked, Operation, Size};
use crate::http::problem::Problem;
use crate::http::usage::cut;
use crate::service::evolve::{Evolve, Evolved, MAX_PROMPT};
use crate::service::gateway::Meter;
use crate::service::jobs::Finish;
use crate::service::{self, Services};

/// An agent's system prompt to improve.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents the body that `FromFields for Evolve` reads")]
pub struct EvolveRequest {
    /// Role of the agent.
    #[schema(max_length = 100, example = "coder")]
    role: String,
    /// Its system prompt.
    #[schema(max_length = 50_000, example = "You are a coder.")]
    current_prompt: String,
    /// Recurring issues to take on.
    #[schema(minimum = 1, maximum = 20, default = 5)]
    num_issues: Option<u32>,
}

/// A candidate, and whether it passed its checks.
#[derive(Serialize, ToSchema)]
pub struct EvolveResponse {
    /// The candidate; the current prompt where there is none.
    improved_prompt: String,
    /// What was changed.
    changes: Vec<String>,
    /// The issues that were taken on.
    issues_addressed: Vec<String>,
    /// Whether the candidate passed its checks.
    accepted: bool,
    /// Which checks, and how they went; `no_issues` without recurring issues, `llm_error: ...` for an unusable answer.
    reason: String,
}

impl FromFields for Evolve {
    fn read(fields: &mut Fields) -> Self {
        Self {
            role: fields.required_text("role", Text::up_to(100)),
            current: fields.required_text("current_prompt", Text::up_to(MAX_PROMPT)),
            issues: fields.integer("num_issues", 1, 20, 5) as u32,
        }
    }
}

impl Operation for Evolve {
    const NAME: JobOperation = JobOperation::Evolve;
    const PERMISSION: Permission = Permission::Evolve;
    const SIZE: Size = Size::Plain;
    const ASKS_MODEL: bool = true;
    type Outcome = Evolved;
    type Response = EvolveResponse;

    async fn run(
        self,
        services: &Services,
        caller: &Caller,
        meter: &Meter,
        _: &Finish<'_, Evolved>,
    ) -> service::Result<Evolved> {
        services.evolve(caller, self, meter).await
    }

    fn response(evolved: &Evolved, longest: usize) -> EvolveResponse {
        let all = |texts: &[String]| texts.iter().map(|text| cut(text, longest)).collect();
        EvolveResponse {
            improved_prompt: cut(&evolved.text, longest),
            changes: all(&evolved.changes),
            issues_addressed: all(&evolved.issues),
            accepted: evolved.accepted,
            reason: evolved.reason.clone(),
        }
    }
}

/// Improve an agent's system prompt by the issues that recur in its project. A candidate is tried on stored tasks where
/// there are any. Experimental.
#[utoipa::path(post, path = "/v1/evolve", operation_id = "evolve", tag = "judgement", params(Deferred),
    request_body = EvolveRequest,
    responses((status = 200, body = EvolveResponse), Deferred, Errors, ModelErrors))]
pub async fn evolve(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::Evolve>,
    asked: Asked<Evolve>,
) -> Result<Response, Problem> {
    asked.answer(&state, &caller).await
}
