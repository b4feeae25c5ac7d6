//! `engramia migrate`: brings the schema of the configured store to this version, for a login that may change it.

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::client::LOG_FILTER;
use super::{interruptible, output};
use crate::app;
use crate::config::{Config, Loaded};
use crate::telemetry::logs;

/// Nothing to choose: the store is the configured one.
#[derive(Args)]
#[command(after_help = "\
A server does the same when it starts. Where its own database login may not change the schema, run this first, with a \
login that owns the database.

Examples:
  ENGRAMIA_DATABASE_URL=postgres://owner@db/engramia engramia migrate")]
pub struct MigrateArgs {}

/// Runs the verb.
pub fn run(json: bool) -> anyhow::Result<()> {
    let Loaded { config, .. } = Config::from_env().context("the configuration is wrong")?;
    logs::start(false, LOG_FILTER)?;
    interruptible(async {
        let schema = app::migrate(&config).await?;
        if json {
            return Ok(output::json(&json!({ "before": schema.before, "now": schema.now }))?);
        }
        Ok(output::line(&verdict(schema.before, schema.now))?)
    })
}

fn verdict(before: i64, now: i64) -> String {
    if before == now {
        return format!("the schema is at version {now}");
    }
    format!("brought the schema from version {before} to {now}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_says_what_was_done() {
        assert_eq!(verdict(2, 2), "the schema is at version 2");
        assert_eq!(verdict(0, 2), "brought the schema from version 0 to 2");
    }
}
