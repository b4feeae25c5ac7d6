//! Requests of data subjects.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::rows::{column_text, text};
use super::unit::{Access, PostgresWork};
use crate::domain::Timestamp;
use crate::domain::subject::SubjectRequest;
use crate::store::engine::{count, word};
use crate::store::governance::{OpenRequests, RequestQuery, SubjectRequests};
use crate::store::{Result, StoreError};

/// Columns of [`request`], in its order.
macro_rules! request_columns {
    () => {
        "id, request_type, subject_email, status, created_at, due_at, updated_at, completed_at, handler_notes"
    };
}

/// The request with an id.
macro_rules! request_where {
    ($lock:literal) => {
        concat!("select ", request_columns!(), " from data_subject_requests where tenant_id = $1 and id = $2", $lock)
    };
}

#[async_trait]
impl SubjectRequests for PostgresWork {
    async fn put(&mut self, request: &SubjectRequest) -> Result<()> {
        self.written()?;
        let tenant = self.scope.tenant().to_owned();
        sqlx::query(
            "insert into data_subject_requests (tenant_id, id, request_type, subject_email, status, created_at, due_at, \
                 updated_at, completed_at, handler_notes) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
             on conflict (tenant_id, id) do update set \
             request_type = excluded.request_type, subject_email = excluded.subject_email, status = excluded.status, \
             created_at = excluded.created_at, due_at = excluded.due_at, updated_at = excluded.updated_at, \
             completed_at = excluded.completed_at, handler_notes = excluded.handler_notes",
        )
        .bind(tenant)
        .bind(request.id.clone())
        .bind(request.request_type.as_str())
        .bind(column_text(&request.subject_email))
        .bind(request.status.as_str())
        .bind(request.created_at)
        .bind(request.due_at)
        .bind(request.updated_at)
        .bind(request.completed_at)
        .bind(column_text(&request.handler_notes))
        .execute(self.connection().await?)
        .await?;
        Ok(())
    }

    async fn get(&mut self, id: &str) -> Result<Option<SubjectRequest>> {
        let tenant = self.scope.tenant().to_owned();
        let sql = match self.access {
            Access::Read(_) => request_where!(""),
            // Writers of other projects of the tenant do not wait for this unit of work.
            Access::Write(_) => request_where!(" for update"),
        };
        let query = sqlx::query(sql).bind(tenant).bind(column_text(id));
        let row = query.fetch_optional(self.connection().await?).await?;
        row.as_ref().map(request).transpose()
    }

    async fn list(&mut self, query: &RequestQuery) -> Result<Vec<SubjectRequest>> {
        let tenant = self.scope.tenant().to_owned();
        let rows = sqlx::query(concat!(
            "select ",
            request_columns!(),
            " from data_subject_requests where tenant_id = $1 and ($2::text is null or status = $2) \
             and ($3::timestamptz is null or (due_at < $3 and status in ('pending', 'in_progress'))) \
             order by created_at desc, id desc limit $4"
        ))
        .bind(tenant)
        .bind(query.status.map(|status| status.as_str()))
        .bind(query.due_before)
        .bind(i64::from(query.limit))
        .fetch_all(self.connection().await?)
        .await?;
        rows.iter().map(request).collect()
    }

    async fn page(&mut self, after: &str, limit: u32) -> Result<Vec<SubjectRequest>> {
        let tenant = self.scope.tenant().to_owned();
        let rows = sqlx::query(concat!(
            "select ",
            request_columns!(),
            " from data_subject_requests where tenant_id = $1 and id > $2 order by id limit $3"
        ))
        .bind(tenant)
        .bind(after.to_owned())
        .bind(i64::from(limit))
        .fetch_all(self.connection().await?)
        .await?;
        rows.iter().map(request).collect()
    }

    async fn open(&mut self, now: Timestamp) -> Result<OpenRequests> {
        let tenant = self.scope.tenant().to_owned();
        let row = sqlx::query(
            "select count(*) filter (where status = 'pending'), count(*) filter (where status = 'in_progress'), \
             count(*) filter (where due_at < $2) from data_subject_requests \
             where tenant_id = $1 and status in ('pending', 'in_progress')",
        )
        .bind(tenant)
        .bind(now)
        .fetch_one(self.connection().await?)
        .await?;
        let number = |column: usize| Ok::<_, StoreError>(count(row.try_get(column)?));
        Ok(OpenRequests { pending: number(0)?, in_progress: number(1)?, overdue: number(2)? })
    }
}

fn request(row: &PgRow) -> Result<SubjectRequest> {
    Ok(SubjectRequest {
        id: row.try_get(0)?,
        request_type: word(row.try_get(1)?)?,
        subject_email: text(row.try_get(2)?),
        status: word(row.try_get(3)?)?,
        created_at: row.try_get(4)?,
        due_at: row.try_get(5)?,
        updated_at: row.try_get(6)?,
        completed_at: row.try_get(7)?,
        handler_notes: text(row.try_get(8)?),
    })
}
