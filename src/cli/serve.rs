//! `engramia serve`: the server, its signals, and an ordered end.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use axum::serve::ListenerExt;
use clap::Args;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::failure::Failure;
use super::output;
use crate::app::{App, Overrides};
use crate::config::{AuthMode, Config, Loaded, Server, Storage};
use crate::telemetry::logs;
use crate::telemetry::traces::Traces;

/// Where to listen; the rest is in the environment.
#[derive(Args, Default)]
#[command(after_help = "\
Examples:
  engramia serve
  ENGRAMIA_DATA_PATH=/var/lib/engramia engramia serve --host 0.0.0.0 --port 8080
  engramia serve --worker --port 8001

`engramia config env` prints every setting.")]
pub struct ServeArgs {
    /// Address to listen on instead of ENGRAMIA_HOST
    #[arg(long, value_name = "ADDRESS")]
    host: Option<IpAddr>,
    /// Port to listen on instead of ENGRAMIA_PORT; 0 takes any free port
    #[arg(long)]
    port: Option<u16>,
    /// Serve the API and leave jobs to other processes; with --worker both, as without either
    #[arg(long)]
    web: bool,
    /// Work on jobs and serve nothing but /livez, /readyz and /metrics; needs PostgreSQL
    #[arg(long)]
    worker: bool,
}

/// Serves until SIGINT or SIGTERM.
pub fn run(args: &ServeArgs, json: bool) -> anyhow::Result<()> {
    let Loaded { mut config, warnings } = Config::from_env().context("the configuration is wrong")?;
    listen_at(&mut config, args)?;
    divide_work(&mut config, args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let telemetry = config.telemetry.clone();
    let traces = telemetry.traces.as_ref().map(|settings| runtime.block_on(async { Traces::start(settings) }));
    let traces = traces.transpose()?;
    let _logging = logs::serve(telemetry.json_logs, &telemetry.log_filter, traces.as_ref())?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    runtime.block_on(async {
        let outcome = serve(config, json).await;
        if let Some(traces) = traces {
            traces.finish().await;
        }
        match outcome {
            // Whoever reads the log as JSON reads this, too, unless the filter leaves it out.
            Err(error) if telemetry.json_logs && tracing::enabled!(tracing::Level::ERROR) => {
                tracing::error!("{error:#}");
                Err(Failure::Reported.into())
            }
            outcome => outcome,
        }
    })
}

/// Puts the flags above the environment.
fn listen_at(config: &mut Config, args: &ServeArgs) -> anyhow::Result<()> {
    let Server { host, port, .. } = &mut config.server;
    if let Some(wanted) = args.host {
        // The environment was judged with its own address: whether others may enter without a key is decided there.
        let exposes = matches!(config.auth.mode, AuthMode::Open) && host.is_loopback() && !wanted.is_loopback();
        anyhow::ensure!(!exposes, "--host {wanted}: without authentication set ENGRAMIA_HOST instead");
        *host = wanted;
    }
    *port = args.port.unwrap_or(*port);
    Ok(())
}

/// Who only serves or only works does not do the other.
fn divide_work(config: &mut Config, args: &ServeArgs) -> anyhow::Result<()> {
    let one_alone = args.web != args.worker;
    anyhow::ensure!(
        !(one_alone && args.worker && matches!(config.storage, Storage::Embedded { .. })),
        "--worker: only one process can open the embedded store, and it does both; set ENGRAMIA_DATABASE_URL"
    );
    if one_alone {
        (config.server.web, config.jobs.worker) = (args.web, args.worker);
    }
    Ok(())
}

async fn serve(config: Config, json: bool) -> anyhow::Result<()> {
    let Server { host, port, shutdown_grace, .. } = config.server.clone();
    let listener = TcpListener::bind(SocketAddr::new(host, port))
        .await
        .with_context(|| format!("listening on {host}:{port} (ENGRAMIA_HOST, ENGRAMIA_PORT)"))?;
    let address = listener.local_addr()?;
    let app = App::start(config, Overrides::default()).await?;
    announce(&app, address, json)?;

    let (stop, stopped) = watch::channel(false);
    let listener = listener.tap_io(|stream| {
        // Answers are small: waiting to fill a packet would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
    });
    let service = app.router.clone().into_make_service_with_connect_info::<SocketAddr>();
    let mut told = stopped.clone();
    let server = axum::serve(listener, service).with_graceful_shutdown(async move {
        drop(told.wait_for(|stop| *stop).await);
    });
    let serving = tokio::spawn(async move { server.await });
    end_of_service().await?;
    tracing::info!("stopping: finishing requests under way");
    stop.send_replace(true);
    let requests = async {
        if tokio::time::timeout(shutdown_grace, serving).await.is_err() {
            tracing::warn!("some requests did not finish in time");
        }
    };
    tokio::join!(requests, app.finish_jobs(shutdown_grace));
    app.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

async fn end_of_service() -> std::io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// One line for the log; on the very first start also what a person needs to begin.
fn announce(app: &App, address: SocketAddr, json: bool) -> std::io::Result<()> {
    tracing::info!(embedding = app.embedding, "listening on http://{address}");
    let first_key = app.first_key.as_ref().map(ExposeSecret::expose_secret);
    if json {
        let url = format!("http://{address}");
        return output::json(&json!({ "url": url, "embedding": app.embedding, "first_key": first_key }));
    }
    first_key.map_or(Ok(()), |key| output::line(&welcome(key, address)))
}

fn welcome(key: &str, address: SocketAddr) -> String {
    let post = |path: &str, body: &str| {
        format!("  curl -s http://{address}{path} -H \"Authorization: Bearer $ENGRAMIA_API_KEY\" \\\n    -d '{body}'\n")
    };
    let learn = post(
        "/v1/learn",
        r#"{"task": "Parse a CSV file and compute statistics", "code": "import csv, statistics", "eval_score": 8.5}"#,
    );
    let recall = post("/v1/recall", r#"{"task": "Read CSV and calculate averages"}"#);
    format!(
        "This is the first start: here is your owner key. It is shown once and kept in the data directory.\n\n  \
         export ENGRAMIA_API_KEY={key}\n\nRemember something that worked:\n\n{learn}\nFind it again:\n\n{recall}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Config {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(vars).expect("valid").config
    }

    #[test]
    fn flags_win_but_never_open_the_door() {
        let everywhere = ServeArgs { host: "0.0.0.0".parse().ok(), port: Some(1), ..ServeArgs::default() };
        let mut closed = config(&[("ENGRAMIA_PORT", "81")]);
        listen_at(&mut closed, &ServeArgs::default()).expect("nothing to do");
        assert_eq!(closed.server.port, 81);
        listen_at(&mut closed, &everywhere).expect("keys are asked for");
        assert!(closed.server.host.is_unspecified() && closed.server.port == 1);
        let mut open = config(&[("ENGRAMIA_AUTH_MODE", "dev"), ("ENGRAMIA_ALLOW_NO_AUTH", "true")]);
        assert!(listen_at(&mut open, &everywhere).is_err());
        assert!(open.server.host.is_loopback());
    }

    #[test]
    fn a_process_does_both_or_one_of_two() {
        let divided = |vars: &[(&str, &str)], web, worker| {
            let mut config = config(vars);
            divide_work(&mut config, &ServeArgs { web, worker, ..ServeArgs::default() })?;
            anyhow::Ok((config.server.web, config.jobs.worker))
        };
        let shared = [("ENGRAMIA_DATABASE_URL", "postgres://db/x")];
        for (web, worker) in [(true, false), (false, true)] {
            assert_eq!(divided(&shared, web, worker).expect("one"), (web, worker));
        }
        for vars in [&shared[..], &[]] {
            assert_eq!(divided(vars, false, false).expect("both"), (true, true));
            assert_eq!(divided(vars, true, true).expect("both"), (true, true));
        }
        assert_eq!(divided(&[], true, false).expect("jobs wait for a later start"), (true, false));
        assert!(divided(&[], false, true).is_err_and(|error| error.to_string().starts_with("--worker: ")));
    }

    #[test]
    fn the_welcome_holds_the_key_and_two_requests() {
        let text = welcome("engramia_sk_x", "127.0.0.1:8000".parse().expect("an address"));
        assert!(text.contains("ENGRAMIA_API_KEY=engramia_sk_x"));
        assert!(text.contains("http://127.0.0.1:8000/v1/learn") && text.contains("/v1/recall"));
    }
}
