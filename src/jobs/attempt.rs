//! One attempt of one job. The use case, its time limit, its lease and the wish to cancel run side by side; whichever is
//! first ends the attempt, and the others are dropped where they wait: a unit of work that is dropped rolls back.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument;

use super::registry::{self, Done, Failure};
use super::{LEASE, Order, Worker};
use crate::auth::AuthError;
use crate::domain::job::{HeldJob, Verdict, wait_after};
use crate::domain::{Caller, Feature, JobState};
use crate::http::problem::{ErrorCode, Problem};
use crate::service::ServiceError;
use crate::store::Pulse;

/// How often the lease is extended, and the store is asked whether the job is still wanted.
const BEAT: Duration = Duration::from_secs(5);
/// Pause before the verdict is written again where the store does not answer.
const WRITE_AGAIN: Duration = Duration::from_millis(500);

/// How an attempt ends.
enum End {
    /// The use case came to its end.
    Done(Done),
    /// It panicked.
    Panicked,
    TooLong,
    Unwanted,
    /// The job is somebody else's now, or over.
    Lost,
    /// The worker stops.
    Stopping,
}

/// Runs a job once and says what became of it.
pub async fn run(worker: Arc<Worker>, job: HeldJob, order: watch::Receiver<Order>) {
    let span = tracing::error_span!(
        "job",
        job_id = job.id,
        operation = job.operation.as_str(),
        request_id = job.submitter.request_id,
        tenant_id = job.scope.tenant(),
        project_id = job.scope.project()
    );
    attempt(&worker, &job, order).instrument(span).await;
}

/// Its span begins a trace of its own: the request that submitted it is over, and named by its id.
#[tracing::instrument(
    parent = None,
    target = "engramia::spans",
    name = "job",
    skip_all,
    fields(
        otel.name = %format_args!("job {}", job.operation.as_str()),
        otel.kind = "consumer",
        otel.status_code = tracing::field::Empty,
        engramia.job_id = job.id,
        engramia.operation = job.operation.as_str(),
        engramia.attempt = i64::from(job.attempt),
        engramia.request_id = job.submitter.request_id,
        engramia.tenant_id = job.scope.tenant(),
        engramia.project_id = job.scope.project(),
        engramia.state = tracing::field::Empty,
    )
)]
async fn attempt(worker: &Worker, job: &HeldJob, mut order: watch::Receiver<Order>) {
    let metrics = &worker.metrics;
    let waited = (worker.services.clock.now() - job.ready_at).to_std().unwrap_or_default();
    metrics.job_wait_seconds.observe(waited.as_secs_f64());
    let started = Instant::now();
    // Everything is dropped at the end of this statement: before the verdict is written, the use case must have let go
    // of its unit of work.
    let end = tokio::select! {
        outcome = AssertUnwindSafe(work(worker, job)).catch_unwind() => outcome.map_or(End::Panicked, End::Done),
        () = tokio::time::sleep(job.max_execution) => End::TooLong,
        end = hold(worker, job, started) => end,
        () = stopped(&mut order) => End::Stopping,
    };
    metrics.job_seconds.with_label_values(&[job.operation.as_str()]).observe(started.elapsed().as_secs_f64());
    let state = match verdict(worker, job, end) {
        Ok(verdict) => settle(worker, job, verdict, started).await,
        Err(state) => state,
    };
    if let Some(state) = state {
        let span = tracing::Span::current();
        span.record("engramia.state", state.as_str());
        if matches!(state, JobState::Failed | JobState::Expired) {
            span.record("otel.status_code", "ERROR");
        }
    }
    if let Some(state) = state.filter(|state| state.is_final()) {
        metrics.job_ended(job.operation, state);
        tracing::debug!(state = state.as_str(), ms = started.elapsed().as_secs_f64() * 1e3, "a job is over");
    }
}

async fn stopped(order: &mut watch::Receiver<Order>) {
    drop(order.wait_for(|order| *order == Order::Stop).await);
}

/// Runs the use case with the rights that its submitter has now.
async fn work(worker: &Worker, job: &HeldJob) -> Done {
    let submitter = &job.submitter;
    let unknown = || Problem::new(ErrorCode::Internal, "This server cannot run the operation.");
    let known = registry::known(job.operation).ok_or_else(unknown)?;
    let rights = worker.authenticator.recheck(submitter.key_id.as_deref(), submitter.role, submitter.max_patterns);
    let (role, max_patterns) = rights.await.map_err(refused)?;
    if !role.allows(known.permission) {
        return Err(ServiceError::Forbidden(role, known.permission).into());
    }
    worker.services.entitled(job.scope.tenant(), Feature::AsyncJobs).await?;
    let caller = Caller {
        scope: job.scope.clone(),
        role,
        key_id: submitter.key_id.as_deref().map(Into::into),
        max_patterns,
        address: submitter.address,
        request_id: submitter.request_id.as_deref().map(Into::into),
    };
    (known.run)(&worker.services, &caller, job).await
}

fn refused(error: AuthError) -> Failure {
    let text = match error {
        AuthError::Store(error) => return ServiceError::from(error).into(),
        AuthError::Dead { state, .. } => format!("The key that submitted this job is {state}."),
        AuthError::Unknown => "The key that submitted this job is no longer known.".to_owned(),
        other => other.to_string(),
    };
    Problem::new(ErrorCode::Forbidden, text).into()
}

/// Extends the lease until the job is lost or unwanted.
async fn hold(worker: &Worker, job: &HeldJob, started: Instant) -> End {
    let mut beat = tokio::time::interval_at(started + BEAT, BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut held_until = started + LEASE;
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            () = worker.services.jobs.cancelling() => {}
        }
        let next = Instant::now() + LEASE;
        let queue = worker.services.store.queue();
        let lease_until = worker.services.clock.now() + LEASE;
        match tokio::time::timeout_at(held_until, queue.heartbeat(job, lease_until)).await {
            Ok(Ok(Pulse::Held)) => held_until = next,
            Ok(Ok(Pulse::Unwanted)) => return End::Unwanted,
            Ok(Ok(Pulse::Lost)) | Err(_) => return End::Lost,
            Ok(Err(error)) => tracing::warn!(%error, "a lease could not be extended"),
        }
        if Instant::now() >= held_until {
            return End::Lost;
        }
    }
}

/// What to say of the job; an error, with its state as far as it is known, if there is nothing to say.
fn verdict(worker: &Worker, job: &HeldJob, end: End) -> Result<Verdict, Option<JobState>> {
    let now = worker.services.clock.now();
    Ok(match end {
        // Completed together with its effects.
        End::Done(Ok(None)) => return Err(Some(JobState::Completed)),
        // Whoever has it now says so.
        End::Lost => return Err(None),
        End::Done(Ok(Some(answer))) => Verdict::Completed(answer),
        // Nothing is changed unless it is still ours, and then somebody cancelled it.
        End::Done(Err(Failure::Lost)) | End::Unwanted => Verdict::Cancelled,
        End::Done(Err(Failure::ForGood(error))) => Verdict::Failed(error),
        End::Done(Err(Failure::ForNow { error, wait })) => {
            let mut random = [0; 4];
            worker.services.entropy.fill(&mut random);
            let pause = wait_after(job.attempt, u32::from_le_bytes(random)).max(wait.unwrap_or_default());
            tracing::info!(error, attempt = job.attempt, "a job failed and may be tried again");
            Verdict::Retry { error, at: now + pause }
        }
        End::Panicked => {
            tracing::error!("a job panicked");
            Verdict::Failed(Problem::internal().sentence())
        }
        End::TooLong => {
            let seconds = job.max_execution.as_secs_f64();
            Verdict::Expired(format!("JobTimeout: Job exceeded max execution time ({seconds}s)."))
        }
        End::Stopping => Verdict::Released(now),
    })
}

/// Writes the verdict, again and again while the lease lasts: after that somebody else decides.
async fn settle(worker: &Worker, job: &HeldJob, verdict: Verdict, started: Instant) -> Option<JobState> {
    let until = (started + LEASE).max(Instant::now() + LEASE / 2);
    let mut verdict = verdict;
    loop {
        match worker.services.settle_job(job, &verdict).await {
            // What is still ours and must not be completed was cancelled.
            Ok(None) if matches!(verdict, Verdict::Completed(_)) => verdict = Verdict::Cancelled,
            Ok(state) => return state,
            Err(error) if Instant::now() < until => {
                tracing::warn!(%error, "the end of a job could not be written yet");
                tokio::time::sleep(WRITE_AGAIN).await;
            }
            Err(error) => {
                tracing::error!(%error, "the end of a job could not be written");
                return None;
            }
        }
    }
}
