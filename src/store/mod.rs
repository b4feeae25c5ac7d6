//! What the product stores, as traits. Two implementations answer to the same contract suite.
//!
//! A unit of work is opened *for a scope* and cannot leave it; dropping it rolls back. Times are arguments: no
//! statement asks the database for "now".

pub mod analytics;
pub mod audit;
pub mod backup;
pub mod billing;
pub mod copy;
mod engine;
pub mod erasure;
pub mod governance;
pub mod idempotency;
pub mod identity;
mod inspection;
pub mod jobs;
mod legacy;
pub mod memory;
pub mod original;
pub mod payments;
pub mod postgres;
pub mod spend;
pub mod sqlite;

use async_trait::async_trait;

use crate::domain::{PatternId, Scope, Timestamp};
use crate::ports::Space;

pub use analytics::Analytics;
pub use audit::{AuditQuery, Audits};
pub use backup::Backups;
pub use billing::Billing;
pub use copy::{Copying, Inventory};
pub use erasure::{Erasure, Erasures};
pub use governance::{OpenRequests, RequestQuery, Retentions, SubjectRequests, Sweep};
pub use idempotency::Repeatable;
pub use identity::{ApiKey, ApiKeys, Keys, Projects, Registration};
pub use inspection::{Comparison, Inspection};
pub use jobs::{COUNTED, Claim, JobQueue, Jobs, Pulse};
pub use memory::{Feedbacks, Nearest, NearestQuery, Patterns, Skills, Statistics, Totals};
pub use payments::{PaymentFeed, PaymentLedger};
pub use spend::Spend;

/// A result of the storage layer.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A row says something that the code does not understand.
    #[error("corrupt row in {table}: {what}")]
    Corrupt {
        /// Table.
        table: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// The scope is being erased, or was and is not used again.
    #[error("The project is being erased, or has been.")]
    Erased,
    /// The scan's compute queue is full.
    #[error(transparent)]
    Busy(#[from] crate::compute::Busy),
    /// The unit of work lost against another one; the same again may succeed.
    #[error("lost against another transaction")]
    Contended(#[source] anyhow::Error),
    /// The engine or the disk failed.
    #[error("storage backend")]
    Backend(#[source] anyhow::Error),
}

/// Connections of a process to its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUse {
    /// Most there may be.
    pub size: u32,
    /// In use.
    pub checked_out: u32,
    /// Units of work that wait for one, because all are in use.
    pub waiting: u64,
}

/// A database.
#[async_trait]
pub trait Store: Send + Sync {
    /// A unit of work that only reads.
    async fn read(&self, scope: &Scope) -> Result<Box<dyn Work>>;
    /// A unit of work that writes; other writers wait for it. [`StoreError::Erased`] for a scope that is closed.
    async fn begin(&self, scope: &Scope) -> Result<Box<dyn Work>>;
    /// A unit of work that erases: it begins in a closed scope as well, and sees all of the tenant if that is its scope.
    async fn erase(&self, scope: &Scope) -> Result<Box<dyn Work>>;
    /// Erasures of all scopes.
    fn erasures(&self) -> &dyn Erasures;
    /// API keys, which are looked up before any scope is known.
    fn api_keys(&self) -> &dyn ApiKeys;
    /// What there is beside the scopes.
    fn inventory(&self) -> &dyn Inventory;
    /// Jobs of all scopes, for workers.
    fn queue(&self) -> &dyn JobQueue;
    /// Customers of the payment service, whoever they are.
    fn payment_feed(&self) -> &dyn PaymentFeed;
    /// Requests that may be repeated without being carried out again.
    fn repeatable(&self) -> &dyn Repeatable;
    /// Backups of everything.
    fn backups(&self) -> &dyn Backups;
    /// Every scope that something was written in, in order after one. What belongs to a whole tenant stands in a scope
    /// whose project has no name.
    async fn scopes(&self, after: Option<&Scope>, limit: u32) -> Result<Vec<Scope>>;
    /// Tenants that have an audit log, in order after one.
    async fn audited_tenants(&self, after: Option<&str>, limit: u32) -> Result<Vec<String>>;
    /// Sums over all scopes, for the instance-wide gauges.
    async fn totals(&self) -> Result<Totals>;
    /// Patterns of any scope without a vector of `space`, in id order after an id.
    async fn unembedded(&self, space: &Space, after: Option<PatternId>, limit: u32) -> Result<Vec<Unembedded>>;
    /// Whether one-time work of this name is done.
    async fn has_mark(&self, name: &str) -> Result<bool>;
    /// Notes that one-time work is done; noting it again changes nothing.
    async fn set_mark(&self, name: &str, now: Timestamp) -> Result<()>;
    /// Takes the next scopes of a round through all of them, in order; none where it is over until the next one begins.
    /// Of several that ask at once each scope goes to one.
    async fn sweep(&self, sweep: &Sweep, now: Timestamp) -> Result<Vec<Scope>>;
    /// Whether the database answers.
    async fn ping(&self) -> Result<()>;
    /// The connections that requests share; `None` where nobody outside has to know of them.
    fn pool(&self) -> Option<PoolUse>;
    /// The schema of the database.
    async fn revision(&self) -> Result<Revision>;
    /// Name on the wire: `json` or `postgres`.
    fn name(&self) -> &'static str;
    /// Finishes what is under way and closes all connections.
    async fn close(&self);
}

/// One transaction of one scope. After an error only dropping it is left: what was done before is rolled back.
#[async_trait]
pub trait Work: Send {
    /// Patterns, their vectors and their text index.
    fn patterns(&mut self) -> &mut dyn Patterns;
    /// Capability tags.
    fn skills(&mut self) -> &mut dyn Skills;
    /// Recurring issues.
    fn feedback(&mut self) -> &mut dyn Feedbacks;
    /// What was learned and recalled.
    fn analytics(&mut self) -> &mut dyn Analytics;
    /// Counters of the scope.
    fn statistics(&mut self) -> &mut dyn Statistics;
    /// API keys of the project.
    fn keys(&mut self) -> &mut dyn Keys;
    /// Projects of the tenant.
    fn projects(&mut self) -> &mut dyn Projects;
    /// The audit log.
    fn audit(&mut self) -> &mut dyn Audits;
    /// Background jobs.
    fn jobs(&mut self) -> &mut dyn Jobs;
    /// The scope as it is.
    fn copying(&mut self) -> &mut dyn Copying;
    /// The end of the scope.
    fn erasure(&mut self) -> &mut dyn Erasure;
    /// What the tenant spends on language models.
    fn spend(&mut self) -> &mut dyn Spend;
    /// What the payment service knows of the tenant.
    fn payments(&mut self) -> &mut dyn PaymentLedger;
    /// What the tenant has subscribed to, and what it uses of it.
    fn billing(&mut self) -> &mut dyn Billing;
    /// How long the project is kept.
    fn retention(&mut self) -> &mut dyn Retentions;
    /// Requests of data subjects.
    fn subjects(&mut self) -> &mut dyn SubjectRequests;
    /// Makes the work durable. When this returns, it survives a crash and the next read sees it.
    async fn commit(self: Box<Self>) -> Result<()>;
}

/// The schema of a database before and after it was brought to this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// Version of the schema before; 0 for an empty database.
    pub before: i64,
    /// Version now.
    pub now: i64,
}

/// The schema of an open database, and the one that this program brings with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision {
    /// Number of the newest migration that has run.
    pub current: i64,
    /// Number of the newest migration that there is.
    pub expected: i64,
}

impl Revision {
    /// Whether the database is what this program works with.
    pub fn is_current(self) -> bool {
        self.current == self.expected
    }
}

/// A pattern that waits for its vector.
#[derive(Debug, Clone)]
pub struct Unembedded {
    /// Whose it is.
    pub scope: Scope,
    /// Which.
    pub id: PatternId,
    /// The text to embed.
    pub task: String,
}
