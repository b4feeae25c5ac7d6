//! The audit log: the chain of a tenant, and its pages by project.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};

use super::{SqliteWork, rows};
use crate::domain::Timestamp;
use crate::domain::audit::{AuditEntry, AuditEvent, ChainHead};
use crate::store::{AuditQuery, Audits, Result};

/// Columns of [`entry`], in its order.
macro_rules! columns {
    () => {
        "sequence, project_id, at, action, actor, resource_type, resource_id, ip, detail, nonce, private, hash"
    };
}

#[async_trait]
impl Audits for SqliteWork {
    async fn append(&mut self, event: &AuditEvent) -> Result<()> {
        let scope = self.scope.clone();
        self.append_in(scope.project(), event).await
    }

    async fn append_in(&mut self, project: &str, event: &AuditEvent) -> Result<()> {
        // There is one writer: the head stays as it is until this unit ends.
        let head = Audits::head(self).await?;
        let entry = AuditEntry::after(&head, self.scope.tenant(), project, event);
        self.write_entry(&entry).await?;
        self.write_head(&ChainHead { sequence: entry.sequence, hash: entry.hash }).await
    }

    async fn page(&mut self, query: &AuditQuery) -> Result<Vec<AuditEntry>> {
        let micros = |time: Option<Timestamp>| time.map(|time| time.timestamp_micros());
        let (statement, connection) = self
            .scoped(concat!(
                "select ",
                columns!(),
                " from audit_log where tenant_id = $1 and project_id = $2 and sequence < $3 \
                 and ($4 is null or at >= $4) and ($5 is null or at < $5) \
                 and ($6 is null or action = $6) and ($7 is null or actor = $7) order by sequence desc limit $8"
            ))
            .await?;
        let found = statement
            .bind(rows::column(query.before.unwrap_or(u64::MAX)))
            .bind(micros(query.since))
            .bind(micros(query.until))
            .bind(&query.action)
            .bind(&query.actor)
            .bind(query.limit)
            .fetch_all(connection)
            .await?;
        found.iter().map(entry).collect()
    }

    async fn chain(&mut self, after: u64, limit: u32) -> Result<Vec<AuditEntry>> {
        let found = sqlx::query(concat!(
            "select ",
            columns!(),
            " from audit_log where tenant_id = $1 and sequence > $2 order by sequence limit $3"
        ))
        .bind(self.scope.tenant())
        .bind(rows::column(after))
        .bind(limit)
        .fetch_all(self.connection().await?)
        .await?;
        found.iter().map(entry).collect()
    }

    async fn head(&mut self) -> Result<ChainHead> {
        let query =
            sqlx::query("select sequence, hash from audit_heads where tenant_id = $1").bind(self.scope.tenant());
        let row = query.fetch_optional(self.connection().await?).await?;
        let Some(row) = row else { return Ok(ChainHead::default()) };
        Ok(ChainHead { sequence: rows::count(row.try_get(0)?), hash: rows::digest("audit_heads", row.try_get(1)?)? })
    }
}

impl SqliteWork {
    /// Writes an entry as it is.
    pub(super) async fn write_entry(&mut self, entry: &AuditEntry) -> Result<()> {
        sqlx::query(concat!(
            "insert into audit_log (tenant_id, ",
            columns!(),
            ") values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
        ))
        .bind(self.scope.tenant())
        .bind(rows::column(entry.sequence))
        .bind(&entry.project)
        .bind(entry.at.timestamp_micros())
        .bind(&entry.action)
        .bind(&entry.actor)
        .bind(&entry.resource_type)
        .bind(&entry.resource_id)
        .bind(&entry.ip)
        .bind(&entry.detail)
        .bind(entry.nonce.as_ref().map(|nonce| &nonce[..]))
        .bind(&entry.private[..])
        .bind(&entry.hash[..])
        .execute(self.connection().await?)
        .await?;
        Ok(())
    }

    /// Notes where the chain ends.
    pub(super) async fn write_head(&mut self, head: &ChainHead) -> Result<()> {
        sqlx::query(
            "insert into audit_heads (tenant_id, sequence, hash) values ($1, $2, $3) \
             on conflict (tenant_id) do update set sequence = excluded.sequence, hash = excluded.hash",
        )
        .bind(self.scope.tenant())
        .bind(rows::column(head.sequence))
        .bind(&head.hash[..])
        .execute(self.connection().await?)
        .await?;
        Ok(())
    }
}

/// Tenants with entries or a head: one without the other is what a check has to find.
pub(super) async fn tenants(readers: &SqlitePool, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
    let rows = sqlx::query(
        "select tenant_id from audit_heads where $1 is null or tenant_id > $1 \
         union select tenant_id from audit_log where $1 is null or tenant_id > $1 order by 1 limit $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(readers)
    .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

fn entry(row: &SqliteRow) -> Result<AuditEntry> {
    let nonce: Option<&[u8]> = row.try_get(9)?;
    let nonce = nonce.map(|bytes| bytes.try_into().map_err(|e| rows::corrupt("audit_log", &e)));
    Ok(AuditEntry {
        sequence: rows::count(row.try_get(0)?),
        project: row.try_get(1)?,
        at: rows::time(row.try_get(2)?)?,
        action: row.try_get(3)?,
        actor: row.try_get(4)?,
        resource_type: row.try_get(5)?,
        resource_id: row.try_get(6)?,
        ip: row.try_get(7)?,
        detail: row.try_get(8)?,
        nonce: nonce.transpose()?,
        private: rows::digest("audit_log", row.try_get(10)?)?,
        hash: rows::digest("audit_log", row.try_get(11)?)?,
    })
}
