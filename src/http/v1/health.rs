//! `GET /v1/health`, `GET /v1/health/deep`, `GET /v1/metrics`, `GET /v1/version`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Answer;
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::openapi::Errors;
use crate::http::problem::Problem;
use crate::service::health::{CheckStatus, DeepHealth};

/// The service in one line.
#[derive(Serialize, ToSchema)]
pub struct HealthResponse {
    /// Always `ok`: a store that fails answers 503.
    status: &'static str,
    /// `json` or `postgres`.
    storage: &'static str,
    /// Patterns of the project.
    pattern_count: u64,
}

/// Basic health: constant time.
#[utoipa::path(get, path = "/v1/health", operation_id = "health", tag = "service",
    responses((status = 200, body = HealthResponse), Errors))]
pub async fn health(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::Health>,
) -> Answer<HealthResponse> {
    let summary = state.services.summary(&caller).await?;
    let storage = state.services.store.name();
    Ok(Json(HealthResponse { status: "ok", storage, pattern_count: summary.pattern_count }))
}

/// Every part, probed.
#[derive(Serialize, ToSchema)]
pub struct DeepHealthResponse {
    /// `ok`, `degraded`, or `error` (with status 503).
    #[schema(example = "ok")]
    status: &'static str,
    /// Version of the server.
    version: &'static str,
    /// Time since start.
    uptime_seconds: f64,
    /// By part: storage, llm, embedding, migration, stripe, redis.
    checks: BTreeMap<&'static str, CheckView>,
}

/// One part.
#[derive(Serialize, ToSchema)]
pub struct CheckView {
    /// `ok`, `error` or `not_configured`.
    #[schema(example = "ok")]
    status: &'static str,
    /// Time the probe took.
    latency_ms: Option<f64>,
    /// What is wrong, without internals.
    error: Option<&'static str>,
    /// Of `migration`: the schema that the database has.
    #[serde(skip_serializing_if = "Option::is_none")]
    current_revision: Option<i64>,
    /// Of `migration`: the schema that this version needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_revision: Option<i64>,
}

impl DeepHealthResponse {
    fn new(health: DeepHealth, uptime: std::time::Duration) -> Self {
        let checks = health.checks.into_iter().map(|(name, check)| {
            let view = CheckView {
                status: check.status.as_str(),
                latency_ms: check.latency_ms,
                error: check.error,
                current_revision: check.revision.map(|revision| revision.current),
                expected_revision: check.revision.map(|revision| revision.expected),
            };
            (name, view)
        });
        Self {
            status: health.status,
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: (uptime.as_secs_f64() * 1e3).round() / 1e3,
            checks: checks.collect(),
        }
    }
}

/// Deep health: probes storage, its schema, language model, embedding and payments side by side, five seconds each.
#[utoipa::path(get, path = "/v1/health/deep", operation_id = "health_deep", tag = "service",
    responses((status = 200, body = DeepHealthResponse), Errors))]
pub async fn health_deep(
    State(state): State<AppState>,
    _: Authorized<needs::Health>,
) -> (StatusCode, Json<DeepHealthResponse>) {
    let health = state.prober.probe().await;
    let status =
        if health.status == CheckStatus::Error.as_str() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(DeepHealthResponse::new(health, state.started.elapsed())))
}

/// Aggregate statistics.
#[derive(Serialize, ToSchema)]
pub struct MetricsResponse {
    /// Calls of learn.
    runs: u64,
    /// Share of runs with a score that counts as success.
    success_rate: f64,
    /// Mean of the newest ten scores.
    avg_eval_score: Option<f64>,
    /// Stored patterns.
    pattern_count: u64,
    /// Share of recalls with a match.
    reuse_rate: f64,
}

/// Aggregate statistics of the project: constant time.
#[utoipa::path(get, path = "/v1/metrics", operation_id = "metrics", tag = "service",
    responses((status = 200, body = MetricsResponse), Errors))]
pub async fn metrics(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::Metrics>,
) -> Answer<MetricsResponse> {
    let summary = state.services.summary(&caller).await?;
    Ok(Json(MetricsResponse {
        runs: summary.runs,
        success_rate: summary.success_rate,
        avg_eval_score: summary.avg_eval_score,
        pattern_count: summary.pattern_count,
        reuse_rate: summary.reuse_rate,
    }))
}

/// Build metadata.
#[derive(Serialize, ToSchema)]
pub struct VersionResponse {
    /// Version of the server.
    app_version: &'static str,
    /// Version of the API.
    #[schema(example = "v1")]
    api_version: &'static str,
    /// Commit it was built from.
    git_commit: String,
    /// When it was built.
    build_time: String,
}

/// Build metadata; no key needed.
#[utoipa::path(get, path = "/v1/version", operation_id = "version", tag = "service", security(()),
    responses((status = 200, body = VersionResponse), Errors))]
pub async fn version(State(state): State<AppState>) -> Result<Json<VersionResponse>, Problem> {
    let build = &state.config.build;
    Ok(Json(VersionResponse {
        app_version: env!("CARGO_PKG_VERSION"),
        api_version: "v1",
        git_commit: build.git_commit.clone(),
        build_time: build.build_time.clone(),
    }))
}
