//! An application on a temporary directory, configured as a test wants it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use engramia::app::{App, Overrides};
use engramia::compute::ComputePool;
use engramia::config::Config;
use engramia::domain::{Role, Scope, Timestamp, credential};
use engramia::ports::{Clock, Embedder, Entropy};
use engramia::store::postgres::PostgresStore;
use engramia::store::sqlite::SqliteStore;
use engramia::store::{ApiKey, Store};
use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::fakes::{BagOfWords, space};
use super::issuer::AUDIENCE;
use super::people::Person;
use super::postgres::{Database, settings};

/// The static key of every test application.
pub const KEY: &str = "it-key-0123456789";

/// The bootstrap token of [`Setup::keyed`].
pub const BOOTSTRAP_TOKEN: &str = "the-bootstrap-token-of-the-tests-0123456789";

/// A key of the store as the tests need it: its id follows from its secret.
pub fn api_key(secret: &str, scope: Scope, role: Role) -> ApiKey {
    let hash = credential::hash(secret);
    ApiKey {
        id: uuid::Builder::from_random_bytes(hash[..16].try_into().expect("16 bytes")).into_uuid().to_string(),
        scope,
        name: "test".into(),
        prefix: "test...".into(),
        hash,
        role,
        max_patterns: None,
        created_at: Timestamp::UNIX_EPOCH,
        last_used_at: None,
        revoked_at: None,
        expires_at: None,
    }
}

/// Stores a key, and its project.
pub async fn store_key(store: &dyn Store, key: &ApiKey) {
    let mut work = store.begin(&key.scope).await.expect("a unit of work");
    work.projects().register(key.scope.project(), None, key.created_at).await.expect("registered");
    work.keys().insert(key).await.expect("stored");
    work.commit().await.expect("committed");
}

/// How an application is to be started.
pub struct Setup {
    vars: Vec<(String, String)>,
    overrides: Overrides,
    root: TempDir,
    worker: bool,
}

impl Setup {
    /// Static key with the role of an owner, cheap embedder, no limits that a test could run into by accident.
    pub fn new() -> Self {
        Self::on(tempfile::tempdir().expect("a temporary directory"))
    }

    /// The same on a directory that is there already.
    pub fn on(root: TempDir) -> Self {
        let overrides = Overrides { embedder: Some(Arc::new(BagOfWords)), ..Overrides::default() };
        let setup = Self { vars: Vec::new(), overrides, root, worker: true };
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

    /// Keys in the store, one of each role in the default project, and a bootstrap token. [`TestApp::owner`] holds the
    /// one of the owner, [`TestApp::of_role`] any.
    pub async fn keyed(self) -> Self {
        let setup = self.stored_keys().var("ENGRAMIA_BOOTSTRAP_TOKEN", BOOTSTRAP_TOKEN);
        let roles = [Role::Reader, Role::Editor, Role::Admin, Role::Owner];
        let keys = roles.map(|role| api_key(&secret_of(role.as_str()), Scope::default(), role));
        setup
            .prepare(async |store| {
                for key in &keys {
                    store_key(store, key).await;
                }
            })
            .await
    }

    /// Jobs wait for another application.
    pub fn without_worker(mut self) -> Self {
        self.worker = false;
        self
    }

    /// Nobody is asked for a key.
    pub fn open(self) -> Self {
        self.var("ENGRAMIA_API_KEYS", "").var("ENGRAMIA_ALLOW_NO_AUTH", "true")
    }

    /// Tokens of this issuer instead of the static key.
    pub fn issuer(self, issuer: &str) -> Self {
        self.var("ENGRAMIA_AUTH_MODE", "oidc")
            .var("ENGRAMIA_API_KEYS", "")
            .var("ENGRAMIA_OIDC_ISSUER", issuer)
            .var("ENGRAMIA_OIDC_AUDIENCE", AUDIENCE)
            .var("ENGRAMIA_OIDC_TENANT_CLAIM", "org")
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

    /// Other randomness.
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.overrides.entropy = Some(entropy);
        self
    }

    /// Keeps everything in this database.
    pub fn postgres(self, database: &Database) -> Self {
        self.var("ENGRAMIA_DATABASE_URL", &database.url())
    }

    /// Writes into the store before the application opens it.
    pub async fn prepare(self, write: impl AsyncFnOnce(&dyn Store)) -> Self {
        let compute = Arc::new(ComputePool::start(1, 16).expect("a thread"));
        let database = self.vars.iter().find(|(name, _)| name == "ENGRAMIA_DATABASE_URL");
        let store: Box<dyn Store> = match database {
            Some((_, url)) => {
                let opened = PostgresStore::open(&settings(url), Some(space()), compute).await;
                Box::new(opened.expect("a database of its own"))
            }
            None => {
                let opened = SqliteStore::open(self.root.path(), Some(space()), compute).await;
                Box::new(opened.expect("a free directory"))
            }
        };
        write(store.as_ref()).await;
        store.close().await;
        self
    }

    /// Starts it.
    pub async fn start(mut self) -> TestApp {
        let path = self.root.path().display().to_string();
        self.vars.push(("ENGRAMIA_DATA_PATH".into(), path));
        let mut config = Config::load(self.vars).expect("a valid configuration").config;
        config.jobs.worker = self.worker;
        let app = App::start(config, self.overrides).await.expect("a free directory");
        let key = app.first_key.as_ref().map_or(KEY.to_owned(), |key| key.expose_secret().to_owned());
        TestApp { app, key, root: self.root }
    }
}

fn secret_of(role: &str) -> String {
    if role == Role::Owner.as_str() { KEY.to_owned() } else { format!("{role}-key-0123456789") }
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

    /// Its data directory.
    pub fn root(&self) -> &Path {
        self.root.path()
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

    /// Who holds the key of a role that [`Setup::keyed`] has made.
    pub fn of_role(&self, role: &str) -> Person {
        self.holder_of(&secret_of(role))
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
