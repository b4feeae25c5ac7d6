//! The production store: PostgreSQL with pgvector, shared by any number of stateless servers (decisions 20 and 25).
//!
//! | file | purpose |
//! |---|---|
//! | `connect.rs` | options, pool, and what is wrong when no connection comes |
//! | `schema.rs` | migrations |
//! | `unit.rs` | the unit of work: one transaction that has named its scope |
//! | `index.rs` | the in-memory index of a scope, kept fresh by the scope's revision |
//! | `search.rs` | searches: in memory where the scope is loaded, else in SQL |
//! | `ann.rs` | SQL search of scopes that no memory holds: partial HNSW indexes, and how well they do |
//! | `tables.rs`, `backup.rs`, `restore.rs` | everything to a file, and from it |
//! | `queue.rs` | jobs of all scopes, as workers see them |
//! | `upkeep.rs` | what is done beside the requests |
//! | the rest | one trait each |

mod analytics;
mod ann;
mod audit;
mod backup;
mod billing;
mod connect;
mod copy;
mod erasure;
mod erasures;
mod feed;
mod feedback;
mod governance;
mod idempotency;
mod index;
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
mod tables;
mod unit;
mod upkeep;
mod words;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use sqlx::postgres::PgListener;
use sqlx::{PgPool, Row};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::compute::ComputePool;
use crate::domain::{PatternId, Scope, Timestamp};
use crate::ports::Space;
use crate::store::{
    ApiKeys, Backups, Erasures, Inventory, JobQueue, PaymentFeed, PoolUse, Repeatable, Result, Revision, Store,
    StoreError, Sweep, Totals, Unembedded, Work,
};

pub use backup::back_up;
pub use connect::Settings;
pub use inspect::inspect;
pub use restore::{restore, verify};
pub use schema::{migrate, version};
pub use tables::TABLES;

use ann::Ann;
use index::Indexes;
use unit::{PostgresWork, Turns};

/// The store of one database.
pub struct PostgresStore {
    inner: Arc<Inner>,
    upkeep: JoinHandle<()>,
    settings: Settings,
    /// A connection that hears of jobs, opened when somebody wants to.
    listener: Mutex<Option<PgListener>>,
}

/// What units of work share.
struct Inner {
    pool: PgPool,
    /// Units of work that have asked the pool for a connection and have none yet.
    waiting: Arc<AtomicU64>,
    /// The role that statements run as: not the owner, so that row-level security binds them; `none` stays who it is.
    role: &'static str,
    indexes: Indexes,
    compute: Arc<ComputePool>,
    turns: Turns,
    ann: Ann,
}

impl PostgresStore {
    /// Connects, brings the schema to this version, and starts the upkeep; for vectors of `space`.
    ///
    /// # Errors
    /// When the database cannot be reached or used; the text says what to do.
    pub async fn open(settings: &Settings, space: Option<Space>, compute: Arc<ComputePool>) -> anyhow::Result<Self> {
        let mut connection = connect::first(settings).await?;
        schema::bring_up(&mut connection).await?;
        let role = connect::role(&mut connection).await?;
        let ann = Ann::new(&mut connection).await?;
        drop(connection);
        let pool = connect::pool(settings)?;
        let indexes = Indexes::new(space, settings.search_memory_bytes);
        let inner =
            Arc::new(Inner { pool, waiting: Arc::default(), role, indexes, compute, turns: Turns::default(), ann });
        let upkeep = tokio::spawn(upkeep::run(Arc::clone(&inner)));
        Ok(Self { inner, upkeep, settings: settings.clone(), listener: Mutex::default() })
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.upkeep.abort();
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn read(&self, scope: &Scope) -> Result<Box<dyn Work>> {
        Ok(Box::new(PostgresWork::reading(&self.inner, scope)))
    }

    async fn begin(&self, scope: &Scope) -> Result<Box<dyn Work>> {
        Ok(Box::new(PostgresWork::writing(&self.inner, scope).await?))
    }

    async fn erase(&self, scope: &Scope) -> Result<Box<dyn Work>> {
        Ok(Box::new(PostgresWork::erasing(&self.inner, scope).await?))
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
        // Each has its row from its first unit of work on.
        let rows = sqlx::query(
            "select tenant_id, project_id from scopes \
             where $1::text is null or (tenant_id collate \"C\", project_id collate \"C\") > ($1, $2) \
             order by tenant_id collate \"C\", project_id collate \"C\" limit $3",
        )
        .bind(after.map(|scope| scope.tenant().to_owned()))
        .bind(after.map(|scope| scope.project().to_owned()))
        .bind(i64::from(limit))
        .fetch_all(&mut *self.inner.system().await?)
        .await?;
        rows.iter().map(|row| Ok(Scope::verified(row.try_get(0)?, row.try_get(1)?))).collect()
    }

    async fn audited_tenants(&self, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
        let mut transaction = self.inner.system().await?;
        let rows = sqlx::query("select tenant_id from audit_heads where tenant_id > $1 order by tenant_id limit $2")
            .bind(after.unwrap_or_default())
            .bind(i64::from(limit))
            .fetch_all(&mut *transaction)
            .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    async fn totals(&self) -> Result<Totals> {
        let mut totals = statistics::totals(&mut *self.inner.system().await?).await?;
        totals.ann_recall = self.inner.ann.recall();
        Ok(totals)
    }

    async fn unembedded(&self, space: &Space, after: Option<PatternId>, limit: u32) -> Result<Vec<Unembedded>> {
        let mut transaction = self.inner.system().await?;
        // Every other space by itself, so that an index leads to its rows in order; mostly there are none.
        let rows = sqlx::query(
            "select p.tenant_id, p.project_id, p.id, p.task \
             from (select 0 as id union all \
                   select id from spaces where id <> coalesce((select max(id) from spaces where name = $1), 0)) s \
             cross join lateral (select * from patterns where space_id = s.id and id > $2 order by id limit $3) p \
             order by p.id limit $3",
        )
        .bind(space.as_str())
        .bind(after.map_or(i64::MIN, |id| id.0))
        .bind(i64::from(limit))
        .fetch_all(&mut *transaction)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Unembedded {
                    scope: Scope::verified(row.try_get(0)?, row.try_get(1)?),
                    id: PatternId(row.try_get(2)?),
                    task: rows::text(row.try_get(3)?),
                })
            })
            .collect()
    }

    async fn has_mark(&self, name: &str) -> Result<bool> {
        let row =
            sqlx::query("select 1 from marks where name = $1").bind(name).fetch_optional(&self.inner.pool).await?;
        Ok(row.is_some())
    }

    async fn set_mark(&self, name: &str, now: Timestamp) -> Result<()> {
        sqlx::query("insert into marks (name, created_at) values ($1, $2) on conflict do nothing")
            .bind(name)
            .bind(now)
            .execute(&self.inner.pool)
            .await?;
        Ok(())
    }

    async fn sweep(&self, sweep: &Sweep, now: Timestamp) -> Result<Vec<Scope>> {
        upkeep::sweep(self, sweep, now).await
    }

    async fn ping(&self) -> Result<()> {
        let mut transaction = self.inner.begin("begin read only").await?;
        sqlx::query("select 1").execute(&mut *transaction).await?;
        Ok(())
    }

    fn pool(&self) -> Option<PoolUse> {
        Some(self.inner.pool_use())
    }

    async fn revision(&self) -> Result<Revision> {
        let mut transaction = self.inner.begin("begin read only").await?;
        schema::revision(&mut transaction).await.map_err(StoreError::Backend)
    }

    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn close(&self) {
        self.upkeep.abort();
        // A unit of work that somebody still holds must not hold up the end.
        if tokio::time::timeout(connect::CLOSE_WITHIN, self.inner.pool.close()).await.is_err() {
            tracing::warn!("some connections are still at work");
        }
    }
}
