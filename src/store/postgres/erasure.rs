//! The erasure of a scope. Every table that holds something of a tenant stands in one of the lists below
//! (`tests/it/erasure_tables.rs`).

use async_trait::async_trait;
use sqlx::Row;

use super::rows;
use super::rows::{column_option, column_text};
use super::unit::PostgresWork;
use crate::domain::Timestamp;
use crate::domain::erasure::{ErasedRows, ErasureOrder, ErasureTally};
use crate::store::engine::{column, corrupt, count};
use crate::store::{Erasure, Result, StoreError};

/// Held by whoever closes a tenant, and shared by whoever begins a scope, until the transaction ends: the hash of the
/// tenant is the other half of the lock's name.
macro_rules! tenant_lock {
    () => {
        "736973"
    };
}
pub(super) use tenant_lock;

/// A table, and how some of its rows are removed: at most `$3` of the tenant `$1` and the project `$2`.
struct Table {
    name: &'static str,
    of_project: &'static str,
    of_tenant: &'static str,
    any: &'static str,
    any_of_tenant: &'static str,
}

macro_rules! table {
    ($name:literal) => {
        Table {
            name: $name,
            of_project: concat!(
                "delete from ",
                $name,
                " where ctid = any(array(select ctid from ",
                $name,
                " where tenant_id = $1 and project_id = $2 limit $3))"
            ),
            of_tenant: concat!(
                "delete from ",
                $name,
                " where ctid = any(array(select ctid from ",
                $name,
                " where tenant_id = $1 and $2 = '' limit $3))"
            ),
            any: concat!("select 1 from ", $name, " where tenant_id = $1 and ($2 = '' or project_id = $2) limit 1"),
            any_of_tenant: concat!("select 1 from ", $name, " where tenant_id = $1 and $2 = '' limit 1"),
        }
    };
}

/// A table whose rows hang on the tenant as a customer of the payment service.
macro_rules! of_customers {
    ($name:literal) => {
        Table {
            name: $name,
            of_project: "",
            of_tenant: concat!(
                "delete from ",
                $name,
                " where ctid = any(array(select e.ctid from ",
                $name,
                " e join stripe_customers c using (customer_id) where c.tenant_id = $1 and $2 = '' limit $3))"
            ),
            any: "",
            any_of_tenant: "select 1 from stripe_customers where tenant_id = $1 and $2 = '' limit 1",
        }
    };
}

/// A table whose rows hang on patterns, and how those of the patterns `$3` of the projects `$2` are removed.
macro_rules! hanging {
    ($name:literal, $pattern:literal) => {
        (
            $name,
            concat!(
                "delete from ",
                $name,
                " where tenant_id = $1 and (project_id, ",
                $pattern,
                ") in (select p, n from unnest($2::text[], $3::bigint[]) as u (p, n))"
            ),
        )
    };
}

/// Tables whose rows belong to patterns, themselves last.
const OF_A_PATTERN: &[(&str, &str)] = &[
    hanging!("vectors", "pattern_id"),
    hanging!("pattern_words", "pattern_id"),
    hanging!("reuse", "pattern_id"),
    hanging!("evaluations", "pattern_id"),
    hanging!("skills", "pattern_id"),
    hanging!("patterns", "id"),
];

/// Tables whose rows belong to a project.
const OF_A_PROJECT: &[Table] = &[
    table!("jobs"),
    table!("feedback_tasks"),
    table!("feedback"),
    table!("analytics_events"),
    table!("analytics_rollups"),
    table!("tombstones"),
    table!("idempotency_keys"),
];

/// Tables whose rows belong to the tenant as a whole.
const OF_A_TENANT: &[Table] = &[
    table!("job_turns"),
    table!("model_spend"),
    table!("carried_rows"),
    table!("data_subject_requests"),
    table!("billing_subscriptions"),
    table!("usage_counters"),
    table!("usage_reservations"),
    table!("overage_periods"),
    table!("dunning_warnings"),
    of_customers!("stripe_events"),
    table!("stripe_customers"),
];

#[async_trait]
impl Erasure for PostgresWork {
    async fn close(&mut self, order: &ErasureOrder) -> Result<bool> {
        if self.is_being_erased().await? {
            return Ok(true);
        }
        let whole = self.scope.is_whole_tenant();
        // Its tenant ends with everything: nothing of it opens again in between.
        let sql = "select count(*) from erasures where tenant_id = $1 and project_id = '' and $2 <> '' \
                   and finished_at is null";
        if self.number(sql, None).await? > 0 {
            return Err(StoreError::Erased);
        }
        if whole {
            self.alter(concat!("select pg_advisory_xact_lock(", tenant_lock!(), ", hashtext($1)) where $2 = ''"), None)
                .await?;
        }
        // Their rows first: whoever writes now is waited for, so that what follows sees all they have written.
        self.alter(
            "update scopes set closed_at = $3, revision = revision + 1, forgotten = revision + 1 \
             where tenant_id = $1 and ($2 = '' or project_id = $2)",
            Some(order.at),
        )
        .await?;
        let keys = self
            .number(
                "select count(*) from api_keys where tenant_id = $1 and ($2 = '' or project_id = $2) \
                 and revoked_at is null and erased_at is null and (expires_at is null or expires_at > $3)",
                Some(order.at),
            )
            .await?;
        let mut projects = self
            .number(
                "select count(*) from (select id from projects where tenant_id = $1 and ($2 = '' or id = $2) \
                 and deleted_at is null union \
                 select project_id from scopes where tenant_id = $1 and ($2 = '' or project_id = $2) \
                 and patterns > 0) p",
                None,
            )
            .await?;
        if projects == 0 && keys == 0 && !self.holds_anything().await? {
            return Ok(false);
        }
        if !whole {
            projects = 1;
        }
        let mut erased = ErasedRows::default();
        let scrubbed = self
            .alter(
                "update api_keys set revoked_at = coalesce(revoked_at, $3), erased_at = $3, name = '[erased]', \
                 last_used_at = null \
                 where tenant_id = $1 and ($2 = '' or project_id = $2) and erased_at is null",
                Some(order.at),
            )
            .await?;
        erased.scrub("api_keys", scrubbed);
        // Their workers hear of it with the next beat, and can settle nothing.
        let jobs = self
            .alter(
                "delete from jobs where tenant_id = $1 and ($2 = '' or project_id = $2) \
                 and state in ('pending', 'running')",
                None,
            )
            .await?;
        erased.remove("jobs", jobs);
        self.alter(
            "update projects set deleted_at = $3, name = id, retention_days = null \
             where tenant_id = $1 and ($2 = '' or id = $2) and deleted_at is null",
            Some(order.at),
        )
        .await?;
        if whole {
            self.alter(
                "insert into tenants (id, name, created_at, deleted_at, closed_at) select $1, $1, $3, $3, $3 \
                 where $2 = '' on conflict (id) do update set name = excluded.id, deleted_at = $3, closed_at = $3, \
                 retention_days = null",
                Some(order.at),
            )
            .await?;
            self.alter("delete from erasures where tenant_id = $1 and $2 = ''", None).await?;
        }
        self.note(order, &erased, (keys, projects)).await?;
        Ok(true)
    }

    async fn sweep(&mut self, most: u32, at: Timestamp) -> Result<bool> {
        if !self.is_being_erased().await? {
            return Ok(false);
        }
        let mut erased = ErasedRows::default();
        let more = self.remove_some(most, &mut erased).await?;
        // Servers that hold an index of it load it anew.
        self.alter("update scopes set forgotten = revision where tenant_id = $1 and project_id = $2", None).await?;
        let (query, connection) =
            self.scoped("select counts from erasures where tenant_id = $1 and project_id = $2").await?;
        let mut total = read(query.fetch_one(connection).await?.try_get(0)?)?;
        total.add(&erased);
        let total = written(&total)?;
        let (query, connection) = self
            .scoped("update erasures set counts = $3, touched_at = $4 where tenant_id = $1 and project_id = $2")
            .await?;
        query.bind(total).bind(at).execute(connection).await?;
        Ok(more)
    }

    async fn finish(&mut self, at: Timestamp) -> Result<Option<ErasureTally>> {
        let (query, connection) = self
            .scoped(
                "select requested_by, recorded_in, reopens, started_at, counts, keys_revoked, projects from erasures \
                 where tenant_id = $1 and project_id = $2 and finished_at is null for update",
            )
            .await?;
        let Some(row) = query.fetch_optional(connection).await? else { return Ok(None) };
        let tally = ErasureTally {
            order: ErasureOrder {
                requested_by: row.try_get::<Option<String>, _>(0)?.map(rows::text),
                recorded_in: row.try_get(1)?,
                reopens: row.try_get(2)?,
                at: row.try_get(3)?,
            },
            rows: read(row.try_get(4)?)?,
            keys_revoked: count(row.try_get(5)?),
            projects: count(row.try_get(6)?),
        };
        self.alter(
            "update scopes set patterns = 0, words = 0, runs = 0, successes = 0, recalls = 0, recall_hits = 0, \
             recent_scores = '{}', revision = revision + 1, forgotten = revision + 1 \
             where tenant_id = $1 and ($2 = '' or project_id = $2)",
            None,
        )
        .await?;
        if tally.order.reopens {
            self.alter("delete from erasures where tenant_id = $1 and project_id = $2", None).await?;
            self.alter(
                "update scopes set closed_at = null where tenant_id = $1 and ($2 = '' or project_id = $2) \
                 and not exists (select from erasures e where e.tenant_id = $1 and e.project_id = '' \
                 and e.finished_at is null)",
                None,
            )
            .await?;
            if self.scope.is_whole_tenant() {
                self.alter("update tenants set closed_at = null where id = $1 and $2 = ''", None).await?;
            }
        } else {
            self.alter(
                "update erasures set finished_at = $3, requested_by = null, counts = '{}' \
                 where tenant_id = $1 and project_id = $2",
                Some(at),
            )
            .await?;
        }
        Ok(Some(tally))
    }
}

impl PostgresWork {
    async fn is_being_erased(&mut self) -> Result<bool> {
        let (query, connection) = self
            .scoped("select 1 from erasures where tenant_id = $1 and project_id = $2 and finished_at is null")
            .await?;
        Ok(query.fetch_optional(connection).await?.is_some())
    }

    /// The number that a query of the scope gives, and of `$3` if it has one.
    async fn number(&mut self, sql: &'static str, third: Option<Timestamp>) -> Result<u64> {
        let (query, connection) = self.scoped(sql).await?;
        let query = if third.is_some() { query.bind(third) } else { query };
        Ok(count(query.fetch_one(connection).await?.try_get(0)?))
    }

    /// How many rows a statement about the scope, and `$3` if it has one, changes.
    async fn alter(&mut self, sql: &'static str, third: Option<Timestamp>) -> Result<u64> {
        let (query, connection) = self.scoped(sql).await?;
        let query = if third.is_some() { query.bind(third) } else { query };
        Ok(query.execute(connection).await?.rows_affected())
    }

    /// Whether a scope that is registered nowhere holds something all the same.
    async fn holds_anything(&mut self) -> Result<bool> {
        for table in [&table!("patterns")].into_iter().chain(OF_A_PROJECT) {
            let (query, connection) = self.scoped(table.any).await?;
            if query.fetch_optional(connection).await?.is_some() {
                return Ok(true);
            }
        }
        let whole = self.scope.is_whole_tenant();
        for table in OF_A_TENANT.iter().filter(|_| whole) {
            let (query, connection) = self.scoped(table.any_of_tenant).await?;
            if query.fetch_optional(connection).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn note(&mut self, order: &ErasureOrder, rows: &ErasedRows, counts: (u64, u64)) -> Result<()> {
        let rows = written(rows)?;
        let (query, connection) = self
            .scoped(
                "insert into erasures (tenant_id, project_id, started_at, touched_at, requested_by, recorded_in, \
                 reopens, keys_revoked, projects, counts) values ($1, $2, $3, $3, $4, $5, $6, $7, $8, $9) \
                 on conflict (tenant_id, project_id) do update set started_at = $3, touched_at = $3, \
                 finished_at = null, requested_by = $4, recorded_in = $5, reopens = $6, keys_revoked = $7, \
                 projects = $8, counts = $9",
            )
            .await?;
        query
            .bind(order.at)
            .bind(column_option(order.requested_by.as_ref()))
            .bind(column_text(&order.recorded_in))
            .bind(order.reopens)
            .bind(column(counts.0))
            .bind(column(counts.1))
            .bind(rows)
            .execute(connection)
            .await?;
        Ok(())
    }

    /// Removes about `most` rows; whether there may be more.
    async fn remove_some(&mut self, most: u32, erased: &mut ErasedRows) -> Result<bool> {
        let whole = self.scope.is_whole_tenant();
        let mut left = i64::from(most);
        let (query, connection) = self
            .scoped(if whole {
                "select project_id, id from patterns where tenant_id = $1 and $2 = '' limit $3"
            } else {
                "select project_id, id from patterns where tenant_id = $1 and project_id = $2 limit $3"
            })
            .await?;
        let found = query.bind(left).fetch_all(connection).await?;
        let mut projects: Vec<String> = Vec::with_capacity(found.len());
        let mut ids: Vec<i64> = Vec::with_capacity(found.len());
        for row in &found {
            projects.push(row.try_get(0)?);
            ids.push(row.try_get(1)?);
        }
        if !ids.is_empty() {
            for (name, sql) in OF_A_PATTERN {
                let query = sqlx::query(*sql).bind(self.scope.tenant().to_owned());
                let query = query.bind(projects.clone()).bind(ids.clone());
                erased.remove(name, query.execute(self.connection().await?).await?.rows_affected());
            }
            return Ok(true);
        }
        for table in OF_A_PROJECT.iter().chain(OF_A_TENANT.iter().filter(|_| whole)) {
            let (query, connection) = self.scoped(if whole { table.of_tenant } else { table.of_project }).await?;
            let removed = query.bind(left).execute(connection).await?.rows_affected();
            erased.remove(table.name, removed);
            left -= column(removed);
            if left <= 0 {
                return Ok(true);
            }
        }
        // The chain stays, as the proof: it does not cover what an entry loses here.
        let (query, connection) = self
            .scoped(
                "update audit_log set ip = null, detail = null, nonce = null where tenant_id = $1 and sequence in ( \
                     select sequence from audit_log where tenant_id = $1 and ($2 = '' or project_id = $2) \
                     and nonce is not null and action <> 'scope_deleted' limit $3)",
            )
            .await?;
        let scrubbed = query.bind(left).execute(connection).await?.rows_affected();
        erased.scrub("audit_log", scrubbed);
        Ok(column(scrubbed) >= left)
    }
}

/// Counts as they are stored.
fn written(rows: &ErasedRows) -> Result<String> {
    serde_json::to_string(rows).map_err(|e| corrupt("erasures", &e))
}

fn read(text: &str) -> Result<ErasedRows> {
    serde_json::from_str(text).map_err(|e| corrupt("erasures", &e))
}
