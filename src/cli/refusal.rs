//! An error of the server as lines for people (`spec/engramia/00` §5).

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use super::output::one_line;

/// Of an answer that is not ours, so many characters are shown.
const SHOWN: usize = 200;

/// The server answered with an error.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    /// When to come back, if the server said so.
    pub retry_after: Option<Duration>,
    /// `error_code`, or the status where the answer is not ours.
    code: String,
    /// One or more; each is a line.
    pub mistakes: Vec<Mistake>,
    request_id: Option<String>,
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct Mistake {
    /// What the place belongs to, such as a record of a file; empty for the request as a whole.
    pub owner: String,
    /// Path of the member below the body; empty where the text says it all.
    pub place: Vec<Value>,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// Reads the documented shape; anything else is shown as its beginning.
    pub fn new(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let retry_after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| parsed[name].as_str().map(one_line);
        let mistakes = match &parsed["detail"] {
            Value::Array(items) => items.iter().map(Mistake::of_item).collect(),
            Value::String(detail) => vec![Mistake::of_text(detail)],
            _ => vec![Mistake::of_text(&beginning(&String::from_utf8_lossy(body)))],
        };
        Self {
            status,
            retry_after: retry_after.map(Duration::from_secs),
            code: text("error_code").unwrap_or_else(|| format!("HTTP {status}")),
            mistakes,
            request_id: text("request_id").filter(|_| status.is_server_error()),
        }
    }

    /// Whether another key may help.
    pub fn is_about_credentials(&self) -> bool {
        matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }
}

impl Mistake {
    fn of_text(text: &str) -> Self {
        Self { owner: String::new(), place: Vec::new(), message: one_line(text) }
    }

    /// `{"loc": ["body", ...], "msg": "..."}`
    fn of_item(item: &Value) -> Self {
        let place = item["loc"].as_array().map(|path| path.iter().skip(1).cloned().collect());
        let message = item["msg"].as_str().unwrap_or("is wrong");
        Self { place: place.unwrap_or_default(), ..Self::of_text(message) }
    }
}

impl fmt::Display for Mistake {
    /// `owner: records[3].data.task: message`, without the parts that are empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut place = String::new();
        for step in &self.place {
            match step {
                Value::String(name) if place.is_empty() => place.push_str(&one_line(name)),
                Value::String(name) => place.extend([".", &one_line(name)]),
                index => place.push_str(&format!("[{index}]")),
            }
        }
        for part in [&self.owner, &place] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}: {mistake}", self.code)?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " (request {id})")?;
        }
        if self.status == StatusCode::UNAUTHORIZED {
            write!(f, "\nGive a key with ENGRAMIA_API_KEY or --key.")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// The start of a page that some proxy sent instead of an answer.
fn beginning(text: &str) -> String {
    let mut text = one_line(text);
    if let Some((end, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(status: u16, body: &str) -> String {
        let status = StatusCode::from_u16(status).expect("a status");
        Refusal::new(status, &HeaderMap::new(), body.as_bytes()).to_string()
    }

    #[test]
    fn a_text_is_one_line() {
        let body = json!({"error_code": "NOT_FOUND", "detail": "Not\nFound\u{1b}[31m", "request_id": "r"});
        assert_eq!(shown(404, &body.to_string()), "NOT_FOUND: Not Found\u{fffd}[31m");
        let body = json!({"error_code": "STORAGE_ERROR", "detail": "Storage backend error.", "request_id": "r-1"});
        assert_eq!(shown(503, &body.to_string()), "STORAGE_ERROR: Storage backend error. (request r-1)");
    }

    #[test]
    fn every_mistake_is_a_line_with_its_place() {
        let body = json!({"error_code": "VALIDATION_ERROR", "detail": [
            {"type": "missing", "loc": ["body", "task"], "msg": "Field required"},
            {"type": "missing", "loc": ["body", "records", 3, "data", "task"], "msg": "Field required"},
            {"type": "missing", "loc": ["body"], "msg": "Field required"},
            "unexpected",
        ]});
        assert_eq!(
            shown(422, &body.to_string()).lines().collect::<Vec<_>>(),
            [
                "VALIDATION_ERROR: task: Field required",
                "VALIDATION_ERROR: records[3].data.task: Field required",
                "VALIDATION_ERROR: Field required",
                "VALIDATION_ERROR: is wrong",
            ]
        );
    }

    #[test]
    fn credentials_come_with_advice() {
        let text = shown(401, r#"{"error_code":"UNAUTHORIZED","detail":"Invalid API key."}"#);
        assert!(text.starts_with("UNAUTHORIZED: Invalid API key.\nGive a key"), "{text}");
    }

    #[test]
    fn foreign_answers_are_shown_by_their_beginning() {
        assert_eq!(shown(502, "<html>\n  Bad"), "HTTP 502 Bad Gateway: <html> Bad");
        assert!(shown(502, &"é".repeat(500)).ends_with("é…"));
        assert_eq!(shown(500, ""), "HTTP 500 Internal Server Error: ");
        for body in ["[]", "5", "null", "{}", "{\"detail\": 5}"] {
            assert!(shown(500, body).starts_with("HTTP 500"), "{body}");
        }
    }

    #[test]
    fn the_pause_is_read_in_seconds() {
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, "7".parse().expect("a value"))]);
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, &headers, b"{}");
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(7)));
    }
}
