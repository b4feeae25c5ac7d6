//! Erasures of all scopes.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::unit::PostgresWork;
use super::{PostgresStore, ann};
use crate::domain::{Scope, Timestamp};
use crate::store::{Erasures, Result, StoreError, Work};

#[async_trait]
impl Erasures for PostgresStore {
    async fn unfinished(&self, since: Timestamp) -> Result<Vec<(Scope, bool)>> {
        let rows = sqlx::query(
            "select tenant_id, project_id, reopens from erasures where finished_at is null and touched_at < $1",
        )
        .bind(since)
        .fetch_all(&mut *self.inner.system().await?)
        .await?;
        let scope = |row: &PgRow| Ok((Scope::verified(row.try_get(0)?, row.try_get(1)?), row.try_get::<bool, _>(2)?));
        rows.iter().map(scope).collect()
    }

    async fn wipe(&self, scope: &Scope) -> Result<()> {
        // Pages are for the operator to rewrite (docs/erasure.md): nothing else makes them forget, and it locks tables.
        if let Err(error) = ann::forget(&self.inner, scope).await {
            tracing::warn!(%error, "an approximate index of an erased project stays for now");
        }
        Ok(())
    }

    async fn reopen(&self, scope: &Scope) -> Result<()> {
        let mut work = Box::new(PostgresWork::erasing(&self.inner, scope).await?);
        sqlx::query("select set_config('engramia.system', 'on', true)").execute(work.connection().await?).await?;
        let statements = [
            "delete from erasures where tenant_id = $1 and project_id in ($2, '') and finished_at is not null",
            "update scopes set closed_at = null where tenant_id = $1 and project_id in ($2, '')",
            "update tenants set closed_at = null where id = $1 and $2 = $2",
        ];
        for sql in statements {
            let (query, connection) = work.scoped(sql).await?;
            query.execute(connection).await?;
        }
        let (query, connection) =
            work.scoped("select 1 from erasures where tenant_id = $1 and project_id in ($2, '')").await?;
        if query.fetch_optional(connection).await?.is_some() {
            return Err(StoreError::Erased);
        }
        work.commit().await
    }

    fn echo(&self) -> Duration {
        // Twice as long as recalls are gathered in memory (`service/reuse.rs`).
        Duration::from_secs(1)
    }
}
