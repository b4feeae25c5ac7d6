//! The program itself: killed in the middle of its work, stopped in order, started where it cannot run.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const PROGRAM: &str = env!("CARGO_BIN_EXE_engramia");
const KEY: &str = "a-key-of-the-crash-tests";
const ROUNDS: usize = 5;
/// Far longer than a start or a stop takes.
const LONG: Duration = Duration::from_secs(20);

fn program(path: &Path, data: &Path) -> Command {
    let mut command = Command::new(path);
    command
        .env_clear()
        .env("ENGRAMIA_DATA_PATH", data)
        .env("ENGRAMIA_PORT", "0")
        .env("ENGRAMIA_AUTH_MODE", "env")
        .env("ENGRAMIA_API_KEYS", KEY)
        .env("ENGRAMIA_LOG", "info")
        .env("ENGRAMIA_RATE_LIMIT_DEFAULT", "1000000")
        .env("ENGRAMIA_RATE_LIMIT_PER_KEY", "1000000")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// A running server; killed when it is dropped.
struct Server {
    process: Child,
    address: SocketAddr,
    http: reqwest::Client,
}

impl Server {
    /// Starts on `data` and waits for the line that says where it listens.
    fn start(data: &Path) -> Self {
        let mut process = program(Path::new(PROGRAM), data).spawn().expect("the program starts");
        let log = BufReader::new(process.stderr.take().expect("piped"));
        let (found, address) = mpsc::channel();
        // Reads to the end, so that the pipe never fills.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                println!("server: {line}");
                if let Some((_, rest)) = line.split_once("listening on http://") {
                    let address = rest.split_whitespace().next().unwrap_or_default();
                    drop(found.send(address.parse()));
                }
            }
        });
        let address = address.recv_timeout(LONG).expect("it says where it listens").expect("an address");
        let http = reqwest::Client::builder().timeout(LONG).build().expect("a client");
        Self { process, address, http }
    }

    async fn post(&self, path: &str, body: &Value) -> reqwest::Result<Value> {
        let url = format!("http://{}{path}", self.address);
        self.http.post(url).bearer_auth(KEY).json(body).send().await?.error_for_status()?.json().await
    }

    async fn exported_tasks(&self) -> BTreeSet<String> {
        let url = format!("http://{}/v1/export", self.address);
        let answer = self.http.get(url).bearer_auth(KEY).send().await.expect("an answer");
        let export: Value = answer.error_for_status().expect("200").json().await.expect("JSON");
        let records = export["records"].as_array().expect("a list");
        records.iter().filter_map(|record| record["data"]["task"].as_str()).map(str::to_owned).collect()
    }

    /// Learns one task after another until the server is gone; the acknowledged ones.
    async fn learn_until_gone(&self, worker: &str) -> Vec<String> {
        let mut acknowledged = Vec::new();
        for number in 0.. {
            let task = format!("task-{number} of {worker}");
            let body = json!({"task": task, "code": task.replace([' ', '-'], "_"), "eval_score": 8.0});
            match self.post("/v1/learn", &body).await {
                Ok(answer) => {
                    assert_eq!(answer["stored"], true, "{task}");
                    acknowledged.push(task);
                }
                Err(error) if error.is_status() => panic!("refused: {error}"),
                Err(_) => break,
            }
        }
        acknowledged
    }

    fn terminate(&self) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(sent.success());
    }

    fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + LONG;
        loop {
            if let Some(status) = self.process.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < end, "the server does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Runs where it cannot start, and gives what it says.
fn refused(mut command: Command) -> String {
    let Output { status, stderr, .. } = command.output().expect("the program starts");
    let text = String::from_utf8(stderr).expect("text");
    assert_eq!(status.code(), Some(1), "{text}");
    let said: Vec<_> = text.lines().filter(|line| line.starts_with("engramia: ")).collect();
    assert_eq!(said.len(), 1, "one clear line: {text}");
    assert!(!text.contains("panicked") && !text.contains("backtrace"), "{text}");
    said[0].to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    let data = TempDir::new().expect("a directory");
    let mut acknowledged = Vec::new();
    let random = RandomState::new();
    for round in 0..ROUNDS {
        let mut server = Server::start(data.path());
        let workers: Vec<_> = (0..4).map(|worker| format!("worker-{worker} in round-{round}")).collect();
        let learning = futures_util::future::join_all(workers.iter().map(|worker| server.learn_until_gone(worker)));
        let id = server.process.id().to_string();
        let wait = Duration::from_millis(200 + random.hash_one(round) % 800);
        println!("round {round}: killed after {wait:?}");
        let killing = async {
            sleep(wait).await;
            Command::new("kill").args(["-KILL", &id]).status().expect("kill runs")
        };
        let (learned, killed) = tokio::join!(learning, killing);
        assert!(killed.success());
        assert!(!server.wait().success());
        acknowledged.extend(learned.into_iter().flatten());

        let server = Server::start(data.path());
        let exported = server.exported_tasks().await;
        let lost: Vec<_> = acknowledged.iter().filter(|task| !exported.contains(*task)).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        // The newest were in the air when the process died.
        for task in acknowledged.iter().rev().take(40) {
            let query = json!({"task": task, "limit": 3, "deduplicate": false, "readonly": true});
            let answer = server.post("/v1/recall", &query).await.expect("an answer");
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
    let server = Server::start(data.path());
    let said = refused(program(Path::new(PROGRAM), data.path()));
    assert!(said.contains("another engramia process uses"), "{said}");
    assert!(said.contains(&data.path().display().to_string()), "{said}");
    assert!(server.exported_tasks().await.is_empty(), "the first one still answers");
}

#[tokio::test]
async fn a_terminated_server_answers_what_is_under_way() {
    let data = TempDir::new().expect("a directory");
    let mut server = Server::start(data.path());
    let body = json!({"task": "drain the queue", "code": "x", "eval_score": 8.0}).to_string();
    let mut request = TcpStream::connect(server.address).await.expect("connected");
    let head = format!(
        "POST /v1/learn HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    request.write_all(head.as_bytes()).await.expect("written");
    let mut begun = [0; 25];
    timeout(LONG, request.read_exact(&mut begun)).await.expect("in time").expect("the handler waits for the body");
    assert!(begun.starts_with(b"HTTP/1.1 100 Continue"));

    server.terminate();
    while TcpStream::connect(server.address).await.is_ok() {
        sleep(Duration::from_millis(5)).await;
    }
    request.write_all(body.as_bytes()).await.expect("written");
    let mut answer = String::new();
    timeout(LONG, request.read_to_string(&mut answer)).await.expect("in time").expect("text");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"stored\":true"), "{answer}");
    assert_eq!(server.wait().code(), Some(0));
    let server = Server::start(data.path());
    assert_eq!(server.exported_tasks().await, BTreeSet::from(["drain the queue".to_owned()]));
}

#[test]
fn a_garbage_database_is_refused_and_kept() {
    let data = TempDir::new().expect("a directory");
    let database = data.path().join("engramia.db");
    let garbage = "this is no database, whatever its name says\n".repeat(2000);
    fs::write(&database, &garbage).expect("written");
    let said = refused(program(Path::new(PROGRAM), data.path()));
    assert!(said.contains(&database.display().to_string()), "{said}");
    assert!(said.contains("not a database"), "{said}");
    assert_eq!(fs::read_to_string(&database).expect("still text"), garbage, "not damaged");
}

#[test]
fn a_read_only_directory_is_refused() {
    let outer = TempDir::new().expect("a directory");
    let data = outer.path().join("data");
    fs::create_dir(&data).expect("created");
    let mut command = program(Path::new(PROGRAM), &data);
    if fs::metadata(&data).expect("metadata").uid() == 0 {
        // Nothing is read-only for root: somebody else must try, with a copy of the program that he can reach.
        let copy = outer.path().join("engramia");
        fs::copy(PROGRAM, &copy).expect("copied");
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o755)).expect("changed");
        command = program(&copy, &data);
        command.uid(65_534).gid(65_534);
    }
    fs::set_permissions(&data, fs::Permissions::from_mode(0o555)).expect("changed");
    let said = refused(command);
    assert!(said.contains("not writable") && said.contains(&data.display().to_string()), "{said}");
    assert_eq!(fs::read_dir(&data).expect("listed").count(), 0, "nothing was left there");
}
