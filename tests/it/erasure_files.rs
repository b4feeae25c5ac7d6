//! Erased means erased: afterwards no file of the database holds a word of it. And a server that is killed while it
//! erases goes on where it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use axum::http::Method;
use engramia::domain::{Role, Scope};
use memchr::memmem;
use serde_json::{Value, json};
use sqlx::Row;
use tempfile::TempDir;

use crate::support::app::{Setup, TestApp, api_key, store_key};
use crate::support::people::Person;
use crate::support::postgres::{Database, execute};
use crate::support::program::{Server, on_database, on_directory};
use crate::support::provider::{Provider, verdict};
use crate::support::{eventually, record};

/// Words of the project that goes, by where they stand; no two begin alike, because the text index stores only what a
/// word does not share with the one before.
const GONE: &[(&str, &str)] = &[
    ("task", "wjqa71x"),
    ("code", "kzpb82y"),
    ("output", "vhxc93z"),
    ("run", "gqyd64w"),
    ("tag", "bxwe55v"),
    ("note", "pzkf46u"),
    ("issue", "mxvg37t"),
    ("judged task", "dkqh28s"),
    ("imported task", "txzj19r"),
    ("imported code", "hvqk90q"),
    ("imported key", "zyrm81p"),
    ("failed job", "fxqn72o"),
    ("name of a key", "jqzp63n"),
    ("request id", "cvyq54m"),
    ("deleted before", "rkxs45k"),
];
/// A word of the project that stays.
const KEPT: &str = "qyxu27h";
/// What docs/erasure.md tells operators to do.
const VACUUM: [&str; 3] = [
    "delete from pg_statistic where starelid in \
     (select oid from pg_class where relnamespace = 'public'::regnamespace)",
    "vacuum full",
    "analyze",
];
/// Address that the project was used from.
const ADDRESS: &str = "203.0.113.77";

fn word(place: &str) -> &'static str {
    GONE.iter().find(|(known, _)| *known == place).expect("a place").1
}

async fn start(setup: Setup) -> (Provider, TestApp) {
    let provider = Provider::saying(&[&verdict(3.0, &format!("{} is missing.", word("issue")))]).await;
    let prepared = provider.of(setup).stored_keys().prepare(async |store| {
        store_key(store, &api_key("boss", Scope::verified("acme", "kept"), Role::Owner)).await;
    });
    (provider, prepared.await.start().await)
}

/// Sends a call from the address, under the id.
async fn post(person: &Person, path: &str, body: Value) -> Value {
    let call = person.post(path, &body).from(ADDRESS).header("x-request-id", format!("{}-1", word("request id")));
    let answer = call.await;
    assert!(answer.status.is_success(), "{path}: {}", answer.text());
    answer.json()
}

/// Leaves every word in the project `gone`, whose owner key is given back, and one in the other.
async fn furnish(app: &TestApp) -> Person {
    let boss = app.holder_of("boss");
    let kept = json!({ "task": format!("keep {KEPT}"), "code": KEPT, "eval_score": 5 });
    boss.post("/v1/learn", &kept).await.ok();
    let name = format!("key of {}", word("name of a key"));
    let made = post(&boss, "/v1/keys", json!({ "name": name, "role": "owner", "project_id": "gone" })).await;
    let owner = app.holder_of(made["key"].as_str().expect("a key"));
    let learned = json!({
        "task": format!("parse {}", word("task")), "code": word("code"), "output": word("output"),
        "run_id": word("run"), "eval_score": 7,
    });
    let key = post(&owner, "/v1/learn", learned).await["pattern_key"].as_str().expect("a key").to_owned();
    post(&owner, "/v1/skills/register", json!({ "pattern_key": key, "skills": [word("tag")] })).await;
    let outcome = json!({ "success": false, "note": word("note"), "run_id": word("run") });
    post(&owner, &format!("/v1/patterns/{key}/outcome"), outcome).await;
    let judged = json!({ "task": format!("judge {}", word("judged task")), "code": "c", "num_evals": 1 });
    for _ in 0..2 {
        post(&owner, "/v1/evaluate", judged.clone()).await;
    }
    let mut import = record(&format!("patterns/{}", word("imported key")), word("imported task"), 5.0);
    import["data"]["design"]["code"] = word("imported code").into();
    job(&owner, "/v1/import", json!({ "records": [import] }), "completed").await;
    let flawed = json!({ "records": [{ "key": "patterns/x", "data": { "task": 5, "x": word("failed job") } }] });
    job(&owner, "/v1/import", flawed, "failed").await;
    let passing = json!({ "task": word("deleted before"), "code": word("deleted before"), "eval_score": 5 });
    let passing = post(&owner, "/v1/learn", passing).await["pattern_key"].as_str().expect("a key").to_owned();
    owner.delete(&format!("/v1/patterns/{passing}")).await.ok();
    post(&owner, "/v1/recall", json!({ "task": format!("parse {}", word("task")) })).await;
    post(&owner, "/v1/analytics/rollup", json!({ "window": "daily" })).await;
    owner.get("/v1/export").from(ADDRESS).await.ok();
    owner
}

async fn job(owner: &Person, path: &str, body: Value, end: &str) {
    let call = owner.post(path, &body).from(ADDRESS).header("prefer", "respond-async").await;
    let id = call.json()["job_id"].as_str().expect("an id").to_owned();
    eventually(end, async || (owner.get(&format!("/v1/jobs/{id}")).await.ok()["status"] == end).then_some(())).await;
}

/// How many places hold each word, `files` by name.
fn found(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<&'static str, Vec<String>> {
    let mut all: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    let words = GONE.iter().map(|(place, word)| (*place, *word)).chain([("kept", KEPT), ("address", ADDRESS)]);
    for (place, word) in words {
        for (name, bytes) in files {
            if memmem::find(&bytes.to_ascii_lowercase(), word.as_bytes()).is_some() {
                all.entry(place).or_default().push(name.clone());
            }
        }
    }
    all
}

/// Whether nothing but the word of the other project is left.
fn is_gone(files: &BTreeMap<String, Vec<u8>>) -> bool {
    found(files).keys().all(|place| *place == "kept")
}

/// Asserts that the words were there before, and now only that of the other project.
fn assert_gone(before: &BTreeMap<String, Vec<u8>>, after: &BTreeMap<String, Vec<u8>>) {
    let seen = found(before);
    for place in ["task", "code", "output", "run", "tag", "note", "issue", "judged task", "name of a key", "address"] {
        assert!(seen.contains_key(place), "{place} was never written: {seen:?}");
    }
    let left = found(after);
    assert_eq!(left.keys().collect::<Vec<_>>(), [&"kept"], "{left:?}");
}

fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(root).expect("a folder").map(|entry| entry.expect("an entry").path());
    let files = entries.filter(|path| path.is_file());
    files.map(|path| (path.display().to_string(), fs::read(&path).expect("read"))).collect()
}

#[tokio::test]
async fn no_file_of_the_embedded_store_holds_a_word_of_an_erased_project() {
    let (_provider, app) = start(Setup::new()).await;
    let owner = furnish(&app).await;
    let before = files(app.root());
    assert_eq!(app.holder_of("boss").delete("/v1/governance/projects/gone").await.ok()["patterns_deleted"], 2);
    owner.get("/v1/health").await.problem(401, "UNAUTHORIZED");
    // Already while the server runs, its log included.
    assert_gone(&before, &files(app.root()));
    let root = app.stop().await;
    assert_gone(&before, &files(root.path()));
}

/// Every file of the database, as the server reads it. The write-ahead log is not among them: the server uses its files
/// again.
async fn files_of(database: &Database) -> BTreeMap<String, Vec<u8>> {
    let mut connection = database.connect().await;
    execute(&mut connection, "checkpoint").await;
    let rows = sqlx::query(
        "select f || coalesce(' ' || pg_filenode_relation(0, substring(f from '^\\d+')::oid), ''), \
             pg_read_binary_file(d || '/' || f, true) \
         from (select 'base/' || oid as d from pg_database where datname = current_database()) b, pg_ls_dir(d) f",
    )
    .fetch_all(&mut connection)
    .await
    .expect("the files of the database");
    let file = |row: &sqlx::postgres::PgRow| Some((row.get(0), row.get::<Option<Vec<u8>>, _>(1)?));
    rows.iter().filter_map(file).collect()
}

#[tokio::test]
async fn no_file_of_postgresql_holds_a_word_of_an_erased_project_once_it_is_vacuumed() {
    let database = Database::new().await;
    let (_provider, app) = start(Setup::new().postgres(&database)).await;
    furnish(&app).await;
    let mut connection = database.connect().await;
    // Its samples are copies, too.
    execute(&mut connection, "analyze").await;
    let before = files_of(&database).await;
    assert_eq!(app.holder_of("boss").delete("/v1/governance/projects/gone").await.ok()["patterns_deleted"], 2);
    app.stop().await;
    let mut after = BTreeMap::new();
    // Rows stay while a transaction is open that began before they went, in whatever database of the server: that is
    // where the other tests are.
    for _ in 0..100 {
        for statement in VACUUM {
            execute(&mut connection, statement).await;
        }
        after = files_of(&database).await;
        if is_gone(&after) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_gone(&before, &after);
}

/// Learns many patterns in a project, erases it, kills the server in the middle, and looks what the next one does.
async fn goes_on_after_a_crash(start: impl Fn() -> std::process::Command) {
    let begin = || {
        let mut command = start();
        command.env("ENGRAMIA_EMBEDDING_MODEL", "none");
        Server::start(command)
    };
    let mut server = begin().await;
    let records = |from: usize| {
        let one = |n: usize| record(&format!("patterns/n{n:06}"), &format!("task {n} {}", "word ".repeat(20)), 5.0);
        json!({ "records": (from..from + 1_000).map(one).collect::<Vec<_>>() })
    };
    for part in 0..8 {
        server.post("/v1/import", &records(part * 1_000)).await.ok();
    }
    let erasing = server.ask(Method::DELETE, "/v1/governance/projects/default", None);
    let killing = async {
        tokio::time::sleep(Duration::from_millis(120)).await;
        server.signal("KILL");
    };
    let (erased, ()) = tokio::join!(erasing, killing);
    println!("killed before the end: {}", erased.is_err());
    server.wait();
    let server = begin().await;
    eventually("the next server finishes it", async || {
        let log = server.get("/v1/audit?action=scope_deleted").await;
        log.json()["events"].as_array().is_some_and(|events| !events.is_empty()).then_some(())
    })
    .await;
    assert!(server.exported_tasks().await.is_empty());
    let log = server.get("/v1/audit?action=scope_deleted").await.ok();
    assert_eq!(log["events"].as_array().map(Vec::len), Some(1), "{log}");
    assert_eq!(log["events"][0]["detail"]["patterns_deleted"], 8_000, "{log}");
    let learned = server.post("/v1/learn", &json!({ "task": "t", "code": "c", "eval_score": 5 })).await.ok();
    assert_eq!(learned["pattern_count"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_server_that_was_killed_goes_on_erasing() {
    let data = TempDir::new().expect("a directory");
    goes_on_after_a_crash(|| on_directory(data.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_over_postgresql_that_was_killed_goes_on_erasing() {
    let database = Database::new().await;
    goes_on_after_a_crash(|| on_database(&database.url())).await;
}
