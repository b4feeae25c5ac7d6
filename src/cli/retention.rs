//! `engramia retention`.

use clap::Args;
use serde_json::json;

use super::client::Client;
use super::output::{self, one_line};

/// How long patterns are kept.
#[derive(Args)]
#[command(after_help = "\
Examples:
  engramia retention
  engramia retention --days 90 --dry-run
  engramia retention --inherit
  engramia retention --apply")]
pub struct RetentionArgs {
    /// Keep the patterns of the project so many days
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500), conflicts_with = "inherit")]
    days: Option<u32>,
    /// Leave it to the tenant or the installation again
    #[arg(long)]
    inherit: bool,
    /// Remove now what is older
    #[arg(long, conflicts_with = "dry_run")]
    apply: bool,
    /// Count what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// Runs the verb.
pub async fn run(client: &Client, args: &RetentionArgs, json: bool) -> anyhow::Result<()> {
    let path = "/v1/governance/retention";
    let mut answer = match args.days.is_some() || args.inherit {
        true => client.put(path, &json!({ "retention_days": args.days })).await?,
        false => client.get(path).await?,
    };
    let mut line = match answer["retention_days"].as_u64() {
        Some(days) => format!("{days} days"),
        None => "for ever".to_owned(),
    };
    line.push_str(&format!("  (set by: {})", one_line(answer["source"].as_str().unwrap_or_default())));
    if args.apply || args.dry_run {
        let applied = client.post(&format!("{path}/apply"), &json!({ "dry_run": args.dry_run })).await?;
        let done = if args.dry_run { "would be removed" } else { "removed" };
        line.push_str(&format!("  {} {done}", applied["purged_count"]));
        answer["purged_count"] = applied["purged_count"].clone();
        answer["dry_run"] = applied["dry_run"].clone();
    }
    if json {
        output::json(&answer)?
    } else {
        output::line(&line)?
    }
    Ok(())
}
