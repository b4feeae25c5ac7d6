//! Backups of the embedded store: a snapshot of the database, as one entry.
//!
//! `VACUUM INTO` reads one consistent state on a connection of its own, which only reads: writers go on, in this process
//! and in others. The write-ahead log grows meanwhile, because nothing of it can be folded in before the snapshot is done.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use super::{DATABASE, SqliteStore, fingerprint, is_store, schema};
use crate::domain::{Scope, Timestamp};
use crate::store::backup::{BUFFER, Backups, Draft, Due, Engine, Header, Manifest, Order, Report, waiting};
use crate::store::{Result, Work};

/// The entry with the database.
pub(super) const ENTRY: &str = DATABASE;
/// How long the backup waits for a writer that is just folding its log in.
const BUSY_FOR: Duration = Duration::from_secs(5);
/// Rows that are read ahead.
const AHEAD: usize = 1024;

#[async_trait]
impl Backups for SqliteStore {
    async fn back_up(&self, order: &Order) -> anyhow::Result<Report> {
        back_up(&self.root, order).await
    }

    async fn take_turn(&self, name: &str, due: Due, now: Timestamp) -> Result<bool> {
        let mut work = self.writing(&Scope::default()).await?;
        // A time that is far ahead was written by a clock that was wrong.
        let taken = sqlx::query(
            "insert into sweeps (name, step, began_at, is_over) values ($1, 0, $2, false) on conflict (name) \
             do update set step = step + 1, began_at = $2, is_over = false \
             where began_at <= iif(is_over, $3, $4) or began_at > $5",
        )
        .bind(name)
        .bind(now.timestamp_micros())
        .bind((now - due.every).timestamp_micros())
        .bind((now - due.again).timestamp_micros())
        .bind((now + due.every).timestamp_micros())
        .execute(work.connection().await?)
        .await?;
        work.commit().await?;
        Ok(taken.rows_affected() == 1)
    }

    async fn end_turn(&self, name: &str) -> Result<()> {
        let mut work = self.writing(&Scope::default()).await?;
        let over = sqlx::query("update sweeps set is_over = true where name = $1").bind(name);
        over.execute(work.connection().await?).await?;
        work.commit().await
    }
}

/// Writes what the database in `root` holds to a file, whether a server runs on it or not.
///
/// # Errors
/// When there is no database, it cannot be read, or the file cannot be written; then there is no file.
pub async fn back_up(root: &Path, order: &Order) -> anyhow::Result<Report> {
    anyhow::ensure!(is_store(root), "there is no memory in {}", root.display());
    let order = order.clone();
    let (claim, snapshot) = waiting({
        let order = order.clone();
        move || {
            let claim = Draft::claim(&order)?;
            let snapshot = claim.scratch()?;
            Ok((claim, snapshot))
        }
    })
    .await?;
    let path = snapshot.path().to_str().context("the path of a backup must be text")?.to_owned();
    let mut connection = source(root).connect().await.context("opening the database")?;
    sqlx::query("vacuum into $1").bind(path).execute(&mut connection).await.context("copying the database")?;
    connection.close().await?;

    let mut connection = unchanging(snapshot.path()).await?;
    let header = Header::new(Engine::Sqlite, schema::version_of(&mut connection).await?, order.at);
    let source = File::open(snapshot.path()).context("opening the copy of the database")?;
    // Its bytes and its rows are read at once, each on a thread of its own.
    let writing = waiting(move || {
        let mut draft = claim.begin(header)?;
        copy(source, &mut draft)?;
        Ok(draft)
    });
    let reading = async {
        let tables = fingerprint::tables(&mut connection).await?;
        connection.close().await?;
        anyhow::Ok(tables)
    };
    let (draft, tables) = tokio::try_join!(writing, reading)?;
    waiting(move || {
        drop(snapshot);
        draft.publish(Manifest { tables, ..Manifest::default() })
    })
    .await
}

/// The database as it is: a connection that only reads cannot change how it keeps its log.
fn source(root: &Path) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new().filename(root.join(DATABASE)).read_only(true).busy_timeout(BUSY_FOR);
    options.pragma("cache_size", "-16384").disable_statement_logging()
}

fn copy(mut source: File, draft: &mut Draft) -> anyhow::Result<()> {
    let mut entry = draft.entry(ENTRY)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = source.read(&mut buffer).context("reading the copy of the database")?;
        if read == 0 {
            entry.finish()?;
            return Ok(());
        }
        entry.write(&buffer[..read])?;
    }
}

/// Opens a database that nobody writes.
pub(super) async fn unchanging(path: &Path) -> anyhow::Result<SqliteConnection> {
    let options = SqliteConnectOptions::new().filename(path).immutable(true).read_only(true).row_buffer_size(AHEAD);
    options.disable_statement_logging().connect().await.context("opening the copy of the database")
}
