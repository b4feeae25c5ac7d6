//! The whole server in this process, on a port of its own.

use std::net::SocketAddr;

use anyhow::Context;
use engramia::app::{App, Overrides};
use engramia::config::Config;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// The key of every client.
pub const KEY: &str = "bench-key-0123456789abcdef";

/// A running server.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    app: App,
    _root: TempDir,
}

impl Server {
    /// Starts one with the built-in model and no limits; `settings` take the place of the defaults.
    pub async fn start(settings: Vec<(String, String)>) -> anyhow::Result<Self> {
        let root = tempfile::tempdir()?;
        let defaults = [
            ("ENGRAMIA_DATA_PATH", root.path().to_str().context("a path of text")?),
            ("ENGRAMIA_API_KEYS", KEY),
            ("ENGRAMIA_AUTH_MODE", "env"),
            ("ENGRAMIA_LOCAL_EMBEDDINGS", "1"),
            ("ENGRAMIA_LLM_PROVIDER", "none"),
            ("ENGRAMIA_RATE_LIMIT_DEFAULT", "1000000000"),
            ("ENGRAMIA_RATE_LIMIT_PER_KEY", "1000000000"),
        ];
        let defaults = defaults.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::load(defaults.into_iter().chain(settings))?.config;
        let app = App::start(config, Overrides::default()).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let service = app.router.clone().into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        Ok(Self { address, app, _root: root })
    }

    /// Stops it.
    pub async fn stop(self) {
        self.app.shutdown().await;
    }
}
