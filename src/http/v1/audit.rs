//! `GET /v1/audit`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::Answer;
use crate::domain::audit::AuditEntry;
use crate::domain::time::iso;
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::extract::Query;
use crate::http::fields::{Fields, FromFields, Text};
use crate::http::openapi::Errors;
use crate::store::AuditQuery;

/// Which events.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the query that `FromFields for AuditQuery` reads")]
pub struct AuditParams {
    /// Events a page.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: u32,
    /// At or after this time; ISO 8601.
    since: Option<String>,
    /// Before this time; ISO 8601.
    until: Option<String>,
    /// Exactly this action.
    #[param(max_length = 100)]
    action: Option<String>,
    /// Exactly this actor: the id of a key.
    #[param(max_length = 200)]
    actor: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl FromFields for AuditQuery {
    fn read(fields: &mut Fields) -> Self {
        Self {
            limit: fields.integer("limit", 1, 1000, 50) as u32,
            since: fields.time("since"),
            until: fields.time("until"),
            action: fields.text("action", Text::up_to(100)),
            actor: fields.text("actor", Text::up_to(200)),
            before: fields.whole("cursor", 1, i64::MAX).map(|sequence| sequence as u64),
        }
    }
}

/// One event.
#[derive(Serialize, ToSchema)]
pub struct EventView {
    /// When.
    #[schema(example = "2026-04-04T12:00:00Z")]
    timestamp: String,
    /// What.
    #[schema(example = "key_created")]
    action: String,
    /// Id of the key that did it.
    actor: Option<String>,
    /// Kind of the thing it was done to.
    #[schema(example = "api_key")]
    resource_type: Option<String>,
    /// Which one.
    resource_id: Option<String>,
    /// Address it came from.
    ip: Option<String>,
    /// Whatever else is worth knowing; `count` where the event stands for several like it.
    #[schema(value_type = Option<Object>)]
    detail: Option<Value>,
}

/// A page of events.
#[derive(Serialize, ToSchema)]
pub struct AuditResponse {
    /// The newest first.
    events: Vec<EventView>,
    /// How many this answer holds.
    total: usize,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

impl From<AuditEntry> for EventView {
    fn from(entry: AuditEntry) -> Self {
        // A scrubbed detail may be any text.
        let detail = entry.detail.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text)));
        Self {
            timestamp: iso(entry.at),
            action: entry.action,
            actor: entry.actor,
            resource_type: entry.resource_type,
            resource_id: entry.resource_id,
            ip: entry.ip,
            detail,
        }
    }
}

/// What was done in the project, and by whom.
#[utoipa::path(get, path = "/v1/audit", operation_id = "audit", tag = "audit", params(AuditParams),
    responses((status = 200, body = AuditResponse), Errors))]
pub async fn audit(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::AuditRead>,
    Query(query): Query<AuditQuery>,
) -> Answer<AuditResponse> {
    let limit = query.limit as usize;
    // One more tells whether there is another page.
    let mut entries = state.services.audit_page(&caller, &AuditQuery { limit: query.limit + 1, ..query }).await?;
    let has_more = entries.len() > limit;
    entries.truncate(limit);
    let last = entries.last().filter(|_| has_more);
    let next_cursor = last.map(|entry| entry.sequence.to_string());
    let events: Vec<_> = entries.into_iter().map(EventView::from).collect();
    Ok(Json(AuditResponse { total: events.len(), events, next_cursor }))
}
