//! Databases of earlier versions open with everything in them.

use engramia::domain::{Role, Scope, credential};
use engramia::store::Store;
use serde_json::json;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqlSafeStr};
use tempfile::TempDir;

use crate::support::app::{Setup, api_key, store_key};
use crate::support::run;

/// A directory as version 1 left it: an owner key, and a memory that it had opened beside its own.
async fn version_1() -> TempDir {
    // The patterns of today are written by today's program; then everything that version 1 did not know is taken away.
    let setup = Setup::new().start().await;
    setup.owner().post("/v1/learn", &run("t", "c", 5.0)).header("x-project-id", "second").await.ok();
    let root = setup.stop().await;
    let options = SqliteConnectOptions::new().filename(root.path().join("engramia.db"));
    let mut connection = options.connect().await.expect("connected");
    let undo = "drop table carried_rows; drop table audit_log; drop table audit_heads; drop table projects; drop table tenants; \
                drop table api_keys; delete from _sqlx_migrations where version > 1; \
                create table api_keys (id text not null primary key, tenant_id text not null, \
                project_id text not null, name text not null, key_prefix text not null, \
                key_hash blob not null unique, role text not null, created_at integer not null) strict";
    sqlx::raw_sql(undo).execute(&mut connection).await.expect("undone");
    sqlx::query("insert into api_keys values ('0be2046e-0000-7000-8000-000000000000', $1, $1, 'Owner key', 'p', $2, 'owner', 5)")
        .bind("default")
        .bind(&credential::hash("old")[..])
        .execute(&mut connection)
        .await
        .expect("a key");
    connection.close().await.expect("closed");
    root
}

#[tokio::test]
async fn a_database_of_version_1_keeps_its_key_and_its_projects() {
    let app = Setup::on(version_1().await).stored_keys().start().await;
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
    owner.get("/v1/health").header("x-project-id", "third").await.problem(403, "FORBIDDEN");
}

#[tokio::test]
async fn an_empty_database_of_version_1_opens() {
    let root = tempfile::tempdir().expect("a directory");
    let options = SqliteConnectOptions::new().filename(root.path().join("engramia.db")).create_if_missing(true);
    let mut connection = options.connect().await.expect("connected");
    let sql = include_str!("../../migrations/sqlite/0001_memory.sql").into_sql_str();
    let first = Migration::new(1, "memory".into(), MigrationType::Simple, sql, false);
    Migrator::with_migrations(vec![first]).run(&mut connection).await.expect("version 1");
    connection.close().await.expect("closed");
    let setup = Setup::on(root).prepare(async |store: &dyn Store| {
        assert!(!store.api_keys().any().await.expect("read"));
        store_key(store, &api_key("k", Scope::default(), Role::Owner)).await;
    });
    setup.await.stored_keys().start().await.holder_of("k").get("/v1/health").await.ok();
}
