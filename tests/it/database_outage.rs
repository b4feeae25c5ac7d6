//! The database goes away under load and comes back: clear refusals meanwhile, no restart, nothing lost.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::support::cluster::{Cluster, Stop};
use crate::support::program::{Reply, Server, lesson, on_database};

/// No answer may take longer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// After so long everything works again.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// How long the database is away: longer than a request waits for a connection.
const AWAY: Duration = Duration::from_secs(6);
const LEARNERS: usize = 16;
const READERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(25);

/// What came of the requests.
struct Log {
    began: Instant,
    answers: Mutex<Vec<Answer>>,
    over: AtomicBool,
}

struct Answer {
    /// Since the beginning, when it was sent.
    at: Duration,
    reply: Reply,
    /// The task that it acknowledges.
    learned: Option<String>,
}

impl Log {
    fn new() -> Self {
        Self { began: Instant::now(), answers: Mutex::default(), over: AtomicBool::new(false) }
    }

    async fn send(&self, server: &Server, path: &str, body: serde_json::Value, task: Option<String>) {
        let at = self.began.elapsed();
        let reply = server.ask(Method::POST, path, Some(&body)).await.expect("the process answers");
        let learned = task.filter(|_| reply.status == 200);
        self.answers.lock().expect("no panic").push(Answer { at, reply, learned });
        tokio::time::sleep(PAUSE).await;
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    async fn learn(&self, server: &Server, worker: usize) {
        for number in 0.. {
            let task = format!("learner-{worker} handles case-{number}");
            let mut body = lesson(&task);
            if worker.is_multiple_of(2) {
                // Writes without a look before: these wait for each other even where nobody answers.
                body["on_duplicate"] = json!("keep_both");
            }
            self.send(server, "/v1/learn", body, Some(task)).await;
            if !self.goes_on() {
                break;
            }
        }
    }

    async fn recall(&self, server: &Server, worker: usize) {
        for number in 0.. {
            let query = json!({ "task": format!("learner-{worker} handles case-{}", number / 2) });
            self.send(server, "/v1/recall", query, None).await;
            if !self.goes_on() {
                break;
            }
        }
    }
}

/// A refusal because of the store, as the guide has it.
fn is_documented(reply: &Reply) -> bool {
    let retry = reply.headers.get("retry-after").and_then(|value| value.to_str().ok());
    reply.status == 503
        && reply.json()["error_code"] == "STORAGE_ERROR"
        && retry.is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|seconds| (1..=60).contains(&seconds)))
}

/// Stops the database, looks at the probes, and starts it again; when it was gone and when it was back.
async fn outage(cluster: &Cluster, server: &Server, log: &Log, how: Stop) -> (Duration, Duration) {
    cluster.stop(how).await;
    let gone = log.began.elapsed();
    while log.began.elapsed() < gone + AWAY {
        let (live, ready) = tokio::join!(server.get("/livez"), server.get("/readyz"));
        assert_eq!((live.status, ready.status), (200, 503), "{how:?}: {ready:?}");
        assert!(live.took < Duration::from_secs(1), "{live:?}");
        assert!(ready.took < ANSWERED_WITHIN, "{ready:?}");
        let health = server.get("/v1/health").await;
        assert!(is_documented(&health) && health.took < ANSWERED_WITHIN, "{health:?}");
    }
    cluster.start().await;
    let back = log.began.elapsed();
    tokio::time::sleep(BACK_WITHIN).await;
    assert_eq!(server.get("/readyz").await.status, 200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    (gone, back)
}

async fn survives(how: Stop) {
    let cluster = Cluster::durable().await;
    // The program may be started first: it waits for the database.
    cluster.stop(Stop::Fast).await;
    let starting = tokio::spawn(Server::start(on_database(cluster.url())));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!starting.is_finished(), "it waits");
    cluster.start().await;
    let server = starting.await.expect("started");

    let log = Log::new();
    let learning = join_all((0..LEARNERS).map(|worker| log.learn(&server, worker)));
    let recalling = join_all((0..READERS).map(|worker| log.recall(&server, worker)));
    let breaking = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let times = outage(&cluster, &server, &log, how).await;
        log.over.store(true, Ordering::Relaxed);
        times
    };
    let (_, _, (gone, back)) = tokio::join!(learning, recalling, breaking);

    let answers = log.answers.into_inner().expect("no panic");
    for Answer { at, reply, .. } in &answers {
        assert!(reply.status == 200 || is_documented(reply), "at {at:?}: {reply:?}");
        assert!(reply.took < ANSWERED_WITHIN, "at {at:?}: {reply:?}");
    }
    let refused: Vec<&Answer> = answers.iter().filter(|answer| answer.reply.status == 503).collect();
    let slowest = refused.iter().map(|answer| answer.reply.took).max().expect("some were refused");
    let late: Vec<&&Answer> = refused.iter().filter(|answer| answer.at > back).collect();
    let last = refused.iter().map(|answer| answer.at + answer.reply.took).max().expect("some").saturating_sub(back);
    let first = answers.iter().filter(|answer| answer.reply.status == 200 && answer.at + answer.reply.took > back);
    let first = first.map(|answer| answer.at + answer.reply.took).min().expect("it works again").saturating_sub(back);
    println!(
        "{how:?}: away for {:?}; {} answers, {} refused, the slowest refusal took {slowest:?}; after the return {} \
         were refused, the last one after {last:?}, the first success after {first:?}",
        back - gone,
        answers.len(),
        refused.len(),
        late.len()
    );
    assert!(answers.iter().any(|answer| answer.at < gone && answer.reply.status == 200), "it worked before");
    assert!(last < BACK_WITHIN, "refused {last:?} after the return");
    assert!(late.len() <= LEARNERS + READERS, "{} requests that came after the return were refused", late.len());
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");

    let tasks = server.exported_tasks().await;
    let learned: Vec<String> = answers.into_iter().filter_map(|answer| answer.learned).collect();
    let lost: Vec<_> = learned.iter().filter(|task| !tasks.contains(*task)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert!(learned.len() > 50, "there was a load: {}", learned.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_stopped_and_started_needs_no_restart_of_the_server() {
    survives(Stop::Fast).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_crashes_loses_nothing_that_was_acknowledged() {
    survives(Stop::Immediate).await;
}
