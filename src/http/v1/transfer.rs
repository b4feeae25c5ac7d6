//! `GET /v1/export` and `POST /v1/import`.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Caller, JobOperation, Permission, record};
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::fields::{Fields, FromFields, Text};
use crate::http::openapi::{Deferred, Errors};
use crate::http::operation::{Asked, Operation, Size};
use crate::http::problem::Problem;
use crate::service::gateway::Meter;
use crate::service::jobs::Finish;
use crate::service::transfer::{Imported, Record};
use crate::service::{self, ServiceError, Services};

/// Most records of one import.
const MOST_RECORDS: usize = 10_000;

/// One exported pattern.
#[derive(Serialize, ToSchema)]
pub struct RecordView {
    /// Format version.
    #[schema(example = 1)]
    version: i64,
    /// Public name.
    #[schema(max_length = 500, example = "patterns/0be2046e_1795319203747")]
    key: String,
    /// The pattern: `task`, `design`, `success_score`, `reuse_count`, `timestamp`.
    #[schema(value_type = Object, example = json!({"task": "t", "design": {"code": "c"}, "success_score": 8.0}))]
    data: serde_json::Value,
}

/// A whole project.
#[derive(Serialize, ToSchema)]
pub struct ExportResponse {
    /// In key order.
    records: Vec<RecordView>,
    /// How many.
    count: u64,
}

/// Records to store.
#[derive(ToSchema)]
#[schema(as = ImportRequest)]
pub struct ImportBody {
    /// As exported.
    #[schema(value_type = Vec<RecordView>, max_items = 10_000)]
    records: Vec<Record>,
    /// Replace patterns whose key exists.
    #[schema(default = false, required = false)]
    overwrite: bool,
}

impl FromFields for ImportBody {
    fn read(fields: &mut Fields) -> Self {
        Self { records: fields.required_objects("records", MOST_RECORDS), overwrite: fields.flag("overwrite", false) }
    }
}

impl FromFields for Record {
    fn read(fields: &mut Fields) -> Self {
        Self {
            version: fields.integer("version", i64::MIN, i64::MAX, record::VERSION),
            key: fields.required_text("key", Text::up_to(500)),
            data: fields.required_object("data"),
        }
    }
}

/// What an import did.
#[derive(Serialize, ToSchema)]
pub struct ImportResponse {
    /// Records that were stored.
    imported: usize,
    /// Records that were sent.
    total: usize,
}

/// Export every pattern of the project.
#[utoipa::path(get, path = "/v1/export", operation_id = "export", tag = "transfer",
    responses((status = 200, body = ExportResponse), Errors))]
pub async fn export(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::Export>,
) -> Result<Response, Problem> {
    let mut pages = Box::pin(state.services.export(&caller).await?);
    // The first page is read before the status goes out: a store that is down is an error, not half an answer.
    let first = pages.try_next().await?;
    let pages = stream::iter(first.map(Ok)).chain(pages);
    let body = pages.map_ok(Some).chain(stream::once(async { Ok(None) })).scan(0u64, |written, page| {
        let text = page.map(|page: Option<Vec<_>>| match page {
            None if *written == 0 => "{\"records\":[],\"count\":0}".to_owned(),
            None => format!("],\"count\":{written}}}"),
            Some(patterns) => {
                let mut text = String::new();
                for pattern in &patterns {
                    text.push_str(if *written == 0 { "{\"records\":[" } else { "," });
                    text.push_str(&record::record(pattern).to_string());
                    *written += 1;
                }
                text
            }
        });
        std::future::ready(Some(text.map(Bytes::from)))
    });
    let body = Body::from_stream(body.map_err(|error: ServiceError| {
        tracing::error!(%error, "an export broke off");
        std::io::Error::other("the export broke off")
    }));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

impl Operation for ImportBody {
    const NAME: JobOperation = JobOperation::Import;
    const PERMISSION: Permission = Permission::Import;
    const SIZE: Size = Size::Bulk;
    type Outcome = Imported;
    type Response = ImportResponse;

    async fn run(
        self,
        services: &Services,
        caller: &Caller,
        _: &Meter,
        finish: &Finish<'_, Imported>,
    ) -> service::Result<Imported> {
        services.import(caller, self.records, self.overwrite, finish).await
    }

    fn response(&Imported { imported, total }: &Imported, _: usize) -> ImportResponse {
        ImportResponse { imported, total }
    }
}

/// Import exported patterns.
#[utoipa::path(post, path = "/v1/import", operation_id = "import", tag = "transfer", request_body = ImportBody,
    params(Deferred), responses((status = 200, body = ImportResponse), Deferred, Errors))]
pub async fn import(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::Import>,
    asked: Asked<ImportBody>,
) -> Result<Response, Problem> {
    asked.answer(&state, &caller).await
}
