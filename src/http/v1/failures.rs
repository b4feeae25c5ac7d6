//! `POST /v1/analyze-failures`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Answer;
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::extract::Body;
use crate::http::fields::{Fields, FromFields};
use crate::http::openapi::Errors;
use crate::service::failures::FailureCluster;

/// Which issues are clustered.
#[derive(ToSchema)]
pub struct AnalyzeFailuresRequest {
    /// Only issues that were seen at least so often.
    #[schema(minimum = 1, default = 1, value_type = Option<i64>)]
    min_count: u64,
}

impl FromFields for AnalyzeFailuresRequest {
    fn read(fields: &mut Fields) -> Self {
        Self { min_count: fields.integer("min_count", 1, i64::MAX, 1) as u64 }
    }
}

/// Clusters of recurring issues.
#[derive(Serialize, ToSchema)]
pub struct AnalyzeFailuresResponse {
    /// The most frequent first.
    clusters: Vec<ClusterView>,
}

/// Issues that mean about the same.
#[derive(Serialize, ToSchema)]
pub struct ClusterView {
    /// The strongest of its members.
    #[schema(example = "Missing error handling for file operations")]
    representative: String,
    /// Every issue of the cluster, strongest first.
    members: Vec<String>,
    /// How often they were seen in all.
    total_count: u64,
    /// Mean overall score of the evaluations behind them; 5 where none is known.
    #[schema(minimum = 0.0, maximum = 10.0)]
    avg_score: f64,
}

impl From<FailureCluster> for ClusterView {
    fn from(cluster: FailureCluster) -> Self {
        let FailureCluster { representative, members, total_count, avg_score } = cluster;
        Self { representative, members, total_count, avg_score }
    }
}

/// Cluster recurring issues by meaning, to see what goes wrong systematically. Experimental.
#[utoipa::path(post, path = "/v1/analyze-failures", operation_id = "analyze_failures", tag = "memory",
    request_body = AnalyzeFailuresRequest, responses((status = 200, body = AnalyzeFailuresResponse), Errors))]
pub async fn analyze_failures(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::AnalyzeFailures>,
    Body(AnalyzeFailuresRequest { min_count }): Body<AnalyzeFailuresRequest>,
) -> Answer<AnalyzeFailuresResponse> {
    let clusters = state.services.analyze_failures(&caller, min_count).await?;
    Ok(Json(AnalyzeFailuresResponse { clusters: clusters.into_iter().map(ClusterView::from).collect() }))
}
