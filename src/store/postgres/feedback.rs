//! Recurring issues.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::rows::{self, column_text};
use super::unit::PostgresWork;
use crate::domain::{Feedback, text};
use crate::store::{Feedbacks, Result};

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
            .scoped(
                "select text, count, score, last_seen, decayed_at from feedback \
                 where tenant_id = $1 and project_id = $2 and count >= $3 \
                 and ($4::text is null or strpos(folded, $4) > 0) \
                 order by score * count desc, text limit $5 offset $6",
            )
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
            .scoped(
                "select text, count, score, last_seen, decayed_at from feedback \
                 where tenant_id = $1 and project_id = $2 order by text",
            )
            .await?;
        let rows = query.fetch_all(connection).await?;
        rows.iter().map(feedback).collect()
    }

    async fn replace(&mut self, feedback: &[Feedback]) -> Result<()> {
        self.written()?;
        let (query, connection) = self.scoped("delete from feedback where tenant_id = $1 and project_id = $2").await?;
        query.execute(connection).await?;
        for issue in feedback {
            let (query, connection) = self
                .scoped(
                    "insert into feedback \
                     (tenant_id, project_id, digest, text, folded, count, score, last_seen, decayed_at) \
                     values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing",
                )
                .await?;
            query
                .bind(text::digest(&issue.text).to_vec())
                .bind(column_text(&issue.text))
                .bind(column_text(&issue.text.to_lowercase()))
                .bind(i64::from(issue.count))
                .bind(issue.score)
                .bind(issue.last_seen)
                .bind(issue.decayed_at)
                .execute(connection)
                .await?;
        }
        Ok(())
    }
}

fn feedback(row: &PgRow) -> Result<Feedback> {
    Ok(Feedback {
        text: rows::text(row.try_get(0)?),
        count: u32::try_from(row.try_get::<i64, _>(1)?).unwrap_or(u32::MAX),
        score: row.try_get(2)?,
        last_seen: row.try_get(3)?,
        decayed_at: row.try_get(4)?,
    })
}
