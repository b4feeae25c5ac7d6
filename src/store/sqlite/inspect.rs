//! `engramia doctor` on the embedded store: a reader beside the server, if one runs.

use std::path::Path;

use anyhow::Context;
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};

use super::{DATABASE, options, rows, schema};
use crate::ports::Space;
use crate::store::{Comparison, Inspection};

/// What must be nothing.
const COMPARISONS: [Comparison; 6] = [
    (
        "patterns that keyword search does not know",
        "select count(*) from patterns p where not exists (select 1 from pattern_text_docsize d where d.id = p.id)",
    ),
    (
        "entries of keyword search without a pattern",
        "select count(*) from pattern_text_docsize d where not exists (select 1 from patterns p where p.id = d.id)",
    ),
    (
        "patterns that should have a vector and have none",
        "select count(*) from patterns p where p.space_id is not null \
         and not exists (select 1 from vectors v where v.pattern_id = p.id)",
    ),
    (
        "vectors of another length than their model's",
        "select count(*) from vectors v join patterns p on p.id = v.pattern_id join spaces s on s.id = p.space_id \
         where length(v.vector) <> 4 * s.dimensions",
    ),
    (
        "projects whose counter of patterns is wrong",
        "select count(*) from (select tenant_id, project_id, count(*) as n from patterns group by 1, 2) p \
         full join scope_statistics s on s.tenant_id = p.tenant_id and s.project_id = p.project_id \
         where coalesce(p.n, 0) <> coalesce(s.patterns, 0)",
    ),
    ("rows that refer to what is not there", "select count(*) from pragma_foreign_key_check"),
];

/// The state of the database in `root`; `None` where there is none.
///
/// Reads the whole file once.
///
/// # Errors
/// When the database cannot be opened or read.
pub async fn inspect(root: &Path, space: Option<&Space>) -> anyhow::Result<Option<Inspection>> {
    let path = root.join(DATABASE);
    if !path.try_exists().with_context(|| format!("looking for {}", path.display()))? {
        return Ok(None);
    }
    let connecting = options(root).read_only(true).connect().await;
    let mut connection = connecting.with_context(|| format!("opening {}", path.display()))?;
    let inspected = read(&mut connection, space).await;
    connection.close().await?;
    inspected.map(Some).with_context(|| format!("reading {}", path.display()))
}

async fn read(connection: &mut SqliteConnection, space: Option<&Space>) -> anyhow::Result<Inspection> {
    // One state of everything, whatever a server does meanwhile.
    sqlx::query("begin").execute(&mut *connection).await?;
    let row = sqlx::query("select sqlite_version()").fetch_one(&mut *connection).await?;
    let mut found = Inspection {
        schema: schema::revision(connection).await?,
        engine: format!("SQLite {}", row.try_get::<String, _>(0)?),
        clock: None,
        damage: None,
        patterns: 0,
        waiting: 0,
        disagreements: Vec::new(),
    };
    let row = sqlx::query("pragma quick_check(1)").fetch_one(&mut *connection).await?;
    found.damage = Some(row.try_get(0)?).filter(|verdict: &String| verdict != "ok");
    if !found.schema.is_current() || found.damage.is_some() {
        return Ok(found);
    }
    found.patterns = count(connection, "select count(*) from patterns").await?;
    if let Some(space) = space {
        let row = sqlx::query(
            "select count(*) from patterns where space_id is not (select coalesce(max(id), 0) from spaces where name = $1)",
        );
        found.waiting = rows::count(row.bind(space.as_str()).fetch_one(&mut *connection).await?.try_get(0)?);
    }
    for (what, statement) in COMPARISONS {
        found.disagreements.push((what, count(connection, statement).await?));
    }
    Ok(found)
}

async fn count(connection: &mut SqliteConnection, statement: &'static str) -> anyhow::Result<u64> {
    Ok(rows::count(sqlx::query(statement).fetch_one(connection).await?.try_get(0)?))
}
