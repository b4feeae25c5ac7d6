//! The first start on a data directory of the original's JSON files (decision 24).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use engramia::app::{App, Overrides};
use engramia::compute::ComputePool;
use engramia::config::Config;
use engramia::domain::tier::Calibration;
use engramia::domain::{Feedback, Pattern, Ratings, Scope, Skill, Timestamp, from_unix_seconds};
use engramia::ports::{Embedder, ModelError, Priority, Space, Vector};
use engramia::store::Store;
use engramia::store::memory::ScopeStatistics;
use engramia::store::sqlite::SqliteStore;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;
use tower::ServiceExt;

/// A model that counts letters; remembers what it was asked, and fails as often as it is told.
#[derive(Clone)]
struct Letters {
    space: Space,
    asked: Arc<Mutex<Vec<String>>>,
    failures: Arc<AtomicUsize>,
}

impl Letters {
    fn new(failures: usize) -> Self {
        let failures = Arc::new(AtomicUsize::new(failures));
        Self { space: Space("local/letters-v2".into()), asked: Arc::default(), failures }
    }

    fn values(text: &str) -> Vec<f32> {
        let mut counts = vec![0.1; 26];
        for letter in text.bytes().filter(u8::is_ascii_alphabetic) {
            counts[usize::from(letter.to_ascii_lowercase() - b'a')] += 1.0;
        }
        counts
    }

    fn was_asked(&self, text: &str) -> bool {
        self.asked.lock().expect("no panic").iter().any(|asked| asked == text)
    }
}

#[async_trait]
impl Embedder for Letters {
    async fn embed(&self, texts: &[&str], _: Priority) -> Result<Vec<Vector>, ModelError> {
        let fail = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if fail.is_ok() {
            return Err(ModelError::Unavailable(anyhow::anyhow!("told to fail")));
        }
        self.asked.lock().expect("no panic").extend(texts.iter().map(|&text| text.to_owned()));
        let vector = |text: &&str| Vector::normalized(self.space.clone(), Self::values(text)).expect("never zero");
        Ok(texts.iter().map(vector).collect())
    }
    fn space(&self) -> &Space {
        &self.space
    }
    fn provider(&self) -> &'static str {
        "local"
    }
    fn calibration(&self) -> Calibration {
        Calibration::Identity
    }
    fn batch_size(&self) -> usize {
        8
    }
}

/// An old data directory.
struct Directory(TempDir);

impl Directory {
    fn new(files: &[(&str, Value)]) -> Self {
        let root = Self(TempDir::new().expect("a directory"));
        for (path, content) in files {
            root.write(path, &content.to_string());
        }
        root
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, content).expect("written");
    }

    async fn start(&self, embedder: &Letters) -> App {
        let root = self.0.path().to_str().expect("a text");
        let vars = [
            ("ENGRAMIA_DATA_PATH", root),
            ("ENGRAMIA_AUTH_MODE", "dev"),
            ("ENGRAMIA_ALLOW_NO_AUTH", "true"),
            ("ENGRAMIA_LLM_PROVIDER", "none"),
        ];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::load(vars).expect("valid").config;
        let overrides = Overrides { embedder: Some(Arc::new(embedder.clone())), ..Overrides::default() };
        App::start(config, overrides).await.expect("it starts")
    }

    /// Bytes and times of all files but the database's.
    fn files(&self) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("listed") {
                let path = entry.expect("an entry").path();
                let own = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("engramia."));
                if path.is_dir() {
                    folders.push(path);
                } else if !own {
                    let modified = fs::metadata(&path).expect("metadata").modified().expect("a time");
                    files.insert(path.clone(), (fs::read(&path).expect("read"), modified));
                }
            }
        }
        files
    }

    async fn store(&self, embedder: &Letters) -> SqliteStore {
        let compute = Arc::new(ComputePool::start(1, 16).expect("threads"));
        SqliteStore::open(self.0.path(), Some(embedder.space.clone()), compute).await.expect("it opens")
    }
}

async fn call(app: &App, method: &str, path: &str, body: Value) -> (StatusCode, Option<String>, Value) {
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    let request = request.body(Body::from(body.to_string())).expect("a request");
    let answer = app.router.clone().oneshot(request).await.expect("an answer");
    let (parts, body) = answer.into_parts();
    let mode = parts.headers.get("x-engramia-recall-mode").map(|mode| mode.to_str().expect("text").to_owned());
    let bytes = body.collect().await.expect("a body").to_bytes();
    (parts.status, mode, serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn recall(app: &App, task: &str) -> (String, Value) {
    let query = json!({"task": task, "limit": 5, "deduplicate": false, "readonly": true});
    let (status, mode, answer) = call(app, "POST", "/v1/recall", query).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    (mode.expect("a mode"), answer["matches"][0].clone())
}

async fn patterns(store: &SqliteStore, scope: &Scope) -> Vec<Pattern> {
    store.read(scope).await.expect("a unit of work").patterns().page(None, 100).await.expect("read")
}

fn seconds(seconds: f64) -> Timestamp {
    from_unix_seconds(seconds).expect("a time")
}

fn rfc(text: &str) -> Timestamp {
    chrono::DateTime::parse_from_rfc3339(text).expect("a time").to_utc()
}

const CSV: &str = "Parse a CSV file and compute statistics";
const JSON: &str = "Query quickly jumping foxes by JSON";
const WEB: &str = "Fetch a web page";

/// Everything the original kept, in two scopes.
fn original() -> Directory {
    Directory::new(&[
        (
            "patterns/0be2046e_1700000000123.json",
            json!({
                "task": CSV, "success_score": 8.25, "reuse_count": 12, "timestamp": 1_700_000_000.123_456,
                "design": {
                    "code": "import csv", "output": "mean=1", "classification": "public", "source": "sdk",
                    "workflow": ["a", {"b": null}]
                },
                "_author_key_id": "key-7", "unknown": {"kept": true}
            }),
        ),
        ("patterns/11111111_1700000000500.json", json!({"task": JSON, "design": {}, "success_score": 4.0})),
        ("skills/_registry.json", json!({"patterns/0be2046e_1700000000123": ["CSV", "stats"], "patterns/gone": ["x"]})),
        ("metrics/_global.json", json!({"runs": 9, "success": 7, "failures": 2, "pipeline_reuse": 3})),
        (
            "feedback/default/default/_list.json",
            json!([{
                "pattern": "Add error handling", "count": 3, "score": 0.7, "last_seen": "2026-01-02T03:04:05",
                "last_decayed": "2026-01-03T00:00:00"
            }]),
        ),
        ("analytics/events.json", json!([{"kind": "learn"}])),
        ("acme/web/patterns/22222222_1700000001000.json", json!({"task": WEB, "timestamp": 1_700_000_001.0})),
        ("acme/web/metrics/_global.json", json!({"runs": 2, "success": 2})),
        ("acme/web/skills/_registry.json", json!({"patterns/22222222_1700000001000": ["http"]})),
    ])
}

#[tokio::test]
async fn everything_is_taken_over() {
    let (root, embedder) = (original(), Letters::new(0));
    let before = root.files();
    let app = root.start(&embedder).await;
    let (mode, found) = recall(&app, "parse csv files, compute a statistic").await;
    assert_eq!((mode.as_str(), &found["pattern"]["task"]), ("semantic", &json!(CSV)));
    assert_eq!(found["pattern_key"], "patterns/0be2046e_1700000000123");
    assert_ne!(recall(&app, WEB).await.1["pattern"]["task"], WEB, "that of another scope");
    app.shutdown().await;
    assert_eq!(root.files(), before, "the files are as they were");

    let store = root.store(&embedder).await;
    let (home, acme) = (Scope::default(), Scope::verified("acme", "web"));
    let rows = patterns(&store, &home).await;
    assert_eq!(rows.len(), 2);
    let (body, id) = (&rows[0].body, rows[0].id);
    assert_eq!(
        (body.task.as_str(), body.code.as_deref(), body.output.as_deref()),
        (CSV, Some("import csv"), Some("mean=1"))
    );
    assert_eq!((body.classification.as_str(), body.source.as_str()), ("public", "sdk"));
    assert_eq!((body.success_score, body.reuse_count, body.author.as_deref()), (8.25, 12, Some("key-7")));
    assert_eq!((body.created_at, body.decayed_at), (seconds(1_700_000_000.123_456), seconds(1_700_000_000.123_456)));
    assert_eq!(body.extra.data["unknown"], json!({"kept": true}));
    assert_eq!(body.extra.design["workflow"], json!(["a", {"b": null}]));
    let mut work = store.read(&home).await.expect("a unit of work");
    let tags = Skill::distinct(["csv", "stats"]);
    assert_eq!(work.skills().search(&tags, true, 9).await.expect("read"), [id]);
    assert_eq!(work.skills().search(&Skill::distinct(["x"]), true, 9).await.expect("read"), []);
    let issue = Feedback {
        text: "Add error handling".into(),
        count: 3,
        score: 0.7,
        ratings: Ratings::default(),
        last_seen: rfc("2026-01-02T03:04:05Z"),
        decayed_at: rfc("2026-01-03T00:00:00Z"),
    };
    assert_eq!(work.feedback().all().await.expect("read"), [issue]);
    let counted = ScopeStatistics { patterns: 2, runs: 9, successes: 7, ..ScopeStatistics::default() };
    assert_eq!(work.statistics().get().await.expect("read"), counted);

    let rows = patterns(&store, &acme).await;
    assert_eq!(rows.iter().map(|row| row.body.task.as_str()).collect::<Vec<_>>(), [WEB]);
    assert_eq!(rows[0].body.created_at, seconds(1_700_000_001.0));
    let mut work = store.read(&acme).await.expect("a unit of work");
    assert_eq!(work.skills().search(&Skill::distinct(["http"]), true, 9).await.expect("read"), [rows[0].id]);
    assert_eq!(work.feedback().all().await.expect("read"), []);
    let counted = ScopeStatistics { patterns: 1, runs: 2, successes: 2, ..ScopeStatistics::default() };
    assert_eq!(work.statistics().get().await.expect("read"), counted);
}

#[tokio::test]
async fn flawed_files_are_left_out() {
    let root = original();
    root.write("patterns/33333333_1.json", "{\"task\": \"cut o");
    root.write("patterns/44444444_1.json", &json!({"task": "a score out of range", "success_score": 99}).to_string());
    root.write("patterns/55555555_1.json", &json!({"task": "  "}).to_string());
    root.write("patterns/66666666_1.json", &json!({"task": "a time of no use", "timestamp": 1e300}).to_string());
    root.write("patterns/77777777_1.json", "[]");
    root.write("patterns/88888888_1.json", "");
    root.write("patterns/99999999_1.json", &json!({"task": "the last one", "design": {"code": "c"}}).to_string());
    root.write("patterns/0be2046e_1700000000123.json.bak", &json!({"task": "an older copy"}).to_string());
    root.write("acme/web/skills/_registry.json", "{");
    root.write("feedback/acme/web/_list.json", "null and void");
    let (before, embedder) = (root.files(), Letters::new(0));
    root.start(&embedder).await.shutdown().await;
    assert_eq!(root.files(), before);
    let store = root.store(&embedder).await;
    let tasks: Vec<_> = patterns(&store, &Scope::default()).await.into_iter().map(|row| row.body.task).collect();
    assert_eq!(tasks, [CSV, JSON, "the last one"]);
    assert_eq!(patterns(&store, &Scope::verified("acme", "web")).await.len(), 1);
}

#[tokio::test]
async fn the_import_happens_once() {
    let (root, embedder) = (original(), Letters::new(0));
    let app = root.start(&embedder).await;
    let (status, ..) = call(&app, "DELETE", "/v1/patterns/patterns/0be2046e_1700000000123", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    let learned = json!({"task": "learned after the import", "code": "c", "eval_score": 9.0});
    assert_eq!(call(&app, "POST", "/v1/learn", learned).await.0, StatusCode::OK);
    app.shutdown().await;
    root.write("patterns/aaaaaaaa_1.json", &json!({"task": "came too late"}).to_string());
    for _ in 0..2 {
        root.start(&embedder).await.shutdown().await;
    }
    let store = root.store(&embedder).await;
    let tasks: Vec<_> = patterns(&store, &Scope::default()).await.into_iter().map(|row| row.body.task).collect();
    let mut expected = vec![JSON.to_owned(), "learned after the import".to_owned()];
    expected.sort();
    let mut sorted = tasks.clone();
    sorted.sort();
    assert_eq!(sorted, expected);
    let counted = store.read(&Scope::default()).await.expect("a unit of work").statistics().get().await.expect("read");
    assert_eq!((counted.runs, counted.successes), (10, 8));
}

/// As if the process had died before the import was marked as done, at two points of it.
#[tokio::test]
async fn an_interrupted_import_is_finished() {
    let (root, embedder) = (original(), Letters::new(0));
    root.start(&embedder).await.shutdown().await;
    let rest = "delete from marks; delete from skills; delete from feedback; \
                update scope_statistics set runs = 0, successes = 0";
    for lost in ["delete from marks", rest] {
        let options = SqliteConnectOptions::new().filename(root.0.path().join("engramia.db"));
        let mut connection = options.connect().await.expect("connected");
        sqlx::raw_sql(lost).execute(&mut connection).await.expect("changed");
        connection.close().await.expect("closed");
        root.start(&embedder).await.shutdown().await;

        let store = root.store(&embedder).await;
        let rows = patterns(&store, &Scope::default()).await;
        let mut work = store.read(&Scope::default()).await.expect("a unit of work");
        let tagged = work.skills().search(&Skill::distinct(["csv"]), true, 9).await.expect("read");
        assert_eq!((rows.len(), tagged), (2, vec![rows[0].id]), "{lost}");
        assert_eq!(work.feedback().all().await.expect("read").len(), 1, "{lost}");
        let counted = work.statistics().get().await.expect("read");
        assert_eq!((counted.patterns, counted.runs, counted.successes), (2, 9, 7), "{lost}");
    }
}

#[tokio::test]
async fn vectors_of_the_same_model_are_reused() {
    let root = original();
    root.write("metadata/embedding_config.json", &json!({"provider": "local", "model": "Letters-V2"}).to_string());
    let vectors = json!({
        "patterns/0be2046e_1700000000123": Letters::values(CSV),
        "patterns/11111111_1700000000500": [0.5, 0.5],
    });
    root.write("_embeddings.json", &vectors.to_string());
    let embedder = Letters::new(0);
    let app = root.start(&embedder).await;
    assert!(!embedder.was_asked(CSV), "its vector is that of the file");
    for task in [CSV, JSON] {
        let found = recall(&app, task).await.1;
        assert_eq!(found["pattern"]["task"], task, "a vector of another length is made anew");
        assert!(found["similarity"].as_f64().expect("a number") > 0.99);
    }
    assert!(embedder.was_asked(WEB) && embedder.was_asked(JSON));
    app.shutdown().await;
}

#[tokio::test]
async fn vectors_of_another_model_are_made_anew() {
    let root = original();
    root.write("metadata/embedding_config.json", &json!({"model": "text-embedding-3-small"}).to_string());
    let turned: Vec<f32> = Letters::values(CSV).into_iter().rev().collect();
    root.write("_embeddings.json", &json!({"patterns/0be2046e_1700000000123": turned}).to_string());
    let embedder = Letters::new(0);
    let app = root.start(&embedder).await;
    assert!(embedder.was_asked(CSV));
    let found = recall(&app, CSV).await.1;
    assert!(found["pattern"]["task"] == CSV && found["similarity"].as_f64().expect("a number") > 0.99);
    app.shutdown().await;
}

/// The provider is away during the import: everything is there at once, by its words, and by its meaning later.
#[tokio::test]
async fn missing_vectors_are_made_in_the_background() {
    let root = original();
    let embedder = Letters::new(2);
    let app = root.start(&embedder).await;
    for attempt in 0.. {
        let (mode, found) = recall(&app, CSV).await;
        assert_eq!(found["pattern"]["task"], CSV, "found by {mode}");
        if mode == "semantic" {
            assert!(found["similarity"].as_f64().expect("a number") > 0.99);
            break;
        }
        assert!(attempt < 500, "the backlog is never worked off");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    app.shutdown().await;
    let store = root.store(&embedder).await;
    assert!(store.unembedded(&embedder.space, None, 9).await.expect("read").is_empty());
    assert!(Path::new(root.0.path()).join("engramia.db").exists());
}
