//! What is done beside the requests. Every step may be done by several servers at once and may fail: the next round
//! finds what is left.

use std::sync::Arc;
use std::time::Duration;

use super::{Inner, ann};
use crate::store::Result;

/// How often approximate indexes are looked after.
const ROUND: Duration = Duration::from_secs(60);
/// Every so many rounds they are judged, and old tombstones removed.
const SELDOM: u64 = 10;
/// Revisions of a scope for which its tombstones are kept: a server that is further behind loads the scope anew.
const REMEMBERED: i64 = 10_000;

/// Goes on for ever.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut tick = tokio::time::interval(ROUND);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0u64.. {
        tick.tick().await;
        if let Err(error) = ann::tend(&inner).await {
            tracing::warn!(%error, "looking after approximate indexes");
        }
        if round % SELDOM == 0 {
            let outcome = async {
                ann::judge(&inner).await?;
                forget_tombstones(&inner).await
            };
            if let Err(error) = outcome.await {
                tracing::warn!(%error, "upkeep of the database");
            }
        }
    }
}

async fn forget_tombstones(inner: &Inner) -> Result<()> {
    let mut transaction = inner.system_writing().await?;
    sqlx::query(
        "with old as ( \
             delete from tombstones t using scopes s \
             where t.tenant_id = s.tenant_id and t.project_id = s.project_id and t.revision <= s.revision - $1 \
             returning t.tenant_id, t.project_id, t.revision) \
         update scopes s set forgotten = greatest(s.forgotten, o.revision) \
         from (select tenant_id, project_id, max(revision) as revision from old group by tenant_id, project_id) o \
         where s.tenant_id = o.tenant_id and s.project_id = o.project_id",
    )
    .bind(REMEMBERED)
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}
