//! `POST /v1/skills/register` and `POST /v1/skills/search`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Answer;
use super::recall::{MatchView, RecallResponse};
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::extract::Body;
use crate::http::fields::{Fields, FromFields, Text};
use crate::http::openapi::Errors;

/// Most tags of a pattern or a search.
const MOST: usize = 50;
/// Longest tag.
const TAG: Text = Text::up_to(200);

/// Tags for a pattern.
#[derive(ToSchema)]
pub struct RegisterRequest {
    /// The pattern.
    #[schema(max_length = 200, example = "patterns/0be2046e_1795319203747")]
    pattern_key: String,
    /// Its tags; they replace earlier ones. An empty list changes nothing.
    #[schema(max_items = 50, example = json!(["csv_parsing", "statistics"]))]
    skills: Vec<String>,
}

impl FromFields for RegisterRequest {
    fn read(fields: &mut Fields) -> Self {
        Self {
            pattern_key: fields.required_text("pattern_key", Text::up_to(200)),
            skills: fields.required_texts("skills", MOST, TAG),
        }
    }
}

/// How many tags the pattern has now.
#[derive(Serialize, ToSchema)]
pub struct RegisterResponse {
    /// Distinct tags.
    registered: usize,
}

/// Which tags to look for.
#[derive(ToSchema)]
pub struct SearchRequest {
    /// Tags.
    #[schema(max_items = 50, example = json!(["csv_parsing"]))]
    required: Vec<String>,
    /// Whether all are needed, or any.
    #[schema(default = true, required = false)]
    match_all: bool,
}

impl FromFields for SearchRequest {
    fn read(fields: &mut Fields) -> Self {
        Self { required: fields.required_texts("required", MOST, TAG), match_all: fields.flag("match_all", true) }
    }
}

/// Tag a pattern with capabilities.
#[utoipa::path(post, path = "/v1/skills/register", operation_id = "register_skills", tag = "skills",
    request_body = RegisterRequest, responses((status = 200, body = RegisterResponse), Errors))]
pub async fn register(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::SkillsRegister>,
    Body(body): Body<RegisterRequest>,
) -> Answer<RegisterResponse> {
    let registered = state.services.register_skills(&caller, &body.pattern_key, &body.skills).await?;
    Ok(Json(RegisterResponse { registered }))
}

/// Find patterns by tags.
#[utoipa::path(post, path = "/v1/skills/search", operation_id = "search_skills", tag = "skills",
    request_body = SearchRequest, responses((status = 200, body = RecallResponse), Errors))]
pub async fn search(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::SkillsSearch>,
    Body(body): Body<SearchRequest>,
) -> Answer<RecallResponse> {
    let found = state.services.search_skills(&caller, &body.required, body.match_all).await?;
    let matches = found.into_iter().map(MatchView::of_skill).collect();
    Ok(Json(RecallResponse { matches, has_more: false, next_offset: None, warnings: Vec::new() }))
}
