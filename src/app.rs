//! The only wiring: configuration -> store, adapters, services, router, background tasks.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use secrecy::{ExposeSecret, SecretString};
use tokio::task::JoinHandle;

use crate::adapter;
use crate::auth::{self, Authenticator};
use crate::compute::ComputePool;
use crate::config::{AuthMode, Config, Storage};
use crate::domain::{Role, Scope, Thresholds};
use crate::http::limit::Limits;
use crate::http::{self, AppState};
use crate::ports::{Clock, Embedder, Entropy};
use crate::service::health::Prober;
use crate::service::{Rules, Services};
use crate::store::Store;
use crate::store::sqlite::{self, SqliteStore};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::observed;

/// File in the data directory that keeps the first owner key for the command line, mode 0600.
pub const OWNER_KEY_FILE: &str = "owner.key";
/// Mark of the one-time import of an older data directory.
const ADOPTED: &str = "adopted-json-directory";
/// How often idle rate-limit buckets are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Parts of the outside that tests replace.
#[derive(Default)]
pub struct Overrides {
    /// Instead of the wall clock.
    pub clock: Option<Arc<dyn Clock>>,
    /// Instead of the system's randomness.
    pub entropy: Option<Arc<dyn Entropy>>,
    /// Instead of the configured embedder.
    pub embedder: Option<Arc<dyn Embedder>>,
}

/// A running application without its listener.
pub struct App {
    /// Every route.
    pub router: Router,
    /// The owner key, if this start created it.
    pub first_key: Option<SecretString>,
    /// What embeds, for the start-up line.
    pub embedding: String,
    services: Arc<Services>,
    tasks: Vec<JoinHandle<()>>,
}

impl App {
    /// Opens the store, takes over old files, and starts the background tasks.
    ///
    /// # Errors
    /// When the store cannot be opened; the text says why.
    pub async fn start(config: Config, overrides: Overrides) -> anyhow::Result<Self> {
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::new()?);
        let clock = overrides.clock.unwrap_or_else(|| Arc::new(adapter::system::SystemClock));
        let entropy = overrides.entropy.unwrap_or_else(|| Arc::new(adapter::system::OsEntropy));
        let memory = &config.memory;
        let compute = Arc::new(ComputePool::start(memory.compute_threads, memory.compute_queue)?);
        let plain = match overrides.embedder {
            Some(embedder) => Some(embedder),
            None => adapter::embedder(&config.models.embedding, &compute)?,
        };
        let plain = plain.map(|inner| observed::embedder(inner, &metrics.embedding_seconds));
        let llm = adapter::language_model(&config.models.llm, config.models.llm_timeout)?
            .map(|inner| observed::language_model(inner, &metrics.llm_seconds));
        let embedder = plain.clone().map(|inner| adapter::cached(inner, config.models.embedding_cache_entries));
        let embedding = embedder
            .as_ref()
            .map_or("off: recall works by keywords".to_owned(), |embedder| embedder.space().as_str().to_owned());

        let Storage::Embedded { root } = &config.storage else {
            anyhow::bail!("this version supports only the embedded store");
        };
        let space = embedder.as_ref().map(|embedder| embedder.space().clone());
        let store = SqliteStore::open(root, space, Arc::clone(&compute)).await?;
        let store = observed::store(Arc::new(store), &metrics.storage_seconds);

        let services = Arc::new(Services {
            store: Arc::clone(&store),
            embedder,
            compute,
            clock,
            entropy,
            reuse: Arc::default(),
            backlog: Arc::default(),
            rules: Rules {
                redaction: memory.redaction,
                tiers: Thresholds { duplicate: memory.tier_duplicate, adapt: memory.tier_adapt },
                success_threshold: memory.success_threshold,
            },
        });
        adopt_old_directory(&services, root).await?;
        let first_key = match &config.auth.mode {
            AuthMode::StoreKeys => first_key(&services, root).await?,
            _ => None,
        };
        let state = AppState {
            authenticator: Arc::new(authenticator(&config.auth.mode, &store)),
            limits: Arc::new(Limits::new(&config.limits)),
            prober: Arc::new(Prober::new(store, llm, plain)),
            openapi: http::openapi_document().to_json()?.into(),
            started: tokio::time::Instant::now(),
            services: Arc::clone(&services),
            config,
            metrics,
        };
        let tasks = background(&services, &state.limits);
        Ok(Self { router: http::router(state), first_key, embedding, services, tasks })
    }

    /// Ends the background tasks, writes what is gathered, and closes the store.
    pub async fn shutdown(self) {
        for task in &self.tasks {
            task.abort();
        }
        // Until they are gone they hold the store, and it its directory.
        futures_util::future::join_all(self.tasks).await;
        let store = &self.services.store;
        if let Err(error) = self.services.reuse.flush(store.as_ref()).await {
            tracing::warn!(%error, "the last reuse counts are lost");
        }
        store.close().await;
    }
}

fn authenticator(mode: &AuthMode, store: &Arc<dyn Store>) -> Authenticator {
    match mode {
        AuthMode::EnvKeys { keys, role } => Authenticator::of_static_keys(keys, *role),
        AuthMode::StoreKeys => Authenticator::of_store(Arc::clone(store)),
        AuthMode::Open => Authenticator::Open,
        AuthMode::NoKeys => Authenticator::Closed(
            "No API keys configured. Set ENGRAMIA_API_KEYS, use ENGRAMIA_AUTH_MODE=db, or set \
             ENGRAMIA_ALLOW_NO_AUTH=true to explicitly allow unauthenticated access.",
        ),
        AuthMode::DevNotAllowed => Authenticator::Closed(
            "ENGRAMIA_AUTH_MODE=dev needs ENGRAMIA_ALLOW_NO_AUTH=true to explicitly allow unauthenticated access.",
        ),
    }
}

fn background(services: &Arc<Services>, limits: &Arc<Limits>) -> Vec<JoinHandle<()>> {
    let (flusher, embedder, limits) = (Arc::clone(services), Arc::clone(services), Arc::clone(limits));
    vec![
        tokio::spawn(async move { flusher.reuse.run(flusher.store.as_ref()).await }),
        tokio::spawn(async move { embedder.embed_backlog().await }),
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(FORGET_EVERY);
            loop {
                tick.tick().await;
                limits.forget_idle();
            }
        }),
    ]
}

/// Takes over an older installation's files once; they stay as they are (decision 24).
async fn adopt_old_directory(services: &Services, root: &Path) -> anyhow::Result<()> {
    if services.store.has_mark(ADOPTED).await? {
        return Ok(());
    }
    let old = root.to_owned();
    for archive in tokio::task::spawn_blocking(move || sqlite::read_old_directory(&old)).await?? {
        services.adopt(archive).await?;
    }
    services.store.set_mark(ADOPTED, services.clock.now()).await?;
    Ok(())
}

/// Creates the owner key if there is no key at all.
async fn first_key(services: &Services, root: &Path) -> anyhow::Result<Option<SecretString>> {
    let now = services.clock.now();
    if services.store.api_keys().any().await? {
        return Ok(None);
    }
    let entropy = services.entropy.as_ref();
    let (secret, key) = auth::new_key(services.new_id(), Scope::default(), "Owner key", Role::Owner, now, entropy);
    // The file first: a key that nobody knows would lock everybody out.
    write_secret(&root.join(OWNER_KEY_FILE), &secret)?;
    Ok(services.store.api_keys().insert_first(&key).await?.then_some(secret))
}

fn write_secret(path: &PathBuf, secret: &SecretString) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).with_context(|| format!("writing {}", path.display()))?;
    file.write_all(secret.expose_secret().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    Ok(())
}
