//! Requests that may be repeated: short transactions of their own, which wait for no writer of the scope.

use async_trait::async_trait;
use sqlx::Row;

use super::PostgresStore;
use super::unit::Statement;
use crate::domain::{Scope, Timestamp};
use crate::store::idempotency::{Application, Hold, Place, Repeatable};
use crate::store::{Result, StoreError};

#[async_trait]
impl Repeatable for PostgresStore {
    async fn take(&self, scope: &Scope, application: &Application) -> Result<Place> {
        let mut transaction = self.inner.enter(scope, "begin").await?;
        let query = at(
            scope,
            &application.hold.name,
            "insert into idempotency_keys (tenant_id, project_id, name, request, holder, lease_until, expires_at) \
             select $1, $2, $3, $4, $5, $6, $7 where not exists \
             (select from scopes where tenant_id = $1 and project_id = $2 and closed_at is not null) \
             on conflict (tenant_id, project_id, name) do update set request = excluded.request, \
             holder = excluded.holder, lease_until = excluded.lease_until, expires_at = excluded.expires_at, \
             answer = null \
             where idempotency_keys.expires_at <= $8 or idempotency_keys.lease_until <= $8",
        );
        let taken = query
            .bind(application.request.to_vec())
            .bind(application.hold.holder.clone())
            .bind(application.lease_until)
            .bind(application.expires_at)
            .bind(application.now)
            .execute(&mut *transaction)
            .await?;
        if taken.rows_affected() > 0 {
            transaction.commit().await?;
            return Ok(Place::Free);
        }
        // A row that was in the way is locked from then on, whatever its condition said: it is still there. Without one
        // the scope is closed.
        let query = at(
            scope,
            &application.hold.name,
            "select request, lease_until is null, answer from idempotency_keys \
             where tenant_id = $1 and project_id = $2 and name = $3",
        );
        let Some(row) = query.fetch_optional(&mut *transaction).await? else { return Err(StoreError::Erased) };
        Ok(match row.try_get::<&[u8], _>(0)? == application.request {
            false => Place::Taken,
            true if row.try_get(1)? => Place::Done(row.try_get(2)?),
            true => Place::Held,
        })
    }

    async fn renew(&self, scope: &Scope, hold: &Hold, lease_until: Timestamp) -> Result<()> {
        let query = at(
            scope,
            &hold.name,
            "update idempotency_keys set lease_until = $5 where tenant_id = $1 and project_id = $2 and name = $3 \
             and holder = $4 and lease_until is not null",
        );
        self.alone(scope, query.bind(hold.holder.clone()).bind(lease_until)).await
    }

    async fn keep(&self, scope: &Scope, hold: &Hold, answer: Option<&[u8]>) -> Result<()> {
        let query = at(
            scope,
            &hold.name,
            "update idempotency_keys set lease_until = null, answer = $5 \
             where tenant_id = $1 and project_id = $2 and name = $3 and holder = $4 and lease_until is not null",
        );
        self.alone(scope, query.bind(hold.holder.clone()).bind(answer.map(<[u8]>::to_vec))).await
    }

    async fn release(&self, scope: &Scope, hold: &Hold) -> Result<()> {
        let query = at(
            scope,
            &hold.name,
            "delete from idempotency_keys where tenant_id = $1 and project_id = $2 and name = $3 and holder = $4 \
             and lease_until is not null",
        );
        self.alone(scope, query.bind(hold.holder.clone())).await
    }

    async fn forget(&self, now: Timestamp, limit: u32) -> Result<u64> {
        let mut transaction = self.inner.system_writing().await?;
        let done = sqlx::query(
            "with o as materialized ( \
                 select tenant_id, project_id, name from idempotency_keys where expires_at <= $1 \
                 order by expires_at limit $2 for update skip locked) \
             delete from idempotency_keys where (tenant_id, project_id, name) in \
             (select tenant_id, project_id, name from o)",
        )
        .bind(now)
        .bind(i64::from(limit))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(done.rows_affected())
    }
}

impl PostgresStore {
    /// Runs one statement in a transaction of its own.
    async fn alone(&self, scope: &Scope, statement: Statement) -> Result<()> {
        let mut transaction = self.inner.enter(scope, "begin").await?;
        statement.execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }
}

/// A statement whose `$1` to `$3` are bound to tenant, project and name.
fn at(scope: &Scope, name: &[u8; 32], sql: &'static str) -> Statement {
    sqlx::query(sql).bind(scope.tenant().to_owned()).bind(scope.project().to_owned()).bind(name.to_vec())
}
