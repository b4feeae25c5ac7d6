//! Migrations: at start, and by `engramia migrate`.

use anyhow::Context;
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};
use sqlx::{PgConnection, Row, SqlSafeStr};

use super::connect::{self, Settings};
use crate::store::{Revision, Schema};

/// Every migration in order; numbers are never used twice.
fn migrations() -> Migrator {
    let all = [
        (1, "memory", include_str!("../../../migrations/postgres/0001_memory.sql")),
        (2, "identity", include_str!("../../../migrations/postgres/0002_identity.sql")),
        (3, "carried", include_str!("../../../migrations/postgres/0003_carried.sql")),
        (4, "evidence", include_str!("../../../migrations/postgres/0004_evidence.sql")),
        (5, "spend", include_str!("../../../migrations/postgres/0005_spend.sql")),
        (6, "issues", include_str!("../../../migrations/postgres/0006_issues.sql")),
        (7, "jobs", include_str!("../../../migrations/postgres/0007_jobs.sql")),
        (8, "plans", include_str!("../../../migrations/postgres/0008_plans.sql")),
        (9, "payments", include_str!("../../../migrations/postgres/0009_payments.sql")),
        (10, "governance", include_str!("../../../migrations/postgres/0010_governance.sql")),
        (11, "erasure", include_str!("../../../migrations/postgres/0011_erasure.sql")),
        (12, "idempotency", include_str!("../../../migrations/postgres/0012_idempotency.sql")),
    ];
    let migrations = all.into_iter().map(|(number, name, sql)| {
        Migration::new(number, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// Brings the schema of a database to this version.
///
/// # Errors
/// As [`super::PostgresStore::open`].
pub async fn migrate(settings: &Settings) -> anyhow::Result<Schema> {
    bring_up(&mut connect::first(settings).await?).await
}

/// Runs what is missing. Servers that start at once wait for each other.
pub(super) async fn bring_up(connection: &mut PgConnection) -> anyhow::Result<Schema> {
    bring_to(connection, newest()).await
}

/// Version of this program's schema.
pub(super) fn newest() -> i64 {
    migrations().iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Runs what is missing up to a version.
pub(super) async fn bring_to(connection: &mut PgConnection, newest: i64) -> anyhow::Result<Schema> {
    let wanted = migrations().iter().filter(|migration| migration.version <= newest).cloned().collect();
    let migrator = Migrator::with_migrations(wanted);
    let before = version_of(connection).await?;
    anyhow::ensure!(
        before <= newest,
        "the database has schema {before}, which is newer than this program's ({newest}): start a newer program"
    );
    if before == newest {
        return Ok(Schema { before, now: newest });
    }
    if before == 0 {
        refuse_the_original(connection).await?;
    }
    if let Err(error) = migrator.run(&mut *connection).await {
        let advice = advice(&error);
        return Err(error).with_context(|| format!("bringing the database to this version's schema: {advice}"));
    }
    tracing::info!(before, now = newest, "migrated the database");
    Ok(Schema { before, now: newest })
}

/// Version of a database's schema; 0 where there is none.
///
/// # Errors
/// When the database cannot be reached or read.
pub async fn version(settings: &Settings) -> anyhow::Result<i64> {
    version_of(&mut connect::first(settings).await?).await
}

/// The schema of an open database.
pub(super) async fn revision(connection: &mut PgConnection) -> anyhow::Result<Revision> {
    Ok(Revision { current: version_of(connection).await?, expected: newest() })
}

/// Version of the newest migration that has run; 0 before any.
pub(super) async fn version_of(connection: &mut PgConnection) -> anyhow::Result<i64> {
    let row = sqlx::query("select to_regclass('_sqlx_migrations') is not null").fetch_one(&mut *connection).await?;
    if !row.try_get::<bool, _>(0)? {
        return Ok(0);
    }
    let applied = connection.list_applied_migrations("_sqlx_migrations").await?;
    Ok(applied.iter().map(|migration| migration.version).max().unwrap_or(0))
}

/// Tables of the same names but another shape would be mixed up with ours.
async fn refuse_the_original(connection: &mut PgConnection) -> anyhow::Result<()> {
    let row = sqlx::query("select to_regclass('memory_data') is not null").fetch_one(&mut *connection).await?;
    anyhow::ensure!(
        !row.try_get::<bool, _>(0)?,
        "this database holds another server's tables: give an empty database, then carry the data over with \
         `engramia import-original --database-url <the old one>`"
    );
    Ok(())
}

fn advice(error: &MigrateError) -> &'static str {
    let code = match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => connect::code(error),
        _ => None,
    };
    match code.as_deref() {
        // No such file on the server, no such extension.
        Some("58P01" | "0A000") => {
            "the extension `vector` is not there: install pgvector 0.5 or newer on the server (0.8 for large tenants)"
        }
        Some("42501") => {
            "the login may not change the schema: run `engramia migrate` once with a login that owns the database \
             (and may create the extension `vector`)"
        }
        _ => "a migration failed and was rolled back",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn migrations_have_numbers_of_their_own() {
        let migrator = migrations();
        let numbers: BTreeSet<i64> = migrator.iter().map(|migration| migration.version).collect();
        assert_eq!(numbers.len(), migrator.iter().count());
    }
}
