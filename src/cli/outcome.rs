//! `engramia outcome`.

use clap::Args;
use serde_json::json;

use super::client::{Client, without_nulls};
use super::input::number;
use super::output::{self, one_line};

/// What came of using a pattern.
#[derive(Args)]
#[command(after_help = "\
Examples:
  engramia outcome patterns/0be2046e_1795319203747 --success
  engramia outcome patterns/0be2046e_1795319203747 --failure --note 'the API has moved' --run-id run-17")]
pub struct OutcomeArgs {
    /// Key of the pattern, as `engramia recall` shows it
    #[arg(value_name = "PATTERN_KEY")]
    pattern: String,
    #[command(flatten)]
    verdict: Verdict,
    /// How well it went, 0 to 10 [default: 10 for a success, 0 for a failure]
    #[arg(long, value_parser = number)]
    score: Option<f64>,
    /// Your own id of the run; one run counts once
    #[arg(long)]
    run_id: Option<String>,
    /// What was remarked, such as the error
    #[arg(long)]
    note: Option<String>,
    /// You know better than everything that was seen before
    #[arg(long)]
    correction: bool,
}

/// One of two.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Verdict {
    /// It served its purpose
    #[arg(long)]
    success: bool,
    /// It did not
    #[arg(long)]
    failure: bool,
}

/// Runs the verb.
pub async fn run(client: &Client, args: OutcomeArgs, json: bool) -> anyhow::Result<()> {
    let body = without_nulls(json!({
        "success": args.verdict.success,
        "score": args.score,
        "run_id": args.run_id,
        "note": args.note,
        "correction": args.correction.then_some(true),
    }));
    let key: String = url::form_urlencoded::byte_serialize(args.pattern.as_bytes()).collect();
    let answer = client.post(&format!("/v1/patterns/{}/outcome", key.replace('+', "%20")), &body).await?;
    if json {
        output::json(&answer)?;
        return Ok(());
    }
    let outcome = if answer["recorded"] == true { "recorded" } else { "known already" };
    let key = one_line(answer["pattern_key"].as_str().unwrap_or_default());
    let line = format!("{outcome}  {key}  quality {}  (evidence: {})", answer["quality"], answer["evidence"]["count"]);
    output::line(&line)?;
    Ok(())
}
