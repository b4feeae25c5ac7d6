//! Traits of who may come in: API keys, and the projects they open.

use async_trait::async_trait;

use super::Result;
use crate::domain::{Role, Scope, Timestamp};

/// A stored API key; the secret itself is never stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// UUID.
    pub id: String,
    /// What it opens.
    pub scope: Scope,
    /// For people.
    pub name: String,
    /// First characters, to recognise it by.
    pub prefix: String,
    /// SHA-256 of the whole key.
    pub hash: [u8; 32],
    /// What it may do.
    pub role: Role,
    /// Most patterns its project may hold when this key stores one more.
    pub max_patterns: Option<u32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// From when it is dead for good.
    pub revoked_at: Option<Timestamp>,
    /// From when it opens nothing.
    pub expires_at: Option<Timestamp>,
}

/// API keys of all tenants, looked up before any scope is known.
#[async_trait]
pub trait ApiKeys: Send + Sync {
    /// The key with this hash, in whatever state; `None` if there is none.
    async fn find(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>>;
    /// The key with this id, in whatever state; `None` if there is none.
    async fn by_id(&self, id: &str) -> Result<Option<ApiKey>>;
    /// Whether there is any key, in whatever state; those of erased projects do not count.
    async fn any(&self) -> Result<bool>;
    /// Notes when keys were last used, by id; never moves a time back, unknown ids are skipped.
    async fn touch(&self, used: &[(String, Timestamp)]) -> Result<()>;
}

/// The API keys of one project, inside a unit of work.
#[async_trait]
pub trait Keys: Send {
    /// Stores a key of this unit's scope.
    async fn insert(&mut self, key: &ApiKey) -> Result<()>;
    /// Stores a key of this unit's scope if there is no key ([`ApiKeys::any`]); `false` otherwise. Of several callers at
    /// once one wins.
    async fn insert_first(&mut self, key: &ApiKey) -> Result<bool>;
    /// Every key of the project, revoked ones too, the newest first; not those that were erased.
    async fn list(&mut self) -> Result<Vec<ApiKey>>;
    /// One key of the project. In a unit of work that writes, nobody else changes it until the end.
    async fn get(&mut self, id: &str) -> Result<Option<ApiKey>>;
    /// Sets when the key was revoked. An unknown id is skipped.
    async fn revoke(&mut self, id: &str, at: Timestamp) -> Result<()>;
    /// Replaces prefix and hash, and forgets the last use. An unknown id is skipped.
    async fn rotate(&mut self, id: &str, prefix: &str, hash: &[u8; 32]) -> Result<()>;
}

/// What became of a project that was to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// It was there.
    Known,
    /// It was made.
    Made,
    /// The tenant has as many projects as it may; nothing was made.
    Full {
        /// Projects of the tenant now.
        current: u64,
    },
}

/// The projects of one tenant.
#[async_trait]
pub trait Projects: Send {
    /// Registers this unit's tenant and project under its name, unless they are there; one that was erased is made
    /// anew. With `most`, a tenant never has
    /// more projects than that, however many callers try at once.
    async fn register(&mut self, name: &str, most: Option<u32>, at: Timestamp) -> Result<Registration>;
    /// Whether this unit's project is registered.
    async fn is_known(&mut self) -> Result<bool>;
}
