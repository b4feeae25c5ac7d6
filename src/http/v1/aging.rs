//! `POST /v1/aging` and `POST /v1/feedback/decay`: time decay. Neither needs a body.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Answer;
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::openapi::Errors;

/// How much was removed.
#[derive(Serialize, ToSchema)]
pub struct PrunedResponse {
    /// Patterns or issues that fell below their threshold.
    pruned: u64,
}

/// Fade pattern scores with age and remove stale patterns.
#[utoipa::path(post, path = "/v1/aging", operation_id = "aging", tag = "maintenance",
    responses((status = 200, body = PrunedResponse), Errors))]
pub async fn aging(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::Aging>,
) -> Answer<PrunedResponse> {
    Ok(Json(PrunedResponse { pruned: state.services.age_patterns(&caller).await? }))
}

/// Fade recurring issues with age and forget old ones.
#[utoipa::path(post, path = "/v1/feedback/decay", operation_id = "feedback_decay", tag = "maintenance",
    responses((status = 200, body = PrunedResponse), Errors))]
pub async fn feedback_decay(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::FeedbackDecay>,
) -> Answer<PrunedResponse> {
    Ok(Json(PrunedResponse { pruned: state.services.decay_feedback(&caller).await? }))
}
