//! Our own extractors: the body and the query as checked values, mistakes in the documented shape.

use axum::body::Body as RawBody;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value, json};

use super::AppState;
use super::fields::{Fields, Finding, FromFields};
use super::problem::Problem;

/// A JSON object as `T`, whatever the content type says, up to the configured size.
pub struct Body<T>(pub T);

/// The query string as `T`.
pub struct Query<T>(pub T);

/// How much larger than other bodies a bulk load may be.
pub const BULK_FACTOR: usize = 64;

impl<T: FromFields> FromRequest<AppState> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        read_object(request, state.config.server.max_body_size).await.map(Self)
    }
}

impl<T: FromFields> FromRequestParts<AppState> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        let pairs = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let members = pairs.map(|(name, value)| (name.into_owned(), Value::from(value.into_owned()))).collect();
        let mut fields = Fields::new("query", members);
        let value = T::read(&mut fields);
        fields.finish(value).map(Self).map_err(|findings| Problem::invalid(&findings))
    }
}

async fn read_object<T: FromFields>(request: Request, limit: usize) -> Result<T, Problem> {
    object(&read_bytes(request, limit).await?)
}

/// A JSON object as `T`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn object<T: FromFields>(bytes: &[u8]) -> Result<T, Problem> {
    let members = parse(bytes)?;
    let mut fields = Fields::new("body", members);
    let value = T::read(&mut fields);
    fields.finish(value).map_err(|findings| Problem::invalid(&findings))
}

/// The body of a request, up to a size.
///
/// # Errors
/// When it is larger or ends early.
pub async fn read_bytes(request: Request, limit: usize) -> Result<Vec<u8>, Problem> {
    let (parts, body) = request.into_parts();
    read_body(&parts.headers, body, limit).await
}

/// The body of a request with these headers, up to a size.
///
/// # Errors
/// When it is larger or ends early.
pub async fn read_body(headers: &HeaderMap, body: RawBody, limit: usize) -> Result<Vec<u8>, Problem> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > limit) {
        drain(body, limit).await;
        return Err(Problem::too_large(limit));
    }
    let (mut body, mut bytes) = (body, Vec::with_capacity(announced.unwrap_or(0)));
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(invalid_json(bytes.len(), "the body ended early")) };
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > limit {
                drain(body, limit).await;
                return Err(Problem::too_large(limit));
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes)
}

/// Reads on for a while, so that the client has sent its body and listens when the refusal arrives; a connection that
/// is closed with unread data may lose the answer.
async fn drain(body: RawBody, limit: usize) {
    drop(Limited::new(body, limit.saturating_mul(4)).collect().await);
}

fn parse(bytes: &[u8]) -> Result<Map<String, Value>, Problem> {
    if bytes.is_empty() {
        return Err(Problem::invalid(&[Finding::new("missing", vec![json!("body")], "Field required")]));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => {
            let message = "Input should be a valid dictionary or object to extract fields from";
            Err(Problem::invalid(&[Finding::new("model_attributes_type", vec![json!("body")], message)]))
        }
        Err(error) => Err(invalid_json(offset(bytes, &error), &error.to_string())),
    }
}

fn invalid_json(offset: usize, reason: &str) -> Problem {
    let location = vec![json!("body"), json!(offset)];
    Problem::invalid(&[Finding::new("json_invalid", location, format!("JSON decode error: {reason}"))])
}

/// Byte offset of a parser error, from its line and column.
fn offset(bytes: &[u8], error: &serde_json::Error) -> usize {
    let start_of_line = if error.line() <= 1 {
        0
    } else {
        memchr::memchr_iter(b'\n', bytes).nth(error.line() - 2).map_or(0, |newline| newline + 1)
    };
    (start_of_line + error.column()).min(bytes.len())
}
