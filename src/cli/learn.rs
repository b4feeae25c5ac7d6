//! `engramia learn`.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::json;

use super::client::{Client, without_nulls};
use super::failure::Failure;
use super::input::{number, read_text};
use super::output::{self, one_line};
use crate::domain::{Classification, Source};

/// A run to remember.
#[derive(Args)]
#[command(after_help = "\
Examples:
  engramia learn --task 'Parse a CSV file' --code parse.py --score 8.5
  git show HEAD:fix.patch | engramia learn --task 'Fix the flaky test' --code - --score 9")]
pub struct LearnArgs {
    /// What was to be done
    #[arg(long)]
    task: String,
    #[command(flatten)]
    code: Code,
    /// Quality of the run, 0 to 10
    #[arg(long, value_parser = number)]
    score: f64,
    /// File with the captured output; `-` for standard input
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Your own id of the run
    #[arg(long)]
    run_id: Option<String>,
    /// Sensitivity
    #[arg(long, value_parser = PossibleValuesParser::new(Classification::WORDS))]
    classification: Option<String>,
    /// Origin
    #[arg(long, value_parser = PossibleValuesParser::new(Source::WORDS), default_value = Source::Cli.as_str())]
    source: String,
}

/// The solution, given in one of two ways.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Code {
    /// File with the solution; `-` for standard input
    #[arg(long, value_name = "FILE")]
    code: Option<PathBuf>,
    /// The solution itself
    #[arg(long, value_name = "TEXT")]
    code_text: Option<String>,
}

/// Runs the verb.
pub async fn run(client: &Client, args: LearnArgs, json: bool) -> anyhow::Result<()> {
    let is_input = |path: &Option<PathBuf>| path.as_deref() == Some(Path::new("-"));
    if is_input(&args.code.code) && is_input(&args.output) {
        return Err(Failure::Usage("--code and --output cannot both be standard input").into());
    }
    let code = match (args.code.code, args.code.code_text) {
        (Some(path), _) => read_text(&path)?,
        (None, text) => text.unwrap_or_default(),
    };
    let output = args.output.as_deref().map(read_text).transpose()?;
    let body = without_nulls(json!({
        "task": args.task,
        "code": code,
        "eval_score": args.score,
        "output": output,
        "run_id": args.run_id,
        "classification": args.classification,
        "source": args.source,
    }));
    let answer = client.post("/v1/learn", &body).await?;
    if json {
        output::json(&answer)?;
        return Ok(());
    }
    let outcome = if answer["stored"] == true { "stored" } else { "known already" };
    let key = one_line(answer["pattern_key"].as_str().unwrap_or_default());
    output::line(&format!("{outcome}  {key}  (patterns: {})", answer["pattern_count"]))?;
    Ok(())
}
