//! `engramia doctor` on PostgreSQL: one reading transaction, beside the servers.

use anyhow::Context;
use sqlx::{PgConnection, Row};

use super::connect::{self, Settings};
use super::schema;
use crate::ports::Space;
use crate::store::engine::count as whole;
use crate::store::{Comparison, Inspection};

/// What must be nothing.
const COMPARISONS: [Comparison; 4] = [
    (
        "patterns that keyword search does not know",
        "select count(*) from patterns p where not exists (select from pattern_words w \
         where (w.tenant_id, w.project_id, w.pattern_id) = (p.tenant_id, p.project_id, p.id))",
    ),
    (
        "patterns that should have a vector and have none",
        "select count(*) from patterns p where p.space_id <> 0 and not exists (select from vectors v \
         where (v.tenant_id, v.project_id, v.pattern_id, v.space_id) = (p.tenant_id, p.project_id, p.id, p.space_id))",
    ),
    (
        "vectors of another length than their model's",
        "select count(*) from vectors v join spaces s on s.id = v.space_id where vector_dims(v.vector) <> s.dimensions",
    ),
    (
        "projects whose counter of patterns is wrong",
        "select count(*) from (select tenant_id, project_id, count(*) as n from patterns group by 1, 2) p \
         full join scopes s using (tenant_id, project_id) where coalesce(p.n, 0) <> coalesce(s.patterns, 0)",
    ),
];

/// The state of the database.
///
/// # Errors
/// When it cannot be reached or read.
pub async fn inspect(settings: &Settings, space: Option<&Space>) -> anyhow::Result<Inspection> {
    let mut connection = connect::once(settings).await?;
    read(&mut connection, space).await.context("reading the database")
}

async fn read(connection: &mut PgConnection, space: Option<&Space>) -> anyhow::Result<Inspection> {
    let row = sqlx::query(
        "select current_setting('server_version'), (select extversion from pg_extension where extname = 'vector'), \
         clock_timestamp()",
    )
    .fetch_one(&mut *connection)
    .await?;
    let (server, vector): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
    let mut found = Inspection {
        schema: schema::revision(connection).await?,
        engine: format!("PostgreSQL {server}, pgvector {}", vector.as_deref().unwrap_or("missing")),
        clock: Some(row.try_get(2)?),
        damage: None,
        patterns: 0,
        waiting: 0,
        disagreements: Vec::new(),
    };
    if !found.schema.is_current() {
        return Ok(found);
    }
    // One state of everything, and every row of it, whatever servers do meanwhile.
    let role = connect::role(connection).await?;
    sqlx::query("begin isolation level repeatable read read only").execute(&mut *connection).await?;
    sqlx::query("select set_config('engramia.system', 'on', true), set_config('role', $1, true)")
        .bind(role)
        .execute(&mut *connection)
        .await?;
    found.patterns = count(connection, "select count(*) from patterns").await?;
    if let Some(space) = space {
        let row = sqlx::query(
            "select count(*) from patterns where space_id <> coalesce((select max(id) from spaces where name = $1), -1)",
        );
        found.waiting = whole(row.bind(space.as_str()).fetch_one(&mut *connection).await?.try_get(0)?);
    }
    for (what, statement) in COMPARISONS {
        found.disagreements.push((what, count(connection, statement).await?));
    }
    Ok(found)
}

async fn count(connection: &mut PgConnection, statement: &'static str) -> anyhow::Result<u64> {
    Ok(whole(sqlx::query(statement).fetch_one(connection).await?.try_get(0)?))
}
