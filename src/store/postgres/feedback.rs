//! Recurring issues.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::patterns::column_vector;
use super::rows::{self, column_text};
use super::unit::PostgresWork;
use crate::domain::{Feedback, Ratings, text};
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
impl Feedbacks for PostgresWork {
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
                 and ($4::text is null or strpos(f.folded, $4) > 0 or exists ( \
                     select from feedback_tasks t where t.tenant_id = $1 and t.project_id = $2 \
                     and t.digest = f.digest and strpos(t.folded, $4) > 0)) \
                 order by f.score * f.count desc, f.text limit $5 offset $6"
            ))
            .await?;
        let rows = query
            .bind(i64::from(least_count))
            .bind(containing.map(|text| column_text(&text.to_lowercase())))
            .bind(i64::from(limit))
            .bind(i64::from(offset))
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
                vectors.push((rows::text(row.try_get(0)?), vector));
            }
        }
        Ok(vectors)
    }

    async fn tasks(&mut self) -> Result<Vec<(String, IssueTask)>> {
        let (query, connection) = self
            .scoped(
                "select f.text, t.task, t.seen_at, s.name, t.vector from feedback f \
                 join feedback_tasks t on t.tenant_id = $1 and t.project_id = $2 and t.digest = f.digest \
                 left join spaces s on s.id = t.space_id \
                 where f.tenant_id = $1 and f.project_id = $2 order by f.text, t.seen_at desc, t.task",
            )
            .await?;
        let rows = query.fetch_all(connection).await?;
        let task = |row: &PgRow| {
            let (text, vector) = (rows::text(row.try_get(1)?), vector(row, 3)?);
            Ok((rows::text(row.try_get(0)?), IssueTask { text, vector, seen_at: row.try_get(2)? }))
        };
        rows.iter().map(task).collect()
    }

    async fn put(&mut self, issue: &Feedback, vector: Option<&Vector>) -> Result<()> {
        self.written()?;
        let space = self.space_if_any(vector).await?;
        let (query, connection) = self
            .scoped(
                "insert into feedback (tenant_id, project_id, digest, text, folded, count, score, ratings, rating_sum, \
                 last_seen, decayed_at, space_id, vector) \
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
                 on conflict (tenant_id, project_id, digest) do update set count = excluded.count, \
                 score = excluded.score, ratings = excluded.ratings, rating_sum = excluded.rating_sum, \
                 last_seen = excluded.last_seen, decayed_at = excluded.decayed_at, \
                 space_id = coalesce(excluded.space_id, feedback.space_id), \
                 vector = coalesce(excluded.vector, feedback.vector)",
            )
            .await?;
        query
            .bind(text::digest(&issue.text).to_vec())
            .bind(column_text(&issue.text))
            .bind(column_text(&issue.text.to_lowercase()))
            .bind(i64::from(issue.count))
            .bind(issue.score)
            .bind(i64::from(issue.ratings.count))
            .bind(issue.ratings.sum)
            .bind(issue.last_seen)
            .bind(issue.decayed_at)
            .bind(space)
            .bind(vector.map(column_vector))
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn attach(&mut self, text: &str, vector: &Vector) -> Result<()> {
        self.written()?;
        let space = self.space_of(Some(vector)).await?;
        let (query, connection) = self
            .scoped(
                "update feedback set space_id = $4, vector = $5 \
                 where tenant_id = $1 and project_id = $2 and digest = $3",
            )
            .await?;
        let digest = text::digest(text).to_vec();
        query.bind(digest).bind(space).bind(column_vector(vector)).execute(connection).await?;
        Ok(())
    }

    async fn note_tasks(&mut self, text: &str, tasks: &[IssueTask]) -> Result<()> {
        self.written()?;
        let digest = text::digest(text).to_vec();
        for task in tasks {
            let space = self.space_if_any(task.vector.as_ref()).await?;
            let (query, connection) = self
                .scoped(
                    "insert into feedback_tasks \
                     (tenant_id, project_id, digest, task_digest, task, folded, seen_at, space_id, vector) \
                     select tenant_id, project_id, digest, $4, $5, $6, $7, $8, $9 from feedback \
                     where tenant_id = $1 and project_id = $2 and digest = $3 \
                     on conflict (tenant_id, project_id, digest, task_digest) do update set \
                     seen_at = excluded.seen_at, space_id = coalesce(excluded.space_id, feedback_tasks.space_id), \
                     vector = coalesce(excluded.vector, feedback_tasks.vector)",
                )
                .await?;
            query
                .bind(digest.clone())
                .bind(text::digest(&task.text).to_vec())
                .bind(column_text(&task.text))
                .bind(column_text(&task.text.to_lowercase()))
                .bind(task.seen_at)
                .bind(space)
                .bind(task.vector.as_ref().map(column_vector))
                .execute(connection)
                .await?;
        }
        let (query, connection) = self
            .scoped(
                "delete from feedback_tasks where tenant_id = $1 and project_id = $2 and digest = $3 \
                 and task_digest not in ( \
                     select task_digest from feedback_tasks where tenant_id = $1 and project_id = $2 and digest = $3 \
                     order by seen_at desc, task limit $4)",
            )
            .await?;
        query.bind(digest).bind(Feedback::TASKS as i64).execute(connection).await?;
        Ok(())
    }

    async fn remove(&mut self, text: &str) -> Result<bool> {
        self.written()?;
        let (query, connection) =
            self.scoped("delete from feedback where tenant_id = $1 and project_id = $2 and digest = $3").await?;
        Ok(query.bind(text::digest(text).to_vec()).execute(connection).await?.rows_affected() > 0)
    }
}

impl PostgresWork {
    async fn space_if_any(&mut self, vector: Option<&Vector>) -> Result<Option<i32>> {
        match vector {
            Some(vector) => Ok(Some(self.space_of(Some(vector)).await?)),
            None => Ok(None),
        }
    }
}

fn feedback(row: &PgRow) -> Result<Feedback> {
    let number = |column| Ok::<_, sqlx::Error>(u32::try_from(row.try_get::<i64, _>(column)?).unwrap_or(u32::MAX));
    Ok(Feedback {
        text: rows::text(row.try_get(0)?),
        count: number(1)?,
        score: row.try_get(2)?,
        ratings: Ratings { count: number(3)?, sum: row.try_get(4)? },
        last_seen: row.try_get(5)?,
        decayed_at: row.try_get(6)?,
    })
}

/// Reads the name of a space and a vector of it from column `first` on; both may be null.
fn vector(row: &PgRow, first: usize) -> Result<Option<Vector>> {
    let space: Option<&str> = row.try_get(first)?;
    let values: Option<pgvector::Vector> = row.try_get(first + 1)?;
    let vector = |(space, values): (&str, pgvector::Vector)| Vector {
        space: Space(space.into()),
        values: values.to_vec().into(),
    };
    Ok(space.zip(values).map(vector))
}
