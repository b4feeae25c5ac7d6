//! `engramia restore`: puts a backup into the configured store.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::client::LOG_FILTER;
use super::{interruptible, output};
use crate::app::{self, Restored};
use crate::config::{Config, Loaded};
use crate::telemetry::logs;

/// What to restore.
#[derive(Args)]
#[command(after_help = "\
Stop the servers of the store first. Backups of earlier versions are brought to this one. If anything goes wrong the \
store is as it was. What was erased after the backup is there again: see docs/backup.md.

Examples:
  engramia restore /backups/engramia.tar
  ENGRAMIA_DATA_PATH=/var/lib/engramia engramia restore /backups/engramia.tar --replace")]
pub struct RestoreArgs {
    /// Backup to restore
    file: PathBuf,
    /// Take the place of what the store holds; the embedded store keeps it under another name, PostgreSQL does not
    #[arg(long)]
    replace: bool,
}

/// Runs the verb.
pub fn run(args: &RestoreArgs, json: bool) -> anyhow::Result<()> {
    let Loaded { config, .. } = Config::from_env().context("the configuration is wrong")?;
    logs::start(false, LOG_FILTER)?;
    interruptible(async {
        let Restored { archive, schema, kept } = app::restore(&config, &args.file, args.replace).await?;
        let tables = &archive.manifest.tables;
        let rows: u64 = tables.iter().map(|table| table.rows).sum();
        let kept = kept.map(|path| path.display().to_string());
        if json {
            return Ok(output::json(
                &json!({ "created_at": archive.header.created_at, "schema_before": schema.before,
                "schema": schema.now, "tables": tables.len(), "rows": rows, "kept": kept }),
            )?);
        }
        let of = archive.header.created_at.format("%Y-%m-%dT%H:%M:%SZ");
        output::line(&format!("restored the state of {of}: {rows} rows of {} tables", tables.len()))?;
        if schema.before != schema.now {
            output::line(&format!("brought the schema from version {} to {}", schema.before, schema.now))?;
        }
        if let Some(kept) = kept {
            output::line(&format!("the old database is kept as {kept}"))?;
        }
        Ok(())
    })
}
