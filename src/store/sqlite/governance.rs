//! How long a project is kept, what is too old in it, and rounds through all scopes.

use async_trait::async_trait;
use sqlx::Row;

use super::{SqliteStore, SqliteWork, rows};
use crate::domain::retention::{RetentionDays, RetentionLevel};
use crate::domain::{PatternKey, Scope, Timestamp};
use crate::store::governance::{Retentions, Standing, Sweep};
use crate::store::{Result, Store, Work};

#[async_trait]
impl Retentions for SqliteWork {
    async fn days(&mut self) -> Result<RetentionDays> {
        let (query, connection) = self
            .scoped(
                "select (select retention_days from projects where tenant_id = $1 and id = $2), \
                 (select retention_days from tenants where id = $1)",
            )
            .await?;
        let row = query.fetch_one(connection).await?;
        Ok(RetentionDays { project: row.try_get(0)?, tenant: row.try_get(1)? })
    }

    async fn set_days(&mut self, level: RetentionLevel, days: Option<u32>) -> Result<()> {
        let (query, connection) = self
            .scoped(match level {
                RetentionLevel::Project => "update projects set retention_days = $3 where tenant_id = $1 and id = $2",
                // The project is only there to be bound.
                RetentionLevel::Tenant => "update tenants set retention_days = $3 where id = $1 and $2 is not null",
            })
            .await?;
        query.bind(days).execute(connection).await?;
        Ok(())
    }

    async fn count_before(&mut self, before: Timestamp) -> Result<u64> {
        let (query, connection) = self
            .scoped("select count(*) from patterns where tenant_id = $1 and project_id = $2 and created_at < $3")
            .await?;
        Ok(rows::count(query.bind(before.timestamp_micros()).fetch_one(connection).await?.try_get(0)?))
    }

    async fn oldest_before(&mut self, before: Timestamp, limit: u32) -> Result<Vec<PatternKey>> {
        let (query, connection) = self
            .scoped(
                "select key from patterns where tenant_id = $1 and project_id = $2 and created_at < $3 \
                 order by created_at limit $4",
            )
            .await?;
        let found = query.bind(before.timestamp_micros()).bind(limit).fetch_all(connection).await?;
        found.iter().map(|row| rows::key(row.try_get(0)?)).collect()
    }

    async fn has_any_before(&mut self, before: Timestamp) -> Result<bool> {
        let (query, connection) = self
            .scoped(
                "select exists (select 1 from patterns \
                         where tenant_id = $1 and project_id = $2 and created_at < $3) \
                     or exists (select 1 from analytics_events \
                         where tenant_id = $1 and project_id = $2 and created_at < $3) \
                     or exists (select 1 from feedback where tenant_id = $1 and project_id = $2 and last_seen < $3) \
                     or exists (select 1 from feedback f join feedback_tasks t on t.feedback_id = f.id \
                         where f.tenant_id = $1 and f.project_id = $2 and t.seen_at < $3)",
            )
            .await?;
        Ok(query.bind(before.timestamp_micros()).fetch_one(connection).await?.try_get(0)?)
    }

    async fn forget_issues(&mut self, before: Timestamp) -> Result<u64> {
        let mut gone = 0;
        for sql in [
            "delete from feedback_tasks where seen_at < $3 and feedback_id in ( \
                 select id from feedback where tenant_id = $1 and project_id = $2)",
            "delete from feedback where tenant_id = $1 and project_id = $2 and last_seen < $3",
        ] {
            let (query, connection) = self.scoped(sql).await?;
            gone += query.bind(before.timestamp_micros()).execute(connection).await?.rows_affected();
        }
        Ok(gone)
    }

    async fn forget_events(&mut self, before: Timestamp, limit: u32) -> Result<u64> {
        let (query, connection) = self
            .scoped(
                "delete from analytics_events where tenant_id = $1 and project_id = $2 and (created_at, id) in ( \
                     select created_at, id from analytics_events \
                     where tenant_id = $1 and project_id = $2 and created_at < $3 order by created_at, id limit $4)",
            )
            .await?;
        Ok(query.bind(before.timestamp_micros()).bind(limit).execute(connection).await?.rows_affected())
    }
}

/// Takes the next scopes of a round.
pub(super) async fn sweep(store: &SqliteStore, sweep: &Sweep, now: Timestamp) -> Result<Vec<Scope>> {
    let row = sqlx::query("select step, began_at, after_tenant, after_project, is_over from sweeps where name = $1")
        .bind(sweep.name)
        .fetch_optional(&store.readers)
        .await?;
    let Some(row) = row else {
        // As if a round was just over, so that a store that comes from elsewhere is not swept before anybody has seen it.
        let mut work = store.writing(&Scope::default()).await?;
        sqlx::query(
            "insert into sweeps (name, step, began_at, is_over) values ($1, 0, $2, true) on conflict do nothing",
        )
        .bind(sweep.name)
        .bind(now.timestamp_micros())
        .execute(work.connection().await?)
        .await?;
        work.commit().await?;
        return Ok(Vec::new());
    };
    let after: Option<(&str, &str)> = row.try_get::<Option<_>, _>(2)?.zip(row.try_get::<Option<_>, _>(3)?);
    let standing = Standing {
        step: row.try_get(0)?,
        began_at: rows::time(row.try_get(1)?)?,
        after: after.map(|(tenant, project)| Scope::verified(tenant, project)),
        is_over: row.try_get(4)?,
    };
    let Some(standing) = standing.next(sweep, now) else { return Ok(Vec::new()) };
    let scopes = store.scopes(standing.after.as_ref(), sweep.limit).await?;
    let last = scopes.last().or(standing.after.as_ref());
    let mut work = store.writing(&Scope::default()).await?;
    let done = sqlx::query(
        "update sweeps set step = step + 1, began_at = $3, after_tenant = $4, after_project = $5, is_over = $6 \
         where name = $1 and step = $2",
    )
    .bind(sweep.name)
    .bind(standing.step)
    .bind(standing.began_at.timestamp_micros())
    .bind(last.map(|scope| scope.tenant().to_owned()))
    .bind(last.map(|scope| scope.project().to_owned()))
    .bind(scopes.is_empty())
    .execute(work.connection().await?)
    .await?;
    work.commit().await?;
    Ok(if done.rows_affected() == 1 { scopes } else { Vec::new() })
}
