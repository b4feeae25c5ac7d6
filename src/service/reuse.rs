//! What recalls leave behind: reuse counts and recall counters, gathered in memory and written in batches.
//!
//! A recall is never slowed by a write, and a thousand recalls of one pattern cost one row update. A crash loses at
//! most what was gathered since the last flush; scores are never touched (decision 16).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::domain::{PatternId, Scope};
use crate::store::{Result, Store};

/// How long counts are gathered.
pub const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// Counts that are not written yet.
#[derive(Default)]
pub struct ReuseLog {
    counts: Mutex<Counts>,
    /// One flush at a time, so that a flush that returns has written everything recorded before it began.
    flushing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Counts {
    gathered: HashMap<Scope, ScopeCounts>,
    /// Being written: still visible, so that a count never goes down for a moment.
    in_flight: HashMap<Scope, ScopeCounts>,
}

#[derive(Default, Clone)]
struct ScopeCounts {
    recalls: u64,
    hits: u64,
    reused: HashMap<PatternId, u32>,
}

impl ReuseLog {
    /// Counts one recall that returned these patterns.
    pub fn record(&self, scope: &Scope, matches: impl Iterator<Item = PatternId>) {
        let mut counts = self.lock();
        let scope = counts.gathered.entry(scope.clone()).or_default();
        let mut any = 0;
        for id in matches {
            *scope.reused.entry(id).or_default() += 1;
            any = 1;
        }
        scope.recalls += 1;
        scope.hits += any;
    }

    /// Reuses of a pattern that are not in its row yet.
    pub fn pending(&self, scope: &Scope, id: PatternId) -> u64 {
        let counts = self.lock();
        let of = |map: &HashMap<Scope, ScopeCounts>| map.get(scope).and_then(|s| s.reused.get(&id)).copied();
        u64::from(of(&counts.gathered).unwrap_or(0)) + u64::from(of(&counts.in_flight).unwrap_or(0))
    }

    /// Recalls and hits of a scope that are not in its counters yet.
    pub fn pending_recalls(&self, scope: &Scope) -> (u64, u64) {
        let counts = self.lock();
        let of = |map: &HashMap<Scope, ScopeCounts>| map.get(scope).map_or((0, 0), |s| (s.recalls, s.hits));
        let (a, b) = (of(&counts.gathered), of(&counts.in_flight));
        (a.0 + b.0, a.1 + b.1)
    }

    /// Writes everything recorded so far. What cannot be written is kept for the next time.
    pub async fn flush(&self, store: &dyn Store) -> Result<()> {
        let _one = self.flushing.lock().await;
        let scopes: Vec<Scope> = {
            let mut counts = self.lock();
            counts.in_flight = std::mem::take(&mut counts.gathered);
            counts.in_flight.keys().cloned().collect()
        };
        let mut outcome = Ok(());
        for scope in scopes {
            let Some(batch) = self.lock().in_flight.get(&scope).cloned() else { continue };
            let written = write(store, &scope, &batch).await;
            let mut counts = self.lock();
            counts.in_flight.remove(&scope);
            if let Err(error) = written {
                counts.gathered.entry(scope).or_default().add(batch);
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Flushes for ever.
    pub async fn run(&self, store: &dyn Store) {
        let mut tick = tokio::time::interval(FLUSH_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.flush(store).await {
                tracing::warn!(%error, "reuse counts are kept until the store answers");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ScopeCounts {
    fn add(&mut self, other: Self) {
        self.recalls += other.recalls;
        self.hits += other.hits;
        for (id, count) in other.reused {
            *self.reused.entry(id).or_default() += count;
        }
    }
}

async fn write(store: &dyn Store, scope: &Scope, batch: &ScopeCounts) -> Result<()> {
    let mut reused: Vec<_> = batch.reused.iter().map(|(id, count)| (*id, *count)).collect();
    reused.sort_unstable();
    let mut work = store.begin(scope).await?;
    work.patterns().count_reuse(&reused).await?;
    work.statistics().count_recalls(batch.recalls, batch.hits).await?;
    work.commit().await
}
