//! SQL search of scopes that are too large for an exact scan and for the memory of a server (decision 20): a partial HNSW
//! index each, so that no graph is ever filtered by scope, and the best of its rows scored exactly.
//!
//! Source: `embedding-and-search.md` §4; Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search
//! using Hierarchical Navigable Small World graphs" (2018).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::unit::PostgresWork;
use super::{Inner, words};
use crate::domain::Scope;
use crate::store::Result;
use crate::store::engine::column;
use crate::store::memory::NearestQuery;

/// Scopes of fewer patterns are searched exactly (about 6 ms in SQL).
pub(super) const ANN_ROWS: i64 = 10_000;
/// Most components that a half-precision index takes.
const MAX_DIMENSIONS: usize = 4_000;
/// Rows that are scored exactly, for each one wanted and at least.
const CANDIDATES: (usize, usize) = (4, 100);
/// Queries by which an index is judged, and how many rows each compares.
const CANARIES: i64 = 10;
const CANARY_ROWS: i64 = 10;

/// The approximate indexes of the database, as this process knows them.
pub(super) struct Ann {
    /// Whether pgvector has iterative scans (0.8), without which a filter could leave nothing.
    supported: bool,
    /// Names of indexes that are complete.
    ready: RwLock<HashSet<String>>,
    /// Recall of each, by its last canary.
    recall: Mutex<HashMap<String, f64>>,
}

/// A scope that deserves an index.
struct Large {
    scope: Scope,
    space: i32,
    dimensions: i32,
    last_pattern: i64,
}

impl Ann {
    pub(super) async fn new(connection: &mut PgConnection) -> anyhow::Result<Self> {
        let row = sqlx::query("select extversion from pg_extension where extname = 'vector'");
        let version: String = row.fetch_one(connection).await?.try_get(0)?;
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let supported = (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (0, 8);
        if !supported {
            tracing::warn!(version, "pgvector is older than 0.8: scopes too large for memory are searched slowly");
        }
        Ok(Self { supported, ready: RwLock::default(), recall: Mutex::default() })
    }

    /// The recall of the worst index.
    pub(super) fn recall(&self) -> Option<f64> {
        let recall = self.recall.lock().unwrap_or_else(PoisonError::into_inner);
        recall.values().copied().min_by(f64::total_cmp)
    }

    fn is_ready(&self, name: &str) -> bool {
        self.ready.read().unwrap_or_else(PoisonError::into_inner).contains(name)
    }
}

/// Name of the index of a scope and a space.
fn index_name(scope: &Scope, space: i32) -> String {
    format!("vectors_ann_{}_{space}", words::token(scope))
}

/// Ids among which the best rows of a query most likely are; `None` where only an exact search will do.
pub(super) async fn candidates(
    work: &mut PostgresWork,
    query: &NearestQuery,
    patterns: i64,
) -> Result<Option<Vec<i64>>> {
    let inner = Arc::clone(&work.inner);
    let dimensions = i32::try_from(query.vector.values.len()).unwrap_or(i32::MAX);
    // A keyword score lifts rows that no vector index knows of.
    if patterns < ANN_ROWS || query.keywords.is_some() {
        return Ok(None);
    }
    let Some(space) = inner.indexes.space(&query.vector.space, dimensions, work.connection().await?).await? else {
        return Ok(None);
    };
    if !inner.ann.is_ready(&index_name(&work.scope, space)) {
        return Ok(None);
    }
    let wanted = (query.limit * CANDIDATES.0).max(CANDIDATES.1);
    let ids = approximate(work, query, space, wanted).await?;
    // So few: the filter leaves less than the scan was allowed to look through.
    Ok((ids.len() >= wanted.min(usize::try_from(patterns).unwrap_or(0))).then_some(ids))
}

async fn approximate(work: &mut PostgresWork, query: &NearestQuery, space: i32, wanted: usize) -> Result<Vec<i64>> {
    let filter = query.filter;
    let filtered = filter.classification.is_some() || filter.source.is_some() || filter.min_score.is_some();
    sqlx::query(
        "select set_config('hnsw.ef_search', $1, true), set_config('hnsw.iterative_scan', 'relaxed_order', true), \
         set_config('hnsw.max_scan_tuples', '40000', true), set_config('plan_cache_mode', 'force_custom_plan', true)",
    )
    .bind(wanted.clamp(200, 1000).to_string())
    .execute(work.connection().await?)
    .await?;
    // The width of the cast is part of the index. It is a number, and the only thing put into the text.
    let dimensions = query.vector.values.len();
    let and = if filtered {
        "and exists (select from patterns p where p.tenant_id = $1 and p.project_id = $2 and p.id = v.pattern_id \
         and ($6::text is null or p.classification = $6) and ($7::text is null or p.source = $7) \
         and ($8::double precision is null or p.success_score >= $8))"
    } else {
        "and $6::text is null and $7::text is null and $8::double precision is null"
    };
    let sql = format!(
        "select v.pattern_id from vectors v where v.tenant_id = $1 and v.project_id = $2 and v.space_id = $4 {and} \
         order by (v.vector::halfvec({dimensions})) <#> $3::halfvec({dimensions}) limit $5"
    );
    let scope = work.scope.clone();
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(scope.tenant().to_owned())
        .bind(scope.project().to_owned())
        .bind(pgvector::HalfVector::from_f32_slice(&query.vector.values))
        .bind(space)
        .bind(column(wanted as u64))
        .bind(filter.classification.map(|word| word.as_str()))
        .bind(filter.source.map(|word| word.as_str()))
        .bind(filter.min_score)
        .fetch_all(work.connection().await?)
        .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Builds what is missing, drops what is of no use, and learns what is there.
pub(super) async fn tend(inner: &Inner) -> Result<()> {
    // Without a space nobody can say which indexes are of use: other servers may need those that are there.
    if !inner.ann.supported || inner.indexes.space_name().is_empty() {
        return Ok(());
    }
    let large = large_scopes(inner).await?;
    let wanted: HashSet<String> = large.iter().map(|large| index_name(&large.scope, large.space)).collect();
    let mut ready = HashSet::new();
    for (name, complete) in existing(inner).await? {
        match (wanted.contains(&name), complete) {
            (true, true) => drop(ready.insert(name)),
            (true, false) if is_being_built(inner, &name).await? => {}
            // Somebody's build broke off, or the scope has shrunk.
            _ => statement(inner, &format!("drop index concurrently if exists {name}")).await?,
        }
    }
    *inner.ann.ready.write().unwrap_or_else(PoisonError::into_inner) = ready.clone();
    for large in large {
        let name = index_name(&large.scope, large.space);
        if !ready.contains(&name) {
            build(inner, &large, &name).await?;
            inner.ann.ready.write().unwrap_or_else(PoisonError::into_inner).insert(name);
        }
    }
    Ok(())
}

/// Drops the indexes of a scope: they hold its vectors, and its name. Those of a whole tenant, and one that somebody else's
/// long transaction keeps, go with the next round.
pub(super) async fn forget(inner: &Inner, scope: &Scope) -> Result<()> {
    let own = index_name(scope, 0);
    let own = own.trim_end_matches('0');
    for (name, _) in existing(inner).await?.iter().filter(|(name, _)| name.starts_with(own)) {
        let mut connection = inner.pool.acquire().await?;
        sqlx::raw_sql("set statement_timeout = '20s'").execute(&mut *connection).await?;
        let drop = format!("drop index concurrently if exists {name}");
        let dropped = sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut *connection).await;
        sqlx::raw_sql("reset statement_timeout").execute(&mut *connection).await?;
        if let Err(error) = dropped {
            tracing::warn!(%error, name, "an index of what was erased is dropped later");
        }
    }
    Ok(())
}

/// Scopes over the border whose vectors find no room in this server's memory.
async fn large_scopes(inner: &Inner) -> Result<Vec<Large>> {
    let mut transaction = inner.system().await?;
    let rows = sqlx::query(
        "select s.tenant_id, s.project_id, n.id, n.dimensions, s.patterns, s.last_pattern \
         from scopes s cross join (select id, dimensions from spaces where name = $1) n where s.patterns >= $2",
    )
    .bind(inner.indexes.space_name().to_owned())
    .bind(ANN_ROWS)
    .fetch_all(&mut *transaction)
    .await?;
    let mut large = Vec::new();
    for row in rows {
        let (dimensions, patterns): (i32, i64) = (row.try_get(3)?, row.try_get(4)?);
        let width = usize::try_from(dimensions).unwrap_or(usize::MAX);
        if width <= MAX_DIMENSIONS && !inner.indexes.has_room(patterns, width) {
            let scope = Scope::verified(row.try_get(0)?, row.try_get(1)?);
            large.push(Large { scope, space: row.try_get(2)?, dimensions, last_pattern: row.try_get(5)? });
        }
    }
    Ok(large)
}

/// Names of the approximate indexes, and whether each is complete.
async fn existing(inner: &Inner) -> Result<Vec<(String, bool)>> {
    let rows = sqlx::query(
        "select c.relname, i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid \
         where i.indrelid = 'vectors'::regclass and c.relname like 'vectors\\_ann\\_%'",
    )
    .fetch_all(&inner.pool)
    .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

async fn is_being_built(inner: &Inner, name: &str) -> Result<bool> {
    let row = sqlx::query("select 1 from pg_stat_progress_create_index where index_relid = to_regclass($1)")
        .bind(name.to_owned())
        .fetch_optional(&inner.pool)
        .await?;
    Ok(row.is_some())
}

async fn build(inner: &Inner, large: &Large, name: &str) -> Result<()> {
    tracing::info!(name, "building an approximate index; searches are exact until it is done");
    // The database quotes its own literals.
    let row = sqlx::query(
        "select format('create index concurrently if not exists %I on vectors using hnsw \
         ((vector::halfvec(%s)) halfvec_ip_ops) with (m = 16, ef_construction = 128) \
         where tenant_id = %L and project_id = %L and space_id = %s', $1, $2, $3, $4, $5)",
    )
    .bind(name.to_owned())
    .bind(large.dimensions)
    .bind(large.scope.tenant().to_owned())
    .bind(large.scope.project().to_owned())
    .bind(large.space)
    .fetch_one(&inner.pool)
    .await?;
    statement(inner, row.try_get(0)?).await
}

/// Runs a statement that can be part of no transaction and has no parameters.
async fn statement(inner: &Inner, sql: &str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&inner.pool).await?;
    Ok(())
}

/// Compares each index with an exact search, by queries that are rows of the scope.
pub(super) async fn judge(inner: &Arc<Inner>) -> Result<()> {
    let mut judged = HashMap::new();
    for large in large_scopes(inner).await? {
        let name = index_name(&large.scope, large.space);
        if inner.ann.is_ready(&name)
            && let Some(recall) = canaries(inner, &large).await?
        {
            if recall < 0.9 {
                tracing::warn!(name, recall, "an approximate index misses many of the best rows");
            }
            judged.insert(name, recall);
        }
    }
    *inner.ann.recall.lock().unwrap_or_else(PoisonError::into_inner) = judged;
    Ok(())
}

async fn canaries(inner: &Arc<Inner>, large: &Large) -> Result<Option<f64>> {
    let mut work = PostgresWork::reading(inner, &large.scope);
    let first = large.last_pattern & !i64::from(u32::MAX);
    let (mut found, mut expected) = (0, 0);
    for number in 0..CANARIES {
        let from = first + (large.last_pattern - first) * number / CANARIES;
        let (query, connection) = work
            .scoped(
                "select vector from vectors where tenant_id = $1 and project_id = $2 and pattern_id > $3 \
                 and space_id = $4 order by pattern_id limit 1",
            )
            .await?;
        let Some(row) = query.bind(from).bind(large.space).fetch_optional(connection).await? else { continue };
        let canary: pgvector::Vector = row.try_get(0)?;
        let best = best_rows(&mut work, large, &canary).await?;
        let query = NearestQuery {
            vector: crate::ports::Vector {
                space: crate::ports::Space(inner.indexes.space_name().into()),
                values: canary.to_vec().into(),
            },
            keywords: None,
            filter: Default::default(),
            ranking: Default::default(),
            limit: CANARY_ROWS as usize,
        };
        let near = approximate(&mut work, &query, large.space, CANDIDATES.1).await?;
        found += best.iter().filter(|id| near.contains(id)).count();
        expected += best.len();
    }
    Ok((expected > 0).then(|| found as f64 / expected as f64))
}

/// The true best rows. `+ 0` keeps any index out of it.
async fn best_rows(work: &mut PostgresWork, large: &Large, canary: &pgvector::Vector) -> Result<Vec<i64>> {
    let (query, connection) = work
        .scoped(
            "select pattern_id from vectors where tenant_id = $1 and project_id = $2 and space_id = $3 \
             order by (vector <#> $4) + 0 limit $5",
        )
        .await?;
    let rows = query.bind(large.space).bind(canary.clone()).bind(CANARY_ROWS).fetch_all(connection).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
