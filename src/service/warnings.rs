//! Warnings of a recall: recurring issues of tasks like the one at hand.
//!
//! A recall must not pay for them: the few vectors that matter are kept in memory by scope, and looking at them takes
//! microseconds. They are loaded at the first recall of a scope, replaced when this process changes an issue, and
//! looked up again in the background when they are old, because another server may have changed one.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::TimeDelta;
use moka::future::Cache;
use tokio::sync::Notify;

use super::feedback::dot;
use super::{Result, ServiceError, Services};
use crate::domain::{Feedback, Scope, Timestamp};
use crate::ports::Vector;

/// Least cosine between the task at hand and one in which the issue arose (docs/feedback.md has the figures).
const SIMILAR_TASK: f64 = 0.55;
/// Most warnings of a recall.
const MOST: usize = 3;
/// After this time another server's changes are looked for.
const FRESH_FOR: TimeDelta = TimeDelta::seconds(10);
/// What all tables together may take; those that were not used for longest go first.
const BUDGET_BYTES: u64 = 128 << 20;
/// What a table takes beside its vectors.
const OVERHEAD_BYTES: usize = 256;
/// What a score counts as that is not known.
const UNKNOWN_SCORE: f64 = 5.0;

/// A recurring issue of tasks like the one at hand.
#[derive(Debug, Clone, PartialEq)]
pub struct Warning {
    /// What evaluations said.
    pub issue: String,
    /// How often.
    pub count: u32,
    /// Mean overall score of these evaluations, if known.
    pub avg_score: Option<f64>,
    /// Cosine to the nearest task in which it arose.
    pub similarity: f64,
}

/// Recurring issues of every scope that was recalled lately.
pub struct IssueTables {
    tables: Cache<Scope, Arc<Table>>,
    /// Scopes whose table is old.
    stale: Mutex<BTreeSet<Scope>>,
    wake: Notify,
}

impl Default for IssueTables {
    fn default() -> Self {
        let tables = Cache::builder()
            .max_capacity(BUDGET_BYTES)
            .weigher(|_, table: &Arc<Table>| u32::try_from(table.bytes()).unwrap_or(u32::MAX))
            .build();
        Self { tables, stale: Mutex::default(), wake: Notify::new() }
    }
}

impl IssueTables {
    /// Asks once for a new table.
    fn renew(&self, scope: &Scope, table: &Table) {
        if !table.asked.swap(true, Ordering::Relaxed) {
            self.stale.lock().unwrap_or_else(PoisonError::into_inner).insert(scope.clone());
            self.wake.notify_one();
        }
    }

    /// Forgets the issues of a scope that is erased.
    pub async fn forget(&self, scope: &Scope) {
        let known: Vec<_> = self.tables.iter().map(|(of, _)| of).filter(|of| scope.covers(of)).collect();
        for of in known {
            self.tables.invalidate(of.as_ref()).await;
        }
    }

    fn next_stale(&self) -> Option<Scope> {
        self.stale.lock().unwrap_or_else(PoisonError::into_inner).pop_first()
    }
}

/// The recurring issues of one scope.
struct Table {
    loaded_at: Timestamp,
    /// Whether something lacks its vector.
    incomplete: bool,
    /// Whether a new one was asked for.
    asked: AtomicBool,
    issues: Vec<Row>,
}

struct Row {
    text: String,
    count: u32,
    avg_score: Option<f64>,
    tasks: Vec<Vector>,
}

impl Row {
    /// Often and badly.
    fn severity(&self) -> f64 {
        f64::from(self.count) * (10.0 - self.avg_score.unwrap_or(UNKNOWN_SCORE))
    }
}

impl Table {
    fn bytes(&self) -> usize {
        let row = |row: &Row| row.text.len() + row.tasks.iter().map(|task| 4 * task.values.len()).sum::<usize>();
        OVERHEAD_BYTES + self.issues.iter().map(row).sum::<usize>()
    }

    fn warnings(&self, task: &Vector) -> Vec<Warning> {
        let mut found = Vec::new();
        for row in &self.issues {
            let comparable = row.tasks.iter().filter(|known| known.values.len() == task.values.len());
            let nearest = comparable.map(|known| f64::from(dot(&known.values, &task.values))).reduce(f64::max);
            if let Some(similarity) = nearest.filter(|similarity| *similarity >= SIMILAR_TASK) {
                found.push((row, similarity.min(1.0)));
            }
        }
        found.sort_by(|(a, near), (b, far)| b.severity().total_cmp(&a.severity()).then(far.total_cmp(near)));
        let warning = |(row, similarity): (&Row, f64)| {
            let Row { text, count, avg_score, .. } = row;
            Warning { issue: text.clone(), count: *count, avg_score: *avg_score, similarity }
        };
        found.into_iter().take(MOST).map(warning).collect()
    }
}

impl Services {
    /// What went wrong at tasks like this one. A failure costs the warnings, never the recall.
    pub(super) async fn warnings(&self, scope: &Scope, task: &Vector) -> Vec<Warning> {
        let table = match self.issues.tables.get(scope).await {
            Some(table) => table,
            None => match self.issues.tables.try_get_with(scope.clone(), self.load_issues(scope)).await {
                Ok(table) => {
                    if table.incomplete {
                        self.issues.renew(scope, &table);
                    }
                    table
                }
                Err(error) => {
                    tracing::warn!(%error, "recalling without warnings");
                    return Vec::new();
                }
            },
        };
        if self.clock.now() - table.loaded_at >= FRESH_FOR {
            self.issues.renew(scope, &table);
        }
        if table.issues.is_empty() { Vec::new() } else { table.warnings(task) }
    }

    /// To be called after a commit that has changed issues of the scope, so that the next recall knows of it. Without
    /// it recalls notice some seconds later.
    pub async fn issues_changed(&self, scope: &Scope) {
        if self.issues.tables.contains_key(scope) {
            self.reload_issues(scope).await;
        }
    }

    /// Renews old tables, for ever.
    pub async fn watch_issues(&self) {
        loop {
            while let Some(scope) = self.issues.next_stale() {
                if let Err(error) = self.embed_issues(&scope).await {
                    tracing::warn!(%error, "recurring issues wait for their vectors");
                }
                self.reload_issues(&scope).await;
            }
            self.issues.wake.notified().await;
        }
    }

    async fn reload_issues(&self, scope: &Scope) {
        match self.load_issues(scope).await {
            Ok(table) => self.issues.tables.insert(scope.clone(), table).await,
            Err(error) => {
                tracing::warn!(%error, "forgetting recurring issues until the store answers");
                self.issues.tables.invalidate(scope).await;
            }
        }
    }

    async fn load_issues(&self, scope: &Scope) -> Result<Arc<Table>, ServiceError> {
        let now = self.clock.now();
        let mut work = self.store.read(scope).await?;
        let recurring = |issue: &Feedback| issue.count >= Feedback::RECURRING && !issue.is_forgotten();
        let issues = work.feedback().all().await?.into_iter().map(|issue| issue.faded(now)).filter(recurring);
        let mut rows: Vec<Row> = issues
            .map(|issue| Row {
                avg_score: issue.ratings.mean(),
                count: issue.count,
                text: issue.text,
                tasks: Vec::new(),
            })
            .collect();
        let mut incomplete = false;
        if let Some(embedder) = self.embedder.as_ref().filter(|_| !rows.is_empty()) {
            for (issue, task) in work.feedback().tasks().await? {
                let Some(row) = rows.iter_mut().find(|row| row.text == issue) else { continue };
                match task.vector {
                    Some(vector) if vector.space == *embedder.space() => row.tasks.push(vector),
                    _ => incomplete = true,
                }
            }
        }
        rows.retain(|row| !row.tasks.is_empty());
        Ok(Arc::new(Table { loaded_at: now, incomplete, asked: AtomicBool::new(false), issues: rows }))
    }
}
