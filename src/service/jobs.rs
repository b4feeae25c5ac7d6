//! Background jobs: submitting, looking at and cancelling them, and how a use case that runs as one ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::{Result, ServiceError, Services, again};
use crate::domain::job::{Cancelling, HeldJob, NewJob, Submitter, Verdict};
use crate::domain::{Caller, Feature, Job, JobOperation, JobState};
use crate::ports::Clock;
use crate::store::{StoreError, Work};

/// Tells the worker of this process what happened here, so that it need not wait until it looks the next time.
#[derive(Default)]
pub struct JobBell {
    queued: Notify,
    cancelled: Notify,
}

impl JobBell {
    /// A job was queued.
    pub fn ring(&self) {
        self.queued.notify_one();
    }

    /// Waits until a job was queued.
    pub async fn rung(&self) {
        self.queued.notified().await;
    }

    /// Jobs that run may be over: their workers look at once.
    pub fn interrupt(&self) {
        self.cancelled.notify_waiters();
    }

    /// Waits until somebody cancels a running job, whichever.
    pub async fn cancelling(&self) {
        self.cancelled.notified().await;
    }
}

/// How a use case ends. As a job it keeps its result, and what it got done so far, in the units of work that hold its
/// effects: both happen or neither. Called at once, for a request that waits, it keeps nothing.
pub struct Finish<'a, T> {
    job: Option<Running<'a, T>>,
}

struct Running<'a, T> {
    job: &'a HeldJob,
    clock: &'a dyn Clock,
    answer: fn(&T) -> serde_json::Result<String>,
    settled: AtomicBool,
}

impl<'a, T: Sync> Finish<'a, T> {
    /// For a request that waits.
    pub fn at_once() -> Self {
        Self { job: None }
    }

    /// For a job, whose answer is made from the result of the use case.
    pub fn of_job(job: &'a HeldJob, clock: &'a dyn Clock, answer: fn(&T) -> serde_json::Result<String>) -> Self {
        Self { job: Some(Running { job, clock, answer, settled: AtomicBool::new(false) }) }
    }

    /// Whether the result is kept already.
    pub fn is_settled(&self) -> bool {
        self.job.as_ref().is_some_and(|running| running.settled.load(Ordering::Acquire))
    }

    /// Puts the result into the unit of work that is to be committed next; whether there was something to put.
    ///
    /// # Errors
    /// [`ServiceError::JobLost`] when the job is no longer ours or was cancelled: the unit must not be committed.
    pub async fn settle(&self, work: &mut dyn Work, result: &T) -> Result<bool> {
        let Some(Running { job, clock, answer, settled }) = &self.job else { return Ok(false) };
        let text = answer(result).map_err(|error| ServiceError::Unwritable(error.into()))?;
        let state = work.jobs().settle(&job.id, job.attempt, Verdict::Completed(text), clock.now()).await?;
        state.ok_or(ServiceError::JobLost)?;
        settled.store(true, Ordering::Release);
        Ok(true)
    }

    /// What an earlier attempt got done.
    pub fn progress<P: DeserializeOwned>(&self) -> Option<P> {
        serde_json::from_str(self.job.as_ref()?.job.progress.as_deref()?).ok()
    }

    /// Puts what is done so far into the unit of work that does it.
    ///
    /// # Errors
    /// As [`Self::settle`].
    pub async fn keep_progress<P: Serialize + Sync>(&self, work: &mut dyn Work, progress: &P) -> Result<()> {
        let Some(Running { job, .. }) = &self.job else { return Ok(()) };
        let text = serde_json::to_string(progress).map_err(|error| ServiceError::Unwritable(error.into()))?;
        if work.jobs().keep_progress(&job.id, job.attempt, &text).await? { Ok(()) } else { Err(ServiceError::JobLost) }
    }
}

impl Services {
    /// Queues an operation to run in the background under the caller's rights; the id of the job.
    pub async fn submit_job(
        &self,
        caller: &Caller,
        operation: JobOperation,
        params: String,
        max_execution: Option<Duration>,
    ) -> Result<String> {
        self.entitled(caller.scope.tenant(), Feature::AsyncJobs).await?;
        self.may_begin(caller, operation).await?;
        let now = self.clock.now();
        let job = NewJob {
            id: self.new_id(),
            operation,
            params,
            submitter: Submitter {
                key_id: caller.key_id.as_deref().map(str::to_owned),
                role: caller.role,
                max_patterns: caller.max_patterns,
                address: caller.address,
                request_id: caller.request_id.as_deref().map(str::to_owned),
            },
            created_at: now,
            expires_at: now + self.rules.jobs.expires_after,
            max_execution: max_execution.unwrap_or(self.rules.jobs.max_execution),
        };
        let job = &job;
        again(|| async move {
            let mut work = self.store.begin(&caller.scope).await?;
            work.jobs().enqueue(job).await?;
            Ok(work.commit().await?)
        })
        .await?;
        self.jobs.ring();
        Ok(job.id.clone())
    }

    /// A job of the caller's scope.
    pub async fn job(&self, caller: &Caller, id: &str) -> Result<Job> {
        let job = self.store.read(&caller.scope).await?.jobs().get(id).await?;
        job.ok_or(ServiceError::JobNotFound)
    }

    /// The newest jobs of the caller's scope first.
    pub async fn jobs(&self, caller: &Caller, state: Option<JobState>, limit: u32) -> Result<Vec<Job>> {
        Ok(self.store.read(&caller.scope).await?.jobs().list(state, limit).await?)
    }

    /// Cancels a job, at once or as soon as its worker hears of it; `false` where there is nothing left to cancel.
    pub async fn cancel_job(&self, caller: &Caller, id: &str) -> Result<bool> {
        let cancelling = again(|| async move {
            let mut work = self.store.begin(&caller.scope).await?;
            let cancelling = work.jobs().cancel(id, self.clock.now()).await?;
            if cancelling != Cancelling::TooLate {
                work.commit().await?;
            }
            Ok(cancelling)
        })
        .await?;
        if cancelling == Cancelling::Requested {
            self.jobs.interrupt();
        }
        Ok(cancelling != Cancelling::TooLate)
    }

    /// Says what became of a job, in a unit of work of its own; `None` if that is no longer ours to say.
    pub async fn settle_job(&self, job: &HeldJob, verdict: &Verdict) -> Result<Option<JobState>> {
        again(|| async move {
            let mut work = match self.store.begin(&job.scope).await {
                Err(StoreError::Erased) => return Ok(None),
                work => work?,
            };
            let state = work.jobs().settle(&job.id, job.attempt, verdict.clone(), self.clock.now()).await?;
            if state.is_some() {
                work.commit().await?;
            }
            Ok(state)
        })
        .await
    }
}
