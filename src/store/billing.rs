//! Trait of what a tenant has subscribed to, and what it uses of it.

use async_trait::async_trait;

use super::Result;
use crate::domain::{Month, Subscription, Timestamp};

/// A place in the quota of a month, held by an evaluation that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Its name.
    pub id: String,
    /// The month in which it began.
    pub month: Month,
    /// From when the place is free again if nobody says what became of it.
    pub expires_at: Timestamp,
}

/// What a tenant holds, all projects together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Stored patterns.
    pub patterns: u64,
    /// Projects: registered ones, and those that hold patterns.
    pub projects: u64,
}

/// The account of this unit's tenant.
#[async_trait]
pub trait Billing: Send {
    /// What the tenant has subscribed to; [`Subscription::none`] where there is no row.
    async fn subscription(&mut self) -> Result<Subscription>;
    /// Stores it in place of the one before.
    async fn put_subscription(&mut self, subscription: &Subscription) -> Result<()>;
    /// Evaluations that were done in a month.
    async fn runs(&mut self, month: Month) -> Result<u64>;
    /// Takes a place if those that are taken and those that were done in its month are fewer than `most`. Of many at
    /// once no more than that succeed. Otherwise nothing changes, and their number comes back.
    async fn reserve_run(&mut self, reservation: &Reservation, most: u64, now: Timestamp) -> Result<Option<u64>>;
    /// Gives a place back; one that is gone is skipped.
    async fn release_run(&mut self, id: &str) -> Result<()>;
    /// Counts an evaluation that was done, and gives its place back if it had one.
    async fn count_run(&mut self, month: Month, reservation: Option<&str>) -> Result<()>;
    /// Sets how many evaluations were done in a month; one that has some already keeps them.
    async fn adopt_runs(&mut self, month: Month, runs: u64) -> Result<()>;
    /// What the tenant holds, with the changes of this unit.
    async fn held(&mut self) -> Result<Held>;
    /// Waits for everybody else who asked for this, and keeps them waiting until this unit ends: what [`Self::held`]
    /// says afterwards stays true.
    async fn alone(&mut self) -> Result<()>;
}
