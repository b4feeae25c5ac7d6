//! Jobs whose worker was lost, that expired, or that are long over, and requests that may no longer be repeated. Every
//! worker does it; each row is done once.

use std::sync::Arc;
use std::time::Duration;

use super::Worker;
use crate::domain::JobState;
use crate::store::Result;

/// How often.
const ROUND: Duration = Duration::from_secs(5);
/// Every so many rounds what is long over is forgotten.
const SELDOM: u64 = 60;
/// Jobs of one transaction.
const MOST: u32 = 200;

/// Goes on for ever.
pub async fn run(worker: Arc<Worker>) {
    let mut tick = tokio::time::interval(ROUND);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0u64.. {
        tick.tick().await;
        if let Err(error) = reap(&worker).await {
            tracing::warn!(%error, "looking for lost jobs");
        }
        if round % SELDOM == 0
            && let Err(error) = forget(&worker).await
        {
            tracing::warn!(%error, "forgetting old jobs");
        }
    }
}

async fn reap(worker: &Worker) -> Result<()> {
    loop {
        let reaped = worker.services.store.queue().reap(worker.services.clock.now(), MOST).await?;
        for (operation, state) in &reaped {
            tracing::warn!(operation = operation.as_str(), state = state.as_str(), "a job was lost or expired");
            if state.is_final() {
                worker.metrics.job_ended(*operation, *state);
            }
        }
        if reaped.iter().any(|(_, state)| *state == JobState::Pending) {
            worker.services.jobs.ring();
        }
        if reaped.len() < MOST as usize {
            return Ok(());
        }
    }
}

async fn forget(worker: &Worker) -> Result<()> {
    let before = worker.services.clock.now() - worker.settings.retention;
    while worker.services.store.queue().forget(before, MOST).await? == u64::from(MOST) {}
    let now = worker.services.clock.now();
    while worker.services.store.repeatable().forget(now, MOST).await? == u64::from(MOST) {}
    Ok(())
}
