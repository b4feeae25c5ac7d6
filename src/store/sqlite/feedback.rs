//! Recurring issues.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{SqliteWork, rows};
use crate::domain::Feedback;
use crate::store::{Feedbacks, Result};

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
            .scoped(
                "select text, count, score, last_seen, decayed_at from feedback \
             where tenant_id = $1 and project_id = $2 and count >= $3 \
             and ($4 is null or instr(folded, $4) > 0) \
             order by score * count desc, text limit $5 offset $6",
            )
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
            .scoped(
                "select text, count, score, last_seen, decayed_at from feedback \
             where tenant_id = $1 and project_id = $2 order by text",
            )
            .await?;
        let rows = query.fetch_all(connection).await?;
        rows.iter().map(feedback).collect()
    }

    async fn replace(&mut self, feedback: &[Feedback]) -> Result<()> {
        let (query, connection) = self.scoped("delete from feedback where tenant_id = $1 and project_id = $2").await?;
        query.execute(connection).await?;
        for issue in feedback {
            let (query, connection) = self
                .scoped(
                    "insert into feedback (tenant_id, project_id, text, folded, count, score, last_seen, decayed_at) \
                 values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing",
                )
                .await?;
            query
                .bind(&issue.text)
                .bind(issue.text.to_lowercase())
                .bind(issue.count)
                .bind(issue.score)
                .bind(issue.last_seen.timestamp_micros())
                .bind(issue.decayed_at.timestamp_micros())
                .execute(connection)
                .await?;
        }
        Ok(())
    }
}

fn feedback(row: &SqliteRow) -> Result<Feedback> {
    Ok(Feedback {
        text: row.try_get(0)?,
        count: row.try_get(1)?,
        score: row.try_get(2)?,
        last_seen: rows::time(row.try_get(3)?)?,
        decayed_at: rows::time(row.try_get(4)?)?,
    })
}
