//! Everything that the store holds, as it is.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::keys::{bound, insert_key};
use super::rows::{self, column_text, evaluation_columns, pattern_columns};
use super::unit::PostgresWork;
use crate::domain::audit::{AuditEntry, ChainHead};
use crate::domain::{PatternId, Skill, Timestamp};
use crate::ports::{Space, Vector};
use crate::store::copy::{CarriedRow, Registered, WholePattern};
use crate::store::engine::column;
use crate::store::memory::ScopeStatistics;
use crate::store::{ApiKey, Copying, Inventory, Result};

#[async_trait]
impl Inventory for PostgresStore {
    async fn spaces(&self) -> Result<Vec<(Space, u32)>> {
        let rows = sqlx::query("select name, dimensions from spaces order by id").fetch_all(&self.inner.pool).await?;
        let space = |row: &PgRow| {
            let dimensions: i32 = row.try_get(1)?;
            Ok((Space(row.try_get::<&str, _>(0)?.into()), u32::try_from(dimensions).unwrap_or(0)))
        };
        rows.iter().map(space).collect()
    }

    async fn add_space(&self, space: &Space, dimensions: u32) -> Result<()> {
        sqlx::query("insert into spaces (name, dimensions) values ($1, $2) on conflict do nothing")
            .bind(space.as_str())
            .bind(i32::try_from(dimensions).unwrap_or(i32::MAX))
            .execute(&self.inner.pool)
            .await?;
        Ok(())
    }

    async fn marks(&self) -> Result<Vec<(String, Timestamp)>> {
        let rows = sqlx::query("select name, created_at from marks order by name collate \"C\"");
        let rows = rows.fetch_all(&self.inner.pool).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    async fn remove_mark(&self, name: &str) -> Result<()> {
        sqlx::query("delete from marks where name = $1").bind(name).execute(&self.inner.pool).await?;
        Ok(())
    }
}

#[async_trait]
impl Copying for PostgresWork {
    async fn patterns(&mut self, after: Option<PatternId>, limit: u32) -> Result<Vec<WholePattern>> {
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                pattern_columns!(),
                ", s.name, v.vector from patterns p \
                 left join vectors v on v.tenant_id = $1 and v.project_id = $2 and v.pattern_id = p.id \
                 left join spaces s on s.id = v.space_id \
                 where p.tenant_id = $1 and p.project_id = $2 and p.id > $3 order by p.id limit $4"
            ))
            .await?;
        let query = query.bind(after.map_or(i64::MIN, |id| id.0)).bind(i64::from(limit));
        let found = query.fetch_all(connection).await?;
        let mut patterns = Vec::with_capacity(found.len());
        for row in &found {
            let space: Option<&str> = row.try_get(20)?;
            let values: Option<pgvector::Vector> = row.try_get(21)?;
            let vector = space
                .zip(values)
                .map(|(space, values)| Vector { space: Space(space.into()), values: values.to_vec().into() });
            let (evaluations, skills, tagged_at) = (Vec::new(), Vec::new(), None);
            patterns.push(WholePattern { pattern: rows::pattern(row)?, vector, evaluations, skills, tagged_at });
        }
        self.add_evaluations(&mut patterns).await?;
        self.add_skills(&mut patterns).await?;
        Ok(patterns)
    }

    async fn set_statistics(&mut self, statistics: &ScopeStatistics) -> Result<()> {
        self.written()?;
        let (query, connection) = self
            .scoped(
                "update scopes set runs = $3, successes = $4, recalls = $5, recall_hits = $6, recent_scores = $7 \
                 where tenant_id = $1 and project_id = $2",
            )
            .await?;
        query
            .bind(column(statistics.runs))
            .bind(column(statistics.successes))
            .bind(column(statistics.recalls))
            .bind(column(statistics.recall_hits))
            .bind(statistics.recent_scores.clone())
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn put_key(&mut self, key: &ApiKey) -> Result<()> {
        self.written()?;
        let (query, connection) = self
            .scoped(concat!(
                insert_key!(),
                " on conflict (id) do update set name = excluded.name, key_prefix = excluded.key_prefix, \
                 key_hash = excluded.key_hash, role = excluded.role, max_patterns = excluded.max_patterns, \
                 created_at = excluded.created_at, last_used_at = excluded.last_used_at, \
                 revoked_at = excluded.revoked_at, expires_at = excluded.expires_at \
                 where api_keys.tenant_id = $1 and api_keys.project_id = $2"
            ))
            .await?;
        bound(query, key).execute(connection).await?;
        Ok(())
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
            tenant_name: rows::text(row.try_get(0)?),
            tenant_created_at: row.try_get(1)?,
            name: rows::text(row.try_get(2)?),
            created_at: row.try_get(3)?,
        }))
    }

    async fn register(&mut self, registered: &Registered) -> Result<()> {
        self.written()?;
        let tenant = self.scope.tenant().to_owned();
        sqlx::query("insert into tenants (id, name, created_at) values ($1, $2, $3) on conflict do nothing")
            .bind(tenant)
            .bind(column_text(&registered.tenant_name))
            .bind(registered.tenant_created_at)
            .execute(self.connection().await?)
            .await?;
        let (query, connection) = self
            .scoped(
                "insert into projects (tenant_id, id, name, created_at) values ($1, $2, $3, $4) on conflict do nothing",
            )
            .await?;
        query.bind(column_text(&registered.name)).bind(registered.created_at).execute(connection).await?;
        Ok(())
    }

    async fn put_entries(&mut self, entries: &[AuditEntry], head: &ChainHead) -> Result<()> {
        self.written()?;
        for entry in entries {
            self.write_entry(entry).await?;
        }
        self.write_head(head).await
    }

    async fn carried(&mut self, after: Option<&CarriedRow>, limit: u32) -> Result<Vec<CarriedRow>> {
        let tenant = self.scope.tenant().to_owned();
        let rows = sqlx::query(
            "select source, id, data from carried_rows where tenant_id = $1 and (source, id) > ($2, $3) \
             order by source, id limit $4",
        )
        .bind(tenant)
        .bind(after.map_or_else(String::new, |row| column_text(&row.source)))
        .bind(after.map_or_else(String::new, |row| column_text(&row.id)))
        .bind(i64::from(limit))
        .fetch_all(self.connection().await?)
        .await?;
        let row = |row: &PgRow| {
            Ok(CarriedRow {
                source: rows::text(row.try_get(0)?),
                id: rows::text(row.try_get(1)?),
                data: rows::text(row.try_get(2)?),
            })
        };
        rows.iter().map(row).collect()
    }

    async fn put_carried(&mut self, rows: &[CarriedRow]) -> Result<u64> {
        self.written()?;
        let tenant = self.scope.tenant().to_owned();
        let column = |of: fn(&CarriedRow) -> &str| rows.iter().map(|row| column_text(of(row))).collect::<Vec<_>>();
        let done = sqlx::query(
            "insert into carried_rows (tenant_id, source, id, data) \
             select $1, r.* from unnest($2::text[], $3::text[], $4::text[]) r on conflict do nothing",
        )
        .bind(tenant)
        .bind(column(|row| &row.source))
        .bind(column(|row| &row.id))
        .bind(column(|row| &row.data))
        .execute(self.connection().await?)
        .await?;
        Ok(done.rows_affected())
    }
}

impl PostgresWork {
    async fn add_evaluations(&mut self, patterns: &mut [WholePattern]) -> Result<()> {
        let places = places(patterns);
        let (query, connection) = self
            .scoped(concat!(
                "select e.pattern_id, ",
                evaluation_columns!(),
                " from evaluations e where e.tenant_id = $1 and e.project_id = $2 and e.pattern_id = any($3) \
                 order by e.id collate \"C\""
            ))
            .await?;
        for row in query.bind(ids(&places)).fetch_all(connection).await? {
            if let Some(place) = places.get(&PatternId(row.try_get(0)?)) {
                patterns[*place].evaluations.push(rows::evaluation(&row, 1)?);
            }
        }
        Ok(())
    }

    async fn add_skills(&mut self, patterns: &mut [WholePattern]) -> Result<()> {
        let places = places(patterns);
        let (query, connection) = self
            .scoped(
                "select pattern_id, skill, created_at from skills \
                 where tenant_id = $1 and project_id = $2 and pattern_id = any($3) order by skill",
            )
            .await?;
        for row in query.bind(ids(&places)).fetch_all(connection).await? {
            if let Some(place) = places.get(&PatternId(row.try_get(0)?)) {
                patterns[*place].skills.extend(Skill::normalized(&rows::text(row.try_get(1)?)));
                patterns[*place].tagged_at = Some(row.try_get(2)?);
            }
        }
        Ok(())
    }
}

/// Where each pattern stands.
fn places(patterns: &[WholePattern]) -> HashMap<PatternId, usize> {
    patterns.iter().enumerate().map(|(place, whole)| (whole.pattern.id, place)).collect()
}

fn ids(places: &HashMap<PatternId, usize>) -> Vec<i64> {
    places.keys().map(|id| id.0).collect()
}
