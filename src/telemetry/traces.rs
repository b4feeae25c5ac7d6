//! Traces: spans of requests, use cases, models and the store, sent to a collector over OTLP (`docs/tracing.md`).
//!
//! Every span of a trace has the target [`SPANS`]: where traces are off, no subscriber wants it and none is made. Spans
//! are batched and sent in the background; a collector that is slow or away costs spans, never a request. They carry no
//! task, code, prompt or key, and every text in them is redacted before it leaves.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use http::{HeaderMap, Method};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, Status, TraceContextExt, TracerProvider};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter as ExportsSpans,
};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use super::logs::is_plain_id;
use crate::config::{self, Transport};
use crate::redaction::redact;

/// Target of every span of a trace. Attributes of functions elsewhere repeat it.
pub const SPANS: &str = "engramia::spans";

/// Spans that may wait to be sent; what comes while they do is dropped.
const QUEUE: usize = 8_192;
/// Spans of one message.
const BATCH: usize = 512;
/// Longest time a span waits for others.
const DELAY: Duration = Duration::from_secs(2);
/// Longest time of one message, repetitions included.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the end waits for what is still to be sent.
const FAREWELL: Duration = Duration::from_secs(5);
/// A collector that keeps failing is named in the log this often.
const REMIND: Duration = Duration::from_secs(300);
/// What is asked again and again by machines, and says nothing.
const PROBES: [&str; 6] = ["/livez", "/readyz", "/metrics", "/metrics/", "/v1/health", "/v1/health/deep"];

/// Traces that are switched on.
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Starts to send. Nothing is connected before the first span; to be called inside the runtime.
    ///
    /// # Errors
    /// When the address cannot be used or TLS cannot be set up.
    pub fn start(settings: &config::Traces) -> anyhow::Result<Self> {
        let exporter = exporter(settings).context("ENGRAMIA_OTEL_ENDPOINT")?;
        let sender = Sender { exporter: Arc::new(exporter), runtime: Handle::current(), health: Health::default() };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY);
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.name", settings.service_name.clone()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()),
        ]);
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sampled)));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(sender).with_batch_config(batches.build()).build())
            .with_resource(resource.build())
            .with_sampler(sampler)
            .build();
        Ok(Self { provider })
    }

    /// The part of the subscriber that turns spans into those of a trace.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("engramia"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            // Only spans of ours make a trace: nobody asks for a context of the thread.
            .with_context_activation(false)
            .with_filter(filter_fn(|metadata| metadata.target() == SPANS))
    }

    /// Sends what is left, as far as the collector takes it in time.
    pub async fn finish(self) {
        let ended = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(FAREWELL)).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last spans are not sent");
        }
    }
}

fn exporter(settings: &config::Traces) -> anyhow::Result<SpanExporter> {
    let config::Traces { endpoint, transport, .. } = settings;
    Ok(match transport {
        Transport::Grpc => {
            let builder = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(PATIENCE);
            if endpoint.starts_with("https://") {
                builder.with_tls_config(ClientTlsConfig::new().with_enabled_roots()).build()?
            } else {
                builder.build()?
            }
        }
        Transport::Http => {
            // A collector has one path for traces; an address with a path of its own is taken as it is.
            let has_path = endpoint.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
            let endpoint = if has_path { endpoint.clone() } else { format!("{endpoint}/v1/traces") };
            SpanExporter::builder().with_http().with_endpoint(endpoint).with_timeout(PATIENCE).build()?
        }
    })
}

/// Sends batches: redacted, on the runtime, in bounded time.
#[derive(Debug)]
struct Sender {
    exporter: Arc<SpanExporter>,
    runtime: Handle,
    health: Health,
}

impl ExportsSpans for Sender {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        batch.iter_mut().for_each(clean);
        let exporter = Arc::clone(&self.exporter);
        // This thread belongs to no runtime, and the transports need one.
        let sending = async move { tokio::time::timeout(PATIENCE, exporter.export(batch)).await };
        let outcome = match self.runtime.spawn(sending).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_elapsed)) => Err(OTelSdkError::Timeout(PATIENCE)),
            Err(error) => Err(OTelSdkError::InternalFailure(error.to_string())),
        };
        self.health.note(&outcome);
        outcome
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Nothing is sent before it is known, so nobody else holds the exporter.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}

/// What the log was told of the collector.
#[derive(Debug, Default)]
struct Health {
    /// When it was told that spans are lost, and whether that is what it was told last.
    told: Mutex<Option<(Instant, bool)>>,
}

impl Health {
    fn note(&self, outcome: &OTelSdkResult) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match (outcome, *told) {
            (Err(_), Some((at, _))) if at.elapsed() < REMIND => {}
            (Err(error), _) => {
                tracing::warn!(%error, "spans are lost: the collector of traces does not take them");
                *told = Some((Instant::now(), true));
            }
            (Ok(()), Some((at, true))) => {
                tracing::info!("the collector of traces takes spans again");
                *told = Some((at, false));
            }
            (Ok(()), _) => {}
        }
    }
}

/// Redacts every text of a span that is not written in this program.
fn clean(span: &mut SpanData) {
    span.attributes.iter_mut().for_each(clean_value);
    for event in &mut span.events.events {
        event.attributes.iter_mut().for_each(clean_value);
    }
    if let Status::Error { description } = &mut span.status {
        *description = redact(description).text.into_owned().into();
    }
}

fn clean_value(attribute: &mut KeyValue) {
    // As in the log: ids must be found.
    let is_id = matches!(attribute.key.as_str(), "engramia.request_id" | "engramia.tenant_id" | "engramia.project_id");
    let cleaned = |text: &StringValue| StringValue::from(redact(text.as_str()).text.into_owned());
    match &mut attribute.value {
        Value::String(text) if is_id && is_plain_id(text.as_str()) => {}
        Value::String(text) => *text = cleaned(text),
        Value::Array(Array::String(texts)) => texts.iter_mut().for_each(|text| *text = cleaned(text)),
        _ => {}
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// The trace that a request belongs to by its `traceparent`; one that is malformed counts as none.
fn remote(headers: &HeaderMap) -> Option<Context> {
    headers.get("traceparent")?;
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
    context.span().span_context().is_valid().then_some(context)
}

/// Ids of the trace and the span that a request belongs to by its `traceparent`, for the log.
pub fn remote_ids(headers: &HeaderMap) -> Option<(String, String)> {
    let context = remote(headers)?;
    let ids = |span: &SpanContext| (span.trace_id().to_string(), span.span_id().to_string());
    Some(ids(context.span().span_context()))
}

/// The span of a request, named by its method and route; none for probes, and where traces are off. It is a child of the
/// span that the request names.
pub fn server_span(method: &Method, route: Option<&str>, request_id: &str, headers: &HeaderMap) -> Span {
    if route.is_some_and(|route| PROBES.contains(&route)) {
        return Span::none();
    }
    let method = match method.as_str() {
        "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => method.as_str(),
        _ => "_OTHER",
    };
    let empty = tracing::field::Empty;
    let span = tracing::info_span!(
        target: SPANS,
        "http.server",
        otel.name = %route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}")),
        otel.kind = "server",
        otel.status_code = empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = empty,
        "error.type" = empty,
        engramia.request_id = request_id,
        engramia.tenant_id = empty,
        engramia.project_id = empty,
        engramia.duration_ms = empty,
    );
    if !span.is_disabled()
        && let Some(parent) = remote(headers)
        && let Err(error) = span.set_parent(parent)
    {
        tracing::debug!(%error, "a request does not join its caller's trace");
    }
    span
}

/// Whose request it is.
pub fn identified(span: &Span, tenant: &str, project: &str) {
    if !span.is_disabled() {
        span.record("engramia.tenant_id", tenant);
        span.record("engramia.project_id", project);
    }
}

/// How a request ended. What the server is to blame for is an error.
pub fn answered(span: &Span, status: u16, elapsed: Duration) {
    if span.is_disabled() {
        return;
    }
    span.record("http.response.status_code", i64::from(status));
    span.record("engramia.duration_ms", elapsed.as_secs_f64() * 1e3);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", status.to_string());
    }
}
