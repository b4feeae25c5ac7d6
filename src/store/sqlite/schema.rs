//! Migrations: whenever the database is opened, and by `engramia migrate`.

use anyhow::Context;
use sqlx::migrate::{Migrate, Migration, MigrationType, Migrator};
use sqlx::{Row, SqlSafeStr, SqliteConnection};

use crate::store::{Revision, Schema};

/// Where sqlx keeps what has run.
const APPLIED: &str = "_sqlx_migrations";

/// Every migration in order; numbers are never used twice.
fn migrations() -> Migrator {
    let all = [
        (1, "memory", include_str!("../../../migrations/sqlite/0001_memory.sql")),
        (2, "identity", include_str!("../../../migrations/sqlite/0002_identity.sql")),
        (3, "carried", include_str!("../../../migrations/sqlite/0003_carried.sql")),
        (4, "evidence", include_str!("../../../migrations/sqlite/0004_evidence.sql")),
        (5, "spend", include_str!("../../../migrations/sqlite/0005_spend.sql")),
        (6, "issues", include_str!("../../../migrations/sqlite/0006_issues.sql")),
        (7, "jobs", include_str!("../../../migrations/sqlite/0007_jobs.sql")),
        (8, "plans", include_str!("../../../migrations/sqlite/0008_plans.sql")),
        (9, "payments", include_str!("../../../migrations/sqlite/0009_payments.sql")),
        (10, "governance", include_str!("../../../migrations/sqlite/0010_governance.sql")),
        (11, "erasure", include_str!("../../../migrations/sqlite/0011_erasure.sql")),
        (12, "idempotency", include_str!("../../../migrations/sqlite/0012_idempotency.sql")),
    ];
    let migrations = all.into_iter().map(|(number, name, sql)| {
        Migration::new(number, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// Runs what is missing.
pub(super) async fn bring_up(connection: &mut SqliteConnection) -> anyhow::Result<Schema> {
    let bringing = async {
        let (before, newest) = (version_of(connection).await?, newest());
        anyhow::ensure!(
            before <= newest,
            "the database has schema {before}, which is newer than this program's ({newest}): start a newer program"
        );
        migrations().run(&mut *connection).await?;
        anyhow::Ok(Schema { before, now: newest })
    };
    bringing.await.context("bringing the database to this version's schema")
}

/// Version of this program's schema.
pub(super) fn newest() -> i64 {
    migrations().iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// The schema of an open database.
pub(super) async fn revision(connection: &mut SqliteConnection) -> anyhow::Result<Revision> {
    Ok(Revision { current: version_of(connection).await?, expected: newest() })
}

/// Version of the newest migration that has run; 0 before any.
pub(super) async fn version_of(connection: &mut SqliteConnection) -> anyhow::Result<i64> {
    let row = sqlx::query("select exists (select 1 from sqlite_schema where name = $1)").bind(APPLIED);
    if !row.fetch_one(&mut *connection).await?.try_get::<bool, _>(0)? {
        return Ok(0);
    }
    let applied = connection.list_applied_migrations(APPLIED).await?;
    Ok(applied.iter().map(|migration| migration.version).max().unwrap_or(0))
}
