//! Wrappers that time what they pass on: embedders, language models, units of work.

use std::sync::Arc;

use async_trait::async_trait;
use prometheus::{Counter, Histogram, HistogramVec, IntCounter, IntCounterVec};

use crate::domain::spend::Price;
use crate::domain::tier::Calibration;
use crate::domain::{PatternId, Scope, Timestamp};
use crate::ports::{Attempt, Completion, Embedder, LanguageModel, ModelError, Priority, Prompt, Space, Vector};
use crate::store::{
    Analytics, ApiKeys, Audits, Billing, Copying, Erasure, Erasures, Feedbacks, Inventory, JobQueue, Jobs, Keys,
    Patterns, PaymentFeed, PaymentLedger, Projects, Repeatable, Result, Retentions, Skills, Spend, Statistics, Store,
    SubjectRequests, Sweep, Totals, Unembedded, Work,
};
use crate::telemetry::metrics::ModelMetrics;

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
        self.inner.embed(texts, priority).await
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
        let outcome = self.inner.ask(prompt).await;
        timer.observe_duration();
        self.calls.inc();
        match &outcome {
            Ok(completion) => {
                let usage = completion.usage.unwrap_or_default();
                self.prompt_tokens.inc_by(usage.prompt_tokens);
                self.completion_tokens.inc_by(usage.completion_tokens);
                if let Some((price, cost)) = &self.cost {
                    cost.inc_by(price.of(usage).usd().max(0.0));
                }
            }
            Err(attempt) => self.errors.with_label_values(&[self.inner.provider(), attempt.kind.as_str()]).inc(),
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

struct TimedStore {
    inner: Arc<dyn Store>,
    load: Histogram,
    save: Histogram,
}

struct TimedWork {
    inner: Box<dyn Work>,
    /// Observes when it is dropped.
    _timer: prometheus::HistogramTimer,
}

#[async_trait]
impl Store for TimedStore {
    async fn read(&self, scope: &Scope) -> Result<Box<dyn Work>> {
        let timer = self.load.start_timer();
        Ok(Box::new(TimedWork { inner: self.inner.read(scope).await?, _timer: timer }))
    }
    async fn begin(&self, scope: &Scope) -> Result<Box<dyn Work>> {
        let timer = self.save.start_timer();
        Ok(Box::new(TimedWork { inner: self.inner.begin(scope).await?, _timer: timer }))
    }
    async fn erase(&self, scope: &Scope) -> Result<Box<dyn Work>> {
        let timer = self.save.start_timer();
        Ok(Box::new(TimedWork { inner: self.inner.erase(scope).await?, _timer: timer }))
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
