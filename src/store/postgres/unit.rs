//! The unit of work: one transaction that has named its scope and works as a role that sees nothing else.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use sqlx::postgres::PgArguments;
use sqlx::{PgConnection, Postgres, Row, Transaction};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::erasure::tenant_lock;
use super::{Inner, connect};
use crate::domain::{PatternId, Scope, text};
use crate::store::{
    Analytics, Audits, Billing, Copying, Erasure, Feedbacks, Jobs, Keys, Patterns, PaymentLedger, PoolUse, Projects,
    Result, Retentions, Skills, Spend, Statistics, StoreError, SubjectRequests, Work,
};

/// Longest statement of a unit of work, in milliseconds.
const STATEMENT_TIMEOUT: &str = "30000";
/// Queues of writers; scopes that share one only wait a little longer.
const QUEUES: usize = 64;
/// Connections that may turn out to be dead before the request gives up.
const ATTEMPTS: usize = 32;

pub(super) type Statement = sqlx::query::Query<'static, Postgres, PgArguments>;

/// Writers of one scope wait here, not each on a connection of its own: readers need those.
pub(super) struct Turns([Queue; QUEUES]);

#[derive(Default)]
struct Queue {
    turn: Arc<Mutex<()>>,
    /// How many had their turn and found no database.
    failed: AtomicU64,
}

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Queue::default()))
    }
}

impl Turns {
    fn of(&self, scope: &Scope) -> &Queue {
        let mut hasher = DefaultHasher::new();
        scope.hash(&mut hasher);
        &self.0[hasher.finish() as usize % QUEUES]
    }
}

impl Queue {
    /// Waits for the turn; fails if somebody before found no database. Otherwise each one in the queue would look for it
    /// in turn, and the last one would hear of it after minutes.
    async fn take(&self) -> Result<OwnedMutexGuard<()>> {
        let failed = self.failed.load(Ordering::Acquire);
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if self.failed.load(Ordering::Acquire) == failed {
            return Ok(turn);
        }
        Err(StoreError::Backend(anyhow::anyhow!("whoever wrote before could not reach the database")))
    }

    fn fail(&self) {
        self.failed.fetch_add(1, Ordering::AcqRel);
    }
}

/// A unit of work on PostgreSQL.
pub(super) struct PostgresWork {
    pub(super) inner: Arc<Inner>,
    pub(super) scope: Scope,
    pub(super) access: Access,
}

pub(super) enum Access {
    /// Takes a connection when it needs one.
    Read(Option<Transaction<'static, Postgres>>),
    Write(Writing),
}

pub(super) struct Writing {
    transaction: Transaction<'static, Postgres>,
    /// The scope's revision when this unit is committed.
    pub(super) revision: i64,
    /// The newest pattern id of the scope.
    pub(super) last_pattern: i64,
    _turn: OwnedMutexGuard<()>,
}

impl Inner {
    /// Begins a transaction. Connections that died while nobody used them are put away: nothing has been done yet.
    ///
    /// To the end, even if the caller goes away: a transaction that has begun while nobody waited for it any more would
    /// stay open on its connection, and whoever gets that next would work in it.
    pub(super) async fn begin(&self, statement: &'static str) -> Result<Transaction<'static, Postgres>> {
        let (pool, waiting) = (self.pool.clone(), Arc::clone(&self.waiting));
        let beginning = tokio::spawn(async move {
            waiting.fetch_add(1, Ordering::Relaxed);
            let mut attempt = 0;
            let outcome = loop {
                match pool.begin_with(statement).await {
                    Err(error) if connect::is_broken(&error) && attempt < ATTEMPTS => attempt += 1,
                    outcome => break outcome,
                }
            };
            waiting.fetch_sub(1, Ordering::Relaxed);
            outcome
        });
        Ok(beginning.await.map_err(|error| StoreError::Backend(error.into()))??)
    }

    /// What the pool is doing. Whoever begins while a connection is free does not wait.
    pub(super) fn pool_use(&self) -> PoolUse {
        let size = self.pool.options().get_max_connections();
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX);
        let checked_out = self.pool.size().saturating_sub(idle).min(size);
        let waiting = if checked_out < size { 0 } else { self.waiting.load(Ordering::Relaxed) };
        PoolUse { size, checked_out, waiting }
    }

    /// A transaction in a scope, as the role of the application.
    pub(super) async fn enter(&self, scope: &Scope, statement: &'static str) -> Result<Transaction<'static, Postgres>> {
        let mut transaction = self.begin(statement).await?;
        sqlx::query(
            "select set_config('engramia.tenant', $1, true), set_config('engramia.project', $2, true), \
             set_config('role', $3, true), set_config('statement_timeout', $4, true)",
        )
        .bind(scope.tenant())
        .bind(scope.project())
        .bind(self.role)
        .bind(STATEMENT_TIMEOUT)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction)
    }

    /// A reading transaction that sees every scope, for work that is no tenant's own.
    pub(super) async fn system(&self) -> Result<Transaction<'static, Postgres>> {
        self.system_by("begin read only").await
    }

    /// A writing transaction that sees every scope.
    pub(super) async fn system_writing(&self) -> Result<Transaction<'static, Postgres>> {
        self.system_by("begin").await
    }

    async fn system_by(&self, statement: &'static str) -> Result<Transaction<'static, Postgres>> {
        let mut transaction = self.begin(statement).await?;
        sqlx::query("select set_config('engramia.system', 'on', true), set_config('role', $1, true)")
            .bind(self.role)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction)
    }
}

/// Pattern ids of a scope begin here: its digest in the upper half, so that ids of two scopes are never equal in
/// practice and no sequence is needed. The lower half counts.
fn first_pattern(scope: &Scope) -> i64 {
    let digest = text::digest(&format!("{}\0{}", scope.tenant(), scope.project()));
    let mut half = [0; 4];
    half.copy_from_slice(&digest[..4]);
    i64::from(u32::from_be_bytes(half) >> 1) << 32
}

impl PostgresWork {
    pub(super) fn reading(inner: &Arc<Inner>, scope: &Scope) -> Self {
        Self { inner: Arc::clone(inner), scope: scope.clone(), access: Access::Read(None) }
    }

    /// Waits until no other unit of work writes in the scope, and raises the scope's revision. Fails if it is closed.
    pub(super) async fn writing(inner: &Arc<Inner>, scope: &Scope) -> Result<Self> {
        let (mut work, is_closed) = Self::entering(inner, scope).await?;
        // A scope that is only just there knows nothing of its tenant.
        if is_closed || work.revision()? == 1 && work.tenant_is_closed().await? {
            return Err(StoreError::Erased);
        }
        Ok(work)
    }

    /// The same where the scope may be closed; one that is the whole tenant sees all of it.
    pub(super) async fn erasing(inner: &Arc<Inner>, scope: &Scope) -> Result<Self> {
        let (mut work, _) = Self::entering(inner, scope).await?;
        if scope.is_whole_tenant() {
            sqlx::query("select set_config('engramia.system', 'on', true)").execute(work.connection().await?).await?;
        }
        Ok(work)
    }

    /// Whether the tenant is being erased, or was; from now on until the end of this unit nobody begins to.
    async fn tenant_is_closed(&mut self) -> Result<bool> {
        let tenant = self.scope.tenant().to_owned();
        sqlx::query(concat!("select pg_advisory_xact_lock_shared(", tenant_lock!(), ", hashtext($1))"))
            .bind(tenant.clone())
            .execute(self.connection().await?)
            .await?;
        let query = sqlx::query("select 1 from tenants where id = $1 and closed_at is not null").bind(tenant);
        Ok(query.fetch_optional(self.connection().await?).await?.is_some())
    }

    /// A unit of work, and whether its scope is closed.
    async fn entering(inner: &Arc<Inner>, scope: &Scope) -> Result<(Self, bool)> {
        let queue = inner.turns.of(scope);
        let turn = queue.take().await?;
        let mut transaction = inner.enter(scope, "begin").await.inspect_err(|_| queue.fail())?;
        let row = sqlx::query(
            "insert into scopes (tenant_id, project_id, revision, last_pattern) values ($1, $2, 1, $3) \
             on conflict (tenant_id, project_id) do update set revision = scopes.revision + 1 \
             returning revision, last_pattern, closed_at is not null",
        )
        .bind(scope.tenant())
        .bind(scope.project())
        .bind(first_pattern(scope))
        .fetch_one(&mut *transaction)
        .await?;
        let (revision, last_pattern) = (row.try_get(0)?, row.try_get(1)?);
        let access = Access::Write(Writing { transaction, revision, last_pattern, _turn: turn });
        Ok((Self { inner: Arc::clone(inner), scope: scope.clone(), access }, row.try_get(2)?))
    }

    /// The connection, in its transaction.
    pub(super) async fn connection(&mut self) -> Result<&mut PgConnection> {
        match &mut self.access {
            Access::Write(writing) => Ok(&mut writing.transaction),
            Access::Read(Some(transaction)) => Ok(transaction),
            Access::Read(empty) => Ok(empty.insert(self.inner.enter(&self.scope, "begin read only").await?)),
        }
    }

    /// A statement whose `$1` and `$2` are bound to tenant and project, and where to run it.
    pub(super) async fn scoped(&mut self, sql: &'static str) -> Result<(Statement, &mut PgConnection)> {
        let query = sqlx::query(sql).bind(self.scope.tenant().to_owned()).bind(self.scope.project().to_owned());
        Ok((query, self.connection().await?))
    }

    /// What a writer knows of its scope.
    pub(super) fn written(&mut self) -> Result<&mut Writing> {
        match &mut self.access {
            Access::Write(writing) => Ok(writing),
            Access::Read(_) => Err(StoreError::Backend(anyhow::anyhow!("a reading unit of work cannot write"))),
        }
    }

    /// The revision that this unit of work gives to what it writes.
    pub(super) fn revision(&mut self) -> Result<i64> {
        Ok(self.written()?.revision)
    }

    /// The id of the next pattern, if it is inserted.
    pub(super) fn next_pattern(&mut self) -> Result<PatternId> {
        Ok(PatternId(self.written()?.last_pattern + 1))
    }
}

#[async_trait]
impl Work for PostgresWork {
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
            Access::Write(writing) => Ok(writing.transaction.commit().await?),
        }
    }
}
