//! Trait of the audit log: entries of one tenant in a hash chain, read by project.

use async_trait::async_trait;

use super::Result;
use crate::domain::Timestamp;
use crate::domain::audit::{AuditEntry, AuditEvent, ChainHead};

/// Which entries of a project.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// At or after.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// Exactly this action.
    pub action: Option<String>,
    /// Exactly this actor.
    pub actor: Option<String>,
    /// Only entries older than the one of this number: the place where the page before ended.
    pub before: Option<u64>,
    /// How many at most.
    pub limit: u32,
}

/// The audit log of a tenant, and of the project of the unit of work.
#[async_trait]
pub trait Audits: Send {
    /// Records an event of this unit's project at the end of the tenant's chain. Other writers of the tenant's chain
    /// wait until this unit of work ends.
    async fn append(&mut self, event: &AuditEvent) -> Result<()>;
    /// As [`Self::append`], of another project of the tenant.
    async fn append_in(&mut self, project: &str, event: &AuditEvent) -> Result<()>;
    /// Entries of this unit's project, the newest (highest number) first.
    async fn page(&mut self, query: &AuditQuery) -> Result<Vec<AuditEntry>>;
    /// Entries of the whole tenant after a number, in the order of the chain.
    async fn chain(&mut self, after: u64, limit: u32) -> Result<Vec<AuditEntry>>;
    /// The end of the tenant's chain.
    async fn head(&mut self) -> Result<ChainHead>;
}
