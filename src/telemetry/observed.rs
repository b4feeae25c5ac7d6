//! Wrappers that time and trace what they pass on: embedders, language models, payments, units of work.

use std::sync::Arc;

use async_trait::async_trait;
use prometheus::{Counter, Histogram, HistogramVec, IntCounter, IntCounterVec};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::domain::spend::Price;
use crate::domain::tier::Calibration;
use crate::domain::{PatternId, Scope, Timestamp};
use crate::ports::{
    Attempt, Charge, Completion, Embedder, LanguageModel, ModelError, PaymentError, Payments, Priority, Prompt,
    Purchase, Space, Trouble, Vector,
};
use crate::store::{
    Analytics, ApiKeys, Audits, Backups, Billing, Copying, Erasure, Erasures, Feedbacks, Inventory, JobQueue, Jobs,
    Keys, Patterns, PaymentFeed, PaymentLedger, PoolUse, Projects, Repeatable, Result, Retentions, Revision, Skills,
    Spend, Statistics, Store, SubjectRequests, Sweep, Totals, Unembedded, Work,
};
use crate::telemetry::metrics::ModelMetrics;
use crate::telemetry::traces::SPANS;

/// Times every call of an embedder, by provider.
pub fn embedder(inner: Arc<dyn Embedder>, seconds: &HistogramVec) -> Arc<dyn Embedder> {
    let seconds = seconds.with_label_values(&[inner.provider()]);
    Arc::new(Timed { inner, seconds })
}

/// Times every attempt of a language model, and counts its tokens, its cost and its failures.
pub fn language_model(
    inner: Arc<dyn LanguageModel>,
    metrics: &ModelMetrics,
    price: Option<Price>,
) -> Arc<dyn LanguageModel> {
    let (provider, model) = (inner.provider(), inner.model());
    // As an alert cannot see a counter grow that comes into being with its first event.
    for kind in Trouble::WORDS {
        metrics.errors.with_label_values(&[provider, kind]);
    }
    let tokens = |direction| metrics.tokens.with_label_values(&[provider, model, direction]);
    Arc::new(ObservedModel {
        seconds: metrics.seconds.with_label_values(&[provider, model]),
        calls: metrics.calls.with_label_values(&[provider]),
        prompt_tokens: tokens("prompt"),
        completion_tokens: tokens("completion"),
        // Without a price there is no cost, not a cost of nothing.
        cost: price.map(|price| (price, metrics.cost.with_label_values(&[provider, model]))),
        errors: metrics.errors.clone(),
        inner,
    })
}

/// Traces every call of the payment service.
pub fn payments(inner: Arc<dyn Payments>) -> Arc<dyn Payments> {
    Arc::new(TracedPayments { inner })
}

/// Times every unit of work, as `load` or `save`.
pub fn store(inner: Arc<dyn Store>, seconds: &HistogramVec) -> Arc<dyn Store> {
    let of = |operation| seconds.with_label_values(&[inner.name(), operation]);
    let (load, save) = (of("load"), of("save"));
    Arc::new(TimedStore { inner, load, save })
}

struct Timed<T: ?Sized> {
    seconds: Histogram,
    inner: Arc<T>,
}

#[async_trait]
impl Embedder for Timed<dyn Embedder> {
    async fn embed(&self, texts: &[&str], priority: Priority) -> Result<Vec<Vector>, ModelError> {
        let _timer = self.seconds.start_timer();
        let span = tracing::info_span!(
            target: SPANS,
            "embedding",
            otel.name = if texts.len() == 1 { "embedding.embed" } else { "embedding.embed_batch" },
            otel.status_code = Empty,
            embedding.provider = self.inner.provider(),
            embedding.texts = number(texts.len()),
        );
        let outcome = self.inner.embed(texts, priority).instrument(span.clone()).await;
        if let Err(error) = &outcome {
            failed(&span, error);
        }
        outcome
    }
    fn space(&self) -> &Space {
        self.inner.space()
    }
    fn provider(&self) -> &'static str {
        self.inner.provider()
    }
    fn calibration(&self) -> Calibration {
        self.inner.calibration()
    }
    fn batch_size(&self) -> usize {
        self.inner.batch_size()
    }
}

/// A number as spans know numbers: with a sign.
fn number(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// Records why a span failed.
fn failed(span: &Span, error: &dyn std::fmt::Display) {
    span.record("otel.status_code", "ERROR");
    span.in_scope(|| tracing::error!(target: SPANS, %error));
}

struct ObservedModel {
    seconds: Histogram,
    calls: IntCounter,
    prompt_tokens: IntCounter,
    completion_tokens: IntCounter,
    cost: Option<(Price, Counter)>,
    errors: IntCounterVec,
    inner: Arc<dyn LanguageModel>,
}

#[async_trait]
impl LanguageModel for ObservedModel {
    async fn ask(&self, prompt: &Prompt) -> Result<Completion, Attempt> {
        let timer = self.seconds.start_timer();
        let span = tracing::info_span!(
            target: SPANS,
            "llm.call",
            otel.kind = "client",
            otel.status_code = Empty,
            llm.provider = self.inner.provider(),
            llm.model = self.inner.model(),
            llm.prompt_tokens = Empty,
            llm.completion_tokens = Empty,
        );
        let outcome = self.inner.ask(prompt).instrument(span.clone()).await;
        timer.observe_duration();
        self.calls.inc();
        match &outcome {
            Ok(completion) => {
                let usage = completion.usage.unwrap_or_default();
                self.prompt_tokens.inc_by(usage.prompt_tokens);
                self.completion_tokens.inc_by(usage.completion_tokens);
                span.record("llm.prompt_tokens", number(usage.prompt_tokens));
                span.record("llm.completion_tokens", number(usage.completion_tokens));
                if let Some((price, cost)) = &self.cost {
                    cost.inc_by(price.of(usage).usd().max(0.0));
                }
            }
            Err(attempt) => {
                self.errors.with_label_values(&[self.inner.provider(), attempt.kind.as_str()]).inc();
                failed(&span, attempt);
            }
        }
        outcome
    }
    fn provider(&self) -> &'static str {
        self.inner.provider()
    }
    fn model(&self) -> &str {
        self.inner.model()
    }
}

struct TracedPayments {
    inner: Arc<dyn Payments>,
}

/// Asks the payment service for something, inside a span.
async fn asked<T>(span: Span, call: impl Future<Output = Result<T, PaymentError>>) -> Result<T, PaymentError> {
    let outcome = call.instrument(span.clone()).await;
    if let Err(error) = &outcome {
        failed(&span, error);
    }
    outcome
}

/// The span of a call of the payment service.
macro_rules! call {
    ($name:literal) => {
        tracing::info_span!(target: SPANS, $name, otel.kind = "client", otel.status_code = Empty)
    };
}

#[async_trait]
impl Payments for TracedPayments {
    async fn create_customer(&self, tenant: &str, once: &str) -> Result<String, PaymentError> {
        asked(call!("stripe.create_customer"), self.inner.create_customer(tenant, once)).await
    }
    async fn checkout(&self, purchase: &Purchase<'_>, once: &str) -> Result<String, PaymentError> {
        asked(call!("stripe.checkout"), self.inner.checkout(purchase, once)).await
    }
    async fn portal(&self, customer_id: &str, return_url: Option<&str>, once: &str) -> Result<String, PaymentError> {
        asked(call!("stripe.portal"), self.inner.portal(customer_id, return_url, once)).await
    }
    async fn charge(&self, charge: &Charge<'_>, once: &str) -> Result<String, PaymentError> {
        asked(call!("stripe.charge"), self.inner.charge(charge, once)).await
    }
    async fn ping(&self) -> Result<(), PaymentError> {
        self.inner.ping().await
    }
}

struct TimedStore {
    inner: Arc<dyn Store>,
    load: Histogram,
    save: Histogram,
}

struct TimedWork {
    inner: Box<dyn Work>,
    /// Observes when it is dropped.
    _timer: prometheus::HistogramTimer,
    /// Ends when it is dropped.
    _span: Span,
}

impl TimedStore {
    /// A unit of work with the span around it, from waiting for it to its end.
    async fn timed(
        &self,
        timer: prometheus::HistogramTimer,
        span: Span,
        opening: impl Future<Output = Result<Box<dyn Work>>> + Send,
    ) -> Result<Box<dyn Work>> {
        match opening.instrument(span.clone()).await {
            Ok(inner) => Ok(Box::new(TimedWork { inner, _timer: timer, _span: span })),
            Err(error) => {
                failed(&span, &error);
                Err(error)
            }
        }
    }
}

/// The span of a unit of work.
macro_rules! unit {
    ($name:literal, $store:expr) => {
        tracing::info_span!(target: SPANS, $name, otel.status_code = Empty, store.backend = $store.inner.name())
    };
}

#[async_trait]
impl Store for TimedStore {
    async fn read(&self, scope: &Scope) -> Result<Box<dyn Work>> {
        let span = unit!("store.load", self);
        self.timed(self.load.start_timer(), span, self.inner.read(scope)).await
    }
    async fn begin(&self, scope: &Scope) -> Result<Box<dyn Work>> {
        let span = unit!("store.save", self);
        self.timed(self.save.start_timer(), span, self.inner.begin(scope)).await
    }
    async fn erase(&self, scope: &Scope) -> Result<Box<dyn Work>> {
        let span = unit!("store.erase", self);
        self.timed(self.save.start_timer(), span, self.inner.erase(scope)).await
    }
    fn erasures(&self) -> &dyn Erasures {
        self.inner.erasures()
    }
    fn api_keys(&self) -> &dyn ApiKeys {
        self.inner.api_keys()
    }
    fn inventory(&self) -> &dyn Inventory {
        self.inner.inventory()
    }
    fn queue(&self) -> &dyn JobQueue {
        self.inner.queue()
    }
    fn payment_feed(&self) -> &dyn PaymentFeed {
        self.inner.payment_feed()
    }
    fn repeatable(&self) -> &dyn Repeatable {
        self.inner.repeatable()
    }
    fn backups(&self) -> &dyn Backups {
        self.inner.backups()
    }
    async fn scopes(&self, after: Option<&Scope>, limit: u32) -> Result<Vec<Scope>> {
        self.inner.scopes(after, limit).await
    }
    async fn audited_tenants(&self, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
        self.inner.audited_tenants(after, limit).await
    }
    async fn totals(&self) -> Result<Totals> {
        self.inner.totals().await
    }
    async fn unembedded(&self, space: &Space, after: Option<PatternId>, limit: u32) -> Result<Vec<Unembedded>> {
        self.inner.unembedded(space, after, limit).await
    }
    async fn has_mark(&self, name: &str) -> Result<bool> {
        self.inner.has_mark(name).await
    }
    async fn set_mark(&self, name: &str, now: Timestamp) -> Result<()> {
        self.inner.set_mark(name, now).await
    }
    async fn sweep(&self, sweep: &Sweep, now: Timestamp) -> Result<Vec<Scope>> {
        self.inner.sweep(sweep, now).await
    }
    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }
    fn pool(&self) -> Option<PoolUse> {
        self.inner.pool()
    }

    async fn revision(&self) -> Result<Revision> {
        self.inner.revision().await
    }
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl Work for TimedWork {
    fn patterns(&mut self) -> &mut dyn Patterns {
        self.inner.patterns()
    }
    fn skills(&mut self) -> &mut dyn Skills {
        self.inner.skills()
    }
    fn feedback(&mut self) -> &mut dyn Feedbacks {
        self.inner.feedback()
    }
    fn analytics(&mut self) -> &mut dyn Analytics {
        self.inner.analytics()
    }
    fn statistics(&mut self) -> &mut dyn Statistics {
        self.inner.statistics()
    }
    fn keys(&mut self) -> &mut dyn Keys {
        self.inner.keys()
    }
    fn projects(&mut self) -> &mut dyn Projects {
        self.inner.projects()
    }
    fn audit(&mut self) -> &mut dyn Audits {
        self.inner.audit()
    }
    fn jobs(&mut self) -> &mut dyn Jobs {
        self.inner.jobs()
    }
    fn copying(&mut self) -> &mut dyn Copying {
        self.inner.copying()
    }
    fn erasure(&mut self) -> &mut dyn Erasure {
        self.inner.erasure()
    }
    fn spend(&mut self) -> &mut dyn Spend {
        self.inner.spend()
    }
    fn payments(&mut self) -> &mut dyn PaymentLedger {
        self.inner.payments()
    }
    fn billing(&mut self) -> &mut dyn Billing {
        self.inner.billing()
    }
    fn retention(&mut self) -> &mut dyn Retentions {
        self.inner.retention()
    }
    fn subjects(&mut self) -> &mut dyn SubjectRequests {
        self.inner.subjects()
    }
    async fn commit(self: Box<Self>) -> Result<()> {
        self.inner.commit().await
    }
}
