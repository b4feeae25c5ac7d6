//! The outermost layer: request id, span, panic guard, security headers, timing and the request log.
//!
//! The request runs in a task of its own, so that a client that hangs up never cuts a write in half.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::problem::{ErrorCode, Problem};
use super::{AppState, client};
use crate::domain::Scope;
use crate::telemetry::traces;

tokio::task_local! {
    static REQUEST: Arc<Current>;
}

/// The request that is being served.
struct Current {
    id: Arc<str>,
    /// Its span in the log; as important as the worst line in it, so that no level hides its ids.
    logged: Span,
    /// Its span in a trace.
    traced: Span,
}

/// Header that carries the request id both ways.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken from a client.
const MAX_ID: usize = 128;

/// Paths whose requests are not logged.
const UNLOGGED: [&str; 5] = ["/v1/health", "/metrics", "/metrics/", "/livez", "/readyz"];

/// Id of the request that is being served.
pub fn request_id() -> Option<Arc<str>> {
    REQUEST.try_with(|request| Arc::clone(&request.id)).ok()
}

/// Notes whose request is being served.
pub fn identified(scope: &Scope) {
    // Outside of a request there is nothing to note it on.
    let _ = REQUEST.try_with(|request| {
        request.logged.record("tenant_id", scope.tenant());
        request.logged.record("project_id", scope.project());
        traces::identified(&request.traced, scope.tenant(), scope.project());
    });
}

/// A client's id if it is 1 to 128 printable ASCII characters, else a fresh one.
fn id_of(headers: &HeaderMap) -> Arc<str> {
    let sent = headers.get(&X_REQUEST_ID).and_then(|value| value.to_str().ok()).map(str::trim);
    match sent {
        Some(id) if (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) => id.into(),
        _ => uuid::Uuid::new_v4().to_string().into(),
    }
}

/// Wraps everything else.
pub async fn layer(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = id_of(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    // Bounded label: the template of the route, never what the client typed.
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map(MatchedPath::as_str);
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip());
    let client = client::address(peer, request.headers(), &state.config.server.trusted_proxies);
    request.extensions_mut().insert(client::Client(client));

    let current = Arc::new(Current {
        logged: log_span(&id, request.headers()),
        traced: traces::server_span(&method, route, &id, request.headers()),
        id,
    });
    let timeout = state.config.server.request_timeout;
    let serving = next.run(request).instrument(current.traced.clone()).instrument(current.logged.clone());
    let served = tokio::spawn(REQUEST.scope(Arc::clone(&current), serving));
    let outcome = tokio::time::timeout(timeout, served).await;
    let mut response = REQUEST.sync_scope(Arc::clone(&current), || match outcome {
        Ok(Ok(response)) => response,
        Ok(Err(panicked)) => {
            tracing::error!(parent: &current.logged, error = %panicked, "a request panicked");
            Problem::internal().into_response()
        }
        Err(_elapsed) => Problem::new(ErrorCode::Unavailable, "The request took too long.")
            .retry_after(Duration::from_secs(1))
            .into_response(),
    });
    secure(response.headers_mut());
    if let Ok(value) = HeaderValue::from_str(&current.id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    let elapsed = started.elapsed();
    let status = response.status().as_u16();
    state.metrics.request(&method, route.unwrap_or("unmatched"), status, elapsed);
    traces::answered(&current.traced, status, elapsed);
    current.logged.in_scope(|| current.traced.in_scope(|| log(&method, &path, status, elapsed, &current.id)));
    response
}

/// The span that carries the ids of a request to the lines of the log, those of its caller's trace, too.
fn log_span(id: &str, headers: &HeaderMap) -> Span {
    let empty = tracing::field::Empty;
    let span = tracing::error_span!(
        "request",
        request_id = id,
        tenant_id = empty,
        project_id = empty,
        trace_id = empty,
        span_id = empty
    );
    if let Some((trace, parent)) = traces::remote_ids(headers) {
        span.record("trace_id", trace);
        span.record("span_id", parent);
    }
    span
}

/// The line of a request, without its query. What machines ask all the time is named where the server is to blame only.
fn log(method: &Method, path: &str, status: u16, elapsed: Duration, id: &str) {
    let ms = elapsed.as_secs_f64() * 1e3;
    if status < 500 && UNLOGGED.contains(&path) {
        return;
    }
    if status >= 400 {
        tracing::warn!("{method} {path} {status} {ms:.1}ms request_id={id}");
    } else {
        tracing::debug!("{method} {path} {status} {ms:.1}ms request_id={id}");
    }
}

/// The headers of `spec/engramia/00` §6; a handler's own Content-Security-Policy stays.
fn secure(headers: &mut HeaderMap) {
    const FIXED: [(HeaderName, &str); 6] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("x-permitted-cross-domain-policies"), "none"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("permissions-policy"), "interest-cohort=()"),
        (header::STRICT_TRANSPORT_SECURITY, "max-age=63072000; includeSubDomains"),
    ];
    for (name, value) in FIXED {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(HeaderName::from_static("x-api-version"), HeaderValue::from_static("v1"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
}
