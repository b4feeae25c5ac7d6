//! The program itself: killed in the middle of its work, stopped in order, started where it cannot run.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::support::program::{KEY, LONG, PROGRAM, Server, on_directory, program, refused};

const ROUNDS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    let data = TempDir::new().expect("a directory");
    let mut acknowledged = Vec::new();
    let random = RandomState::new();
    for round in 0..ROUNDS {
        let mut server = Server::start(on_directory(data.path())).await;
        let workers: Vec<_> = (0..4).map(|worker| format!("worker-{worker} in round-{round}")).collect();
        let learning = futures_util::future::join_all(workers.iter().map(|worker| server.learn_until_gone(worker)));
        let wait = Duration::from_millis(200 + random.hash_one(round) % 800);
        println!("round {round}: killed after {wait:?}");
        let killing = async {
            sleep(wait).await;
            server.signal("KILL");
        };
        let (learned, ()) = tokio::join!(learning, killing);
        assert!(!server.wait().success());
        acknowledged.extend(learned.into_iter().flatten());

        let server = Server::start(on_directory(data.path())).await;
        let exported = server.exported_tasks().await;
        let lost: Vec<_> = acknowledged.iter().filter(|task| !exported.contains(*task)).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        // The newest were in the air when the process died.
        for task in acknowledged.iter().rev().take(40) {
            let query = json!({"task": task, "limit": 3, "deduplicate": false, "readonly": true});
            let answer = server.post("/v1/recall", &query).await.ok();
            let matches = answer["matches"].as_array().expect("a list");
            let found = matches.iter().any(|found| {
                found["pattern"]["task"] == **task && found["similarity"].as_f64().is_some_and(|s| s > 0.99)
            });
            assert!(found, "{task} cannot be recalled: {answer}");
        }
    }
    assert!(acknowledged.len() >= ROUNDS, "it learned something: {}", acknowledged.len());
}

#[tokio::test]
async fn a_second_process_refuses_the_directory() {
    let data = TempDir::new().expect("a directory");
    let server = Server::start(on_directory(data.path())).await;
    let said = refused(on_directory(data.path())).await;
    assert!(said.contains("another engramia process uses"), "{said}");
    assert!(said.contains(&data.path().display().to_string()), "{said}");
    assert!(server.exported_tasks().await.is_empty(), "the first one still answers");
}

#[tokio::test]
async fn a_terminated_server_answers_what_is_under_way() {
    let data = TempDir::new().expect("a directory");
    let mut server = Server::start(on_directory(data.path())).await;
    let body = json!({"task": "drain the queue", "code": "x", "eval_score": 8.0}).to_string();
    let mut request = TcpStream::connect(server.address()).await.expect("connected");
    let head = format!(
        "POST /v1/learn HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    request.write_all(head.as_bytes()).await.expect("written");
    let mut begun = [0; 25];
    timeout(LONG, request.read_exact(&mut begun)).await.expect("in time").expect("the handler waits for the body");
    assert!(begun.starts_with(b"HTTP/1.1 100 Continue"));

    server.signal("TERM");
    while TcpStream::connect(server.address()).await.is_ok() {
        sleep(Duration::from_millis(5)).await;
    }
    request.write_all(body.as_bytes()).await.expect("written");
    let mut answer = String::new();
    timeout(LONG, request.read_to_string(&mut answer)).await.expect("in time").expect("text");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"stored\":true"), "{answer}");
    assert_eq!(server.wait().code(), Some(0));
    let server = Server::start(on_directory(data.path())).await;
    assert_eq!(server.exported_tasks().await, BTreeSet::from(["drain the queue".to_owned()]));
}

#[tokio::test]
async fn a_garbage_database_is_refused_and_kept() {
    let data = TempDir::new().expect("a directory");
    let database = data.path().join("engramia.db");
    let garbage = "this is no database, whatever its name says\n".repeat(2000);
    fs::write(&database, &garbage).expect("written");
    let said = refused(on_directory(data.path())).await;
    assert!(said.contains(&database.display().to_string()), "{said}");
    assert!(said.contains("not a database"), "{said}");
    assert_eq!(fs::read_to_string(&database).expect("still text"), garbage, "not damaged");
}

#[tokio::test]
async fn a_read_only_directory_is_refused() {
    let outer = TempDir::new().expect("a directory");
    let data = outer.path().join("data");
    fs::create_dir(&data).expect("created");
    let mut command = on_directory(&data);
    if fs::metadata(&data).expect("metadata").uid() == 0 {
        // Nothing is read-only for root: somebody else must try, with a copy of the program that he can reach.
        let copy = outer.path().join("engramia");
        fs::copy(PROGRAM, &copy).expect("copied");
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o755)).expect("changed");
        command = program(&copy);
        command.env("ENGRAMIA_DATA_PATH", &data).uid(65_534).gid(65_534);
    }
    fs::set_permissions(&data, fs::Permissions::from_mode(0o555)).expect("changed");
    let said = refused(command).await;
    assert!(said.contains("not writable") && said.contains(&data.display().to_string()), "{said}");
    assert_eq!(fs::read_dir(&data).expect("listed").count(), 0, "nothing was left there");
}
