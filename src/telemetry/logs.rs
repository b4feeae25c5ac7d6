//! Log output: text for people, or one JSON object a line with the guide's fields (`spec/engramia/50` §2).
//!
//! | file | purpose |
//! |---|---|
//! | `line.rs` | what stands in a line, redacted and bounded |
//! | `output.rs` | how a line gets to standard error |

mod line;
mod output;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{IsTerminal, stderr};

use chrono::SecondsFormat;
use opentelemetry::trace::TraceContextExt;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

pub(super) use self::line::is_plain_id;
use self::line::{Fields, Line};
use self::output::Output;
use super::traces::{SPANS, Traces};

/// Writes what is still under way when it is dropped, for a moment only.
#[must_use]
pub struct Logging {
    output: Output,
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.output.flush();
    }
}

/// Starts logging to standard error for a command, whose lines are written at once.
///
/// # Errors
/// When the filter cannot be read.
pub fn start(json: bool, filter: &str) -> anyhow::Result<()> {
    let lines = Lines { form: Form::new(json), traced: false, output: Output::Direct };
    Ok(tracing_subscriber::registry().with(filter_of(filter)?).with(lines).try_init()?)
}

/// Starts logging to standard error for a server, which no slow reader of its log may hold up, and tracing if there is
/// any. Panics are logged, too.
///
/// # Errors
/// When the filter cannot be read or no thread can be started.
pub fn serve(json: bool, filter: &str, traces: Option<&Traces>) -> anyhow::Result<Logging> {
    let (filter, form) = (filter_of(filter)?, Form::new(json));
    let output = Output::queued(move |lost| {
        let time = now();
        let mut notice = Line::new(&time, Level::WARN, module_path!());
        notice.fields.message(format!("{lost} log lines are lost: whoever reads the log is too slow"));
        form.of(&notice)
    })?;
    let lines = Lines { form, traced: traces.is_some(), output: output.clone() };
    match traces {
        // One filter for everything: spans that nobody wants are not even made.
        None => tracing_subscriber::registry().with(filter).with(lines).try_init()?,
        Some(traces) => {
            tracing_subscriber::registry().with(traces.layer()).with(lines.with_filter(filter)).try_init()?;
        }
    }
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        let at = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        tracing::error!(at, thread = thread.name(), backtrace, "panic: {}", panic.payload_as_str().unwrap_or_default());
    }));
    Ok(Logging { output })
}

/// What is logged. Spans of traces are no part of the log, whatever its level.
fn filter_of(text: &str) -> anyhow::Result<EnvFilter> {
    let filter = EnvFilter::try_new(text).map_err(|error| {
        anyhow::anyhow!("ENGRAMIA_LOG: {error}; accepted: trace, debug, info, warn, error, or target=level")
    })?;
    Ok(filter.add_directive(format!("{SPANS}=off").parse()?))
}

/// The log as a part of the subscriber: remembers the fields of spans, writes a line for each event.
struct Lines {
    form: Form,
    /// Whether spans have ids in a trace.
    traced: bool,
    output: Output,
}

/// What a line looks like.
#[derive(Clone, Copy)]
struct Form {
    json: bool,
    colours: bool,
}

impl Form {
    fn new(json: bool) -> Self {
        Self { json, colours: !json && stderr().is_terminal() }
    }

    fn of(self, line: &Line<'_>) -> String {
        if self.json { line.json() } else { line.text(self.colours) }
    }
}

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        // Before the lock: a value that panics while it is shown is logged, which looks at this span.
        let mut fresh = Fields::default();
        values.record(&mut fresh);
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            fields.take(fresh);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let time = now();
        let metadata = event.metadata();
        let mut line = Line::new(&time, *metadata.level(), metadata.target());
        for span in context.event_scope(event).into_iter().flat_map(Scope::from_root) {
            if let Some(fields) = span.extensions().get::<Fields>() {
                line.inside(span.name(), fields);
            }
        }
        if self.traced {
            line.of_trace(trace_ids());
        }
        event.record(&mut line.fields);
        self.output.write(self.form.of(&line));
    }
}

/// Ids of the innermost span of a trace that runs here.
fn trace_ids() -> Option<(String, String)> {
    tracing::dispatcher::get_default(|dispatch| {
        let current = dispatch.current_span();
        let context = tracing_opentelemetry::get_otel_context(current.id()?, dispatch)?;
        let (trace, span) = {
            let span = context.span();
            (span.span_context().trace_id(), span.span_context().span_id())
        };
        Some((trace.to_string(), span.to_string()))
    })
}
