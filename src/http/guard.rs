//! Checks before a request reaches its route: maintenance, and the origin of requests in open mode.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AppState;
use super::problem::{ErrorCode, Problem};
use crate::auth::Authenticator;
use crate::config::CorsOrigins;

/// Paths that answer during maintenance: health of the service and probes of the process.
const DURING_MAINTENANCE: [&str; 4] = ["/v1/health", "/v1/health/deep", "/livez", "/readyz"];

/// 503 for everything but health while the operator works on the system.
pub async fn maintenance(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if state.config.server.maintenance && !DURING_MAINTENANCE.contains(&request.uri().path()) {
        return Problem::new(ErrorCode::Unavailable, "Service is under scheduled maintenance. Please try again later.")
            .retry_after(Duration::from_secs(3600))
            .into_response();
    }
    next.run(request).await
}

/// Without keys, any web page that the user visits could write into the memory (decision 1). A page cannot choose its
/// `Origin`, and a rebound name is somebody's domain: both are refused.
pub async fn open_mode(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let open = matches!(*state.authenticator, Authenticator::Open);
    if open && !is_local(request.headers(), &state.config.server.cors_origins) {
        return Problem::new(
            ErrorCode::Forbidden,
            "Without authentication only requests from this machine and from configured origins are served.",
        )
        .into_response();
    }
    next.run(request).await
}

fn is_local(headers: &HeaderMap, allowed: &CorsOrigins) -> bool {
    let text = |name| headers.get(name).map(|value: &header::HeaderValue| value.to_str().unwrap_or("invalid."));
    let host = text(header::HOST).map(name_of);
    // Names with dots belong to somebody; addresses and single labels (of a container network) cannot be rebound.
    let host_is_ours =
        host.is_none_or(|name| is_loopback(name) || name.parse::<IpAddr>().is_ok() || !name.contains('.'));
    let origin_is_ours = text(header::ORIGIN).is_none_or(|origin| {
        let name = origin.split_once("://").map_or("", |(_, rest)| name_of(rest));
        let listed = match allowed {
            CorsOrigins::Off => false,
            CorsOrigins::Any => true,
            CorsOrigins::Only(origins) => origins.iter().any(|listed| listed == origin),
        };
        listed || is_loopback(name) || (!name.is_empty() && Some(name) == host)
    });
    host_is_ours && origin_is_ours
}

/// Host name or address without brackets and port.
fn name_of(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().expect("a host"));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().expect("an origin"));
        }
        is_local(&headers, &CorsOrigins::Only(vec!["https://app.example".into()]))
    }

    #[test]
    fn foreign_pages_and_rebound_names_are_not_local() {
        assert!(local("localhost:8000", None) && local("127.0.0.1", None) && local("[::1]:8000", None));
        assert!(local("engramia-api:8000", None) && local("10.0.0.5:8000", None));
        assert!(local("localhost:8000", Some("http://localhost:3000")));
        assert!(local("10.0.0.5:8000", Some("http://10.0.0.5:8000")));
        assert!(local("localhost:8000", Some("https://app.example")));
        assert!(!local("evil.example:8000", None), "a rebound name");
        assert!(!local("evil.example:8000", Some("http://evil.example:8000")));
        assert!(!local("localhost:8000", Some("https://evil.example")));
        assert!(!local("localhost:8000", Some("null")));
    }
}
