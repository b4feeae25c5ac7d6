//! The trait of what was learned and recalled.

use async_trait::async_trait;

use super::Result;
use crate::domain::Timestamp;
use crate::domain::analytics::{Event, Rollup, Window};

/// Events of the scope and their last roll-ups. Events outlive the patterns that they name.
#[async_trait]
pub trait Analytics: Send {
    /// Adds events; one that is there already stays as it is.
    async fn append(&mut self, events: &[Event]) -> Result<()>;
    /// The newest events at or after `since`, newest first, at most `limit`.
    async fn newest(&mut self, since: Option<Timestamp>, limit: u32) -> Result<Vec<Event>>;
    /// How many events there are at or after `since`.
    async fn total(&mut self, since: Option<Timestamp>) -> Result<u64>;
    /// Removes all but the newest `keep` events.
    async fn trim(&mut self, keep: u32) -> Result<()>;
    /// The last roll-up of a window; `None` before the first.
    async fn rollup(&mut self, window: Window) -> Result<Option<Rollup>>;
    /// Stores a roll-up in place of the last one of its window.
    async fn put_rollup(&mut self, rollup: &Rollup) -> Result<()>;
}
