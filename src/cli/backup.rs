//! `engramia backup`: writes everything to a file, or checks that such a file can be restored.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::LOG_FILTER;
use super::failure::Failure;
use super::{interruptible, output};
use crate::app::{self, Restored};
use crate::config::{Config, Loaded};
use crate::telemetry::logs;

/// What to write, or to check.
#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
The configured store is read while servers go on; what they write after the beginning is not part of it. The file holds \
everything, with the hashes of keys and without owner.key: keep it like the store itself. It is complete when it has its \
name.

Examples:
  engramia backup /backups/engramia.tar
  engramia backup verify /backups/engramia.tar
  engramia backup /backups/latest.tar --force"
)]
pub struct BackupArgs {
    #[command(subcommand)]
    verb: Option<BackupVerb>,
    /// File to write
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Replace the file if there is one
    #[arg(long)]
    force: bool,
}

#[derive(Subcommand)]
enum BackupVerb {
    /// Restore a backup into a place of its own, and compare every table with what the backup says of itself
    Verify(VerifyArgs),
}

/// Which backup, and where there is room for it.
#[derive(Args)]
#[command(after_help = "\
A backup of the embedded store needs as much room again for a while, one of PostgreSQL a database that is made on the \
server of ENGRAMIA_DATABASE_URL and dropped afterwards, for which the login needs the right to create databases.

Examples:
  engramia backup verify /backups/engramia.tar
  engramia backup verify /backups/engramia.tar --scratch /var/tmp")]
struct VerifyArgs {
    /// File to check
    file: PathBuf,
    /// Directory to unpack a backup of the embedded store into [default: that of the file]
    #[arg(long, value_name = "DIRECTORY")]
    scratch: Option<PathBuf>,
}

/// Runs the verb.
pub fn run(args: BackupArgs, json: bool) -> anyhow::Result<()> {
    let BackupArgs { verb, file, force } = args;
    let Loaded { config, .. } = Config::from_env().context("the configuration is wrong")?;
    logs::start(false, LOG_FILTER)?;
    match (verb, file) {
        (Some(BackupVerb::Verify(args)), _) => interruptible(async {
            let verified = app::verify_backup(&config, &args.file, args.scratch.as_deref()).await?;
            show_verified(&verified, json)
        }),
        (None, Some(file)) => interruptible(async {
            let report = app::back_up(&config, &file, force).await?;
            let rows: u64 = report.manifest.tables.iter().map(|table| table.rows).sum();
            let (tables, bytes) = (report.manifest.tables.len(), report.bytes);
            if json {
                let file = file.display().to_string();
                let schema = report.header.schema;
                return Ok(output::json(&json!({ "file": file, "engine": report.header.engine, "schema": schema,
                    "created_at": report.header.created_at, "tables": tables, "rows": rows, "bytes": bytes }))?);
            }
            Ok(output::line(&format!("wrote {}: {rows} rows of {tables} tables, {bytes} bytes", file.display()))?)
        }),
        (None, None) => Err(Failure::Usage("name the file to write: engramia backup FILE").into()),
    }
}

fn show_verified(verified: &Restored, json: bool) -> anyhow::Result<()> {
    let Restored { archive, schema, .. } = verified;
    let (header, tables) = (&archive.header, &archive.manifest.tables);
    if json {
        let tables =
            tables.iter().map(|table| json!({ "name": table.name, "rows": table.rows, "sha256": table.sha256 }));
        let tables: Vec<Value> = tables.collect();
        return Ok(output::json(&json!({ "ok": true, "engine": header.engine, "schema": schema.before,
            "server": header.server, "created_at": header.created_at, "tables": tables }))?);
    }
    for table in tables {
        output::line(&format!(
            "{:<24} {:>10}  {}",
            table.name,
            table.rows,
            table.sha256.get(..16).unwrap_or_default()
        ))?;
    }
    Ok(output::line(&format!(
        "restored and compared: {} of {}, schema {}, by version {}",
        header.engine.name(),
        header.created_at.format("%Y-%m-%dT%H:%M:%SZ"),
        schema.before,
        header.server
    ))?)
}
