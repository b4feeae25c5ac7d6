//! `POST /v1/patterns/{key}/outcome`: what came of using a pattern (additive, `docs/quality.md`).

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::time::iso;
use crate::domain::{Evidence, PatternKey, Permission};
use crate::http::AppState;
use crate::http::caller::{authenticated, require};
use crate::http::extract::Body;
use crate::http::fields::{Fields, FromFields, Text};
use crate::http::openapi::Errors;
use crate::http::problem::{ErrorCode, Problem};
use crate::service::ServiceError;
use crate::service::evidence::{Judged, Outcome};

/// What the path of an outcome ends with, after the key.
const SUFFIX: &str = "/outcome";
/// What else may be done at a path without that end.
const ALLOWED: [(HeaderName, &str); 1] = [(header::ALLOW, "DELETE")];
/// Score of a success and of a failure that come without one.
const SUCCESS: f64 = 10.0;
const FAILURE: f64 = 0.0;

/// What came of using a pattern.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents the body that `FromFields for Outcome` reads")]
pub struct OutcomeRequest {
    /// Whether it served its purpose.
    success: bool,
    /// How well; 10 for a success and 0 for a failure when absent.
    #[schema(minimum = 0.0, maximum = 10.0)]
    score: Option<f64>,
    /// Id of the caller's run. A run that was reported for this pattern before is not counted again.
    #[schema(max_length = 200)]
    run_id: Option<String>,
    /// What was remarked, such as the error.
    #[schema(max_length = 5_000)]
    note: Option<String>,
    /// Whether the caller knows better than everything that was seen before: earlier evidence then hardly counts.
    #[schema(default = false)]
    correction: Option<bool>,
}

impl FromFields for Outcome {
    fn read(fields: &mut Fields) -> Self {
        let success = fields.required_flag("success");
        Self {
            score: fields.number("score", 0.0, 10.0).unwrap_or(if success { SUCCESS } else { FAILURE }),
            run_id: fields.text("run_id", Text::up_to(200)),
            note: fields.text("note", Text::up_to(5_000)),
            is_correction: fields.flag("correction", false),
        }
    }
}

/// What is known of the pattern now.
#[derive(Serialize, ToSchema)]
pub struct OutcomeResponse {
    /// The pattern.
    #[schema(example = "patterns/0be2046e_1795319203747")]
    pattern_key: String,
    /// Whether the outcome was counted; `false` for a run that was reported before.
    recorded: bool,
    /// Factor that ranks are multiplied by.
    #[schema(minimum = 0.5, maximum = 1.0, example = 0.91)]
    quality: f64,
    /// What it is made of.
    evidence: EvidenceView,
}

/// Everything that was seen of a pattern's quality.
#[derive(Serialize, ToSchema)]
pub struct EvidenceView {
    /// Pieces of evidence.
    count: u64,
    /// Their weighted mean, 0 to 10; older pieces count less.
    mean: Option<f64>,
    /// Their weighted variance.
    variance: f64,
    /// When the newest came.
    last_seen: Option<String>,
}

impl EvidenceView {
    /// As it is shown.
    pub fn new(evidence: &Evidence) -> Self {
        Self {
            count: evidence.count,
            mean: evidence.mean().map(rounded),
            variance: rounded(evidence.variance),
            last_seen: evidence.seen_at.map(iso),
        }
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// Say what came of using a pattern.
///
/// Every use that is reported makes recall better: what works rises, what fails sinks, and a real change is followed
/// after two uses.
#[utoipa::path(post, path = "/v1/patterns/{key}/outcome", operation_id = "record_outcome", tag = "memory",
    params(("key" = String, Path, description = "Whole key, including `patterns/`")),
    request_body = OutcomeRequest, responses((status = 200, body = OutcomeResponse), Errors))]
pub async fn record_outcome(
    State(state): State<AppState>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let caller = authenticated(&parts, &state).await?;
    // The key has slashes in it, so that the router cannot take the end off.
    let path = path.map(|Path(path)| path).unwrap_or_default();
    let Some(key) = path.strip_suffix(SUFFIX) else {
        return Ok((ALLOWED, Problem::new(ErrorCode::MethodNotAllowed, "Method Not Allowed")).into_response());
    };
    require(&caller, Permission::Learn)?;
    let Body(outcome) = Body::<Outcome>::from_request(Request::from_parts(parts, body), &state).await?;
    let key = PatternKey::parse(key).map_err(|_| ServiceError::InvalidKey)?;
    let Judged { recorded, evidence } = state.services.record_outcome(&caller, &key, outcome).await?;
    let answer = OutcomeResponse {
        pattern_key: key.to_string(),
        recorded,
        quality: rounded(evidence.multiplier()),
        evidence: EvidenceView::new(&evidence),
    };
    Ok(Json(answer).into_response())
}
