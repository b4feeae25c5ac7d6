//! `GET /v1/governance/export`: every pattern of a project as a line of JSON (`spec/engramia/30` §8).

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, TryStreamExt, stream};
use utoipa::{IntoParams, ToSchema};

use crate::domain::{Classification, record};
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::extract::Query;
use crate::http::fields::{Fields, FromFields};
use crate::http::openapi::Errors;
use crate::http::problem::Problem;
use crate::service::ServiceError;

/// Longest list of classifications, in characters.
const MOST_CHARS: usize = 100;

/// Which patterns.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ScopeExportQuery {
    /// Only patterns of these classifications: `public`, `internal`, `confidential`, separated by commas, at most 100
    /// characters.
    #[param(value_type = Option<String>, example = "public,internal")]
    classification: Option<Vec<Classification>>,
}

impl FromFields for ScopeExportQuery {
    fn read(fields: &mut Fields) -> Self {
        Self { classification: fields.words("classification", MOST_CHARS) }
    }
}

/// One line of the export.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents what `record::line` writes")]
pub struct ExportLine {
    /// Format version.
    #[schema(example = 1)]
    version: i64,
    /// Public name.
    #[schema(example = "patterns/0be2046e_1795319203747")]
    key: String,
    /// The pattern, as `POST /v1/import` takes it.
    #[schema(value_type = Object)]
    data: serde_json::Value,
    /// How sensitive it is.
    #[schema(example = "internal")]
    classification: String,
    /// Whether redaction changed its texts.
    redacted: bool,
    /// Where it came from.
    #[schema(example = "api")]
    source: String,
    /// Id of the run that it was learned from.
    run_id: Option<String>,
}

/// Export every pattern of the project as newline-delimited JSON, in key order.
#[utoipa::path(get, path = "/v1/governance/export", operation_id = "governance_export", tag = "governance",
    params(ScopeExportQuery), responses(
        (status = 200, body = ExportLine, content_type = "application/x-ndjson", description = "One object a line"),
        Errors))]
pub async fn export(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::Export>,
    Query(ScopeExportQuery { classification }): Query<ScopeExportQuery>,
) -> Result<Response, Problem> {
    let mut pages = Box::pin(state.services.export_scope(&caller, classification).await?);
    // The first page is read before the status goes out: a store that is down is an error, not half an answer.
    let first = pages.try_next().await?;
    let pages = stream::iter(first.map(Ok)).chain(pages);
    let body =
        Body::from_stream(pages.map_ok(|page| Bytes::from(page.iter().map(record::line).collect::<String>())).map_err(
            |error: ServiceError| {
                tracing::error!(%error, "an export broke off");
                std::io::Error::other("the export broke off")
            },
        ));
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CONTENT_DISPOSITION, "attachment; filename=engramia_export.ndjson"),
    ];
    Ok((headers, body).into_response())
}
