//! `/v1/governance/retention`: how long patterns are kept, and the removal of what is older.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::Answer;
use crate::domain::retention::{MOST_DAYS, Retention, RetentionLevel};
use crate::domain::{Caller, JobOperation, Permission};
use crate::http::AppState;
use crate::http::caller::{Authorized, needs, require};
use crate::http::extract::Body;
use crate::http::fields::{Fields, FromFields};
use crate::http::openapi::{Deferred, Errors};
use crate::http::operation::{Asked, Operation, Size};
use crate::http::problem::Problem;
use crate::service::gateway::Meter;
use crate::service::jobs::Finish;
use crate::service::retention::Applied;
use crate::service::{self, Services};

/// How long patterns of the project are kept.
#[derive(Serialize, ToSchema)]
pub struct RetentionView {
    /// Tenant.
    tenant_id: String,
    /// Project.
    project_id: String,
    /// Days after which a pattern is removed; null for never.
    #[schema(example = 365)]
    retention_days: Option<u32>,
    /// Who says so: `project`, `tenant` or `default`.
    #[schema(example = "default")]
    source: &'static str,
}

impl RetentionView {
    fn new(caller: &Caller, Retention { days, source }: Retention) -> Self {
        Self {
            tenant_id: caller.scope.tenant().to_owned(),
            project_id: caller.scope.project().to_owned(),
            retention_days: days,
            source: source.as_str(),
        }
    }
}

/// How long patterns are to be kept.
#[derive(ToSchema)]
pub struct RetentionRequest {
    /// Days after which a pattern is removed; null leaves it to the tenant, or to the installation.
    #[schema(minimum = 1, maximum = 36_500, required)]
    retention_days: Option<u32>,
    /// Whether it is set for this project, or for all projects of the tenant that set none; that only by owners.
    #[schema(pattern = "^(project|tenant)$", default = "project", value_type = Option<String>)]
    level: RetentionLevel,
}

impl FromFields for RetentionRequest {
    fn read(fields: &mut Fields) -> Self {
        Self {
            retention_days: fields.required_whole_or_null("retention_days", 1, MOST_DAYS),
            level: fields.word("level").unwrap_or(RetentionLevel::Project),
        }
    }
}

/// Whether to remove anything.
#[derive(ToSchema)]
pub struct ApplyRequest {
    /// Only count what would be removed.
    #[schema(default = false, required = false)]
    dry_run: bool,
}

impl FromFields for ApplyRequest {
    fn read(fields: &mut Fields) -> Self {
        Self { dry_run: fields.strict_flag("dry_run", false) }
    }
}

/// What was removed.
#[derive(Serialize, ToSchema)]
pub struct ApplyResponse {
    /// Patterns that were removed, or would be.
    #[schema(example = 23)]
    purged_count: u64,
    /// Whether nothing was removed.
    dry_run: bool,
}

impl Operation for ApplyRequest {
    const NAME: JobOperation = JobOperation::RetentionCleanup;
    const PERMISSION: Permission = Permission::GovernanceAdmin;
    const SIZE: Size = Size::Plain;
    type Outcome = Applied;
    type Response = ApplyResponse;

    async fn run(
        self,
        services: &Services,
        caller: &Caller,
        _: &Meter,
        finish: &Finish<'_, Applied>,
    ) -> service::Result<Applied> {
        services.apply_retention(caller, self.dry_run, finish).await
    }

    fn response(applied: &Applied, _: usize) -> ApplyResponse {
        ApplyResponse { purged_count: applied.purged, dry_run: applied.dry_run }
    }
}

/// Show how long patterns of the project are kept.
#[utoipa::path(get, path = "/v1/governance/retention", operation_id = "get_retention", tag = "governance",
    responses((status = 200, body = RetentionView), Errors))]
pub async fn get(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::GovernanceRead>,
) -> Answer<RetentionView> {
    let retention = state.services.retention(&caller).await?;
    Ok(Json(RetentionView::new(&caller, retention)))
}

/// Set how long patterns are kept. Older ones are removed a few times a day.
#[utoipa::path(put, path = "/v1/governance/retention", operation_id = "set_retention", tag = "governance",
    request_body = RetentionRequest, responses((status = 200, body = RetentionView), Errors))]
pub async fn set(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::GovernanceWrite>,
    Body(RetentionRequest { retention_days, level }): Body<RetentionRequest>,
) -> Answer<RetentionView> {
    if level == RetentionLevel::Tenant {
        // What only owners may do with a tenant.
        require(&caller, Permission::TenantDelete)?;
    }
    let retention = state.services.set_retention(&caller, level, retention_days).await?;
    Ok(Json(RetentionView::new(&caller, retention)))
}

/// Remove now what is older than the retention of the project, or count it.
#[utoipa::path(post, path = "/v1/governance/retention/apply", operation_id = "apply_retention", tag = "governance",
    request_body = ApplyRequest, params(Deferred), responses((status = 200, body = ApplyResponse), Deferred, Errors))]
pub async fn apply(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::GovernanceAdmin>,
    asked: Asked<ApplyRequest>,
) -> Result<Response, Problem> {
    asked.answer(&state, &caller).await
}
