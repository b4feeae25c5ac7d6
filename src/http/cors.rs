//! Cross-origin requests (`spec/engramia/00` §6): off unless origins are configured.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::context::X_REQUEST_ID;
use super::idempotency::{IDEMPOTENCY_KEY, REPLAYED};
use super::limit::{LIMIT, REMAINING, RESET};
use super::usage::{COMPLETION_TOKENS, COST, PROMPT_TOKENS};
use crate::config::CorsOrigins;

/// The layer for the configured origins; none without any.
pub(super) fn layer(origins: &CorsOrigins) -> Option<CorsLayer> {
    let allowed = match origins {
        CorsOrigins::Off => return None,
        CorsOrigins::Any => AllowOrigin::any(),
        CorsOrigins::Only(list) => AllowOrigin::list(list.iter().filter_map(|o| HeaderValue::from_str(o).ok())),
    };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("prefer"),
            X_REQUEST_ID,
            HeaderName::from_static("x-project-id"),
            HeaderName::from_static("x-max-execution-seconds"),
            IDEMPOTENCY_KEY,
        ])
        .expose_headers([
            X_REQUEST_ID,
            header::LOCATION,
            header::RETRY_AFTER,
            PROMPT_TOKENS,
            COMPLETION_TOKENS,
            COST,
            REPLAYED,
            LIMIT,
            REMAINING,
            RESET,
        ])
        .max_age(Duration::from_secs(600));
    Some(layer)
}
