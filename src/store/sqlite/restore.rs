//! Restoring a backup of the embedded store: unpacked beside the database, checked, brought to this version, and only
//! then put in its place, by one renaming.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use sqlx::{ConnectOptions, Connection, Row};

use super::backup::{ENTRY, unchanging};
use super::{DATABASE, create_directory, fingerprint, first, lock, options, options_of, schema};
use crate::domain::Timestamp;
use crate::store::Schema;
use crate::store::backup::{Archive, BUFFER, Engine, Scratch, compare, sync_directory, waiting};

/// Where a database is unpacked to.
const UNPACKED: &str = ".engramia.db.restoring";
/// What a database may have beside it.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// What was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    /// Version of the schema in the backup, and now.
    pub schema: Schema,
    /// Where the database is that was there before.
    pub kept: Option<PathBuf>,
}

/// Puts the database of a backup into `root`.
///
/// # Errors
/// When the directory is in use, holds a database that may not be replaced, or the backup is not what it says it is.
/// Then everything is as it was.
pub async fn restore(archive: &Arc<Archive>, root: &Path, replaces: bool, now: Timestamp) -> anyhow::Result<Restored> {
    archive.expect(Engine::Sqlite, schema::newest())?;
    create_directory(root)?;
    let _lock = lock(root).await?;
    let database = root.join(DATABASE);
    let is_there = database.try_exists().with_context(|| format!("looking for {}", database.display()))?;
    anyhow::ensure!(
        replaces || !is_there,
        "{} holds a memory already: restore into another directory (ENGRAMIA_DATA_PATH), or give --replace, which keeps \
         the old database under another name",
        root.display()
    );
    let (unpacked, schema) = prepare(archive, root.join(UNPACKED)).await?;
    fold(root, is_there).await;
    waiting(move || {
        let kept = set_aside(&database, now).context("setting the old database aside")?;
        fs::rename(unpacked.path(), &database).with_context(|| format!("writing {}", database.display()))?;
        sync_directory(&database)?;
        Ok(Restored { schema, kept: kept.filter(|_| is_there) })
    })
    .await
}

/// Unpacks a backup into a directory, compares it with what it says of itself, and removes it again.
///
/// # Errors
/// When it is not what it says it is, or the directory cannot be written.
pub async fn verify(archive: &Arc<Archive>, scratch: &Path) -> anyhow::Result<Schema> {
    archive.expect(Engine::Sqlite, schema::newest())?;
    let name = archive.path().file_name().unwrap_or_default().to_string_lossy();
    Ok(prepare(archive, scratch.join(format!(".{name}.{}.verifying", std::process::id()))).await?.1)
}

/// The database of a backup, whole and of this version.
async fn prepare(archive: &Arc<Archive>, path: PathBuf) -> anyhow::Result<(Scratch, Schema)> {
    let unpacked = waiting({
        let archive = Arc::clone(archive);
        move || unpack(&archive, path)
    })
    .await?;
    let mut connection = unchanging(unpacked.path()).await?;
    let rows = sqlx::query("pragma integrity_check(1)").fetch_all(&mut connection).await;
    let rows = rows.context("the database in the backup is damaged")?;
    let verdict: String = rows.first().context("no verdict about the database")?.try_get(0)?;
    anyhow::ensure!(verdict == "ok", "the database in the backup is damaged: {verdict}");
    compare(&archive.manifest.tables, &fingerprint::tables(&mut connection).await?)?;
    let version = schema::version_of(&mut connection).await?;
    anyhow::ensure!(version == archive.header.schema, "the schema of the backup is {version}, which it says it is not");
    connection.close().await?;

    let mut connection = options_of(unpacked.path()).connect().await.context("opening the restored database")?;
    let schema = schema::bring_up(&mut connection).await?;
    // The last connection folds its log in, and takes it away.
    connection.close().await?;
    let file = File::open(unpacked.path())?;
    waiting(move || Ok(file.sync_all()?)).await.context("writing the restored database")?;
    Ok((unpacked, schema))
}

fn unpack(archive: &Archive, path: PathBuf) -> anyhow::Result<Scratch> {
    let (scratch, mut file) = Scratch::create(path)?;
    let mut entry = archive.entry(ENTRY)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = entry.read(&mut buffer).with_context(|| format!("reading {}", archive.path().display()))?;
        if read == 0 {
            break;
        }
        file.write_all(&buffer[..read]).with_context(|| format!("writing {}", scratch.path().display()))?;
    }
    entry.finish()?;
    Ok(scratch)
}

/// Folds the log of the old database in, so that all of it is in one file. One that is damaged is kept as it is.
async fn fold(root: &Path, is_there: bool) {
    if !is_there {
        return;
    }
    let folded = async {
        let mut connection = first(root, &options(root)).await?;
        sqlx::query("pragma wal_checkpoint(truncate)").execute(&mut connection).await?;
        anyhow::Ok(connection.close().await?)
    };
    if let Err(error) = folded.await {
        tracing::warn!("the old database is damaged, and is kept with its log beside it: {error:#}");
    }
}

/// Gives the old database another name as well, until the new one takes its own: there is always one of them. Its log
/// must go before: it would be taken for the log of the new one.
fn set_aside(database: &Path, now: Timestamp) -> anyhow::Result<Option<PathBuf>> {
    let kept = database.with_file_name(format!("engramia-replaced-{}.db", now.format("%Y%m%dT%H%M%S%.6fZ")));
    let with_end = |path: &Path, end: &str| {
        let mut path = path.as_os_str().to_owned();
        path.push(end);
        PathBuf::from(path)
    };
    if database.try_exists()? {
        fs::hard_link(database, &kept).or_else(|_| fs::copy(database, &kept).map(|_| ()))?;
    }
    for end in BESIDE {
        let path = with_end(database, end);
        if path.try_exists()? {
            fs::rename(&path, with_end(&kept, end))?;
        }
    }
    sync_directory(database)?;
    Ok(Some(kept))
}
