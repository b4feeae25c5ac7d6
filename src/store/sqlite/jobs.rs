//! The background jobs of a scope.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::{SqliteWork, rows};
use crate::domain::job::{Cancelling, MAX_ATTEMPTS, NewJob, Outcome, Standing, Verdict};
use crate::domain::{Job, JobState, Scope, Timestamp};
use crate::store::engine::{corrupt, small};
use crate::store::{Jobs, Result};

/// Columns of [`job`], in its order.
macro_rules! columns {
    () => {
        "id, operation, state, result, error, attempt, created_at, started_at, completed_at"
    };
}

#[async_trait]
impl Jobs for SqliteWork {
    async fn enqueue(&mut self, new: &NewJob) -> Result<()> {
        let submitter = &new.submitter;
        let (query, connection) = self
            .scoped(
                "insert into jobs (tenant_id, project_id, id, operation, state, max_attempts, created_at, ready_at, \
                 expires_at, max_execution, key_id, role, max_patterns, request_id, address, params) \
                 values ($1, $2, $3, $4, 'pending', $5, $6, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
            )
            .await?;
        query
            .bind(&new.id)
            .bind(new.operation.as_str())
            .bind(MAX_ATTEMPTS)
            .bind(new.created_at.timestamp_micros())
            .bind(new.expires_at.timestamp_micros())
            .bind(micros(new.max_execution))
            .bind(&submitter.key_id)
            .bind(submitter.role.as_str())
            .bind(submitter.max_patterns)
            .bind(&submitter.request_id)
            .bind(submitter.address.map(|address| address.to_string()))
            .bind(&new.params)
            .execute(connection)
            .await?;
        let scope = self.scope.clone();
        queue_up(self.connection().await?, scope.tenant(), new.created_at, new.created_at).await
    }

    async fn get(&mut self, id: &str) -> Result<Option<Job>> {
        let (query, connection) = self
            .scoped(concat!("select ", columns!(), " from jobs where tenant_id = $1 and project_id = $2 and id = $3"))
            .await?;
        query.bind(id).fetch_optional(connection).await?.as_ref().map(job).transpose()
    }

    async fn list(&mut self, state: Option<JobState>, limit: u32) -> Result<Vec<Job>> {
        let sql = match state {
            None => concat!(
                "select ",
                columns!(),
                " from jobs where tenant_id = $1 and project_id = $2 order by id desc limit $3"
            ),
            Some(_) => concat!(
                "select ",
                columns!(),
                " from jobs where tenant_id = $1 and project_id = $2 and state = $4 order by id desc limit $3"
            ),
        };
        let (query, connection) = self.scoped(sql).await?;
        let query = query.bind(limit);
        let query = match state {
            None => query,
            Some(state) => query.bind(state.as_str()),
        };
        query.fetch_all(connection).await?.iter().map(job).collect()
    }

    async fn cancel(&mut self, id: &str, at: Timestamp) -> Result<Cancelling> {
        let scope = self.scope.clone();
        let connection = self.connection().await?;
        let Some(standing) = standing(connection, &scope, id).await? else { return Ok(Cancelling::TooLate) };
        let cancelling = standing.cancelling();
        match cancelling {
            Cancelling::TooLate => {}
            Cancelling::AtOnce => write(connection, &scope, id, &standing.cancelled(), at).await?,
            Cancelling::Requested => {
                let (query, connection) = self
                    .scoped("update jobs set cancel_requested = 1 where tenant_id = $1 and project_id = $2 and id = $3")
                    .await?;
                query.bind(id).execute(connection).await?;
            }
        }
        Ok(cancelling)
    }

    async fn settle(&mut self, id: &str, attempt: u32, verdict: Verdict, at: Timestamp) -> Result<Option<JobState>> {
        let scope = self.scope.clone();
        let connection = self.connection().await?;
        let standing = standing(connection, &scope, id).await?;
        let Some(outcome) = standing.and_then(|standing| standing.settled(attempt, verdict)) else { return Ok(None) };
        write(connection, &scope, id, &outcome, at).await?;
        Ok(Some(outcome.state))
    }

    async fn keep_progress(&mut self, id: &str, attempt: u32, progress: &str) -> Result<bool> {
        let (query, connection) = self
            .scoped(
                "update jobs set progress = $5, max_attempts = max(max_attempts, attempt + $6) \
                 where tenant_id = $1 and project_id = $2 and id = $3 and attempt = $4 \
                 and state = 'running' and cancel_requested = 0",
            )
            .await?;
        let query = query.bind(id).bind(attempt).bind(progress).bind(MAX_ATTEMPTS);
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }
}

/// What the rules need to know of a job.
pub(super) async fn standing(connection: &mut SqliteConnection, scope: &Scope, id: &str) -> Result<Option<Standing>> {
    let row = sqlx::query(
        "select state, attempt, max_attempts, cancel_requested from jobs \
         where tenant_id = $1 and project_id = $2 and id = $3",
    )
    .bind(scope.tenant())
    .bind(scope.project())
    .bind(id)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Standing {
        state: row.try_get::<&str, _>(0)?.parse().map_err(|e| corrupt("jobs", &e))?,
        attempt: small(row.try_get(1)?),
        max_attempts: small(row.try_get(2)?),
        cancel_requested: row.try_get(3)?,
    }))
}

/// Gives a job the state of an outcome. What came to its end forgets its input and where it came from.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    scope: &Scope,
    id: &str,
    outcome: &Outcome,
    at: Timestamp,
) -> Result<()> {
    let over = outcome.state.is_final();
    sqlx::query(
        "update jobs set state = $4, result = $5, error = $6, ready_at = coalesce($7, ready_at), max_attempts = $8, \
         worker = null, lease_until = null, completed_at = case when $9 then $10 end, \
         params = case when $9 then null else params end, progress = case when $9 then null else progress end, \
         address = case when $9 then null else address end \
         where tenant_id = $1 and project_id = $2 and id = $3",
    )
    .bind(scope.tenant())
    .bind(scope.project())
    .bind(id)
    .bind(outcome.state.as_str())
    .bind(&outcome.result)
    .bind(&outcome.error)
    .bind(outcome.ready_at.map(|at| at.timestamp_micros()))
    .bind(outcome.max_attempts)
    .bind(over)
    .bind(at.timestamp_micros())
    .execute(&mut *connection)
    .await?;
    match outcome.ready_at {
        Some(ready_at) => queue_up(connection, scope.tenant(), at, ready_at).await,
        None => Ok(()),
    }
}

/// Puts a tenant into the row of those that have waiting jobs.
async fn queue_up(connection: &mut SqliteConnection, tenant: &str, came: Timestamp, ready_at: Timestamp) -> Result<()> {
    sqlx::query(
        "insert into job_turns (tenant_id, served_at, ready_at) values ($1, $2, $3) \
         on conflict (tenant_id) do update set ready_at = min(ready_at, excluded.ready_at)",
    )
    .bind(tenant)
    .bind(came.timestamp_micros())
    .bind(ready_at.timestamp_micros())
    .execute(connection)
    .await?;
    Ok(())
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn job(row: &SqliteRow) -> Result<Job> {
    let time = |column: usize| row.try_get::<Option<i64>, _>(column)?.map(rows::time).transpose();
    Ok(Job {
        id: row.try_get(0)?,
        operation: row.try_get::<&str, _>(1)?.parse().map_err(|e| corrupt("jobs", &e))?,
        state: row.try_get::<&str, _>(2)?.parse().map_err(|e| corrupt("jobs", &e))?,
        result: row.try_get(3)?,
        error: row.try_get(4)?,
        attempts: small(row.try_get(5)?),
        created_at: rows::time(row.try_get(6)?)?,
        started_at: time(7)?,
        completed_at: time(8)?,
    })
}
