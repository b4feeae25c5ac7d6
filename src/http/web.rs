//! Routes beside the API: probes, Prometheus, Swagger UI, the OpenAPI document.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;

use super::AppState;
use super::problem::{ErrorCode, Problem};
use crate::auth;
use crate::domain::credential;
use crate::service::gateway::Gateway;

/// What the documentation page may load: only what this server serves.
const DOCS_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
     font-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
);

/// The process runs.
pub async fn livez() -> &'static str {
    "ok\n"
}

/// The process can serve: its store answers.
pub async fn readyz(State(state): State<AppState>) -> Response {
    if state.prober.is_ready().await {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], "storage does not answer\n").into_response()
    }
}

/// Prometheus text format. Open unless a token is configured.
pub async fn metrics(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let telemetry = &state.config.telemetry;
    if !telemetry.metrics {
        return not_found().into_response();
    }
    if let Some(token) = &telemetry.metrics_token {
        let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let known = [credential::hash(token.expose_secret())];
        if !sent.is_some_and(|bytes| auth::is_one_of(&known, &String::from_utf8_lossy(bytes))) {
            return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], "Unauthorized").into_response();
        }
    }
    // Before this request uses connections itself.
    state.metrics.set_pool(state.services.store.pool());
    // A store that does not answer is a gauge of its own: an answer without metrics would look like a dead process.
    state.metrics.set_seen(state.services.instance.read().await.as_ref());
    state.metrics.audit_lost.inc_by(state.services.audit.take_lost());
    state.metrics.retention_purged.inc_by(state.services.removed.take());
    state.metrics.compute_queue.set(i64::try_from(state.services.compute.queued()).unwrap_or(i64::MAX));
    let circuit_open = state.services.gateway.as_ref().is_some_and(Gateway::is_open);
    state.metrics.llm_circuit_open.set(circuit_open.into());
    match state.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "rendering metrics");
            Problem::internal().into_response()
        }
    }
}

/// The OpenAPI document.
pub async fn openapi(State(state): State<AppState>) -> Response {
    if !state.config.server.docs {
        return not_found().into_response();
    }
    ([(header::CONTENT_TYPE, "application/json")], Arc::clone(&state.openapi).to_string()).into_response()
}

/// The documentation page.
pub async fn docs(state: State<AppState>) -> Response {
    docs_file(state, Path("index.html".to_owned())).await
}

/// A file of the documentation page. Ours come first: Swagger UI's own page loads its parts by relative paths.
pub async fn docs_file(State(state): State<AppState>, Path(name): Path<String>) -> Response {
    let ours: Option<(&str, &[u8])> = match name.as_str() {
        "index.html" => Some(("text/html; charset=utf-8", include_bytes!("../../assets/docs/index.html"))),
        "start.js" => Some(("text/javascript; charset=utf-8", include_bytes!("../../assets/docs/start.js"))),
        _ => None,
    };
    if !state.config.server.docs {
        return not_found().into_response();
    }
    if let Some((kind, bytes)) = ours {
        return docs_response(kind, bytes.to_vec());
    }
    match utoipa_swagger_ui::serve(&name, Arc::default()) {
        Ok(Some(file)) => docs_response(&file.content_type, file.bytes.into_owned()),
        Ok(None) | Err(_) => not_found().into_response(),
    }
}

fn docs_response(kind: &str, bytes: Vec<u8>) -> Response {
    let mut response = bytes.into_response();
    let kind = HeaderValue::from_str(kind).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, DOCS_POLICY);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// 404 in the documented shape.
pub fn not_found() -> Problem {
    Problem::new(ErrorCode::NotFound, "Not Found")
}
