//! Erasures of all scopes, and what makes the files forget.
//!
//! `secure_delete` overwrites what leaves a page. Two things are left: words of the text index, which stay in its
//! segments until these are merged, and older versions of pages in the write-ahead log.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;

use super::SqliteStore;
use crate::domain::{Scope, Timestamp};
use crate::store::{Erasures, Result, StoreError, Work};

/// Pages of the text index that are merged while nobody else can write.
const MERGED: i64 = 200;
/// How often the log is asked to become empty: a reader may be in the way for a moment.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);

#[async_trait]
impl Erasures for SqliteStore {
    async fn unfinished(&self, _: Timestamp) -> Result<Vec<(Scope, bool)>> {
        // Nobody but this process works on it.
        let rows = sqlx::query("select tenant_id, project_id, reopens from erasures where finished_at is null")
            .fetch_all(&self.readers)
            .await?;
        let scope = |row: &sqlx::sqlite::SqliteRow| {
            Ok((Scope::verified(row.try_get(0)?, row.try_get(1)?), row.try_get::<bool, _>(2)?))
        };
        rows.iter().map(scope).collect()
    }

    async fn wipe(&self, scope: &Scope) -> Result<()> {
        // A negative number begins to make one segment of all, without the words of rows that are gone.
        let mut pages = -MERGED;
        while self.merge(scope, pages).await? {
            pages = MERGED;
        }
        for _ in 0..ATTEMPTS {
            if self.writer.empty_log(&self.indexes).await? {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(StoreError::Backend(anyhow::anyhow!("the write-ahead log is in use all the time")))
    }

    async fn reopen(&self, scope: &Scope) -> Result<()> {
        let mut work = self.writing(scope).await?;
        let (query, connection) = work
            .scoped("delete from erasures where tenant_id = $1 and project_id in ($2, '') and finished_at is not null")
            .await?;
        query.execute(connection).await?;
        let (query, connection) =
            work.scoped("select 1 from erasures where tenant_id = $1 and project_id in ($2, '')").await?;
        if query.fetch_optional(connection).await?.is_some() {
            return Err(StoreError::Erased);
        }
        work.commit().await?;
        self.closed.forget(scope);
        self.closed.forget(&Scope::of_tenant(scope.tenant()));
        Ok(())
    }

    fn echo(&self) -> Duration {
        Duration::ZERO
    }
}

impl SqliteStore {
    /// Merges some pages of the text index; whether there is more to do.
    async fn merge(&self, scope: &Scope, pages: i64) -> Result<bool> {
        let mut work = self.writing(scope).await?;
        let connection = work.connection().await?;
        let changes = "select total_changes()";
        let before: i64 = sqlx::query(changes).fetch_one(&mut *connection).await?.try_get(0)?;
        sqlx::query("insert into pattern_text (pattern_text, rank) values ('merge', $1)")
            .bind(pages)
            .execute(&mut *connection)
            .await?;
        let after: i64 = sqlx::query(changes).fetch_one(connection).await?.try_get(0)?;
        work.commit().await?;
        // The statement itself counts as one change.
        Ok(after - before >= 2)
    }
}
