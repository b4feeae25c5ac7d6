//! `/v1/governance/dsr`: requests of people whose personal data the tenant holds.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::Answer;
use crate::domain::subject::{RequestStatus, RequestType, SubjectRequest};
use crate::domain::time::iso_micros;
use crate::domain::{Caller, Timestamp};
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::extract::{Body, Query};
use crate::http::fields::{Fields, FromFields, Text};
use crate::http::openapi::Errors;
use crate::http::problem::Problem;
use crate::service::subjects::{Handled, NewRequest, RequestFilter};

/// Most requests a page.
const MOST: i64 = 500;
/// Limits of a remark.
const NOTE: Text = Text::up_to(SubjectRequest::MAX_NOTE);

/// A request that came in.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents the body that `FromFields for NewRequest` reads")]
pub struct CreateDsrRequest {
    /// What is asked for.
    #[schema(pattern = "^(access|erasure|portability|rectification)$")]
    request_type: String,
    /// Who asks: an e-mail address of at most 320 characters.
    #[schema(format = "email", example = "x@y.z")]
    subject_email: String,
    /// A first remark.
    #[schema(max_length = 10_000, default = "")]
    handler_notes: Option<String>,
}

impl FromFields for NewRequest {
    fn read(fields: &mut Fields) -> Self {
        Self {
            request_type: fields.required_word("request_type").unwrap_or(RequestType::Access),
            subject_email: fields.required_address("subject_email", SubjectRequest::MAX_EMAIL),
            handler_notes: fields.text("handler_notes", NOTE).unwrap_or_default(),
        }
    }
}

/// What became of a request.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents the body that `FromFields for Handled` reads")]
pub struct UpdateDsrRequest {
    /// Where it stands now; any step is allowed.
    #[schema(pattern = "^(pending|in_progress|completed|rejected)$")]
    status: String,
    /// A remark, added on a line of its own; at most 100 000 characters together.
    #[schema(max_length = 10_000, default = "")]
    handler_notes: Option<String>,
}

impl FromFields for Handled {
    fn read(fields: &mut Fields) -> Self {
        Self {
            status: fields.required_word("status").unwrap_or(RequestStatus::Pending),
            handler_notes: fields.text("handler_notes", NOTE).unwrap_or_default(),
        }
    }
}

/// Which requests.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the query that `FromFields for RequestFilter` reads")]
pub struct DsrParams {
    /// Only requests in this state.
    #[param(pattern = "^(pending|in_progress|completed|rejected)$")]
    status: Option<String>,
    /// Only open requests whose time is over.
    #[param(default = false)]
    overdue_only: Option<bool>,
    /// Requests a page.
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: u32,
}

impl FromFields for RequestFilter {
    fn read(fields: &mut Fields) -> Self {
        Self {
            status: fields.word("status"),
            overdue_only: fields.flag("overdue_only", false),
            limit: fields.integer("limit", 1, MOST, 100) as u32,
        }
    }
}

/// A request.
#[derive(Serialize, ToSchema)]
pub struct DsrView {
    /// Id.
    id: String,
    /// Its tenant.
    tenant_id: String,
    /// What is asked for.
    #[schema(example = "access")]
    request_type: &'static str,
    /// Who asks.
    #[schema(example = "x@y.z")]
    subject_email: String,
    /// Where it stands: `pending`, `in_progress`, `completed` or `rejected`.
    #[schema(example = "pending")]
    status: &'static str,
    /// When it came in.
    #[schema(example = "2026-11-22T03:46:44.185560+00:00")]
    created_at: String,
    /// By when it must be answered.
    due_at: String,
    /// When it was last changed.
    updated_at: String,
    /// When it was completed or rejected.
    completed_at: Option<String>,
    /// What its handlers remarked, a line each time.
    handler_notes: String,
    /// Whether it is open and its time is over.
    overdue: bool,
}

impl DsrView {
    fn new(caller: &Caller, request: SubjectRequest, now: Timestamp) -> Self {
        Self {
            overdue: request.is_overdue(now),
            id: request.id,
            tenant_id: caller.scope.tenant().to_owned(),
            request_type: request.request_type.as_str(),
            subject_email: request.subject_email,
            status: request.status.as_str(),
            created_at: iso_micros(request.created_at),
            due_at: iso_micros(request.due_at),
            updated_at: iso_micros(request.updated_at),
            completed_at: request.completed_at.map(iso_micros),
            handler_notes: request.handler_notes,
        }
    }
}

/// Open requests of the whole tenant.
#[derive(Serialize, ToSchema)]
pub struct PendingCounts {
    /// Those that nobody has begun with.
    pending: u64,
    /// Those that somebody has.
    in_progress: u64,
    /// Of both, those whose time is over.
    overdue: u64,
}

/// A page of requests.
#[derive(Serialize, ToSchema)]
pub struct DsrList {
    /// The newest first.
    requests: Vec<DsrView>,
    /// How many this answer holds.
    total: usize,
    /// Open requests, whatever this answer holds.
    pending_counts: PendingCounts,
}

/// Take on a request of somebody whose personal data the tenant holds.
#[utoipa::path(post, path = "/v1/governance/dsr", operation_id = "create_dsr", tag = "governance",
    request_body = CreateDsrRequest, responses((status = 201, body = DsrView), Errors))]
pub async fn create(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::GovernanceWrite>,
    Body(new): Body<NewRequest>,
) -> Result<(StatusCode, Json<DsrView>), Problem> {
    let request = state.services.create_request(&caller, new).await?;
    let now = request.created_at;
    Ok((StatusCode::CREATED, Json(DsrView::new(&caller, request, now))))
}

/// List the requests of the tenant.
#[utoipa::path(get, path = "/v1/governance/dsr", operation_id = "list_dsr", tag = "governance", params(DsrParams),
    responses((status = 200, body = DsrList), Errors))]
pub async fn list(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::GovernanceRead>,
    Query(filter): Query<RequestFilter>,
) -> Answer<DsrList> {
    let found = state.services.requests(&caller, filter).await?;
    let requests: Vec<DsrView> =
        found.requests.into_iter().map(|request| DsrView::new(&caller, request, found.now)).collect();
    let counts =
        PendingCounts { pending: found.open.pending, in_progress: found.open.in_progress, overdue: found.open.overdue };
    Ok(Json(DsrList { total: requests.len(), requests, pending_counts: counts }))
}

/// Show a request of the tenant. One of another tenant is as unknown as any.
#[utoipa::path(get, path = "/v1/governance/dsr/{request_id}", operation_id = "get_dsr", tag = "governance",
    params(("request_id" = String, Path, description = "Id of the request")),
    responses((status = 200, body = DsrView), Errors))]
pub async fn get(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::GovernanceRead>,
    id: Result<Path<String>, PathRejection>,
) -> Answer<DsrView> {
    let (request, now) = state.services.request(&caller, &text_of(id)).await?;
    Ok(Json(DsrView::new(&caller, request, now)))
}

/// Move a request on, and add a remark.
#[utoipa::path(patch, path = "/v1/governance/dsr/{request_id}", operation_id = "update_dsr", tag = "governance",
    params(("request_id" = String, Path, description = "Id of the request")), request_body = UpdateDsrRequest,
    responses((status = 200, body = DsrView), Errors))]
pub async fn update(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::GovernanceWrite>,
    id: Result<Path<String>, PathRejection>,
    Body(handled): Body<Handled>,
) -> Answer<DsrView> {
    let (request, now) = state.services.handle_request(&caller, &text_of(id), handled).await?;
    Ok(Json(DsrView::new(&caller, request, now)))
}

/// An id that is not text is the id of no request.
fn text_of(id: Result<Path<String>, PathRejection>) -> String {
    id.map(|Path(id)| id).unwrap_or_default()
}
