//! `DELETE /v1/patterns/{key}`.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::Permission;
use crate::http::AppState;
use crate::http::caller::{authenticated, require};
use crate::http::openapi::Errors;
use crate::http::problem::Problem;

/// What happened to the pattern.
#[derive(Serialize, ToSchema)]
pub struct DeleteResponse {
    /// Whether there was one.
    deleted: bool,
    /// The key that was asked for.
    #[schema(example = "patterns/0be2046e_1795319203747")]
    pattern_key: String,
}

/// Permanently delete a stored pattern.
///
/// The key contains a slash and may be sent as it is or percent-encoded. Editors may delete what they wrote.
#[utoipa::path(delete, path = "/v1/patterns/{key}", operation_id = "delete_pattern", tag = "memory",
    params(("key" = String, Path, description = "Whole key, including `patterns/`")),
    responses((status = 200, body = DeleteResponse), Errors))]
pub async fn delete_pattern(
    State(state): State<AppState>,
    key: Result<Path<String>, axum::extract::rejection::PathRejection>,
    parts: axum::http::request::Parts,
) -> Result<Json<DeleteResponse>, Problem> {
    let caller = authenticated(&parts, &state).await?;
    if !caller.role.allows(Permission::PatternsDeleteOwn) {
        require(&caller, Permission::PatternsDelete)?;
    }
    // A key that is not text cannot be one of ours.
    let key = key.map(|Path(key)| key).unwrap_or_default();
    let deleted = state.services.delete_pattern(&caller, &key).await?;
    Ok(Json(DeleteResponse { deleted, pattern_key: key }))
}
