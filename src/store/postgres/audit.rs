//! The audit log: a hash chain a tenant, kept in order by the lock of its head.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::rows::{self, column_text};
use super::unit::PostgresWork;
use crate::domain::audit::{AuditEntry, AuditEvent, ChainHead};
use crate::store::engine::{column, corrupt, count};
use crate::store::{AuditQuery, Audits, Result};

macro_rules! entry_columns {
    () => {
        "sequence, project_id, created_at, action, actor, resource_type, resource_id, ip, detail, nonce, private, hash"
    };
}

#[async_trait]
impl Audits for PostgresWork {
    async fn append(&mut self, event: &AuditEvent) -> Result<()> {
        let scope = self.scope.clone();
        self.append_in(scope.project(), event).await
    }

    async fn append_in(&mut self, project: &str, event: &AuditEvent) -> Result<()> {
        self.written()?;
        let tenant = self.scope.tenant().to_owned();
        let row = sqlx::query(
            "insert into audit_heads (tenant_id, sequence, hash) values ($1, 0, $2) \
             on conflict (tenant_id) do update set sequence = audit_heads.sequence returning sequence, hash",
        )
        .bind(tenant.clone())
        .bind(ChainHead::default().hash.to_vec())
        .fetch_one(self.connection().await?)
        .await?;
        let head = head(&row)?;
        let entry = AuditEntry::after(&head, &tenant, project, event);
        self.write_entry(&entry).await?;
        self.write_head(&ChainHead { sequence: entry.sequence, hash: entry.hash }).await
    }

    async fn page(&mut self, query: &AuditQuery) -> Result<Vec<AuditEntry>> {
        let (statement, connection) = self
            .scoped(concat!(
                "select ",
                entry_columns!(),
                " from audit_log where tenant_id = $1 and project_id = $2 \
                 and ($3::timestamptz is null or created_at >= $3) and ($4::timestamptz is null or created_at < $4) \
                 and ($5::text is null or action = $5) and ($6::text is null or actor = $6) \
                 and ($7::bigint is null or sequence < $7) order by sequence desc limit $8"
            ))
            .await?;
        let rows = statement
            .bind(query.since)
            .bind(query.until)
            .bind(query.action.as_deref().map(column_text))
            .bind(query.actor.as_deref().map(column_text))
            .bind(query.before.map(column))
            .bind(i64::from(query.limit))
            .fetch_all(connection)
            .await?;
        rows.iter().map(entry).collect()
    }

    async fn chain(&mut self, after: u64, limit: u32) -> Result<Vec<AuditEntry>> {
        let tenant = self.scope.tenant().to_owned();
        let rows = sqlx::query(concat!(
            "select ",
            entry_columns!(),
            " from audit_log where tenant_id = $1 and sequence > $2 order by sequence limit $3"
        ))
        .bind(tenant)
        .bind(column(after))
        .bind(i64::from(limit))
        .fetch_all(self.connection().await?)
        .await?;
        rows.iter().map(entry).collect()
    }

    async fn head(&mut self) -> Result<ChainHead> {
        let tenant = self.scope.tenant().to_owned();
        let row = sqlx::query("select sequence, hash from audit_heads where tenant_id = $1")
            .bind(tenant)
            .fetch_optional(self.connection().await?)
            .await?;
        row.as_ref().map_or(Ok(ChainHead::default()), head)
    }
}

impl PostgresWork {
    /// Writes an entry as it is.
    pub(super) async fn write_entry(&mut self, entry: &AuditEntry) -> Result<()> {
        let tenant = self.scope.tenant().to_owned();
        let optional = |text: &Option<String>| text.as_deref().map(column_text);
        sqlx::query(
            "insert into audit_log (tenant_id, project_id, sequence, created_at, action, actor, resource_type, \
             resource_id, ip, detail, nonce, private, hash) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        )
        .bind(tenant)
        .bind(entry.project.clone())
        .bind(column(entry.sequence))
        .bind(entry.at)
        .bind(entry.action.clone())
        .bind(optional(&entry.actor))
        .bind(optional(&entry.resource_type))
        .bind(optional(&entry.resource_id))
        .bind(optional(&entry.ip))
        .bind(optional(&entry.detail))
        .bind(entry.nonce.map(|nonce| nonce.to_vec()))
        .bind(entry.private.to_vec())
        .bind(entry.hash.to_vec())
        .execute(self.connection().await?)
        .await?;
        Ok(())
    }

    /// Notes where the chain ends.
    pub(super) async fn write_head(&mut self, head: &ChainHead) -> Result<()> {
        let tenant = self.scope.tenant().to_owned();
        sqlx::query(
            "insert into audit_heads (tenant_id, sequence, hash) values ($1, $2, $3) \
             on conflict (tenant_id) do update set sequence = excluded.sequence, hash = excluded.hash",
        )
        .bind(tenant)
        .bind(column(head.sequence))
        .bind(head.hash.to_vec())
        .execute(self.connection().await?)
        .await?;
        Ok(())
    }
}

fn head(row: &PgRow) -> Result<ChainHead> {
    Ok(ChainHead { sequence: count(row.try_get(0)?), hash: bytes(row.try_get(1)?)? })
}

fn entry(row: &PgRow) -> Result<AuditEntry> {
    let optional = |at: usize| Ok::<_, sqlx::Error>(row.try_get::<Option<String>, _>(at)?.map(rows::text));
    Ok(AuditEntry {
        sequence: count(row.try_get(0)?),
        project: row.try_get(1)?,
        at: row.try_get(2)?,
        action: row.try_get(3)?,
        actor: optional(4)?,
        resource_type: optional(5)?,
        resource_id: optional(6)?,
        ip: optional(7)?,
        detail: optional(8)?,
        nonce: row.try_get::<Option<Vec<u8>>, _>(9)?.map(bytes).transpose()?,
        private: bytes(row.try_get(10)?)?,
        hash: bytes(row.try_get(11)?)?,
    })
}

fn bytes<const N: usize>(column: Vec<u8>) -> Result<[u8; N]> {
    column.try_into().map_err(|_| corrupt("audit_log", &"a digest of another length"))
}
