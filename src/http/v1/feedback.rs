//! `GET /v1/feedback`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::Answer;
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::extract::Query;
use crate::http::fields::{Fields, FromFields, Text};
use crate::http::openapi::Errors;

/// Which issues.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FeedbackQuery {
    /// Only issues that contain this text, in any case.
    #[param(max_length = 200)]
    task_type: Option<String>,
    /// Issues a page.
    #[param(minimum = 1, maximum = 20, default = 5)]
    limit: u32,
    /// Issues to skip.
    #[param(minimum = 0, maximum = 10_000, default = 0)]
    offset: u32,
}

impl FromFields for FeedbackQuery {
    fn read(fields: &mut Fields) -> Self {
        Self {
            task_type: fields.text("task_type", Text::up_to(200)),
            limit: fields.integer("limit", 1, 20, 5) as u32,
            offset: fields.integer("offset", 0, 10_000, 0) as u32,
        }
    }
}

/// A page of recurring issues.
#[derive(Serialize, ToSchema)]
pub struct FeedbackResponse {
    /// Most relevant first.
    feedback: Vec<String>,
    /// Whether there are more.
    has_more: bool,
    /// Offset of the next page.
    next_offset: Option<u32>,
}

/// Top recurring quality issues.
#[utoipa::path(get, path = "/v1/feedback", operation_id = "feedback", tag = "memory", params(FeedbackQuery),
    responses((status = 200, body = FeedbackResponse), Errors))]
pub async fn feedback(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::FeedbackRead>,
    Query(query): Query<FeedbackQuery>,
) -> Answer<FeedbackResponse> {
    let FeedbackQuery { task_type, limit, offset } = query;
    let (feedback, has_more) = state.services.top_feedback(&caller, task_type.as_deref(), offset, limit).await?;
    Ok(Json(FeedbackResponse { feedback, has_more, next_offset: has_more.then_some(offset + limit) }))
}
