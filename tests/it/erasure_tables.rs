//! Whoever adds a table says what becomes of its rows when a project or a tenant is erased.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use engramia::compute::ComputePool;
use engramia::store::Store;
use engramia::store::sqlite::SqliteStore;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Row};
use tempfile::TempDir;

use crate::support::postgres::Database;

/// Tables of which no row goes, and why.
const KEPT: &[(&str, &str)] = &[
    ("_sqlx_migrations", "nobody's"),
    ("spaces", "nobody's: names of embedding models"),
    ("marks", "nobody's"),
    ("sweeps", "nobody's: how far rounds through all scopes are"),
    ("tenants", "marked as deleted, the name scrubbed"),
    ("projects", "marked as deleted, the name scrubbed"),
    ("api_keys", "revoked, the name scrubbed: the hash stays, so that a key that comes again is known to be dead"),
    ("audit_log", "address and detail scrubbed: the chain of hashes is the proof"),
    ("audit_heads", "the end of the chain"),
    ("erasures", "says that the scope is closed"),
    ("scopes", "emptied: revisions and ids are never used twice"),
];

/// Tables that the sources of a store list, by the macros that make their statements.
fn listed(store: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store").join(store).join("erasure.rs");
    let code = fs::read_to_string(path).expect("a text");
    let lists = code.split("const OF_A_").skip(1).map(|rest| rest.split("];").next().unwrap_or_default());
    let calls = lists.flat_map(|list| list.split('!').skip(1).filter_map(|call| call.split('"').nth(1)));
    let found: BTreeSet<String> = calls.map(str::to_owned).collect();
    assert!(found.len() > 10 && found.contains("patterns") && found.contains("model_spend"), "{found:?}");
    found
}

fn assert_complete(store: &str, tables: &BTreeSet<String>) {
    assert!(tables.len() > 15, "the schema was not found: {tables:?}");
    let listed = listed(store);
    let kept: BTreeSet<String> = KEPT.iter().map(|(table, _)| (*table).to_owned()).collect();
    let forgotten: Vec<_> = tables.iter().filter(|table| !listed.contains(*table) && !kept.contains(*table)).collect();
    assert!(forgotten.is_empty(), "what becomes of {forgotten:?}? See src/store/{store}/erasure.rs");
    let gone: Vec<_> = listed.iter().filter(|table| !tables.contains(*table)).collect();
    assert!(gone.is_empty(), "{gone:?} are listed and not there");
    let both: Vec<_> = listed.intersection(&kept).collect();
    assert!(both.is_empty(), "{both:?} go and stay");
}

#[tokio::test]
async fn every_table_of_the_embedded_store_is_erased_or_kept_for_a_reason() {
    let root = TempDir::new().expect("a directory");
    let compute = Arc::new(ComputePool::start(1, 16).expect("a thread"));
    SqliteStore::open(root.path(), None, compute).await.expect("the store opens").close().await;
    let options = SqliteConnectOptions::new().filename(root.path().join("engramia.db"));
    let mut connection = options.connect().await.expect("a database");
    let rows = sqlx::query("select name, type from pragma_table_list where schema = 'main' and type <> 'shadow'")
        .fetch_all(&mut connection)
        .await
        .expect("read");
    let names = rows.iter().map(|row| row.get::<String, _>(0)).filter(|name| !name.starts_with("sqlite_"));
    assert_complete("sqlite", &names.collect());
}

#[tokio::test]
async fn every_table_of_postgresql_is_erased_or_kept_for_a_reason() {
    let database = Database::new().await;
    let rows = sqlx::query(
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'm')",
    )
    .fetch_all(&mut database.connect().await)
    .await
    .expect("read");
    assert_complete("postgres", &rows.iter().map(|row| row.get::<String, _>(0)).collect());
}
