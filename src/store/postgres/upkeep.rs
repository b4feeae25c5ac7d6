//! What is done beside the requests. Every step may be done by several servers at once and may fail: the next round
//! finds what is left.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;

use super::{Inner, PostgresStore, ann};
use crate::domain::{Scope, Timestamp};
use crate::store::governance::{Standing, Sweep};
use crate::store::{Result, Store};

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

/// Takes the next scopes of a round.
pub(super) async fn sweep(store: &PostgresStore, sweep: &Sweep, now: Timestamp) -> Result<Vec<Scope>> {
    let row = sqlx::query("select step, began_at, after_tenant, after_project, is_over from sweeps where name = $1")
        .bind(sweep.name)
        .fetch_optional(&store.inner.pool)
        .await?;
    let Some(row) = row else {
        // As if a round was just over, so that a store that comes from elsewhere is not swept before anybody has seen it.
        sqlx::query(
            "insert into sweeps (name, step, began_at, is_over) values ($1, 0, $2, true) on conflict do nothing",
        )
        .bind(sweep.name)
        .bind(now)
        .execute(&store.inner.pool)
        .await?;
        return Ok(Vec::new());
    };
    let after: Option<(&str, &str)> = row.try_get::<Option<_>, _>(2)?.zip(row.try_get::<Option<_>, _>(3)?);
    let standing = Standing {
        step: row.try_get(0)?,
        began_at: row.try_get(1)?,
        after: after.map(|(tenant, project)| Scope::verified(tenant, project)),
        is_over: row.try_get(4)?,
    };
    let Some(standing) = standing.next(sweep, now) else { return Ok(Vec::new()) };
    let scopes = store.scopes(standing.after.as_ref(), sweep.limit).await?;
    let last = scopes.last().or(standing.after.as_ref());
    let done = sqlx::query(
        "update sweeps set step = step + 1, began_at = $3, after_tenant = $4, after_project = $5, is_over = $6 \
         where name = $1 and step = $2",
    )
    .bind(sweep.name)
    .bind(standing.step)
    .bind(standing.began_at)
    .bind(last.map(|scope| scope.tenant().to_owned()))
    .bind(last.map(|scope| scope.project().to_owned()))
    .bind(scopes.is_empty())
    .execute(&store.inner.pool)
    .await?;
    Ok(if done.rows_affected() == 1 { scopes } else { Vec::new() })
}
