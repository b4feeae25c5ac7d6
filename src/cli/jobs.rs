//! `engramia jobs`: lists, shows and cancels operations that run in the background.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use super::client::Client;
use super::output::{self, one_line};
use super::{Global, with_client};
use crate::domain::JobState;

/// What to do with jobs.
#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  engramia jobs list --status failed
  engramia jobs show 0199b944-dce4-782b-abe6-180903639479
  engramia jobs cancel 0199b944-dce4-782b-abe6-180903639479")]
pub enum JobsVerb {
    /// List the jobs of the project, the newest first
    List(ListArgs),
    /// Show a job with its result
    Show(JobArgs),
    /// Cancel a job that is pending or running
    Cancel(JobArgs),
}

/// Which jobs.
#[derive(Args)]
pub struct ListArgs {
    /// Only jobs in this state
    #[arg(long, value_parser = PossibleValuesParser::new(JobState::WORDS))]
    status: Option<String>,
    /// Most jobs to show, up to 100
    #[arg(long, default_value_t = 20)]
    limit: u32,
}

/// Which job.
#[derive(Args)]
pub struct JobArgs {
    /// Its id, as `engramia jobs list` shows it
    id: Uuid,
}

/// Runs the verb.
pub fn run(verb: JobsVerb, global: &Global) -> anyhow::Result<()> {
    let json = global.json;
    match verb {
        JobsVerb::List(args) => with_client(global, async |client| list(client, &args, json).await),
        JobsVerb::Show(JobArgs { id }) => with_client(global, async |client| {
            let job = client.get(&format!("/v1/jobs/{id}")).await?;
            if json {
                output::json(&job)?
            } else {
                output::line(&whole(&job))?
            }
            Ok(())
        }),
        JobsVerb::Cancel(JobArgs { id }) => with_client(global, async |client| {
            let answer = client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await?;
            if json {
                output::json(&answer)?;
                return Ok(());
            }
            anyhow::ensure!(answer["cancelled"] == true, "there is no such job, or it came to its end before");
            output::line(&format!("cancelled {id}"))?;
            Ok(())
        }),
    }
}

async fn list(client: &Client, args: &ListArgs, json: bool) -> anyhow::Result<()> {
    let status = args.status.as_ref().map(|word| format!("&status={word}")).unwrap_or_default();
    let answer = client.get(&format!("/v1/jobs?limit={}{status}", args.limit)).await?;
    if json {
        output::json(&answer)?;
        return Ok(());
    }
    for job in answer["jobs"].as_array().into_iter().flatten() {
        output::fitting(&row(job))?;
    }
    Ok(())
}

fn row(job: &Value) -> String {
    let text = |name: &str| one_line(job[name].as_str().unwrap_or("-"));
    let error = job["error"].as_str().map(|error| format!("  {}", one_line(error))).unwrap_or_default();
    format!("{}  {:<9}  {:<17}  {}{error}", text("id"), text("status"), text("operation"), text("created_at"))
}

/// A job in several lines.
fn whole(job: &Value) -> String {
    let names =
        ["id", "operation", "status", "attempts", "created_at", "started_at", "completed_at", "error", "result"];
    let lines = names.into_iter().filter(|name| !job[name].is_null()).map(|name| {
        let value = job[name].as_str().map_or_else(|| job[name].to_string(), one_line);
        format!("{name:<12}  {value}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_one_row_or_a_few_lines() {
        let mut job = json!({"id": "i", "status": "pending", "operation": "aging", "created_at": "t", "error": null,
            "result": null, "attempts": 0});
        assert_eq!(row(&job), "i  pending    aging              t");
        job["error"] = json!("Kind: a\nb");
        job["result"] = json!({"pruned": 0});
        assert!(row(&job).ends_with("t  Kind: a b"));
        let lines = whole(&job);
        assert!(lines.contains("attempts      0") && lines.ends_with("result        {\"pruned\":0}"), "{lines}");
    }
}
