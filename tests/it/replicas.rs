//! Three processes over one database: whatever one has answered, the others know.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::postgres::{Database, numbers};
use crate::support::program::{Server, finished, lesson, on_database};

const TOKEN: &str = "the-bootstrap-token-of-the-replicas-0123456789";
/// How long a revoked key may live on in other processes.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

struct Replicas {
    servers: Vec<Server>,
    // Dropped after the processes.
    database: Database,
}

impl Replicas {
    /// Three processes that take the static key.
    async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Three processes with keys in the store and none yet.
    async fn keyless() -> Self {
        Self::with(&[("ENGRAMIA_AUTH_MODE", "db"), ("ENGRAMIA_API_KEYS", ""), ("ENGRAMIA_BOOTSTRAP_TOKEN", TOKEN)])
            .await
    }

    /// Three processes that start at once on a database without a schema.
    async fn with(variables: &[(&str, &str)]) -> Self {
        let database = Database::empty().await;
        let url = database.url();
        let starting = (0..3).map(|_| {
            let mut command = on_database(&url);
            command.envs(variables.iter().copied());
            Server::start(command)
        });
        Self { servers: join_all(starting).await, database }
    }

    async fn bootstrapped() -> Self {
        let mut all = Self::keyless().await;
        let made = all.servers[0].post("/v1/keys/bootstrap", &json!({ "token": TOKEN })).await.ok();
        all.all_send(text(&made["key"]));
        all
    }

    fn all_send(&mut self, key: &str) {
        self.servers.iter_mut().for_each(|server| server.set_key(key));
    }

    async fn number(&self, sql: &str) -> i64 {
        numbers(&mut self.database.connect().await, sql).await[0]
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// Keys of the patterns that a server finds for a task, nearly equal ones only.
async fn found(server: &Server, task: &str) -> Vec<String> {
    let query = json!({ "task": task, "limit": 50, "min_similarity": 0.99, "deduplicate": false, "readonly": true });
    crate::support::keys(&server.post("/v1/recall", &query).await.ok())
}

#[tokio::test]
async fn what_one_has_learned_or_deleted_the_others_know_at_once() {
    let replicas = Replicas::start().await;
    let servers = &replicas.servers;
    for server in servers {
        // Every process has its index from here on.
        found(server, "warm up").await;
    }
    for round in 0..12 {
        let writer = &servers[round % 3];
        let task = format!("parse the ledger of branch {round}");
        let key = writer.post("/v1/learn", &lesson(&task)).await.ok()["pattern_key"].clone();
        for reader in servers {
            let keys = found(reader, &task).await;
            assert!(keys.iter().any(|known| known == text(&key)), "round {round}: {keys:?}");
            assert_eq!(reader.get("/v1/health").await.ok()["pattern_count"], round + 1);
        }
    }
    for round in 0..12 {
        let task = format!("parse the ledger of branch {round}");
        let key = found(&servers[0], &task).await.into_iter().next().expect("still there");
        let path = format!("/v1/patterns/{key}");
        let gone = servers[(round + 1) % 3].ask(Method::DELETE, &path, None).await.expect("an answer");
        assert_eq!(gone.ok()["deleted"], true, "round {round}");
        for reader in servers {
            assert!(!found(reader, &task).await.contains(&key), "round {round}");
            let again = reader.ask(Method::DELETE, &path, None).await.expect("an answer");
            assert_eq!(again.ok()["deleted"], false, "round {round}");
        }
    }
}

#[tokio::test]
async fn the_same_run_learned_by_all_at_once_is_one_pattern() {
    let replicas = Replicas::start().await;
    let body = lesson("sum up the invoices of a month");
    let learning = (0..60).map(|number| replicas.servers[number % 3].post("/v1/learn", &body));
    let answers: Vec<Value> = join_all(learning).await.iter().map(super::support::program::Reply::ok).collect();
    let stored = answers.iter().filter(|answer| answer["stored"] == true).count();
    let keys: BTreeSet<&str> = answers.iter().map(|answer| text(&answer["pattern_key"])).collect();
    assert_eq!((stored, keys.len()), (1, 1));
    for server in &replicas.servers {
        assert_eq!(server.exported_tasks().await.len(), 1);
        assert_eq!(server.get("/v1/metrics").await.ok()["runs"], 60);
    }
    assert_eq!(replicas.number("select count(*) from patterns").await, 1);
    assert_eq!(replicas.number("select count(*) from evaluations").await, 60);
}

#[tokio::test]
async fn of_bootstraps_at_three_doors_one_wins() {
    let mut replicas = Replicas::keyless().await;
    let body = json!({ "token": TOKEN });
    let asked = (0..9).map(|number| replicas.servers[number % 3].post("/v1/keys/bootstrap", &body));
    let answers = join_all(asked).await;
    let (winners, losers): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert_eq!(winners.len(), 1, "{answers:?}");
    assert!(losers.iter().all(|answer| answer.status == 409), "{losers:?}");
    let key = winners[0].json()["key"].clone();
    replicas.all_send(text(&key));
    for server in &replicas.servers {
        assert_eq!(server.get("/v1/keys").await.ok()["keys"].as_array().map(Vec::len), Some(1));
    }
}

#[tokio::test]
async fn a_key_works_and_dies_everywhere() {
    let replicas = Replicas::bootstrapped().await;
    let servers = &replicas.servers;
    let mut slowest = Duration::ZERO;
    for (number, maker) in servers.iter().enumerate() {
        let made = maker.post("/v1/keys", &json!({ "name": "n", "role": "reader" })).await.ok();
        let (id, key) = (text(&made["id"]), text(&made["key"]));
        let status = async |server: &Server| {
            server.ask_as(key, Method::GET, "/v1/health", None).await.expect("an answer").status
        };
        for server in servers {
            assert_eq!(status(server).await, 200, "at once");
        }
        let ender = &servers[(number + 1) % 3];
        ender.ask(Method::DELETE, &format!("/v1/keys/{id}"), None).await.expect("an answer").ok();
        let revoked = Instant::now();
        assert_eq!(status(ender).await, 401, "here at once");
        for server in servers {
            while status(server).await != 401 {
                assert!(revoked.elapsed() < REVOKED_WITHIN, "still alive");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            slowest = slowest.max(revoked.elapsed());
        }
        for server in servers {
            assert_eq!(status(server).await, 401, "and nowhere it comes back");
        }
    }
    println!("a revoked key was dead everywhere after {slowest:?}");
}

#[tokio::test]
async fn what_all_have_done_is_one_valid_chain() {
    let replicas = Replicas::bootstrapped().await;
    let writing = (0..60).map(async |number| {
        let server = &replicas.servers[number % 3];
        match number % 4 {
            // Written with the key that is made.
            0 | 1 => server.post("/v1/keys", &json!({ "name": format!("key {number}"), "role": "reader" })).await,
            // Gathered, and written in the background.
            2 => server.get("/v1/export").await,
            _ => server.post("/v1/import", &json!({ "records": [] })).await,
        }
    });
    for answer in join_all(writing).await {
        answer.ok();
    }
    let verify = async || {
        let mut command = on_database(&replicas.database.url());
        command.args(["audit", "verify", "--json"]);
        let output = finished(command).await;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        assert!(output.status.success() && report["ok"] == true, "{report}");
        report["tenants"][0]["entries"].as_i64().expect("a number")
    };
    // While the servers run.
    verify().await;
    let made = "select count(*) from audit_log where action = 'key_created'";
    assert_eq!(replicas.number(made).await, 31);
    for server in &replicas.servers {
        server.signal("TERM");
    }
    let Replicas { mut servers, database } = replicas;
    let ended = tokio::task::spawn_blocking(move || servers.iter_mut().all(|server| server.wait().success()));
    assert!(ended.await.expect("joined"));
    // What was gathered is written at the end, too: nothing is lost, nothing is there twice.
    let counted = "select coalesce(sum(coalesce((detail::json ->> 'count')::bigint, 1)), 0)::bigint from audit_log \
                   where action = ";
    let mut connection = database.connect().await;
    for action in ["data_exported", "bulk_import"] {
        assert_eq!(numbers(&mut connection, &format!("{counted}'{action}'")).await, [15], "{action}");
    }
    let rows = numbers(&mut connection, "select count(*) from audit_log").await[0];
    let mut command = on_database(&database.url());
    command.args(["audit", "verify", "--json"]);
    let report: Value = serde_json::from_slice(&finished(command).await.stdout).expect("a report");
    assert_eq!((&report["ok"], &report["tenants"][0]["entries"]), (&json!(true), &json!(rows)));
}

#[tokio::test]
async fn one_that_is_killed_under_load_leaves_the_others_alone() {
    let mut replicas = Replicas::start().await;
    let mut victim = replicas.servers.pop().expect("three");
    let workers: Vec<String> = (0..4).map(|worker| format!("worker-{worker}")).collect();
    let doomed = join_all(workers.iter().map(|worker| victim.learn_until_gone(worker)));
    let killing = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        victim.signal("KILL");
    };
    let others = join_all(replicas.servers.iter().enumerate().map(async |(number, server)| {
        let mut slowest = Duration::ZERO;
        for round in 0..40 {
            let task = format!("survivor-{number} learns lesson-{round}");
            let answer = server.post("/v1/learn", &lesson(&task)).await;
            assert_eq!(answer.ok()["stored"], true);
            slowest = slowest.max(answer.took);
            let answer = server.post("/v1/recall", &json!({ "task": task, "readonly": true })).await;
            assert!(!crate::support::keys(&answer.ok()).is_empty());
            slowest = slowest.max(answer.took);
        }
        slowest
    }));
    let (acknowledged, (), slowest) = tokio::join!(doomed, killing, others);
    assert!(!victim.wait().success());
    println!("the slowest answer of the others took {slowest:?}");
    assert!(slowest.iter().all(|slowest| *slowest < Duration::from_secs(5)), "{slowest:?}");
    let acknowledged: Vec<String> = acknowledged.into_iter().flatten().collect();
    assert!(!acknowledged.is_empty());
    for server in &replicas.servers {
        let tasks = server.exported_tasks().await;
        let lost: Vec<_> = acknowledged.iter().filter(|task| !tasks.contains(*task)).collect();
        assert!(lost.is_empty(), "{lost:?}");
        assert!(tasks.len() >= 80 + acknowledged.len());
    }
}

#[tokio::test]
async fn reuse_that_all_have_counted_adds_up() {
    let replicas = Replicas::start().await;
    let task = "count the reuses of a pattern";
    replicas.servers[0].post("/v1/learn", &lesson(task)).await.ok();
    let query = json!({ "task": task });
    let recalls = (0..90).map(|number| replicas.servers[number % 3].post("/v1/recall", &query));
    for answer in join_all(recalls).await {
        assert_eq!(crate::support::keys(&answer.ok()).len(), 1);
    }
    let Replicas { mut servers, database } = replicas;
    let last = servers.remove(0);
    for server in &mut servers {
        server.signal("TERM");
        assert!(server.wait().success(), "it has written its counts");
    }
    // The counts of the last one are still in its memory or written already: it shows them all.
    let exported = last.get("/v1/export").await.ok();
    assert_eq!(exported["records"][0]["data"]["reuse_count"], 90, "{exported}");
    assert_eq!(last.get("/v1/metrics").await.ok()["reuse_rate"], 1.0);
    last.signal("TERM");
    let mut last = last;
    assert!(last.wait().success());
    let mut connection = database.connect().await;
    let sum = "select (sum(p.reuse_count + coalesce(r.count, 0)))::bigint from patterns p \
               left join reuse r on r.pattern_id = p.id";
    assert_eq!(numbers(&mut connection, sum).await, [90]);
    assert_eq!(numbers(&mut connection, "select recalls from scopes").await, [90]);
}
