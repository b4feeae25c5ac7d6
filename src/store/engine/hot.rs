//! Patterns that recalls returned lately, so that the next recall need not ask the database.
//!
//! The rows are the truth: a commit removes what it changed, and a reader that loaded a row while a commit was under
//! way does not keep it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::sync::Cache;

use super::{Change, ChangeKind};
use crate::domain::{Pattern, PatternId, Scope};
use crate::store::memory::TaskRow;

/// Memory for whole patterns.
const PATTERN_BYTES: u64 = 8 << 20;
/// Tasks that are remembered for grouping.
const TASKS: u64 = 8_192;

/// See the module.
pub(in crate::store) struct Hot {
    patterns: Cache<i64, Arc<(Scope, Pattern)>>,
    tasks: Cache<i64, Arc<(Scope, TaskRow)>>,
    /// Grows before a commit's removals, so that a reader notices that its rows may be old.
    commits: AtomicU64,
}

/// The state of the store before rows are read.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::store) struct Before(u64);

impl Hot {
    pub(in crate::store) fn new() -> Self {
        let weight = |_: &i64, entry: &Arc<(Scope, Pattern)>| {
            let body = &entry.1.body;
            let texts = [Some(&body.task), body.code.as_ref(), body.output.as_ref()];
            let bytes: usize = texts.into_iter().flatten().map(String::len).sum();
            u32::try_from(bytes + 512).unwrap_or(u32::MAX)
        };
        Self {
            patterns: Cache::builder().max_capacity(PATTERN_BYTES).weigher(weight).build(),
            tasks: Cache::new(TASKS),
            commits: AtomicU64::new(0),
        }
    }

    pub(in crate::store) fn before(&self) -> Before {
        Before(self.commits.load(Ordering::Acquire))
    }

    /// The pattern, if it is here and belongs to the scope.
    pub(in crate::store) fn pattern(&self, scope: &Scope, id: PatternId) -> Option<Pattern> {
        self.patterns.get(&id.0).filter(|entry| entry.0 == *scope).map(|entry| entry.1.clone())
    }

    /// What grouping needs of a pattern.
    pub(in crate::store) fn task(&self, scope: &Scope, id: PatternId) -> Option<TaskRow> {
        self.tasks.get(&id.0).filter(|entry| entry.0 == *scope).map(|entry| entry.1.clone())
    }

    pub(in crate::store) fn keep_patterns(&self, before: Before, scope: &Scope, patterns: &[Pattern]) {
        for pattern in patterns {
            let id = pattern.id.0;
            self.keep(&self.patterns, before, id, || Arc::new((scope.clone(), pattern.clone())));
        }
    }

    pub(in crate::store) fn keep_tasks(&self, before: Before, scope: &Scope, tasks: &[TaskRow]) {
        for task in tasks {
            self.keep(&self.tasks, before, task.id.0, || Arc::new((scope.clone(), task.clone())));
        }
    }

    fn keep<T: Clone + Send + Sync + 'static>(
        &self,
        cache: &Cache<i64, T>,
        before: Before,
        id: i64,
        make: impl FnOnce() -> T,
    ) {
        if self.before() == before {
            cache.insert(id, make());
            // A commit between the check and the insertion has removed nothing yet: take it back.
            if self.before() != before {
                cache.invalidate(&id);
            }
        }
    }

    /// Forgets what a commit changed.
    pub(in crate::store) fn forget<'a>(&self, changes: impl IntoIterator<Item = &'a Change>) {
        self.commits.fetch_add(1, Ordering::AcqRel);
        for change in changes {
            match change.kind {
                ChangeKind::Reuse(count) => self.reused(change.id, count),
                _ => {
                    self.patterns.invalidate(&change.id);
                    self.tasks.invalidate(&change.id);
                }
            }
        }
    }

    /// Counting is what recalls do all the time: it must not push out what they need.
    fn reused(&self, id: i64, count: u32) {
        if let Some(entry) = self.patterns.get(&id) {
            let (scope, mut pattern) = Arc::unwrap_or_clone(entry);
            pattern.body.reuse_count += u64::from(count);
            self.patterns.insert(id, Arc::new((scope, pattern)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: i64) -> TaskRow {
        TaskRow { id: PatternId(id), words: Default::default(), success_score: 1.0 }
    }

    #[test]
    fn rows_read_during_a_commit_are_not_kept() {
        let (hot, scope) = (Hot::new(), Scope::default());
        let before = hot.before();
        hot.keep_tasks(before, &scope, &[task(1)]);
        assert!(hot.task(&scope, PatternId(1)).is_some());
        assert!(hot.task(&Scope::verified("other", "default"), PatternId(1)).is_none());
        hot.forget(&[Change { scope: scope.clone(), id: 1, kind: ChangeKind::Remove }]);
        assert!(hot.task(&scope, PatternId(1)).is_none());
        hot.keep_tasks(before, &scope, &[task(1)]);
        assert!(hot.task(&scope, PatternId(1)).is_none(), "read before the commit");
    }
}
