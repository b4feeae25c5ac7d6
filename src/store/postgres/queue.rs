//! The background jobs of all scopes, as workers see them. A tenant's place in the row is locked before its jobs are
//! looked at, and nobody waits for a lock: what another worker or a submitter holds is passed over.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgListener, PgRow};
use sqlx::{PgConnection, Row};

use super::jobs::{self, CHANNEL};
use super::{PostgresStore, connect, rows};
use crate::domain::job::{HeldJob, Submitter, Verdict};
use crate::domain::{JobOperation, JobState, Scope, Timestamp};
use crate::store::engine::{NOT_MINE_FOR, corrupt, count, small};
use crate::store::{COUNTED, Claim, JobQueue, Pulse, Result};

#[async_trait]
impl JobQueue for PostgresStore {
    async fn claim(&self, claim: &Claim<'_>) -> Result<Vec<HeldJob>> {
        let mut transaction = self.inner.system_writing().await?;
        let tenants = sqlx::query(
            "select tenant_id from job_turns where ready_at <= $1 and tenant_id <> all($2) \
             order by served_at, tenant_id limit $3 for update skip locked",
        )
        .bind(claim.now)
        .bind(claim.without.to_vec())
        .bind(i64::from(claim.limit))
        .fetch_all(&mut *transaction)
        .await?;
        let mut held = Vec::new();
        for row in &tenants {
            held.extend(take(&mut transaction, row.try_get(0)?, claim).await?);
        }
        if !tenants.is_empty() {
            transaction.commit().await?;
        }
        Ok(held)
    }

    async fn heartbeat(&self, job: &HeldJob, lease_until: Timestamp) -> Result<Pulse> {
        let mut transaction = self.inner.system_writing().await?;
        let row = sqlx::query(
            "update jobs set lease_until = $5 where tenant_id = $1 and project_id = $2 and id = $3 and attempt = $4 \
             and state = 'running' returning cancel_requested",
        )
        .bind(job.scope.tenant().to_owned())
        .bind(job.scope.project().to_owned())
        .bind(job.id.clone())
        .bind(job.attempt.cast_signed())
        .bind(lease_until)
        .fetch_optional(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(match row {
            None => Pulse::Lost,
            Some(row) if row.try_get(0)? => Pulse::Unwanted,
            Some(_) => Pulse::Held,
        })
    }

    async fn reap(&self, now: Timestamp, limit: u32) -> Result<Vec<(JobOperation, JobState)>> {
        let mut transaction = self.inner.system_writing().await?;
        let expired = sqlx::query(
            "select tenant_id, project_id, id, operation from jobs \
             where state in ('pending', 'running') and expires_at <= $1 \
             order by expires_at limit $2 for update skip locked",
        )
        .bind(now)
        .bind(i64::from(limit))
        .fetch_all(&mut *transaction)
        .await?;
        let lost = sqlx::query(
            "select tenant_id, project_id, id, operation from jobs where state = 'running' and lease_until <= $1 \
             order by lease_until limit $2 for update skip locked",
        )
        .bind(now)
        .bind(i64::from(limit))
        .fetch_all(&mut *transaction)
        .await?;
        // What expired is not begun again. In the order of the tenants, so that two workers never wait for each other.
        let mut rows: Vec<(&PgRow, bool)> =
            expired.iter().map(|row| (row, true)).chain(lost.iter().map(|row| (row, false))).collect();
        rows.sort_by_key(|(row, is_expired)| (row.try_get::<String, _>(0).unwrap_or_default(), !is_expired));
        let mut reaped = Vec::new();
        for (row, is_expired) in rows {
            let scope = Scope::verified(row.try_get(0)?, row.try_get(1)?);
            let id: &str = row.try_get(2)?;
            let Some(standing) = jobs::standing(&mut transaction, &scope, id).await? else { continue };
            let outcome = if is_expired {
                Some(standing.expired())
            } else {
                standing.settled(standing.attempt, Verdict::Lost(now))
            };
            let Some(outcome) = outcome else { continue };
            jobs::write(&mut transaction, &scope, id, &outcome, now).await?;
            if let Ok(operation) = row.try_get::<&str, _>(3)?.parse() {
                reaped.push((operation, outcome.state));
            }
        }
        transaction.commit().await?;
        Ok(reaped)
    }

    async fn end_leases_of_predecessors(&self, _: Timestamp) -> Result<()> {
        Ok(())
    }

    async fn forget(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let mut transaction = self.inner.system_writing().await?;
        let done = sqlx::query(
            "with o as materialized ( \
                 select tenant_id, project_id, id from jobs where completed_at < $1 \
                 order by completed_at limit $2 for update skip locked) \
             delete from jobs j using o \
             where j.tenant_id = o.tenant_id and j.project_id = o.project_id and j.id = o.id",
        )
        .bind(before)
        .bind(i64::from(limit))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(done.rows_affected())
    }

    async fn next_due(&self) -> Result<Option<Timestamp>> {
        let mut transaction = self.inner.system().await?;
        let row = sqlx::query("select min(ready_at) from job_turns").fetch_one(&mut *transaction).await?;
        Ok(row.try_get(0)?)
    }

    async fn waiting(&self) -> Result<u64> {
        let mut transaction = self.inner.system().await?;
        let row = sqlx::query("select count(*) from (select from jobs where state = 'pending' limit $1) waiting")
            .bind(i64::from(COUNTED))
            .fetch_one(&mut *transaction)
            .await?;
        Ok(count(row.try_get(0)?))
    }

    async fn rung(&self) -> Result<()> {
        let mut listener = self.listener.lock().await;
        let Some(connected) = listener.as_mut() else {
            let mut new = PgListener::connect_with(&connect::single(&self.settings)?).await?;
            new.listen(CHANNEL).await?;
            // What was queued while nobody listened was told to nobody.
            *listener = Some(new);
            return Ok(());
        };
        // Nothing but a new connection after one that broke counts as well, for the same reason.
        let heard = connected.try_recv().await;
        if heard.is_err() {
            *listener = None;
        }
        heard?;
        Ok(())
    }
}

/// Takes the oldest job of a tenant whose place is locked, and sends the tenant to the end of the row, or out of it.
async fn take(connection: &mut PgConnection, tenant: &str, claim: &Claim<'_>) -> Result<Option<HeldJob>> {
    let row = sqlx::query(
        "select project_id, id, attempt, operation, params, key_id, role, max_patterns, address, request_id, progress, \
         ready_at, max_execution from jobs where tenant_id = $1 and state = 'pending' and ready_at <= $2 \
         order by ready_at, id limit 1 for update skip locked",
    )
    .bind(tenant.to_owned())
    .bind(claim.now)
    .fetch_optional(&mut *connection)
    .await?;
    let mut held = None;
    if let Some(row) = row {
        let scope = Scope::verified(tenant, row.try_get(0)?);
        let id: String = row.try_get(1)?;
        match row.try_get::<&str, _>(3)?.parse() {
            Ok(operation) => {
                let job = held_job(&row, scope, id, operation)?;
                sqlx::query(
                    "update jobs set state = 'running', attempt = $4, worker = $5, started_at = $6, lease_until = $7 \
                     where tenant_id = $1 and project_id = $2 and id = $3",
                )
                .bind(tenant.to_owned())
                .bind(job.scope.project().to_owned())
                .bind(job.id.clone())
                .bind(job.attempt.cast_signed())
                .bind(claim.worker.to_owned())
                .bind(claim.now)
                .bind(claim.lease_until)
                .execute(&mut *connection)
                .await?;
                held = Some(job);
            }
            // Of a newer server beside this one.
            Err(_) => {
                sqlx::query("update jobs set ready_at = $4 where tenant_id = $1 and project_id = $2 and id = $3")
                    .bind(tenant.to_owned())
                    .bind(scope.project().to_owned())
                    .bind(id)
                    .bind(claim.now + NOT_MINE_FOR)
                    .execute(&mut *connection)
                    .await?;
            }
        }
    }
    let next = sqlx::query("select min(ready_at) from jobs where tenant_id = $1 and state = 'pending'")
        .bind(tenant.to_owned())
        .fetch_one(&mut *connection)
        .await?;
    match next.try_get::<Option<Timestamp>, _>(0)? {
        Some(next) => {
            sqlx::query("update job_turns set served_at = $2, ready_at = $3 where tenant_id = $1")
                .bind(tenant.to_owned())
                .bind(claim.now)
                .bind(next)
                .execute(connection)
                .await?
        }
        None => {
            sqlx::query("delete from job_turns where tenant_id = $1")
                .bind(tenant.to_owned())
                .execute(connection)
                .await?
        }
    };
    Ok(held)
}

/// The job of a row as it is held from now on.
fn held_job(row: &PgRow, scope: Scope, id: String, operation: JobOperation) -> Result<HeldJob> {
    let text = |column: usize| Ok::<_, sqlx::Error>(row.try_get::<Option<String>, _>(column)?.map(rows::text));
    Ok(HeldJob {
        attempt: small(row.try_get(2)?) + 1,
        operation,
        params: text(4)?.unwrap_or_default(),
        submitter: Submitter {
            key_id: text(5)?,
            role: row.try_get::<&str, _>(6)?.parse().map_err(|e| corrupt("jobs", &e))?,
            max_patterns: row.try_get::<Option<i32>, _>(7)?.map(small),
            address: row.try_get::<Option<&str>, _>(8)?.and_then(|address| address.parse().ok()),
            request_id: text(9)?,
        },
        progress: text(10)?,
        ready_at: row.try_get(11)?,
        max_execution: Duration::from_micros(count(row.try_get(12)?)),
        scope,
        id,
    })
}
