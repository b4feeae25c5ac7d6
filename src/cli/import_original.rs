//! `engramia import-original`: carries everything over from a PostgreSQL database of the original server.

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::client::LOG_FILTER;
use super::interruptible;
use super::output::{self, one_line};
use crate::app::{self, Overrides};
use crate::config::{self, Config, Loaded};
use crate::telemetry::logs;

/// From where.
#[derive(Args)]
#[command(after_help = "\
The target is the configured store (ENGRAMIA_STORAGE, ENGRAMIA_DATA_PATH, ENGRAMIA_DATABASE_URL); stop its server if it \
is the embedded one. The source is read in one read-only transaction. What is in the target already stays as it is, so \
that the command can be repeated.

Examples:
  engramia import-original --database-url env:OLD_DATABASE_URL --dry-run
  engramia import-original --database-url env:OLD_DATABASE_URL")]
pub struct ImportArgs {
    /// Database of the original: postgres://.., or env:NAME, so that no password stands in the list of processes
    #[arg(long, value_name = "URL")]
    database_url: String,
    /// Only say what would be carried over; the target is not opened
    #[arg(long)]
    dry_run: bool,
}

/// Runs the verb.
pub fn run(args: &ImportArgs, json: bool) -> anyhow::Result<()> {
    let database = config::database_at(&args.database_url)?;
    let Loaded { config, .. } = Config::from_env().context("the configuration is wrong")?;
    logs::start(false, LOG_FILTER)?;
    interruptible(async {
        let report = if args.dry_run {
            app::survey_original(&config, &database, Overrides::default()).await?
        } else {
            app::import_original(&config, &database, Overrides::default()).await?
        };
        let projects = report.projects.iter().map(|project| {
            json!({
                "tenant": project.scope.tenant(),
                "project": project.scope.project(),
                "patterns": { "found": project.patterns.found, "new": project.patterns.new },
                "vectors": { "found": project.vectors, "usable": project.usable_vectors },
                "tagged": project.tagged,
                "feedback": project.feedback,
                "runs": project.runs,
                "keys": { "found": project.keys.found, "new": project.keys.new },
            })
        });
        let carried = report
            .carried
            .iter()
            .map(|(table, count)| json!({ "table": table, "found": count.found, "new": count.new }));
        let deleted =
            report.deleted.iter().map(|scope| json!({ "tenant": scope.tenant(), "project": scope.project() }));
        let flaws = report.flaws.told.iter().map(|(place, reason)| json!({ "place": place, "reason": reason }));
        let report = json!({
            "imported": !args.dry_run,
            "projects": projects.collect::<Vec<_>>(),
            "carried": carried.collect::<Vec<_>>(),
            "deleted": deleted.collect::<Vec<_>>(),
            "flawed": report.flaws.count,
            "flaws": flaws.collect::<Vec<_>>(),
        });
        show(&report, json)
    })
}

fn show(report: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        output::json(report)?;
        return Ok(());
    }
    for line in lines(report) {
        output::line(&line)?;
    }
    Ok(())
}

fn lines(report: &Value) -> Vec<String> {
    let list = |name: &str| report[name].as_array().into_iter().flatten();
    let text = |row: &Value, name: &str| one_line(row[name].as_str().unwrap_or_default());
    let is_done = report["imported"] == true;
    let count = |count: &Value| match is_done {
        true => format!("{} ({} new)", count["found"], count["new"]),
        false => count["found"].to_string(),
    };
    let scope = |row: &Value| format!("{}/{}", text(row, "tenant"), text(row, "project"));
    let mut lines = Vec::new();
    for row in list("projects") {
        lines.push(format!(
            "{}  patterns {}  vectors {} ({} usable)  tagged {}  feedback {}  runs {}  keys {}",
            scope(row),
            count(&row["patterns"]),
            row["vectors"]["found"],
            row["vectors"]["usable"],
            row["tagged"],
            row["feedback"],
            row["runs"],
            count(&row["keys"]),
        ));
    }
    lines.extend(list("carried").map(|row| format!("{}  rows {}", text(row, "table"), count(row))));
    lines.extend(list("deleted").map(|row| format!("{}  left out: deleted", scope(row))));
    lines.extend(list("flaws").map(|row| format!("left out: {}: {}", text(row, "place"), text(row, "reason"))));
    let told = list("flaws").count() as u64;
    if let Some(more) = report["flawed"].as_u64().and_then(|all| all.checked_sub(told)).filter(|more| *more > 0) {
        lines.push(format!("left out: {more} more"));
    }
    lines.push(if is_done { "done".to_owned() } else { "nothing was changed: this was a dry run".to_owned() });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_few_lines() {
        let mut report = json!({
            "imported": true,
            "projects": [{
                "tenant": "acme", "project": "web\n", "patterns": { "found": 3, "new": 2 },
                "vectors": { "found": 2, "usable": 0 }, "tagged": 1, "feedback": 0, "runs": 7,
                "keys": { "found": 1, "new": 1 },
            }],
            "carried": [{ "table": "usage_counters", "found": 4, "new": 0 }],
            "deleted": [{ "tenant": "acme", "project": "old" }],
            "flawed": 3,
            "flaws": [{ "place": "patterns/x", "reason": "task: Field required" }],
        });
        let expected = [
            "acme/web  patterns 3 (2 new)  vectors 2 (0 usable)  tagged 1  feedback 0  runs 7  keys 1 (1 new)",
            "usage_counters  rows 4 (0 new)",
            "acme/old  left out: deleted",
            "left out: patterns/x: task: Field required",
            "left out: 2 more",
            "done",
        ];
        assert_eq!(lines(&report), expected);
        report["imported"] = json!(false);
        assert!(lines(&report)[0].starts_with("acme/web  patterns 3  vectors"));
    }
}
