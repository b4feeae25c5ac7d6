//! Capability tags.

use async_trait::async_trait;
use sqlx::Row;

use super::{SqliteWork, rows};
use crate::domain::{PatternId, Skill, Timestamp};
use crate::store::{Result, Skills};

#[async_trait]
impl Skills for SqliteWork {
    async fn set(&mut self, id: PatternId, skills: &[Skill], at: Timestamp) -> Result<()> {
        let (query, connection) =
            self.scoped("delete from skills where tenant_id = $1 and project_id = $2 and pattern_id = $3").await?;
        query.bind(id.0).execute(connection).await?;
        for skill in skills {
            let (query, connection) = self
                .scoped(
                    "insert into skills (tenant_id, project_id, skill, pattern_id, created_at) \
                     select tenant_id, project_id, $3, id, $5 from patterns \
                     where tenant_id = $1 and project_id = $2 and id = $4",
                )
                .await?;
            query.bind(skill.as_str()).bind(id.0).bind(at.timestamp_micros()).execute(connection).await?;
        }
        Ok(())
    }

    async fn count(&mut self, id: PatternId) -> Result<usize> {
        let (query, connection) = self
            .scoped("select count(*) from skills where tenant_id = $1 and project_id = $2 and pattern_id = $3")
            .await?;
        let row = query.bind(id.0).fetch_one(connection).await?;
        Ok(usize::try_from(rows::count(row.try_get(0)?)).unwrap_or(usize::MAX))
    }

    async fn search(&mut self, required: &[Skill], all: bool, limit: u32) -> Result<Vec<PatternId>> {
        let words: Vec<&str> = required.iter().map(Skill::as_str).collect();
        let least = if all { words.len() } else { 1 };
        let words = serde_json::to_string(&words).map_err(|e| rows::corrupt("skills", &e))?;
        let (query, connection) = self
            .scoped(
                "select pattern_id from skills where tenant_id = $1 and project_id = $2 \
             and skill in (select value from json_each($3)) \
             group by pattern_id having count(*) >= $4 order by min(created_at), pattern_id limit $5",
            )
            .await?;
        let rows = query.bind(words).bind(rows::column(least as u64)).bind(limit).fetch_all(connection).await?;
        rows.iter().map(|row| Ok(PatternId(row.try_get(0)?))).collect()
    }
}
