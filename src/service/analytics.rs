//! Analytics: events and what they add up to (`spec/engramia/20` §11).

use super::{Result, ServiceError, Services, again};
use crate::domain::analytics::{Event, Rollup, Window};
use crate::domain::{Caller, Timestamp};

impl Services {
    /// Adds up the events of the window that ends now, and keeps the outcome; `None` for a scope without any event.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn rollup(&self, caller: &Caller, window: Window) -> Result<Option<Rollup>> {
        let store = self.store.as_ref();
        self.reuse.flush_scope(store, &caller.scope).await?;
        let now = self.clock.now();
        let mut work = store.read(&caller.scope).await?;
        let events = work.analytics().newest(Some(now - window.length()), Event::KEPT).await?;
        if events.is_empty() && work.analytics().total(None).await? == 0 {
            return Ok(None);
        }
        drop(work);
        let rollup = Rollup::of(window, &events, now);
        again(|| async {
            let mut work = store.begin(&caller.scope).await?;
            work.analytics().put_rollup(&rollup).await?;
            Ok(work.commit().await?)
        })
        .await?;
        Ok(Some(rollup))
    }

    /// What was last rolled up.
    ///
    /// # Errors
    /// When nothing was, or the store fails.
    pub async fn last_rollup(&self, caller: &Caller, window: Window) -> Result<Rollup> {
        let mut work = self.store.read(&caller.scope).await?;
        work.analytics().rollup(window).await?.ok_or(ServiceError::NoRollup(window))
    }

    /// The newest events at or after `since`, newest first, and how many there are in all.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn events(&self, caller: &Caller, since: Option<Timestamp>, limit: u32) -> Result<(Vec<Event>, u64)> {
        self.reuse.flush_scope(self.store.as_ref(), &caller.scope).await?;
        let mut work = self.store.read(&caller.scope).await?;
        let events = work.analytics().newest(since, limit).await?;
        let total = work.analytics().total(since).await?;
        Ok((events, total))
    }
}
