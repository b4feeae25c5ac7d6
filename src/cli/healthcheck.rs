//! `engramia healthcheck`: whether the server on this machine is ready. For containers: it needs no key and no other
//! program.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::{client, output};
use crate::config::{Config, Loaded};

/// Time for the whole check; the image gives it a little more.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Where the server listens.
#[derive(Args)]
#[command(after_help = "\
Example:
  engramia healthcheck

Asks /readyz of the server at ENGRAMIA_HOST and ENGRAMIA_PORT. Exit code 0 when it is ready, else 1.")]
pub struct HealthArgs {
    /// Port of a server that was started with --port
    #[arg(long)]
    port: Option<u16>,
}

/// Runs the verb.
pub async fn run(args: &HealthArgs, json: bool) -> anyhow::Result<()> {
    let Loaded { mut config, .. } = Config::from_env().context("the configuration is wrong")?;
    config.server.port = args.port.unwrap_or(config.server.port);
    let base = client::local_base(Some(&config.server)).context("ENGRAMIA_PORT=0 names no port: say it with --port")?;
    // A proxy for outbound calls knows nothing of this machine.
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
    let answer = client.get(format!("{base}readyz")).send().await;
    // Its exit code is 1 as for every other answer: Docker keeps the others for itself.
    let answer = answer.map_err(|error| anyhow::anyhow!(client::unreachable(base.to_string(), &error).to_string()))?;
    let status = answer.status();
    anyhow::ensure!(status.is_success(), "not ready: {base} answers {status}");
    if json {
        return Ok(output::json(&json!({ "ready": true, "url": base.as_str() }))?);
    }
    Ok(output::line(&format!("ready at {base}"))?)
}
