//! Traits of background jobs: what a scope does with its own, and what a worker does with everybody's.

use async_trait::async_trait;

use super::Result;
use crate::domain::job::{Cancelling, HeldJob, NewJob, Verdict};
use crate::domain::{Job, JobOperation, JobState, Timestamp};

/// The jobs of one scope, inside a unit of work.
#[async_trait]
pub trait Jobs: Send {
    /// Queues a job. Workers see it once the unit is committed.
    async fn enqueue(&mut self, job: &NewJob) -> Result<()>;
    /// The job with this id; `None` if the scope has none.
    async fn get(&mut self, id: &str) -> Result<Option<Job>>;
    /// The newest jobs first, at most `limit`, all or those in one state.
    async fn list(&mut self, state: Option<JobState>, limit: u32) -> Result<Vec<Job>>;
    /// Cancels a job that waits, and asks the worker of one that runs to stop; an unknown one is too late.
    async fn cancel(&mut self, id: &str, at: Timestamp) -> Result<Cancelling>;
    /// Says what became of the job that was held by `attempt`: in the same unit of work as its effects, they happen
    /// both or neither. The state after it; `None`, and nothing is changed, if the job is no longer held by this
    /// attempt, or would be completed although somebody cancelled it.
    async fn settle(&mut self, id: &str, attempt: u32, verdict: Verdict, at: Timestamp) -> Result<Option<JobState>>;
    /// Keeps how far the job is, for the next attempt, and grants it as many more attempts as a new job has: what gets on
    /// is not given up. `false`, and nothing is changed, if it is no longer held by this
    /// attempt or somebody cancelled it.
    async fn keep_progress(&mut self, id: &str, attempt: u32, progress: &str) -> Result<bool>;
}

/// What a worker is ready to take.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    /// Who takes it.
    pub worker: &'a str,
    /// Jobs that may begin at this time.
    pub now: Timestamp,
    /// Until when the worker holds them without a word.
    pub lease_until: Timestamp,
    /// Nothing of these tenants.
    pub without: &'a [String],
    /// At most so many, and at most one a tenant.
    pub limit: u32,
}

/// What a heartbeat finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// The job is still held by this attempt.
    Held,
    /// It is, and somebody wishes it to stop.
    Unwanted,
    /// It is not.
    Lost,
}

/// As many jobs as are counted where somebody asks how many wait.
pub const COUNTED: u32 = 10_000;

/// The jobs of all scopes, as workers see them.
#[async_trait]
pub trait JobQueue: Send + Sync {
    /// Takes jobs: one of each tenant that was not served for the longest time, its oldest one. Never waits for a
    /// writer of a scope.
    async fn claim(&self, claim: &Claim<'_>) -> Result<Vec<HeldJob>>;
    /// Extends the lease.
    async fn heartbeat(&self, job: &HeldJob, lease_until: Timestamp) -> Result<Pulse>;
    /// Takes jobs from workers whose lease ran out, and ends those that expired, waiting or running; at most `limit` of
    /// both. What they are now.
    async fn reap(&self, now: Timestamp, limit: u32) -> Result<Vec<(JobOperation, JobState)>>;
    /// Ends the leases of workers that cannot be alive any more, because only one process at a time opens this store.
    async fn end_leases_of_predecessors(&self, now: Timestamp) -> Result<()>;
    /// Forgets jobs that came to their end before this time, at most `limit`; how many.
    async fn forget(&self, before: Timestamp, limit: u32) -> Result<u64>;
    /// When the next waiting job may begin; `None` if none waits. May name a time at which there is none any more.
    async fn next_due(&self) -> Result<Option<Timestamp>>;
    /// How many jobs wait, counted to [`COUNTED`]: a gauge must not cost more the more it shows.
    async fn waiting(&self) -> Result<u64>;
    /// Returns when another process may have queued a job; never where there is no other process. May miss some.
    async fn rung(&self) -> Result<()>;
}
