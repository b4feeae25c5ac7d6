//! Health and statistics: constant time, whatever the size of the memory (`spec/engramia/20` §10).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Result, Services};
use crate::domain::Caller;
use crate::domain::spend::ModelRole;
use crate::ports::{Embedder, LanguageModel, Payments, Priority, Prompt};
use crate::store::{Revision, Store, StoreError};

/// Aggregate statistics of a scope.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Calls of learn.
    pub runs: u64,
    /// Share of successful runs, 3 decimals; 0 without runs.
    pub success_rate: f64,
    /// Mean of the newest ten evaluation scores; `None` without any.
    pub avg_eval_score: Option<f64>,
    /// Stored patterns.
    pub pattern_count: u64,
    /// Share of recalls with a match, 3 decimals; 0 without recalls.
    pub reuse_rate: f64,
}

impl Services {
    /// Statistics of the caller's scope.
    pub async fn summary(&self, caller: &Caller) -> Result<Summary> {
        let mut work = self.store.read(&caller.scope).await?;
        let counted = work.statistics().get().await?;
        let (recalls, hits) = self.reuse.pending_recalls(&caller.scope);
        Ok(Summary {
            runs: counted.runs,
            success_rate: share(counted.successes, counted.runs),
            avg_eval_score: counted.average_score(),
            pattern_count: counted.patterns,
            reuse_rate: share(counted.recall_hits + hits, counted.recalls + recalls),
        })
    }
}

/// A share in [0, 1] with 3 decimals; 0 of nothing is 0.
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64 * 1e3).round() / 1e3 }
}

crate::domain::words! {
    /// State of one part.
    CheckStatus { Ok = "ok", Error = "error", NotConfigured = "not_configured" }
}

/// Outcome of one probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Check {
    /// State.
    pub status: CheckStatus,
    /// Time it took, in milliseconds; `None` where nothing was probed.
    pub latency_ms: Option<f64>,
    /// What is wrong, without internals.
    pub error: Option<&'static str>,
    /// Schema of the database, where it is about that.
    pub revision: Option<Revision>,
}

impl Check {
    const NOT_CONFIGURED: Self =
        Self { status: CheckStatus::NotConfigured, latency_ms: None, error: None, revision: None };
}

/// Outcome of all probes.
#[derive(Debug, Clone, PartialEq)]
pub struct DeepHealth {
    /// `ok`, `degraded` or `error`.
    pub status: &'static str,
    /// By part.
    pub checks: Vec<(&'static str, Check)>,
}

impl DeepHealth {
    /// Storage is critical; the rest degrades. Parts that are not configured do not count.
    fn of(storage: Check, others: [(&'static str, Check); 5]) -> Self {
        let failed = |check: &Check| check.status == CheckStatus::Error;
        let status = if failed(&storage) {
            "error"
        } else if others.iter().any(|(_, check)| failed(check)) {
            "degraded"
        } else {
            "ok"
        };
        Self { status, checks: std::iter::once(("storage", storage)).chain(others).collect() }
    }
}

/// Longest time of one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Fresh probes of paid services that a caller may ask for in a row; then one each [`PROBE_INTERVAL`].
const PROBE_BURST: u32 = 10;
/// See [`PROBE_BURST`]. A poller thus costs two completions a minute, and a person sees the state of this moment.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// Probes the parts that requests depend on.
pub struct Prober {
    store: Arc<dyn Store>,
    llm: Option<Arc<dyn LanguageModel>>,
    embedder: Option<Arc<dyn Embedder>>,
    payments: Option<Arc<dyn Payments>>,
    allowance: Mutex<Allowance>,
}

struct Allowance {
    fresh: f64,
    at: tokio::time::Instant,
    /// Outcome of the last fresh probes of the model and the embedder.
    last: Option<(Check, Check)>,
}

impl Prober {
    /// A prober with its whole allowance. `embedder` is asked directly, behind any cache.
    pub fn new(
        store: Arc<dyn Store>,
        llm: Option<Arc<dyn LanguageModel>>,
        embedder: Option<Arc<dyn Embedder>>,
        payments: Option<Arc<dyn Payments>>,
    ) -> Self {
        let allowance =
            Mutex::new(Allowance { fresh: f64::from(PROBE_BURST), at: tokio::time::Instant::now(), last: None });
        Self { store, llm, embedder, payments, allowance }
    }

    /// Probes all parts side by side. Paid ones are asked as the allowance permits, else their last outcome counts.
    pub async fn probe(&self) -> DeepHealth {
        let remembered = self.take();
        let paid = async {
            let Some(outcome) = remembered else {
                let fresh = tokio::join!(self.probe_llm(), self.probe_embedder());
                self.lock().last = Some(fresh);
                return fresh;
            };
            outcome
        };
        let storage = timed("the store does not answer", self.store.ping());
        let (storage, migration, stripe, (llm, embedding)) =
            tokio::join!(storage, self.probe_schema(), self.probe_payments(), paid);
        // Nothing here uses Redis.
        let redis = Check::NOT_CONFIGURED;
        let others =
            [("llm", llm), ("embedding", embedding), ("migration", migration), ("stripe", stripe), ("redis", redis)];
        DeepHealth::of(storage, others)
    }

    /// Whether the store can serve.
    pub async fn is_ready(&self) -> bool {
        timed("", self.store.ping()).await.status == CheckStatus::Ok
    }

    async fn probe_llm(&self) -> Check {
        match &self.llm {
            Some(llm) => timed("the language model does not answer", llm.ask(&ping())).await,
            None => Check::NOT_CONFIGURED,
        }
    }

    async fn probe_embedder(&self) -> Check {
        match &self.embedder {
            Some(embedder) => {
                let probe = embedder.embed(&["health check"], Priority::Interactive);
                timed("the embedder does not answer", probe).await
            }
            None => Check::NOT_CONFIGURED,
        }
    }

    /// Whether the schema is the one that this program brings.
    async fn probe_schema(&self) -> Check {
        let mut revision = None;
        let check = timed("the schema cannot be read", async {
            revision = Some(self.store.revision().await?);
            Ok::<_, StoreError>(())
        });
        let check = check.await;
        let (status, error) = match revision {
            Some(Revision { current, expected }) if current != expected => {
                (CheckStatus::Error, Some("the schema is not the one of this program"))
            }
            _ => (check.status, check.error),
        };
        Check { status, error, revision, ..check }
    }

    async fn probe_payments(&self) -> Check {
        match &self.payments {
            Some(payments) => timed("the payment service does not answer", payments.ping()).await,
            None => Check::NOT_CONFIGURED,
        }
    }

    /// Takes one fresh probe from the allowance, or gives the last outcome.
    fn take(&self) -> Option<(Check, Check)> {
        let mut allowance = self.lock();
        let now = tokio::time::Instant::now();
        let earned = (now - allowance.at).as_secs_f64() / PROBE_INTERVAL.as_secs_f64();
        allowance.fresh = (allowance.fresh + earned).min(f64::from(PROBE_BURST));
        allowance.at = now;
        if allowance.fresh >= 1.0 {
            allowance.fresh -= 1.0;
            return None;
        }
        allowance.last
    }

    fn lock(&self) -> MutexGuard<'_, Allowance> {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The smallest question.
fn ping() -> Prompt {
    Prompt { role: ModelRole::Eval, system: String::new(), user: "ping".into(), schema: None, max_tokens: 16 }
}

async fn timed<T, E: std::error::Error>(
    wrong: &'static str,
    probe: impl Future<Output = std::result::Result<T, E>>,
) -> Check {
    let started = tokio::time::Instant::now();
    let outcome = tokio::time::timeout(PROBE_TIMEOUT, probe).await;
    let latency_ms = Some((started.elapsed().as_secs_f64() * 1e5).round() / 1e2);
    match outcome {
        Ok(Ok(_)) => Check { status: CheckStatus::Ok, latency_ms, error: None, revision: None },
        Ok(Err(error)) => {
            tracing::warn!(%error, "health probe: {wrong}");
            Check { status: CheckStatus::Error, latency_ms, error: Some(wrong), revision: None }
        }
        Err(_elapsed) => {
            Check { status: CheckStatus::Error, latency_ms, error: Some("timed out after 5 s"), revision: None }
        }
    }
}
