//! API keys.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{SqliteStore, SqliteWork, Statement, rows};
use crate::domain::{Scope, Timestamp};
use crate::store::{ApiKey, ApiKeys, Keys, Result, Work};

/// Columns of [`api_key`], in its order; [`bound`] binds them in the same.
macro_rules! columns {
    () => {
        "tenant_id, project_id, id, name, key_prefix, key_hash, role, max_patterns, created_at, last_used_at, \
         revoked_at, expires_at"
    };
}

#[async_trait]
impl ApiKeys for SqliteStore {
    async fn find(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>> {
        let query = sqlx::query(concat!("select ", columns!(), " from api_keys where key_hash = $1"));
        let row = query.bind(&hash[..]).fetch_optional(&self.readers).await?;
        row.as_ref().map(api_key).transpose()
    }

    async fn by_id(&self, id: &str) -> Result<Option<ApiKey>> {
        let query = sqlx::query(concat!("select ", columns!(), " from api_keys where id = $1"));
        query.bind(id).fetch_optional(&self.readers).await?.as_ref().map(api_key).transpose()
    }

    async fn any(&self) -> Result<bool> {
        Ok(sqlx::query("select 1 from api_keys where erased_at is null limit 1")
            .fetch_optional(&self.readers)
            .await?
            .is_some())
    }

    async fn touch(&self, used: &[(String, Timestamp)]) -> Result<()> {
        let mut work = self.writing(&Scope::default()).await?;
        for (id, at) in used {
            sqlx::query(
                "update api_keys set last_used_at = $2 where id = $1 and coalesce(last_used_at, $2) <= $2 \
                 and erased_at is null",
            )
            .bind(id)
            .bind(at.timestamp_micros())
            .execute(work.connection().await?)
            .await?;
        }
        work.commit().await
    }
}

#[async_trait]
impl Keys for SqliteWork {
    async fn insert(&mut self, key: &ApiKey) -> Result<()> {
        let (query, connection) = self
            .scoped(concat!(
                "insert into api_keys (",
                columns!(),
                ") values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
            ))
            .await?;
        bound(query, key).execute(connection).await?;
        Ok(())
    }

    async fn insert_first(&mut self, key: &ApiKey) -> Result<bool> {
        let (query, connection) = self
            .scoped(concat!(
                "insert into api_keys (",
                columns!(),
                ") select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 where not exists (select 1 from api_keys where erased_at is null)"
            ))
            .await?;
        Ok(bound(query, key).execute(connection).await?.rows_affected() == 1)
    }

    async fn list(&mut self) -> Result<Vec<ApiKey>> {
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                columns!(),
                " from api_keys where tenant_id = $1 and project_id = $2 and erased_at is null \
                 order by created_at desc, id desc"
            ))
            .await?;
        query.fetch_all(connection).await?.iter().map(api_key).collect()
    }

    async fn get(&mut self, id: &str) -> Result<Option<ApiKey>> {
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                columns!(),
                " from api_keys where tenant_id = $1 and project_id = $2 and id = $3 and erased_at is null"
            ))
            .await?;
        query.bind(id).fetch_optional(connection).await?.as_ref().map(api_key).transpose()
    }

    async fn revoke(&mut self, id: &str, at: Timestamp) -> Result<()> {
        let (query, connection) = self
            .scoped("update api_keys set revoked_at = $4 where tenant_id = $1 and project_id = $2 and id = $3")
            .await?;
        query.bind(id).bind(at.timestamp_micros()).execute(connection).await?;
        Ok(())
    }

    async fn rotate(&mut self, id: &str, prefix: &str, hash: &[u8; 32]) -> Result<()> {
        let (query, connection) = self
            .scoped(
                "update api_keys set key_prefix = $4, key_hash = $5, last_used_at = null \
                 where tenant_id = $1 and project_id = $2 and id = $3",
            )
            .await?;
        query.bind(id).bind(prefix).bind(&hash[..]).execute(connection).await?;
        Ok(())
    }
}

/// Binds everything of a key after tenant and project.
fn bound(query: Statement, key: &ApiKey) -> Statement {
    let micros = |time: Option<Timestamp>| time.map(|time| time.timestamp_micros());
    query
        .bind(&key.id)
        .bind(&key.name)
        .bind(&key.prefix)
        .bind(&key.hash[..])
        .bind(key.role.as_str())
        .bind(key.max_patterns)
        .bind(key.created_at.timestamp_micros())
        .bind(micros(key.last_used_at))
        .bind(micros(key.revoked_at))
        .bind(micros(key.expires_at))
}

fn api_key(row: &SqliteRow) -> Result<ApiKey> {
    let time = |column: usize| row.try_get::<Option<i64>, _>(column)?.map(rows::time).transpose();
    Ok(ApiKey {
        scope: Scope::verified(row.try_get(0)?, row.try_get(1)?),
        id: row.try_get(2)?,
        name: row.try_get(3)?,
        prefix: row.try_get(4)?,
        hash: rows::digest("api_keys", row.try_get(5)?)?,
        role: row.try_get::<&str, _>(6)?.parse().map_err(|e| rows::corrupt("api_keys", &e))?,
        max_patterns: row.try_get(7)?,
        created_at: rows::time(row.try_get(8)?)?,
        last_used_at: time(9)?,
        revoked_at: time(10)?,
        expires_at: time(11)?,
    })
}
