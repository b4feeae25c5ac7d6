//! `PUT /v1/governance/patterns/{key}/classify`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, Path, Request, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Answer;
use crate::domain::{Classification, PatternKey, Permission};
use crate::http::AppState;
use crate::http::caller::{authenticated, require};
use crate::http::extract::Body;
use crate::http::fields::{Fields, FromFields};
use crate::http::openapi::Errors;
use crate::http::web;
use crate::service::ServiceError;

/// What the path ends with, after the key.
const SUFFIX: &str = "/classify";

/// How sensitive a pattern is to be.
#[derive(ToSchema)]
pub struct ClassifyRequest {
    /// Who may see it; recall and exports filter by it.
    #[schema(pattern = "^(public|internal|confidential)$", value_type = String, example = "confidential")]
    classification: Classification,
}

impl FromFields for ClassifyRequest {
    fn read(fields: &mut Fields) -> Self {
        Self { classification: fields.required_word("classification").unwrap_or(Classification::Confidential) }
    }
}

/// How sensitive a pattern is now.
#[derive(Serialize, ToSchema)]
pub struct ClassifyResponse {
    /// The pattern.
    #[schema(example = "patterns/0be2046e_1795319203747")]
    pattern_key: String,
    /// Its classification.
    #[schema(example = "confidential")]
    classification: &'static str,
}

/// Change how sensitive a pattern is. Recall filters and exports see it at once.
#[utoipa::path(put, path = "/v1/governance/patterns/{key}/classify", operation_id = "classify", tag = "governance",
    params(("key" = String, Path, description = "Whole key, including `patterns/`")),
    request_body = ClassifyRequest, responses((status = 200, body = ClassifyResponse), Errors))]
pub async fn classify(
    State(state): State<AppState>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Answer<ClassifyResponse> {
    let (parts, body) = request.into_parts();
    let caller = authenticated(&parts, &state).await?;
    // The key has slashes in it, so that the router cannot take the end off.
    let path = path.map(|Path(path)| path).unwrap_or_default();
    let key = path.strip_suffix(SUFFIX).ok_or_else(web::not_found)?;
    require(&caller, Permission::GovernanceWrite)?;
    let Body(ClassifyRequest { classification }) = Body::from_request(Request::from_parts(parts, body), &state).await?;
    let key = PatternKey::parse(key).map_err(|_| ServiceError::InvalidKey)?;
    state.services.classify(&caller, &key, classification).await?;
    Ok(Json(ClassifyResponse { pattern_key: key.to_string(), classification: classification.as_str() }))
}
