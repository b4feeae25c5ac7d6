//! Everything to a file, and from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use crate::adapter;
use crate::config::{Config, Storage};
use crate::ports::Clock;
use crate::store::backup::{Archive, Engine, Order, Report};
use crate::store::{Schema, postgres, sqlite};

/// What was restored, or could be.
#[derive(Debug)]
pub struct Restored {
    /// The backup.
    pub archive: Arc<Archive>,
    /// Version of its schema, and the one it was brought to.
    pub schema: Schema,
    /// Where the database is that was there before.
    pub kept: Option<PathBuf>,
}

/// Writes what the configured store holds to a file; servers may go on.
///
/// # Errors
/// When the store cannot be read, or the file cannot be written; then there is no file.
pub async fn back_up(config: &Config, target: &Path, replaces: bool) -> anyhow::Result<Report> {
    let order = Order { target: target.to_owned(), replaces, at: adapter::system::SystemClock.now() };
    match &config.storage {
        Storage::Embedded { root } => sqlite::back_up(root, &order).await,
        Storage::Postgres(database) => postgres::back_up(&super::postgres_settings(database), &order).await,
    }
}

/// Restores a backup into a place of its own, and compares it with what it says of itself: a directory for one of the
/// embedded store, a database on the configured server for one of PostgreSQL.
///
/// # Errors
/// When the backup is not what it says it is, or there is no such place.
pub async fn verify_backup(config: &Config, file: &Path, scratch: Option<&Path>) -> anyhow::Result<Restored> {
    let archive = open(file).await?;
    let beside = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let verifying = async {
        match (archive.header.engine, &config.storage) {
            (Engine::Sqlite, _) => sqlite::verify(&archive, scratch.unwrap_or(beside)).await,
            (Engine::Postgres, Storage::Postgres(database)) => {
                let settings = super::postgres_settings(database);
                postgres::verify(&archive, &settings, adapter::system::SystemClock.now()).await
            }
            (Engine::Postgres, Storage::Embedded { .. }) => anyhow::bail!(
                "this is a backup of PostgreSQL: set ENGRAMIA_DATABASE_URL to a server on which a database for it may \
                 be made for a while"
            ),
        }
    };
    let schema = verifying.await.with_context(|| format!("verifying {}", file.display()))?;
    Ok(Restored { archive, schema, kept: None })
}

/// Puts a backup into the configured store, which no server may use meanwhile.
///
/// # Errors
/// When the store is in use or holds something, or the backup is not what it says it is; then nothing is changed.
pub async fn restore(config: &Config, file: &Path, replaces: bool) -> anyhow::Result<Restored> {
    let archive = open(file).await?;
    match &config.storage {
        Storage::Embedded { root } => {
            let now = adapter::system::SystemClock.now();
            let sqlite::Restored { schema, kept } = sqlite::restore(&archive, root, replaces, now).await?;
            Ok(Restored { archive, schema, kept })
        }
        Storage::Postgres(database) => {
            let settings = super::postgres_settings(database);
            let schema = postgres::restore(&archive, &settings, replaces).await?;
            Ok(Restored { archive, schema, kept: None })
        }
    }
}

async fn open(file: &Path) -> anyhow::Result<Arc<Archive>> {
    let file = file.to_owned();
    Ok(Arc::new(tokio::task::spawn_blocking(move || Archive::open(&file)).await??))
}
