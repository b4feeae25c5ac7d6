//! `DELETE /v1/governance/projects/{project_id}`, `DELETE /v1/governance/tenants/{tenant_id}`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Answer;
use crate::domain::{Caller, Scope};
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::openapi::{ErrorBody, Errors};
use crate::http::problem::Problem;
use crate::service::erasure::Erased;

/// What was erased.
#[derive(Serialize, ToSchema)]
pub struct ErasedScope {
    /// The tenant.
    #[schema(example = "your-tenant")]
    tenant_id: String,
    /// The project; `*` for the whole tenant.
    #[schema(example = "the-project")]
    project_id: String,
    /// Patterns that are gone, with everything that hung on them.
    patterns_deleted: u64,
    /// Jobs that are gone.
    jobs_deleted: u64,
    /// Keys that opened something until then.
    keys_revoked: u64,
    /// Projects that were there.
    projects_deleted: u64,
    /// The proof; null where there was nothing to erase.
    #[schema(value_type = Option<ErasureCertificate>)]
    certificate: Option<Value>,
}

/// The proof of an erasure; the audit log keeps it, too.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents what `Certificate` writes")]
pub struct ErasureCertificate {
    /// What was erased.
    scope: CertifiedScope,
    /// Rows that are gone, by table.
    tables: BTreeMap<String, u64>,
    /// Rows that stay without what they said of anybody, by table.
    scrubbed: BTreeMap<String, u64>,
    /// Keys that opened something until then.
    keys_revoked: u64,
    /// Id of the key, or subject of the token, that asked for it.
    requested_by: Option<String>,
    /// When the scope was closed.
    #[schema(example = "2026-04-04T12:00:00Z")]
    started_at: String,
    /// When everything was gone.
    #[schema(example = "2026-04-04T12:00:01Z")]
    completed_at: String,
    /// SHA-256, in hexadecimal, of everything else as JSON with sorted keys and without spaces.
    sha256: String,
}

/// What a certificate is about.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents what `Certificate` writes")]
pub struct CertifiedScope {
    /// The tenant.
    tenant_id: String,
    /// The project; `*` for the whole tenant.
    project_id: String,
}

/// Erase a project for good: its memory, everything derived from it, its jobs; its keys are dead at once.
///
/// Admins may erase their own project, owners any of their tenant. A project that is not there is no error: nothing
/// is deleted then.
#[utoipa::path(delete, path = "/v1/governance/projects/{project_id}", operation_id = "erase_project",
    tag = "governance", params(("project_id" = String, Path, description = "The project")),
    responses((status = 200, body = ErasedScope), (status = 409, body = ErrorBody, description = "Under way"), Errors))]
pub async fn erase_project(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::GovernanceDelete>,
    id: Result<Path<String>, PathRejection>,
) -> Answer<ErasedScope> {
    let project_id = text_of(id);
    let scope = state.services.project_to_erase(&caller, &project_id)?;
    // Any other name is that of no project.
    let erased =
        if Scope::is_project_name(&project_id) { erase(&state, &caller, &scope).await? } else { Erased::NOTHING };
    Ok(Json(answer(caller.scope.tenant(), project_id, erased)))
}

/// Erase a tenant for good, with all its projects and keys. Owners may erase their own.
#[utoipa::path(delete, path = "/v1/governance/tenants/{tenant_id}", operation_id = "erase_tenant",
    tag = "governance", params(("tenant_id" = String, Path, description = "The caller's own tenant")),
    responses((status = 200, body = ErasedScope), (status = 409, body = ErrorBody, description = "Under way"), Errors))]
pub async fn erase_tenant(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::TenantDelete>,
    id: Result<Path<String>, PathRejection>,
) -> Answer<ErasedScope> {
    let scope = state.services.tenant_to_erase(&caller, &text_of(id))?;
    let erased = erase(&state, &caller, &scope).await?;
    Ok(Json(answer(scope.tenant(), "*".to_owned(), erased)))
}

/// Requests run to their end even if the client goes away: so does this.
async fn erase(state: &AppState, caller: &Caller, scope: &Scope) -> Result<Erased, Problem> {
    let keys = state.authenticator.stored();
    let closed = || {
        if let Some(keys) = keys {
            keys.forget();
        }
    };
    // Where keys are bound to projects, making one says that a project begins anew; elsewhere nobody could say so.
    Ok(state.services.erase(caller, scope, keys.is_none(), closed).await?)
}

fn answer(tenant: &str, project_id: String, erased: Erased) -> ErasedScope {
    ErasedScope {
        tenant_id: tenant.to_owned(),
        project_id,
        patterns_deleted: erased.patterns,
        jobs_deleted: erased.jobs,
        keys_revoked: erased.keys_revoked,
        projects_deleted: erased.projects,
        certificate: erased.certificate.map(|certificate| certificate.to_json().clone()),
    }
}

/// What is no text names nothing.
fn text_of(id: Result<Path<String>, PathRejection>) -> String {
    id.map(|Path(id)| id).unwrap_or_default()
}
