//! Use cases. A service knows traits of the store and of the outside, never axum, sqlx or reqwest; it opens units of
//! work, and embeds, redacts and compares before it opens one that writes.

pub mod aging;
pub mod analytics;
mod answers;
pub mod audit;
pub mod billing;
pub mod classification;
pub mod compose;
pub mod copy;
pub mod embedding;
pub mod erasure;
pub mod evaluate;
pub mod evidence;
pub mod evolve;
pub mod failures;
pub mod feedback;
pub mod gateway;
pub mod health;
pub mod idempotency;
pub mod instance;
pub mod jobs;
pub mod keys;
pub mod learn;
pub mod original;
pub mod patterns;
mod prompts;
pub mod quotas;
pub mod ranking;
pub mod recall;
pub mod retention;
pub mod reuse;
pub mod skills;
pub mod subjects;
pub mod texts;
pub mod transfer;
pub mod warnings;

use std::sync::Arc;
use std::time::Duration;

use crate::compute::ComputePool;
use crate::domain::analytics::Window;
use crate::domain::record::Flaw;
use crate::domain::spend::Overspent;
use crate::domain::{Feature, Permission, Plan, Role, Thresholds};

use crate::ports::{Clock, Embedder, Entropy, ModelError, PaymentError};
use crate::store::{Store, StoreError};

use quotas::{PlanCache, Quota};

/// Everything that use cases need.
pub struct Services {
    /// The database.
    pub store: Arc<dyn Store>,
    /// Turns texts into vectors; `None` when embeddings are switched off.
    pub embedder: Option<Arc<dyn Embedder>>,
    /// Threads for heavy computing.
    pub compute: Arc<ComputePool>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// What has to be accounted for.
    pub audit: Arc<audit::AuditTrail>,
    /// What recalls leave behind.
    pub reuse: Arc<reuse::ReuseLog>,
    /// Scopes that are being erased here.
    pub erasures: erasure::ErasureDesk,
    /// Recurring issues at hand for recalls.
    pub issues: Arc<warnings::IssueTables>,
    /// Patterns that wait for a vector.
    pub backlog: Arc<embedding::Backlog>,
    /// The way to the language model; `None` without one.
    pub gateway: Option<gateway::Gateway>,
    /// Plans of tenants at hand.
    pub plans: Arc<PlanCache>,
    /// What payments need.
    pub billing: billing::Billing,
    /// What the instance-wide gauges show.
    pub instance: Arc<instance::Instance>,
    /// Tells the worker of this process what happened here.
    pub jobs: Arc<jobs::JobBell>,
    /// What was removed because of its age.
    pub removed: Arc<retention::Removed>,
    /// Rules that the operator may change.
    pub rules: Rules,
}

/// Rules that the operator may change.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Whether secrets and personal data are replaced before anything is stored.
    pub redaction: bool,
    /// Borders of the reuse tiers.
    pub tiers: Thresholds,
    /// A run with a score at or above counts as success.
    pub success_threshold: f64,
    /// Most projects of a tenant; `None` for no limit.
    pub max_projects: Option<u32>,
    /// Which limits of plans are kept.
    pub quotas: QuotaRules,
    /// Days that patterns are kept where neither project nor tenant says otherwise; `None` for ever.
    pub retention_days: Option<u32>,
    /// Whether the operator says so: what nobody has asked for is not removed by itself.
    pub retention_is_set: bool,
    /// Days in which requests of data subjects must be answered.
    pub dsr_sla_days: u32,
    /// How long jobs may take.
    pub jobs: JobRules,
}

/// Which limits of plans are kept (decision 13).
#[derive(Debug, Clone, Copy)]
pub struct QuotaRules {
    /// Patterns, evaluations, and payments that are due.
    pub limits: bool,
    /// The number of projects, and features.
    pub entitlements: bool,
    /// Share of the tenant's patterns that one project may hold, where a plan has several.
    pub project_share: f64,
}

/// How long jobs may take.
#[derive(Debug, Clone, Copy)]
pub struct JobRules {
    /// One attempt, where the request does not say.
    pub max_execution: Duration,
    /// From its submission to its end, waiting included.
    pub expires_after: Duration,
}

/// A result of a use case.
pub type Result<T, E = ServiceError> = std::result::Result<T, E>;

/// Why a use case was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The text is not a pattern key.
    #[error("Invalid pattern key.")]
    InvalidKey,
    /// Records of an import are flawed: position in the list and what is wrong.
    #[error("invalid records")]
    InvalidRecords(Vec<(usize, Flaw)>),
    /// No such pattern in the caller's scope.
    #[error("Pattern not found.")]
    PatternNotFound,
    /// Nothing was rolled up yet.
    #[error("No '{}' rollup found for this scope. POST /v1/analytics/rollup to compute one.", .0.as_str())]
    NoRollup(Window),
    /// The role lacks a permission.
    #[error("Role '{}' does not have permission '{}'.", .0.as_str(), .1.as_str())]
    Forbidden(Role, Permission),
    /// An editor may delete only what it wrote.
    #[error("Editors can only delete patterns they created.")]
    NotTheAuthor,
    /// No such key in the caller's project.
    #[error("Key not found.")]
    KeyNotFound,
    /// There is a first key already.
    #[error("Bootstrap already completed. Use an existing admin/owner key to create more keys.")]
    Founded,
    /// A key is revoked once.
    #[error("Key is already revoked.")]
    AlreadyRevoked,
    /// A revoked key stays so.
    #[error("Cannot rotate a revoked key.")]
    RotatesRevoked,
    /// Nobody hands on more than the role allows.
    #[error(
        "Role '{}' may assign at most '{}' keys. Requested role '{}' is not permitted.",
        own.as_str(), most.as_str(), wanted.as_str()
    )]
    RoleTooHigh {
        /// Role of the caller.
        own: Role,
        /// The highest role that it may give.
        most: Role,
        /// The role that was asked for.
        wanted: Role,
    },
    /// Nobody ends or takes over the key of a higher role.
    #[error("Role '{}' may not revoke or rotate a key with the role '{}'.", own.as_str(), key.as_str())]
    RankTooLow {
        /// Role of the caller.
        own: Role,
        /// Role of the key.
        key: Role,
    },
    /// A key for another project than the caller's.
    #[error("Only an owner may create keys for another project.")]
    ForeignProject,
    /// Only an owner erases another project than its own.
    #[error(
        "Role '{}' may only delete its own project. Cross-project deletion requires the 'owner' role.", .0.as_str()
    )]
    ForeignErasure(Role),
    /// Nobody erases another tenant than its own.
    #[error("You can only delete your own tenant.")]
    ForeignTenant,
    /// No such job in the caller's scope.
    #[error("Job not found.")]
    JobNotFound,
    /// No such request of a data subject in the caller's tenant.
    #[error("DSR not found.")]
    RequestNotFound,
    /// A request has as many remarks as it may.
    #[error("The notes of this request are full.")]
    NotesFull,
    /// The job is held by somebody else, or was cancelled.
    #[error("The job is no longer running here.")]
    JobLost,
    /// A result cannot be written down.
    #[error("result of a job")]
    Unwritable(#[source] anyhow::Error),
    /// A limit is reached.
    #[error("{0}")]
    Quota(Quota),
    /// A payment is due for too long.
    #[error("Your subscription payment is past due. Update your payment method to continue.")]
    Unpaid,
    /// The plan does not have the feature.
    #[error("This needs the plan '{}'. Your plan is '{}'.", feature.least_plan().as_str(), plan.as_str())]
    NotEntitled {
        /// What is missing.
        feature: Feature,
        /// What the tenant has.
        plan: Plan,
    },
    /// There is no payment service.
    #[error("Billing is not configured on this server: STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET are not set.")]
    NoPayments,
    /// The payment service failed.
    #[error(transparent)]
    Payment(PaymentError),
    /// Nobody may be sent to this address.
    #[error("Invalid return_url.")]
    InvalidReturnUrl,
    /// The plan has no overage, or asks for a cap.
    #[error("Invalid overage configuration.")]
    InvalidOverage,
    /// An event that is not signed as it should be, or cannot be read.
    #[error("{0}")]
    InvalidNotice(&'static str),
    /// A field holds what cannot be used.
    #[error("{field}: {message}")]
    InvalidField {
        /// Which.
        field: &'static str,
        /// What it should hold.
        message: &'static str,
    },
    /// The operation needs a language model, and there is none.
    #[error("LLM provider not configured. {}() requires an LLM.", .0)]
    NoModel(&'static str),
    /// The daily budget for language models does not allow another call.
    #[error("The daily LLM budget is used up. It is renewed at midnight UTC.")]
    Overspent(Overspent),
    /// The provider of the language model keeps failing, and is left alone for a while.
    #[error("The model provider is unavailable. Please try again later.")]
    ModelDown {
        /// When to come back.
        retry_after: Duration,
    },
    /// Too much work is queued.
    #[error("The server is busy. Please try again later.")]
    Busy {
        /// When to come back.
        retry_after: Duration,
    },
    /// A provider failed.
    #[error(transparent)]
    Model(ModelError),
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

impl ServiceError {
    /// Whether the same may succeed a little later, without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::ModelDown { .. } => true,
            Self::Store(error) => matches!(error, StoreError::Contended(_) | StoreError::Backend(_)),
            Self::Model(error) => matches!(error, ModelError::Unavailable(_) | ModelError::Busy { .. }),
            _ => false,
        }
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy(busy) => Self::Busy { retry_after: busy.retry_after },
            other => Self::Store(other),
        }
    }
}

impl From<ModelError> for ServiceError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Busy { retry_after } => Self::Busy { retry_after },
            other => Self::Model(other),
        }
    }
}

impl From<crate::compute::Busy> for ServiceError {
    fn from(busy: crate::compute::Busy) -> Self {
        Self::Busy { retry_after: busy.retry_after }
    }
}

/// How often a unit of work is tried in all.
const ATTEMPTS: usize = 3;

/// Runs a unit of work, and again if it lost against another one. Nothing but the database may be changed in it.
async fn again<T, F: Future<Output = Result<T>>>(mut run: impl FnMut() -> F) -> Result<T> {
    for _ in 1..ATTEMPTS {
        match run().await {
            Err(ServiceError::Store(StoreError::Contended(error))) => tracing::debug!(%error, "trying again"),
            outcome => return outcome,
        }
    }
    run().await
}

impl Services {
    /// A UUIDv7 from the injected clock and randomness, so that ids are in order of time and repeatable in tests.
    pub fn new_id(&self) -> String {
        let mut random = [0; 10];
        self.entropy.fill(&mut random);
        let millis = u64::try_from(self.clock.now().timestamp_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contended() -> ServiceError {
        StoreError::Contended(anyhow::anyhow!("deadlock")).into()
    }

    #[tokio::test]
    async fn only_what_lost_against_another_is_tried_again() {
        for (failures, tries, succeeds) in [(0, 1, true), (2, 3, true), (9, 3, false)] {
            let mut runs = 0;
            let outcome = again(|| {
                runs += 1;
                let lost = runs <= failures;
                async move { if lost { Err(contended()) } else { Ok(()) } }
            });
            assert_eq!(outcome.await.is_ok(), succeeds);
            assert_eq!(runs, tries);
        }
        let mut runs = 0;
        let outcome: Result<()> = again(|| {
            runs += 1;
            async { Err(ServiceError::PatternNotFound) }
        })
        .await;
        assert!(outcome.is_err() && runs == 1);
    }
}
