//! Requests that may be repeated.

use async_trait::async_trait;
use sqlx::Row;

use super::SqliteStore;
use crate::domain::{Scope, Timestamp};
use crate::store::idempotency::{Application, Hold, Place, Repeatable};
use crate::store::{Result, Work};

#[async_trait]
impl Repeatable for SqliteStore {
    async fn take(&self, scope: &Scope, application: &Application) -> Result<Place> {
        let mut work = self.writing(scope).await?;
        self.closed.refuse(scope)?;
        let (query, connection) = work
            .scoped(
                "insert into idempotency_keys (tenant_id, project_id, name, request, holder, lease_until, expires_at) \
                 values ($1, $2, $3, $4, $5, $6, $7) \
                 on conflict (tenant_id, project_id, name) do update set request = excluded.request, \
                 holder = excluded.holder, lease_until = excluded.lease_until, expires_at = excluded.expires_at, \
                 answer = null \
                 where idempotency_keys.expires_at <= $8 or idempotency_keys.lease_until <= $8",
            )
            .await?;
        let taken = query
            .bind(application.hold.name.to_vec())
            .bind(application.request.to_vec())
            .bind(application.hold.holder.clone())
            .bind(application.lease_until.timestamp_micros())
            .bind(application.expires_at.timestamp_micros())
            .bind(application.now.timestamp_micros())
            .execute(connection)
            .await?;
        if taken.rows_affected() > 0 {
            work.commit().await?;
            return Ok(Place::Free);
        }
        let (query, connection) = work
            .scoped(
                "select request, lease_until is null, answer from idempotency_keys \
                 where tenant_id = $1 and project_id = $2 and name = $3",
            )
            .await?;
        let row = query.bind(application.hold.name.to_vec()).fetch_one(connection).await?;
        Ok(match row.try_get::<&[u8], _>(0)? == application.request {
            false => Place::Taken,
            true if row.try_get(1)? => Place::Done(row.try_get(2)?),
            true => Place::Held,
        })
    }

    async fn renew(&self, scope: &Scope, hold: &Hold, lease_until: Timestamp) -> Result<()> {
        let mut work = self.writing(scope).await?;
        let (query, connection) = work
            .scoped(
                "update idempotency_keys set lease_until = $5 where tenant_id = $1 and project_id = $2 and name = $3 \
                 and holder = $4 and lease_until is not null",
            )
            .await?;
        let query = query.bind(hold.name.to_vec()).bind(hold.holder.clone()).bind(lease_until.timestamp_micros());
        query.execute(connection).await?;
        work.commit().await
    }

    async fn keep(&self, scope: &Scope, hold: &Hold, answer: Option<&[u8]>) -> Result<()> {
        let mut work = self.writing(scope).await?;
        let (query, connection) = work
            .scoped(
                "update idempotency_keys set lease_until = null, answer = $5 \
                 where tenant_id = $1 and project_id = $2 and name = $3 and holder = $4 and lease_until is not null",
            )
            .await?;
        let query = query.bind(hold.name.to_vec()).bind(hold.holder.clone()).bind(answer.map(<[u8]>::to_vec));
        query.execute(connection).await?;
        work.commit().await
    }

    async fn release(&self, scope: &Scope, hold: &Hold) -> Result<()> {
        let mut work = self.writing(scope).await?;
        let (query, connection) = work
            .scoped(
                "delete from idempotency_keys where tenant_id = $1 and project_id = $2 and name = $3 and holder = $4 \
                 and lease_until is not null",
            )
            .await?;
        query.bind(hold.name.to_vec()).bind(hold.holder.clone()).execute(connection).await?;
        work.commit().await
    }

    async fn forget(&self, now: Timestamp, limit: u32) -> Result<u64> {
        let any = sqlx::query("select exists (select 1 from idempotency_keys where expires_at <= $1)")
            .bind(now.timestamp_micros())
            .fetch_one(&self.readers)
            .await?;
        if !any.try_get::<bool, _>(0)? {
            return Ok(0);
        }
        let mut work = self.writing(&Scope::default()).await?;
        let done = sqlx::query(
            "delete from idempotency_keys where (tenant_id, project_id, name) in ( \
                 select tenant_id, project_id, name from idempotency_keys where expires_at <= $1 \
                 order by expires_at limit $2)",
        )
        .bind(now.timestamp_micros())
        .bind(limit)
        .execute(work.connection().await?)
        .await?;
        work.commit().await?;
        Ok(done.rows_affected())
    }
}
