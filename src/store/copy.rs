//! Traits of moving in: everything that a store holds, to be read and written as it is.

use async_trait::async_trait;

use super::Result;
use super::identity::ApiKey;
use super::memory::{Evaluation, ScopeStatistics};
use crate::domain::audit::{AuditEntry, ChainHead};
use crate::domain::{Pattern, PatternId, Skill, Timestamp};
use crate::ports::{Space, Vector};

/// A pattern with everything that hangs on it.
#[derive(Debug, Clone, PartialEq)]
pub struct WholePattern {
    /// The pattern.
    pub pattern: Pattern,
    /// Its vector, in whatever space.
    pub vector: Option<Vector>,
    /// What it was judged by, in order of time.
    pub evaluations: Vec<Evaluation>,
    /// Its tags in the order of the alphabet.
    pub skills: Vec<Skill>,
    /// When it was tagged.
    pub tagged_at: Option<Timestamp>,
}

/// A project and its tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Name of the tenant.
    pub tenant_name: String,
    /// When the tenant was registered.
    pub tenant_created_at: Timestamp,
    /// Name of the project.
    pub name: String,
    /// When the project was registered.
    pub created_at: Timestamp,
}

/// A row of an older server that no part of this version knows, kept as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriedRow {
    /// The table it comes from.
    pub source: String,
    /// What tells it from other rows of this table and this tenant.
    pub id: String,
    /// The row as JSON.
    pub data: String,
}

/// What a store holds beside its scopes.
#[async_trait]
pub trait Inventory: Send + Sync {
    /// Embedding spaces with their dimensions, in the order in which they were made.
    async fn spaces(&self) -> Result<Vec<(Space, u32)>>;
    /// Makes a space, unless there is one.
    async fn add_space(&self, space: &Space, dimensions: u32) -> Result<()>;
    /// Marks of one-time work, by name.
    async fn marks(&self) -> Result<Vec<(String, Timestamp)>>;
    /// Removes a mark; that there is none changes nothing.
    async fn remove_mark(&self, name: &str) -> Result<()>;
}

/// A scope as it is, to be copied to another store.
#[async_trait]
pub trait Copying: Send {
    /// Patterns in id order after an id, each with everything that hangs on it.
    async fn patterns(&mut self, after: Option<PatternId>, limit: u32) -> Result<Vec<WholePattern>>;
    /// Sets every counter but that of the patterns, which goes with its rows.
    async fn set_statistics(&mut self, statistics: &ScopeStatistics) -> Result<()>;
    /// Stores a key of this unit's scope, in place of the one with its id if there is one.
    async fn put_key(&mut self, key: &ApiKey) -> Result<()>;
    /// How this unit's project is registered; `None` if it is not.
    async fn registered(&mut self) -> Result<Option<Registered>>;
    /// Registers this unit's tenant and project; what is registered already stays as it is.
    async fn register(&mut self, registered: &Registered) -> Result<()>;
    /// Writes entries of the tenant's audit log as they are, and where its chain ends now.
    async fn put_entries(&mut self, entries: &[AuditEntry], head: &ChainHead) -> Result<()>;
    /// Carried rows of the tenant, in order of source and id after a row.
    async fn carried(&mut self, after: Option<&CarriedRow>, limit: u32) -> Result<Vec<CarriedRow>>;
    /// Stores carried rows of the tenant; those that are there already stay as they are. How many are new.
    async fn put_carried(&mut self, rows: &[CarriedRow]) -> Result<u64>;
}
