//! Backups of PostgreSQL: every table as `COPY` gives it, in one transaction that sees one state.
//!
//! Writers go on. Indexes are no part of it: a restore makes those of the schema, the server the approximate ones.

use anyhow::Context;
use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::{Connection, PgConnection, Row};
use tokio::sync::mpsc;

use super::tables::{self, Source};
use super::{PostgresStore, Settings, connect, schema};
use crate::domain::Timestamp;
use crate::store::Result;
use crate::store::backup::{BUFFER, Backups, Draft, Due, Engine, Header, Manifest, Order, Report, Table, waiting};

/// Full buffers that wait for the disk.
const WAITING: usize = 4;

#[async_trait]
impl Backups for PostgresStore {
    async fn back_up(&self, order: &Order) -> anyhow::Result<Report> {
        back_up(&self.settings, order).await
    }

    async fn take_turn(&self, name: &str, due: Due, now: Timestamp) -> Result<bool> {
        // A time that is far ahead was written by a clock that was wrong.
        let taken = sqlx::query(
            "insert into sweeps (name, step, began_at, is_over) values ($1, 0, $2, false) on conflict (name) \
             do update set step = sweeps.step + 1, began_at = $2, is_over = false \
             where sweeps.began_at <= case when sweeps.is_over then $3 else $4 end or sweeps.began_at > $5",
        )
        .bind(name)
        .bind(now)
        .bind(now - due.every)
        .bind(now - due.again)
        .bind(now + due.every)
        .execute(&self.inner.pool)
        .await?;
        Ok(taken.rows_affected() == 1)
    }

    async fn end_turn(&self, name: &str) -> Result<()> {
        let over = sqlx::query("update sweeps set is_over = true where name = $1").bind(name);
        over.execute(&self.inner.pool).await?;
        Ok(())
    }
}

/// Writes what the database holds to a file, whether servers run on it or not.
///
/// # Errors
/// When the database holds no memory, cannot be read as a whole, or the file cannot be written; then there is no file.
pub async fn back_up(settings: &Settings, order: &Order) -> anyhow::Result<Report> {
    let claim = waiting({
        let order = order.clone();
        move || Draft::claim(&order)
    })
    .await?;
    let mut connection = connect::first(settings).await?;
    let mut transaction = connection.begin_with("begin isolation level repeatable read read only").await?;
    let version = schema::version_of(&mut transaction).await?;
    anyhow::ensure!(version > 0, "there is no memory in the database");
    let newest = schema::newest();
    anyhow::ensure!(
        version <= newest,
        "the database has schema {version}, which is newer than this program's ({newest}): use a newer program"
    );
    let sources = tables::present(&mut transaction).await?;
    if let Some(closed) = sources.iter().find(|source| !source.is_open) {
        anyhow::bail!(
            "the database login does not see every row of the table {}: take the backup with the login that owns the \
             tables (or one that may pass by row-level security)",
            closed.name
        );
    }
    // Rows in the order of their keys come from the index, not from a sort on the disk.
    sqlx::query("set local enable_sort = off").execute(&mut *transaction).await?;
    let header = Header::new(Engine::Postgres, version, order.at);
    let mut draft = waiting(move || claim.begin(header)).await?;
    let mut manifest = Manifest::default();
    for source in sources {
        let rows = source.count(&mut transaction).await?;
        let (returned, sha256) = copy(&mut transaction, &source, draft).await?;
        draft = returned;
        manifest.tables.push(Table { name: source.name, columns: source.columns, rows, sha256 });
    }
    let sequences =
        sqlx::query("select sequencename::text, last_value from pg_sequences where schemaname = current_schema()");
    for row in sequences.fetch_all(&mut *transaction).await? {
        manifest.sequences.insert(row.try_get(0)?, row.try_get(1)?);
    }
    transaction.rollback().await?;
    waiting(move || draft.publish(manifest)).await
}

/// Writes one table, and gives its digest.
async fn copy(connection: &mut PgConnection, source: &Source, mut draft: Draft) -> anyhow::Result<(Draft, String)> {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(WAITING);
    let name = tables::entry(&source.name);
    let writing = waiting(move || {
        let mut entry = draft.entry(&name)?;
        while let Some(chunk) = receiver.blocking_recv() {
            entry.write(&chunk)?;
        }
        let sha256 = entry.finish()?;
        Ok((draft, sha256))
    });
    let reading = async {
        let sender = sender;
        let mut buffer = Vec::with_capacity(BUFFER);
        let mut rows = connection.copy_out_raw(&source.copy_out()?).await?;
        while let Some(bytes) = rows.try_next().await? {
            let bytes = bytes.as_ref();
            if buffer.len() + bytes.len() > BUFFER {
                // Nobody takes it where the disk has failed; the writer says so.
                if sender.send(std::mem::replace(&mut buffer, Vec::with_capacity(BUFFER))).await.is_err() {
                    return Ok(());
                }
            }
            buffer.extend_from_slice(bytes);
        }
        drop(sender.send(buffer).await);
        anyhow::Ok(())
    };
    let reading = async { reading.await.with_context(|| format!("reading table {}", source.name)) };
    let (written, ()) = tokio::try_join!(writing, reading)?;
    Ok(written)
}
