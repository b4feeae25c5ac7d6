//! The header `Idempotency-Key`: a request that is repeated with it is answered as the first time, and not carried out
//! again (`docs/idempotency.md`).

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use serde_json::json;

use super::extract::{BULK_FACTOR, read_body};
use super::fields::Finding;
use super::problem::{ErrorCode, Problem};
use super::{AppState, caller};
use crate::service::Services;
use crate::service::idempotency::{Admission, BEAT, Head, Kept, MOST_KEPT, Sent, UnderWay};

/// The request's header.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer was given before.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Longest key.
pub const LONGEST_KEY: usize = 255;
/// When to come back while the first request is under way.
const RETRY: Duration = Duration::from_secs(1);
/// Requests of nobody known, and those that change nothing.
const APART: [&str; 4] = ["/v1/keys/bootstrap", "/v1/billing/webhook", "/v1/recall", "/v1/skills/search"];
/// Its body may be larger than those of others.
const BULK: &str = "/v1/import";

/// Whether requests of this kind heed the header.
pub fn takes_part(method: &Method, path: &str) -> bool {
    let changes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(method);
    changes && path.starts_with("/v1/") && !APART.iter().any(|apart| path.starts_with(apart))
}

/// Passes on what has no key, and carries out what has one once.
pub async fn layer(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let is_meant = request.headers().contains_key(&IDEMPOTENCY_KEY);
    if !is_meant || !takes_part(request.method(), request.uri().path()) {
        return next.run(request).await;
    }
    once(&state, request, next).await.unwrap_or_else(IntoResponse::into_response)
}

async fn once(state: &AppState, request: Request, next: Next) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let caller = caller::authenticated(&parts, state).await?;
    let key = key_of(&parts.headers)?;
    let plain = state.config.server.max_body_size;
    let most = if parts.uri.path() == BULK { plain.saturating_mul(BULK_FACTOR) } else { plain };
    let body = read_body(&parts.headers, body, most).await?;
    let target = parts.uri.path_and_query().map_or_else(|| parts.uri.path(), |target| target.as_str());
    let sent = Sent {
        key,
        secret: caller::lasting_secret(&parts, state),
        request: [parts.method.as_str().as_bytes(), target.as_bytes(), &body],
    };
    match state.services.admit(&caller, sent).await? {
        Admission::First(under_way) => {
            // The route need not find out again who it is.
            parts.extensions.insert(caller);
            Ok(carry_out(state, &under_way, Request::from_parts(parts, Body::from(body)), next).await)
        }
        Admission::Again(kept) => Ok(replayed(kept)),
        Admission::Unknown => Err(Problem::new(
            ErrorCode::Conflict,
            "The request with this Idempotency-Key was carried out; its answer was too large to be kept.",
        )),
        Admission::Running => {
            let text = "A request with this Idempotency-Key is being carried out.";
            Err(Problem::new(ErrorCode::Conflict, text).retry_after(RETRY))
        }
        Admission::Other => Err(invalid("This key was sent with another request")),
    }
}

/// 1 to 255 visible ASCII characters, sent once.
fn key_of(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all(&IDEMPOTENCY_KEY).iter();
    let key = values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok());
    let is_valid = |key: &&str| (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    key.filter(is_valid).ok_or_else(|| invalid("Should be one text of 1 to 255 visible ASCII characters"))
}

fn invalid(message: &str) -> Problem {
    Problem::invalid(&[Finding::new("value_error", vec![json!("header"), json!("Idempotency-Key")], message)])
}

/// What was refused or failed has not happened, and may be tried again with the same key: only a success is kept.
async fn carry_out(state: &AppState, under_way: &UnderWay, request: Request, next: Next) -> Response {
    let services = &state.services;
    // Side by side: a beat may have to wait for what the request holds.
    let outcome = tokio::select! {
        outcome = AssertUnwindSafe(next.run(request)).catch_unwind() => outcome,
        never = beat(services, under_way) => match never {},
    };
    match outcome {
        Ok(response) if response.status().is_success() => kept(state, under_way, response).await,
        Ok(response) => {
            services.not_carried_out(under_way).await;
            response
        }
        Err(panic) => {
            services.not_carried_out(under_way).await;
            resume_unwind(panic)
        }
    }
}

/// Says again and again that the request is being carried out.
async fn beat(services: &Services, under_way: &UnderWay) -> Infallible {
    loop {
        tokio::time::sleep(BEAT).await;
        services.still_under_way(under_way).await;
    }
}

/// Keeps an answer before it is given.
async fn kept(state: &AppState, under_way: &UnderWay, response: Response) -> Response {
    if response.body().size_hint().upper().is_none_or(|length| length > MOST_KEPT) {
        state.services.carried_out(under_way, None).await;
        return response;
    }
    let (parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        state.services.carried_out(under_way, None).await;
        return Problem::internal().into_response();
    };
    let headers = parts.headers.iter().filter(|(name, _)| **name != header::CONTENT_LENGTH);
    let headers = headers.filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())));
    let head = Head { status: parts.status.as_u16(), headers: headers.collect() };
    state.services.carried_out(under_way, Some(&Kept { head, body: body.to_vec() })).await;
    Response::from_parts(parts, Body::from(body))
}

fn replayed(Kept { head, body }: Kept) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::OK);
    for (name, value) in head.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_something_for_somebody_takes_part() {
        for (method, path, expected) in [
            (Method::POST, "/v1/learn", true),
            (Method::DELETE, "/v1/patterns/patterns/x", true),
            (Method::PUT, "/v1/governance/retention", true),
            (Method::PATCH, "/v1/anything", true),
            (Method::POST, "/v1/skills/register", true),
            (Method::GET, "/v1/export", false),
            (Method::POST, "/v1/recall", false),
            (Method::POST, "/v1/keys/bootstrap", false),
            (Method::POST, "/livez", false),
        ] {
            assert_eq!(takes_part(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn keys_are_visible_ascii_of_a_bounded_length() {
        let check = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value).expect("a header value"));
            }
            key_of(&headers).is_ok()
        };
        assert!(check(&[b"a"]) && check(&[&[b'~'; 255]]) && check(&[b"8e03978e-40d5-43dd-bc93-6894a57f9324"]));
        for bad in [&[&b""[..]][..], &[&[b'a'; 256]], &[b"a b"], &[b"\xc5\xbe"], &[b"a\tb"], &[b"a", b"a"]] {
            assert!(!check(bad), "{bad:?}");
        }
    }
}
