//! Every Prometheus metric: its name, labels and unit, once; one registry (`spec/engramia/50` §4, W-43, W-48).

use std::time::Duration;

use axum::http::Method;
use prometheus::{
    CounterVec, Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

use crate::domain::{JobOperation, JobState};
use crate::service::health::share;
use crate::store::Totals;

/// Upper bounds in seconds of the request, embedding and storage histograms: this server answers in fractions of the
/// usual five milliseconds.
const FAST: [f64; 18] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
    10.0,
];
/// Upper bounds in seconds for language models: alerts look at 30 s.
const SLOW: [f64; 12] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0];

/// The metrics of one instance.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    /// Calls of language models.
    pub llm: ModelMetrics,
    /// Whether calls of the language model are refused because its provider keeps failing.
    pub llm_circuit_open: IntGauge,
    /// Latency of embedding calls by provider.
    pub embedding_seconds: HistogramVec,
    /// Latency of storage operations by backend and operation.
    pub storage_seconds: HistogramVec,
    /// Recalls with at least one match.
    pub recall_hits: IntCounter,
    /// Recalls without a match.
    pub recall_misses: IntCounter,
    /// Jobs taken on, by operation.
    pub jobs_submitted: IntCounterVec,
    /// Jobs finished, by operation and status.
    pub jobs_completed: IntCounterVec,
    /// Jobs that wait, of all tenants.
    pub jobs_pending: IntGauge,
    /// Time from the beginning to the end of an attempt, by operation.
    pub job_seconds: HistogramVec,
    /// Time from when a job could begin until it began.
    pub job_wait_seconds: Histogram,
    /// Audit events that are in the log only, because too many came at once.
    pub audit_lost: IntCounter,
    /// Patterns removed because they were older than the retention.
    pub retention_purged: IntCounter,
    /// Jobs that wait for a compute thread.
    pub compute_queue: IntGauge,
    pattern_count: IntGauge,
    pattern_count_total: IntGauge,
    avg_eval_score: Gauge,
    ann_recall: Gauge,
    total_runs: IntGauge,
    success_rate: Gauge,
    reuse_rate: Gauge,
}

/// What is counted of language models, each attempt by itself.
pub struct ModelMetrics {
    /// Latency by provider and model.
    pub seconds: HistogramVec,
    /// Attempts by provider.
    pub calls: IntCounterVec,
    /// Tokens by provider, model and direction.
    pub tokens: IntCounterVec,
    /// Dollars by provider and model.
    pub cost: CounterVec,
    /// Failures by provider and kind.
    pub errors: IntCounterVec,
}

/// Builds and registers one metric.
macro_rules! metric {
    ($registry:expr, $made:expr) => {{
        let metric = $made?;
        $registry.register(Box::new(metric.clone()))?;
        metric
    }};
}

impl Metrics {
    /// A fresh registry with every metric.
    ///
    /// # Errors
    /// When two metrics have one name.
    pub fn new() -> prometheus::Result<Self> {
        let r = Registry::new();
        let seconds = |name: &str, help: &str, buckets: &[f64], labels: &[&str]| {
            HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        #[cfg(target_os = "linux")]
        r.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self {
            requests: metric!(
                r,
                counters("engramia_requests_total", "HTTP requests", &["method", "path", "status_code"])
            ),
            request_seconds: metric!(
                r,
                seconds(
                    "engramia_request_duration_seconds",
                    "HTTP request latency",
                    &FAST,
                    &["method", "path", "status_code"]
                )
            ),
            llm: ModelMetrics {
                seconds: metric!(
                    r,
                    seconds("engramia_llm_call_duration_seconds", "LLM call latency", &SLOW, &["provider", "model"])
                ),
                calls: metric!(r, counters("engramia_llm_calls_total", "LLM calls, each attempt", &["provider"])),
                tokens: metric!(
                    r,
                    counters("engramia_llm_tokens_total", "LLM tokens", &["provider", "model", "direction"])
                ),
                cost: metric!(
                    r,
                    CounterVec::new(
                        Opts::new("engramia_llm_cost_usd_total", "Cost of LLM calls by the price table, in dollars"),
                        &["provider", "model"]
                    )
                ),
                errors: metric!(r, counters("engramia_llm_errors_total", "Failed LLM calls", &["provider", "kind"])),
            },
            llm_circuit_open: metric!(
                r,
                IntGauge::new("engramia_llm_circuit_open", "1 while LLM calls are refused because the provider fails")
            ),
            embedding_seconds: metric!(
                r,
                seconds("engramia_embedding_duration_seconds", "Embedding latency", &FAST, &["provider"])
            ),
            storage_seconds: metric!(
                r,
                seconds(
                    "engramia_storage_op_duration_seconds",
                    "Storage operation latency",
                    &FAST,
                    &["backend", "operation"]
                )
            ),
            recall_hits: metric!(r, IntCounter::new("engramia_recall_hits_total", "Recalls with a match")),
            recall_misses: metric!(r, IntCounter::new("engramia_recall_misses_total", "Recalls without a match")),
            jobs_submitted: metric!(
                r,
                counters("engramia_jobs_submitted_total", "Async jobs submitted", &["operation"])
            ),
            jobs_completed: metric!(
                r,
                counters("engramia_jobs_completed_total", "Async jobs finished", &["operation", "status"])
            ),
            jobs_pending: metric!(r, IntGauge::new("engramia_jobs_pending", "Async jobs that wait")),
            job_seconds: metric!(
                r,
                seconds("engramia_job_duration_seconds", "Time of one attempt of an async job", &SLOW, &["operation"])
            ),
            job_wait_seconds: metric!(
                r,
                Histogram::with_opts(
                    HistogramOpts::new("engramia_job_wait_seconds", "Time async jobs wait for a worker")
                        .buckets(FAST.to_vec())
                )
            ),
            audit_lost: metric!(
                r,
                IntCounter::new("engramia_audit_events_lost_total", "Audit events that are in the log only")
            ),
            retention_purged: metric!(
                r,
                IntCounter::new("engramia_retention_purged_total", "Patterns removed because of their age")
            ),
            compute_queue: metric!(
                r,
                IntGauge::new("engramia_compute_queue_jobs", "Jobs waiting for a compute thread")
            ),
            pattern_count: metric!(r, IntGauge::new("engramia_pattern_count", "Stored patterns")),
            pattern_count_total: metric!(r, IntGauge::new("engramia_pattern_count_total", "Stored patterns")),
            avg_eval_score: metric!(r, Gauge::new("engramia_avg_eval_score", "Rolling average eval score, 0 to 10")),
            ann_recall: metric!(
                r,
                Gauge::new(
                    "engramia_ann_recall",
                    "Recall of the worst approximate index; 1 where every search is exact"
                )
            ),
            total_runs: metric!(r, IntGauge::new("engramia_total_runs", "Calls of learn")),
            success_rate: metric!(r, Gauge::new("engramia_success_rate", "Share of successful runs, 0 to 1")),
            reuse_rate: metric!(r, Gauge::new("engramia_reuse_rate", "Share of recalls with matches, 0 to 1")),
            registry: r,
        })
    }

    /// Counts one request.
    pub fn request(&self, method: &Method, route: &str, status: u16, elapsed: Duration) {
        let status = status.to_string();
        let labels = [method.as_str(), route, &status];
        self.requests.with_label_values(&labels).inc();
        self.request_seconds.with_label_values(&labels).observe(elapsed.as_secs_f64());
    }

    /// Counts one recall.
    pub fn recall(&self, hit: bool) {
        if hit { self.recall_hits.inc() } else { self.recall_misses.inc() }
    }

    /// Counts a job that came to its end.
    pub fn job_ended(&self, operation: JobOperation, state: JobState) {
        self.jobs_completed.with_label_values(&[operation.as_str(), state.as_str()]).inc();
    }

    /// Sets the instance-wide gauges.
    pub fn set_totals(&self, totals: &Totals) {
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.pattern_count.set(count(totals.patterns));
        self.pattern_count_total.set(count(totals.patterns));
        self.total_runs.set(count(totals.runs));
        self.avg_eval_score.set(totals.average_score.unwrap_or(0.0));
        self.ann_recall.set(totals.ann_recall.unwrap_or(1.0));
        self.success_rate.set(share(totals.successes, totals.runs));
        self.reuse_rate.set(share(totals.recall_hits, totals.recalls));
    }

    /// The text format 0.0.4.
    ///
    /// # Errors
    /// When a metric cannot be rendered.
    pub fn render(&self) -> prometheus::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}
