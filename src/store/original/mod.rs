//! Reads a database of the original (`spec/engramia/50` §8), in one transaction that sees one moment and writes nothing.
//!
//! Rows come as JSON, so that columns may be missing or of another type than expected: almost all times are texts in two
//! forms (W-06). What a row says is worked out in `rows.rs`; a flawed row is told to [`Flaws`] and left out.

mod rows;

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{ConnectOptions, Postgres, Row, Transaction};

use super::identity::ApiKey;
use super::legacy;
use crate::domain::record::Archive;
use crate::domain::{PatternKey, Scope, Timestamp};

pub use rows::Carried;
use rows::Fields;

/// Rows that are read at once.
pub const PAGE: usize = 500;
/// Flaws that are told in words; the others are only counted.
const TOLD: usize = 1_000;

/// Rows that are left out.
#[derive(Debug, Default)]
pub struct Flaws {
    /// Where it stands and what is wrong with it, the first of them.
    pub told: Vec<(String, String)>,
    /// How many there are.
    pub count: u64,
}

impl Flaws {
    /// Notes a row.
    pub fn add(&mut self, place: impl Into<String>, reason: impl Into<String>) {
        self.count += 1;
        if self.told.len() < TOLD {
            self.told.push((place.into(), reason.into()));
        }
    }
}

/// Projects of the database.
#[derive(Debug, Default)]
pub struct Projects {
    /// Those that are in use, with the names and the times of tenant and project where they are registered.
    pub live: BTreeMap<Scope, Names>,
    /// Those that are deleted but not yet removed, themselves or with their tenant.
    pub deleted: Vec<Scope>,
    /// Ids of deleted tenants.
    deleted_tenants: Vec<String>,
}

/// How a project and its tenant are registered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Names {
    /// Name of the tenant.
    pub tenant: Option<String>,
    /// When it was registered.
    pub tenant_created_at: Option<Timestamp>,
    /// Name of the project.
    pub project: Option<String>,
    /// When it was registered.
    pub created_at: Option<Timestamp>,
}

/// A database of the original.
pub struct Original {
    transaction: Transaction<'static, Postgres>,
    has_vectors: bool,
    /// Model of all vectors, for projects that do not name theirs (W-03).
    model: Option<String>,
}

/// A page of a table as JSON: `$1` is the id after which it begins, `$2` the number of rows.
macro_rules! page {
    ($table:literal, $id:literal) => {
        concat!(
            "select ",
            $id,
            "::text, to_jsonb(t)::text from ",
            $table,
            " t where ",
            $id,
            "::text > $1 order by ",
            $id,
            "::text limit $2"
        )
    };
}

/// Tables that are carried over as they are: name, column of the id, statement.
const CARRIED: [(&str, &str); 6] = [
    ("tenants", page!("tenants", "id")),
    ("projects", page!("projects", "id")),
    ("billing_subscriptions", page!("billing_subscriptions", "id")),
    ("usage_counters", page!("usage_counters", "id")),
    ("overage_settings", page!("overage_settings", "id")),
    ("processed_webhook_events", page!("processed_webhook_events", "stripe_event_id")),
];

impl Original {
    /// Connects, and begins to read.
    ///
    /// # Errors
    /// When the database cannot be reached, or holds no tables of the original.
    pub async fn open(url: &SecretString) -> anyhow::Result<Self> {
        let options = PgConnectOptions::from_str(url.expose_secret())
            .map_err(|_| anyhow::anyhow!("the database URL is not a PostgreSQL connection string"))?
            .application_name("engramia import-original")
            .disable_statement_logging();
        let pool = PgPoolOptions::new().max_connections(1);
        let pool = pool.connect_with(options).await.context("connecting to the original's database")?;
        let transaction = pool.begin_with("begin isolation level repeatable read read only").await?;
        let mut original = Self { transaction, has_vectors: false, model: None };
        anyhow::ensure!(
            original.has("memory_data").await?,
            "the database has no table `memory_data`: it is not that of an original server"
        );
        original.has_vectors = original.has("memory_embeddings").await?;
        let configs = sqlx::query("select data::text from memory_data where key = 'metadata/embedding_config'");
        for row in configs.fetch_all(&mut *original.transaction).await? {
            original.model = original.model.or_else(|| legacy::model(&rows::json(row.try_get(0).ok()?)?));
        }
        Ok(original)
    }

    /// Every project that is registered, or that data or a key belongs to.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn projects(&mut self, flaws: &mut Flaws) -> anyhow::Result<Projects> {
        let mut tenants = BTreeMap::new();
        for tenant in self.all("tenants", page!("tenants", "id")).await? {
            tenants.insert(tenant.text("id").unwrap_or_default(), tenant);
        }
        let mut known: BTreeMap<(String, String), Option<Fields>> = BTreeMap::new();
        for project in self.all("projects", page!("projects", "id")).await? {
            let tenant = project.text("tenant_id").unwrap_or_default();
            known.insert((tenant, project.text("id").unwrap_or_default()), Some(project));
        }
        let found = "select distinct tenant_id, project_id from memory_data";
        self.add_scopes(found, &mut known).await?;
        if self.has("api_keys").await? {
            self.add_scopes("select distinct tenant_id, project_id from api_keys", &mut known).await?;
        }
        let mut projects = Projects::default();
        for ((tenant, project), row) in known {
            if !Scope::is_project_name(&tenant) || !Scope::is_project_name(&project) {
                flaws.add(format!("tenant {tenant:?}, project {project:?}"), "these are no ids that could be kept");
                continue;
            }
            let scope = Scope::verified(&tenant, &project);
            let is_deleted = |row: Option<&Fields>| row.is_some_and(|row| row.text("deleted_at").is_some());
            let of_tenant = tenants.get(&tenant);
            if is_deleted(of_tenant) || is_deleted(row.as_ref()) {
                projects.deleted.push(scope);
                continue;
            }
            let name = |row: Option<&Fields>| row.and_then(|row| row.text("name"));
            let time = |row: Option<&Fields>| row.and_then(|row| row.time("created_at").ok().flatten());
            let names = Names {
                tenant: name(of_tenant),
                tenant_created_at: time(of_tenant),
                project: name(row.as_ref()),
                created_at: time(row.as_ref()),
            };
            projects.live.insert(scope, names);
        }
        let deleted = tenants.into_iter().filter(|(_, row)| row.text("deleted_at").is_some());
        projects.deleted_tenants = deleted.map(|(id, _)| id).collect();
        Ok(projects)
    }

    /// The next patterns of a project in order of their keys, with their vectors; the key with which the page ends, and
    /// `None` behind the last page.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn patterns(
        &mut self,
        scope: &Scope,
        after: &str,
        flaws: &mut Flaws,
    ) -> anyhow::Result<Option<(Archive, String)>> {
        let found = sqlx::query(
            "select key, to_jsonb(m)::text from memory_data m where tenant_id = $1 and project_id = $2 and key > $3 \
             and key like 'patterns/%' order by key limit $4",
        )
        .bind(scope.tenant())
        .bind(scope.project())
        .bind(after)
        .bind(PAGE as i64)
        .fetch_all(&mut *self.transaction)
        .await?;
        let Some(last) = found.last() else { return Ok(None) };
        let last: String = last.try_get(0)?;
        let mut patterns = Vec::with_capacity(found.len());
        for row in &found {
            let key: String = row.try_get(0)?;
            match rows::pattern(&key, row.try_get(1)?) {
                Ok(pattern) => patterns.push(pattern),
                Err(reason) => flaws.add(place(scope, &key), reason),
            }
        }
        let vectors = self.vectors(scope, after, &last).await?;
        let model = self.model_of(scope).await?;
        Ok(Some((Archive { scope: scope.clone(), patterns, vectors, model, ..Archive::default() }, last)))
    }

    /// Tags, issues and counters of a project.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rest(&mut self, scope: &Scope, flaws: &mut Flaws) -> anyhow::Result<Archive> {
        let mut archive = Archive { scope: scope.clone(), ..Archive::default() };
        if let Some((registry, _)) = self.value(scope, "skills/_registry", flaws).await? {
            match registry {
                Value::Object(registry) => archive.skills = legacy::tags(registry),
                _ => flaws.add(place(scope, "skills/_registry"), "it is no object"),
            }
        }
        let issues = format!("feedback/{}/{}/_list", scope.tenant(), scope.project());
        if let Some((issues, written)) = self.value(scope, &issues, flaws).await? {
            archive.feedback = legacy::issues(&issues, written.unwrap_or_default());
        }
        if let Some((metrics, _)) = self.value(scope, "metrics/_global", flaws).await? {
            (archive.runs, archive.successes) = legacy::runs(&metrics);
        }
        if let Some((evaluations, _)) = self.value(scope, "evals/default/default/_list", flaws).await? {
            archive.recent_scores = legacy::recent_scores(&evaluations);
        }
        Ok(archive)
    }

    /// API keys of a project.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keys(&mut self, scope: &Scope, flaws: &mut Flaws) -> anyhow::Result<Vec<ApiKey>> {
        if !self.has("api_keys").await? {
            return Ok(Vec::new());
        }
        let found = sqlx::query(
            "select id::text, to_jsonb(k)::text from api_keys k where tenant_id = $1 and project_id = $2 order by id",
        )
        .bind(scope.tenant())
        .bind(scope.project())
        .fetch_all(&mut *self.transaction)
        .await?;
        let mut keys = Vec::with_capacity(found.len());
        for row in &found {
            match rows::api_key(scope, row.try_get(1)?) {
                Ok(key) => keys.push(key),
                Err(reason) => flaws.add(place(scope, &format!("API key {}", row.try_get::<&str, _>(0)?)), reason),
            }
        }
        Ok(keys)
    }

    /// The next rows of tables that are carried over as they are, after the last one of the page before; `None` behind
    /// the last.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn carried(
        &mut self,
        projects: &Projects,
        after: Option<&(usize, String)>,
        flaws: &mut Flaws,
    ) -> anyhow::Result<Option<(Vec<Carried>, (usize, String))>> {
        let (mut table, mut id) = after.cloned().unwrap_or_default();
        while let Some((source, statement)) = CARRIED.get(table) {
            let page = if self.has(source).await? { self.page(statement, &id).await? } else { Vec::new() };
            let Some(last) = page.last() else {
                (table, id) = (table + 1, String::new());
                continue;
            };
            let end = (table, last.try_get(0)?);
            let mut carried = Vec::with_capacity(page.len());
            for row in &page {
                let id: String = row.try_get(0)?;
                match Carried::new(source, &id, row.try_get(1)?) {
                    Ok(row) if projects.deleted_tenants.contains(&row.tenant) => {}
                    Ok(row) => carried.push(row),
                    Err(reason) => flaws.add(format!("{source} {id}"), reason),
                }
            }
            return Ok(Some((carried, end)));
        }
        Ok(None)
    }

    async fn has(&mut self, table: &str) -> anyhow::Result<bool> {
        let row = sqlx::query("select to_regclass($1) is not null").bind(table).fetch_one(&mut *self.transaction);
        Ok(row.await?.try_get(0)?)
    }

    async fn page(&mut self, statement: &'static str, after: &str) -> anyhow::Result<Vec<PgRow>> {
        Ok(sqlx::query(statement).bind(after).bind(PAGE as i64).fetch_all(&mut *self.transaction).await?)
    }

    /// Every row of a table that has one for a tenant or a project.
    async fn all(&mut self, table: &str, statement: &'static str) -> anyhow::Result<Vec<Fields>> {
        let mut all = Vec::new();
        if !self.has(table).await? {
            return Ok(all);
        }
        let mut after = String::new();
        loop {
            let page = self.page(statement, &after).await?;
            let Some(last) = page.last() else { return Ok(all) };
            after = last.try_get(0)?;
            for row in &page {
                all.extend(Fields::parse(row.try_get(1)?));
            }
        }
    }

    async fn add_scopes(
        &mut self,
        statement: &'static str,
        known: &mut BTreeMap<(String, String), Option<Fields>>,
    ) -> anyhow::Result<()> {
        for row in sqlx::query(statement).fetch_all(&mut *self.transaction).await? {
            let part = |at: usize| Ok::<_, sqlx::Error>(row.try_get::<Option<String>, _>(at)?.unwrap_or_default());
            known.entry((part(0)?, part(1)?)).or_default();
        }
        Ok(())
    }

    /// The value of one key, and when it was written.
    async fn value(
        &mut self,
        scope: &Scope,
        key: &str,
        flaws: &mut Flaws,
    ) -> anyhow::Result<Option<(Value, Option<Timestamp>)>> {
        let row = sqlx::query(
            "select to_jsonb(m)::text from memory_data m where tenant_id = $1 and project_id = $2 and key = $3",
        )
        .bind(scope.tenant())
        .bind(scope.project())
        .bind(key)
        .fetch_optional(&mut *self.transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let fields = Fields::parse(row.try_get(0)?);
        let value = fields.as_ref().and_then(Fields::data);
        if value.is_none() {
            flaws.add(place(scope, key), "its data cannot be read");
        }
        Ok(value.map(|value| (value, fields.and_then(|fields| fields.time("updated_at").ok().flatten()))))
    }

    async fn model_of(&mut self, scope: &Scope) -> anyhow::Result<Option<String>> {
        let own = self.value(scope, "metadata/embedding_config", &mut Flaws::default()).await?;
        Ok(own.and_then(|(config, _)| legacy::model(&config)).or_else(|| self.model.clone()))
    }

    /// Vectors of the keys after one and up to another.
    async fn vectors(&mut self, scope: &Scope, after: &str, last: &str) -> anyhow::Result<Vec<(PatternKey, Vec<f32>)>> {
        if !self.has_vectors {
            return Ok(Vec::new());
        }
        let found = sqlx::query(
            "select key, embedding::real[] from memory_embeddings \
             where tenant_id = $1 and project_id = $2 and key > $3 and key <= $4 and embedding is not null",
        )
        .bind(scope.tenant())
        .bind(scope.project())
        .bind(after)
        .bind(last)
        .fetch_all(&mut *self.transaction)
        .await?;
        let vector = |row: &PgRow| Some((PatternKey::parse(row.try_get(0).ok()?).ok()?, row.try_get(1).ok()?));
        Ok(found.iter().filter_map(vector).collect())
    }
}

/// What a row is called in a report.
pub fn place(scope: &Scope, what: &str) -> String {
    format!("{what} of tenant {}, project {}", scope.tenant(), scope.project())
}

type Members = Map<String, Value>;
