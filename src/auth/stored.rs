//! Keys in the store, and which of its projects they open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use super::uses::{FLUSH_EVERY, KeyUses};
use super::{AuthError, Credential, Principal};
use crate::domain::credential::hash;
use crate::domain::{Scope, Timestamp};
use crate::ports::Clock;
use crate::store::{ApiKey, Result, Store};

/// How long a key or a project that was found is taken for valid without asking again: other processes hear of a
/// revocation after this time.
const CACHED_FOR: Duration = Duration::from_secs(3);
/// Keys and projects that are remembered.
const CACHED: u64 = 4_096;

/// Keys in the store.
pub struct StoredKeys {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// Keys seen lately, with the generation they were read in. Unknown tokens and failures are never remembered.
    seen: Cache<[u8; 32], (u64, Known)>,
    /// Keys read before the last change of this process count as unseen, whenever their reading ends.
    generation: AtomicU64,
    projects: Cache<Scope, ()>,
    uses: KeyUses,
}

/// A key that is not revoked.
#[derive(Clone)]
struct Known {
    principal: Principal,
    expires_at: Option<Timestamp>,
}

impl Known {
    /// What a stored key opens.
    fn of(key: ApiKey) -> Result<Self, AuthError> {
        let principal = Principal {
            scope: key.scope,
            role: key.role,
            key_id: Some(key.id.into()),
            max_patterns: key.max_patterns,
            credential: Credential::StoredKey,
        };
        if key.revoked_at.is_some() {
            return Err(AuthError::Dead { principal: Box::new(principal), state: "revoked" });
        }
        Ok(Known { principal, expires_at: key.expires_at })
    }
}

impl StoredKeys {
    /// Keys of this store, by this clock.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            seen: Cache::builder().max_capacity(CACHED).time_to_live(CACHED_FOR).build(),
            generation: AtomicU64::new(0),
            projects: Cache::builder().max_capacity(CACHED).time_to_live(CACHED_FOR).build(),
            uses: KeyUses::default(),
        }
    }

    /// Finds out whose token this is.
    ///
    /// # Errors
    /// When it is nobody's, or the store fails.
    pub(super) async fn check(&self, token: &str) -> Result<Principal, AuthError> {
        let sent = hash(token);
        let generation = self.generation.load(Ordering::Acquire);
        let known = match self.seen.get(&sent) {
            Some((then, known)) if then == generation => known,
            _ => {
                let known = self.look_up(&sent).await?;
                self.seen.insert(sent, (generation, known.clone()));
                known
            }
        };
        let principal = self.alive(known)?;
        if let Some(id) = &principal.key_id {
            self.uses.note(id, self.clock.now());
        }
        Ok(principal)
    }

    /// Finds out what a key may do now that was used earlier.
    ///
    /// # Errors
    /// When it opens nothing any more, or the store fails.
    pub(super) async fn recheck(&self, id: &str) -> Result<Principal, AuthError> {
        let key = self.store.api_keys().by_id(id).await?.ok_or(AuthError::Unknown)?;
        self.alive(Known::of(key)?)
    }

    fn alive(&self, known: Known) -> Result<Principal, AuthError> {
        let Known { principal, expires_at } = known;
        if expires_at.is_some_and(|end| end <= self.clock.now()) {
            return Err(AuthError::Dead { principal: Box::new(principal), state: "expired" });
        }
        Ok(principal)
    }

    async fn look_up(&self, hash: &[u8; 32]) -> Result<Known, AuthError> {
        Known::of(self.store.api_keys().find(hash).await?.ok_or(AuthError::Unknown)?)
    }

    /// Whether a scope is a registered project.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn is_project(&self, scope: &Scope) -> Result<bool> {
        if self.projects.contains_key(scope) {
            return Ok(true);
        }
        let known = self.store.read(scope).await?.projects().is_known().await?;
        if known {
            self.projects.insert(scope.clone(), ());
        }
        Ok(known)
    }

    /// Takes no key and no project for valid any more without asking the store, because one has changed.
    pub fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.projects.invalidate_all();
    }

    /// As [`Self::forget`], also when this key was last used.
    pub fn forget_uses(&self, id: &str) {
        self.forget();
        self.uses.forget(id);
    }

    /// Writes when keys were last used.
    ///
    /// # Errors
    /// When the store fails; then it is written the next time.
    pub async fn flush(&self) -> Result<()> {
        self.uses.flush(self.store.api_keys(), self.clock.now()).await
    }

    /// Flushes for ever.
    pub async fn run(&self) {
        let mut tick = tokio::time::interval(FLUSH_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.flush().await {
                tracing::warn!(%error, "uses of keys are kept until the store answers");
            }
        }
    }
}
