//! The in-memory indexes of this database: loaded from the rows on first use, changed after each commit.

use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::{Row, SqliteConnection, SqlitePool};

use super::rows;
use crate::domain::Scope;
use crate::ports::Space;
use crate::store::Result;
use crate::store::engine::{Change, ChangeKind, Hot, Ready, ScopeIndex, Shelf};

/// Memory that indexes may take before the least recently used scopes are dropped.
const BUDGET_BYTES: usize = 2 << 30;

/// Every scope's index, of one embedding space.
pub(super) struct Indexes {
    /// Patterns returned lately.
    pub(super) hot: Hot,
    space: Option<Space>,
    /// Connections that only loading uses: if it took a reader's, it could wait for those who wait for it.
    loaders: SqlitePool,
    shelf: Shelf,
}

impl Indexes {
    pub(super) fn new(space: Option<Space>, loaders: SqlitePool) -> Self {
        Self { hot: Hot::new(), space, loaders, shelf: Shelf::new(BUDGET_BYTES) }
    }

    /// Name of the space; empty without one, which no space is called.
    pub(super) fn space_name(&self) -> &str {
        self.space.as_ref().map_or("", Space::as_str)
    }

    /// Whether vectors of this space are the ones searched.
    pub(super) fn holds(&self, space: &Space) -> bool {
        self.space.as_ref() == Some(space)
    }

    /// Closes the connections that load.
    pub(super) async fn close(&self) {
        self.loaders.close().await;
    }

    /// The scope's index, loaded if need be. Concurrent callers load once.
    pub(super) async fn get(&self, scope: &Scope) -> Result<Arc<ScopeIndex>> {
        // The entry is on the shelf before the rows are read, so that no commit falls between.
        let entry = self.shelf.entry(scope);
        if entry.is_ready() {
            return Ok(entry);
        }
        let one = entry.loading.lock().await;
        if !entry.is_ready() {
            let mut connection = self.loaders.acquire().await?;
            entry.finish(load(scope, self.space.as_ref(), &mut connection).await?);
            self.shelf.evict(scope);
        }
        drop(one);
        Ok(entry)
    }

    /// Applies what a commit changed, in order. Scopes that are not loaded read it from the rows later.
    pub(super) fn apply(&self, changes: Vec<Change>) {
        self.hot.forget(&changes);
        for change in changes {
            if let Some(entry) = self.shelf.known(&change.scope) {
                entry.push(change);
            }
        }
    }
}

/// Reads every vector of the scope in the current space. Linear in the scope, once a process.
async fn load(scope: &Scope, space: Option<&Space>, connection: &mut SqliteConnection) -> Result<Ready> {
    let mut ready = Ready::default();
    let Some(space) = space else { return Ok(ready) };
    let mut stream = sqlx::query(
        "select p.id, v.vector, p.classification, p.source, p.success_score, p.evidence_weight, p.evidence_sum, \
         p.created_at from patterns p indexed by patterns_by_id \
         cross join vectors v on v.pattern_id = p.id cross join spaces s on s.id = p.space_id \
         where p.tenant_id = $1 and p.project_id = $2 and s.name = $3 order by p.id",
    )
    .bind(scope.tenant())
    .bind(scope.project())
    .bind(space.as_str())
    .fetch(connection);
    while let Some(row) = stream.try_next().await? {
        let values = rows::vector_from_bytes(row.try_get(1)?)?;
        let kind = ChangeKind::Put(values.into(), rows::meta(&row, 2)?);
        ready.apply(Change { scope: scope.clone(), id: row.try_get(0)?, kind });
    }
    Ok(ready)
}
