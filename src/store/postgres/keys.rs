//! API keys.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::rows::{self, column_text};
use super::unit::{PostgresWork, Statement};
use crate::domain::{Scope, Timestamp};
use crate::store::engine::corrupt;
use crate::store::{ApiKey, ApiKeys, Keys, Result};

/// Held by whoever makes the first key, until its transaction ends.
const FIRST_KEY_LOCK: i64 = 736_972;

macro_rules! key_columns {
    () => {
        "id, tenant_id, project_id, name, key_prefix, key_hash, role, max_patterns, created_at, last_used_at, \
         revoked_at, expires_at"
    };
}

/// Stores a key; [`bound`] binds it.
macro_rules! insert_key {
    () => {
        "insert into api_keys (tenant_id, project_id, id, name, key_prefix, key_hash, role, max_patterns, created_at, \
         last_used_at, revoked_at, expires_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
    };
}
pub(super) use insert_key;

#[async_trait]
impl ApiKeys for PostgresStore {
    async fn find(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>> {
        let mut transaction = self.inner.begin("begin read only").await?;
        let row = sqlx::query(concat!("select ", key_columns!(), " from api_keys where key_hash = $1"))
            .bind(hash.to_vec())
            .fetch_optional(&mut *transaction)
            .await?;
        row.as_ref().map(api_key).transpose()
    }

    async fn by_id(&self, id: &str) -> Result<Option<ApiKey>> {
        let mut transaction = self.inner.begin("begin read only").await?;
        let row = sqlx::query(concat!("select ", key_columns!(), " from api_keys where id = $1"))
            .bind(column_text(id))
            .fetch_optional(&mut *transaction)
            .await?;
        row.as_ref().map(api_key).transpose()
    }

    async fn any(&self) -> Result<bool> {
        let mut transaction = self.inner.begin("begin read only").await?;
        Ok(sqlx::query("select 1 from api_keys where erased_at is null limit 1")
            .fetch_optional(&mut *transaction)
            .await?
            .is_some())
    }

    async fn touch(&self, used: &[(String, Timestamp)]) -> Result<()> {
        let (ids, times): (Vec<String>, Vec<Timestamp>) = used.iter().cloned().unzip();
        let mut transaction = self.inner.begin("begin").await?;
        // In the order of their ids, so that two servers never wait for each other.
        sqlx::query(
            "with used as ( \
                 select k.id, u.at from api_keys k \
                 join (select id, max(at) as at from unnest($1::text[], $2::timestamptz[]) u (id, at) group by id) u \
                     on u.id = k.id \
                 order by k.id for update of k) \
             update api_keys k set last_used_at = used.at from used \
             where k.id = used.id and k.erased_at is null and (k.last_used_at is null or k.last_used_at < used.at)",
        )
        .bind(ids)
        .bind(times)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }
}

#[async_trait]
impl Keys for PostgresWork {
    async fn insert(&mut self, key: &ApiKey) -> Result<()> {
        self.written()?;
        let (query, connection) = self.scoped(insert_key!()).await?;
        bound(query, key).execute(connection).await?;
        Ok(())
    }

    async fn insert_first(&mut self, key: &ApiKey) -> Result<bool> {
        self.written()?;
        sqlx::query("select pg_advisory_xact_lock($1)").bind(FIRST_KEY_LOCK).execute(self.connection().await?).await?;
        let any = sqlx::query("select 1 from api_keys where erased_at is null limit 1")
            .fetch_optional(self.connection().await?)
            .await?;
        if any.is_some() {
            return Ok(false);
        }
        self.insert(key).await?;
        Ok(true)
    }

    async fn list(&mut self) -> Result<Vec<ApiKey>> {
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                key_columns!(),
                " from api_keys where tenant_id = $1 and project_id = $2 and erased_at is null \
                 order by created_at desc, id desc"
            ))
            .await?;
        query.fetch_all(connection).await?.iter().map(api_key).collect()
    }

    async fn get(&mut self, id: &str) -> Result<Option<ApiKey>> {
        // Writers of a scope wait for each other, so that the row needs no lock of its own.
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                key_columns!(),
                " from api_keys where tenant_id = $1 and project_id = $2 and id = $3 and erased_at is null"
            ))
            .await?;
        query.bind(column_text(id)).fetch_optional(connection).await?.as_ref().map(api_key).transpose()
    }

    async fn revoke(&mut self, id: &str, at: Timestamp) -> Result<()> {
        let (query, connection) = self
            .scoped("update api_keys set revoked_at = $4 where tenant_id = $1 and project_id = $2 and id = $3")
            .await?;
        query.bind(column_text(id)).bind(at).execute(connection).await?;
        Ok(())
    }

    async fn rotate(&mut self, id: &str, prefix: &str, hash: &[u8; 32]) -> Result<()> {
        let (query, connection) = self
            .scoped(
                "update api_keys set key_prefix = $4, key_hash = $5, last_used_at = null \
                 where tenant_id = $1 and project_id = $2 and id = $3",
            )
            .await?;
        query.bind(column_text(id)).bind(prefix.to_owned()).bind(hash.to_vec()).execute(connection).await?;
        Ok(())
    }
}

/// Binds everything of a key after tenant and project.
pub(super) fn bound(query: Statement, key: &ApiKey) -> Statement {
    query
        .bind(key.id.clone())
        .bind(column_text(&key.name))
        .bind(key.prefix.clone())
        .bind(key.hash.to_vec())
        .bind(key.role.as_str())
        .bind(key.max_patterns.map(|most| i32::try_from(most).unwrap_or(i32::MAX)))
        .bind(key.created_at)
        .bind(key.last_used_at)
        .bind(key.revoked_at)
        .bind(key.expires_at)
}

fn api_key(row: &PgRow) -> Result<ApiKey> {
    let hash: Vec<u8> = row.try_get(5)?;
    Ok(ApiKey {
        id: row.try_get(0)?,
        scope: Scope::verified(row.try_get(1)?, row.try_get(2)?),
        name: rows::text(row.try_get(3)?),
        prefix: row.try_get(4)?,
        hash: hash.try_into().map_err(|_| corrupt("api_keys", &"a hash of another length"))?,
        role: row.try_get::<&str, _>(6)?.parse().map_err(|e| corrupt("api_keys", &e))?,
        max_patterns: row.try_get::<Option<i32>, _>(7)?.and_then(|most| u32::try_from(most).ok()),
        created_at: row.try_get(8)?,
        last_used_at: row.try_get(9)?,
        revoked_at: row.try_get(10)?,
        expires_at: row.try_get(11)?,
    })
}
