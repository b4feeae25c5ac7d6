//! Tenants and their projects.

use async_trait::async_trait;
use sqlx::Row;

use super::rows::column_text;
use super::unit::PostgresWork;
use crate::domain::Timestamp;
use crate::store::engine::count;
use crate::store::{Projects, Registration, Result};

#[async_trait]
impl Projects for PostgresWork {
    async fn register(&mut self, name: &str, most: Option<u32>, at: Timestamp) -> Result<Registration> {
        self.written()?;
        if self.is_known().await? {
            return Ok(Registration::Known);
        }
        let tenant = self.scope.tenant().to_owned();
        // The tenant's row is locked until the end, so that nobody else counts its projects meanwhile.
        sqlx::query(
            "insert into tenants (id, name, created_at) values ($1, $1, $2) \
             on conflict (id) do update set deleted_at = null",
        )
        .bind(tenant)
        .bind(at)
        .execute(self.connection().await?)
        .await?;
        let (query, connection) = self
            .scoped("select count(*) from projects where tenant_id = $1 and id <> $2 and deleted_at is null")
            .await?;
        let current = count(query.fetch_one(connection).await?.try_get(0)?);
        if most.is_some_and(|most| current >= u64::from(most)) {
            return Ok(Registration::Full { current });
        }
        let (query, connection) = self
            .scoped(
                "insert into projects (tenant_id, id, name, created_at) values ($1, $2, $3, $4) \
                 on conflict (tenant_id, id) do update set name = $3, created_at = $4, deleted_at = null",
            )
            .await?;
        query.bind(column_text(name)).bind(at).execute(connection).await?;
        Ok(Registration::Made)
    }

    async fn is_known(&mut self) -> Result<bool> {
        let (query, connection) =
            self.scoped("select 1 from projects where tenant_id = $1 and id = $2 and deleted_at is null").await?;
        Ok(query.fetch_optional(connection).await?.is_some())
    }
}
