//! The start on PostgreSQL: what is wrong with the database is said in one line, and who may do what is enough.

use std::process::{Command, Output};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::support::cluster::Cluster;
use crate::support::postgres::{Database, execute, numbers};
use crate::support::program::{Server, finished, lesson, on_database, refused};

/// The newest version of the schema.
const NEWEST: i64 = 12;

/// A login of one test; gone with it.
struct Login {
    name: String,
    connection: PgConnection,
}

impl Login {
    async fn new(database: &Database) -> Self {
        let name = format!("it_login_{}", Uuid::new_v4().simple());
        let mut connection = database.connect().await;
        execute(&mut connection, &format!("create role {name} login nosuperuser")).await;
        Self { name, connection }
    }

    /// Runs a statement with the name of the login for `{}`, as the superuser.
    async fn run(&mut self, sql: &str) -> &mut Self {
        execute(&mut self.connection, &sql.replace("{}", &self.name)).await;
        self
    }

    /// Takes the role back, with everything that it owns.
    async fn end(mut self) {
        execute(&mut self.connection, &format!("drop owned by {0} cascade; drop role {0}", self.name)).await;
        self.connection.close().await.expect("closed");
    }
}

async fn migrate(url: &str, flags: &[&str]) -> Output {
    let mut command = on_database(url);
    command.arg("migrate").args(flags);
    finished(command).await
}

fn migrate_command(url: &str) -> Command {
    let mut command = on_database(url);
    command.arg("migrate");
    command
}

/// Refused alike by the server and by `engramia migrate`.
async fn both_refused(url: &str) -> String {
    let (server, migration) = tokio::join!(refused(on_database(url)), refused(migrate_command(url)));
    assert_eq!(server, migration);
    server
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let database = Database::empty().await;
    let mut connection = database.connect().await;
    // The server asks this one for a password.
    execute(
        &mut connection,
        "do $$ begin create role locked login password 'right-password'; \
         exception when duplicate_object or unique_violation then null; end $$",
    )
    .await;
    for password in [":wrong-password", ""] {
        let said = both_refused(&database.url_as(&format!("locked{password}"))).await;
        assert!(said.contains("user or password of ENGRAMIA_DATABASE_URL are refused"), "{said}");
        assert!(!said.contains("wrong-password"), "{said}");
    }
}

#[tokio::test]
async fn an_unknown_database_or_user_is_refused() {
    let database = Database::empty().await;
    let said = both_refused(&format!("{}_missing", database.url())).await;
    assert!(said.contains("the database that ENGRAMIA_DATABASE_URL names does not exist: create it first"), "{said}");
    let said = both_refused(&database.url_as("nobody_of_this_name")).await;
    assert!(said.contains("user or password of ENGRAMIA_DATABASE_URL are refused"), "{said}");
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_refused_after_a_wait() {
    // Bound and not listening: nobody else gets the port meanwhile.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let port = socket.local_addr().expect("bound").port();
    let said = both_refused(&format!("postgres://user:secret-word@127.0.0.1:{port}/engramia")).await;
    assert!(said.contains("no answer at the address of ENGRAMIA_DATABASE_URL"), "{said}");
    assert!(!said.contains("secret-word"), "{said}");
}

#[tokio::test]
async fn what_is_no_connection_string_is_refused() {
    let said = both_refused("mysql://user:secret-word@h/db").await;
    assert!(said.contains("ENGRAMIA_DATABASE_URL") && !said.contains("secret-word"), "{said}");
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_kept() {
    let database = Database::new().await;
    let mut connection = database.connect().await;
    execute(&mut connection, &format!("update _sqlx_migrations set version = 99 where version = {NEWEST}")).await;
    let said = both_refused(&database.url()).await;
    let expected =
        format!("the database has schema 99, which is newer than this program's ({NEWEST}): start a newer program");
    assert!(said.contains(&expected), "{said}");
    assert_eq!(numbers(&mut connection, "select max(version) from _sqlx_migrations").await, [99]);
}

#[tokio::test]
async fn the_tables_of_another_server_are_refused_and_kept() {
    let database = Database::empty().await;
    let mut connection = database.connect().await;
    execute(&mut connection, "create table memory_data (id bigint); insert into memory_data values (7)").await;
    let said = both_refused(&database.url()).await;
    assert!(said.contains("this database holds another server's tables: give an empty database"), "{said}");
    assert_eq!(numbers(&mut connection, "select id from memory_data").await, [7]);
    let tables = "select count(*) from information_schema.tables where table_schema = 'public'";
    assert_eq!(numbers(&mut connection, tables).await, [1], "nothing was added");
}

#[tokio::test]
async fn a_login_that_may_not_change_the_schema_is_told_what_to_run() {
    let database = Database::empty().await;
    let mut stranger = Login::new(&database).await;
    let said = both_refused(&database.url_as(&stranger.name)).await;
    assert!(said.contains("run `engramia migrate` once with a login that owns the database"), "{said}");
    assert!(said.contains("(and may create the extension `vector`)"), "{said}");

    // It may create tables, and still not the extension; what it began is rolled back.
    stranger.run("grant all on schema public to {}").await;
    let said = both_refused(&database.url_as(&stranger.name)).await;
    assert!(said.contains("(and may create the extension `vector`)"), "{said}");
    let ours = "select count(*) from information_schema.tables where table_name in ('patterns', 'scopes')";
    assert_eq!(numbers(&mut stranger.connection, ours).await, [0]);

    // With the extension it can do the rest itself.
    stranger.run("create extension vector").await;
    let made = migrate(&database.url_as(&stranger.name), &[]).await;
    assert!(made.status.success(), "{made:?}");
    stranger.end().await;
}

#[tokio::test]
async fn a_server_without_pgvector_is_refused() {
    let cluster = Cluster::without_pgvector().await;
    let said = both_refused(cluster.url()).await;
    assert!(
        said.contains("the extension `vector` is not there: install pgvector 0.5 or newer on the server"),
        "{said}"
    );
}

#[tokio::test]
async fn migrate_makes_an_empty_database_ready_and_says_so() {
    let database = Database::empty().await;
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let first = migrate(&database.url(), &["--json"]).await;
    assert_eq!(serde_json::from_slice::<Value>(&first.stdout).ok(), Some(json!({ "before": 0, "now": NEWEST })));
    let second = migrate(&database.url(), &["--json"]).await;
    assert_eq!(serde_json::from_slice::<Value>(&second.stdout).ok(), Some(json!({ "before": NEWEST, "now": NEWEST })));
    let third = migrate(&database.url(), &[]).await;
    assert!(third.status.success());
    assert_eq!(text(&third), format!("the schema is at version {NEWEST}"));
}

#[tokio::test]
async fn many_migrations_at_once_do_it_once() {
    let database = Database::empty().await;
    let url = database.url();
    let made = futures_util::future::join_all((0..4).map(|_| migrate(&url, &["--json"]))).await;
    for output in &made {
        assert!(output.status.success(), "{output:?}");
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).expect("JSON")["now"], NEWEST);
    }
    let mut connection = database.connect().await;
    assert_eq!(numbers(&mut connection, "select count(*) from _sqlx_migrations").await, [NEWEST]);
}

#[tokio::test]
async fn a_member_of_the_application_role_needs_nothing_more_once_the_schema_is_there() {
    let database = Database::empty().await;
    assert!(migrate(&database.url(), &[]).await.status.success(), "the owner");
    let mut member = Login::new(&database).await;
    member.run("grant engramia_app to {}").await;
    let url = database.url_as(&member.name);

    let mut command = on_database(&url);
    command.env("ENGRAMIA_METRICS", "true");
    let server = Server::start(command).await;
    assert_eq!(server.post("/v1/learn", &lesson("work as a member")).await.ok()["stored"], true);
    let key = server.post("/v1/recall", &json!({ "task": "work as a member" })).await.ok();
    let key = key["matches"][0]["pattern_key"].as_str().expect("found").to_owned();
    let tags = json!({ "pattern_key": key, "skills": ["member"] });
    assert_eq!(server.post("/v1/skills/register", &tags).await.ok()["registered"], 1);
    assert_eq!(server.exported_tasks().await.len(), 1);
    assert_eq!(server.get("/v1/health").await.ok()["storage"], "postgres");
    for path in ["/readyz", "/metrics", "/v1/audit", "/v1/feedback", "/v1/metrics", "/v1/health/deep"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let gone = server.ask(Method::DELETE, &format!("/v1/patterns/{key}"), None).await.expect("an answer");
    assert_eq!(gone.ok()["deleted"], true);
    drop(server);
    let same = migrate(&url, &[]).await;
    assert!(same.status.success(), "there is nothing to do: {same:?}");
    member.end().await;
}
