//! What all outbound calls share: the client, the key in a header, the check of an answer's status.

use std::time::Duration;

use anyhow::Context;
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::retry::Failure;

/// Time to reach a provider at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer of a chat model; the longest one that is ever asked for has a few hundred kilobytes.
pub(super) const ANSWER_BODY: usize = 2 << 20;
/// Of the body of an error, what is read to find its code.
const ERROR_BODY: usize = 16 * 1024;
/// Longest error code that is repeated.
const ERROR_CODE: usize = 64;

/// A client that sends `headers` with every request and gives an attempt `timeout` from connecting to the last byte.
///
/// It follows no redirect: a key must not travel to another host.
///
/// # Errors
/// When TLS cannot be set up.
pub(super) fn client(headers: HeaderMap, timeout: Duration) -> anyhow::Result<Client> {
    Client::builder()
        .user_agent(concat!("engramia/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(timeout)
        .redirect(Policy::none())
        .build()
        .context("cannot set up outbound HTTP")
}

/// `prefix` and the key as a header that no debug output shows.
///
/// # Errors
/// When the key holds characters that no header may carry; the text does not repeat it.
pub(super) fn secret(prefix: &str, key: &SecretString) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("{prefix}{}", key.expose_secret().trim()))
        .ok()
        .context("the API key holds characters that cannot be sent")?;
    value.set_sensitive(true);
    Ok(value)
}

/// The answer of a request, if its status says success.
///
/// # Errors
/// [`Failure::Transport`] without an answer, else [`Failure::Status`].
pub(super) async fn checked(outcome: reqwest::Result<Response>) -> Result<Response, Failure> {
    let response = outcome.map_err(transport)?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let retry_after = retry_after(response.headers());
    Err(Failure::Status { status, code: error_code(response).await, retry_after })
}

/// A failed request or a body that broke off. The address is left out: it may hold more than a host name.
pub(super) fn transport(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    if error.is_connect() { Failure::Unreachable(error.into()) } else { Failure::Transport(error.into()) }
}

/// Why an answer could not be parsed: where, but not what, because the parser's own text may quote the answer.
pub(super) fn unusable(error: &serde_json::Error) -> Failure {
    Failure::Unusable(format!("not the documented JSON at line {}, column {}", error.line(), error.column()))
}

/// Only the form in seconds; the date form is rare and needs both clocks to agree.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// `{"error": {"code": .., "type": ..}}` of OpenAI; Anthropic has the type alone.
#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorWords,
}

#[derive(Deserialize)]
struct ErrorWords {
    #[serde(default)]
    code: serde_json::Value,
    #[serde(default, rename = "type")]
    kind: serde_json::Value,
}

async fn error_code(response: Response) -> Option<String> {
    let body = body(response, ERROR_BODY).await.ok()?;
    let ErrorBody { error } = serde_json::from_slice(&body).ok()?;
    [error.code, error.kind].iter().filter_map(serde_json::Value::as_str).find(|code| is_word(code)).map(str::to_owned)
}

/// The body of an answer, if it has no more than `limit` bytes.
///
/// # Errors
/// [`Failure::Transport`] when it breaks off, [`Failure::Unusable`] when it is longer.
pub(super) async fn body(mut response: Response, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(transport)? {
        if body.len() + chunk.len() > limit {
            return Err(Failure::Unusable(format!("more than {limit} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Lower-case letters and underscores only: the messages of providers quote keys, and every key has other characters.
fn is_word(code: &str) -> bool {
    (1..=ERROR_CODE).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use wiremock::matchers::method;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    #[test]
    fn a_key_is_sent_but_never_shown() {
        let value = secret("Bearer ", &"sk-hidden\n".into()).expect("white space around a key is no part of it");
        assert_eq!(value.to_str().expect("ASCII"), "Bearer sk-hidden");
        assert!(!format!("{value:?}").contains("hidden"));
        let error = secret("", &"sk-hid\nden".into()).expect_err("a line break");
        assert!(!format!("{error:#}").contains("hid"));
    }

    #[test]
    fn a_pause_is_read_in_seconds() {
        let read =
            |text: &'static str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]));
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(read("-1"), None);
    }

    async fn failure(answer: ResponseTemplate) -> Failure {
        let server = MockServer::start().await;
        Mock::given(method("GET")).respond_with(answer).mount(&server).await;
        let client = client(HeaderMap::new(), Duration::from_secs(5)).expect("a client");
        checked(client.get(server.uri()).send().await).await.expect_err("no success")
    }

    #[tokio::test]
    async fn errors_carry_the_code_and_nothing_else_of_the_body() {
        let body = |code: &str| {
            ResponseTemplate::new(401).set_body_json(serde_json::json!({
                "error": {"message": "Incorrect API key provided: sk-1", "code": code, "type": "invalid_request_error"}
            }))
        };
        assert_eq!(failure(body("invalid_api_key")).await.to_string(), "HTTP 401 (invalid_api_key)");
        assert_eq!(failure(body("sk-1")).await.to_string(), "HTTP 401 (invalid_request_error)");
        let prose = ResponseTemplate::new(502).set_body_string("<html>sk-1</html>");
        assert_eq!(failure(prose).await.to_string(), "HTTP 502");
        let long = ResponseTemplate::new(400).set_body_string("x".repeat(ERROR_BODY + 1));
        assert_eq!(failure(long).await.to_string(), "HTTP 400");
    }

    #[tokio::test]
    async fn redirects_are_not_followed() {
        let moved = ResponseTemplate::new(307).insert_header("location", "https://elsewhere.invalid/");
        assert_eq!(failure(moved).await.to_string(), "HTTP 307");
    }
}
