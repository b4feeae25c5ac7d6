//! Databases for tests: each its own, copied from one that is migrated once, and dropped with its owner.

use engramia::store::postgres::{self, Settings};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row};
use url::Url;
use uuid::Uuid;

/// Held by whoever makes the template.
const TEMPLATE_LOCK: i64 = 7_369_721;

/// A database of one test.
pub struct Database {
    name: String,
}

/// The server that `scripts/test.sh` starts.
#[expect(clippy::disallowed_methods, reason = "the tests' server is no setting of the program")]
fn server() -> Url {
    let url = std::env::var("TEST_DATABASE_URL")
        .unwrap_or_else(|_| panic!("TEST_DATABASE_URL is not set: run scripts/test.sh, or see scripts/postgres.sh"));
    url.parse().expect("TEST_DATABASE_URL is a URL")
}

fn url_of(database: &str) -> Url {
    let mut url = server();
    url.set_path(database);
    url
}

/// What the store needs to know of a URL, with a small pool.
pub fn settings(url: &str) -> Settings {
    Settings { url: url.into(), pool_size: 10, search_memory_bytes: 64 << 20 }
}

/// A connection that the store knows nothing of.
pub async fn connect(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().expect("a connection string");
    options.disable_statement_logging().connect().await.expect("the test server answers")
}

/// Runs statements that have no parameters.
pub async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// The first column of a query that has no parameters.
pub async fn numbers(connection: &mut PgConnection, sql: &str) -> Vec<i64> {
    let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(connection).await;
    let rows = rows.unwrap_or_else(|e| panic!("{sql}: {e}"));
    rows.iter().map(|row| row.try_get(0).expect("a number")).collect()
}

impl Database {
    /// A copy of the migrated template.
    pub async fn new() -> Self {
        let template = template().await;
        Self::create(&format!("template {template}")).await
    }

    /// An empty one, without schema and without the extension.
    pub async fn empty() -> Self {
        Self::create("template template0").await
    }

    async fn create(from: &str) -> Self {
        let name = format!("it_{}", Uuid::new_v4().simple());
        let mut connection = connect(server().as_str()).await;
        execute(&mut connection, &format!("create database {name} {from}")).await;
        connection.close().await.expect("closed");
        Self { name }
    }

    /// Its connection string.
    pub fn url(&self) -> String {
        url_of(&self.name).into()
    }

    /// The same for a login, which may have a password: `user:password`.
    pub fn url_as(&self, login: &str) -> String {
        let mut url = url_of(&self.name);
        let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
        url.set_username(user).expect("a host");
        url.set_password(password).expect("a host");
        url.into()
    }

    /// A connection that the store knows nothing of.
    pub async fn connect(&self) -> PgConnection {
        connect(&self.url()).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let sql = format!("drop database if exists {} with (force)", self.name);
        // Whatever runtime the test has may be ending.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { execute(&mut connect(server().as_str()).await, &sql).await });
        });
        drop(dropping.join());
    }
}

/// The name of the migrated template, made by the first test that needs it; another schema has another name.
async fn template() -> String {
    let mut connection = connect(server().as_str()).await;
    let schema = concat!(
        include_str!("../../../migrations/postgres/0001_memory.sql"),
        include_str!("../../../migrations/postgres/0002_identity.sql"),
        include_str!("../../../migrations/postgres/0003_carried.sql"),
        include_str!("../../../migrations/postgres/0004_evidence.sql"),
        include_str!("../../../migrations/postgres/0005_spend.sql"),
        include_str!("../../../migrations/postgres/0006_issues.sql"),
        include_str!("../../../migrations/postgres/0007_jobs.sql"),
        include_str!("../../../migrations/postgres/0008_plans.sql"),
        include_str!("../../../migrations/postgres/0009_payments.sql"),
        include_str!("../../../migrations/postgres/0010_governance.sql"),
        include_str!("../../../migrations/postgres/0011_erasure.sql"),
        include_str!("../../../migrations/postgres/0012_idempotency.sql")
    );
    let name = format!("it_template_{}", &hex::encode(engramia::domain::text::digest(schema))[..16]);
    sqlx::query("select pg_advisory_lock($1)").bind(TEMPLATE_LOCK).execute(&mut connection).await.expect("locked");
    let found = sqlx::query("select count(*) from pg_database where datname = $1").bind(&name);
    let found: i64 = found.fetch_one(&mut connection).await.expect("read").try_get(0).expect("a number");
    if found == 0 {
        let making = format!("{name}_making");
        execute(&mut connection, &format!("drop database if exists {making} with (force)")).await;
        execute(&mut connection, &format!("create database {making} template template0")).await;
        postgres::migrate(&settings(url_of(&making).as_str())).await.expect("migrated");
        execute(&mut connection, &format!("alter database {making} rename to {name}")).await;
    }
    // The lock goes with the connection.
    connection.close().await.expect("closed");
    name
}
