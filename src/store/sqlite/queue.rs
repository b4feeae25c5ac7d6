//! The background jobs of all scopes, as workers see them.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Row, SqliteConnection};

use super::{SqliteStore, jobs, rows};
use crate::domain::job::{HeldJob, Submitter, Verdict};
use crate::domain::{JobOperation, JobState, Scope, Timestamp};
use crate::store::engine::{NOT_MINE_FOR, corrupt, count, small};
use crate::store::{COUNTED, Claim, JobQueue, Pulse, Result, Work};

#[async_trait]
impl JobQueue for SqliteStore {
    async fn claim(&self, claim: &Claim<'_>) -> Result<Vec<HeldJob>> {
        // Mostly nothing is due: then no writer is disturbed.
        if self.next_due().await?.is_none_or(|due| due > claim.now) {
            return Ok(Vec::new());
        }
        let mut work = self.writing(&Scope::default()).await?;
        let connection = work.connection().await?;
        let mut held = Vec::new();
        for tenant in tenants(connection, claim).await? {
            held.extend(take(connection, &tenant, claim).await?);
        }
        work.commit().await?;
        Ok(held)
    }

    async fn heartbeat(&self, job: &HeldJob, lease_until: Timestamp) -> Result<Pulse> {
        let mut work = self.writing(&job.scope).await?;
        let row = sqlx::query(
            "update jobs set lease_until = $5 where tenant_id = $1 and project_id = $2 and id = $3 and attempt = $4 \
             and state = 'running' returning cancel_requested",
        )
        .bind(job.scope.tenant())
        .bind(job.scope.project())
        .bind(&job.id)
        .bind(job.attempt)
        .bind(lease_until.timestamp_micros())
        .fetch_optional(work.connection().await?)
        .await?;
        let pulse = match row {
            None => return Ok(Pulse::Lost),
            Some(row) if row.try_get(0)? => Pulse::Unwanted,
            Some(_) => Pulse::Held,
        };
        work.commit().await?;
        Ok(pulse)
    }

    async fn reap(&self, now: Timestamp, limit: u32) -> Result<Vec<(JobOperation, JobState)>> {
        let any = sqlx::query(
            "select exists (select 1 from jobs where state = 'running' and lease_until <= $1) \
             or exists (select 1 from jobs where state in ('pending', 'running') and expires_at <= $1)",
        )
        .bind(now.timestamp_micros())
        .fetch_one(&self.readers)
        .await?;
        if !any.try_get::<bool, _>(0)? {
            return Ok(Vec::new());
        }
        let mut work = self.writing(&Scope::default()).await?;
        let connection = work.connection().await?;
        let mut reaped = Vec::new();
        let lost = sqlx::query(
            "select tenant_id, project_id, id, operation from jobs where state = 'running' and lease_until <= $1 \
             order by lease_until limit $2",
        )
        .bind(now.timestamp_micros())
        .bind(limit)
        .fetch_all(&mut *connection)
        .await?;
        let expired = sqlx::query(
            "select tenant_id, project_id, id, operation from jobs \
             where state in ('pending', 'running') and expires_at <= $1 order by expires_at limit $2",
        )
        .bind(now.timestamp_micros())
        .bind(limit)
        .fetch_all(&mut *connection)
        .await?;
        // What expired is not begun again.
        for (row, is_expired) in expired.iter().map(|row| (row, true)).chain(lost.iter().map(|row| (row, false))) {
            let scope = Scope::verified(row.try_get(0)?, row.try_get(1)?);
            let id: &str = row.try_get(2)?;
            let Some(standing) = jobs::standing(connection, &scope, id).await? else { continue };
            let outcome = if is_expired {
                Some(standing.expired())
            } else {
                standing.settled(standing.attempt, Verdict::Lost(now))
            };
            let Some(outcome) = outcome else { continue };
            jobs::write(connection, &scope, id, &outcome, now).await?;
            if let Ok(operation) = row.try_get::<&str, _>(3)?.parse() {
                reaped.push((operation, outcome.state));
            }
        }
        work.commit().await?;
        Ok(reaped)
    }

    async fn end_leases_of_predecessors(&self, now: Timestamp) -> Result<()> {
        let mut work = self.writing(&Scope::default()).await?;
        sqlx::query("update jobs set lease_until = $1 where state = 'running' and lease_until > $1")
            .bind(now.timestamp_micros())
            .execute(work.connection().await?)
            .await?;
        work.commit().await
    }

    async fn forget(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let mut work = self.writing(&Scope::default()).await?;
        let done = sqlx::query(
            "delete from jobs where (tenant_id, project_id, id) in ( \
                 select tenant_id, project_id, id from jobs where completed_at < $1 order by completed_at limit $2)",
        )
        .bind(before.timestamp_micros())
        .bind(limit)
        .execute(work.connection().await?)
        .await?;
        work.commit().await?;
        Ok(done.rows_affected())
    }

    async fn next_due(&self) -> Result<Option<Timestamp>> {
        let row = sqlx::query("select min(ready_at) from job_turns").fetch_one(&self.readers).await?;
        row.try_get::<Option<i64>, _>(0)?.map(rows::time).transpose()
    }

    async fn waiting(&self) -> Result<u64> {
        let row = sqlx::query("select count(*) from (select 1 from jobs where state = 'pending' limit $1)")
            .bind(COUNTED)
            .fetch_one(&self.readers)
            .await?;
        Ok(count(row.try_get(0)?))
    }

    async fn rung(&self) -> Result<()> {
        std::future::pending().await
    }
}

/// Tenants that have a job to begin, whoever waits longest first.
async fn tenants(connection: &mut SqliteConnection, claim: &Claim<'_>) -> Result<Vec<String>> {
    let without = serde_json::Value::from(claim.without.to_vec()).to_string();
    let rows = sqlx::query(
        "select tenant_id from job_turns where ready_at <= $1 and tenant_id not in (select value from json_each($2)) \
         order by served_at, tenant_id limit $3",
    )
    .bind(claim.now.timestamp_micros())
    .bind(without)
    .bind(claim.limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Takes the oldest job of a tenant and sends the tenant to the end of the row, or out of it.
async fn take(connection: &mut SqliteConnection, tenant: &str, claim: &Claim<'_>) -> Result<Option<HeldJob>> {
    let row = sqlx::query(
        "select project_id, id, attempt, operation, params, key_id, role, max_patterns, address, request_id, progress, \
         ready_at, max_execution from jobs where tenant_id = $1 and state = 'pending' and ready_at <= $2 \
         order by ready_at, id limit 1",
    )
    .bind(tenant)
    .bind(claim.now.timestamp_micros())
    .fetch_optional(&mut *connection)
    .await?;
    let mut held = None;
    if let Some(row) = row {
        let scope = Scope::verified(tenant, row.try_get(0)?);
        let id: String = row.try_get(1)?;
        match row.try_get::<&str, _>(3)?.parse() {
            Ok(operation) => {
                let job = HeldJob {
                    attempt: small(row.try_get(2)?) + 1,
                    operation,
                    params: row.try_get::<Option<String>, _>(4)?.unwrap_or_default(),
                    submitter: Submitter {
                        key_id: row.try_get(5)?,
                        role: row.try_get::<&str, _>(6)?.parse().map_err(|e| corrupt("jobs", &e))?,
                        max_patterns: row.try_get(7)?,
                        address: row.try_get::<Option<&str>, _>(8)?.and_then(|address| address.parse().ok()),
                        request_id: row.try_get(9)?,
                    },
                    progress: row.try_get(10)?,
                    ready_at: rows::time(row.try_get(11)?)?,
                    max_execution: Duration::from_micros(count(row.try_get(12)?)),
                    scope,
                    id,
                };
                sqlx::query(
                    "update jobs set state = 'running', attempt = $4, worker = $5, started_at = $6, lease_until = $7 \
                     where tenant_id = $1 and project_id = $2 and id = $3",
                )
                .bind(tenant)
                .bind(job.scope.project())
                .bind(&job.id)
                .bind(job.attempt)
                .bind(claim.worker)
                .bind(claim.now.timestamp_micros())
                .bind(claim.lease_until.timestamp_micros())
                .execute(&mut *connection)
                .await?;
                held = Some(job);
            }
            // Of a newer version, which was here before.
            Err(_) => {
                sqlx::query("update jobs set ready_at = $4 where tenant_id = $1 and project_id = $2 and id = $3")
                    .bind(tenant)
                    .bind(scope.project())
                    .bind(&id)
                    .bind((claim.now + NOT_MINE_FOR).timestamp_micros())
                    .execute(&mut *connection)
                    .await?;
            }
        }
    }
    let next = sqlx::query("select min(ready_at) from jobs where tenant_id = $1 and state = 'pending'")
        .bind(tenant)
        .fetch_one(&mut *connection)
        .await?;
    match next.try_get::<Option<i64>, _>(0)? {
        Some(next) => {
            sqlx::query("update job_turns set served_at = $2, ready_at = $3 where tenant_id = $1")
                .bind(tenant)
                .bind(claim.now.timestamp_micros())
                .bind(next)
                .execute(connection)
                .await?
        }
        None => sqlx::query("delete from job_turns where tenant_id = $1").bind(tenant).execute(connection).await?,
    };
    Ok(held)
}
