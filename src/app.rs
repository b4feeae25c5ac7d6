//! The only wiring: configuration -> store, adapters, services, router, background tasks.

mod backup;
pub mod doctor;
mod moving;

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
use crate::auth::oidc::TokenVerifier;
use crate::auth::{Authenticator, StoredKeys};
use crate::compute::ComputePool;
use crate::config::{self, AuthMode, Bootstrap, Config, Models, Storage};
use crate::domain::Thresholds;
use crate::http::limit::Limits;
use crate::http::{self, AppState};
use crate::jobs::{self, Worker};
use crate::ports::{Clock, Embedder, Entropy, Space};
use crate::service::audit::{AuditTrail, ChainReport};
use crate::service::billing::Billing;
use crate::service::gateway::{Gateway, Terms};
use crate::service::health::Prober;
use crate::service::keys::{Founding, Issued};
use crate::service::{JobRules, QuotaRules, Rules, Services};
use crate::store::postgres::{self, PostgresStore};
use crate::store::sqlite::{self, SqliteStore};
use crate::store::{Schema, Store};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::observed;

pub use backup::{Restored, back_up, restore, verify_backup};
pub use moving::{copy_store, import_original, survey_original, survey_store};

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
    authenticator: Arc<Authenticator>,
    tasks: Vec<JoinHandle<()>>,
    worker: Option<jobs::Handle>,
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
            .map(|inner| observed::language_model(inner, &metrics.llm, config.models.price));
        let gateway =
            llm.clone().map(|model| Gateway::new(model, terms(&config.models, config.server.request_timeout)));
        let embedder = plain.clone().map(|inner| adapter::cached(inner, config.models.embedding_cache_entries));
        let embedding = embedder
            .as_ref()
            .map_or("off: recall works by keywords".to_owned(), |embedder| embedder.space().as_str().to_owned());

        let space = embedder.as_ref().map(|embedder| embedder.space().clone());
        let store = open_store(&config.storage, space, &compute).await?;
        moving::refuse_unfinished(store.as_ref()).await?;
        let store = observed::store(store, &metrics.storage_seconds);

        let mut services = services(&config, Arc::clone(&store), embedder, gateway, compute, clock, entropy);
        let payments = adapter::payments(config.billing.stripe.as_ref())?.map(observed::payments);
        services.billing.payments.clone_from(&payments);
        let services = Arc::new(services);
        let mut first_key = None;
        if let Storage::Embedded { root } = &config.storage {
            adopt_old_directory(&services, root).await?;
            if let (AuthMode::StoreKeys, Bootstrap::Off) = (&config.auth.mode, &config.auth.bootstrap) {
                first_key = make_first_key(&services, root).await?;
            }
        }
        let authenticator = Arc::new(authenticator(&config.auth.mode, &services)?);
        let state = AppState {
            authenticator: Arc::clone(&authenticator),
            limits: Arc::new(Limits::new(&config.limits)),
            prober: Arc::new(Prober::new(store, llm, plain, payments)),
            openapi: http::openapi_document().to_json()?.into(),
            started: tokio::time::Instant::now(),
            services: Arc::clone(&services),
            config,
            metrics,
        };
        let tasks = background(&services, &authenticator, &state.limits);
        // Whoever works on the system wants nobody else to.
        let works = state.config.jobs.worker && !state.config.server.maintenance;
        let worker = works.then(|| {
            let (services, authenticator) = (Arc::clone(&services), Arc::clone(&authenticator));
            Worker::start(services, authenticator, Arc::clone(&state.metrics), state.config.jobs.clone())
        });
        let router = if state.config.server.web { http::router(state) } else { http::probes(state) };
        Ok(Self { router, first_key, embedding, services, authenticator, tasks, worker })
    }

    /// Begins no other job, and gives those that run so much time to finish.
    pub async fn finish_jobs(&self, grace: Duration) {
        if let Some(worker) = &self.worker {
            worker.finish(grace).await;
        }
    }

    /// Gives back the jobs that are not done, ends the background tasks, writes what is gathered, and closes the store.
    pub async fn shutdown(self) {
        if let Some(worker) = self.worker {
            worker.stop().await;
        }
        for task in &self.tasks {
            task.abort();
        }
        // Until they are gone they hold the store, and it its directory.
        futures_util::future::join_all(self.tasks).await;
        let store = &self.services.store;
        if let Err(error) = self.services.reuse.flush(store.as_ref()).await {
            tracing::warn!(%error, "the last reuse counts are lost");
        }
        if let Some(keys) = self.authenticator.stored()
            && let Err(error) = keys.flush().await
        {
            tracing::warn!(%error, "the last uses of keys are lost");
        }
        close(&self.services).await;
    }
}

/// The store without a server: for commands that need no key, because they work on the database itself.
pub struct Direct {
    services: Services,
}

impl Direct {
    /// Opens the configured store.
    ///
    /// # Errors
    /// When it cannot be opened; the text says why.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let compute = Arc::new(ComputePool::start(1, config.memory.compute_queue)?);
        let store = open_store(&config.storage, None, &compute).await?;
        moving::refuse_unfinished(store.as_ref()).await?;
        let (clock, entropy) = (Arc::new(adapter::system::SystemClock), Arc::new(adapter::system::OsEntropy));
        Ok(Self { services: services(config, store, None, None, compute, clock, entropy) })
    }

    /// Makes the first owner key; `None` if there is a key already.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn bootstrap(&self) -> anyhow::Result<Option<Issued>> {
        let made = self.services.draft_owner_key(Founding::KEY);
        let first = self.services.found(&made.key, &Founding::by("cli"), None).await?;
        Ok(first.then_some(made))
    }

    /// Checks the audit log of every tenant.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn verify_audit(&self) -> anyhow::Result<Vec<ChainReport>> {
        Ok(self.services.verify_audit().await?)
    }

    /// Closes the store.
    pub async fn close(self) {
        close(&self.services).await;
    }
}

/// Opens the configured store, for vectors of `space`. Only this and [`migrate`] know which stores there are.
async fn open_store(
    storage: &Storage,
    space: Option<Space>,
    compute: &Arc<ComputePool>,
) -> anyhow::Result<Arc<dyn Store>> {
    match storage {
        Storage::Embedded { root } => Ok(Arc::new(SqliteStore::open(root, space, Arc::clone(compute)).await?)),
        Storage::Postgres(database) => {
            let settings = postgres_settings(database);
            Ok(Arc::new(PostgresStore::open(&settings, space, Arc::clone(compute)).await?))
        }
    }
}

/// Brings the schema of the configured store to this version, and does nothing else.
///
/// # Errors
/// When the store cannot be opened or changed; the text says why.
pub async fn migrate(config: &Config) -> anyhow::Result<Schema> {
    match &config.storage {
        Storage::Embedded { root } => sqlite::migrate(root).await,
        Storage::Postgres(database) => postgres::migrate(&postgres_settings(database)).await,
    }
}

fn postgres_settings(database: &config::Database) -> postgres::Settings {
    let config::Database { url, pool_size, search_memory_bytes } = database.clone();
    postgres::Settings { url, pool_size, search_memory_bytes }
}

/// The use cases over a store, as the configuration wants them.
pub fn services(
    config: &Config,
    store: Arc<dyn Store>,
    embedder: Option<Arc<dyn Embedder>>,
    gateway: Option<Gateway>,
    compute: Arc<ComputePool>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> Services {
    let memory = &config.memory;
    Services {
        store,
        embedder,
        compute,
        audit: Arc::new(AuditTrail::new(Arc::clone(&clock), Arc::clone(&entropy))),
        clock,
        entropy,
        reuse: Arc::default(),
        erasures: Default::default(),
        issues: Arc::default(),
        backlog: Arc::default(),
        gateway,
        plans: Arc::default(),
        billing: billing(&config.billing),
        instance: Arc::default(),
        jobs: Arc::default(),
        removed: Arc::default(),
        rules: Rules {
            redaction: memory.redaction,
            tiers: Thresholds { duplicate: memory.tier_duplicate, adapt: memory.tier_adapt },
            success_threshold: memory.success_threshold,
            max_projects: config.limits.max_projects,
            quotas: QuotaRules {
                limits: config.limits.quotas.unwrap_or(config.billing.stripe.is_some()),
                entitlements: config.limits.entitlements,
                project_share: config.limits.project_share,
            },
            retention_days: config.governance.retention_days,
            retention_is_set: config.governance.retention_is_set,
            dsr_sla_days: config.governance.dsr_sla_days,
            jobs: JobRules { max_execution: config.jobs.timeout, expires_after: config.jobs.expiry },
        },
    }
}

/// What payments need, but for the payment service itself.
fn billing(settings: &config::Billing) -> Billing {
    Billing {
        webhook_secret: settings.webhook_secret.clone(),
        prices: settings.prices.clone(),
        return_origins: settings.return_origins.clone(),
        dashboard: settings.dashboard.clone(),
        ..Billing::default()
    }
}

/// What calls of the language model go by. Whoever waits for a permit waits no longer than for an answer.
///
/// A request that asks it answers before its own time is over, with something left for what comes after the call.
fn terms(models: &Models, request_timeout: Duration) -> Terms {
    Terms {
        concurrency: models.llm_concurrency,
        patience: models.llm_timeout,
        longest_call: request_timeout.mul_f64(0.9),
        price: models.price,
        budget: models.budget,
    }
}

/// Writes the events that are gathered, and closes the store.
async fn close(services: &Services) {
    let store = services.store.as_ref();
    if let Err(error) = services.audit.flush(store, true).await {
        tracing::warn!(%error, "the last audit events are in the log only");
    }
    store.close().await;
}

fn authenticator(mode: &AuthMode, services: &Services) -> anyhow::Result<Authenticator> {
    Ok(match mode {
        AuthMode::EnvKeys { keys, role } => Authenticator::of_static_keys(keys, *role),
        AuthMode::StoreKeys => {
            Authenticator::Stored(StoredKeys::new(Arc::clone(&services.store), Arc::clone(&services.clock)))
        }
        AuthMode::Oidc(rules) => {
            let keys = adapter::oidc::IssuerKeys::start(&rules.issuer, Arc::clone(&services.clock))?;
            Authenticator::Oidc(TokenVerifier::new(rules.clone(), Arc::new(keys), Arc::clone(&services.clock)))
        }
        AuthMode::Open => Authenticator::Open,
        AuthMode::NoKeys => Authenticator::Closed(
            "No API keys configured. Set ENGRAMIA_API_KEYS, use ENGRAMIA_AUTH_MODE=db, or set \
             ENGRAMIA_ALLOW_NO_AUTH=true to explicitly allow unauthenticated access.",
        ),
        AuthMode::DevNotAllowed => Authenticator::Closed(
            "ENGRAMIA_AUTH_MODE=dev needs ENGRAMIA_ALLOW_NO_AUTH=true to explicitly allow unauthenticated access.",
        ),
    })
}

fn background(
    services: &Arc<Services>,
    authenticator: &Arc<Authenticator>,
    limits: &Arc<Limits>,
) -> Vec<JoinHandle<()>> {
    let (flusher, embedder, auditor) = (Arc::clone(services), Arc::clone(services), Arc::clone(services));
    let (watcher, eraser, looker) = (Arc::clone(services), Arc::clone(services), Arc::clone(services));
    let (authenticator, limits) = (Arc::clone(authenticator), Arc::clone(limits));
    vec![
        tokio::spawn(async move { auditor.audit.run(auditor.store.as_ref()).await }),
        tokio::spawn(async move {
            if let Some(keys) = authenticator.stored() {
                keys.run().await;
            }
        }),
        tokio::spawn(async move { flusher.reuse.run(flusher.store.as_ref()).await }),
        tokio::spawn(async move { embedder.embed_backlog().await }),
        tokio::spawn(async move { watcher.watch_issues().await }),
        tokio::spawn(async move { eraser.finish_erasures().await }),
        tokio::spawn(async move { looker.instance.run(looker.store.as_ref()).await }),
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

/// Makes the owner key if there is no key at all.
async fn make_first_key(services: &Services, root: &Path) -> anyhow::Result<Option<SecretString>> {
    if services.store.api_keys().any().await? {
        return Ok(None);
    }
    let Issued { key, secret } = services.draft_owner_key(Founding::KEY);
    // The file first: a key that nobody knows would lock everybody out.
    write_secret(&root.join(OWNER_KEY_FILE), &secret)?;
    Ok(services.found(&key, &Founding::by("first_start"), None).await?.then_some(secret))
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
