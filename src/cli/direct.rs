//! Verbs that work on the configured store itself, without a server and without a key.

use anyhow::Context;

use super::client::LOG_FILTER;
use super::interruptible;
use crate::app::Direct;
use crate::config::{Config, Loaded};
use crate::telemetry::logs;

/// Opens the store, works on it, and closes it.
pub fn run(work: impl AsyncFnOnce(&Direct) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let Loaded { config, .. } = Config::from_env().context("the configuration is wrong")?;
    logs::start(false, LOG_FILTER)?;
    interruptible(async {
        let store = Direct::open(&config).await.context(
            "this command works on the store itself, which the embedded store allows only while no server runs on it",
        )?;
        let outcome = work(&store).await;
        store.close().await;
        outcome
    })
}
