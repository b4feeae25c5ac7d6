//! Retention: how long a project is kept, and the removal of what is older (`spec/engramia/30` §7, `docs/governance.md`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::audit::commit;
use super::jobs::Finish;
use super::{Result, Services, again};
use crate::domain::audit::{AuditAction, AuditEvent};
use crate::domain::retention::{Retention, RetentionLevel, RetentionSource};
use crate::domain::{Caller, Scope, Timestamp};

/// Patterns a unit of work: short enough that a learn in between hardly waits.
const BATCH: u32 = 100;
/// Events a unit of work.
const EVENTS: u32 = 1_000;
/// Pause between two units of work where nobody waits for the end.
const PAUSE: Duration = Duration::from_millis(100);

/// Patterns that were removed because of their age and that no metric counts yet.
#[derive(Default)]
pub struct Removed(AtomicU64);

impl Removed {
    /// How many since the last call.
    pub fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// What an application of the retention came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Patterns that were removed, or would be.
    pub purged: u64,
    /// Whether they only would be.
    pub dry_run: bool,
}

/// How far an application is.
#[derive(Serialize, Deserialize, Clone, Copy)]
struct Progress {
    /// What was made before this time is removed, in microseconds since the epoch.
    before: i64,
    purged: u64,
}

/// A removal. If it ends with some batches done and before it says so itself, that is recorded.
struct Purge<'a> {
    services: &'a Services,
    scope: &'a Scope,
    before: Timestamp,
    event: AuditEvent,
    purged: u64,
    pause: Duration,
    is_said: bool,
}

impl Drop for Purge<'_> {
    fn drop(&mut self) {
        if !self.is_said && self.purged > 0 {
            let event = self.event.clone().with("purged_count", self.purged).with("incomplete", true);
            self.services.audit.note(Some(self.scope), event);
        }
    }
}

impl Services {
    /// How long patterns of the caller's project are kept, and who says so.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn retention(&self, caller: &Caller) -> Result<Retention> {
        self.retention_of(&caller.scope).await
    }

    async fn retention_of(&self, scope: &Scope) -> Result<Retention> {
        let days = self.store.read(scope).await?.retention().days().await?;
        Ok(days.effective(self.rules.retention_days))
    }

    /// Sets how long patterns of the caller's project, or of all projects of its tenant that set nothing, are kept;
    /// `None` leaves it to the next level. What holds for the project then.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn set_retention(&self, caller: &Caller, level: RetentionLevel, days: Option<u32>) -> Result<Retention> {
        let scope = &caller.scope;
        let event = self.audit.event_of(AuditAction::RetentionSet, caller).with("level", level.as_str());
        let event = &event.with("retention_days", days);
        again(|| async move {
            let mut work = self.store.begin(scope).await?;
            let before = work.retention().days().await?.at(level);
            // Static keys and tokens open projects that nobody has registered.
            if days.is_some() {
                work.projects().register(scope.project(), None, self.clock.now()).await?;
            }
            work.retention().set_days(level, days).await?;
            let effective = work.retention().days().await?.effective(self.rules.retention_days);
            commit(work, scope, &event.clone().with("before", before)).await?;
            Ok(effective)
        })
        .await
    }

    /// Removes what is older than the retention of the caller's project, or only counts it.
    ///
    /// # Errors
    /// When the store fails; what was removed in earlier batches stays so.
    pub async fn apply_retention(
        &self,
        caller: &Caller,
        dry_run: bool,
        finish: &Finish<'_, Applied>,
    ) -> Result<Applied> {
        let event = self.audit.event_of(AuditAction::RetentionApplied, caller).with("dry_run", dry_run);
        let progress: Option<Progress> = finish.progress();
        let before = match progress.and_then(|progress| Timestamp::from_timestamp_micros(progress.before)) {
            Some(before) => Some(before),
            None => self.retention_of(&caller.scope).await?.cutoff(self.clock.now()),
        };
        let scope = &caller.scope;
        match before {
            Some(before) if !dry_run => {
                let purged = progress.map_or(0, |progress| progress.purged);
                let pause = Duration::ZERO;
                self.purge(Purge { services: self, scope, before, event, purged, pause, is_said: false }, finish).await
            }
            _ => {
                let purged = match before {
                    Some(before) => self.store.read(scope).await?.retention().count_before(before).await?,
                    None => 0,
                };
                let applied = Applied { purged, dry_run };
                let event = &event.with("purged_count", purged);
                again(|| async move {
                    let mut work = self.store.begin(scope).await?;
                    finish.settle(work.as_mut(), &applied).await?;
                    Ok(commit(work, scope, event).await?)
                })
                .await?;
                Ok(applied)
            }
        }
    }

    /// Removes what is older than the retention of a project, with pauses; how many patterns. Nothing is written where
    /// nothing is too old.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn purge_expired(&self, scope: &Scope) -> Result<u64> {
        let retention = self.retention_of(scope).await?;
        if retention.source == RetentionSource::Default && !self.rules.retention_is_set {
            return Ok(0);
        }
        let Some(before) = retention.cutoff(self.clock.now()) else { return Ok(0) };
        if !self.store.read(scope).await?.retention().has_any_before(before).await? {
            return Ok(0);
        }
        let event = self.audit.event(AuditAction::RetentionApplied, None, None);
        let event = event.with("dry_run", false).with("automatic", true);
        let purge = Purge { services: self, scope, before, event, purged: 0, pause: PAUSE, is_said: false };
        Ok(self.purge(purge, &Finish::at_once()).await?.purged)
    }

    /// Removes patterns batch by batch, then what else is as old; the last unit of work says so.
    async fn purge(&self, mut purge: Purge<'_>, finish: &Finish<'_, Applied>) -> Result<Applied> {
        loop {
            let so_far = &purge;
            let removed = again(|| self.purge_batch(so_far, finish)).await?;
            purge.purged += removed;
            self.removed.0.fetch_add(removed, Ordering::Relaxed);
            if removed < u64::from(BATCH) {
                break;
            }
            tokio::time::sleep(purge.pause).await;
        }
        let (scope, before) = (purge.scope, purge.before);
        while again(|| self.purge_events(scope, before)).await? == u64::from(EVENTS) {
            tokio::time::sleep(purge.pause).await;
        }
        let applied = Applied { purged: purge.purged, dry_run: false };
        let event = &purge.event.clone().with("purged_count", purge.purged);
        let issues = again(|| async move {
            let mut work = self.store.begin(scope).await?;
            let issues = work.retention().forget_issues(before).await?;
            finish.settle(work.as_mut(), &applied).await?;
            commit(work, scope, event).await?;
            Ok(issues)
        })
        .await?;
        purge.is_said = true;
        if issues > 0 {
            self.issues_changed(scope).await;
        }
        Ok(applied)
    }

    async fn purge_batch(&self, purge: &Purge<'_>, finish: &Finish<'_, Applied>) -> Result<u64> {
        let mut work = self.store.begin(purge.scope).await?;
        let keys = work.retention().oldest_before(purge.before, BATCH).await?;
        let mut removed = 0;
        for key in &keys {
            removed += u64::from(work.patterns().delete(key).await?);
        }
        if removed > 0 {
            let progress = Progress { before: purge.before.timestamp_micros(), purged: purge.purged + removed };
            finish.keep_progress(work.as_mut(), &progress).await?;
            work.commit().await?;
        }
        Ok(removed)
    }

    async fn purge_events(&self, scope: &Scope, before: Timestamp) -> Result<u64> {
        let mut work = self.store.begin(scope).await?;
        let removed = work.retention().forget_events(before, EVENTS).await?;
        if removed > 0 {
            work.commit().await?;
        }
        Ok(removed)
    }
}
