//! Tenants and their projects.

use async_trait::async_trait;
use sqlx::Row;

use super::{SqliteWork, rows};
use crate::domain::Timestamp;
use crate::store::{Projects, Registration, Result};

#[async_trait]
impl Projects for SqliteWork {
    async fn register(&mut self, name: &str, most: Option<u32>, at: Timestamp) -> Result<Registration> {
        if Projects::is_known(self).await? {
            return Ok(Registration::Known);
        }
        // There is one writer: nobody registers between the count and the insert.
        if let Some(most) = most {
            let query = sqlx::query("select count(*) from projects where tenant_id = $1 and deleted_at is null")
                .bind(self.scope.tenant());
            let current = rows::count(query.fetch_one(self.connection().await?).await?.try_get(0)?);
            if current >= u64::from(most) {
                return Ok(Registration::Full { current });
            }
        }
        sqlx::query(
            "insert into tenants (id, name, created_at) values ($1, $1, $2) on conflict (id) do update set deleted_at = null",
        )
            .bind(self.scope.tenant())
            .bind(at.timestamp_micros())
            .execute(self.connection().await?)
            .await?;
        let (query, connection) = self
            .scoped(
                "insert into projects (tenant_id, id, name, created_at) values ($1, $2, $3, $4) \
                 on conflict (tenant_id, id) do update set name = $3, created_at = $4, deleted_at = null",
            )
            .await?;
        query.bind(name).bind(at.timestamp_micros()).execute(connection).await?;
        Ok(Registration::Made)
    }

    async fn is_known(&mut self) -> Result<bool> {
        let (query, connection) =
            self.scoped("select 1 from projects where tenant_id = $1 and id = $2 and deleted_at is null").await?;
        Ok(query.fetch_optional(connection).await?.is_some())
    }
}
