//! `engramia import-original`: a database of the original becomes part of a memory, in either store.

use std::sync::Arc;

use async_trait::async_trait;
use engramia::app::{Overrides, import_original, survey_original};
use engramia::compute::ComputePool;
use engramia::config::Config;
use engramia::domain::subscription::Overage;
use engramia::domain::tier::Calibration;
use engramia::domain::time::parse_iso;
use engramia::domain::{Classification, Month, PatternKey, Plan, Role, Scope, Source, credential, unix_seconds};
use engramia::ports::{Embedder, ModelError, Priority, Space, Vector};
use engramia::service::copy::{Contents, survey};
use engramia::service::original::{Count, Report};
use engramia::store::Store;
use engramia::store::copy::Registered;
use engramia::store::memory::ScopeStatistics;
use engramia::store::postgres::PostgresStore;
use engramia::store::sqlite::SqliteStore;
use serde_json::{Value, json};
use sqlx::Row;
use tempfile::TempDir;

use crate::support::app::Setup;
use crate::support::keys;
use crate::support::postgres::{Database, execute, settings};

const SECRET: &str = "engramia-0123456789abcdef0123456789abcdef";

/// A model of 1536 dimensions that tells texts apart by their lengths.
struct Lengths(Space);

impl Lengths {
    fn named(model: &str) -> Arc<dyn Embedder> {
        Arc::new(Self(Space(format!("openai/{model}").into())))
    }
}

#[async_trait]
impl Embedder for Lengths {
    async fn embed(&self, texts: &[&str], _: Priority) -> Result<Vec<Vector>, ModelError> {
        let one = |text: &&str| {
            let mut values = vec![0.0; 1536];
            values[text.len() % 500] = 1.0;
            Vector::normalized(self.0.clone(), values).expect("not zero")
        };
        Ok(texts.iter().map(one).collect())
    }
    fn space(&self) -> &Space {
        &self.0
    }
    fn provider(&self) -> &'static str {
        "openai"
    }
    fn calibration(&self) -> Calibration {
        Calibration::Identity
    }
    fn batch_size(&self) -> usize {
        8
    }
}

/// The database of the fixture.
async fn original() -> Database {
    let database = Database::empty().await;
    let mut connection = database.connect().await;
    execute(&mut connection, include_str!("../fixtures/original/schema.sql")).await;
    execute(&mut connection, include_str!("../fixtures/original/data.sql")).await;
    database
}

/// Where to import.
struct Target {
    root: TempDir,
    database: Option<Database>,
}

impl Target {
    fn directory() -> Self {
        Self { root: TempDir::new().expect("a directory"), database: None }
    }

    async fn postgres() -> Self {
        Self { database: Some(Database::empty().await), ..Self::directory() }
    }

    fn vars(&self) -> Vec<(String, String)> {
        let mut vars = vec![("ENGRAMIA_DATA_PATH".to_owned(), self.root.path().display().to_string())];
        if let Some(database) = &self.database {
            vars.push(("ENGRAMIA_DATABASE_URL".to_owned(), database.url()));
        }
        vars
    }

    fn config(&self) -> Config {
        Config::load(self.vars()).expect("a valid configuration").config
    }

    async fn import(&self, from: &Database, model: &str) -> Report {
        let overrides = Overrides { embedder: Some(Lengths::named(model)), ..Overrides::default() };
        import_original(&self.config(), &from.url().into(), overrides).await.expect("imported")
    }

    async fn open(&self) -> Box<dyn Store> {
        let compute = Arc::new(ComputePool::start(1, 16).expect("a thread"));
        match &self.database {
            Some(database) => {
                Box::new(PostgresStore::open(&settings(&database.url()), None, compute).await.expect("a database"))
            }
            None => Box::new(SqliteStore::open(self.root.path(), None, compute).await.expect("a free directory")),
        }
    }

    async fn contents(&self) -> Contents {
        let store = self.open().await;
        let contents = survey(store.as_ref(), &|_| ()).await.expect("read");
        store.close().await;
        contents
    }
}

fn web() -> Scope {
    Scope::verified("acme", "acme-web")
}

fn key(tail: &str) -> PatternKey {
    PatternKey::parse(&format!("patterns/{tail}")).expect("valid")
}

fn place_of(report: &Report, start: &str) -> String {
    let told = report.flaws.told.iter().find(|(place, _)| place.starts_with(start));
    told.map(|(_, reason)| reason.clone()).unwrap_or_else(|| panic!("{start} is not among {:?}", report.flaws))
}

fn check_report(report: &Report, is_new: bool) {
    let projects: Vec<_> = report.projects.iter().map(|project| &project.scope).collect();
    assert_eq!(projects, [&web(), &Scope::default()]);
    let count = |found: u64| Count { found, new: if is_new { found } else { 0 } };
    let acme = &report.projects[0];
    assert_eq!((acme.patterns, acme.keys), (count(2), count(2)));
    assert_eq!((acme.vectors, acme.usable_vectors), (1, 1));
    assert_eq!((acme.tagged, acme.feedback, acme.runs), (2, 1, 12));
    assert_eq!((report.projects[1].patterns, report.projects[1].keys), (count(1), count(1)));
    assert_eq!(report.deleted, [Scope::verified("acme", "acme-old"), Scope::verified("gone", "gone-web")]);
    let carried: Vec<_> = report.carried.iter().map(|(table, count)| (table.as_str(), *count)).collect();
    let expected = [
        ("billing_subscriptions", count(1)),
        ("overage_settings", count(1)),
        ("processed_webhook_events", count(1)),
        ("projects", count(3)),
        ("tenants", count(2)),
        ("usage_counters", count(2)),
    ];
    assert_eq!(carried, expected);
    assert_eq!(report.flaws.count, 6, "{:?}", report.flaws);
    assert!(place_of(report, "patterns/dddddddd_1 of tenant acme, project acme-web").contains("task"));
    assert!(place_of(report, "patterns/eeeeeeee_1").contains("no object"));
    assert!(place_of(report, "patterns/../etc").contains("Invalid pattern key"));
    assert!(place_of(report, "patterns/ffffffff_1").contains("design.source"));
    assert!(place_of(report, "API key 44444444").contains("expires_at"));
    assert!(place_of(report, "usage_counters 3").contains("tenant_id"));
}

async fn check_rows(store: &dyn Store) {
    let mut work = store.read(&web()).await.expect("a unit of work");
    let registered = Registered {
        tenant_name: "Acme Corp".into(),
        tenant_created_at: parse_iso("2026-01-02T03:04:05Z").expect("a time"),
        name: "Web shop".into(),
        created_at: parse_iso("2026-01-02T03:04:06.5Z").expect("a time"),
    };
    assert_eq!(work.copying().registered().await.expect("read"), Some(registered));
    let pattern = work.patterns().find(&key("bbbbbbbb_1767312000000")).await.expect("read").expect("imported").body;
    assert_eq!((pattern.classification, pattern.source), (Classification::Confidential, Source::Sdk));
    assert_eq!((pattern.run_id.as_deref(), pattern.redacted), (Some("run-7"), true));
    assert_eq!(pattern.author.as_deref(), Some("11111111-1111-4111-8111-111111111111"));
    assert_eq!((pattern.success_score, unix_seconds(pattern.created_at)), (9.0, 1_767_312_000.5));
    assert_eq!(pattern.extra.design["workflow"], json!({ "steps": 2 }));
    assert!(pattern.extra.data.is_empty(), "{:?}", pattern.extra);

    let whole = work.copying().patterns(None, 9).await.expect("read");
    let peak = |vector: &Vector| vector.values.iter().position(|value| *value > 0.5);
    let peaks: Vec<_> = whole.iter().map(|whole| whole.vector.as_ref().and_then(peak)).collect();
    let task = "Roll back a broken release";
    assert_eq!(peaks, [Some(999), Some(task.len())], "one vector is the old one, one was made");
    assert_eq!(
        whole[0].skills.iter().map(engramia::domain::Skill::as_str).collect::<Vec<_>>(),
        ["deploy", "kubernetes"]
    );

    let issues = work.feedback().all().await.expect("read");
    assert_eq!((issues.len(), issues[0].text.as_str(), issues[0].count), (1, "Add a rollback", 4));
    assert_eq!(Some(issues[0].decayed_at), parse_iso("2026-01-06T00:00:00Z"));
    let counters = ScopeStatistics {
        patterns: 2,
        runs: 12,
        successes: 12,
        recent_scores: vec![9.0, 6.5],
        ..ScopeStatistics::default()
    };
    assert_eq!(work.statistics().get().await.expect("read"), counters);

    let revoked = store.api_keys().find(&credential::hash("engramia_sk_revoked")).await.expect("read").expect("kept");
    assert_eq!((revoked.role, revoked.prefix.as_str()), (Role::Editor, "engramia_sk_revo..."));
    assert_eq!(revoked.revoked_at, parse_iso("2026-03-03T03:04:05.25Z"));
    assert_eq!(revoked.last_used_at, parse_iso("2026-02-02T03:04:05Z"));
    for left_out in ["engramia_sk_flawed", "engramia_sk_gone"] {
        assert_eq!(store.api_keys().find(&credential::hash(left_out)).await.expect("read"), None);
    }

    let mut work = store.read(&Scope::of_tenant("acme")).await.expect("a unit of work");
    let rows = work.copying().carried(None, 99).await.expect("read");
    let subscription: Value = serde_json::from_str(&rows[0].data).expect("JSON");
    assert_eq!((rows[0].source.as_str(), rows[0].id.as_str()), ("billing_subscriptions", "sub-1"));
    assert_eq!(subscription["stripe_customer_id"], "cus_1");
    let account = work.billing().subscription().await.expect("read");
    assert_eq!((account.plan, account.customer_id.as_deref()), (Plan::Team, Some("cus_1")));
    assert_eq!(account.overage, Overage { enabled: true, cap_cents: None });
    for (month, runs) in [(1, 41), (2, 7), (3, 0)] {
        let month = Month::new(2026, month).expect("a month");
        assert_eq!(work.billing().runs(month).await.expect("read"), runs);
    }
    let mut work = store.read(&Scope::of_tenant("")).await.expect("a unit of work");
    assert_eq!(work.copying().carried(None, 99).await.expect("read")[0].id, "evt_1");
}

async fn everything_is_carried_over_once(target: Target) {
    let from = original().await;
    let report = target.import(&from, "text-embedding-3-small").await;
    check_report(&report, true);
    let store = target.open().await;
    check_rows(store.as_ref()).await;
    store.close().await;
    let first = target.contents().await;
    check_report(&target.import(&from, "text-embedding-3-small").await, false);
    assert_eq!(target.contents().await, first, "a second run changes nothing");

    let mut setup = Setup::on(target.root).stored_keys().embedder(Lengths::named("text-embedding-3-small"));
    if let Some(database) = &target.database {
        setup = setup.var("ENGRAMIA_DATABASE_URL", &database.url());
    }
    let app = setup.start().await;
    let recall = json!({ "task": "Roll back a broken release", "limit": 1 });
    let found = app.holder_of(SECRET).post("/v1/recall", &recall).await.ok();
    assert_eq!(keys(&found), ["patterns/cccccccc_1767312000001"], "{found}");
    app.holder_of("engramia_sk_revoked").post("/v1/recall", &recall).await.problem(401, "UNAUTHORIZED");
    app.holder_of("engramia_sk_expired").post("/v1/recall", &recall).await.problem(401, "UNAUTHORIZED");
    drop(app.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_carried_over_once_into_a_directory() {
    everything_is_carried_over_once(Target::directory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_carried_over_once_into_postgres() {
    everything_is_carried_over_once(Target::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_happened_since_stays() {
    let (from, target) = (original().await, Target::directory());
    target.import(&from, "text-embedding-3-small").await;
    let store = target.open().await;
    let mut work = store.begin(&web()).await.expect("a unit of work");
    let mut pattern = work.patterns().find(&key("bbbbbbbb_1767312000000")).await.expect("read").expect("imported");
    pattern.body.success_score = 1.25;
    work.patterns().update(&pattern, None).await.expect("updated");
    let id = "11111111-1111-4111-8111-111111111111";
    work.keys().rotate(id, "new...", &[7; 32]).await.expect("rotated");
    work.skills()
        .set(pattern.id, &engramia::domain::Skill::distinct(["other"]), pattern.body.created_at)
        .await
        .expect("set");
    work.statistics().count_runs(3, 1, &[2.0]).await.expect("counted");
    let mut issues = work.feedback().all().await.expect("read");
    issues[0].count = 77;
    work.feedback().put(&issues[0], None).await.expect("stored");
    work.commit().await.expect("committed");
    store.close().await;
    let before = target.contents().await;
    target.import(&from, "text-embedding-3-small").await;
    assert_eq!(target.contents().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vectors_of_another_model_are_made_anew() {
    let (from, target) = (original().await, Target::directory());
    let report = target.import(&from, "text-embedding-3-large").await;
    assert_eq!((report.projects[0].vectors, report.projects[0].usable_vectors), (1, 0));
    let store = target.open().await;
    let whole = store.read(&web()).await.expect("a unit of work").copying().patterns(None, 9).await.expect("read");
    let vector = whole[0].vector.as_ref().expect("made");
    assert_eq!(vector.values.iter().position(|value| *value > 0.5), Some("Deploy the web shop".len()));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_reports_and_opens_no_store() {
    let (from, target) = (original().await, Target::postgres().await);
    let overrides = Overrides { embedder: Some(Lengths::named("text-embedding-3-small")), ..Overrides::default() };
    let report = survey_original(&target.config(), &from.url().into(), overrides).await.expect("read");
    check_report(&report, false);
    let mut connection = target.database.as_ref().expect("a database").connect().await;
    let row = sqlx::query("select count(*) from pg_tables where schemaname = 'public'").fetch_one(&mut connection);
    assert_eq!(row.await.expect("read").try_get::<i64, _>(0).expect("a number"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pages_of_an_older_schema_are_read() {
    let (from, target) = (original().await, Target::directory());
    let mut connection = from.connect().await;
    let more = "drop table processed_webhook_events, overage_settings, usage_counters, billing_subscriptions; \
                alter table memory_data drop column run_id, drop column redacted; \
                insert into memory_data (key, tenant_id, project_id, data) \
                select 'patterns/' || n, 'acme', 'acme-web', jsonb_build_object('task', 'task ' || n) \
                from generate_series(1, 1200) n";
    execute(&mut connection, more).await;
    let report = target.import(&from, "text-embedding-3-small").await;
    assert_eq!(report.projects[0].patterns, Count { found: 1_202, new: 1_202 });
    assert_eq!(report.carried.keys().collect::<Vec<_>>(), ["projects", "tenants"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_database_is_refused() {
    let (from, target) = (Database::empty().await, Target::directory());
    let refused = import_original(&target.config(), &from.url().into(), Overrides::default()).await;
    let refused = refused.expect_err("no tables").to_string();
    assert!(refused.contains("memory_data"), "{refused}");
}
