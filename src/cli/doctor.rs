//! `engramia doctor`: what is wrong with this installation, and what to do about it.

use clap::Args;
use serde_json::{Value, json};

use super::client::LOG_FILTER;
use super::failure::Failure;
use super::{interruptible, output};
use crate::app::doctor::{self, Finding, State};
use crate::config::{Config, Loaded};
use crate::telemetry::logs;

/// How far to look.
#[derive(Args)]
#[command(after_help = "\
Reads the configuration as the server would, tries the disk, and reads the whole store once; a running server is not \
disturbed, and nothing is changed.

Examples:
  engramia doctor
  engramia doctor --offline --json

Exit codes: 0 when nothing failed (warnings are no failures), 1 when something did.")]
pub struct DoctorArgs {
    /// Ask none of the configured services
    #[arg(long)]
    offline: bool,
}

/// Runs the verb.
pub fn run(args: &DoctorArgs, json: bool) -> anyhow::Result<()> {
    let (config, mut found) = match Config::from_env() {
        Ok(Loaded { config, warnings }) => (Some(config), configuration(State::Warning, warnings)),
        Err(findings) => (None, configuration(State::Failed, findings.to_string().lines().map(str::to_owned))),
    };
    logs::start(false, LOG_FILTER)?;
    if let Some(config) = config {
        interruptible(async {
            found.extend(doctor::examine(&config, args.offline).await?);
            Ok(())
        })?;
    }
    let worst = found.iter().map(|finding| finding.state).max_by_key(|state| severity(*state)).unwrap_or(State::Ok);
    if json {
        let checks: Vec<_> = found.iter().map(check).collect();
        output::json(&json!({ "status": worst.as_str(), "checks": checks }))?;
    } else {
        for finding in &found {
            output::line(&format!("{:8} {:14} {}", finding.state.as_str(), finding.name, finding.detail))?;
            if !finding.advice.is_empty() {
                output::line(&format!("{:24}-> {}", "", finding.advice))?;
            }
        }
    }
    if worst == State::Failed { Err(Failure::Reported.into()) } else { Ok(()) }
}

/// One finding for each line, or one that says that all is well.
fn configuration(state: State, lines: impl IntoIterator<Item = String>) -> Vec<Finding> {
    let advice = "`engramia config table` lists every setting";
    let finding = |state, detail, advice| Finding { name: "configuration", state, detail, advice };
    let found: Vec<_> = lines.into_iter().map(|line| finding(state, line, advice)).collect();
    if found.is_empty() { vec![finding(State::Ok, "valid".to_owned(), "")] } else { found }
}

/// What was skipped is no worse than what is well.
fn severity(state: State) -> u8 {
    match state {
        State::Skipped => 0,
        State::Ok => 1,
        State::Warning => 2,
        State::Failed => 3,
    }
}

fn check(finding: &Finding) -> Value {
    let Finding { name, state, detail, advice } = finding;
    let mut check = json!({ "name": name, "status": state.as_str(), "detail": detail });
    if !advice.is_empty() {
        check["advice"] = json!(advice);
    }
    check
}
