//! What stands in a line of the log. Every text in it is redacted, bounded, and unable to begin another line.

use std::borrow::Cow;
use std::fmt::{self, Write};

use serde_json::{Map, Value, json};
use tracing::Level;
use tracing::field::{Field, Visit};

use crate::redaction::redact;

/// Longest text in a line, in bytes; whoever wants more of it finds it where it came from. Docker cuts lines at 16 KiB.
const LONGEST: usize = 4 << 10;
/// How much of a text is looked at: a secret at its border is redacted as a whole.
const READ: usize = 2 * LONGEST;
/// Field that holds the text of an event.
const MESSAGE: &str = "message";
/// Address of a caller in an audit line, which is there to tell who it was.
const AUDIT: (&str, &str) = ("engramia::audit", "ip");

/// Fields that hold ids: whoever looks for one must find it, though a long number looks like a secret.
const IDS: [&str; 5] = ["trace_id", "span_id", "request_id", "tenant_id", "project_id"];
/// How the line of a request ends.
const REQUEST_ID: &str = "request_id=";

/// Fields of a span or an event, in their order, as they came: most of them are never written.
#[derive(Default)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn insert(&mut self, name: &'static str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// Takes over other fields, which outrank these.
    pub(super) fn take(&mut self, others: Self) {
        for (name, value) in others.0 {
            self.insert(name, value);
        }
    }

    /// Sets the text.
    pub(super) fn message(&mut self, text: String) {
        self.insert(MESSAGE, Value::String(text));
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).and_then(|(_, value)| value.as_str())
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field.name(), json!(value));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field.name(), json!(value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field.name(), json!(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field.name(), json!(value));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field.name(), Value::String(front(value, READ).to_owned()));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Bounded(String::new());
        // An error says that the rest is left out.
        let _ = write!(text, "{value:?}");
        self.insert(field.name(), Value::String(text.0));
    }
}

/// Takes no more than is looked at.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_str(front(text, READ - self.0.len()));
        if self.0.len() + 4 > READ { Err(fmt::Error) } else { Ok(()) }
    }
}

/// At most so many bytes of the front of a text.
fn front(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// A text as it may be shown.
fn clean(text: &str) -> String {
    let redacted = redact(front(text, READ)).text;
    let mut kept = front(&redacted, LONGEST).to_owned();
    if kept.len() < redacted.len() {
        kept.push('…');
    }
    kept
}

/// Whether a text is a number in hexadecimal digits, as programs make ids.
pub(in crate::telemetry) fn is_plain_id(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// An event, and everything around it.
pub(super) struct Line<'a> {
    time: &'a str,
    level: Level,
    target: &'a str,
    /// From the outermost to the innermost span, each with its name.
    spans: Vec<(&'static str, Vec<(&'static str, Value)>)>,
    trace: Option<(String, String)>,
    /// What the event itself says.
    pub(super) fields: Fields,
}

impl<'a> Line<'a> {
    /// An event of this time, level and module.
    pub(super) fn new(time: &'a str, level: Level, target: &'a str) -> Self {
        Self { time, level, target, spans: Vec::new(), trace: None, fields: Fields::default() }
    }

    /// It happened inside this span.
    pub(super) fn inside(&mut self, span: &'static str, fields: &Fields) {
        self.spans.push((span, fields.0.clone()));
    }

    /// It happened in this trace and this span of it.
    pub(super) fn of_trace(&mut self, ids: Option<(String, String)>) {
        self.trace = ids;
    }

    /// Fields of the event but its text. What the bridge from the `log` crate adds is left out.
    fn own(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let own = self.fields.0.iter().filter(|(name, _)| *name != MESSAGE && !name.starts_with("log."));
        own.map(|(name, value)| (*name, self.shown(name, value)))
    }

    fn shown(&self, name: &str, value: &Value) -> Value {
        match value {
            Value::String(text) if (self.target, name) == AUDIT || IDS.contains(&name) && is_plain_id(text) => {
                Value::String(front(text, LONGEST).to_owned())
            }
            Value::String(text) => Value::String(clean(text)),
            other => other.clone(),
        }
    }

    fn message(&self) -> String {
        let text = self.fields.text(MESSAGE).unwrap_or_default();
        match text.rsplit_once(REQUEST_ID) {
            Some((front, id)) if is_plain_id(id) => format!("{}{REQUEST_ID}{id}", clean(front)),
            _ => clean(text),
        }
    }

    /// One JSON object. Inner fields outrank outer ones of the same name, and the fixed ones everything.
    pub(super) fn json(&self) -> String {
        let mut line = Map::new();
        for (name, value) in self.spans.iter().flat_map(|(_, fields)| fields) {
            line.insert((*name).to_owned(), self.shown(name, value));
        }
        if let Some((trace, span)) = &self.trace {
            line.insert("trace_id".into(), json!(trace));
            line.insert("span_id".into(), json!(span));
        }
        line.extend(self.own().map(|(name, value)| (name.to_owned(), value)));
        line.insert("timestamp".into(), json!(self.time));
        line.insert("level".into(), json!(self.level_name()));
        line.insert("logger".into(), json!(self.fields.text("log.target").unwrap_or(self.target)));
        line.insert(MESSAGE.into(), json!(self.message()));
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        text
    }

    /// One line for people.
    pub(super) fn text(&self, colours: bool) -> String {
        let mut text = String::new();
        let level = self.level;
        if colours {
            let colour = match level {
                Level::ERROR => 31,
                Level::WARN => 33,
                Level::INFO => 32,
                Level::DEBUG | Level::TRACE => 34,
            };
            text += &format!("\u{1b}[2m{}\u{1b}[0m \u{1b}[{colour}m{level:>5}\u{1b}[0m ", self.time);
        } else {
            text += &format!("{} {level:>5} ", self.time);
        }
        for (at, (name, fields)) in self.spans.iter().enumerate() {
            let mut fields: Vec<_> = fields.iter().map(|(name, value)| pair(name, &self.shown(name, value))).collect();
            // Once is enough: the ids are those of the innermost span.
            if let Some((trace, span)) = self.trace.as_ref().filter(|_| at + 1 == self.spans.len()) {
                fields.push(format!("trace_id={trace} span_id={span}"));
            }
            text += &format!("{name}{{{}}}: ", fields.join(" "));
        }
        text += &on_one_line(&self.message());
        for (name, value) in self.own() {
            text.push(' ');
            text += &pair(name, &value);
        }
        text.push('\n');
        text
    }

    /// Levels as the guide names them.
    fn level_name(&self) -> &'static str {
        match self.level {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        }
    }
}

fn pair(name: &str, value: &Value) -> String {
    match value.as_str() {
        Some(text) if !text.is_empty() && !text.contains([' ', '"', '=']) => format!("{name}={}", on_one_line(text)),
        Some(text) => format!("{name}={text:?}"),
        None => format!("{name}={value}"),
    }
}

/// Without characters that begin a line or steer a terminal.
fn on_one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() });
    Cow::Owned(escaped.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(target: &'a str, fields: &[(&'static str, Value)]) -> Line<'a> {
        let mut line = Line::new("2026-01-02T03:04:05.678Z", Level::WARN, target);
        fields.iter().for_each(|(name, value)| line.fields.insert(name, value.clone()));
        line
    }

    fn parsed(line: &Line<'_>) -> Value {
        serde_json::from_str(&line.json()).expect("JSON")
    }

    #[test]
    fn a_line_has_the_fields_of_the_guide() {
        let mut line = line("engramia::x", &[("message", json!("it is so")), ("count", json!(3))]);
        line.inside("request", &Fields(vec![("request_id", json!("r-1")), ("tenant_id", json!("acme"))]));
        line.of_trace(Some(("a".into(), "b".into())));
        assert_eq!(
            parsed(&line),
            json!({
                "timestamp": "2026-01-02T03:04:05.678Z", "level": "WARNING", "logger": "engramia::x",
                "message": "it is so", "count": 3, "request_id": "r-1", "tenant_id": "acme",
                "trace_id": "a", "span_id": "b",
            })
        );
        assert_eq!(
            line.text(false),
            "2026-01-02T03:04:05.678Z  WARN request{request_id=r-1 tenant_id=acme trace_id=a span_id=b}: it is so \
             count=3\n"
        );
    }

    #[test]
    fn secrets_and_line_breaks_stand_in_neither_format() {
        let text = "sent by jane.doe@example.org\n2026-01-01 forged\u{1b}[31m";
        let line = line("x", &[("message", json!(text)), ("error", json!(text))]);
        let (json, plain) = (line.json(), line.text(false));
        for shown in [&json, &plain] {
            assert!(!shown.contains("jane.doe") && shown.contains("[REDACTED_EMAIL]"), "{shown}");
            assert_eq!((shown.matches('\n').count(), shown.contains('\u{1b}')), (1, false), "{shown}");
        }
        assert!(parsed(&line)["message"].as_str().is_some_and(|text| text.contains('\n')));
    }

    #[test]
    fn long_texts_are_cut_after_redaction() {
        let border = format!("{}jane.doe@example.org{}", "x ".repeat(LONGEST / 2 - 4), " y".repeat(READ));
        let shown = parsed(&line("x", &[("message", json!(border))]))["message"].as_str().map(str::to_owned);
        let shown = shown.expect("a text");
        assert!(shown.len() <= LONGEST + 3 && shown.ends_with('…') && !shown.contains("jane"), "{}", shown.len());
        let mut bounded = Bounded(String::new());
        assert!(write!(bounded, "{}", "é".repeat(READ)).is_err());
        assert!(bounded.0.len() <= READ);
    }

    #[test]
    fn ids_can_be_found_and_nothing_hides_among_them() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let fields = [
            ("message", json!(format!("GET /v1/keys/{id} 404 1.0ms request_id={id}"))),
            ("request_id", json!(id)),
            ("tenant_id", json!("jane.doe@example.org")),
        ];
        let shown = parsed(&line("x", &fields));
        assert_eq!(shown["request_id"], id);
        assert_eq!(shown["tenant_id"], "[REDACTED_EMAIL]");
        let message = shown["message"].as_str().expect("a text");
        assert!(message.ends_with(&format!("request_id={id}")) && message.matches(id).count() == 1, "{message}");
    }

    #[test]
    fn the_address_of_an_audit_line_is_kept_and_no_other() {
        let fields = [("message", json!("AUDIT")), ("ip", json!("203.0.113.9")), ("reason", json!("from 203.0.113.9"))];
        let audit = parsed(&line("engramia::audit", &fields));
        assert_eq!((&audit["ip"], &audit["reason"]), (&json!("203.0.113.9"), &json!("from [REDACTED_IP]")));
        assert_eq!(parsed(&line("engramia::other", &fields))["ip"], "[REDACTED_IP]");
    }
}
