//! How long a project is kept, and what is too old in it.

use async_trait::async_trait;
use sqlx::Row;

use super::rows;
use super::unit::PostgresWork;
use crate::domain::retention::{RetentionDays, RetentionLevel};
use crate::domain::{PatternKey, Timestamp};
use crate::store::Result;
use crate::store::engine::{count, key, small};
use crate::store::governance::Retentions;

#[async_trait]
impl Retentions for PostgresWork {
    async fn days(&mut self) -> Result<RetentionDays> {
        let (query, connection) = self
            .scoped(
                "select (select retention_days from projects where tenant_id = $1 and id = $2), \
                 (select retention_days from tenants where id = $1)",
            )
            .await?;
        let row = query.fetch_one(connection).await?;
        let days = |column: usize| Ok::<_, sqlx::Error>(row.try_get::<Option<i32>, _>(column)?.map(small));
        Ok(RetentionDays { project: days(0)?, tenant: days(1)? })
    }

    async fn set_days(&mut self, level: RetentionLevel, days: Option<u32>) -> Result<()> {
        self.written()?;
        let (query, connection) = self
            .scoped(match level {
                RetentionLevel::Project => "update projects set retention_days = $3 where tenant_id = $1 and id = $2",
                // The project is only there to be bound.
                RetentionLevel::Tenant => {
                    "update tenants set retention_days = $3 where id = $1 and $2::text is not null"
                }
            })
            .await?;
        query.bind(days.map(u32::cast_signed)).execute(connection).await?;
        Ok(())
    }

    async fn count_before(&mut self, before: Timestamp) -> Result<u64> {
        let (query, connection) = self
            .scoped("select count(*) from patterns where tenant_id = $1 and project_id = $2 and created_at < $3")
            .await?;
        Ok(count(query.bind(before).fetch_one(connection).await?.try_get(0)?))
    }

    async fn oldest_before(&mut self, before: Timestamp, limit: u32) -> Result<Vec<PatternKey>> {
        let (query, connection) = self
            .scoped(
                "select key from patterns where tenant_id = $1 and project_id = $2 and created_at < $3 \
                 order by created_at limit $4",
            )
            .await?;
        let found = query.bind(before).bind(i64::from(limit)).fetch_all(connection).await?;
        found.iter().map(|row| key(&rows::text(row.try_get(0)?))).collect()
    }

    async fn has_any_before(&mut self, before: Timestamp) -> Result<bool> {
        let (query, connection) = self
            .scoped(
                "select exists (select from patterns \
                         where tenant_id = $1 and project_id = $2 and created_at < $3) \
                     or exists (select from analytics_events \
                         where tenant_id = $1 and project_id = $2 and created_at < $3) \
                     or exists (select from feedback where tenant_id = $1 and project_id = $2 and last_seen < $3) \
                     or exists (select from feedback_tasks where tenant_id = $1 and project_id = $2 and seen_at < $3)",
            )
            .await?;
        Ok(query.bind(before).fetch_one(connection).await?.try_get(0)?)
    }

    async fn forget_issues(&mut self, before: Timestamp) -> Result<u64> {
        self.written()?;
        let mut gone = 0;
        for sql in [
            "delete from feedback_tasks where tenant_id = $1 and project_id = $2 and seen_at < $3",
            "delete from feedback where tenant_id = $1 and project_id = $2 and last_seen < $3",
        ] {
            let (query, connection) = self.scoped(sql).await?;
            gone += query.bind(before).execute(connection).await?.rows_affected();
        }
        Ok(gone)
    }

    async fn forget_events(&mut self, before: Timestamp, limit: u32) -> Result<u64> {
        self.written()?;
        let (query, connection) = self
            .scoped(
                "with old as materialized ( \
                     select created_at, id from analytics_events \
                     where tenant_id = $1 and project_id = $2 and created_at < $3 order by created_at, id limit $4) \
                 delete from analytics_events e using old \
                 where e.tenant_id = $1 and e.project_id = $2 and e.created_at = old.created_at and e.id = old.id",
            )
            .await?;
        Ok(query.bind(before).bind(i64::from(limit)).execute(connection).await?.rows_affected())
    }
}
