//! `engramia copy-store`: moves a whole memory from one store to another.

use clap::Args;
use serde_json::{Value, json};

use super::client::LOG_FILTER;
use super::interruptible;
use super::output::{self, one_line};
use crate::app;
use crate::config;
use crate::telemetry::logs;

/// From where to where.
#[derive(Args)]
#[command(after_help = "\
A store is a data directory, postgres://.., or env:NAME: the variable NAME holds the URL, so that no password stands \
in the list of processes. Stop the servers of both stores first. A copy that was cut off goes on when the same command \
runs again; until it is complete, no server starts on the target.

Examples:
  engramia copy-store --from ./engramia_data --to env:DATABASE_URL
  engramia copy-store --from env:DATABASE_URL --to /var/lib/engramia
  engramia copy-store --from ./engramia_data --to env:DATABASE_URL --dry-run")]
pub struct CopyArgs {
    /// Store to read; it is not changed
    #[arg(long, value_name = "STORE")]
    from: String,
    /// Store to fill; it must be empty, or a copy that was cut off
    #[arg(long, value_name = "STORE")]
    to: String,
    /// Only say what would be copied; the target is not looked at
    #[arg(long)]
    dry_run: bool,
}

/// Runs the verb.
pub fn run(args: &CopyArgs, json: bool) -> anyhow::Result<()> {
    let (from, to) = (config::store_at(&args.from)?, config::store_at(&args.to)?);
    logs::start(false, LOG_FILTER)?;
    interruptible(async {
        let bar = output::progress(if args.dry_run { "reading" } else { "copying" }, None);
        let progress = |patterns| bar.inc(patterns);
        let contents = if args.dry_run {
            app::survey_store(&from, &progress).await?
        } else {
            app::copy_store(&from, &to, &progress).await?
        };
        bar.finish_and_clear();
        let scopes = contents.scopes.iter().map(|content| {
            json!({
                "tenant": content.scope.tenant(),
                "project": content.scope.project(),
                "patterns": content.patterns,
                "vectors": content.vectors,
                "evaluations": content.evaluations,
                "skills": content.skills,
                "feedback": content.feedback,
                "events": content.events,
                "keys": content.keys,
                "carried": content.carried,
                "digest": content.digest(),
            })
        });
        let audit = contents.chains.iter().map(|chain| json!({ "tenant": chain.tenant, "entries": chain.entries }));
        let report = json!({
            "copied": !args.dry_run,
            "scopes": scopes.collect::<Vec<_>>(),
            "audit": audit.collect::<Vec<_>>(),
        });
        show(&report, json)
    })
}

fn show(report: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        output::json(report)?;
        return Ok(());
    }
    let list = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    for scope in list("scopes") {
        output::line(&row(&scope))?;
    }
    for chain in list("audit") {
        let tenant = one_line(chain["tenant"].as_str().unwrap_or_default());
        output::line(&format!("{tenant}  audit entries {}", chain["entries"]))?;
    }
    output::line(match (&report["copied"], list("scopes").is_empty()) {
        (_, true) => "the source is empty",
        (Value::Bool(true), _) => "copied, read again on both sides, and equal",
        _ => "nothing was copied: this was a dry run",
    })?;
    Ok(())
}

fn row(scope: &Value) -> String {
    let text = |name: &str| one_line(scope[name].as_str().unwrap_or_default());
    let counts = ["patterns", "vectors", "evaluations", "skills", "feedback", "keys", "carried"];
    let counts = counts.iter().filter(|name| scope[**name] != 0).map(|name| format!("  {name} {}", scope[*name]));
    format!("{}/{}{}  {}", text("tenant"), text("project"), counts.collect::<String>(), &text("digest")[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_one_row() {
        let scope = json!({
            "tenant": "acme\n", "project": "web", "patterns": 3, "vectors": 0, "evaluations": 4, "skills": 0,
            "feedback": 0, "keys": 1, "carried": 0, "digest": "0123456789abcdef0123456789abcdef",
        });
        assert_eq!(row(&scope), "acme/web  patterns 3  evaluations 4  keys 1  0123456789abcdef");
    }
}
