//! `engramia recall`.

use std::io::Write;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, without_nulls};
use super::input::number;
use super::output::{self, one_line};
use crate::domain::{Classification, Source};

/// A task to find patterns for.
#[derive(Args)]
#[command(after_help = "\
Examples:
  engramia recall 'Read CSV and compute averages'
  engramia recall 'Read CSV and compute averages' --min-confidence 0.5 --code > solution.py

Each line: similarity, what to do with the pattern (duplicate: use it; adapt: change it; fresh: context only), \
confidence that it serves the task, key, task. What went wrong at such tasks before is said on standard error.")]
pub struct RecallArgs {
    /// The task at hand
    task: String,
    /// Most matches, 1 to 50 [default: 5]
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// Only patterns whose run scored at least this, 0 to 10
    #[arg(long, value_name = "SCORE", value_parser = number)]
    min_score: Option<f64>,
    /// Only matches at least this similar, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = number)]
    min_similarity: Option<f64>,
    /// Only matches that serve the task with at least this probability, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = number)]
    min_confidence: Option<f64>,
    /// Only this sensitivity
    #[arg(long, value_parser = PossibleValuesParser::new(Classification::WORDS))]
    classification: Option<String>,
    /// Only this origin
    #[arg(long, value_parser = PossibleValuesParser::new(Source::WORDS))]
    source: Option<String>,
    /// Let keywords count beside the meaning
    #[arg(long)]
    hybrid: bool,
    /// Show how each rank came about
    #[arg(long)]
    explain: bool,
    /// Do not count this as a reuse
    #[arg(long)]
    readonly: bool,
    /// Show near-duplicate tasks too
    #[arg(long)]
    no_deduplicate: bool,
    /// Print the code of the best match and nothing else
    #[arg(long, conflicts_with_all = ["explain", "json"])]
    code: bool,
}

#[derive(Deserialize)]
struct Answer {
    matches: Vec<Match>,
    #[serde(default)]
    warnings: Vec<Warning>,
}

#[derive(Deserialize)]
struct Warning {
    issue: String,
    count: u32,
    avg_score: Option<f64>,
}

#[derive(Deserialize)]
struct Match {
    similarity: f64,
    reuse_tier: String,
    pattern_key: String,
    pattern: Pattern,
    confidence: Option<f64>,
    explain: Option<Explanation>,
}

#[derive(Deserialize)]
struct Pattern {
    task: String,
    code: Option<String>,
}

#[derive(Deserialize)]
struct Explanation {
    similarity: f64,
    keyword: f64,
    keyword_weight: f64,
    quality: f64,
    recency: f64,
    effective_score: f64,
}

/// Runs the verb.
pub async fn run(client: &Client, args: RecallArgs, json: bool) -> anyhow::Result<()> {
    let body = without_nulls(json!({
        "task": args.task,
        "limit": if args.code { Some(1) } else { args.limit },
        "min_score": args.min_score,
        "min_similarity": args.min_similarity,
        "min_confidence": args.min_confidence,
        "classification": args.classification,
        "source": args.source,
        "hybrid": args.hybrid,
        "explain": args.explain,
        "readonly": args.readonly,
        "deduplicate": !args.no_deduplicate,
    }));
    let answer = client.post("/v1/recall", &body).await?;
    if json {
        output::json(&answer)?;
        return Ok(());
    }
    let Answer { matches, warnings } = serde_json::from_value(answer)?;
    // Beside the matches, which a program may read.
    for found in &warnings {
        eprintln!("{}", warning(found));
    }
    if args.code {
        return print_code(matches.first());
    }
    if matches.is_empty() {
        eprintln!("no pattern matches");
    }
    for found in &matches {
        output::fitting(&summary(found))?;
        if let Some(explanation) = &found.explain {
            output::line(&parts(explanation))?;
        }
    }
    Ok(())
}

/// The code byte for byte; a terminal gets its line ended.
fn print_code(best: Option<&Match>) -> anyhow::Result<()> {
    let Some(best) = best else { anyhow::bail!("no pattern matches") };
    let Some(code) = &best.pattern.code else { anyhow::bail!("{} holds no code", one_line(&best.pattern_key)) };
    let mut out = std::io::stdout().lock();
    out.write_all(code.as_bytes())?;
    if output::is_terminal() && !code.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

fn summary(found: &Match) -> String {
    let Match { similarity, reuse_tier, pattern_key, pattern, confidence, .. } = found;
    let confidence = confidence.map(|share| format!("confidence {share:.2}  ")).unwrap_or_default();
    let (tier, key, task) = (one_line(reuse_tier), one_line(pattern_key), one_line(&pattern.task));
    format!("{similarity:.2} {tier:<9}  {confidence}{key}  {task}")
}

fn warning(found: &Warning) -> String {
    let score = found.avg_score.map(|score| format!(", {score:.1} of 10")).unwrap_or_default();
    format!("warning: {} times at such tasks{score}: {}", found.count, one_line(&found.issue))
}

fn parts(of: &Explanation) -> String {
    format!(
        "     = ({:.3} similarity + {:.3} keywords x {:.2}) x {:.3} quality x {:.3} recency = {:.3}",
        of.similarity, of.keyword, of.keyword_weight, of.quality, of.recency, of.effective_score
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(confidence: Option<f64>) -> Match {
        let pattern = json!({"task": "Parse\nCSV", "code": null, "success_score": 8.0, "reuse_count": 0});
        let found = json!({"similarity": 0.912, "reuse_tier": "adapt", "pattern_key": "patterns/x_1",
            "pattern": pattern, "confidence": confidence});
        serde_json::from_value(found).expect("a match")
    }

    #[test]
    fn a_match_is_one_line() {
        assert_eq!(summary(&found(None)), "0.91 adapt      patterns/x_1  Parse CSV");
        assert_eq!(summary(&found(Some(0.873))), "0.91 adapt      confidence 0.87  patterns/x_1  Parse CSV");
    }

    #[test]
    fn a_warning_is_one_line() {
        let mut found = Warning { issue: "No\ntimeout".into(), count: 3, avg_score: Some(4.25) };
        assert_eq!(warning(&found), "warning: 3 times at such tasks, 4.2 of 10: No timeout");
        found.avg_score = None;
        assert_eq!(warning(&found), "warning: 3 times at such tasks: No timeout");
    }

    #[test]
    fn code_that_is_not_there_is_a_failure() {
        assert!(print_code(None).is_err());
        assert!(print_code(Some(&found(None))).is_err());
    }
}
