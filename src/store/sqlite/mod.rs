//! The embedded store: SQLite through sqlx (decision 19).
//!
//! Write-ahead log with `synchronous = FULL`, one writer with group commit, four readers, FTS5, vectors as rows with
//! in-memory indexes derived from them. One process per directory: a lock file says so.

mod analytics;
mod audit;
mod backup;
mod billing;
mod copy;
mod erasure;
mod erasures;
mod feed;
mod feedback;
mod files;
mod fingerprint;
mod governance;
mod idempotency;
mod inspect;
mod jobs;
mod keys;
mod patterns;
mod payments;
mod projects;
mod queue;
mod restore;
mod rows;
mod schema;
mod search;
mod skills;
mod spend;
mod statistics;
mod subjects;
mod vectors;
mod writer;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, Sqlite, SqliteConnection, SqlitePool};

use crate::compute::ComputePool;
use crate::domain::{PatternId, Scope, Timestamp};
use crate::ports::Space;
use crate::store::engine::{Change, ScopeIndex};
use crate::store::{
    Analytics, ApiKeys, Audits, Backups, Billing, Copying, Erasure, Erasures, Feedbacks, Inventory, JobQueue, Jobs,
    Keys, Patterns, PaymentFeed, PaymentLedger, PoolUse, Projects, Repeatable, Result, Retentions, Revision, Schema,
    Skills, Spend, Statistics, Store, StoreError, SubjectRequests, Sweep, Totals, Unembedded, Work,
};

pub use backup::back_up;
use erasure::{Closed, Gate};
pub use files::read_old_directory;
pub use inspect::inspect;
pub use restore::{Restored, restore, verify};
use vectors::Indexes;
use writer::{Turn, Writer};

const READERS: u32 = 4;
/// Connections that load vector indexes, opened when they are needed.
const LOADERS: u32 = 2;
const DATABASE: &str = "engramia.db";
const LOCK: &str = "engramia.lock";
/// How often, and how far apart, a directory in use is asked for.
const LOCK_ATTEMPTS: u32 = 20;
/// How long the end waits for readers.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// The embedded store of one directory.
pub struct SqliteStore {
    root: PathBuf,
    writer: Writer,
    readers: SqlitePool,
    indexes: Arc<Indexes>,
    compute: Arc<ComputePool>,
    closed: Arc<Closed>,
    /// Held until the store is closed or dropped.
    lock: File,
}

impl SqliteStore {
    /// Opens or creates the database in `root`, for vectors of `space`.
    ///
    /// # Errors
    /// When the directory cannot be written, another process holds it, or the schema is newer than this program.
    pub async fn open(root: &Path, space: Option<Space>, compute: Arc<ComputePool>) -> anyhow::Result<Self> {
        create_directory(root)?;
        let lock = lock(root).await?;
        let options = options(root);
        let mut connection = first(root, &options).await?;
        schema::bring_up(&mut connection).await?;
        let closed = Arc::new(Closed::load(&mut connection).await?);
        // Each reader keeps its own pages, and an export fills them all; the system keeps the file in memory anyway.
        let options = options.read_only(true).pragma("cache_size", "-4096");
        let pool = |most| SqlitePoolOptions::new().max_connections(most).test_before_acquire(false);
        let readers = pool(READERS)
            .acquire_timeout(Duration::from_secs(5))
            .connect_with(options.clone())
            .await
            .context("opening the readers")?;
        let indexes = Arc::new(Indexes::new(space, pool(LOADERS).connect_lazy_with(options)));
        let writer = Writer::start(connection, Arc::clone(&indexes));
        Ok(Self { root: root.to_owned(), writer, readers, indexes, compute, closed, lock })
    }

    fn unit(&self, scope: &Scope, access: Access) -> Box<SqliteWork> {
        Box::new(SqliteWork {
            access,
            scope: scope.clone(),
            indexes: Arc::clone(&self.indexes),
            readers: self.readers.clone(),
            compute: Arc::clone(&self.compute),
            closed: Arc::clone(&self.closed),
            gate: None,
        })
    }

    async fn writing(&self, scope: &Scope) -> Result<Box<SqliteWork>> {
        Ok(self.unit(scope, Access::Write(self.writer.turn().await?)))
    }
}

/// Brings the schema of the database in `root` to this version; creates it if there is none.
///
/// # Errors
/// As [`SqliteStore::open`].
pub async fn migrate(root: &Path) -> anyhow::Result<Schema> {
    create_directory(root)?;
    let _lock = lock(root).await?;
    let mut connection = first(root, &options(root)).await?;
    let schema = schema::bring_up(&mut connection).await?;
    connection.close().await?;
    Ok(schema)
}

fn options(root: &Path) -> SqliteConnectOptions {
    options_of(&root.join(DATABASE))
}

fn options_of(database: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(database)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .page_size(8192)
        .pragma("journal_size_limit", "67108864")
        .pragma("cache_size", "-8192")
        // What is removed is overwritten, not only forgotten.
        .pragma("secure_delete", "on")
        .disable_statement_logging()
}

/// The connection that may create the database and change its schema.
async fn first(root: &Path, options: &SqliteConnectOptions) -> anyhow::Result<SqliteConnection> {
    let creating = options.clone().create_if_missing(true).connect().await;
    creating.with_context(|| format!("opening {}", root.join(DATABASE).display()))
}

/// Whether a directory holds a database of this program.
pub fn is_store(root: &Path) -> bool {
    root.join(DATABASE).is_file()
}

/// The directory of a memory is nobody else's business.
fn create_directory(root: &Path) -> anyhow::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(root).with_context(|| format!("creating the data directory {}", root.display()))
}

/// Takes the directory, waiting a moment for a predecessor that is about to let go of it.
async fn lock(root: &Path) -> anyhow::Result<File> {
    let path = root.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("the data directory {} is not writable", root.display()))?;
    for attempt in 1.. {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if attempt < LOCK_ATTEMPTS => tokio::time::sleep(LOCK_PAUSE).await,
            Err(TryLockError::WouldBlock) => anyhow::bail!(
                "another engramia process uses {}: stop it, or set ENGRAMIA_DATA_PATH to another directory",
                root.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
    }
    Ok(file)
}

#[async_trait]
impl Store for SqliteStore {
    async fn read(&self, scope: &Scope) -> Result<Box<dyn Work>> {
        Ok(self.unit(scope, Access::Read(None)))
    }

    async fn begin(&self, scope: &Scope) -> Result<Box<dyn Work>> {
        let work = self.writing(scope).await?;
        self.closed.refuse(scope)?;
        Ok(work)
    }

    async fn erase(&self, scope: &Scope) -> Result<Box<dyn Work>> {
        Ok(self.writing(scope).await?)
    }

    fn erasures(&self) -> &dyn Erasures {
        self
    }

    fn api_keys(&self) -> &dyn ApiKeys {
        self
    }

    fn inventory(&self) -> &dyn Inventory {
        self
    }

    fn queue(&self) -> &dyn JobQueue {
        self
    }

    fn payment_feed(&self) -> &dyn PaymentFeed {
        self
    }

    fn repeatable(&self) -> &dyn Repeatable {
        self
    }

    fn backups(&self) -> &dyn Backups {
        self
    }

    async fn scopes(&self, after: Option<&Scope>, limit: u32) -> Result<Vec<Scope>> {
        copy::scopes(&self.readers, after, limit).await
    }

    async fn audited_tenants(&self, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
        audit::tenants(&self.readers, after, limit).await
    }

    async fn totals(&self) -> Result<Totals> {
        statistics::totals(&mut *self.readers.acquire().await?).await
    }

    async fn unembedded(&self, space: &Space, after: Option<PatternId>, limit: u32) -> Result<Vec<Unembedded>> {
        let mut connection = self.readers.acquire().await?;
        let current = sqlx::query("select coalesce(max(id), 0) from spaces where name = $1")
            .bind(space.as_str())
            .fetch_one(&mut *connection)
            .await?;
        let current: i64 = current.try_get(0)?;
        // Mostly there is nothing: the index says so at once, and spares the walk over all patterns.
        let any =
            sqlx::query("select 1 from patterns where space_id is null or space_id < $1 or space_id > $1 limit 1");
        if after.is_none() && any.bind(current).fetch_optional(&mut *connection).await?.is_none() {
            return Ok(Vec::new());
        }
        let rows = sqlx::query(
            "select tenant_id, project_id, id, task from patterns \
             where id > $2 and space_id is not $1 order by id limit $3",
        )
        .bind(current)
        .bind(after.map_or(0, |id| id.0))
        .bind(limit)
        .fetch_all(&mut *connection)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Unembedded {
                    scope: Scope::verified(row.try_get(0)?, row.try_get(1)?),
                    id: PatternId(row.try_get(2)?),
                    task: row.try_get(3)?,
                })
            })
            .collect()
    }

    async fn has_mark(&self, name: &str) -> Result<bool> {
        let row = sqlx::query("select 1 from marks where name = $1").bind(name).fetch_optional(&self.readers).await?;
        Ok(row.is_some())
    }

    async fn set_mark(&self, name: &str, now: Timestamp) -> Result<()> {
        let mut work = self.writing(&Scope::default()).await?;
        sqlx::query("insert into marks (name, created_at) values ($1, $2) on conflict do nothing")
            .bind(name)
            .bind(now.timestamp_micros())
            .execute(work.connection().await?)
            .await?;
        work.commit().await
    }

    async fn sweep(&self, sweep: &Sweep, now: Timestamp) -> Result<Vec<Scope>> {
        governance::sweep(self, sweep, now).await
    }

    async fn ping(&self) -> Result<()> {
        sqlx::query("select 1").execute(&self.readers).await?;
        Ok(())
    }

    fn pool(&self) -> Option<PoolUse> {
        None
    }

    async fn revision(&self) -> Result<Revision> {
        schema::revision(&mut *self.readers.acquire().await?).await.map_err(StoreError::Backend)
    }

    fn name(&self) -> &'static str {
        "json"
    }

    async fn close(&self) {
        // The writer last: only it can fold the log into the database.
        // A unit of work that somebody still holds must not hold up the end.
        let readers = async { tokio::join!(self.indexes.close(), self.readers.close()) };
        if tokio::time::timeout(CLOSE_WITHIN, readers).await.is_err() {
            tracing::warn!("some readers are still at work");
        }
        self.writer.close(&self.indexes).await;
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "releasing the data directory");
        }
    }
}

type Statement = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

/// A unit of work on SQLite.
struct SqliteWork {
    access: Access,
    scope: Scope,
    indexes: Arc<Indexes>,
    readers: SqlitePool,
    compute: Arc<ComputePool>,
    closed: Arc<Closed>,
    /// What becomes of the scope with the commit.
    gate: Option<Gate>,
}

enum Access {
    Read(Option<PoolConnection<Sqlite>>),
    Write(Turn),
}

impl SqliteWork {
    /// The connection. A reader takes one when it needs it: a recall whose patterns are at hand needs none.
    async fn connection(&mut self) -> Result<&mut SqliteConnection> {
        match &mut self.access {
            Access::Write(turn) => turn.connection(),
            Access::Read(Some(connection)) => Ok(connection),
            Access::Read(empty) => Ok(empty.insert(self.readers.acquire().await?)),
        }
    }

    /// A statement whose `$1` and `$2` are bound to tenant and project, and where to run it.
    async fn scoped(&mut self, sql: &'static str) -> Result<(Statement, &mut SqliteConnection)> {
        let query = sqlx::query(sql).bind(self.scope.tenant()).bind(self.scope.project());
        Ok((query, self.connection().await?))
    }

    /// Remembers a change of the in-memory index; readers change nothing.
    fn remember(&mut self, change: Change) {
        if let Access::Write(turn) = &mut self.access {
            turn.remember(change);
        }
    }

    async fn index(&self) -> Result<Arc<ScopeIndex>> {
        self.indexes.get(&self.scope).await
    }
}

#[async_trait]
impl Work for SqliteWork {
    fn patterns(&mut self) -> &mut dyn Patterns {
        self
    }

    fn skills(&mut self) -> &mut dyn Skills {
        self
    }

    fn feedback(&mut self) -> &mut dyn Feedbacks {
        self
    }

    fn analytics(&mut self) -> &mut dyn Analytics {
        self
    }

    fn statistics(&mut self) -> &mut dyn Statistics {
        self
    }

    fn keys(&mut self) -> &mut dyn Keys {
        self
    }

    fn projects(&mut self) -> &mut dyn Projects {
        self
    }

    fn audit(&mut self) -> &mut dyn Audits {
        self
    }

    fn jobs(&mut self) -> &mut dyn Jobs {
        self
    }

    fn copying(&mut self) -> &mut dyn Copying {
        self
    }

    fn erasure(&mut self) -> &mut dyn Erasure {
        self
    }

    fn spend(&mut self) -> &mut dyn Spend {
        self
    }

    fn payments(&mut self) -> &mut dyn PaymentLedger {
        self
    }

    fn billing(&mut self) -> &mut dyn Billing {
        self
    }

    fn retention(&mut self) -> &mut dyn Retentions {
        self
    }

    fn subjects(&mut self) -> &mut dyn SubjectRequests {
        self
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        match self.access {
            Access::Read(_) => {
                Err(StoreError::Backend(anyhow::anyhow!("a reading unit of work has nothing to commit")))
            }
            Access::Write(turn) => match self.gate {
                Some(gate) => gate.commit(turn, &self.closed, &self.scope).await,
                None => turn.commit().await,
            },
        }
    }
}
