//! The in-memory indexes of this process (`embedding-and-search.md` §4, fast path).
//!
//! Every unit of work that writes raises its scope's revision while it holds the scope's row, so that revisions are
//! committed in their order. A search first asks for what was written after the revision that its index shows (mostly
//! nothing, in the one round trip that it needs anyway), and so sees whatever any server has committed before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::Inner;
use super::rows;
use super::unit::PostgresWork;
use crate::compute::ComputePool;
use crate::domain::Scope;
use crate::ports::{Priority, Space};
use crate::store::Result;
use crate::store::engine::{Change, ChangeKind, Hot, Ready, ScopeIndex, Shelf};

/// Scopes of more patterns are loaded beside the requests, which are answered by SQL until then.
const LOADED_AT_ONCE: i64 = 10_000;
/// Changes that are applied without leaving the async threads (about 50 microseconds).
const APPLIED_INLINE: usize = 16;
/// Rows that are loaded in one go.
const BATCH: usize = 1_000;
/// Bytes of a row in an index, beside its components.
const ROW_BYTES: i64 = 128;

/// Every scope's index, of one embedding space.
pub(super) struct Indexes {
    hot: Hot,
    space: Option<Space>,
    shelf: Shelf,
    /// Numbers of spaces by name and dimensions; they never change.
    spaces: Mutex<HashMap<(Space, i32), i32>>,
}

/// Where a reader may search.
pub(super) enum Place {
    /// In memory: the index shows everything that was committed before.
    Memory(Arc<ScopeIndex>),
    /// In the database.
    Database {
        /// Patterns of the scope.
        patterns: i64,
    },
}

/// What the scope's row says.
struct ScopeRow {
    revision: i64,
    patterns: i64,
}

impl Indexes {
    pub(super) fn new(space: Option<Space>, budget_bytes: usize) -> Self {
        Self { hot: Hot::new(), space, shelf: Shelf::new(budget_bytes), spaces: Mutex::default() }
    }

    /// Name of the space; empty without one, which no space is called.
    pub(super) fn space_name(&self) -> &str {
        self.space.as_ref().map_or("", Space::as_str)
    }

    /// Whether vectors of this space are the ones searched.
    pub(super) fn holds(&self, space: &Space) -> bool {
        self.space.as_ref() == Some(space)
    }

    /// Tasks seen lately, where the scope's index tells what changes.
    pub(super) fn hot_for(&self, scope: &Scope) -> Option<&Hot> {
        self.shelf.known(scope).filter(|entry| entry.is_ready()).map(|_| &self.hot)
    }

    /// The number of a space; `None` while it has none.
    pub(super) async fn space(
        &self,
        space: &Space,
        dimensions: i32,
        connection: &mut PgConnection,
    ) -> Result<Option<i32>> {
        let name = (space.clone(), dimensions);
        if let Some(number) = self.spaces.lock().unwrap_or_else(PoisonError::into_inner).get(&name) {
            return Ok(Some(*number));
        }
        let row = sqlx::query("select id from spaces where name = $1 and dimensions = $2")
            .bind(space.as_str().to_owned())
            .bind(dimensions)
            .fetch_optional(connection)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let number = row.try_get(0)?;
        self.spaces.lock().unwrap_or_else(PoisonError::into_inner).insert(name, number);
        Ok(Some(number))
    }

    /// Whether all vectors of a scope would find room in memory.
    pub(super) fn has_room(&self, patterns: i64, dimensions: usize) -> bool {
        let bytes = patterns.saturating_mul(ROW_BYTES + i64::try_from(dimensions).unwrap_or(i64::MAX));
        usize::try_from(bytes).is_ok_and(|bytes| bytes < self.shelf.budget_bytes())
    }
}

/// Where a reading unit of work may search vectors of so many dimensions, brought up to date.
pub(super) async fn place(work: &mut PostgresWork, dimensions: usize) -> Result<Place> {
    let inner = Arc::clone(&work.inner);
    if inner.indexes.shelf.budget_bytes() == 0 {
        let row = scope_row(&work.scope.clone(), work.connection().await?).await?;
        return Ok(Place::Database { patterns: row.patterns });
    }
    let entry = inner.indexes.shelf.entry(&work.scope);
    if !entry.is_ready() {
        let row = scope_row(&work.scope.clone(), work.connection().await?).await?;
        if !inner.indexes.has_room(row.patterns, dimensions) {
            return Ok(Place::Database { patterns: row.patterns });
        }
        if row.patterns > LOADED_AT_ONCE {
            load_beside(&inner, &work.scope, &entry);
            return Ok(Place::Database { patterns: row.patterns });
        }
        let _one = entry.loading.lock().await;
        if !entry.is_ready() {
            let scope = work.scope.clone();
            entry.finish(load(&inner, &scope, work.connection().await?).await?);
            inner.indexes.shelf.evict(&scope);
        }
    }
    if !catch_up(work, &inner, &entry).await? {
        // So much was removed since that nobody remembers it all: load anew.
        load_beside(&inner, &work.scope, &entry);
        let row = scope_row(&work.scope.clone(), work.connection().await?).await?;
        return Ok(Place::Database { patterns: row.patterns });
    }
    Ok(Place::Memory(entry))
}

/// Loads a scope beside the requests, unless somebody does already.
fn load_beside(inner: &Arc<Inner>, scope: &Scope, entry: &Arc<ScopeIndex>) {
    let (inner, scope, entry) = (Arc::clone(inner), scope.clone(), Arc::clone(entry));
    tokio::spawn(async move {
        let Ok(_one) = entry.loading.try_lock() else { return };
        let loaded = async {
            let mut transaction = inner.enter(&scope, "begin read only").await?;
            load(&inner, &scope, &mut transaction).await
        };
        match loaded.await {
            Ok(ready) => {
                entry.finish(ready);
                inner.indexes.shelf.evict(&scope);
            }
            Err(error) => tracing::warn!(%error, "loading a search index; searches go on in the database"),
        }
    });
}

async fn scope_row(scope: &Scope, connection: &mut PgConnection) -> Result<ScopeRow> {
    let row = sqlx::query("select revision, patterns from scopes where tenant_id = $1 and project_id = $2")
        .bind(scope.tenant().to_owned())
        .bind(scope.project().to_owned())
        .fetch_optional(connection)
        .await?;
    match row {
        Some(row) => Ok(ScopeRow { revision: row.try_get(0)?, patterns: row.try_get(1)? }),
        None => Ok(ScopeRow { revision: 0, patterns: 0 }),
    }
}

/// Reads every vector of the scope in the current space. Linear in the scope, once a process.
async fn load(inner: &Inner, scope: &Scope, connection: &mut PgConnection) -> Result<Ready> {
    // The revision first: what is written meanwhile is read once more by the next search.
    let seen = scope_row(scope, connection).await?.revision;
    let mut ready = Ready::showing(seen);
    let mut stream = sqlx::query(
        "select p.id, v.vector, p.classification, p.source, p.success_score, p.evidence_weight, p.evidence_sum, \
         p.created_at from vectors v \
         join patterns p on p.tenant_id = $1 and p.project_id = $2 and p.id = v.pattern_id \
         where v.tenant_id = $1 and v.project_id = $2 and v.space_id = any(array(select id from spaces where name = $3))",
    )
    .bind(scope.tenant().to_owned())
    .bind(scope.project().to_owned())
    .bind(inner.indexes.space_name().to_owned())
    .fetch(connection);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let row = stream.try_next().await?;
        let last = row.is_none();
        if let Some(row) = row {
            let vector: pgvector::Vector = row.try_get(1)?;
            let kind = ChangeKind::Put(vector.to_vec().into(), rows::meta(&row, 2)?);
            batch.push(Change { scope: scope.clone(), id: row.try_get(0)?, kind });
        }
        if batch.len() == BATCH || last {
            let changes = std::mem::take(&mut batch);
            ready = apply(&inner.compute, changes.len(), move || {
                changes.into_iter().for_each(|change| ready.apply(change));
                ready
            })
            .await?;
        }
        if last {
            return Ok(ready);
        }
    }
}

/// Applies what was committed since the index was last brought up to date; `false` if that cannot be known any more.
async fn catch_up(work: &mut PostgresWork, inner: &Inner, entry: &Arc<ScopeIndex>) -> Result<bool> {
    let seen = entry.read(|ready| ready.seen).unwrap_or(0);
    let scope = work.scope.clone();
    let (query, connection) =
        work.scoped("select revision, forgotten from scopes where tenant_id = $1 and project_id = $2").await?;
    let Some(row) = query.fetch_optional(connection).await? else { return Ok(true) };
    let (revision, forgotten): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if revision <= seen {
        return Ok(true);
    }
    if forgotten > seen {
        return Ok(false);
    }
    // What is read may be newer than `revision`: it is then read once more. The limits keep the planner from reading
    // all vectors of the scope where it expects many changes.
    let (query, connection) = work
        .scoped(
            "select p.id, p.revision, v.vector, p.classification, p.source, p.success_score, p.evidence_weight, \
                 p.evidence_sum, p.created_at \
             from (select * from patterns where tenant_id = $1 and project_id = $2 and revision > $3 \
                   order by revision limit 10000000) p \
             left join lateral (select vector from vectors where tenant_id = $1 and project_id = $2 \
                 and pattern_id = p.id and space_id = any(array(select id from spaces where name = $4)) limit 1) v on true \
             union all \
             select pattern_id, revision, null, null, null, null, null, null, null from tombstones \
             where tenant_id = $1 and project_id = $2 and revision > $3",
        )
        .await?;
    let rows = query.bind(seen).bind(inner.indexes.space_name().to_owned()).fetch_all(connection).await?;
    let mut changes = Vec::with_capacity(rows.len());
    for row in &rows {
        changes.push((row.try_get::<i64, _>(1)?, change(row, &scope)?));
    }
    let applied = Arc::clone(entry);
    // First: what is read of these rows from now on is at least as new as the index will be.
    inner.indexes.hot.forget(changes.iter().map(|(_, change)| change));
    apply(&inner.compute, changes.len(), move || {
        applied.write(|ready| {
            // Another search may have been faster: what it has seen is applied already.
            let newer = changes.into_iter().filter(|(revision, _)| *revision > ready.seen).map(|(_, change)| change);
            let newer: Vec<Change> = newer.collect();
            newer.into_iter().for_each(|change| ready.apply(change));
            ready.seen = ready.seen.max(revision);
        })
    })
    .await?;
    Ok(true)
}

/// A row of the feed: put, or removed where there is no vector of the current space.
fn change(row: &PgRow, scope: &Scope) -> Result<Change> {
    let kind = match row.try_get::<Option<pgvector::Vector>, _>(2)? {
        Some(vector) => ChangeKind::Put(vector.to_vec().into(), rows::meta(row, 3)?),
        None => ChangeKind::Remove,
    };
    Ok(Change { scope: scope.clone(), id: row.try_get(0)?, kind })
}

async fn apply<T: Send + 'static>(
    compute: &ComputePool,
    changes: usize,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    if changes <= APPLIED_INLINE { Ok(run()) } else { Ok(compute.run(Priority::Interactive, run).await?) }
}
