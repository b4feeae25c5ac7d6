//! Connections: options, pool, and what is wrong when none comes.

use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection, PgPool, Row};

use crate::store::StoreError;

/// How long a request waits for a connection before it is told to come back.
const ACQUIRE_WITHIN: Duration = Duration::from_secs(2);
/// How long the start waits for a database that is starting itself.
const FIRST_WITHIN: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How long a look at the database waits.
const ONCE_WITHIN: Duration = Duration::from_secs(5);
const NO_ANSWER: &str = "no answer at the address of ENGRAMIA_DATABASE_URL";
/// How long the end waits for connections.
pub(super) const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// Prepared statements that a connection keeps.
const STATEMENTS: usize = 256;
/// The role of all statements about data.
pub(super) const APPLICATION_ROLE: &str = "engramia_app";

/// Where the database is, and what may be used of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Connection string, with its password.
    pub url: SecretString,
    /// Most connections of this process.
    pub pool_size: u32,
    /// Memory for search indexes; without any, every search is SQL.
    pub search_memory_bytes: usize,
}

/// Options of every connection.
fn options(url: &SecretString) -> anyhow::Result<PgConnectOptions> {
    let options = PgConnectOptions::from_str(url.expose_secret())
        .map_err(|_| anyhow::anyhow!("ENGRAMIA_DATABASE_URL is not a PostgreSQL connection string"))?;
    Ok(options.application_name("engramia").statement_cache_capacity(STATEMENTS).disable_statement_logging())
}

pub(super) fn pool(settings: &Settings) -> anyhow::Result<PgPool> {
    let pool = PgPoolOptions::new()
        .max_connections(settings.pool_size)
        .acquire_timeout(ACQUIRE_WITHIN)
        .idle_timeout(Duration::from_secs(600))
        .max_lifetime(Duration::from_secs(1800))
        // Costs a round trip a request; units of work try again instead where the first statement finds nobody.
        .test_before_acquire(false);
    Ok(pool.connect_lazy_with(options(&settings.url)?))
}

/// A pool of one connection, beside those that requests use.
pub(super) fn single(settings: &Settings) -> Result<PgPool, StoreError> {
    let options = options(&settings.url).map_err(StoreError::Backend)?;
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_WITHIN).max_lifetime(None);
    Ok(pool.idle_timeout(None).connect_lazy_with(options))
}

/// The first connection, which waits for a database that is just starting.
pub(super) async fn first(settings: &Settings) -> anyhow::Result<PgConnection> {
    first_of(settings, None).await
}

/// The same to another database of the server.
pub(super) async fn first_of(settings: &Settings, database: Option<&str>) -> anyhow::Result<PgConnection> {
    let options = options(&settings.url)?;
    let options = database.map_or_else(|| options.clone(), |name| options.clone().database(name));
    let deadline = tokio::time::Instant::now() + FIRST_WITHIN;
    let mut waiting = false;
    loop {
        match options.connect().await {
            Ok(connection) => return Ok(connection),
            Err(error) if is_starting(&error) && tokio::time::Instant::now() < deadline => {
                if !std::mem::replace(&mut waiting, true) {
                    tracing::info!(%error, "waiting for the database");
                }
                tokio::time::sleep(FIRST_PAUSE).await;
            }
            Err(error) => return Err(refused(error)),
        }
    }
}

/// A connection now or never.
pub(super) async fn once(settings: &Settings) -> anyhow::Result<PgConnection> {
    let connecting = tokio::time::timeout(ONCE_WITHIN, options(&settings.url)?.connect()).await;
    connecting.map_err(|_elapsed| anyhow::anyhow!("connecting to PostgreSQL: {NO_ANSWER}"))?.map_err(refused)
}

fn refused(error: sqlx::Error) -> anyhow::Error {
    let advice = advice(&error);
    anyhow::Error::new(error).context(format!("connecting to PostgreSQL: {advice}"))
}

/// Whether it may be there in a moment. Not even its name may be known before it runs.
fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        error => code(error).as_deref() == Some("57P03"),
    }
}

/// Whether an error says that the connection is gone, or nobody is there, and nothing about the statement.
pub(super) fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        // Shut down by the administrator, crashed, starting; connection exceptions.
        error => code(error).is_some_and(|code| code.starts_with("57P") || code.starts_with("08")),
    }
}

pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// What an operator should look at.
fn advice(error: &sqlx::Error) -> &'static str {
    match code(error).as_deref() {
        Some("28P01" | "28000") => "user or password of ENGRAMIA_DATABASE_URL are refused",
        Some("3D000") => "the database that ENGRAMIA_DATABASE_URL names does not exist: create it first",
        Some("53300") => "the server has no connection left: lower ENGRAMIA_DB_POOL_SIZE or raise max_connections",
        Some("57P03") => "the server does not accept connections now",
        Some(_) => "the server refused",
        None if matches!(error, sqlx::Error::Tls(_)) => "TLS failed: see sslmode and sslrootcert",
        None => NO_ANSWER,
    }
}

/// The role to work as: [`APPLICATION_ROLE`] where this login may take it.
pub(super) async fn role(connection: &mut PgConnection) -> anyhow::Result<&'static str> {
    let row = sqlx::query(
        "select exists (select from pg_roles where rolname = $1 and pg_has_role(current_user, oid, 'member')), \
         (select pg_has_role(current_user, relowner, 'usage') from pg_class where oid = 'patterns'::regclass)",
    )
    .bind(APPLICATION_ROLE)
    .fetch_one(connection)
    .await?;
    let (member, owner): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    if member {
        return Ok(APPLICATION_ROLE);
    }
    if owner {
        tracing::warn!(
            "row-level security is off: the database login owns the tables and may not take the role {APPLICATION_ROLE}"
        );
    }
    Ok("none")
}
