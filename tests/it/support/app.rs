//! An application on a temporary directory, configured as a test wants it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use engramia::app::{App, Overrides};
use engramia::compute::ComputePool;
use engramia::config::Config;
use engramia::ports::{Clock, Embedder};
use engramia::store::Store;
use engramia::store::sqlite::SqliteStore;
use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::fakes::{BagOfWords, space};
use super::people::Person;

/// The static key of every test application.
pub const KEY: &str = "it-key-0123456789";

/// How an application is to be started.
pub struct Setup {
    vars: Vec<(String, String)>,
    overrides: Overrides,
    root: TempDir,
}

impl Setup {
    /// Static key with the role of an owner, cheap embedder, no limits that a test could run into by accident.
    pub fn new() -> Self {
        Self::on(tempfile::tempdir().expect("a temporary directory"))
    }

    /// The same on a directory that is there already.
    pub fn on(root: TempDir) -> Self {
        let overrides = Overrides { embedder: Some(Arc::new(BagOfWords)), ..Overrides::default() };
        let setup = Self { vars: Vec::new(), overrides, root };
        ["ENGRAMIA_RATE_LIMIT_DEFAULT", "ENGRAMIA_RATE_LIMIT_EXPENSIVE", "ENGRAMIA_RATE_LIMIT_PER_KEY"]
            .into_iter()
            .fold(setup, |setup, name| setup.var(name, "1000000"))
            .var("ENGRAMIA_AUTH_MODE", "env")
            .var("ENGRAMIA_API_KEYS", KEY)
            .var("ENGRAMIA_COMPUTE_THREADS", "1")
    }

    /// Sets a variable; an empty value unsets it.
    pub fn var(mut self, name: &str, value: &str) -> Self {
        self.vars.retain(|(known, _)| known != name);
        self.vars.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Role of the static key.
    pub fn role(self, role: &str) -> Self {
        self.var("ENGRAMIA_ENV_AUTH_ROLE", role)
    }

    /// Keys in the store instead of the static key.
    pub fn stored_keys(self) -> Self {
        self.var("ENGRAMIA_AUTH_MODE", "db").var("ENGRAMIA_API_KEYS", "")
    }

    /// Nobody is asked for a key.
    pub fn open(self) -> Self {
        self.var("ENGRAMIA_API_KEYS", "").var("ENGRAMIA_ALLOW_NO_AUTH", "true")
    }

    /// Another embedder.
    pub fn embedder(mut self, embedder: Arc<dyn Embedder>) -> Self {
        self.overrides.embedder = Some(embedder);
        self
    }

    /// The embedder that the configuration names.
    pub fn configured_embedder(mut self) -> Self {
        self.overrides.embedder = None;
        self
    }

    /// Another clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.overrides.clock = Some(clock);
        self
    }

    /// Writes into the store before the application opens it.
    pub async fn prepare(self, write: impl AsyncFnOnce(&SqliteStore)) -> Self {
        let compute = Arc::new(ComputePool::start(1, 16).expect("a thread"));
        let store = SqliteStore::open(self.root.path(), Some(space()), compute).await.expect("a free directory");
        write(&store).await;
        store.close().await;
        self
    }

    /// Starts it.
    pub async fn start(mut self) -> TestApp {
        let path = self.root.path().display().to_string();
        self.vars.push(("ENGRAMIA_DATA_PATH".into(), path));
        let loaded = Config::load(self.vars).expect("a valid configuration");
        let app = App::start(loaded.config, self.overrides).await.expect("a free directory");
        let key = app.first_key.as_ref().map_or(KEY.to_owned(), |key| key.expose_secret().to_owned());
        TestApp { app, key, root: self.root }
    }
}

/// A running application.
pub struct TestApp {
    app: App,
    key: String,
    root: TempDir,
}

impl TestApp {
    /// With the defaults of [`Setup::new`].
    pub async fn start() -> Self {
        Setup::new().start().await
    }

    /// Its routes.
    pub fn router(&self) -> Router {
        self.app.router.clone()
    }

    /// The valid key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whoever holds the key; its role is that of the set-up, by default owner.
    pub fn owner(&self) -> Person {
        self.holder_of(&self.key)
    }

    /// Somebody who sends this key.
    pub fn holder_of(&self, key: &str) -> Person {
        Person::new(self.router(), Some(format!("Bearer {key}")))
    }

    /// Somebody without a key.
    pub fn anonymous(&self) -> Person {
        Person::new(self.router(), None)
    }

    /// Serves on a real socket until the test ends.
    pub async fn listen(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let service = self.router().into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        address
    }

    /// Stops it and gives its directory back.
    pub async fn stop(self) -> TempDir {
        self.app.shutdown().await;
        self.root
    }
}
