//! Moving in: from one store to another, and from a database of the original.

use std::sync::Arc;

use anyhow::Context;
use secrecy::SecretString;

use super::{Overrides, open_store, services};
use crate::adapter;
use crate::compute::ComputePool;
use crate::config::{Config, Storage};
use crate::ports::{Clock, Embedder};
use crate::service::copy::{self, Contents, Progress, UNFINISHED};
use crate::service::original::{self, Report};
use crate::store::Store;
use crate::store::original::Original;
use crate::store::{postgres, sqlite};

/// Requests that may wait for the compute threads of a command.
const QUEUE: usize = 64;

/// Copies everything from one store to another and compares the two; says what they hold.
///
/// # Errors
/// When a store cannot be opened, the target holds something else, or the two differ at the end.
pub async fn copy_store(from: &Storage, to: &Storage, progress: Progress<'_>) -> anyhow::Result<Contents> {
    let source = open_source(from).await?;
    let target = match open(to).await.context("opening the target") {
        Ok(target) => target,
        Err(error) => {
            source.close().await;
            return Err(error);
        }
    };
    let now = adapter::system::SystemClock.now();
    let outcome = copy::copy(source.as_ref(), target.as_ref(), now, progress).await;
    target.close().await;
    source.close().await;
    Ok(outcome?)
}

/// What a store holds, as [`copy_store`] would copy it.
///
/// # Errors
/// When it cannot be opened or read.
pub async fn survey_store(from: &Storage, progress: Progress<'_>) -> anyhow::Result<Contents> {
    let source = open_source(from).await?;
    let outcome = copy::survey(source.as_ref(), progress).await;
    source.close().await;
    Ok(outcome?)
}

/// Carries what a database of the original holds into the configured store.
///
/// # Errors
/// When the database cannot be read, or the store cannot be written.
pub async fn import_original(config: &Config, database: &SecretString, overrides: Overrides) -> anyhow::Result<Report> {
    let mut original = Original::open(database).await?;
    let (compute, embedder) = embedder(config, overrides.embedder)?;
    let space = embedder.as_ref().map(|embedder| embedder.space().clone());
    let store = open_store(&config.storage, space, &compute).await.context("opening the configured store")?;
    refuse_unfinished(store.as_ref()).await?;
    let clock = overrides.clock.unwrap_or_else(|| Arc::new(adapter::system::SystemClock));
    let entropy = overrides.entropy.unwrap_or_else(|| Arc::new(adapter::system::OsEntropy));
    let services = services(config, store, embedder, None, compute, clock, entropy);
    let outcome = services.import_original(&mut original).await;
    services.store.close().await;
    outcome
}

/// What [`import_original`] would carry over; no store is opened.
///
/// # Errors
/// When the database cannot be read.
pub async fn survey_original(config: &Config, database: &SecretString, overrides: Overrides) -> anyhow::Result<Report> {
    let mut original = Original::open(database).await?;
    let (_compute, embedder) = embedder(config, overrides.embedder)?;
    original::survey(&mut original, embedder.as_deref(), adapter::system::SystemClock.now()).await
}

/// No server works on a store that is only half there.
pub(super) async fn refuse_unfinished(store: &dyn Store) -> anyhow::Result<()> {
    if store.has_mark(UNFINISHED).await? {
        store.close().await;
        anyhow::bail!("this store is the target of a copy that was cut off: run `engramia copy-store` to its end");
    }
    Ok(())
}

type Computing = (Arc<ComputePool>, Option<Arc<dyn Embedder>>);

fn embedder(config: &Config, instead: Option<Arc<dyn Embedder>>) -> anyhow::Result<Computing> {
    let compute = Arc::new(ComputePool::start(config.memory.compute_threads, config.memory.compute_queue)?);
    let embedder = match instead {
        Some(embedder) => Some(embedder),
        None => adapter::embedder(&config.models.embedding, &compute)?,
    };
    Ok((compute, embedder))
}

/// Opens a store that is there already: a name with a typing error is not an empty store.
async fn open_source(place: &Storage) -> anyhow::Result<Arc<dyn Store>> {
    let is_there = match place {
        Storage::Embedded { root } => sqlite::is_store(root),
        Storage::Postgres(database) => {
            let settings = super::postgres_settings(database);
            postgres::version(&settings).await.context("opening the source")? > 0
        }
    };
    anyhow::ensure!(is_there, "the source holds no memory of this program");
    open(place).await.context("opening the source")
}

async fn open(place: &Storage) -> anyhow::Result<Arc<dyn Store>> {
    open_store(place, None, &Arc::new(ComputePool::start(1, QUEUE)?)).await
}
