//! Traits of erasure: a scope is closed first, so that nobody writes into it any more, then emptied in small steps.
//! Whatever stops in between goes on where it was. A scope without a project is the whole tenant.

use std::time::Duration;

use async_trait::async_trait;

use super::Result;
use crate::domain::erasure::{ErasureOrder, ErasureTally};
use crate::domain::{Scope, Timestamp};

/// The erasure of the scope of a unit of work that [`super::Store::erase`] began.
#[async_trait]
pub trait Erasure: Send {
    /// Closes the scope: units of work that begin from then on fail, its keys are dead, jobs that wait or run are gone.
    /// `false` where nothing is there, which changes nothing; one that is being erased goes on as it was ordered.
    async fn close(&mut self, order: &ErasureOrder) -> Result<bool>;
    /// Removes some rows of a closed scope, about `most`; whether there may be more.
    async fn sweep(&mut self, most: u32, at: Timestamp) -> Result<bool>;
    /// Ends the erasure of a scope that is swept, and opens the scope if the order says so; what was done. `None` if
    /// somebody else has ended it.
    async fn finish(&mut self, at: Timestamp) -> Result<Option<ErasureTally>>;
}

/// Erasures of all scopes.
#[async_trait]
pub trait Erasures: Send + Sync {
    /// Scopes whose erasure is not finished, and on which nobody has worked since a time; with each whether it reopens.
    async fn unfinished(&self, since: Timestamp) -> Result<Vec<(Scope, bool)>>;
    /// Makes files forget what was removed, as far as that can be done while others work.
    async fn wipe(&self, scope: &Scope) -> Result<()>;
    /// Lets a scope that was erased be used again; fails while it is being erased. An open one stays open.
    async fn reopen(&self, scope: &Scope) -> Result<()>;
    /// How long other servers may still write what they know of a scope once it is open again.
    fn echo(&self) -> Duration;
}
