//! The use cases over a store of their own, without the HTTP face.

use std::sync::Arc;

use engramia::app;
use engramia::compute::ComputePool;
use engramia::config::Config;
use engramia::domain::{Caller, Feedback, Role, Scope};
use engramia::ports::Embedder;
use engramia::service::Services;
use engramia::store::Store;
use engramia::store::postgres::PostgresStore;
use engramia::store::sqlite::SqliteStore;
use tempfile::TempDir;

use super::fakes::{BagOfWords, CountedEntropy, StoppedClock, space};
use super::postgres::{Database, settings};

/// A memory with a clock that stands still.
pub struct Memory {
    /// The use cases.
    pub services: Arc<Services>,
    /// Their clock.
    pub clock: Arc<StoppedClock>,
    /// Dropped last.
    _place: (Option<TempDir>, Option<Database>),
}

/// Somebody who may do everything in a project.
pub fn caller(project: &str) -> Caller {
    let scope = Scope::verified("acme", project);
    Caller { scope, role: Role::Owner, key_id: None, max_patterns: None, address: None, request_id: None }
}

impl Memory {
    /// One of each kind of store.
    pub async fn of_both_stores() -> [Self; 2] {
        [Self::embedded().await, Self::on_postgres().await]
    }

    /// On the embedded store.
    pub async fn embedded() -> Self {
        let root = TempDir::new().expect("a directory");
        let store = SqliteStore::open(root.path(), Some(space()), compute()).await.expect("the store opens");
        Self::over(Arc::new(store), (Some(root), None))
    }

    /// On PostgreSQL.
    pub async fn on_postgres() -> Self {
        let database = Database::new().await;
        let settings = settings(&database.url());
        let store = PostgresStore::open(&settings, Some(space()), compute()).await.expect("the store opens");
        Self::over(Arc::new(store), (None, Some(database)))
    }

    /// The same data with another embedder, as another server would see them.
    pub fn beside(&self, embedder: Option<Arc<dyn Embedder>>) -> Self {
        Self::with(Arc::clone(&self.services.store), embedder, Arc::clone(&self.clock), (None, None))
    }

    fn over(store: Arc<dyn Store>, place: (Option<TempDir>, Option<Database>)) -> Self {
        Self::with(store, Some(Arc::new(BagOfWords)), Arc::new(StoppedClock::new()), place)
    }

    fn with(
        store: Arc<dyn Store>,
        embedder: Option<Arc<dyn Embedder>>,
        clock: Arc<StoppedClock>,
        place: (Option<TempDir>, Option<Database>),
    ) -> Self {
        let variables = [("ENGRAMIA_ALLOW_NO_AUTH".to_owned(), "true".to_owned())];
        let config = Config::load(variables.to_vec()).expect("a valid configuration").config;
        let entropy = Arc::new(CountedEntropy::default());
        let services = app::services(&config, store, embedder, None, compute(), clock.clone(), entropy);
        Self { services: Arc::new(services), clock, _place: place }
    }

    /// Says that an evaluation of a task has raised an issue.
    pub async fn raise(&self, project: &str, task: &str, text: &str, score: f64) {
        let issue = self.services.prepare_issue(task, text, score).await.expect("prepared");
        let scope = caller(project).scope;
        let mut work = self.services.store.begin(&scope).await.expect("a unit of work");
        self.services.record_issue(work.as_mut(), &issue).await.expect("recorded");
        work.commit().await.expect("committed");
        self.services.issues_changed(&scope).await;
    }

    /// Every issue of a project.
    pub async fn issues(&self, project: &str) -> Vec<Feedback> {
        let mut work = self.services.store.read(&caller(project).scope).await.expect("a unit of work");
        work.feedback().all().await.expect("read")
    }
}

fn compute() -> Arc<ComputePool> {
    Arc::new(ComputePool::start(1, 64).expect("a thread"))
}
