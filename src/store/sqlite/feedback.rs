//! Recurring issues.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{SqliteWork, rows};
use crate::domain::{Feedback, Ratings};
use crate::ports::{Space, Vector};
use crate::store::memory::IssueTask;
use crate::store::{Feedbacks, Result};

/// Columns of [`feedback`], in its order.
macro_rules! feedback_columns {
    () => {
        "f.text, f.count, f.score, f.ratings, f.rating_sum, f.last_seen, f.decayed_at"
    };
}

#[async_trait]
impl Feedbacks for SqliteWork {
    async fn top(
        &mut self,
        least_count: u32,
        containing: Option<&str>,
        offset: u32,
        limit: u32,
    ) -> Result<Vec<Feedback>> {
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                feedback_columns!(),
                " from feedback f where f.tenant_id = $1 and f.project_id = $2 and f.count >= $3 \
                 and ($4 is null or instr(f.folded, $4) > 0 or exists ( \
                     select 1 from feedback_tasks t where t.feedback_id = f.id and instr(t.folded, $4) > 0)) \
                 order by f.score * f.count desc, f.text limit $5 offset $6"
            ))
            .await?;
        let rows = query
            .bind(least_count)
            .bind(containing.map(str::to_lowercase))
            .bind(limit)
            .bind(offset)
            .fetch_all(connection)
            .await?;
        rows.iter().map(feedback).collect()
    }

    async fn all(&mut self) -> Result<Vec<Feedback>> {
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                feedback_columns!(),
                " from feedback f where f.tenant_id = $1 and f.project_id = $2 order by f.text"
            ))
            .await?;
        let rows = query.fetch_all(connection).await?;
        rows.iter().map(feedback).collect()
    }

    async fn vectors(&mut self) -> Result<Vec<(String, Vector)>> {
        let (query, connection) = self
            .scoped(
                "select f.text, s.name, f.vector from feedback f join spaces s on s.id = f.space_id \
                 where f.tenant_id = $1 and f.project_id = $2 order by f.text",
            )
            .await?;
        let rows = query.fetch_all(connection).await?;
        let mut vectors = Vec::with_capacity(rows.len());
        for row in &rows {
            if let Some(vector) = vector(row, 1)? {
                vectors.push((row.try_get(0)?, vector));
            }
        }
        Ok(vectors)
    }

    async fn tasks(&mut self) -> Result<Vec<(String, IssueTask)>> {
        let (query, connection) = self
            .scoped(
                "select f.text, t.task, t.seen_at, s.name, t.vector from feedback f \
                 join feedback_tasks t on t.feedback_id = f.id left join spaces s on s.id = t.space_id \
                 where f.tenant_id = $1 and f.project_id = $2 order by f.text, t.seen_at desc, t.task",
            )
            .await?;
        let rows = query.fetch_all(connection).await?;
        let task = |row: &SqliteRow| {
            let seen_at = rows::time(row.try_get(2)?)?;
            Ok((row.try_get(0)?, IssueTask { text: row.try_get(1)?, vector: vector(row, 3)?, seen_at }))
        };
        rows.iter().map(task).collect()
    }

    async fn put(&mut self, issue: &Feedback, vector: Option<&Vector>) -> Result<()> {
        let space = self.space_if_any(vector).await?;
        let (query, connection) = self
            .scoped(
                "insert into feedback (tenant_id, project_id, text, folded, count, score, ratings, rating_sum, last_seen, \
                 decayed_at, space_id, vector) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
                 on conflict (tenant_id, project_id, text) do update set count = excluded.count, \
                 score = excluded.score, ratings = excluded.ratings, rating_sum = excluded.rating_sum, \
                 last_seen = excluded.last_seen, decayed_at = excluded.decayed_at, \
                 space_id = coalesce(excluded.space_id, space_id), vector = coalesce(excluded.vector, vector)",
            )
            .await?;
        query
            .bind(issue.text.clone())
            .bind(issue.text.to_lowercase())
            .bind(issue.count)
            .bind(issue.score)
            .bind(issue.ratings.count)
            .bind(issue.ratings.sum)
            .bind(issue.last_seen.timestamp_micros())
            .bind(issue.decayed_at.timestamp_micros())
            .bind(space)
            .bind(vector.map(|vector| rows::vector_to_bytes(&vector.values)))
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn attach(&mut self, text: &str, vector: &Vector) -> Result<()> {
        let space = self.space_id(vector).await?;
        let (query, connection) = self
            .scoped(
                "update feedback set space_id = $4, vector = $5 \
                 where tenant_id = $1 and project_id = $2 and text = $3",
            )
            .await?;
        let bytes = rows::vector_to_bytes(&vector.values);
        query.bind(text.to_owned()).bind(space).bind(bytes).execute(connection).await?;
        Ok(())
    }

    async fn note_tasks(&mut self, text: &str, tasks: &[IssueTask]) -> Result<()> {
        let (query, connection) =
            self.scoped("select id from feedback where tenant_id = $1 and project_id = $2 and text = $3").await?;
        let Some(row) = query.bind(text.to_owned()).fetch_optional(connection).await? else { return Ok(()) };
        let id: i64 = row.try_get(0)?;
        for task in tasks {
            let space = self.space_if_any(task.vector.as_ref()).await?;
            let (query, connection) = self
                .scoped(
                    "insert into feedback_tasks \
                     (tenant_id, project_id, feedback_id, task, folded, seen_at, space_id, vector) \
                     values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (feedback_id, task) do update set \
                     seen_at = excluded.seen_at, space_id = coalesce(excluded.space_id, space_id), \
                     vector = coalesce(excluded.vector, vector)",
                )
                .await?;
            query
                .bind(id)
                .bind(task.text.clone())
                .bind(task.text.to_lowercase())
                .bind(task.seen_at.timestamp_micros())
                .bind(space)
                .bind(task.vector.as_ref().map(|vector| rows::vector_to_bytes(&vector.values)))
                .execute(connection)
                .await?;
        }
        sqlx::query(
            "delete from feedback_tasks where feedback_id = $1 and task not in ( \
                 select task from feedback_tasks where feedback_id = $1 order by seen_at desc, task limit $2)",
        )
        .bind(id)
        .bind(Feedback::TASKS as i64)
        .execute(self.connection().await?)
        .await?;
        Ok(())
    }

    async fn remove(&mut self, text: &str) -> Result<bool> {
        let (query, connection) =
            self.scoped("delete from feedback where tenant_id = $1 and project_id = $2 and text = $3").await?;
        Ok(query.bind(text.to_owned()).execute(connection).await?.rows_affected() > 0)
    }
}

impl SqliteWork {
    async fn space_if_any(&mut self, vector: Option<&Vector>) -> Result<Option<i64>> {
        match vector {
            Some(vector) => Ok(Some(self.space_id(vector).await?)),
            None => Ok(None),
        }
    }
}

fn feedback(row: &SqliteRow) -> Result<Feedback> {
    Ok(Feedback {
        text: row.try_get(0)?,
        count: row.try_get(1)?,
        score: row.try_get(2)?,
        ratings: Ratings { count: row.try_get(3)?, sum: row.try_get(4)? },
        last_seen: rows::time(row.try_get(5)?)?,
        decayed_at: rows::time(row.try_get(6)?)?,
    })
}

/// Reads the name of a space and a vector of it from column `first` on; both may be null.
fn vector(row: &SqliteRow, first: usize) -> Result<Option<Vector>> {
    let space: Option<&str> = row.try_get(first)?;
    let bytes: Option<&[u8]> = row.try_get(first + 1)?;
    let Some((space, bytes)) = space.zip(bytes) else { return Ok(None) };
    Ok(Some(Vector { space: Space(space.into()), values: rows::vector_from_bytes(bytes)?.into() }))
}
