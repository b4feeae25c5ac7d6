//! Commands that work on the store itself: the first owner key, and the check of the audit log.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use crate::support::app::{Setup, TestApp};

const PROGRAM: &str = env!("CARGO_BIN_EXE_engramia");

/// Runs the program on a directory.
async fn engramia(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.env_clear().env("ENGRAMIA_DATA_PATH", data).env("ENGRAMIA_LOG", "info").stdin(Stdio::null());
    command.args(arguments);
    let ran = tokio::task::spawn_blocking(move || command.output());
    ran.await.expect("joined").expect("the program runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn the_first_owner_key_is_made_once_and_printed_alone() {
    let root = tempfile::tempdir().expect("a directory");
    let made = engramia(root.path(), &["keys", "bootstrap"]).await;
    assert!(made.status.success(), "{}", err(&made));
    let key = out(&made);
    assert!(key.starts_with("engramia_sk_") && key.len() == 55, "{key}");
    assert!(!err(&made).contains(&key), "{}", err(&made));
    let again = engramia(root.path(), &["keys", "bootstrap"]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(err(&again).contains("there is a key already") && out(&again).is_empty(), "{}", err(&again));

    let app = Setup::on(root).stored_keys().start().await;
    let owner = app.holder_of(&key);
    assert_eq!(owner.get("/v1/keys").await.ok()["keys"][0]["role"], "owner");
    assert_eq!(owner.get("/v1/audit").await.ok()["events"][0]["detail"]["source"], "cli");
}

#[tokio::test]
async fn a_running_server_keeps_the_store_to_itself() {
    let app = TestApp::start().await;
    for arguments in [["keys", "bootstrap"], ["audit", "verify"]] {
        let refused = engramia(app.root(), &arguments).await;
        assert_eq!(refused.status.code(), Some(1));
        let said = err(&refused);
        assert!(said.contains("only while no server runs on it") && said.contains("stop it"), "{said}");
    }
}

/// A stopped server's directory with three entries of its audit log.
async fn with_entries() -> TempDir {
    let app = Setup::new().keyed().await.start().await;
    for name in ["one", "two", "three"] {
        assert_eq!(app.owner().post("/v1/keys", &json!({ "name": name })).await.status, 201);
    }
    app.stop().await
}

async fn verify(root: &TempDir) -> (Option<i32>, Value) {
    let output = engramia(root.path(), &["audit", "verify", "--json"]).await;
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", err(&output)));
    (output.status.code(), report)
}

#[tokio::test]
async fn a_whole_log_is_said_to_be_whole() {
    let root = with_entries().await;
    let row = json!({ "tenant": "default", "entries": 3, "ok": true, "broken": null, "reason": null });
    assert_eq!(verify(&root).await, (Some(0), json!({ "ok": true, "tenants": [row] })));
    let plain = engramia(root.path(), &["audit", "verify"]).await;
    assert_eq!(out(&plain), "default  entries 3  whole");
    let empty = tempfile::tempdir().expect("a directory");
    assert_eq!(out(&engramia(empty.path(), &["audit", "verify"]).await), "the audit log is empty");
}

#[tokio::test]
async fn whatever_is_changed_in_the_log_is_noticed() {
    let cases = [
        ("update audit_log set actor = 'somebody else' where sequence = 2", 2, "it was changed"),
        ("update audit_log set at = at + 1 where sequence = 1", 1, "it was changed"),
        ("update audit_log set ip = '10.0.0.1' where sequence = 3", 3, "its address or its detail was changed"),
        ("update audit_log set detail = null where sequence = 3", 3, "its address or its detail was changed"),
        ("delete from audit_log where sequence = 1", 1, "it is missing"),
        ("delete from audit_log where sequence = 2", 2, "it is missing"),
        ("delete from audit_log where sequence = 3", 3, "the end of the chain is missing"),
        ("delete from audit_log", 1, "the end of the chain is missing"),
        ("delete from audit_heads", 1, "the chain goes on behind its recorded end"),
        ("update audit_heads set hash = zeroblob(32)", 3, "the chain was written anew"),
        (
            "update audit_heads set sequence = 2, hash = (select hash from audit_log where sequence = 2)",
            3,
            "the chain goes on behind its recorded end",
        ),
    ];
    for (change, broken, reason) in cases {
        let root = with_entries().await;
        let options = SqliteConnectOptions::new().filename(root.path().join("engramia.db"));
        let mut connection = options.connect().await.expect("connected");
        sqlx::raw_sql(change).execute(&mut connection).await.expect("changed");
        connection.close().await.expect("closed");
        let (code, report) = verify(&root).await;
        assert_eq!((code, &report["ok"]), (Some(1), &json!(false)), "{change}");
        let found = &report["tenants"][0];
        assert_eq!((&found["broken"], &found["reason"]), (&json!(broken), &json!(reason)), "{change}");
    }
}
