//! The indexes of all scopes in use, within a budget of memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ScopeIndex;
use crate::domain::Scope;

/// Every scope's index. The least recently used are dropped when there is no room.
pub(in crate::store) struct Shelf {
    budget_bytes: usize,
    scopes: Mutex<HashMap<Scope, Arc<ScopeIndex>>>,
    clock: AtomicU64,
}

impl Shelf {
    pub(in crate::store) fn new(budget_bytes: usize) -> Self {
        Self { budget_bytes, scopes: Mutex::default(), clock: AtomicU64::new(0) }
    }

    /// Memory that all indexes together may take.
    pub(in crate::store) fn budget_bytes(&self) -> usize {
        self.budget_bytes
    }

    /// The scope's index, an empty one that is to be loaded if there was none.
    pub(in crate::store) fn entry(&self, scope: &Scope) -> Arc<ScopeIndex> {
        let mut scopes = self.lock();
        let entry = match scopes.get(scope) {
            Some(entry) => Arc::clone(entry),
            None => Arc::clone(scopes.entry(scope.clone()).or_default()),
        };
        drop(scopes);
        entry.last_used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        entry
    }

    /// The scope's index, if anybody asked for it.
    pub(in crate::store) fn known(&self, scope: &Scope) -> Option<Arc<ScopeIndex>> {
        self.lock().get(scope).cloned()
    }

    /// Drops the least recently used scopes until the rest fits; never the one just loaded.
    pub(in crate::store) fn evict(&self, keep: &Scope) {
        let mut scopes = self.lock();
        let mut sizes: Vec<_> = scopes
            .iter()
            .map(|(scope, entry)| (entry.last_used.load(Ordering::Relaxed), entry.memory_bytes(), scope.clone()))
            .collect();
        let mut total: usize = sizes.iter().map(|(_, bytes, _)| bytes).sum();
        if total <= self.budget_bytes {
            return;
        }
        sizes.sort_unstable_by_key(|(used, _, _)| *used);
        for (_, bytes, scope) in sizes {
            if total <= self.budget_bytes {
                break;
            }
            if scope != *keep {
                scopes.remove(&scope);
                total -= bytes;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Scope, Arc<ScopeIndex>>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
