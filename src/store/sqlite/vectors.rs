//! The in-memory vector indexes, one a scope: loaded from the rows on first use, changed after each commit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures_util::TryStreamExt;
use sqlx::{Row, SqliteConnection, SqlitePool};
use tokio::sync::OnceCell;

use super::hot::Hot;
use super::rows::{self, RowMeta};
use crate::domain::Scope;
use crate::ports::Space;
use crate::store::Result;
use crate::store::memory::Mark;
use crate::vector::VectorIndex;

/// Memory that indexes may take before the least recently used scopes are dropped.
const BUDGET_BYTES: usize = 2 << 30;

/// Something that a durable commit changed.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) scope: Scope,
    pub(super) id: i64,
    pub(super) kind: ChangeKind,
}

#[derive(Debug)]
pub(super) enum ChangeKind {
    /// The row's vector and what filters need.
    Put(Arc<[f32]>, RowMeta),
    /// Only what filters need.
    Meta(RowMeta),
    /// A faded score.
    Score(f64),
    /// It was reused so often, which the index need not know.
    Reuse(u32),
    /// The row is gone.
    Remove,
}

/// Every scope's index, of one embedding space.
pub(super) struct Indexes {
    /// Patterns returned lately.
    pub(super) hot: Hot,
    space: Option<Space>,
    /// Connections that only loading uses: if it took a reader's, it could wait for those who wait for it.
    loaders: SqlitePool,
    scopes: Mutex<HashMap<Scope, Arc<ScopeIndex>>>,
    clock: AtomicU64,
}

/// One scope's index, or the changes that arrived while it was being loaded.
pub(super) struct ScopeIndex {
    loaded: OnceCell<()>,
    state: RwLock<IndexState>,
    last_used: AtomicU64,
}

pub(super) enum IndexState {
    Loading(Vec<Change>),
    Ready(Ready),
}

/// A loaded index; `None` until the first vector tells the dimension.
#[derive(Default)]
pub(super) struct Ready {
    index: Option<VectorIndex<RowMeta>>,
}

impl Indexes {
    pub(super) fn new(space: Option<Space>, loaders: SqlitePool) -> Self {
        Self { hot: Hot::new(), space, loaders, scopes: Mutex::default(), clock: AtomicU64::new(0) }
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
        let entry = Arc::clone(self.lock().entry(scope.clone()).or_default());
        entry.last_used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        // The entry is in the map before the rows are read, so that no commit falls between.
        let loading = entry.loaded.get_or_try_init(|| async {
            let mut connection = self.loaders.acquire().await?;
            let ready = load(scope, self.space.as_ref(), &mut connection).await?;
            entry.finish(ready);
            self.evict(scope);
            Ok::<_, crate::store::StoreError>(())
        });
        loading.await?;
        Ok(entry)
    }

    /// Applies what a commit changed, in order. Scopes that are not loaded read it from the rows later.
    pub(super) fn apply(&self, changes: Vec<Change>) {
        self.hot.forget(&changes);
        for change in changes {
            let entry = self.lock().get(&change.scope).cloned();
            if let Some(entry) = entry {
                match &mut *entry.write() {
                    IndexState::Loading(later) => later.push(change),
                    IndexState::Ready(ready) => ready.apply(change),
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Scope, Arc<ScopeIndex>>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the least recently used scopes until the rest fits; never the one just loaded.
    fn evict(&self, keep: &Scope) {
        let mut scopes = self.lock();
        let mut sizes: Vec<_> = scopes
            .iter()
            .map(|(scope, entry)| (entry.last_used.load(Ordering::Relaxed), entry.memory_bytes(), scope.clone()))
            .collect();
        let mut total: usize = sizes.iter().map(|(_, bytes, _)| bytes).sum();
        sizes.sort_unstable_by_key(|(used, _, _)| *used);
        for (_, bytes, scope) in sizes {
            if total <= BUDGET_BYTES {
                break;
            }
            if scope != *keep {
                scopes.remove(&scope);
                total -= bytes;
            }
        }
    }
}

impl Default for ScopeIndex {
    fn default() -> Self {
        Self {
            loaded: OnceCell::new(),
            state: RwLock::new(IndexState::Loading(Vec::new())),
            last_used: AtomicU64::new(0),
        }
    }
}

impl ScopeIndex {
    /// Runs `look` on the loaded index.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Ready) -> T) -> Option<T> {
        match &*self.guard() {
            IndexState::Ready(ready) => Some(look(ready)),
            IndexState::Loading(_) => None,
        }
    }

    fn guard(&self) -> RwLockReadGuard<'_, IndexState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, IndexState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, mut ready: Ready) {
        let mut state = self.write();
        if let IndexState::Loading(later) = &mut *state {
            for change in later.drain(..) {
                ready.apply(change);
            }
            *state = IndexState::Ready(ready);
        }
    }

    fn memory_bytes(&self) -> usize {
        self.read(|ready| ready.index.as_ref().map_or(0, VectorIndex::memory_bytes)).unwrap_or(0)
    }
}

impl Ready {
    /// Live rows.
    pub(super) fn len(&self) -> usize {
        self.index.as_ref().map_or(0, VectorIndex::len)
    }

    /// The index, if its vectors can be compared with `vector`.
    pub(super) fn comparable(&self, vector: &[f32]) -> Option<&VectorIndex<RowMeta>> {
        self.index.as_ref().filter(|index| index.dimensions() == vector.len())
    }

    /// The point up to which a look has seen everything.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.index.as_ref().map_or(0, VectorIndex::revision))
    }

    fn apply(&mut self, change: Change) {
        let id = change.id;
        match change.kind {
            ChangeKind::Put(vector, meta) => {
                let index = self.index.get_or_insert_with(|| VectorIndex::new(vector.len()));
                if index.dimensions() == vector.len() {
                    index.insert(id, &vector, meta);
                }
            }
            ChangeKind::Meta(meta) => self.update(id, |row| *row = meta),
            ChangeKind::Score(score) => self.update(id, |row| row.success_score = score),
            ChangeKind::Reuse(_) => {}
            ChangeKind::Remove => {
                if let Some(index) = self.index.as_mut() {
                    index.remove(id);
                }
            }
        }
    }

    fn update(&mut self, id: i64, change: impl FnOnce(&mut RowMeta)) {
        if let Some(index) = self.index.as_mut() {
            index.update(id, change);
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
        let meta = rows::meta(&row, 2)?;
        let index = ready.index.get_or_insert_with(|| VectorIndex::new(values.len()));
        if index.dimensions() == values.len() {
            index.insert(row.try_get(0)?, &values, meta);
        }
    }
    Ok(ready)
}

impl Change {
    /// The vector that this change puts into `scope`, with its id.
    pub(super) fn put_in(&self, scope: &Scope) -> Option<(i64, &Arc<[f32]>)> {
        match &self.kind {
            ChangeKind::Put(vector, _) if self.scope == *scope => Some((self.id, vector)),
            _ => None,
        }
    }
}
