//! Restoring a backup of PostgreSQL: the schema of its version, its rows, a second look at all of them, and the schema of
//! this version, in one transaction.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::sync::mpsc;

use super::tables::{self, Source, TABLES};
use super::{Settings, connect, schema};
use crate::domain::Timestamp;
use crate::store::Schema;
use crate::store::backup::{Archive, BUFFER, Digest, Engine, Table, compare, waiting};

/// Full buffers that wait for the database.
const WAITING: usize = 4;
/// How often, and how far apart, a database in use is asked for.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Fills the configured database with a backup.
///
/// # Errors
/// When servers use the database, it holds something that may not be replaced, or the backup is not what it says it is.
/// Then everything is as it was.
pub async fn restore(archive: &Arc<Archive>, settings: &Settings, replaces: bool) -> anyhow::Result<Schema> {
    archive.expect(Engine::Postgres, schema::newest())?;
    let mut connection = connect::first(settings).await?;
    refuse_servers(&mut connection).await?;
    let mut transaction = connection.begin().await?;
    let before = schema::version_of(&mut transaction).await?;
    let newest = schema::newest();
    anyhow::ensure!(
        before <= newest,
        "the database has schema {before}, which is newer than this program's ({newest}): restore into an empty database"
    );
    if before > 0 {
        for source in tables::present(&mut transaction).await? {
            anyhow::ensure!(
                replaces || !source.has_rows(&mut transaction).await?,
                "the database holds a memory already (table {} has rows): restore into an empty database, or give \
                 --replace, which removes what it holds",
                source.name
            );
        }
        clear(&mut transaction).await?;
    }
    let schema = fill(archive, &mut transaction).await?;
    transaction.commit().await.context("committing")?;
    // Only what the planner guesses depends on it.
    if let Err(error) = sqlx::query("analyze").execute(&mut connection).await {
        tracing::warn!(%error, "run `analyze` yourself");
    }
    connection.close().await?;
    Ok(schema)
}

/// Restores a backup into a database of its own on the configured server, and drops that.
///
/// # Errors
/// When the backup is not what it says it is, or the login may not create databases.
pub async fn verify(archive: &Arc<Archive>, settings: &Settings, now: Timestamp) -> anyhow::Result<Schema> {
    archive.expect(Engine::Postgres, schema::newest())?;
    let mut connection = connect::first(settings).await?;
    let name = format!("engramia_verify_{}_{}", std::process::id(), now.timestamp_micros());
    let made = sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&mut connection).await;
    if let Err(error) = made {
        let advice = match connect::code(&error).as_deref() {
            Some("42501") => "the login needs the right to create databases (alter role .. createdb)",
            _ => "it is made on the server of ENGRAMIA_DATABASE_URL and dropped afterwards",
        };
        return Err(error).with_context(|| format!("making a database to restore into: {advice}"));
    }
    let mut temporary = Temporary { name, settings: settings.clone(), is_dropped: false };
    let outcome = async {
        let mut connection = connect::first_of(settings, Some(&temporary.name)).await?;
        let mut transaction = connection.begin().await?;
        let schema = fill(archive, &mut transaction).await?;
        transaction.rollback().await?;
        anyhow::Ok(connection.close().await.map(|()| schema)?)
    };
    let outcome = outcome.await;
    temporary.drop_with(&mut connection).await?;
    connection.close().await?;
    outcome
}

/// A database that is dropped, also where the user has pressed Ctrl-C.
struct Temporary {
    name: String,
    settings: Settings,
    is_dropped: bool,
}

impl Temporary {
    async fn drop_with(&mut self, connection: &mut PgConnection) -> anyhow::Result<()> {
        let sql = format!("drop database if exists {} with (force)", self.name);
        sqlx::query(AssertSqlSafe(sql)).execute(connection).await.with_context(|| format!("dropping {}", self.name))?;
        self.is_dropped = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.is_dropped {
            return;
        }
        // The runtime may be ending.
        let (name, settings) = (self.name.clone(), self.settings.clone());
        let dropping = std::thread::spawn(move || -> anyhow::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut connection = connect::first(&settings).await?;
                Self { name, settings, is_dropped: true }.drop_with(&mut connection).await
            })
        });
        if !matches!(dropping.join(), Ok(Ok(()))) {
            tracing::warn!("the database {} is left: drop it", self.name);
        }
    }
}

/// A server would go on with what it has in memory. One that has just ended is gone a moment later.
async fn refuse_servers(connection: &mut PgConnection) -> anyhow::Result<()> {
    for attempt in 1.. {
        let row = sqlx::query(
            "select count(*) from pg_stat_activity \
             where datname = current_database() and application_name = 'engramia' and pid <> pg_backend_pid()",
        );
        let others: i64 = row.fetch_one(&mut *connection).await?.try_get(0)?;
        if others == 0 {
            break;
        }
        anyhow::ensure!(attempt < ATTEMPTS, "a server uses this database ({others} connections): stop it first");
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Removes everything that migrations of any version have made.
async fn clear(connection: &mut PgConnection) -> anyhow::Result<()> {
    for table in TABLES.iter().chain(&["_sqlx_migrations"]) {
        sqlx::query(AssertSqlSafe(format!("drop table if exists {table} cascade"))).execute(&mut *connection).await?;
    }
    for made in [
        "drop function if exists keyword_scores(text, text, text, text)",
        "drop function if exists held_by(text)",
        "drop text search configuration if exists engramia",
        "drop text search dictionary if exists engramia_stem",
    ] {
        sqlx::query(made).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Makes the schema of a backup in a database without one, copies everything in, looks at it again, and brings it to
/// this version.
async fn fill(archive: &Arc<Archive>, connection: &mut PgConnection) -> anyhow::Result<Schema> {
    schema::bring_to(connection, archive.header.schema).await?;
    let sources = tables::present(connection).await?;
    let source_of = |table: &Table| {
        let source = sources.iter().find(|source| source.name == table.name);
        let source = source.filter(|source| table.columns.iter().all(|column| source.columns.contains(column)));
        source.with_context(|| format!("{}: schema has no such table {}", archive.path().display(), table.name))
    };
    for source in &sources {
        let sql = format!("truncate {} cascade", source.name);
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    }
    for table in &archive.manifest.tables {
        let copied = copy(archive, connection, source_of(table)?, table).await;
        let rows = copied.with_context(|| format!("restoring table {}", table.name))?;
        let (name, wanted) = (&table.name, table.rows);
        anyhow::ensure!(rows == wanted, "table {name} has {rows} rows, and {wanted} in the manifest");
    }
    for (sequence, last) in &archive.manifest.sequences {
        if let Some(last) = last {
            let set = sqlx::query("select setval(quote_ident($1)::regclass, $2)").bind(sequence).bind(last);
            set.execute(&mut *connection).await.with_context(|| format!("setting the sequence {sequence}"))?;
        }
    }
    sqlx::query("set local enable_sort = off").execute(&mut *connection).await?;
    let mut found = Vec::new();
    for source in &sources {
        found.push(summary(connection, source).await?);
    }
    compare(&archive.manifest.tables, &found)?;
    schema::bring_up(connection).await
}

/// Copies one table from the backup into the database.
async fn copy(
    archive: &Arc<Archive>,
    connection: &mut PgConnection,
    source: &Source,
    table: &Table,
) -> anyhow::Result<u64> {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>(WAITING);
    let (archive, name) = (Arc::clone(archive), tables::entry(&table.name));
    let reading = waiting(move || {
        let mut entry = archive.entry(&name)?;
        loop {
            let mut buffer = Vec::with_capacity(BUFFER);
            entry.by_ref().take(BUFFER as u64).read_to_end(&mut buffer).context("reading the backup")?;
            if buffer.is_empty() {
                return entry.finish();
            }
            // Nobody takes it where the database has refused; the writer says so.
            if sender.blocking_send(buffer).is_err() {
                return Ok(());
            }
        }
    });
    let writing = async move {
        let mut sink = connection.copy_in_raw(&source.copy_in(&table.columns)).await?;
        // Where it breaks off the channel goes with it, which lets the reader go.
        let mut receiver = receiver;
        while let Some(chunk) = receiver.recv().await {
            sink.send(chunk).await?;
        }
        anyhow::Ok(sink.finish().await?)
    };
    let (read, written) = tokio::join!(reading, writing);
    // What is wrong with the file is why the database refuses it.
    read?;
    written
}

/// What a table holds now.
async fn summary(connection: &mut PgConnection, source: &Source) -> anyhow::Result<Table> {
    let rows = source.count(&mut *connection).await?;
    let mut digest = Digest::new();
    let mut bytes = connection.copy_out_raw(&source.copy_out()?).await?;
    while let Some(chunk) = bytes.try_next().await? {
        digest.add(&chunk);
    }
    Ok(Table { name: source.name.clone(), columns: source.columns.clone(), rows, sha256: digest.finish() })
}
