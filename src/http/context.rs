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
use tracing::Instrument;

use super::problem::{ErrorCode, Problem};
use super::{AppState, client};

tokio::task_local! {
    static REQUEST_ID: Arc<str>;
}

/// Header that carries the request id both ways.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken from a client.
const MAX_ID: usize = 128;

/// Id of the request that is being served.
pub fn request_id() -> Option<Arc<str>> {
    REQUEST_ID.try_with(Arc::clone).ok()
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
    let route = request.extensions().get::<MatchedPath>().map(|matched| matched.as_str().to_owned());
    let route = route.unwrap_or_else(|| "unmatched".to_owned());
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip());
    let client = client::address(peer, request.headers(), &state.config.server.trusted_proxies);
    request.extensions_mut().insert(client::Client(client));

    let span = tracing::info_span!(
        "request",
        request_id = %id,
        tenant_id = tracing::field::Empty,
        project_id = tracing::field::Empty
    );
    let timeout = state.config.server.request_timeout;
    let served = tokio::spawn(REQUEST_ID.scope(Arc::clone(&id), next.run(request)).instrument(span.clone()));
    let outcome = tokio::time::timeout(timeout, served).await;
    let mut response = REQUEST_ID.sync_scope(Arc::clone(&id), || match outcome {
        Ok(Ok(response)) => response,
        Ok(Err(panicked)) => {
            tracing::error!(parent: &span, error = %panicked, "a request panicked");
            Problem::internal().into_response()
        }
        Err(_elapsed) => Problem::new(ErrorCode::Unavailable, "The request took too long.")
            .retry_after(Duration::from_secs(1))
            .into_response(),
    });
    secure(response.headers_mut());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    let elapsed = started.elapsed();
    let status = response.status().as_u16();
    state.metrics.request(&method, &route, status, elapsed);
    span.in_scope(|| log(&method, &path, status, elapsed));
    response
}

fn log(method: &Method, path: &str, status: u16, elapsed: Duration) {
    let ms = elapsed.as_secs_f64() * 1e3;
    if status >= 400 {
        tracing::warn!("{method} {path} {status} {ms:.1}ms");
    } else {
        tracing::debug!("{method} {path} {status} {ms:.1}ms");
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
