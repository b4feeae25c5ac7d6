//! Payments as time goes on: every worker looks, each thing is done once.

use std::sync::Arc;
use std::time::Duration;

use super::Worker;

/// How often, if nobody calls.
const ROUND: Duration = Duration::from_secs(3600);

/// Goes on for ever.
pub async fn run(worker: Arc<Worker>) {
    loop {
        if let Err(error) = worker.services.look_after_accounts().await {
            tracing::warn!(%error, "looking after accounts");
        }
        tokio::select! {
            () = worker.services.billing.bell.notified() => {}
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}
