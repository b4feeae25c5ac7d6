//! API keys.

use async_trait::async_trait;
use sqlx::Row;

use super::{SqliteStore, rows};
use crate::domain::Scope;
use crate::store::{ApiKey, ApiKeys, Result, Work};

#[async_trait]
impl ApiKeys for SqliteStore {
    async fn find(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>> {
        let row = sqlx::query(
            "select id, tenant_id, project_id, name, key_prefix, role, created_at from api_keys where key_hash = $1",
        )
        .bind(&hash[..])
        .fetch_optional(&self.readers)
        .await?;
        row.map(|row| {
            Ok(ApiKey {
                id: row.try_get(0)?,
                scope: Scope::verified(row.try_get(1)?, row.try_get(2)?),
                name: row.try_get(3)?,
                prefix: row.try_get(4)?,
                hash: *hash,
                role: row.try_get::<&str, _>(5)?.parse().map_err(|e| rows::corrupt("api_keys", &e))?,
                created_at: rows::time(row.try_get(6)?)?,
            })
        })
        .transpose()
    }

    async fn any(&self) -> Result<bool> {
        Ok(sqlx::query("select 1 from api_keys limit 1").fetch_optional(&self.readers).await?.is_some())
    }

    async fn insert_first(&self, key: &ApiKey) -> Result<bool> {
        let mut work = self.writing(&key.scope).await?;
        let done = sqlx::query(
            "insert into api_keys (id, tenant_id, project_id, name, key_prefix, key_hash, role, created_at) \
             select $1, $2, $3, $4, $5, $6, $7, $8 where not exists (select 1 from api_keys)",
        )
        .bind(&key.id)
        .bind(key.scope.tenant())
        .bind(key.scope.project())
        .bind(&key.name)
        .bind(&key.prefix)
        .bind(&key.hash[..])
        .bind(key.role.as_str())
        .bind(key.created_at.timestamp_micros())
        .execute(work.connection().await?)
        .await?;
        work.commit().await?;
        Ok(done.rows_affected() == 1)
    }
}
