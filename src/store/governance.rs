//! Traits of governance: how long a project is kept and what is too old in it, requests of data subjects, and rounds
//! through all scopes.

use async_trait::async_trait;
use chrono::TimeDelta;

use super::Result;
use crate::domain::retention::{RetentionDays, RetentionLevel};
use crate::domain::subject::{RequestStatus, SubjectRequest};
use crate::domain::{PatternKey, Timestamp};

/// How long the patterns of a project are kept, and what is older.
#[async_trait]
pub trait Retentions: Send {
    /// What this unit's project and its tenant have set.
    async fn days(&mut self) -> Result<RetentionDays>;
    /// Sets or clears the days of this unit's project or of its tenant, which is skipped if it is not registered.
    async fn set_days(&mut self, level: RetentionLevel, days: Option<u32>) -> Result<()>;
    /// How many patterns were made before a time.
    async fn count_before(&mut self, before: Timestamp) -> Result<u64>;
    /// Patterns that were made before a time, the oldest first, at most `limit`.
    async fn oldest_before(&mut self, before: Timestamp, limit: u32) -> Result<Vec<PatternKey>>;
    /// Whether there is anything from before a time: a pattern, an event, an issue or a task of one.
    async fn has_any_before(&mut self, before: Timestamp) -> Result<bool>;
    /// Removes issues that were last seen before a time, and tasks of the others in which they were; how many of both.
    async fn forget_issues(&mut self, before: Timestamp) -> Result<u64>;
    /// Removes events from before a time, at most `limit`; how many.
    async fn forget_events(&mut self, before: Timestamp, limit: u32) -> Result<u64>;
}

/// Which requests of data subjects.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestQuery {
    /// Only those in this state.
    pub status: Option<RequestStatus>,
    /// Only open ones that were due before this time.
    pub due_before: Option<Timestamp>,
    /// How many at most.
    pub limit: u32,
}

/// Open requests of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenRequests {
    /// Those that nobody has begun with.
    pub pending: u64,
    /// Those that somebody has.
    pub in_progress: u64,
    /// Of both, those whose time is over.
    pub overdue: u64,
}

/// Requests of data subjects. They belong to the tenant, whatever the project of the unit of work.
#[async_trait]
pub trait SubjectRequests: Send {
    /// Stores a request, in place of the one with its id if there is one.
    async fn put(&mut self, request: &SubjectRequest) -> Result<()>;
    /// The request with this id. In a unit of work that writes, nobody else changes it until the end.
    async fn get(&mut self, id: &str) -> Result<Option<SubjectRequest>>;
    /// Requests, the newest first.
    async fn list(&mut self, query: &RequestQuery) -> Result<Vec<SubjectRequest>>;
    /// Requests in the order of their ids after an id.
    async fn page(&mut self, after: &str, limit: u32) -> Result<Vec<SubjectRequest>>;
    /// How many are open at a time.
    async fn open(&mut self, now: Timestamp) -> Result<OpenRequests>;
}

/// A round through all scopes that begins anew every so often; for the first time so long after somebody asked first.
#[derive(Debug, Clone, Copy)]
pub struct Sweep {
    /// Its name; it is the same round for everybody who knows the name.
    pub name: &'static str,
    /// From the beginning of one round to that of the next, or longer if it takes longer.
    pub every: TimeDelta,
    /// Scopes at a time.
    pub limit: u32,
}

/// How far a round is.
#[derive(Debug, Clone)]
pub(in crate::store) struct Standing {
    /// Raised by whoever takes scopes.
    pub(in crate::store) step: i64,
    /// When it began.
    pub(in crate::store) began_at: Timestamp,
    /// The scope after which it goes on.
    pub(in crate::store) after: Option<crate::domain::Scope>,
    /// Whether it is through.
    pub(in crate::store) is_over: bool,
}

impl Standing {
    /// Where a round goes on at `now`; `None` until the next one begins.
    pub(in crate::store) fn next(self, sweep: &Sweep, now: Timestamp) -> Option<Self> {
        if !self.is_over {
            return Some(self);
        }
        (self.began_at + sweep.every <= now).then_some(Self { began_at: now, after: None, is_over: false, ..self })
    }
}
