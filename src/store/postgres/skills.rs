//! Capability tags.

use async_trait::async_trait;
use sqlx::Row;

use super::rows::column_text;
use super::unit::PostgresWork;
use crate::domain::{PatternId, Skill, Timestamp};
use crate::store::engine::{column, count};
use crate::store::{Result, Skills};

#[async_trait]
impl Skills for PostgresWork {
    async fn set(&mut self, id: PatternId, skills: &[Skill], at: Timestamp) -> Result<()> {
        let (query, connection) =
            self.scoped("delete from skills where tenant_id = $1 and project_id = $2 and pattern_id = $3").await?;
        query.bind(id.0).execute(connection).await?;
        let (query, connection) = self
            .scoped(
                "insert into skills (tenant_id, project_id, skill, pattern_id, created_at) \
                 select $1, $2, s.skill, p.id, $5 from patterns p cross join unnest($4::text[]) s (skill) \
                 where p.tenant_id = $1 and p.project_id = $2 and p.id = $3",
            )
            .await?;
        query.bind(id.0).bind(words(skills)).bind(at).execute(connection).await?;
        Ok(())
    }

    async fn count(&mut self, id: PatternId) -> Result<usize> {
        let (query, connection) = self
            .scoped("select count(*) from skills where tenant_id = $1 and project_id = $2 and pattern_id = $3")
            .await?;
        let row = query.bind(id.0).fetch_one(connection).await?;
        Ok(usize::try_from(count(row.try_get(0)?)).unwrap_or(usize::MAX))
    }

    async fn search(&mut self, required: &[Skill], all: bool, limit: u32) -> Result<Vec<PatternId>> {
        let least = if all { required.len() } else { 1 };
        let (query, connection) = self
            .scoped(
                "select pattern_id from skills where tenant_id = $1 and project_id = $2 and skill = any($3) \
                 group by pattern_id having count(*) >= $4 order by min(created_at), pattern_id limit $5",
            )
            .await?;
        let query = query.bind(words(required)).bind(column(least as u64)).bind(i64::from(limit));
        let rows = query.fetch_all(connection).await?;
        rows.iter().map(|row| Ok(PatternId(row.try_get(0)?))).collect()
    }
}

fn words(skills: &[Skill]) -> Vec<String> {
    skills.iter().map(|skill| column_text(skill.as_str())).collect()
}
