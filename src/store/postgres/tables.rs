//! The tables of a schema, for backups: which there are, and how to read one as a stream that is always the same for the
//! same rows.

use std::collections::BTreeMap;

use anyhow::Context;
use sqlx::{AssertSqlSafe, PgConnection, Row};

/// Every table of every version, those that others refer to first. What sqlx notes of migrations is no content: a
/// restore runs them.
pub const TABLES: [&str; 34] = [
    "spaces",
    "scopes",
    "patterns",
    "vectors",
    "pattern_words",
    "tombstones",
    "reuse",
    "evaluations",
    "skills",
    "feedback",
    "feedback_tasks",
    "marks",
    "tenants",
    "projects",
    "api_keys",
    "audit_heads",
    "audit_log",
    "carried_rows",
    "model_spend",
    "analytics_events",
    "analytics_rollups",
    "jobs",
    "job_turns",
    "billing_subscriptions",
    "usage_counters",
    "usage_reservations",
    "stripe_customers",
    "stripe_events",
    "overage_periods",
    "dunning_warnings",
    "data_subject_requests",
    "sweeps",
    "erasures",
    "idempotency_keys",
];

/// A table of the database.
pub(super) struct Source {
    pub(super) name: String,
    /// In their order, without those that are computed.
    pub(super) columns: Vec<String>,
    /// Its key, as something to sort by.
    key: Option<String>,
    /// Whether this login sees every row.
    pub(super) is_open: bool,
}

/// The tables that there are, in the order of [`TABLES`].
pub(super) async fn present(connection: &mut PgConnection) -> anyhow::Result<Vec<Source>> {
    let rows = sqlx::query(
        "select c.relname::text, \
         (select array_agg(a.attname::text order by a.attnum) from pg_attribute a \
          where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''), \
         (select string_agg(quote_ident(a.attname) || case when a.attcollation <> 0 then ' collate \"C\"' else '' end, \
                            ', ' order by k.place) \
          from pg_index i cross join unnest(i.indkey::int2[]) with ordinality as k (number, place) \
          join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number \
          where i.indrelid = c.oid and i.indisprimary), \
         has_table_privilege(c.oid, 'select') and not row_security_active(c.oid) \
         from pg_class c \
         where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r' and c.relname = any($1)",
    )
    .bind(&TABLES[..])
    .fetch_all(connection)
    .await?;
    let mut found = BTreeMap::new();
    for row in rows {
        let name: String = row.try_get(0)?;
        let source =
            Source { name: name.clone(), columns: row.try_get(1)?, key: row.try_get(2)?, is_open: row.try_get(3)? };
        found.insert(name, source);
    }
    Ok(TABLES.iter().filter_map(|name| found.remove(*name)).collect())
}

impl Source {
    /// Reads it in the order of its key.
    pub(super) fn copy_out(&self) -> anyhow::Result<String> {
        let key = self.key.as_ref().with_context(|| format!("table {} has no primary key", self.name))?;
        let columns = list(&self.columns);
        Ok(format!("copy (select {columns} from {} order by {key}) to stdout (format binary)", quoted(&self.name)))
    }

    /// Writes these columns of it.
    pub(super) fn copy_in(&self, columns: &[String]) -> String {
        format!("copy {} ({}) from stdin (format binary)", quoted(&self.name), list(columns))
    }

    /// How many rows it has.
    pub(super) async fn count(&self, connection: &mut PgConnection) -> anyhow::Result<u64> {
        let sql = format!("select count(*) from {}", quoted(&self.name));
        let rows: i64 = sqlx::query(AssertSqlSafe(sql)).fetch_one(connection).await?.try_get(0)?;
        Ok(u64::try_from(rows)?)
    }

    /// Whether it has any row.
    pub(super) async fn has_rows(&self, connection: &mut PgConnection) -> anyhow::Result<bool> {
        let sql = format!("select exists (select from {})", quoted(&self.name));
        Ok(sqlx::query(AssertSqlSafe(sql)).fetch_one(connection).await?.try_get(0)?)
    }
}

/// Where a backup keeps a table.
pub(super) fn entry(table: &str) -> String {
    format!("tables/{table}.copy")
}

fn list(columns: &[String]) -> String {
    columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
