//! The background jobs of a scope.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::rows::{self, column_option, column_text};
use super::unit::PostgresWork;
use crate::domain::job::{Cancelling, MAX_ATTEMPTS, NewJob, Outcome, Standing, Verdict};
use crate::domain::{Job, JobState, Scope, Timestamp};
use crate::store::engine::{corrupt, small};
use crate::store::{Jobs, Result};

/// Where workers of other processes listen.
pub(super) const CHANNEL: &str = "engramia_jobs";

/// Columns of [`job`], in its order.
macro_rules! columns {
    () => {
        "id, operation, state, result, error, attempt, created_at, started_at, completed_at"
    };
}

#[async_trait]
impl Jobs for PostgresWork {
    async fn enqueue(&mut self, new: &NewJob) -> Result<()> {
        self.written()?;
        let submitter = &new.submitter;
        let (query, connection) = self
            .scoped(
                "insert into jobs (tenant_id, project_id, id, operation, state, max_attempts, created_at, ready_at, \
                 expires_at, max_execution, key_id, role, max_patterns, request_id, address, params) \
                 values ($1, $2, $3, $4, 'pending', $5, $6, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
            )
            .await?;
        query
            .bind(new.id.clone())
            .bind(new.operation.as_str())
            .bind(MAX_ATTEMPTS.cast_signed())
            .bind(new.created_at)
            .bind(new.expires_at)
            .bind(micros(new.max_execution))
            .bind(column_option(submitter.key_id.as_ref()))
            .bind(submitter.role.as_str())
            .bind(submitter.max_patterns.map(|most| i32::try_from(most).unwrap_or(i32::MAX)))
            .bind(column_option(submitter.request_id.as_ref()))
            .bind(submitter.address.map(|address| address.to_string()))
            .bind(column_text(&new.params))
            .execute(connection)
            .await?;
        let scope = self.scope.clone();
        let connection = self.connection().await?;
        if queue_up(connection, scope.tenant(), new.created_at, new.created_at).await? {
            // Where workers are busy with this tenant already, nobody needs to be woken; notifying is not free.
            sqlx::query("select pg_notify($1, '')").bind(CHANNEL).execute(connection).await?;
        }
        Ok(())
    }

    async fn get(&mut self, id: &str) -> Result<Option<Job>> {
        let (query, connection) = self
            .scoped(concat!("select ", columns!(), " from jobs where tenant_id = $1 and project_id = $2 and id = $3"))
            .await?;
        query.bind(column_text(id)).fetch_optional(connection).await?.as_ref().map(job).transpose()
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
        let query = query.bind(i64::from(limit));
        let query = match state {
            None => query,
            Some(state) => query.bind(state.as_str()),
        };
        query.fetch_all(connection).await?.iter().map(job).collect()
    }

    async fn cancel(&mut self, id: &str, at: Timestamp) -> Result<Cancelling> {
        self.written()?;
        let scope = self.scope.clone();
        let connection = self.connection().await?;
        let Some(standing) = standing(connection, &scope, id).await? else { return Ok(Cancelling::TooLate) };
        let cancelling = standing.cancelling();
        match cancelling {
            Cancelling::TooLate => {}
            Cancelling::AtOnce => write(connection, &scope, id, &standing.cancelled(), at).await?,
            Cancelling::Requested => {
                let (query, connection) = self
                    .scoped(
                        "update jobs set cancel_requested = true \
                         where tenant_id = $1 and project_id = $2 and id = $3",
                    )
                    .await?;
                query.bind(column_text(id)).execute(connection).await?;
            }
        }
        Ok(cancelling)
    }

    async fn settle(&mut self, id: &str, attempt: u32, verdict: Verdict, at: Timestamp) -> Result<Option<JobState>> {
        self.written()?;
        let scope = self.scope.clone();
        let connection = self.connection().await?;
        let standing = standing(connection, &scope, id).await?;
        let Some(outcome) = standing.and_then(|standing| standing.settled(attempt, verdict)) else { return Ok(None) };
        write(connection, &scope, id, &outcome, at).await?;
        Ok(Some(outcome.state))
    }

    async fn keep_progress(&mut self, id: &str, attempt: u32, progress: &str) -> Result<bool> {
        self.written()?;
        let (query, connection) = self
            .scoped(
                "update jobs set progress = $5, max_attempts = greatest(max_attempts, attempt + $6) \
                 where tenant_id = $1 and project_id = $2 and id = $3 and attempt = $4 \
                 and state = 'running' and not cancel_requested",
            )
            .await?;
        let query = query.bind(column_text(id)).bind(attempt.cast_signed()).bind(column_text(progress));
        let query = query.bind(MAX_ATTEMPTS.cast_signed());
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }
}

/// What the rules need to know of a job, which nobody else changes until the end of the transaction.
pub(super) async fn standing(connection: &mut PgConnection, scope: &Scope, id: &str) -> Result<Option<Standing>> {
    let row = sqlx::query(
        "select state, attempt, max_attempts, cancel_requested from jobs \
         where tenant_id = $1 and project_id = $2 and id = $3 for update",
    )
    .bind(scope.tenant().to_owned())
    .bind(scope.project().to_owned())
    .bind(column_text(id))
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
    connection: &mut PgConnection,
    scope: &Scope,
    id: &str,
    outcome: &Outcome,
    at: Timestamp,
) -> Result<()> {
    sqlx::query(
        "update jobs set state = $4, result = $5, error = $6, ready_at = coalesce($7, ready_at), max_attempts = $8, \
         worker = null, lease_until = null, completed_at = case when $9 then $10::timestamptz end, \
         params = case when $9 then null else params end, progress = case when $9 then null else progress end, \
         address = case when $9 then null else address end \
         where tenant_id = $1 and project_id = $2 and id = $3",
    )
    .bind(scope.tenant().to_owned())
    .bind(scope.project().to_owned())
    .bind(column_text(id))
    .bind(outcome.state.as_str())
    .bind(column_option(outcome.result.as_ref()))
    .bind(column_option(outcome.error.as_ref()))
    .bind(outcome.ready_at)
    .bind(outcome.max_attempts.cast_signed())
    .bind(outcome.state.is_final())
    .bind(at)
    .execute(&mut *connection)
    .await?;
    if let Some(ready_at) = outcome.ready_at {
        queue_up(connection, scope.tenant(), at, ready_at).await?;
    }
    Ok(())
}

/// Puts a tenant into the row of those that have waiting jobs, and keeps its place locked until the end of the
/// transaction; whether its next job is nearer now than before.
async fn queue_up(connection: &mut PgConnection, tenant: &str, came: Timestamp, ready_at: Timestamp) -> Result<bool> {
    let done = sqlx::query(
        "insert into job_turns (tenant_id, served_at, ready_at) values ($1, $2, $3) \
         on conflict (tenant_id) do update set ready_at = excluded.ready_at \
         where job_turns.ready_at > excluded.ready_at",
    )
    .bind(tenant.to_owned())
    .bind(came)
    .bind(ready_at)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn job(row: &PgRow) -> Result<Job> {
    Ok(Job {
        id: row.try_get(0)?,
        operation: row.try_get::<&str, _>(1)?.parse().map_err(|e| corrupt("jobs", &e))?,
        state: row.try_get::<&str, _>(2)?.parse().map_err(|e| corrupt("jobs", &e))?,
        result: row.try_get::<Option<String>, _>(3)?.map(rows::text),
        error: row.try_get::<Option<String>, _>(4)?.map(rows::text),
        attempts: small(row.try_get(5)?),
        created_at: row.try_get(6)?,
        started_at: row.try_get(7)?,
        completed_at: row.try_get(8)?,
    })
}
