//! The in-memory index of one scope, and what changes it.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use super::RowMeta;
use crate::domain::{Classification, Scope};
use crate::store::memory::Mark;
use crate::vector::VectorIndex;

/// Something that a durable commit changed.
#[derive(Debug)]
pub(in crate::store) struct Change {
    pub(in crate::store) scope: Scope,
    pub(in crate::store) id: i64,
    pub(in crate::store) kind: ChangeKind,
}

#[derive(Debug)]
pub(in crate::store) enum ChangeKind {
    /// The row's vector and what filters need.
    Put(Arc<[f32]>, RowMeta),
    /// Only what filters need.
    Meta(RowMeta),
    /// Only how sensitive it is.
    Classification(Classification),
    /// A faded score.
    Score(f64),
    /// A new ranking multiplier.
    Quality(f64),
    /// It was reused so often, which the index need not know.
    Reuse(u32),
    /// The row is gone.
    Remove,
}

/// A loaded index; `None` until the first vector tells the dimension.
#[derive(Default)]
pub(in crate::store) struct Ready {
    /// Revision of the scope's rows that it shows, where changes are read from the database.
    pub(in crate::store) seen: i64,
    index: Option<VectorIndex<RowMeta>>,
}

impl Ready {
    /// An empty index of a scope at a revision.
    pub(in crate::store) fn showing(seen: i64) -> Self {
        Self { seen, index: None }
    }

    /// Live rows.
    pub(in crate::store) fn len(&self) -> usize {
        self.index.as_ref().map_or(0, VectorIndex::len)
    }

    /// The index, if its vectors can be compared with `vector`.
    pub(in crate::store) fn comparable(&self, vector: &[f32]) -> Option<&VectorIndex<RowMeta>> {
        self.index.as_ref().filter(|index| index.dimensions() == vector.len())
    }

    /// Memory held, in bytes.
    pub(in crate::store) fn memory_bytes(&self) -> usize {
        self.index.as_ref().map_or(0, VectorIndex::memory_bytes)
    }

    /// The point up to which a look has seen everything.
    pub(in crate::store) fn mark(&self) -> Mark {
        Mark(self.index.as_ref().map_or(0, VectorIndex::revision))
    }

    /// Makes the index say what the row says now.
    pub(in crate::store) fn apply(&mut self, change: Change) {
        let id = change.id;
        match change.kind {
            ChangeKind::Put(vector, meta) => {
                let index = self.index.get_or_insert_with(|| VectorIndex::new(vector.len()));
                if index.dimensions() == vector.len() {
                    index.insert(id, &vector, meta);
                }
            }
            ChangeKind::Meta(meta) => self.update(id, |row| *row = meta),
            ChangeKind::Classification(word) => self.update(id, |row| row.classification = word),
            ChangeKind::Score(score) => self.update(id, |row| row.success_score = score),
            ChangeKind::Quality(multiplier) => self.update(id, |row| row.multiplier = multiplier),
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

impl Change {
    /// The vector that this change puts into `scope`, with its id.
    pub(in crate::store) fn put_in(&self, scope: &Scope) -> Option<(i64, &Arc<[f32]>)> {
        match &self.kind {
            ChangeKind::Put(vector, _) if self.scope == *scope => Some((self.id, vector)),
            _ => None,
        }
    }
}

/// One scope's index, or the changes that arrived while it was being loaded.
pub(in crate::store) struct ScopeIndex {
    state: RwLock<IndexState>,
    /// Held by the one who loads.
    pub(in crate::store) loading: tokio::sync::Mutex<()>,
    pub(super) last_used: AtomicU64,
}

enum IndexState {
    Loading(Vec<Change>),
    Ready(Ready),
}

impl Default for ScopeIndex {
    fn default() -> Self {
        Self {
            state: RwLock::new(IndexState::Loading(Vec::new())),
            loading: tokio::sync::Mutex::default(),
            last_used: AtomicU64::new(0),
        }
    }
}

impl ScopeIndex {
    /// Runs `look` on the index; `None` while it is not loaded.
    pub(in crate::store) fn read<T>(&self, look: impl FnOnce(&Ready) -> T) -> Option<T> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            IndexState::Ready(ready) => Some(look(ready)),
            IndexState::Loading(_) => None,
        }
    }

    /// Runs `change` on the index; `None` while it is not loaded.
    pub(in crate::store) fn write<T>(&self, change: impl FnOnce(&mut Ready) -> T) -> Option<T> {
        match &mut *self.guard() {
            IndexState::Ready(ready) => Some(change(ready)),
            IndexState::Loading(_) => None,
        }
    }

    /// Whether it is loaded.
    pub(in crate::store) fn is_ready(&self) -> bool {
        self.read(|_| ()).is_some()
    }

    /// Applies a change, or keeps it until the index is loaded.
    pub(in crate::store) fn push(&self, change: Change) {
        match &mut *self.guard() {
            IndexState::Loading(later) => later.push(change),
            IndexState::Ready(ready) => ready.apply(change),
        }
    }

    /// Puts a loaded index in place, with the changes that arrived meanwhile.
    pub(in crate::store) fn finish(&self, mut ready: Ready) {
        let mut state = self.guard();
        if let IndexState::Loading(later) = &mut *state {
            later.drain(..).for_each(|change| ready.apply(change));
        }
        *state = IndexState::Ready(ready);
    }

    /// Live rows; none while it is not loaded.
    pub(in crate::store) fn len(&self) -> usize {
        self.read(Ready::len).unwrap_or(0)
    }

    /// Memory held, in bytes.
    pub(in crate::store) fn memory_bytes(&self) -> usize {
        self.read(Ready::memory_bytes).unwrap_or(0)
    }

    fn guard(&self) -> RwLockWriteGuard<'_, IndexState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}
