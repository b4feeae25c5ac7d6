//! What recalls leave behind: reuse counts, recall counters and events, gathered in memory and written in batches.
//!
//! A recall is never slowed by a write, and a thousand recalls of one pattern cost one row update. A crash loses at
//! most what was gathered since the last flush; scores are never touched (decision 16).

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::domain::analytics::Event;
use crate::domain::{PatternId, Scope};
use crate::store::{Result, Store, StoreError};

/// How long counts are gathered.
pub const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// A scope that has gained so many events is cut to the newest that are kept. Whatever stops before costs a few more.
const TRIM_AFTER: usize = 500;

/// Counts that are not written yet.
#[derive(Default)]
pub struct ReuseLog {
    counts: Mutex<Counts>,
    /// Events that each scope has gained since it was last cut.
    gained: Mutex<HashMap<Scope, usize>>,
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
    /// Oldest first, at most those that are kept.
    events: VecDeque<Event>,
}

impl ReuseLog {
    /// Counts one recall that returned these patterns, and keeps what is to be said of it.
    pub fn record(&self, scope: &Scope, matches: impl Iterator<Item = PatternId>, event: Event) {
        let mut counts = self.lock();
        let scope = counts.gathered.entry(scope.clone()).or_default();
        let mut any = 0;
        for id in matches {
            *scope.reused.entry(id).or_default() += 1;
            any = 1;
        }
        scope.recalls += 1;
        scope.hits += any;
        scope.keep(event);
    }

    /// Counts events that a unit of work has written.
    pub fn gained(&self, scope: &Scope, events: usize) {
        *self.gained.lock().unwrap_or_else(PoisonError::into_inner).entry(scope.clone()).or_default() += events;
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

    /// Forgets what was recorded of a scope that is erased.
    pub fn forget(&self, scope: &Scope) {
        self.lock().gathered.retain(|of, _| !scope.covers(of));
        self.gained.lock().unwrap_or_else(PoisonError::into_inner).retain(|of, _| !scope.covers(of));
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
            outcome = self.write_in_flight(store, scope).await.and(outcome);
        }
        outcome
    }

    /// Writes what was recorded of one scope so far.
    pub async fn flush_scope(&self, store: &dyn Store, scope: &Scope) -> Result<()> {
        let _one = self.flushing.lock().await;
        {
            let mut counts = self.lock();
            let Some(batch) = counts.gathered.remove(scope) else { return Ok(()) };
            counts.in_flight.insert(scope.clone(), batch);
        }
        self.write_in_flight(store, scope.clone()).await
    }

    async fn write_in_flight(&self, store: &dyn Store, scope: Scope) -> Result<()> {
        let Some(mut batch) = self.lock().in_flight.get(&scope).cloned() else { return Ok(()) };
        let written = match write(store, &scope, &mut batch).await {
            // There is nothing left that it could be written to.
            Err(StoreError::Erased) => {
                self.lock().in_flight.remove(&scope);
                return Ok(());
            }
            written => written,
        };
        if written.is_ok() {
            self.gained(&scope, batch.events.len());
        }
        let mut counts = self.lock();
        counts.in_flight.remove(&scope);
        if written.is_err() {
            counts.gathered.entry(scope).or_default().add(batch);
        }
        written
    }

    /// Removes the oldest events of scopes that have gained many.
    async fn trim(&self, store: &dyn Store) -> Result<()> {
        let full: Vec<Scope> = {
            let mut gained = self.gained.lock().unwrap_or_else(PoisonError::into_inner);
            gained.extract_if(|_, events| *events >= TRIM_AFTER).map(|(scope, _)| scope).collect()
        };
        for scope in full {
            let mut work = match store.begin(&scope).await {
                Err(StoreError::Erased) => continue,
                work => work?,
            };
            work.analytics().trim(Event::KEPT).await?;
            work.commit().await?;
        }
        Ok(())
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
            if let Err(error) = self.trim(store).await {
                tracing::warn!(%error, "old events stay for now");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ScopeCounts {
    fn keep(&mut self, event: Event) {
        if self.events.len() >= Event::KEPT as usize {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn add(&mut self, other: Self) {
        self.recalls += other.recalls;
        self.hits += other.hits;
        for (id, count) in other.reused {
            *self.reused.entry(id).or_default() += count;
        }
        other.events.into_iter().for_each(|event| self.keep(event));
    }
}

async fn write(store: &dyn Store, scope: &Scope, batch: &mut ScopeCounts) -> Result<()> {
    let mut reused: Vec<_> = batch.reused.iter().map(|(id, count)| (*id, *count)).collect();
    reused.sort_unstable();
    let mut work = store.begin(scope).await?;
    work.patterns().count_reuse(&reused).await?;
    work.statistics().count_recalls(batch.recalls, batch.hits).await?;
    work.analytics().append(batch.events.make_contiguous()).await?;
    work.commit().await
}
