//! Operations in the background: submitted, watched and cancelled over HTTP, run by the worker of the application.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::Method;
use engramia::domain::job::{NewJob, Submitter};
use engramia::domain::{JobOperation, Role, Scope, Timestamp};
use engramia::ports::Embedder;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp, api_key, store_key};
use crate::support::fakes::{Gated, Panicking};
use crate::support::people::{Answer, Call, Person};
use crate::support::postgres::{Database, execute};
use crate::support::program::{LONG, Server, finished, on_database, on_directory, refused};
use crate::support::{eventually, record};

/// An interval at which jobs begin in batches only.
const BATCHES: (&str, &str) = ("ENGRAMIA_JOB_POLL_INTERVAL", "3600");

fn aging(person: &Person) -> Call {
    person.call(Method::POST, "/v1/aging").header("prefer", "respond-async")
}

fn id_of(answer: &Answer) -> String {
    assert_eq!(answer.status.as_u16(), 202, "{}", answer.text());
    let body = answer.json();
    assert_eq!(body["status"], "pending");
    let id = body["job_id"].as_str().expect("an id").to_owned();
    assert_eq!(answer.header("location"), Some(format!("/v1/jobs/{id}").as_str()));
    assert_eq!(answer.header("preference-applied"), Some("respond-async"));
    id
}

async fn job(person: &Person, id: &str) -> Value {
    person.get(&format!("/v1/jobs/{id}")).await.ok()
}

/// The job once it has this status.
async fn reaches(person: &Person, id: &str, status: &str) -> Value {
    eventually(&format!("{id} is {status}"), async || {
        let job = job(person, id).await;
        (job["status"] == status).then_some(job)
    })
    .await
}

async fn cancel(person: &Person, id: &str) -> bool {
    let answer = person.call(Method::POST, &format!("/v1/jobs/{id}/cancel")).await.ok();
    assert_eq!(answer["job_id"], id);
    answer["cancelled"].as_bool().expect("a truth value")
}

fn records(count: usize) -> Value {
    let records = (0..count).map(|n| record(&format!("patterns/{n:05}"), &format!("task number {n}"), 5.0));
    json!({ "records": records.collect::<Vec<_>>() })
}

fn import(person: &Person, count: usize) -> Call {
    person.post("/v1/import", &records(count)).header("prefer", "respond-async")
}

/// One slot, so that a job that holds it holds up all others.
fn one_slot(embedder: Arc<dyn Embedder>) -> Setup {
    Setup::new().var("ENGRAMIA_JOB_MAX_CONCURRENT", "1").embedder(embedder)
}

#[tokio::test]
async fn a_job_gives_what_the_request_would_have_answered() {
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let app = setup.start().await;
        let owner = app.owner();
        for (path, body) in [
            ("/v1/aging", json!(null)),
            ("/v1/feedback/decay", json!({})),
            ("/v1/import", records(3)),
            ("/v1/import", records(3)),
        ] {
            let now = owner.post(path, &body).header("x-project-id", "now").await.ok();
            let later =
                owner.post(path, &body).header("x-project-id", "later").header("prefer", "Respond-Async; x=1, wait=9");
            let id = id_of(&later.await);
            let done = eventually("it is over", async || {
                let job = owner.get(&format!("/v1/jobs/{id}")).header("x-project-id", "later").await.ok();
                job["completed_at"].is_string().then_some(job)
            })
            .await;
            assert_eq!(done["result"], now, "{path}");
            assert_eq!(
                (&done["status"], &done["error"], &done["attempts"]),
                (&json!("completed"), &json!(null), &json!(1))
            );
            assert!(done["started_at"].is_string() && done["created_at"].is_string());
        }
        let count = owner.get("/v1/health").header("x-project-id", "later").await.ok()["pattern_count"].clone();
        assert_eq!(count, 3);
        let other = owner.get("/v1/jobs").header("x-project-id", "now").await.ok();
        assert_eq!(other["jobs"], json!([]), "jobs belong to a project");
    }
}

#[tokio::test]
async fn who_asks_and_what_is_asked_is_settled_before_anything_is_queued() {
    let app = Setup::new().role("editor").start().await;
    let ask =
        |person: Person, path: &str, body: &str| person.send(path, body.to_owned()).header("prefer", "respond-async");
    ask(app.anonymous(), "/v1/import", "{").await.problem(401, "UNAUTHORIZED");
    ask(app.owner(), "/v1/import", "{").await.problem(403, "FORBIDDEN");
    let app = TestApp::start().await;
    for body in ["{", "", "[]", "{}", "{\"records\": 5}"] {
        ask(app.owner(), "/v1/import", body).await.problem(422, "VALIDATION_ERROR");
    }
    assert_eq!(app.owner().get("/v1/jobs").await.ok(), json!({ "jobs": [] }));
    // A flaw that only the use case can see fails the job, at once and for good.
    let flawed = json!({ "records": [{ "key": "patterns/x", "data": { "task": 5 } }] });
    let id = id_of(&app.owner().post("/v1/import", &flawed).header("prefer", "respond-async").await);
    let failed = reaches(&app.owner(), &id, "failed").await;
    let error = "ValidationError: body.records.0.data.task: Input should be a valid string";
    assert_eq!((&failed["error"], &failed["attempts"], &failed["result"]), (&json!(error), &json!(1), &json!(null)));
}

#[tokio::test]
async fn jobs_are_listed_and_found_only_by_their_own_project() {
    let app = Setup::new().without_worker().start().await;
    let owner = app.owner();
    let first = id_of(&aging(&owner).await);
    let second = id_of(&aging(&owner).await);
    let ids = async |query: &str| {
        let answer = owner.get(&format!("/v1/jobs{query}")).await.ok();
        let jobs = answer["jobs"].as_array().expect("a list").clone();
        jobs.iter().map(|job| job["id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>()
    };
    let mut all = ids("").await;
    assert_eq!(ids("?limit=1").await, all[..1]);
    assert_eq!(ids("?status=pending&limit=100").await, all);
    all.sort();
    let mut expected = [first.clone(), second];
    expected.sort();
    assert_eq!(all, expected);
    for none in ["?status=completed", "?status=nonsense", "?status="] {
        assert!(ids(none).await.is_empty(), "{none}");
    }
    owner.get("/v1/jobs?limit=0").await.problem(422, "VALIDATION_ERROR");
    let unknown = ["0199b944-dce4-782b-abe6-180903639479", "not-a-uuid", "%00", "%ff", "..%2f", "%C5%BE"];
    for id in unknown.map(str::to_owned).iter().chain([&first]) {
        let foreign = owner.get(&format!("/v1/jobs/{id}")).header("x-project-id", "other").await;
        assert_eq!(foreign.problem(404, "NOT_FOUND")["detail"], "Job not found.");
        let path = format!("/v1/jobs/{id}/cancel");
        let foreign = owner.call(Method::POST, &path).header("x-project-id", "other").await;
        assert_eq!(foreign.ok()["cancelled"], false);
    }
    assert_eq!(job(&owner, &first).await["status"], "pending");
}

#[tokio::test]
async fn between_two_batches_jobs_wait_and_can_be_cancelled() {
    let app = Setup::new().without_worker().start().await;
    let early = id_of(&aging(&app.owner()).await);
    // A process begins with a batch.
    let app = Setup::on(app.stop().await).var(BATCHES.0, BATCHES.1).start().await;
    let owner = app.owner();
    reaches(&owner, &early, "completed").await;
    let id = id_of(&aging(&owner).await);
    assert!(cancel(&owner, &id).await);
    assert!(!cancel(&owner, &id).await);
    let cancelled = job(&owner, &id).await;
    assert_eq!((&cancelled["status"], &cancelled["attempts"]), (&json!("cancelled"), &json!(0)));
}

#[tokio::test]
async fn a_running_job_is_cancelled_where_it_waits_and_leaves_nothing() {
    let embedder = Arc::new(Gated::default());
    let app = one_slot(embedder.clone()).start().await;
    let owner = app.owner();
    let running = id_of(&import(&owner, 3).await);
    embedder.arrived.notified().await;
    let next = id_of(&aging(&owner).await);
    assert_eq!(job(&owner, &running).await["status"], "running");
    assert_eq!(job(&owner, &next).await["status"], "pending", "there is one slot");
    assert!(cancel(&owner, &running).await);
    let cancelled = reaches(&owner, &running, "cancelled").await;
    assert_eq!((&cancelled["result"], &cancelled["error"]), (&json!(null), &json!(null)));
    assert!(!cancel(&owner, &running).await);
    reaches(&owner, &next, "completed").await;
    assert_eq!(owner.get("/v1/health").await.ok()["pattern_count"], 0);
}

#[tokio::test]
async fn a_timeout_ends_the_job_and_frees_its_slot() {
    let embedder = Arc::new(Gated::default());
    let app = one_slot(embedder.clone()).start().await;
    let owner = app.owner();
    let long = id_of(&import(&owner, 3).header("x-max-execution-seconds", "1").await);
    let next = id_of(&aging(&owner).header("x-max-execution-seconds", "never").await);
    let expired = reaches(&owner, &long, "expired").await;
    assert_eq!(expired["error"], "JobTimeout: Job exceeded max execution time (1s).");
    reaches(&owner, &next, "completed").await;
    embedder.gate.0.add_permits(100);
    assert_eq!(owner.get("/v1/health").await.ok()["pattern_count"], 0);
}

#[tokio::test]
async fn a_panic_fails_its_job_alone() {
    let app = one_slot(Arc::new(Panicking)).start().await;
    let owner = app.owner();
    let broken = id_of(&import(&owner, 1).await);
    let failed = reaches(&owner, &broken, "failed").await;
    assert_eq!(failed["error"], "InternalError: An internal error occurred.");
    let next = id_of(&aging(&owner).await);
    reaches(&owner, &next, "completed").await;
}

#[tokio::test]
async fn a_store_that_fails_is_tried_again_later() {
    let database = Database::new().await;
    let app = Setup::new().postgres(&database).start().await;
    let owner = app.owner();
    let mut connection = database.connect().await;
    execute(&mut connection, "alter table feedback rename to hidden").await;
    let decay = owner.call(Method::POST, "/v1/feedback/decay").header("prefer", "respond-async");
    let id = id_of(&decay.await);
    let waiting = eventually("one attempt has failed", async || {
        let job = job(&owner, &id).await;
        job["error"].is_string().then_some(job)
    })
    .await;
    assert_eq!((&waiting["status"], &waiting["attempts"]), (&json!("pending"), &json!(1)));
    assert_eq!(waiting["error"], "StorageError: Storage backend error.");
    execute(&mut connection, "alter table hidden rename to feedback").await;
    let done = reaches(&owner, &id, "completed").await;
    assert_eq!((&done["attempts"], &done["error"], &done["result"]), (&json!(2), &json!(null), &json!({"pruned": 0})));
}

#[tokio::test]
async fn a_job_has_no_more_rights_than_its_key_has_when_it_runs() {
    let scope = Scope::default();
    let (dead, weak) = (api_key("dead", scope.clone(), Role::Editor), api_key("weak", scope.clone(), Role::Reader));
    let setup = Setup::new().stored_keys().prepare(async |store| {
        for key in [&dead, &weak] {
            store_key(store, key).await;
        }
        let mut work = store.begin(&scope).await.expect("a unit of work");
        work.keys().revoke(&dead.id, Timestamp::UNIX_EPOCH).await.expect("revoked");
        for (number, key_id) in (1..).zip([Some(dead.id.clone()), Some(weak.id.clone()), Some("gone".into()), None]) {
            let submitter =
                Submitter { key_id, role: Role::Owner, max_patterns: None, address: None, request_id: None };
            work.jobs().enqueue(&NewJob { submitter, ..queued(number) }).await.expect("queued");
        }
        work.commit().await.expect("committed");
    });
    let app = setup.await.start().await;
    let reader = app.holder_of("weak");
    let expected = [
        "Forbidden: The key that submitted this job is revoked.",
        "Forbidden: Role 'reader' does not have permission 'aging'.",
        "Forbidden: The key that submitted this job is no longer known.",
        "Forbidden: no credentials",
    ];
    for (number, error) in (1..).zip(expected) {
        let failed = reaches(&reader, &queued(number).id, "failed").await;
        assert_eq!((&failed["error"], &failed["attempts"]), (&json!(error), &json!(1)));
    }
}

fn queued(number: u64) -> NewJob {
    NewJob {
        id: format!("0199b944-0000-7000-8000-{number:012x}"),
        operation: JobOperation::Aging,
        params: "{}".into(),
        submitter: Submitter {
            key_id: Some("env-key".into()),
            role: Role::Owner,
            max_patterns: None,
            address: None,
            request_id: None,
        },
        created_at: Timestamp::UNIX_EPOCH,
        expires_at: Timestamp::from_timestamp(32_000_000_000, 0).expect("a time"),
        max_execution: LONG,
    }
}

#[tokio::test]
async fn an_import_that_is_cut_short_goes_on_where_it_was() {
    let embedder = Arc::new(Gated::default());
    let app = one_slot(embedder.clone()).start().await;
    let id = id_of(&import(&app.owner(), 1_201).await);
    // One batch of 500, and a part of the next.
    embedder.gate.0.add_permits(10);
    eventually("the first batch is stored", async || {
        (app.owner().get("/v1/health").await.ok()["pattern_count"] == 500).then_some(())
    })
    .await;
    // What is not done when the server stops is given back: the attempt does not count.
    let app = Setup::on(app.stop().await).start().await;
    let done = reaches(&app.owner(), &id, "completed").await;
    assert_eq!(done["result"], json!({ "imported": 1_201, "total": 1_201 }));
    assert_eq!(done["attempts"], 2);
    assert_eq!(app.owner().get("/v1/health").await.ok()["pattern_count"], 1_201);
    let events = app.owner().get("/v1/audit?action=bulk_import").await.ok()["events"].clone();
    let counts: Vec<_> = events.as_array().expect("a list").iter().map(|event| &event["detail"]["imported"]).collect();
    assert_eq!(counts, [&json!(1_201), &json!(500)], "both are on record");
}

#[tokio::test]
async fn many_jobs_of_many_tenants_drain_in_turns() {
    const TENANTS: usize = 50;
    const EACH: usize = 20;
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let setup = setup.stored_keys().prepare(async |store| {
            for tenant in 0..TENANTS {
                let scope = Scope::verified(&format!("tenant-{tenant:02}"), "web");
                let key = api_key(&format!("secret-{tenant}"), scope.clone(), Role::Owner);
                store_key(store, &key).await;
                let mut work = store.begin(&scope).await.expect("a unit of work");
                for number in 0..EACH {
                    let job = queued((tenant * EACH + number) as u64);
                    let submitter = Submitter { key_id: Some(key.id.clone()), ..job.submitter.clone() };
                    work.jobs().enqueue(&NewJob { submitter, ..job }).await.expect("queued");
                }
                work.commit().await.expect("committed");
            }
        });
        let app = setup.await.start().await;
        let mut begun: Vec<(String, usize)> = Vec::new();
        for tenant in 0..TENANTS {
            let holder = app.holder_of(&format!("secret-{tenant}"));
            let jobs = eventually("all are done", async || {
                let jobs = holder.get("/v1/jobs?status=completed&limit=100").await.ok()["jobs"].clone();
                (jobs.as_array().map(Vec::len) == Some(EACH)).then_some(jobs)
            })
            .await;
            let times = jobs.as_array().expect("a list").iter().map(|job| job["started_at"].as_str().expect("a time"));
            begun.extend(times.map(|time| (padded(time), tenant)));
        }
        begun.sort();
        let mut counts: BTreeMap<usize, usize> = (0..TENANTS).map(|tenant| (tenant, 0)).collect();
        for (_, tenant) in &begun {
            *counts.entry(*tenant).or_default() += 1;
            let (least, most) = (counts.values().min().expect("some"), counts.values().max().expect("some"));
            assert!(most - least <= 2, "nobody is two jobs ahead of anybody: {counts:?}");
        }
        assert_eq!(begun.len(), TENANTS * EACH);
        app.stop().await;
    }
}

/// A time whose decimals have one length, so that texts sort as times.
fn padded(time: &str) -> String {
    let (whole, decimals) = time.trim_end_matches('Z').split_once('.').unwrap_or((time.trim_end_matches('Z'), ""));
    format!("{whole}.{decimals:0<6}")
}

#[tokio::test]
async fn the_metrics_count_jobs() {
    let app = Setup::new().var("ENGRAMIA_METRICS", "true").start().await;
    let id = id_of(&aging(&app.owner()).await);
    reaches(&app.owner(), &id, "completed").await;
    let line = |text: &str, start: &str| text.lines().find(|line| line.starts_with(start)).map(str::to_owned);
    eventually("it is counted", async || {
        let text = app.anonymous().get("/metrics").await.text();
        let ended = line(&text, "engramia_jobs_completed_total{operation=\"aging\",status=\"completed\"}")?;
        assert!(ended.ends_with(" 1"), "{ended}");
        for (name, value) in [
            ("engramia_jobs_submitted_total{operation=\"aging\"}", "1"),
            ("engramia_job_queue_depth", "0"),
            ("engramia_job_duration_seconds_count{operation=\"aging\"}", "1"),
            ("engramia_job_wait_seconds_count", "1"),
        ] {
            assert_eq!(line(&text, name), Some(format!("{name} {value}")));
        }
        Some(())
    })
    .await;
}

#[tokio::test]
async fn one_process_serves_and_another_one_works() {
    let database = Database::empty().await;
    let start = |role: &str| {
        let mut command = on_database(&database.url());
        // Only a notification can be faster than the test.
        command.args(["serve", role]).env("ENGRAMIA_JOB_POLL_INTERVAL", "60").env("ENGRAMIA_METRICS", "true");
        Server::start(command)
    };
    let web = start("--web").await;
    let submit = async || {
        let answer = web.submit("/v1/aging", &json!({})).await.expect("an answer");
        assert_eq!(answer.status, 202, "{answer:?}");
        format!("/v1/jobs/{}", answer.json()["job_id"].as_str().expect("an id"))
    };
    let early = submit().await;
    assert_eq!(web.get(&early).await.ok()["status"], "pending", "nobody works");
    let worker = start("--worker").await;
    let done = async |path: &str| {
        eventually("another process does it", async || {
            (web.get(path).await.ok()["status"] == "completed").then_some(())
        })
        .await;
    };
    done(&early).await;
    for _ in 0..3 {
        done(&submit().await).await;
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(worker.get(path).await.status, 200, "{path}");
    }
    for path in ["/v1/health", "/v1/jobs", "/docs", "/openapi.json"] {
        assert_eq!(worker.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn the_command_line_knows_jobs_and_its_limits() {
    let data = tempfile::tempdir().expect("a directory");
    let mut alone = on_directory(data.path());
    alone.args(["serve", "--worker"]);
    assert!(refused(alone).await.contains("only one process can open the embedded store"));

    let app = Setup::on(data).without_worker().start().await;
    let id = id_of(&aging(&app.owner()).await);
    let data = app.stop().await;
    let engramia = async |arguments: &[&str]| {
        let mut command = on_directory(data.path());
        command.env("ENGRAMIA_API_KEYS", crate::support::app::KEY).env("ENGRAMIA_PORT", "0").args(arguments);
        let output = finished(command).await;
        let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
        (output.status.success(), text)
    };
    let (listed, text) = engramia(&["jobs", "list", "--status", "pending"]).await;
    assert!(listed && text.contains(&id) && text.contains("aging"), "a command runs no jobs: {text}");
    let (cancelled, text) = engramia(&["jobs", "cancel", &id]).await;
    assert!(cancelled && text.contains("cancelled"), "{text}");
    let (again, text) = engramia(&["jobs", "cancel", &id]).await;
    assert!(!again, "{text}");
    let (shown, text) = engramia(&["jobs", "show", &id, "--json"]).await;
    assert!(shown && text.contains("\"status\":\"cancelled\""), "{text}");
}
