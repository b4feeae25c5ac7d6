//! `engramia copy-store`: everything moves from one store to the other and back, whatever interrupts it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use engramia::app::{App, Overrides, copy_store, survey_store};
use engramia::compute::ComputePool;
use engramia::config::{Config, Storage, store_at};
use engramia::domain::analytics::{Event, Rollup, Window};
use engramia::domain::audit::{AuditAction, AuditEvent, ChainHead};
use engramia::domain::pattern::Extra;
use engramia::domain::{
    Classification, Evidence, EvidenceKind, Feedback, NewPattern, PatternKey, Ratings, Role, Scope, Skill, Source,
    Timestamp, credential,
};
use engramia::ports::{Space, Vector};
use engramia::service::copy::{Contents, UNFINISHED};
use engramia::store::Store;
use engramia::store::copy::{CarriedRow, Registered};
use engramia::store::memory::{Evaluation, Filter, IssueTask, NearestQuery, Ranking};
use engramia::store::postgres::PostgresStore;
use engramia::store::sqlite::SqliteStore;
use serde_json::{Map, Value, json};
use sqlx::Row;
use tempfile::TempDir;

use crate::support::app::api_key;
use crate::support::fakes::space;
use crate::support::postgres::{Database, settings};

const PROGRAM: &str = env!("CARGO_BIN_EXE_engramia");
/// More than two pages.
const PATTERNS: usize = 1_203;

fn at(seconds: i64) -> Timestamp {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_750_000_000 + seconds) + TimeDelta::microseconds(7)
}

fn web() -> Scope {
    Scope::verified("acme", "web")
}

fn pattern(number: usize) -> NewPattern {
    // The order of the keys is not that of the ids.
    let key = PatternKey::parse(&format!("patterns/{:08x}_{number}", number.wrapping_mul(2_654_435_761) as u32));
    let mut extra = Extra::default();
    extra.data.insert("legacy".into(), json!({ "n": number, "x": [0.1, null, "\u{E000}"] }));
    NewPattern {
        key: key.expect("valid"),
        task: format!("Parse file number {number} Žluťoučký"),
        code: (!number.is_multiple_of(3)).then(|| format!("solve({number})")),
        output: number.is_multiple_of(2).then(|| "out\n".to_owned()),
        classification: Classification::Confidential,
        source: Source::Sdk,
        run_id: Some("run".into()),
        author: None,
        redacted: number.is_multiple_of(5),
        success_score: number as f64 / 700.0,
        reuse_count: number as u64,
        created_at: at(number as i64),
        decayed_at: at(number as i64 + 1),
        evidence: Evidence {
            weight: 1.1,
            sum: 0.1 + 0.2,
            count: 2,
            variance: 0.3,
            seen_at: Some(at(number as i64 + 2)),
        },
        extra,
    }
}

fn vector(number: usize) -> Option<Vector> {
    let space = match number % 3 {
        0 => return None,
        1 => space(),
        _ => Space("older/model".into()),
    };
    let values = (0..64).map(|at| ((at * 31 + number) as f32).sin()).collect();
    Vector::normalized(space, values)
}

async fn open_directory(root: &Path) -> SqliteStore {
    let compute = Arc::new(ComputePool::start(1, 16).expect("a thread"));
    SqliteStore::open(root, Some(space()), compute).await.expect("a free directory")
}

async fn open_database(database: &Database) -> PostgresStore {
    let compute = Arc::new(ComputePool::start(1, 16).expect("a thread"));
    PostgresStore::open(&settings(&database.url()), Some(space()), compute).await.expect("a database")
}

/// Something of everything, in three projects of two tenants.
async fn fill(store: &dyn Store, patterns: usize) {
    let mut work = store.begin(&web()).await.expect("a unit of work");
    for number in 0..patterns {
        let id = work.patterns().insert(&pattern(number), vector(number).as_ref()).await.expect("inserted");
        let id = id.expect("a free key");
        let evaluation = Evaluation {
            id: format!("0be2046e-0000-7000-8000-{number:012}"),
            kind: EvidenceKind::Outcome,
            score: 10.0 / 3.0,
            weight: 0.5,
            run_id: None,
            note: None,
            at: at(number as i64),
        };
        work.patterns().record_evaluation(id, &evaluation).await.expect("recorded");
        if number % 100 == 0 {
            work.skills().set(id, &Skill::distinct(["csv", "stats"]), at(3)).await.expect("tagged");
            work.patterns().count_reuse(&[(id, 2)]).await.expect("counted");
        }
    }
    work.commit().await.expect("committed");
    rest(store).await;
}

async fn rest(store: &dyn Store) {
    for (number, scope) in [web(), Scope::verified("acme", "api"), Scope::default()].into_iter().enumerate() {
        let seconds = number as i64;
        let registered = Registered {
            tenant_name: format!("Tenant {}", scope.tenant()),
            tenant_created_at: at(0),
            name: format!("Project {number}"),
            created_at: at(seconds),
        };
        let mut revoked = api_key(&format!("revoked {number}"), scope.clone(), Role::Reader);
        (revoked.revoked_at, revoked.max_patterns) = (Some(at(5)), Some(7));
        let mut live = api_key(&format!("live {number}"), scope.clone(), Role::Owner);
        (live.expires_at, live.last_used_at) = (Some(at(9_000_000_000)), Some(at(6)));
        let event = AuditEvent {
            at: at(seconds),
            action: AuditAction::KeyCreated,
            actor: Some("cli".into()),
            resource_type: Some("api_key"),
            resource_id: Some(live.id.clone()),
            ip: Some("192.0.2.7".into()),
            detail: Map::from_iter([("role".to_owned(), Value::from("owner"))]),
            nonce: [number as u8; 16],
        };
        let issue = Feedback {
            text: format!("Add tests {number}"),
            count: 3,
            score: 0.7,
            ratings: Ratings::default(),
            last_seen: at(1),
            decayed_at: at(2),
        };
        let mut work = store.begin(&scope).await.expect("a unit of work");
        work.copying().register(&registered).await.expect("registered");
        work.keys().insert(&revoked).await.expect("stored");
        work.keys().insert(&live).await.expect("stored");
        for _ in 0..600 {
            work.audit().append(&event).await.expect("recorded");
        }
        let direction = |x: f32| Vector::normalized(space(), vec![x, 1.0, 2.0]);
        work.feedback().put(&issue, direction(1.0).as_ref()).await.expect("stored");
        let task = |n: i64| IssueTask { text: format!("task {n}"), vector: direction(n as f32), seen_at: at(n) };
        work.feedback().note_tasks(&issue.text, &[task(1), task(2)]).await.expect("noted");
        let events = [
            Event::recalled("r".into(), at(3), None),
            Event::learned("l".into(), at(4), 7.123_456_789, PatternKey::parse("patterns/gone").expect("a key")),
        ];
        work.analytics().append(&events).await.expect("appended");
        work.analytics().put_rollup(&Rollup::of(Window::Weekly, &events, at(5))).await.expect("stored");
        work.statistics().count_runs(4, 3, &[0.1 + 0.2, 9.5]).await.expect("counted");
        work.statistics().count_recalls(8, 6).await.expect("counted");
        work.commit().await.expect("committed");
    }
    let mut work = store.begin(&Scope::of_tenant("acme")).await.expect("a unit of work");
    let row = CarriedRow { source: "usage_counters".into(), id: "7".into(), data: "{\"count\": 3}".into() };
    work.copying().put_carried(&[row]).await.expect("carried");
    work.commit().await.expect("committed");
    store.set_mark("adopted-json-directory", at(1)).await.expect("set");
}

async fn filled_directory(patterns: usize) -> TempDir {
    let root = TempDir::new().expect("a directory");
    let store = open_directory(root.path()).await;
    fill(&store, patterns).await;
    store.close().await;
    root
}

fn directory(root: &Path) -> Storage {
    store_at(&root.display().to_string()).expect("a directory")
}

fn place(database: &Database) -> Storage {
    store_at(&database.url()).expect("a database")
}

async fn contents(storage: &Storage) -> Contents {
    survey_store(storage, &|_| ()).await.expect("read")
}

/// Looks at some of it without the code that compares copies.
async fn check(store: &dyn Store) {
    for number in 0..3 {
        let key = store.api_keys().find(&credential::hash(&format!("live {number}"))).await.expect("read");
        let key = key.expect("its secret still opens");
        assert_eq!((key.role, key.expires_at, key.last_used_at), (Role::Owner, Some(at(9_000_000_000)), Some(at(6))));
    }
    for (tenant, entries) in [("acme", 1_200), ("default", 600)] {
        let mut work = store.read(&Scope::verified(tenant, "any")).await.expect("a unit of work");
        let mut head = ChainHead::default();
        for entry in work.audit().chain(0, 10_000).await.expect("read") {
            head = entry.verify(&head, tenant).expect("an unbroken chain");
        }
        assert_eq!(head.sequence, entries);
        assert_eq!(work.audit().head().await.expect("read"), head);
    }
    let mut work = store.read(&web()).await.expect("a unit of work");
    let sought = vector(7).expect("one with a vector");
    let (filter, ranking) = (Filter::default(), Ranking::default());
    let query = NearestQuery { vector: sought, keywords: None, filter, ranking, limit: 1 };
    let found = work.patterns().nearest(&query).await.expect("searched");
    let found = work.patterns().get(&[found[0].id]).await.expect("read");
    assert_eq!(found[0].body, pattern(7));
    let tagged = work.skills().search(&Skill::distinct(["csv"]), true, 100).await.expect("searched");
    let tagged = work.patterns().get(&tagged).await.expect("read");
    let expected: Vec<_> = (0..PATTERNS).step_by(100).map(|number| pattern(number).key).collect();
    assert_eq!(tagged.into_iter().map(|pattern| pattern.body.key).collect::<Vec<_>>(), expected, "in their old order");
    let words = work.patterns().matching("zlutoucky", &filter, &ranking, 5).await.expect("searched");
    assert_eq!(words.len(), 5);
    assert_eq!(work.statistics().get().await.expect("read").recent_scores, [0.1 + 0.2, 9.5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_moves_to_postgres_and_back() {
    let (here, there) = (filled_directory(PATTERNS).await, Database::empty().await);
    let back = TempDir::new().expect("a directory");
    let before = contents(&directory(here.path())).await;
    assert_eq!(before.scopes.len(), 4, "{before:?}");
    let web = before.scopes.iter().find(|content| content.scope == web()).expect("the project");
    let counts = (web.patterns, web.vectors, web.evaluations, web.skills, web.feedback, web.keys);
    assert_eq!(counts, (PATTERNS as u64, 802, PATTERNS as u64, 26, 1, 2));

    let copied = copy_store(&directory(here.path()), &place(&there), &|_| ()).await.expect("copied");
    assert_eq!(copied, before);
    assert_eq!(contents(&place(&there)).await, before);
    let store = open_database(&there).await;
    check(&store).await;
    store.close().await;

    copy_store(&place(&there), &directory(back.path()), &|_| ()).await.expect("copied back");
    assert_eq!(contents(&directory(back.path())).await, before);
    assert_eq!(contents(&directory(here.path())).await, before, "the source is as it was");
    let store = open_directory(back.path()).await;
    check(&store).await;
    assert!(store.has_mark("adopted-json-directory").await.expect("read"));
    assert!(!store.has_mark(UNFINISHED).await.expect("read"));
    store.close().await;

    copy_store(&place(&there), &directory(back.path()), &|_| ()).await.expect("there is nothing to do");
}

/// Runs the program.
fn command(source: &Path, target: &Database) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .env_clear()
        .env("TARGET", target.url())
        .args(["copy-store", "--json", "--to", "env:TARGET", "--from"])
        .arg(source)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

async fn patterns_in(database: &Database) -> i64 {
    let mut connection = database.connect().await;
    let there = sqlx::query("select to_regclass('patterns') is not null").fetch_one(&mut connection).await;
    if !there.expect("read").try_get::<bool, _>(0).expect("a truth value") {
        return 0;
    }
    let row = sqlx::query("select count(*) from patterns").fetch_one(&mut connection).await.expect("read");
    row.try_get(0).expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_copy_goes_on() {
    let (here, there) = (filled_directory(4_000).await, Database::empty().await);
    let before = contents(&directory(here.path())).await;
    let mut process = command(here.path(), &there).spawn().expect("the program starts");
    // In the middle of it, after some of its pages.
    while patterns_in(&there).await < 500 {
        assert!(process.try_wait().expect("alive").is_none(), "it was done before it could be killed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.kill().expect("killed");
    process.wait().expect("gone");
    let half = patterns_in(&there).await;
    assert!((500..4_000).contains(&half), "{half}");

    let vars = [("ENGRAMIA_DATABASE_URL", there.url()), ("ENGRAMIA_DATA_PATH", "unused".to_owned())];
    let config = Config::load(vars.map(|(name, value)| (name.to_owned(), value))).expect("valid").config;
    let refused = App::start(config, Overrides::default()).await.err().expect("half a memory is none");
    assert!(refused.to_string().contains("copy-store"), "{refused:#}");
    let backwards = copy_store(&place(&there), &directory(here.path()), &|_| ()).await.expect_err("half a source");
    assert!(backwards.to_string().contains("cut off"), "{backwards:#}");

    // Meanwhile somebody has used the source once more.
    let store = open_directory(here.path()).await;
    let mut work = store.begin(&web()).await.expect("a unit of work");
    assert!(work.patterns().delete(&pattern(20).key).await.expect("deleted"));
    work.patterns().insert(&pattern(4_000), None).await.expect("inserted").expect("a free key");
    work.commit().await.expect("committed");
    store.close().await;

    let command = command(here.path(), &there).output();
    let output = tokio::task::spawn_blocking(|| command).await.expect("joined").expect("ran");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let now = contents(&directory(here.path())).await;
    assert_ne!(now, before);
    assert_eq!(contents(&place(&there)).await, now);
    let digests: Vec<_> = now.scopes.iter().map(|content| json!(content.digest())).collect();
    let reported = report["scopes"].as_array().expect("a list").iter().map(|scope| scope["digest"].clone());
    assert_eq!(reported.collect::<Vec<_>>(), digests);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_with_other_data_is_refused_and_stays_as_it_is() {
    let (here, there) = (filled_directory(3).await, Database::new().await);
    let store = open_database(&there).await;
    let mut work = store.begin(&Scope::verified("other", "web")).await.expect("a unit of work");
    work.patterns().insert(&pattern(1), None).await.expect("inserted").expect("a free key");
    work.commit().await.expect("committed");
    store.close().await;
    let before = contents(&place(&there)).await;
    let refused = copy_store(&directory(here.path()), &place(&there), &|_| ()).await.expect_err("other data");
    assert!(refused.to_string().contains("tenant other, project web"), "{refused:#}");
    assert_eq!(contents(&place(&there)).await, before);

    // The same project with one row more.
    let grown = filled_directory(4).await;
    let refused = copy_store(&directory(here.path()), &directory(grown.path()), &|_| ()).await.expect_err("differs");
    assert!(refused.to_string().contains("tenant acme, project web"), "{refused:#}");

    let same = copy_store(&place(&there), &place(&there), &|_| ()).await.expect_err("the same");
    assert!(same.to_string().contains("it is the target"), "{same:#}");
    let store = open_database(&there).await;
    assert!(!store.has_mark(UNFINISHED).await.expect("read"), "a server still starts on it");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_or_missing_source_is_no_source() {
    let (nowhere, there) = (TempDir::new().expect("a directory"), Database::empty().await);
    let missing = directory(&nowhere.path().join("typo"));
    for source in [&missing, &place(&there)] {
        let refused = copy_store(source, &directory(nowhere.path()), &|_| ()).await.expect_err("nothing there");
        assert!(refused.to_string().contains("holds no memory"), "{refused:#}");
    }
    assert!(!nowhere.path().join("typo").exists());
    assert_eq!(std::fs::read_dir(nowhere.path()).expect("a folder").count(), 0, "no target was made");
    assert_eq!(patterns_in(&there).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_there_is_and_makes_nothing() {
    let (here, there) = (filled_directory(3).await, Database::empty().await);
    let command = command(here.path(), &there).arg("--dry-run").output();
    let output = tokio::task::spawn_blocking(|| command).await.expect("joined").expect("ran");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["copied"], &report["scopes"][2]["patterns"]), (&json!(false), &json!(3)), "{report}");
    assert_eq!(
        report["audit"],
        json!([{ "tenant": "acme", "entries": 1200 }, { "tenant": "default", "entries": 600 }])
    );
    let mut connection = there.connect().await;
    let row = sqlx::query("select count(*) from pg_tables where schemaname = 'public'").fetch_one(&mut connection);
    assert_eq!(row.await.expect("read").try_get::<i64, _>(0).expect("a number"), 0);
}
