//! Trait of requests that may be repeated without being carried out again.
//!
//! Not part of a unit of work: that a request is under way has to be known before its own unit begins, and whoever
//! repeats it shall not wait for the writers of the scope.

use async_trait::async_trait;

use super::Result;
use crate::domain::{Scope, Timestamp};

/// A place among the requests of a scope, and who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The name of the request, which only its client can tell.
    pub name: [u8; 32],
    /// Who carries it out: another word for every attempt.
    pub holder: String,
}

/// A request that somebody wants to carry out.
#[derive(Debug, Clone)]
pub struct Application {
    /// The place that is asked for.
    pub hold: Hold,
    /// Digest of what is to be done.
    pub request: [u8; 32],
    /// The time now.
    pub now: Timestamp,
    /// Until when the place is held without a word.
    pub lease_until: Timestamp,
    /// When the place is free again, whatever became of the request.
    pub expires_at: Timestamp,
}

/// What there is at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nothing: it belongs to who asked.
    Free,
    /// The same request, which somebody is carrying out.
    Held,
    /// The same request, carried out, and its answer if that was kept.
    Done(Option<Vec<u8>>),
    /// Another request.
    Taken,
}

/// Requests that may be repeated, in every scope.
#[async_trait]
pub trait Repeatable: Send + Sync {
    /// Takes a place if nobody has it, or its time or the lease of its holder is over. Of many at once one gets it.
    /// Durable when this returns.
    async fn take(&self, scope: &Scope, application: &Application) -> Result<Place>;
    /// Extends the lease; nothing happens if the place is no longer held.
    async fn renew(&self, scope: &Scope, hold: &Hold, lease_until: Timestamp) -> Result<()>;
    /// Notes that the request is carried out; nothing happens if the place is no longer held.
    async fn keep(&self, scope: &Scope, hold: &Hold, answer: Option<&[u8]>) -> Result<()>;
    /// Gives the place back; nothing happens if it is no longer held.
    async fn release(&self, scope: &Scope, hold: &Hold) -> Result<()>;
    /// Forgets places whose time is over, at most `limit`; how many.
    async fn forget(&self, now: Timestamp, limit: u32) -> Result<u64>;
}
