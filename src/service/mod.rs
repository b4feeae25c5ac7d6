//! Use cases. A service knows traits of the store and of the outside, never axum, sqlx or reqwest; it opens units of
//! work, and embeds, redacts and compares before it opens one that writes.

pub mod aging;
pub mod embedding;
pub mod feedback;
pub mod health;
pub mod learn;
pub mod patterns;
pub mod ranking;
pub mod recall;
pub mod reuse;
pub mod skills;
pub mod texts;
pub mod transfer;

use std::sync::Arc;
use std::time::Duration;

use crate::compute::ComputePool;
use crate::domain::record::Flaw;
use crate::domain::{Permission, Role, Thresholds};
use crate::ports::{Clock, Embedder, Entropy, ModelError};
use crate::store::{Store, StoreError};

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
    /// What recalls leave behind.
    pub reuse: Arc<reuse::ReuseLog>,
    /// Patterns that wait for a vector.
    pub backlog: Arc<embedding::Backlog>,
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
    /// The role lacks a permission.
    #[error("Role '{}' does not have permission '{}'.", .0.as_str(), .1.as_str())]
    Forbidden(Role, Permission),
    /// An editor may delete only what it wrote.
    #[error("Editors can only delete patterns they created.")]
    NotTheAuthor,
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

impl Services {
    /// A UUIDv7 from the injected clock and randomness, so that ids are in order of time and repeatable in tests.
    pub fn new_id(&self) -> String {
        let mut random = [0; 10];
        self.entropy.fill(&mut random);
        let millis = u64::try_from(self.clock.now().timestamp_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().to_string()
    }
}
