//! What is done in every scope again and again: removing what is too old, and reminding of requests of data subjects.
//! Workers share the scopes of a round; whoever takes one alone does it.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;

use super::Worker;
use crate::domain::Scope;
use crate::service::Result;
use crate::store::Sweep;

/// How often a worker looks whether a round is due.
const LOOK: Duration = Duration::from_secs(60);
/// Removes what is older than the retention.
const RETENTION: Sweep = Sweep { name: "retention", every: TimeDelta::hours(6), limit: 20 };
/// Reminds of requests of data subjects.
const REMINDERS: Sweep = Sweep { name: "subject-requests", every: TimeDelta::hours(24), limit: 500 };

/// Goes on for ever.
pub async fn run(worker: Arc<Worker>) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for sweep in [&REMINDERS, &RETENTION] {
            // What fails in one scope waits for the next round.
            while let Some(scopes) = next(&worker, sweep).await {
                for scope in &scopes {
                    if let Err(error) = tend(&worker, sweep, scope).await {
                        let (tenant_id, project_id) = (scope.tenant(), scope.project());
                        tracing::warn!(%error, tenant_id, project_id, sweep = sweep.name, "a scope waits for a while");
                    }
                }
            }
        }
    }
}

/// Scopes of a round that nobody else has taken; `None` where there are none for now.
async fn next(worker: &Worker, sweep: &Sweep) -> Option<Vec<Scope>> {
    match worker.services.store.sweep(sweep, worker.services.clock.now()).await {
        Ok(scopes) => Some(scopes).filter(|scopes| !scopes.is_empty()),
        Err(error) => {
            tracing::warn!(%error, sweep = sweep.name, "taking the next scopes of a round");
            None
        }
    }
}

/// Does in a scope what a round is for.
async fn tend(worker: &Worker, sweep: &Sweep, scope: &Scope) -> Result<()> {
    let services = &worker.services;
    // Requests belong to tenants, patterns to projects.
    match (sweep.name == REMINDERS.name, scope.is_whole_tenant()) {
        (true, true) => services.remind_of_requests(scope).await,
        (false, false) => {
            let purged = services.purge_expired(scope).await?;
            if purged > 0 {
                let (tenant_id, project_id) = (scope.tenant(), scope.project());
                tracing::info!(tenant_id, project_id, purged, "removed patterns that were older than the retention");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
