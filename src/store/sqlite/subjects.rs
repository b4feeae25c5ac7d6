//! Requests of data subjects.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{SqliteWork, rows};
use crate::domain::Timestamp;
use crate::domain::subject::SubjectRequest;
use crate::store::governance::{OpenRequests, RequestQuery, SubjectRequests};
use crate::store::{Result, StoreError};

/// Columns of [`request`], in its order.
macro_rules! request_columns {
    () => {
        "id, request_type, subject_email, status, created_at, due_at, updated_at, completed_at, handler_notes"
    };
}

#[async_trait]
impl SubjectRequests for SqliteWork {
    async fn put(&mut self, request: &SubjectRequest) -> Result<()> {
        sqlx::query(concat!(
            "insert into data_subject_requests (tenant_id, ",
            request_columns!(),
            ") values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict (tenant_id, id) do update set \
             request_type = excluded.request_type, subject_email = excluded.subject_email, status = excluded.status, \
             created_at = excluded.created_at, due_at = excluded.due_at, updated_at = excluded.updated_at, \
             completed_at = excluded.completed_at, handler_notes = excluded.handler_notes"
        ))
        .bind(self.scope.tenant())
        .bind(&request.id)
        .bind(request.request_type.as_str())
        .bind(&request.subject_email)
        .bind(request.status.as_str())
        .bind(request.created_at.timestamp_micros())
        .bind(request.due_at.timestamp_micros())
        .bind(request.updated_at.timestamp_micros())
        .bind(request.completed_at.map(|at| at.timestamp_micros()))
        .bind(&request.handler_notes)
        .execute(self.connection().await?)
        .await?;
        Ok(())
    }

    async fn get(&mut self, id: &str) -> Result<Option<SubjectRequest>> {
        let row = sqlx::query(concat!(
            "select ",
            request_columns!(),
            " from data_subject_requests where tenant_id = $1 and id = $2"
        ))
        .bind(self.scope.tenant())
        .bind(id)
        .fetch_optional(self.connection().await?)
        .await?;
        row.as_ref().map(request).transpose()
    }

    async fn list(&mut self, query: &RequestQuery) -> Result<Vec<SubjectRequest>> {
        let rows = sqlx::query(concat!(
            "select ",
            request_columns!(),
            " from data_subject_requests where tenant_id = $1 and ($2 is null or status = $2) \
             and ($3 is null or (due_at < $3 and status in ('pending', 'in_progress'))) \
             order by created_at desc, id desc limit $4"
        ))
        .bind(self.scope.tenant())
        .bind(query.status.map(|status| status.as_str()))
        .bind(query.due_before.map(|at| at.timestamp_micros()))
        .bind(query.limit)
        .fetch_all(self.connection().await?)
        .await?;
        rows.iter().map(request).collect()
    }

    async fn page(&mut self, after: &str, limit: u32) -> Result<Vec<SubjectRequest>> {
        let rows = sqlx::query(concat!(
            "select ",
            request_columns!(),
            " from data_subject_requests where tenant_id = $1 and id > $2 order by id limit $3"
        ))
        .bind(self.scope.tenant())
        .bind(after)
        .bind(limit)
        .fetch_all(self.connection().await?)
        .await?;
        rows.iter().map(request).collect()
    }

    async fn open(&mut self, now: Timestamp) -> Result<OpenRequests> {
        let row = sqlx::query(
            "select coalesce(sum(status = 'pending'), 0), coalesce(sum(status = 'in_progress'), 0), \
             coalesce(sum(due_at < $2), 0) from data_subject_requests \
             where tenant_id = $1 and status in ('pending', 'in_progress')",
        )
        .bind(self.scope.tenant())
        .bind(now.timestamp_micros())
        .fetch_one(self.connection().await?)
        .await?;
        let count = |column: usize| Ok::<_, StoreError>(rows::count(row.try_get(column)?));
        Ok(OpenRequests { pending: count(0)?, in_progress: count(1)?, overdue: count(2)? })
    }
}

fn request(row: &SqliteRow) -> Result<SubjectRequest> {
    Ok(SubjectRequest {
        id: row.try_get(0)?,
        request_type: rows::word(row.try_get(1)?)?,
        subject_email: row.try_get(2)?,
        status: rows::word(row.try_get(3)?)?,
        created_at: rows::time(row.try_get(4)?)?,
        due_at: rows::time(row.try_get(5)?)?,
        updated_at: rows::time(row.try_get(6)?)?,
        completed_at: row.try_get::<Option<i64>, _>(7)?.map(rows::time).transpose()?,
        handler_notes: row.try_get(8)?,
    })
}
