//! Large scopes in PostgreSQL: a small one beside them gets its exact best, and a scope that no memory holds is searched
//! through an index of its own that is watched.

use std::sync::Arc;

use engramia::compute::ComputePool;
use engramia::domain::{PatternId, Scope};
use engramia::ports::{Space, Vector};
use engramia::store::Store;
use engramia::store::memory::{Filter, NearestQuery, Ranking};
use engramia::store::postgres::{PostgresStore, Settings};
use sqlx::{PgConnection, Row};

use crate::support::eventually;
use crate::support::postgres::{Database, execute, settings};

const SPACE: &str = "test/large";
const DIMENSIONS: usize = 16;

fn scope(tenant: &str) -> Scope {
    Scope::verified(tenant, "web")
}

/// Writes patterns with random vectors as the store would, faster than through it.
async fn fill(connection: &mut PgConnection, tenant: &str, first: i64, count: i64) {
    let last = first + count;
    execute(
        connection,
        &format!(
            "set session_replication_role = replica;
             insert into spaces (name, dimensions) values ('{SPACE}', {DIMENSIONS}) on conflict do nothing;
             insert into scopes (tenant_id, project_id, revision, last_pattern, patterns)
                 values ('{tenant}', 'web', 1, {last}, {count});
             insert into patterns
                 select '{tenant}', 'web', {first} + n, 1, 'patterns/' || n, 'task', null, null,
                     case when n % 2 = 0 then 'public' else 'internal' end, 'api', null, null, false, 5, 0,
                     '2026-01-01', '2026-01-01', 1, 5, '\\x00', '\\x00', null, 1
                 from generate_series(1, {count}) n;
             insert into vectors
                 select '{tenant}', 'web', {first} + n, 1,
                     l2_normalize((select array_agg(random() - 0.5) from generate_series(1, {DIMENSIONS}) where n > 0)::vector)
                 from generate_series(1, {count}) n;"
        ),
    )
    .await;
}

async fn open(database: &Database, search_memory_bytes: usize) -> PostgresStore {
    let settings = Settings { search_memory_bytes, ..settings(&database.url()) };
    let compute = Arc::new(ComputePool::start(1, 64).expect("threads"));
    PostgresStore::open(&settings, Some(Space(SPACE.into())), compute).await.expect("the store opens")
}

fn query(values: Vec<f32>, filter: Filter) -> NearestQuery {
    let vector = Vector::normalized(Space(SPACE.into()), values).expect("a direction");
    NearestQuery { vector, keywords: None, filter, ranking: Ranking::default(), limit: 10 }
}

async fn nearest(store: &PostgresStore, tenant: &str, query: &NearestQuery) -> Vec<PatternId> {
    let mut work = store.read(&scope(tenant)).await.expect("a unit of work");
    let found = work.patterns().nearest(query).await.expect("searched");
    found.iter().map(|row| row.id).collect()
}

/// The definition, row by row, without any index.
async fn expected(connection: &mut PgConnection, tenant: &str, query: &NearestQuery) -> Vec<PatternId> {
    let rows = sqlx::query(
        "select v.pattern_id from vectors v join patterns p on p.tenant_id = v.tenant_id and p.id = v.pattern_id \
         where v.tenant_id = $1 and ($3::text is null or p.classification = $3) \
         order by (v.vector <#> $2) + 0, v.pattern_id limit 10",
    )
    .bind(tenant)
    .bind(pgvector::Vector::from(query.vector.values.to_vec()))
    .bind(query.filter.classification.map(|word| word.as_str()));
    let rows = rows.fetch_all(connection).await.expect("searched");
    rows.iter().map(|row| PatternId(row.try_get(0).expect("an id"))).collect()
}

/// Some directions.
fn directions() -> impl Iterator<Item = Vec<f32>> {
    (0..20usize).map(|n| (0..DIMENSIONS).map(|d| ((n * 31 + d * 17) % 23) as f32 - 11.2).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_tenant_beside_a_large_one_gets_its_exact_best() {
    let database = Database::new().await;
    let mut connection = database.connect().await;
    fill(&mut connection, "large", 0, 200_000).await;
    fill(&mut connection, "small", 1 << 40, 50).await;
    execute(&mut connection, "analyze").await;
    for search_memory_bytes in [0, 64 << 20] {
        let store = open(&database, search_memory_bytes).await;
        for direction in directions() {
            let query = query(direction, Filter::default());
            let found = nearest(&store, "small", &query).await;
            assert_eq!(found, expected(&mut connection, "small", &query).await);
            assert_eq!(found.len(), 10, "none is crowded out");
        }
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scope_that_no_memory_holds_gets_an_index_that_is_watched() {
    let database = Database::new().await;
    let mut connection = database.connect().await;
    fill(&mut connection, "large", 0, 12_000).await;
    execute(&mut connection, "analyze").await;
    let store = open(&database, 0).await;
    let recall =
        eventually("the index is built and judged", || async { store.totals().await.expect("read").ann_recall }).await;
    assert!(recall > 0.9, "{recall}");

    let public = Filter { classification: Some(engramia::domain::Classification::Public), ..Filter::default() };
    for filter in [Filter::default(), public] {
        let (mut hits, mut all) = (0, 0);
        for direction in directions() {
            let query = query(direction, filter);
            let (found, best) =
                (nearest(&store, "large", &query).await, expected(&mut connection, "large", &query).await);
            assert_eq!(found.len(), best.len());
            hits += best.iter().filter(|id| found.contains(id)).count();
            all += best.len();
        }
        assert!(hits * 100 >= all * 95, "{hits} of {all} with {filter:?}");
    }
    // Connections report what they have done when they end, at the latest.
    store.close().await;
    eventually("the index was used", || async {
        let sql = "select 1 from pg_stat_all_indexes where indexrelname like 'vectors\\_ann%' and idx_scan > 0";
        let found = sqlx::query(sql).fetch_optional(&mut database.connect().await).await.expect("read");
        found.is_some().then_some(())
    })
    .await;

    // When the scope has shrunk, or finds room, the index goes.
    let store = open(&database, 64 << 20).await;
    eventually("the index is dropped", || async {
        let found = sqlx::query("select 1 from pg_indexes where indexname like 'vectors\\_ann%'");
        let found = found.fetch_optional(&mut database.connect().await).await.expect("read");
        found.is_none().then_some(())
    })
    .await;
    store.close().await;
}
