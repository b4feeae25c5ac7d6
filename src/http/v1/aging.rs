//! `POST /v1/aging` and `POST /v1/feedback/decay`: time decay. Neither needs a body.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Caller, JobOperation, Permission};
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::fields::{Fields, FromFields};
use crate::http::openapi::{Deferred, Errors};
use crate::http::operation::{Asked, Operation, Size};
use crate::http::problem::Problem;
use crate::service::gateway::Meter;
use crate::service::jobs::Finish;
use crate::service::{self, Services};

/// How much was removed.
#[derive(Serialize, ToSchema)]
pub struct PrunedResponse {
    /// Patterns or issues that fell below their threshold.
    pruned: u64,
}

/// Declares an operation without input that removes something.
macro_rules! pruning {
    ($name:ident, $use_case:ident) => {
        #[doc = concat!("`Services::", stringify!($use_case), "`.")]
        pub struct $name;

        impl FromFields for $name {
            fn read(_: &mut Fields) -> Self {
                Self
            }
        }

        impl Operation for $name {
            const NAME: JobOperation = JobOperation::$name;
            const PERMISSION: Permission = Permission::$name;
            const SIZE: Size = Size::None;
            type Outcome = u64;
            type Response = PrunedResponse;

            async fn run(
                self,
                services: &Services,
                caller: &Caller,
                _: &Meter,
                finish: &Finish<'_, u64>,
            ) -> service::Result<u64> {
                services.$use_case(caller, finish).await
            }

            fn response(pruned: &u64, _: usize) -> PrunedResponse {
                PrunedResponse { pruned: *pruned }
            }
        }
    };
}
pruning!(Aging, age_patterns);
pruning!(FeedbackDecay, decay_feedback);

/// Fade pattern scores with age and remove stale patterns.
#[utoipa::path(post, path = "/v1/aging", operation_id = "aging", tag = "maintenance", params(Deferred),
    responses((status = 200, body = PrunedResponse), Deferred, Errors))]
pub async fn aging(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::Aging>,
    asked: Asked<Aging>,
) -> Result<Response, Problem> {
    asked.answer(&state, &caller).await
}

/// Fade recurring issues with age and forget old ones.
#[utoipa::path(post, path = "/v1/feedback/decay", operation_id = "feedback_decay", tag = "maintenance",
    params(Deferred), responses((status = 200, body = PrunedResponse), Deferred, Errors))]
pub async fn feedback_decay(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::FeedbackDecay>,
    asked: Asked<FeedbackDecay>,
) -> Result<Response, Problem> {
    asked.answer(&state, &caller).await
}
