//! The erasure of a scope. Every table that holds something of a tenant stands in one of the lists below
//! (`tests/it/erasure_tables.rs`).

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use async_trait::async_trait;
use sqlx::{Row, SqliteConnection};

use super::patterns::json_ids;
use super::writer::Turn;
use super::{SqliteWork, rows};
use crate::domain::erasure::{ErasedRows, ErasureOrder, ErasureTally};
use crate::domain::{PatternId, Scope, Timestamp};
use crate::store::engine::{Change, ChangeKind, column, corrupt, count};
use crate::store::{Erasure, Result, StoreError};

/// Scopes that nobody may write into, as the table `erasures` says. Whoever writes looks here once it is its turn.
#[derive(Default)]
pub(super) struct Closed(RwLock<HashSet<Scope>>);

impl Closed {
    pub(super) async fn load(connection: &mut SqliteConnection) -> Result<Self> {
        let rows = sqlx::query("select tenant_id, project_id from erasures").fetch_all(connection).await?;
        let scopes: Result<_> = rows.iter().map(|row| Ok(Scope::verified(row.try_get(0)?, row.try_get(1)?))).collect();
        Ok(Self(RwLock::new(scopes?)))
    }

    /// Fails for a scope that is closed, or whose tenant is.
    pub(super) fn refuse(&self, scope: &Scope) -> Result<()> {
        let closed = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if !closed.is_empty() && (closed.contains(scope) || closed.contains(&Scope::of_tenant(scope.tenant()))) {
            return Err(StoreError::Erased);
        }
        Ok(())
    }

    /// Closes a scope; whether it was open.
    pub(super) fn add(&self, scope: &Scope) -> bool {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(scope.clone())
    }

    /// Opens a scope.
    pub(super) fn forget(&self, scope: &Scope) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(scope);
    }

    /// Leaves it to the scope alone whether something in it is closed.
    fn replace(&self, scope: &Scope) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|of| of == scope || !scope.covers(of));
    }
}

/// What a unit of work does to its scope with its commit.
#[derive(Clone, Copy)]
pub(super) enum Gate {
    Close,
    Open,
}

impl Gate {
    /// Commits a unit of work: nobody writes in between.
    pub(super) async fn commit(self, turn: Turn, closed: &Closed, scope: &Scope) -> Result<()> {
        match self {
            Self::Open => {
                turn.commit().await?;
                closed.forget(scope);
                Ok(())
            }
            Self::Close => {
                // Before the turn goes on to the next in line.
                let was_open = closed.add(scope);
                match turn.commit().await {
                    Ok(()) => closed.replace(scope),
                    Err(error) => {
                        if was_open {
                            closed.forget(scope);
                        }
                        return Err(error);
                    }
                }
                Ok(())
            }
        }
    }
}

/// A table, and how some of its rows are removed: at most `$3` of the tenant `$1` and the project `$2`.
struct Table {
    name: &'static str,
    of_project: &'static str,
    of_tenant: &'static str,
    any: &'static str,
    any_of_tenant: &'static str,
}

/// A table by its name and by what tells its rows apart.
macro_rules! table {
    ($name:literal, $row:literal) => {
        Table {
            name: $name,
            of_project: concat!(
                "delete from ",
                $name,
                " where (",
                $row,
                ") in (select ",
                $row,
                " from ",
                $name,
                " where tenant_id = $1 and project_id = $2 limit $3)"
            ),
            of_tenant: concat!(
                "delete from ",
                $name,
                " where (",
                $row,
                ") in (select ",
                $row,
                " from ",
                $name,
                " where tenant_id = $1 and $2 = '' limit $3)"
            ),
            any: concat!("select 1 from ", $name, " where tenant_id = $1 and ($2 = '' or project_id = $2) limit 1"),
            any_of_tenant: concat!("select 1 from ", $name, " where tenant_id = $1 and $2 = '' limit 1"),
        }
    };
}

/// A table whose rows hang on issues: only those have an index by scope.
macro_rules! of_issues {
    ($name:literal) => {
        Table {
            name: $name,
            of_project: concat!(
                "delete from ",
                $name,
                " where (feedback_id, task) in (select t.feedback_id, t.task from feedback f join ",
                $name,
                " t on t.feedback_id = f.id where f.tenant_id = $1 and f.project_id = $2 limit $3)"
            ),
            of_tenant: concat!(
                "delete from ",
                $name,
                " where (feedback_id, task) in (select t.feedback_id, t.task from feedback f join ",
                $name,
                " t on t.feedback_id = f.id where f.tenant_id = $1 and $2 = '' limit $3)"
            ),
            any: concat!(
                "select 1 from feedback f join ",
                $name,
                " t on t.feedback_id = f.id where f.tenant_id = $1 and ($2 = '' or f.project_id = $2) limit 1"
            ),
            any_of_tenant: "",
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
                " where (customer_id, id) in (select customer_id, id from ",
                $name,
                " where customer_id in (select customer_id from stripe_customers where tenant_id = $1) and $2 = '' \
                 limit $3)"
            ),
            any: "",
            any_of_tenant: "select 1 from stripe_customers where tenant_id = $1 and $2 = '' limit 1",
        }
    };
}

/// A table whose rows hang on patterns, and how those of the patterns `$1` (JSON) are removed.
macro_rules! hanging {
    ($name:literal, $pattern:literal) => {
        ($name, concat!("delete from ", $name, " where ", $pattern, " in (select value from json_each($1))"))
    };
}

/// Tables whose rows belong to patterns, themselves last.
const OF_A_PATTERN: &[(&str, &str)] = &[
    hanging!("vectors", "pattern_id"),
    hanging!("pattern_text", "rowid"),
    hanging!("reuse", "pattern_id"),
    hanging!("evaluations", "pattern_id"),
    hanging!("skills", "pattern_id"),
    hanging!("patterns", "id"),
];

/// Tables whose rows belong to a project.
const OF_A_PROJECT: &[Table] = &[
    table!("jobs", "rowid"),
    of_issues!("feedback_tasks"),
    table!("feedback", "rowid"),
    table!("analytics_events", "tenant_id, project_id, created_at, id"),
    table!("analytics_rollups", "tenant_id, project_id, period"),
    table!("scope_statistics", "tenant_id, project_id"),
    table!("idempotency_keys", "tenant_id, project_id, name"),
];

/// Tables whose rows belong to the tenant as a whole.
const OF_A_TENANT: &[Table] = &[
    table!("job_turns", "tenant_id"),
    table!("model_spend", "tenant_id, day"),
    table!("carried_rows", "tenant_id, source, id"),
    table!("data_subject_requests", "tenant_id, id"),
    table!("billing_subscriptions", "tenant_id"),
    table!("usage_counters", "tenant_id, metric, year, month"),
    table!("usage_reservations", "tenant_id, id"),
    table!("overage_periods", "tenant_id, year, month"),
    table!("dunning_warnings", "tenant_id"),
    of_customers!("stripe_events"),
    table!("stripe_customers", "customer_id"),
];

#[async_trait]
impl Erasure for SqliteWork {
    async fn close(&mut self, order: &ErasureOrder) -> Result<bool> {
        let at = order.at.timestamp_micros();
        if self.is_being_erased().await? {
            return Ok(true);
        }
        let keys = self
            .number(
                "select count(*) from api_keys where tenant_id = $1 and ($2 = '' or project_id = $2) \
                 and revoked_at is null and erased_at is null and (expires_at is null or expires_at > $3)",
                at,
            )
            .await?;
        let (query, connection) = self
            .scoped(
                "select count(*) from (select id from projects where tenant_id = $1 and ($2 = '' or id = $2) \
                 and deleted_at is null union \
                 select project_id from scope_statistics where tenant_id = $1 and ($2 = '' or project_id = $2) \
                 and patterns > 0)",
            )
            .await?;
        let mut projects = count(query.fetch_one(connection).await?.try_get(0)?);
        if projects == 0 && keys == 0 && !self.holds_anything().await? {
            return Ok(false);
        }
        if !self.scope.is_whole_tenant() {
            projects = 1;
        }
        let mut erased = ErasedRows::default();
        let scrubbed = self
            .alter(
                "update api_keys set revoked_at = coalesce(revoked_at, $3), erased_at = $3, name = '[erased]', \
                 last_used_at = null \
                 where tenant_id = $1 and ($2 = '' or project_id = $2) and erased_at is null",
                at,
            )
            .await?;
        erased.scrub("api_keys", scrubbed);
        // Their workers hear of it with the next beat, and can settle nothing.
        let jobs = self
            .remove(
                "delete from jobs where tenant_id = $1 and ($2 = '' or project_id = $2) \
                 and state in ('pending', 'running')",
            )
            .await?;
        erased.remove("jobs", jobs);
        self.alter(
            "update projects set deleted_at = $3, name = id, retention_days = null \
             where tenant_id = $1 and ($2 = '' or id = $2) and deleted_at is null",
            at,
        )
        .await?;
        if self.scope.is_whole_tenant() {
            self.alter(
                "update tenants set deleted_at = $3, name = id, retention_days = null where id = $1 and $2 = ''",
                at,
            )
            .await?;
            self.remove("delete from erasures where tenant_id = $1 and $2 = ''").await?;
        }
        let counts = written(&erased)?;
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
            .bind(at)
            .bind(&order.requested_by)
            .bind(&order.recorded_in)
            .bind(order.reopens)
            .bind(column(keys))
            .bind(column(projects))
            .bind(counts)
            .execute(connection)
            .await?;
        self.gate = Some(Gate::Close);
        Ok(true)
    }

    async fn sweep(&mut self, most: u32, at: Timestamp) -> Result<bool> {
        if !self.is_being_erased().await? {
            return Ok(false);
        }
        let mut erased = ErasedRows::default();
        let more = self.remove_some(most, &mut erased).await?;
        let (query, connection) =
            self.scoped("select counts from erasures where tenant_id = $1 and project_id = $2").await?;
        let mut total = read(query.fetch_one(connection).await?.try_get(0)?)?;
        total.add(&erased);
        let total = written(&total)?;
        let (query, connection) = self
            .scoped("update erasures set counts = $3, touched_at = $4 where tenant_id = $1 and project_id = $2")
            .await?;
        query.bind(total).bind(at.timestamp_micros()).execute(connection).await?;
        Ok(more)
    }

    async fn finish(&mut self, at: Timestamp) -> Result<Option<ErasureTally>> {
        let (query, connection) = self
            .scoped(
                "select requested_by, recorded_in, reopens, started_at, counts, keys_revoked, projects from erasures \
                 where tenant_id = $1 and project_id = $2 and finished_at is null",
            )
            .await?;
        let Some(row) = query.fetch_optional(connection).await? else { return Ok(None) };
        let tally = ErasureTally {
            order: ErasureOrder {
                requested_by: row.try_get(0)?,
                recorded_in: row.try_get(1)?,
                reopens: row.try_get(2)?,
                at: rows::time(row.try_get(3)?)?,
            },
            rows: read(row.try_get(4)?)?,
            keys_revoked: count(row.try_get(5)?),
            projects: count(row.try_get(6)?),
        };
        if tally.order.reopens {
            self.remove("delete from erasures where tenant_id = $1 and project_id = $2").await?;
            self.gate = Some(Gate::Open);
        } else {
            self.alter(
                "update erasures set finished_at = $3, requested_by = null, counts = '{}' \
                 where tenant_id = $1 and project_id = $2",
                at.timestamp_micros(),
            )
            .await?;
        }
        Ok(Some(tally))
    }
}

impl SqliteWork {
    async fn is_being_erased(&mut self) -> Result<bool> {
        let (query, connection) = self
            .scoped("select 1 from erasures where tenant_id = $1 and project_id = $2 and finished_at is null")
            .await?;
        Ok(query.fetch_optional(connection).await?.is_some())
    }

    /// The number that a query of the scope, and of `$3`, gives.
    async fn number(&mut self, sql: &'static str, third: i64) -> Result<u64> {
        let (query, connection) = self.scoped(sql).await?;
        Ok(count(query.bind(third).fetch_one(connection).await?.try_get(0)?))
    }

    /// How many rows a statement about the scope, and `$3`, changes.
    async fn alter(&mut self, sql: &'static str, third: i64) -> Result<u64> {
        let (query, connection) = self.scoped(sql).await?;
        Ok(query.bind(third).execute(connection).await?.rows_affected())
    }

    /// The same without `$3`.
    async fn remove(&mut self, sql: &'static str) -> Result<u64> {
        let (query, connection) = self.scoped(sql).await?;
        Ok(query.execute(connection).await?.rows_affected())
    }

    /// Whether a scope that is registered nowhere holds something all the same.
    async fn holds_anything(&mut self) -> Result<bool> {
        for table in [&table!("patterns", "id")].into_iter().chain(OF_A_PROJECT) {
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

    /// Removes about `most` rows; whether there may be more.
    async fn remove_some(&mut self, most: u32, erased: &mut ErasedRows) -> Result<bool> {
        let whole = self.scope.is_whole_tenant();
        let patterns = if whole {
            "select id, project_id from patterns where tenant_id = $1 and $2 = '' limit $3"
        } else {
            "select id, project_id from patterns where tenant_id = $1 and project_id = $2 limit $3"
        };
        let (query, connection) = self.scoped(patterns).await?;
        let found = query.bind(most).fetch_all(connection).await?;
        let mut ids = Vec::with_capacity(found.len());
        for row in &found {
            let (id, project): (i64, &str) = (row.try_get(0)?, row.try_get(1)?);
            ids.push(PatternId(id));
            let scope = Scope::verified(self.scope.tenant(), project);
            self.remember(Change { scope, id, kind: ChangeKind::Remove });
        }
        if !ids.is_empty() {
            for (name, sql) in OF_A_PATTERN {
                let query = sqlx::query(*sql).bind(json_ids(ids.iter().copied()));
                erased.remove(name, query.execute(self.connection().await?).await?.rows_affected());
            }
            return Ok(true);
        }
        let most = i64::from(most);
        let mut left = most;
        let tables = OF_A_PROJECT.iter().chain(OF_A_TENANT.iter().filter(|_| whole));
        for table in tables {
            let removed = self.alter(if whole { table.of_tenant } else { table.of_project }, left).await?;
            erased.remove(table.name, removed);
            left -= column(removed);
            if left <= 0 {
                return Ok(true);
            }
        }
        // The chain stays, as the proof: it does not cover what an entry loses here.
        let scrubbed = if whole {
            "update audit_log set ip = null, detail = null, nonce = null where (tenant_id, sequence) in ( \
                 select tenant_id, sequence from audit_log where tenant_id = $1 and $2 = '' \
                 and nonce is not null and action <> 'scope_deleted' limit $3)"
        } else {
            "update audit_log set ip = null, detail = null, nonce = null where (tenant_id, sequence) in ( \
                 select tenant_id, sequence from audit_log where tenant_id = $1 and project_id = $2 \
                 and nonce is not null and action <> 'scope_deleted' limit $3)"
        };
        let scrubbed = self.alter(scrubbed, left).await?;
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
