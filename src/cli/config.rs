//! `engramia config`: checks the configuration, and prints the files that are generated from the settings table.

use clap::Subcommand;
use serde_json::json;

use super::failure::Failure;
use super::output;
use crate::config::{self, Config, Findings, Loaded};

/// What to do with the configuration.
#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  engramia config check
  engramia config env > .env.example")]
pub enum ConfigVerb {
    /// Read the environment as the server would, and say what is wrong
    Check,
    /// Print every setting as a commented `.env` file
    Env,
    /// Print every setting as Markdown tables
    Table,
}

/// Runs the verb.
pub fn run(verb: &ConfigVerb, json: bool) -> anyhow::Result<()> {
    match verb {
        ConfigVerb::Check => check(Config::from_env(), json),
        ConfigVerb::Env => Ok(output::line(config::env_example().trim_end())?),
        ConfigVerb::Table => Ok(output::line(config::markdown_table().trim_end())?),
    }
}

fn check(loaded: Result<Loaded, Findings>, json: bool) -> anyhow::Result<()> {
    let (warnings, findings) = match loaded {
        Ok(loaded) => (loaded.warnings, Vec::new()),
        Err(findings) => (Vec::new(), findings.to_string().lines().map(str::to_owned).collect()),
    };
    let ok = findings.is_empty();
    if json {
        output::json(&json!({ "ok": ok, "warnings": warnings, "findings": findings }))?;
    } else {
        for (kind, lines) in [("warning", &warnings), ("error", &findings)] {
            for line in lines {
                output::line(&format!("{kind}: {line}"))?;
            }
        }
        if ok {
            output::line("the configuration is valid")?;
        }
    }
    if ok { Ok(()) } else { Err(Failure::Reported.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_configuration_fails() {
        let load = |port: &str| Config::load([("ENGRAMIA_PORT".to_owned(), port.to_owned())]);
        assert!(check(load("80"), true).is_ok());
        let error = check(load("x"), true).expect_err("invalid");
        assert!(matches!(error.downcast_ref(), Some(Failure::Reported)));
    }
}
