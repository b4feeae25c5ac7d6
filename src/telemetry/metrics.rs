//! Every Prometheus metric: its name, labels and unit, once; one registry (`spec/engramia/50` §4, W-43, W-48).

use std::time::Duration;

use axum::http::Method;
use prometheus::{
    CounterVec, Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::domain::{JobOperation, JobState};
use crate::service::ServiceError;
use crate::service::health::share;
use crate::service::instance::Seen;
use crate::store::PoolUse;

/// Upper bounds in seconds of the request, embedding and storage histograms: this server answers in fractions of the
/// usual five milliseconds; an alert looks at 5 s, and requests that ask a language model take longer than that.
const FAST: [f64; 20] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0,
];
/// Upper bounds in seconds for language models and jobs: alerts look at 30 s, and of jobs at 120 s.
const SLOW: [f64; 14] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0, 600.0];
/// Of an event with a wrong signature or body.
const REFUSED: &str = "refused";
/// Of an event that we failed to take.
const FAILED: &str = "failed";

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
    /// Jobs that came to a bad end, by operation.
    jobs_failed: IntCounterVec,
    /// Time from the beginning to the end of an attempt, by operation.
    pub job_seconds: HistogramVec,
    /// Time from when a job could begin until it began.
    pub job_wait_seconds: Histogram,
    /// Audit events that are in the log only, because too many came at once.
    pub audit_lost: IntCounter,
    /// Patterns removed because they were older than the retention.
    pub retention_purged: IntCounter,
    /// When the newest backup was complete, by the clock; 0 where this server knows of none.
    pub backup_last_success: IntGauge,
    /// Backups that failed.
    pub backup_failures: IntCounter,
    /// Jobs that wait for a compute thread.
    pub compute_queue: IntGauge,
    notice_errors: IntCounterVec,
    store: StoreMetrics,
}

/// What the store says. Without labels, but as vectors: a gauge whose value is not known is not there at all.
struct StoreMetrics {
    up: IntGauge,
    pattern_count: IntGaugeVec,
    pattern_count_total: IntGaugeVec,
    avg_eval_score: GaugeVec,
    scored_projects: IntGaugeVec,
    ann_recall: GaugeVec,
    total_runs: IntGaugeVec,
    success_rate: GaugeVec,
    reuse_rate: GaugeVec,
    job_queue_depth: IntGaugeVec,
    pool_checked_out: IntGaugeVec,
    pool_size: IntGaugeVec,
    pool_overflow: IntGaugeVec,
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
        let metrics = Self {
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
            jobs_failed: metric!(
                r,
                counters("engramia_job_failed_total", "Async jobs that failed or took too long", &["operation"])
            ),
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
            backup_last_success: metric!(
                r,
                IntGauge::new(
                    "engramia_backup_last_success_timestamp_seconds",
                    "When the newest scheduled backup was made; 0 where this server knows of none"
                )
            ),
            backup_failures: metric!(
                r,
                IntCounter::new("engramia_backup_failures_total", "Scheduled backups that failed")
            ),
            compute_queue: metric!(
                r,
                IntGauge::new("engramia_compute_queue_jobs", "Jobs waiting for a compute thread")
            ),
            notice_errors: metric!(
                r,
                counters("engramia_stripe_webhook_errors_total", "Events of Stripe that were not taken", &["kind"])
            ),
            store: StoreMetrics::new(&r)?,
            registry: r,
        };
        metrics.begin_at_zero();
        Ok(metrics)
    }

    /// A counter that comes into being with its first event cannot be seen to grow: those that alerts look at are there
    /// from the start.
    fn begin_at_zero(&self) {
        for operation in JobOperation::WORDS {
            self.jobs_submitted.with_label_values(&[operation]);
            self.jobs_failed.with_label_values(&[operation]);
        }
        for kind in [REFUSED, FAILED] {
            self.notice_errors.with_label_values(&[kind]);
        }
    }

    /// Counts one request.
    pub fn request(&self, method: &Method, route: &str, status: u16, elapsed: Duration) {
        let status = status.to_string();
        let labels = [label(method), route, &status];
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
        if matches!(state, JobState::Failed | JobState::Expired) {
            self.jobs_failed.with_label_values(&[operation.as_str()]).inc();
        }
    }

    /// Counts an event of the payment service that was not taken.
    pub fn notice_not_taken(&self, error: &ServiceError) {
        let kind = match error {
            // Nobody takes payments here: whoever sends events is not the payment service.
            ServiceError::NoPayments => return,
            ServiceError::InvalidNotice(_) => REFUSED,
            _ => FAILED,
        };
        self.notice_errors.with_label_values(&[kind]).inc();
    }

    /// Sets the instance-wide gauges; `None` where the store does not answer.
    pub fn set_seen(&self, seen: Option<&Seen>) {
        self.store.set(seen);
    }

    /// Sets the gauges of the connections; `None` for a store without a pool that requests share.
    pub fn set_pool(&self, pool: Option<PoolUse>) {
        let Some(pool) = pool else { return };
        let store = &self.store;
        put(&store.pool_checked_out, pool.checked_out.into());
        put(&store.pool_size, pool.size.into());
        put(&store.pool_overflow, pool.waiting);
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

impl StoreMetrics {
    fn new(r: &Registry) -> prometheus::Result<Self> {
        let whole = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &[]);
        let real = |name: &str, help: &str| GaugeVec::new(Opts::new(name, help), &[]);
        Ok(Self {
            up: metric!(r, IntGauge::new("engramia_store_up", "1 while the store answers")),
            pattern_count: metric!(r, whole("engramia_pattern_count", "Stored patterns")),
            pattern_count_total: metric!(r, whole("engramia_pattern_count_total", "Stored patterns")),
            avg_eval_score: metric!(r, real("engramia_avg_eval_score", "Rolling average eval score, 0 to 10")),
            scored_projects: metric!(r, whole("engramia_scored_projects", "Projects that have eval scores")),
            ann_recall: metric!(
                r,
                real("engramia_ann_recall", "Recall of the worst approximate index; 1 where every search is exact")
            ),
            total_runs: metric!(r, whole("engramia_total_runs", "Calls of learn")),
            success_rate: metric!(r, real("engramia_success_rate", "Share of successful runs, 0 to 1")),
            reuse_rate: metric!(r, real("engramia_reuse_rate", "Share of recalls with matches, 0 to 1")),
            job_queue_depth: metric!(r, whole("engramia_job_queue_depth", "Async jobs that wait, counted to 10000")),
            pool_checked_out: metric!(r, whole("engramia_db_pool_checked_out", "Database connections in use")),
            pool_size: metric!(r, whole("engramia_db_pool_size", "Most database connections")),
            pool_overflow: metric!(
                r,
                whole(
                    "engramia_db_pool_overflow",
                    "Units of work that wait because all database connections are in use"
                )
            ),
        })
    }

    fn set(&self, seen: Option<&Seen>) {
        self.up.set(seen.is_some().into());
        let Some(Seen { totals, waiting }) = seen else { return self.forget() };
        put(&self.pattern_count, totals.patterns);
        put(&self.pattern_count_total, totals.patterns);
        put(&self.total_runs, totals.runs);
        put(&self.scored_projects, totals.scored);
        put(&self.job_queue_depth, *waiting);
        for (gauge, value) in [
            (&self.avg_eval_score, totals.average_score.unwrap_or(0.0)),
            (&self.ann_recall, totals.ann_recall.unwrap_or(1.0)),
            (&self.success_rate, share(totals.successes, totals.runs)),
            (&self.reuse_rate, share(totals.recall_hits, totals.recalls)),
        ] {
            gauge.with_label_values::<&str>(&[]).set(value);
        }
    }

    /// An old value would look like a new one.
    fn forget(&self) {
        for gauge in [
            &self.pattern_count,
            &self.pattern_count_total,
            &self.total_runs,
            &self.scored_projects,
            &self.job_queue_depth,
        ] {
            gauge.reset();
        }
        for gauge in [&self.avg_eval_score, &self.ann_recall, &self.success_rate, &self.reuse_rate] {
            gauge.reset();
        }
    }
}

fn put(gauge: &IntGaugeVec, value: u64) {
    gauge.with_label_values::<&str>(&[]).set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// A client may invent methods; they are one label.
fn label(method: &Method) -> &str {
    match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" | "TRACE" | "CONNECT") => known,
        _ => "OTHER",
    }
}
