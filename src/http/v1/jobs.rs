//! `GET /v1/jobs`, `GET /v1/jobs/{job_id}`, `POST /v1/jobs/{job_id}/cancel`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::Answer;
use crate::domain::time::iso;
use crate::domain::{Job, JobState};
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::extract::Query;
use crate::http::fields::{Fields, FromFields, Text};
use crate::http::openapi::Errors;

/// Which jobs.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct JobsQuery {
    /// Only jobs in this state; a word that is none finds nothing.
    #[param(max_length = 20)]
    status: Option<String>,
    /// Most jobs.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: u32,
}

impl FromFields for JobsQuery {
    fn read(fields: &mut Fields) -> Self {
        Self { status: fields.text("status", Text::up_to(20)), limit: fields.integer("limit", 1, 100, 20) as u32 }
    }
}

/// A job.
#[derive(Serialize, ToSchema)]
pub struct JobView {
    /// Its id.
    #[schema(example = "0199b944-dce4-782b-abe6-180903639479")]
    id: String,
    /// What it does.
    #[schema(example = "aging")]
    operation: &'static str,
    /// `pending`, `running`, `completed`, `failed`, `cancelled` or `expired`.
    #[schema(example = "completed")]
    status: &'static str,
    /// The body that the operation would have answered; null before the end.
    #[schema(value_type = Option<Object>)]
    result: Option<Box<RawValue>>,
    /// What went wrong, as `Kind: sentence`; of a job that is pending again, at the last attempt.
    error: Option<String>,
    /// How often it was begun.
    attempts: u32,
    /// When it was submitted.
    #[schema(example = "2026-04-04T12:00:00Z")]
    created_at: String,
    /// When it was begun last.
    started_at: Option<String>,
    /// When it came to its end.
    completed_at: Option<String>,
}

/// Jobs of the project.
#[derive(Serialize, ToSchema)]
pub struct JobsResponse {
    /// The newest first.
    jobs: Vec<JobView>,
}

/// Whether a job was cancelled.
#[derive(Serialize, ToSchema)]
pub struct CancelResponse {
    /// It will not be completed. False where there is no such job or it came to its end before.
    cancelled: bool,
    /// The job.
    job_id: String,
}

impl From<Job> for JobView {
    fn from(job: Job) -> Self {
        Self {
            id: job.id,
            operation: job.operation.as_str(),
            status: job.state.as_str(),
            result: job.result.and_then(|text| RawValue::from_string(text).ok()),
            error: job.error,
            attempts: job.attempts,
            created_at: iso(job.created_at),
            started_at: job.started_at.map(iso),
            completed_at: job.completed_at.map(iso),
        }
    }
}

/// Jobs of the project.
#[utoipa::path(get, path = "/v1/jobs", operation_id = "list_jobs", tag = "jobs", params(JobsQuery),
    responses((status = 200, body = JobsResponse), Errors))]
pub async fn list(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::JobsList>,
    Query(JobsQuery { status, limit }): Query<JobsQuery>,
) -> Answer<JobsResponse> {
    let status: Option<JobState> = match status.map(|word| word.parse()).transpose() {
        Ok(status) => status,
        Err(_) => return Ok(Json(JobsResponse { jobs: Vec::new() })),
    };
    let jobs = state.services.jobs(&caller, status, limit).await?;
    Ok(Json(JobsResponse { jobs: jobs.into_iter().map(JobView::from).collect() }))
}

/// One job, with its result.
#[utoipa::path(get, path = "/v1/jobs/{job_id}", operation_id = "get_job", tag = "jobs",
    params(("job_id" = String, Path, description = "Id of the job")),
    responses((status = 200, body = JobView), Errors))]
pub async fn get(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::JobsRead>,
    id: Result<Path<String>, PathRejection>,
) -> Answer<JobView> {
    Ok(Json(state.services.job(&caller, &text_of(id)).await?.into()))
}

/// Cancel a job that is pending or running.
#[utoipa::path(post, path = "/v1/jobs/{job_id}/cancel", operation_id = "cancel_job", tag = "jobs",
    params(("job_id" = String, Path, description = "Id of the job")),
    responses((status = 200, body = CancelResponse), Errors))]
pub async fn cancel(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::JobsCancel>,
    id: Result<Path<String>, PathRejection>,
) -> Answer<CancelResponse> {
    let job_id = text_of(id);
    let cancelled = state.services.cancel_job(&caller, &job_id).await?;
    Ok(Json(CancelResponse { cancelled, job_id }))
}

/// What is no text is no id either.
fn text_of(id: Result<Path<String>, PathRejection>) -> String {
    id.map(|Path(id)| id).unwrap_or_default()
}
