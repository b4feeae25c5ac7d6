//! Everything that the store holds, as it is.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::{Row, SqlitePool};

use super::patterns::json_ids;
use super::rows::{self, evaluation_columns, pattern_columns};
use super::{SqliteStore, SqliteWork};
use crate::domain::audit::{AuditEntry, ChainHead};
use crate::domain::{PatternId, Scope, Skill, Timestamp};
use crate::ports::{Space, Vector};
use crate::store::copy::{CarriedRow, Registered, WholePattern};
use crate::store::memory::ScopeStatistics;
use crate::store::{ApiKey, Copying, Inventory, Keys, Result, Work};

/// Every scope that something was written in.
pub(super) async fn scopes(readers: &SqlitePool, after: Option<&Scope>, limit: u32) -> Result<Vec<Scope>> {
    let rows = sqlx::query(
        "select tenant_id, project_id from ( \
             select tenant_id, project_id from scope_statistics \
             union select tenant_id, id from projects \
             union select tenant_id, project_id from api_keys \
             union select tenant_id, project_id from feedback \
             union select tenant_id, '' from carried_rows \
             union select tenant_id, '' from data_subject_requests) \
         where $1 is null or (tenant_id, project_id) > ($1, $2) order by tenant_id, project_id limit $3",
    )
    .bind(after.map(Scope::tenant))
    .bind(after.map(Scope::project))
    .bind(limit)
    .fetch_all(readers)
    .await?;
    rows.iter().map(|row| Ok(Scope::verified(row.try_get(0)?, row.try_get(1)?))).collect()
}

#[async_trait]
impl Inventory for SqliteStore {
    async fn spaces(&self) -> Result<Vec<(Space, u32)>> {
        let rows = sqlx::query("select name, dimensions from spaces order by id").fetch_all(&self.readers).await?;
        rows.iter().map(|row| Ok((Space(row.try_get::<&str, _>(0)?.into()), row.try_get(1)?))).collect()
    }

    async fn add_space(&self, space: &Space, dimensions: u32) -> Result<()> {
        let mut work = self.writing(&Scope::default()).await?;
        sqlx::query("insert into spaces (name, dimensions) values ($1, $2) on conflict do nothing")
            .bind(space.as_str())
            .bind(dimensions)
            .execute(work.connection().await?)
            .await?;
        work.commit().await
    }

    async fn marks(&self) -> Result<Vec<(String, Timestamp)>> {
        let rows = sqlx::query("select name, created_at from marks order by name").fetch_all(&self.readers).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, rows::time(row.try_get(1)?)?))).collect()
    }

    async fn remove_mark(&self, name: &str) -> Result<()> {
        let mut work = self.writing(&Scope::default()).await?;
        sqlx::query("delete from marks where name = $1").bind(name).execute(work.connection().await?).await?;
        work.commit().await
    }
}

#[async_trait]
impl Copying for SqliteWork {
    async fn patterns(&mut self, after: Option<PatternId>, limit: u32) -> Result<Vec<WholePattern>> {
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                pattern_columns!(),
                ", s.name, v.vector from patterns p left join vectors v on v.pattern_id = p.id \
                 left join spaces s on s.id = p.space_id \
                 where p.tenant_id = $1 and p.project_id = $2 and p.id > $3 order by p.id limit $4"
            ))
            .await?;
        let found = query.bind(after.map_or(i64::MIN, |id| id.0)).bind(limit).fetch_all(connection).await?;
        let mut patterns = Vec::with_capacity(found.len());
        for row in &found {
            let vector = match (row.try_get::<Option<&str>, _>(20)?, row.try_get::<Option<&[u8]>, _>(21)?) {
                (Some(space), Some(bytes)) => {
                    Some(Vector { space: Space(space.into()), values: rows::vector_from_bytes(bytes)?.into() })
                }
                _ => None,
            };
            let (evaluations, skills, tagged_at) = (Vec::new(), Vec::new(), None);
            patterns.push(WholePattern { pattern: rows::pattern(row)?, vector, evaluations, skills, tagged_at });
        }
        self.add_evaluations(&mut patterns).await?;
        self.add_skills(&mut patterns).await?;
        Ok(patterns)
    }

    async fn set_statistics(&mut self, statistics: &ScopeStatistics) -> Result<()> {
        let recent = serde_json::to_string(&statistics.recent_scores);
        let recent = recent.map_err(|e| rows::corrupt("scope_statistics", &e))?;
        let (query, connection) = self
            .scoped(
                "insert into scope_statistics \
                 (tenant_id, project_id, runs, successes, recalls, recall_hits, recent_scores) \
                 values ($1, $2, $3, $4, $5, $6, $7) on conflict (tenant_id, project_id) do update set \
                 runs = excluded.runs, successes = excluded.successes, recalls = excluded.recalls, \
                 recall_hits = excluded.recall_hits, recent_scores = excluded.recent_scores",
            )
            .await?;
        query
            .bind(rows::column(statistics.runs))
            .bind(rows::column(statistics.successes))
            .bind(rows::column(statistics.recalls))
            .bind(rows::column(statistics.recall_hits))
            .bind(recent)
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn put_key(&mut self, key: &ApiKey) -> Result<()> {
        let (query, connection) =
            self.scoped("delete from api_keys where tenant_id = $1 and project_id = $2 and id = $3").await?;
        query.bind(&key.id).execute(connection).await?;
        Keys::insert(self, key).await
    }

    async fn registered(&mut self) -> Result<Option<Registered>> {
        let (query, connection) = self
            .scoped(
                "select t.name, t.created_at, p.name, p.created_at from projects p join tenants t on t.id = p.tenant_id \
                 where p.tenant_id = $1 and p.id = $2 and p.deleted_at is null",
            )
            .await?;
        let Some(row) = query.fetch_optional(connection).await? else { return Ok(None) };
        Ok(Some(Registered {
            tenant_name: row.try_get(0)?,
            tenant_created_at: rows::time(row.try_get(1)?)?,
            name: row.try_get(2)?,
            created_at: rows::time(row.try_get(3)?)?,
        }))
    }

    async fn register(&mut self, registered: &Registered) -> Result<()> {
        sqlx::query("insert into tenants (id, name, created_at) values ($1, $2, $3) on conflict do nothing")
            .bind(self.scope.tenant())
            .bind(&registered.tenant_name)
            .bind(registered.tenant_created_at.timestamp_micros())
            .execute(self.connection().await?)
            .await?;
        let (query, connection) = self
            .scoped(
                "insert into projects (tenant_id, id, name, created_at) values ($1, $2, $3, $4) on conflict do nothing",
            )
            .await?;
        query.bind(&registered.name).bind(registered.created_at.timestamp_micros()).execute(connection).await?;
        Ok(())
    }

    async fn put_entries(&mut self, entries: &[AuditEntry], head: &ChainHead) -> Result<()> {
        for entry in entries {
            self.write_entry(entry).await?;
        }
        self.write_head(head).await
    }

    async fn carried(&mut self, after: Option<&CarriedRow>, limit: u32) -> Result<Vec<CarriedRow>> {
        let rows = sqlx::query(
            "select source, id, data from carried_rows where tenant_id = $1 and (source, id) > ($2, $3) \
             order by source, id limit $4",
        )
        .bind(self.scope.tenant())
        .bind(after.map_or("", |row| &row.source))
        .bind(after.map_or("", |row| &row.id))
        .bind(limit)
        .fetch_all(self.connection().await?)
        .await?;
        let row = |row: &sqlx::sqlite::SqliteRow| {
            Ok(CarriedRow { source: row.try_get(0)?, id: row.try_get(1)?, data: row.try_get(2)? })
        };
        rows.iter().map(row).collect()
    }

    async fn put_carried(&mut self, rows: &[CarriedRow]) -> Result<u64> {
        let mut new = 0;
        for row in rows {
            let done = sqlx::query(
                "insert into carried_rows (tenant_id, source, id, data) values ($1, $2, $3, $4) on conflict do nothing",
            )
            .bind(self.scope.tenant())
            .bind(&row.source)
            .bind(&row.id)
            .bind(&row.data)
            .execute(self.connection().await?)
            .await?;
            new += done.rows_affected();
        }
        Ok(new)
    }
}

impl SqliteWork {
    async fn add_evaluations(&mut self, patterns: &mut [WholePattern]) -> Result<()> {
        let places = places(patterns);
        let found = sqlx::query(concat!(
            "select e.pattern_id, ",
            evaluation_columns!(),
            " from json_each($1) wanted cross join evaluations e on e.pattern_id = wanted.value order by e.id"
        ))
        .bind(json_ids(places.keys().copied()))
        .fetch_all(self.connection().await?)
        .await?;
        for row in &found {
            if let Some(place) = places.get(&PatternId(row.try_get(0)?)) {
                patterns[*place].evaluations.push(rows::evaluation(row, 1)?);
            }
        }
        Ok(())
    }

    async fn add_skills(&mut self, patterns: &mut [WholePattern]) -> Result<()> {
        let places = places(patterns);
        let found = sqlx::query(
            "select s.pattern_id, s.skill, s.created_at from json_each($1) wanted \
             cross join skills s on s.pattern_id = wanted.value order by s.skill",
        )
        .bind(json_ids(places.keys().copied()))
        .fetch_all(self.connection().await?)
        .await?;
        for row in &found {
            if let Some(place) = places.get(&PatternId(row.try_get(0)?)) {
                patterns[*place].skills.extend(Skill::normalized(row.try_get(1)?));
                patterns[*place].tagged_at = Some(rows::time(row.try_get(2)?)?);
            }
        }
        Ok(())
    }
}

/// Where each pattern stands.
fn places(patterns: &[WholePattern]) -> HashMap<PatternId, usize> {
    patterns.iter().enumerate().map(|(place, whole)| (whole.pattern.id, place)).collect()
}
