//! `engramia audit`: shows what was done, and checks that nobody has changed the record of it.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Client;
use super::direct;
use super::failure::Failure;
use super::output::{self, one_line};
use super::{Global, with_client};

/// What to do with the audit log.
#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  engramia audit list --action key_created --limit 20
  engramia audit verify")]
pub enum AuditVerb {
    /// Show the events of the project, the newest first
    List(ListArgs),
    /// Check the log of every tenant in the configured store itself; a running server must be stopped if it holds the
    /// embedded store
    Verify,
}

/// Which events.
#[derive(Args)]
pub struct ListArgs {
    /// Most events to show, up to 1000
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// At or after this time, such as 2026-04-04T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only this action
    #[arg(long)]
    action: Option<String>,
    /// Only what this key did
    #[arg(long, value_name = "ID")]
    actor: Option<String>,
    /// `next_cursor` of the page before, as --json shows it
    #[arg(long)]
    cursor: Option<String>,
}

/// Runs the verb.
pub fn run(verb: AuditVerb, global: &Global) -> anyhow::Result<()> {
    let json = global.json;
    match verb {
        AuditVerb::List(args) => with_client(global, async |client| list(client, &args, json).await),
        AuditVerb::Verify => direct::run(async |store| {
            let reports = store.verify_audit().await?;
            let whole = reports.iter().all(|report| report.broken.is_none());
            let rows = reports.iter().map(|report| {
                let (broken, reason) = report.broken.unzip();
                json!({ "tenant": report.tenant, "entries": report.entries, "ok": report.broken.is_none(),
                    "broken": broken, "reason": reason })
            });
            show_reports(rows.collect(), whole, json)?;
            if whole { Ok(()) } else { Err(Failure::Reported.into()) }
        }),
    }
}

async fn list(client: &Client, args: &ListArgs, json: bool) -> anyhow::Result<()> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &args.limit.to_string());
    let filters = [
        ("since", &args.since),
        ("until", &args.until),
        ("action", &args.action),
        ("actor", &args.actor),
        ("cursor", &args.cursor),
    ];
    query.extend_pairs(filters.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))));
    let answer = client.get(&format!("/v1/audit?{}", query.finish())).await?;
    if json {
        output::json(&answer)?;
        return Ok(());
    }
    for event in answer["events"].as_array().into_iter().flatten() {
        output::fitting(&row(event))?;
    }
    Ok(())
}

fn row(event: &Value) -> String {
    let text = |name: &str| one_line(event[name].as_str().unwrap_or("-"));
    let detail = if event["detail"].is_null() { String::new() } else { one_line(&event["detail"].to_string()) };
    let about = match &event["resource_id"] {
        Value::String(id) => format!("{} {}", text("resource_type"), one_line(id)),
        _ => "-".to_owned(),
    };
    format!(
        "{}  {:<15}  by {}  from {}  {about}  {detail}",
        text("timestamp"),
        text("action"),
        text("actor"),
        text("ip")
    )
}

fn show_reports(reports: Vec<Value>, whole: bool, json: bool) -> anyhow::Result<()> {
    if json {
        output::json(&json!({ "ok": whole, "tenants": reports }))?;
        return Ok(());
    }
    if reports.is_empty() {
        output::line("the audit log is empty")?;
    }
    for report in reports {
        output::line(&verdict(&report))?;
    }
    Ok(())
}

fn verdict(report: &Value) -> String {
    let tenant = one_line(report["tenant"].as_str().unwrap_or_default());
    let result = match report["reason"].as_str() {
        None => "whole".to_owned(),
        Some(reason) => format!("BROKEN at entry {}: {reason}", report["broken"]),
    };
    format!("{tenant}  entries {}  {result}", report["entries"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_verdicts_are_rows() {
        let mut event = json!({"timestamp": "T", "action": "bulk_import", "actor": "a\n", "ip": null, "detail": null});
        assert_eq!(row(&event).trim_end(), "T  bulk_import      by a  from -  -");
        event["resource_type"] = json!("api_key");
        event["resource_id"] = json!("k");
        event["detail"] = json!({"total": 2});
        assert_eq!(row(&event), "T  bulk_import      by a  from -  api_key k  {\"total\":2}");
        let mut report = json!({"tenant": "acme", "entries": 3, "broken": null, "reason": null});
        assert_eq!(verdict(&report), "acme  entries 3  whole");
        report["broken"] = json!(4);
        report["reason"] = json!("it was changed");
        assert_eq!(verdict(&report), "acme  entries 3  BROKEN at entry 4: it was changed");
    }
}
