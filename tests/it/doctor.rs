//! `engramia doctor`: what it finds on both stores, and that it disturbs nobody.

use std::process::Command;

use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::postgres::{Database, execute};
use crate::support::program::{Server, finished, on_database, on_directory};

/// What the doctor says, and whether nothing failed.
async fn doctor(mut command: Command, arguments: &[&str]) -> (Value, bool) {
    command.args(["doctor", "--json"]).args(arguments);
    let output = finished(command).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code().is_some_and(|code| code <= 1), "{text}");
    let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {text}"));
    (said, output.status.success())
}

fn of<'a>(said: &'a Value, name: &str) -> Vec<&'a Value> {
    let checks = said["checks"].as_array().expect("a list");
    checks.iter().filter(|check| check["name"] == name).collect()
}

#[track_caller]
fn assert_says(said: &Value, name: &str, status: &str, detail: &str) {
    let found = of(said, name);
    let fits = |check: &&&Value| {
        check["status"] == status && check["detail"].as_str().is_some_and(|text| text.contains(detail))
    };
    assert!(found.iter().any(|check| fits(&check)), "{name} {status} {detail}: {said}");
}

/// Learns one pattern on a server of its own, and gives what the doctor says beside it.
async fn beside_a_server(on: impl Fn() -> Command) -> Value {
    let server = Server::start(on()).await;
    let body = serde_json::json!({ "task": "Read a CSV file", "code": "import csv", "eval_score": 8.0 });
    server.post("/v1/learn", &body).await.ok();
    let (said, fine) = doctor(on(), &["--offline"]).await;
    assert!(fine, "{said}");
    assert_says(&said, "index", "ok", "1 patterns");
    server.post("/v1/learn", &serde_json::json!({ "task": "Sort", "code": "sorted", "eval_score": 7.0 })).await.ok();
    said
}

#[tokio::test]
async fn a_healthy_directory_is_healthy_with_and_without_a_server() {
    let root = tempfile::tempdir().expect("a directory");
    let fresh = root.path().join("data");
    let (said, fine) = doctor(on_directory(&fresh), &["--offline"]).await;
    assert!(fine && !fresh.exists(), "it makes nothing: {said}");
    assert_says(&said, "store", "skipped", "none yet");
    let said = beside_a_server(|| on_directory(&fresh)).await;
    assert_says(&said, "disk", "ok", "MiB free");
    assert_says(&said, "model", "ok", "SHA-256");
    assert_says(&said, "schema", "ok", "SQLite");
    let (said, fine) = doctor(on_directory(&fresh), &["--offline"]).await;
    assert!(fine, "{said}");
    assert_says(&said, "index", "ok", "2 patterns");
}

#[tokio::test]
async fn a_healthy_database_is_healthy() {
    let database = Database::new().await;
    let said = beside_a_server(|| on_database(&database.url())).await;
    assert_says(&said, "schema", "ok", "pgvector");
    assert_says(&said, "clock", "ok", "agrees");
    assert!(of(&said, "disk").is_empty(), "its disk is another machine's: {said}");
}

#[tokio::test]
async fn an_index_that_disagrees_with_its_rows_is_found_on_the_embedded_store() {
    let root = tempfile::tempdir().expect("a directory");
    drop(beside_a_server(|| on_directory(root.path())).await);
    let options = SqliteConnectOptions::new().filename(root.path().join("engramia.db"));
    let mut connection = options.connect().await.expect("the database");
    for statement in ["delete from vectors where pattern_id = 1", "update scope_statistics set patterns = 7"] {
        sqlx::query(statement).execute(&mut connection).await.expect("done");
    }
    connection.close().await.expect("closed");
    let (said, fine) = doctor(on_directory(root.path()), &["--offline"]).await;
    assert!(!fine && said["status"] == "failed", "{said}");
    assert_says(&said, "index", "failed", "1 patterns that should have a vector");
    assert_says(&said, "index", "failed", "1 projects whose counter");
}

#[tokio::test]
async fn an_index_that_disagrees_with_its_rows_is_found_on_postgres() {
    let database = Database::new().await;
    drop(beside_a_server(|| on_database(&database.url())).await);
    let mut connection = database.connect().await;
    for statement in ["delete from pattern_words", "update scopes set patterns = 7"] {
        execute(&mut connection, statement).await;
    }
    let (said, fine) = doctor(on_database(&database.url()), &["--offline"]).await;
    assert!(!fine, "{said}");
    assert_says(&said, "index", "failed", "2 patterns that keyword search does not know");
    assert_says(&said, "index", "failed", "1 projects whose counter");
}

#[tokio::test]
async fn a_damaged_file_is_found() {
    let root = tempfile::tempdir().expect("a directory");
    drop(beside_a_server(|| on_directory(root.path())).await);
    let file = root.path().join("engramia.db");
    // The log may hold what the file begins with: the server was killed.
    for beside in ["engramia.db-wal", "engramia.db-shm"] {
        drop(std::fs::remove_file(root.path().join(beside)));
    }
    std::fs::write(&file, "this is no database, but a text that is long enough").expect("written");
    let (said, fine) = doctor(on_directory(root.path()), &["--offline"]).await;
    assert!(!fine, "{said}");
    assert_says(&said, "store", "failed", "not a database");
}

#[tokio::test]
async fn services_are_asked_for_what_costs_nothing() {
    let root = tempfile::tempdir().expect("a directory");
    let provider = MockServer::start().await;
    let known = Mock::given(method("GET")).and(path("/v1/models")).and(header("authorization", "Bearer sk-good"));
    let long_ago = ("date", "Mon, 02 Jan 2006 15:04:05 GMT");
    known.respond_with(ResponseTemplate::new(200).insert_header(long_ago.0, long_ago.1)).mount(&provider).await;
    Mock::given(method("GET")).respond_with(ResponseTemplate::new(401)).with_priority(9).mount(&provider).await;
    let on = |key: &str, base: &str| {
        let mut command = on_directory(root.path());
        command.env("OPENAI_API_KEY", key).env("OPENAI_BASE_URL", format!("{base}/v1"));
        command
    };
    let (said, fine) = doctor(on("sk-good", &provider.uri()), &[]).await;
    assert!(fine, "{said}");
    for part in ["llm", "embedding"] {
        assert_says(&said, part, "ok", "answers");
    }
    assert_says(&said, "clock", "warning", "behind");
    let (said, fine) = doctor(on("sk-bad", &provider.uri()), &[]).await;
    assert!(!fine && !said.to_string().contains("sk-bad"), "{said}");
    assert_says(&said, "llm", "failed", "HTTP 401");
    let (said, fine) = doctor(on("sk-good", "http://127.0.0.1:9"), &[]).await;
    assert!(!fine, "{said}");
    assert_says(&said, "llm", "failed", "no connection");
    let (said, fine) = doctor(on("sk-good", "http://127.0.0.1:9"), &["--offline"]).await;
    assert!(fine && of(&said, "llm").is_empty(), "{said}");
}

#[tokio::test]
async fn a_wrong_configuration_and_a_taken_port_are_named() {
    let root = tempfile::tempdir().expect("a directory");
    let mut wrong = on_directory(root.path());
    wrong.env("ENGRAMIA_PORT", "many").env("ENGRAMIA_STORAGE", "tape");
    let (said, fine) = doctor(wrong, &[]).await;
    assert!(!fine && of(&said, "configuration").len() == 2, "{said}");
    assert_says(&said, "configuration", "failed", "ENGRAMIA_PORT=many");

    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = other.local_addr().expect("an address").port().to_string();
    // Whoever answers nothing is not our server.
    drop(std::thread::spawn(move || other.incoming().for_each(drop)));
    let mut taken = on_directory(root.path());
    taken.env("ENGRAMIA_PORT", &port);
    let (said, fine) = doctor(taken, &["--offline"]).await;
    assert!(!fine, "{said}");
    assert_says(&said, "port", "failed", "another program");
    let mut started = on_directory(&root.path().join("other"));
    started.env("ENGRAMIA_PORT", &port);
    let said = crate::support::program::refused(started).await;
    assert!(said.contains(&port) && said.contains("ENGRAMIA_PORT"), "{said}");
}

#[tokio::test]
async fn a_running_server_is_known_by_its_answer() {
    let root = tempfile::tempdir().expect("a directory");
    let server = Server::start(on_directory(&root.path().join("one"))).await;
    let mut beside = on_directory(&root.path().join("another"));
    beside.env("ENGRAMIA_PORT", server.address().port().to_string());
    let (said, _) = doctor(beside, &["--offline"]).await;
    assert_says(&said, "port", "ok", "a server of this program");
}

#[tokio::test]
async fn people_read_a_line_for_each_part() {
    let root = tempfile::tempdir().expect("a directory");
    let mut command = on_directory(&root.path().join("data"));
    command.args(["doctor", "--offline"]);
    let output = finished(command).await;
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.lines().all(|line| line.len() > 10) && text.contains("ok       model"), "{text}");
}
