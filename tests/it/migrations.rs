//! Databases of earlier versions open with everything in them.

use engramia::domain::{Role, Scope, credential};
use engramia::store::Store;
use serde_json::json;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqlSafeStr};
use tempfile::TempDir;

use crate::support::app::{Setup, api_key, store_key};

/// A directory as version 1 left it: with what `rows` puts there.
pub async fn version_1(rows: &'static str) -> TempDir {
    let root = tempfile::tempdir().expect("a directory");
    let options = SqliteConnectOptions::new().filename(root.path().join("engramia.db")).create_if_missing(true);
    let mut connection = options.connect().await.expect("connected");
    let sql = include_str!("../../migrations/sqlite/0001_memory.sql").into_sql_str();
    let first = Migration::new(1, "memory".into(), MigrationType::Simple, sql, false);
    Migrator::with_migrations(vec![first]).run(&mut connection).await.expect("version 1");
    sqlx::raw_sql(rows).execute(&mut connection).await.expect("written");
    connection.close().await.expect("closed");
    root
}

/// A pattern that was learned three times with 8.0, in a memory beside that of the only key.
pub const ROWS: &str = "
    insert into patterns values (7, 'default', 'second', 'patterns/x', 't', 'c', null, 'internal', 'api', null, null, 0,
        8.0, 0, 1000000, 1000000, 3.0, 24.0, x'00', x'00', null, null);
    insert into pattern_text (rowid, scope, task) values (7, 'none', 't');
    insert into scope_statistics (tenant_id, project_id, patterns, runs) values ('default', 'second', 1, 3);
    insert into evaluations values
        ('default', 'second', 'a', 7, 8.0, 1.0, null, 1000000), ('default', 'second', 'b', 7, 8.0, 1.0, null, 2000000),
        ('default', 'second', 'c', 7, 8.0, 1.0, null, 3000000);
    insert into feedback values ('default', 'second', 'No tests', 'no tests', 3, 0.5, 7, 7);";

#[tokio::test]
async fn a_database_of_version_1_keeps_its_key_and_its_projects() {
    let root = version_1(ROWS).await;
    let options = SqliteConnectOptions::new().filename(root.path().join("engramia.db"));
    let mut connection = options.connect().await.expect("connected");
    sqlx::query("insert into api_keys values ('0be2046e-0000-7000-8000-000000000000', $1, $1, 'Owner key', 'p', $2, 'owner', 5)")
        .bind("default")
        .bind(&credential::hash("old")[..])
        .execute(&mut connection)
        .await
        .expect("a key");
    connection.close().await.expect("closed");
    let app = Setup::on(root).stored_keys().start().await;
    let owner = app.holder_of("old");
    let listed = owner.get("/v1/keys").await.ok();
    let created = "1970-01-01T00:00:00.000005Z";
    assert_eq!(listed["keys"].as_array().expect("a list").len(), 1, "no other was made: {listed}");
    assert_eq!(
        (&listed["keys"][0]["role"], &listed["keys"][0]["created_at"], &listed["keys"][0]["expires_at"]),
        (&json!("owner"), &json!(created), &json!(null))
    );
    let count = async |project: &str| {
        owner.get("/v1/health").header("x-project-id", project).await.ok()["pattern_count"].clone()
    };
    assert_eq!((count("default").await, count("second").await), (json!(0), json!(1)));
    let issues = owner.get("/v1/feedback").header("x-project-id", "second").await.ok();
    assert_eq!(issues["feedback"], json!(["No tests"]));
    owner.get("/v1/health").header("x-project-id", "third").await.problem(403, "FORBIDDEN");
    let outcome = owner.post("/v1/patterns/patterns/x/outcome", &json!({ "success": false, "score": 8 }));
    let evidence = outcome.header("x-project-id", "second").await.ok()["evidence"].clone();
    assert_eq!((&evidence["count"], &evidence["mean"]), (&json!(4), &json!(8.0)), "three reports and this one");
}

#[tokio::test]
async fn an_empty_database_of_version_1_opens() {
    let root = version_1("").await;
    let setup = Setup::on(root).prepare(async |store: &dyn Store| {
        assert!(!store.api_keys().any().await.expect("read"));
        store_key(store, &api_key("k", Scope::default(), Role::Owner)).await;
    });
    setup.await.stored_keys().start().await.holder_of("k").get("/v1/health").await.ok();
}
