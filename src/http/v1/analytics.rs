//! `/v1/analytics/*`: what was learned and recalled, and what it adds up to.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::Answer;
use crate::domain::analytics::{Event, Rollup, Window};
use crate::domain::time::iso;
use crate::domain::{Caller, JobOperation, Permission, Scope, Timestamp, from_unix_seconds, unix_seconds};
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::extract::Query;
use crate::http::fields::{Fields, FromFields};
use crate::http::openapi::{Deferred, Errors};
use crate::http::operation::{Asked, Operation, Size};
use crate::http::problem::Problem;
use crate::service::gateway::Meter;
use crate::service::jobs::Finish;
use crate::service::{self, Services};

/// How far back to look.
#[derive(ToSchema)]
pub struct RollupRequest {
    /// One hour, one day or seven days until now.
    #[schema(pattern = "^(hourly|daily|weekly)$", default = "daily", value_type = Option<String>)]
    window: Window,
}

impl FromFields for RollupRequest {
    fn read(fields: &mut Fields) -> Self {
        Self { window: fields.word("window").unwrap_or(Window::Daily) }
    }
}

/// What was computed.
#[derive(Serialize, ToSchema)]
pub struct RollupResponse {
    /// How far it looked back.
    #[schema(example = "daily")]
    window: &'static str,
    /// The roll-up of the project; none before anything was learned or recalled.
    rollups: Vec<RollupView>,
    /// Projects that were looked at.
    #[schema(example = 1)]
    scopes_processed: u32,
}

/// What the events of a window add up to.
#[derive(Serialize, ToSchema)]
pub struct RollupView {
    /// Tenant.
    tenant_id: String,
    /// Project.
    project_id: String,
    /// How far it looked back.
    #[schema(example = "daily")]
    window: &'static str,
    /// The last full hour, day or week before it was computed; the events are those of the window until `computed_at`.
    #[schema(example = "2026-11-22T00:00:00Z")]
    window_start: String,
    /// Recalls.
    recall: RecallRollup,
    /// Learns.
    learn: LearnRollup,
    /// `0.6 * reuse_rate * 10 + 0.4 * avg_eval_score`.
    #[schema(minimum = 0.0, maximum = 10.0)]
    roi_score: f64,
    /// When.
    #[schema(example = "2026-11-22T03:46:44Z")]
    computed_at: String,
}

/// Recalls of a window.
#[derive(Serialize, ToSchema)]
pub struct RecallRollup {
    /// All, with and without a match.
    total: u64,
    /// With a best match to use as it is.
    duplicate_hits: u64,
    /// With a best match to modify.
    adapt_hits: u64,
    /// With a best match that is context only.
    fresh_misses: u64,
    /// Share of all whose best match is of use.
    reuse_rate: f64,
    /// Mean similarity of the best matches.
    avg_similarity: f64,
}

/// Learns of a window.
#[derive(Serialize, ToSchema)]
pub struct LearnRollup {
    /// All.
    total: u64,
    /// Mean score.
    avg_eval_score: f64,
    /// Median score.
    p50_eval_score: f64,
    /// Nine of ten scores are not above it.
    p90_eval_score: f64,
}

impl Operation for RollupRequest {
    const NAME: JobOperation = JobOperation::RoiRollup;
    const PERMISSION: Permission = Permission::AnalyticsRollup;
    const SIZE: Size = Size::Plain;
    type Outcome = (Scope, Window, Option<Rollup>);
    type Response = RollupResponse;

    async fn run(
        self,
        services: &Services,
        caller: &Caller,
        _: &Meter,
        _: &Finish<'_, Self::Outcome>,
    ) -> service::Result<Self::Outcome> {
        let rollup = services.rollup(caller, self.window).await?;
        Ok((caller.scope.clone(), self.window, rollup))
    }

    fn response((scope, window, rollup): &Self::Outcome, _: usize) -> RollupResponse {
        let rollups = rollup.iter().map(|rollup| RollupView::new(scope, rollup)).collect();
        RollupResponse { window: window.as_str(), rollups, scopes_processed: 1 }
    }
}

impl RollupView {
    fn new(scope: &Scope, rollup: &Rollup) -> Self {
        Self {
            tenant_id: scope.tenant().to_owned(),
            project_id: scope.project().to_owned(),
            window: rollup.window.as_str(),
            window_start: iso(rollup.window_start()),
            recall: RecallRollup {
                total: rollup.recalls,
                duplicate_hits: rollup.duplicate_hits,
                adapt_hits: rollup.adapt_hits,
                fresh_misses: rollup.fresh_misses,
                reuse_rate: rollup.reuse_rate(),
                avg_similarity: rollup.avg_similarity,
            },
            learn: LearnRollup {
                total: rollup.learns,
                avg_eval_score: rollup.avg_score,
                p50_eval_score: rollup.p50_score,
                p90_eval_score: rollup.p90_score,
            },
            roi_score: rollup.roi_score(),
            computed_at: iso(rollup.computed_at),
        }
    }
}

/// Which events.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Most events.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: u32,
    /// At or after this time, in seconds since the epoch.
    #[param(value_type = Option<f64>, minimum = 0.0)]
    since: Option<Timestamp>,
}

/// The end of the year 9999.
const LATEST: f64 = 253_402_300_799.0;

impl FromFields for EventsQuery {
    fn read(fields: &mut Fields) -> Self {
        Self {
            limit: fields.integer("limit", 1, 1000, 100) as u32,
            since: fields.number("since", 0.0, LATEST).and_then(from_unix_seconds),
        }
    }
}

/// One learn or one recall.
#[derive(Serialize, ToSchema)]
pub struct EventView {
    /// `learn` or `recall`.
    #[schema(example = "recall")]
    kind: &'static str,
    /// When, in seconds since the epoch.
    ts: f64,
    /// Score of the run that was learned.
    eval_score: Option<f64>,
    /// Similarity of the best match.
    similarity: Option<f64>,
    /// Tier of the best match.
    reuse_tier: Option<&'static str>,
    /// The pattern that was learned or matched best, which may be gone by now; empty where nothing matched.
    pattern_key: String,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        Self {
            kind: event.kind.as_str(),
            ts: unix_seconds(event.at),
            eval_score: event.eval_score,
            similarity: event.similarity,
            reuse_tier: event.tier.map(crate::domain::ReuseTier::as_str),
            pattern_key: event.pattern_key.map(|key| key.to_string()).unwrap_or_default(),
        }
    }
}

/// Events of the project.
#[derive(Serialize, ToSchema)]
pub struct EventsResponse {
    /// The newest first.
    events: Vec<EventView>,
    /// How many there are, with those beyond the limit.
    total: u64,
}

/// Compute and keep what the memory was worth lately.
#[utoipa::path(post, path = "/v1/analytics/rollup", operation_id = "rollup", tag = "analytics",
    params(Deferred), request_body = RollupRequest,
    responses((status = 200, body = RollupResponse), Deferred, Errors))]
pub async fn rollup(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::AnalyticsRollup>,
    asked: Asked<RollupRequest>,
) -> Result<Response, Problem> {
    asked.answer(&state, &caller).await
}

/// What was last computed for a window.
#[utoipa::path(get, path = "/v1/analytics/rollup/{window}", operation_id = "last_rollup", tag = "analytics",
    params(("window" = String, Path, description = "`hourly`, `daily` or `weekly`")),
    responses((status = 200, body = RollupView), Errors))]
pub async fn last_rollup(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::AnalyticsRead>,
    window: Result<Path<String>, PathRejection>,
) -> Answer<RollupView> {
    // A path that is not text names no window.
    let name = window.map(|Path(name)| name).unwrap_or_default();
    let mut fields = Fields::new("path", Map::from_iter([("window".to_owned(), Value::from(name))]));
    let window = fields.word("window").unwrap_or(Window::Daily);
    let window = fields.finish(window).map_err(|findings| Problem::invalid(&findings))?;
    let rollup = state.services.last_rollup(&caller, window).await?;
    Ok(Json(RollupView::new(&caller.scope, &rollup)))
}

/// What was learned and recalled lately.
#[utoipa::path(get, path = "/v1/analytics/events", operation_id = "events", tag = "analytics", params(EventsQuery),
    responses((status = 200, body = EventsResponse), Errors))]
pub async fn events(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::AnalyticsRead>,
    Query(EventsQuery { limit, since }): Query<EventsQuery>,
) -> Answer<EventsResponse> {
    let (events, total) = state.services.events(&caller, since, limit).await?;
    Ok(Json(EventsResponse { events: events.into_iter().map(EventView::from).collect(), total }))
}
