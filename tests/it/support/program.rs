//! The real program: started as an operator starts it, asked over real sockets, stopped or killed.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

/// Where it lies.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_engramia");
/// The static key of [`program`].
pub const KEY: &str = "a-key-of-the-real-program";
/// Far longer than a start or a stop takes.
pub const LONG: Duration = Duration::from_secs(25);

/// The program without a store: static key, any free port, no limits that a test could run into by accident.
pub fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    command
        .env_clear()
        .env("ENGRAMIA_PORT", "0")
        .env("ENGRAMIA_AUTH_MODE", "env")
        .env("ENGRAMIA_API_KEYS", KEY)
        .env("ENGRAMIA_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for limit in ["DEFAULT", "EXPENSIVE", "PER_KEY"] {
        command.env(format!("ENGRAMIA_RATE_LIMIT_{limit}"), "1000000");
    }
    command
}

/// The program on the embedded store in `data`.
pub fn on_directory(data: &Path) -> Command {
    let mut command = program(Path::new(PROGRAM));
    command.env("ENGRAMIA_DATA_PATH", data);
    command
}

/// The program on a PostgreSQL database.
pub fn on_database(url: &str) -> Command {
    let mut command = program(Path::new(PROGRAM));
    command.env("ENGRAMIA_DATABASE_URL", url).env("ENGRAMIA_DB_POOL_SIZE", "6");
    command
}

/// Runs a command to its end.
pub async fn finished(mut command: Command) -> Output {
    let ran = tokio::task::spawn_blocking(move || command.stdout(Stdio::piped()).output());
    ran.await.expect("joined").expect("the program runs")
}

/// Runs the program where it cannot start, and gives the one line that it says.
pub async fn refused(command: Command) -> String {
    let Output { status, stderr, .. } = finished(command).await;
    let text = String::from_utf8(stderr).expect("text");
    assert_eq!(status.code(), Some(1), "{text}");
    let said: Vec<_> = text.lines().filter(|line| line.starts_with("engramia: ")).collect();
    assert_eq!(said.len(), 1, "one clear line: {text}");
    assert!(!text.contains("panicked") && !text.contains("backtrace"), "{text}");
    said[0].to_owned()
}

/// A running server; killed when it is dropped.
pub struct Server {
    process: Child,
    address: SocketAddr,
    http: reqwest::Client,
    key: String,
    log: Arc<Mutex<Vec<String>>>,
}

/// An answer, whatever it is.
#[derive(Debug)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: String,
    /// How long it took.
    pub took: Duration,
}

impl Reply {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The body of a success.
    pub fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        self.json()
    }
}

impl Server {
    /// Starts and waits for the line that says where it listens.
    pub async fn start(command: Command) -> Self {
        tokio::task::spawn_blocking(move || Self::launch(command)).await.expect("started")
    }

    fn launch(mut command: Command) -> Self {
        let mut process = command.spawn().expect("the program starts");
        let log = BufReader::new(process.stderr.take().expect("piped"));
        let (found, address) = mpsc::channel();
        let kept = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&kept);
        // Reads to the end, so that the pipe never fills.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                println!("server: {line}");
                if let Some((_, rest)) = line.split_once("listening on http://") {
                    let address = rest.split([' ', '"']).next().unwrap_or_default();
                    drop(found.send(address.parse()));
                }
                lines.lock().expect("no panic").push(line);
            }
        });
        let http = reqwest::Client::builder().timeout(LONG).build().expect("a client");
        // Whatever goes wrong from here on, the process ends with the test.
        let mut server = Self { process, address: ([0, 0, 0, 0], 0).into(), http, key: KEY.to_owned(), log: kept };
        server.address = address.recv_timeout(LONG).expect("it says where it listens").expect("an address");
        server
    }

    /// Sends another key from now on.
    pub fn set_key(&mut self, key: &str) {
        key.clone_into(&mut self.key);
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic").clone()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks for anything with this key; an error is a broken connection.
    pub async fn ask_as(&self, key: &str, method: Method, path: &str, body: Option<&Value>) -> reqwest::Result<Reply> {
        let mut request = self.request(method, path).bearer_auth(key);
        if let Some(body) = body {
            request = request.json(body);
        }
        Self::sent(request).await
    }

    /// Asks for an operation to run in the background.
    pub async fn submit(&self, path: &str, body: &Value) -> reqwest::Result<Reply> {
        let request = self.request(Method::POST, path).bearer_auth(&self.key).header("prefer", "respond-async");
        Self::sent(request.json(body)).await
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address))
    }

    async fn sent(request: reqwest::RequestBuilder) -> reqwest::Result<Reply> {
        let started = Instant::now();
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok(Reply { status, headers, body: answer.text().await?, took: started.elapsed() })
    }

    /// Asks for anything.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> reqwest::Result<Reply> {
        self.ask_as(&self.key, method, path, body).await
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Reply {
        self.ask(Method::GET, path, None).await.expect("an answer")
    }

    /// POST.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.ask(Method::POST, path, Some(body)).await.expect("an answer")
    }

    /// Tasks of the project.
    pub async fn exported_tasks(&self) -> BTreeSet<String> {
        let export = self.get("/v1/export").await.ok();
        let records = export["records"].as_array().expect("a list");
        records.iter().filter_map(|record| record["data"]["task"].as_str()).map(str::to_owned).collect()
    }

    /// Learns one task after another until the server is gone; the acknowledged ones.
    pub async fn learn_until_gone(&self, worker: &str) -> Vec<String> {
        let mut acknowledged = Vec::new();
        for number in 0.. {
            let task = format!("task-{number} of {worker}");
            match self.ask(Method::POST, "/v1/learn", Some(&lesson(&task))).await {
                Ok(answer) => {
                    assert_eq!(answer.ok()["stored"], true, "{task}");
                    acknowledged.push(task);
                }
                Err(_) => break,
            }
        }
        acknowledged
    }

    /// Sends it a signal by its name.
    pub fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill runs");
        assert!(sent.success());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
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

/// Body of a learn whose code follows from its task.
pub fn lesson(task: &str) -> Value {
    json!({ "task": task, "code": task.replace([' ', '-'], "_"), "eval_score": 8.0 })
}
