//! Requests that are repeated with the same `Idempotency-Key`.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use axum::http::Method;
use chrono::TimeDelta;
use engramia::domain::{Role, Scope};
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::support::app::{Setup, TestApp, api_key, store_key};
use crate::support::fakes::{Gated, Panicking, StoppedClock};
use crate::support::people::{Answer, Call, Person};
use crate::support::postgres::{Database, numbers};
use crate::support::{eventually, record, run};

const HEADER: &str = "Idempotency-Key";

/// An application on each store.
async fn both(finish: impl AsyncFn(Setup) -> Setup) -> Vec<(TestApp, Option<Database>)> {
    let database = Database::new().await;
    let embedded = finish(Setup::new()).await.start().await;
    let shared = finish(Setup::new().postgres(&database)).await.start().await;
    vec![(embedded, None), (shared, Some(database))]
}

/// A learn that would store one more pattern each time.
fn learn(person: &Person, task: &str) -> Call {
    let mut body = run(task, "code", 5.0);
    body["on_duplicate"] = json!("keep_both");
    person.post("/v1/learn", &body)
}

async fn patterns(person: &Person) -> u64 {
    person.get("/v1/health").await.ok()["pattern_count"].as_u64().expect("a number")
}

/// Asserts that `again` is `first`, told once more.
fn assert_replayed(first: &Answer, again: &Answer) {
    assert_eq!(first.header("idempotent-replayed"), None);
    assert_eq!(again.header("idempotent-replayed"), Some("true"), "{}", again.text());
    assert_eq!((first.status, first.text()), (again.status, again.text()));
    for name in ["content-type", "location", "preference-applied", "cache-control", "content-security-policy"] {
        assert_eq!(first.header(name), again.header(name), "{name}");
    }
    assert_ne!(first.header("x-request-id"), again.header("x-request-id"), "they are two requests");
}

#[tokio::test]
async fn a_repeated_request_is_answered_and_not_carried_out() {
    for (app, _database) in both(async |setup| setup).await {
        let owner = app.owner();
        let first = learn(&owner, "t").header(HEADER, "one").await;
        first.ok();
        assert_replayed(&first, &learn(&owner, "t").header(HEADER, "one").await);
        assert_eq!(patterns(&owner).await, 1);
        learn(&owner, "t").header(HEADER, "two").await.ok();
        assert_eq!(patterns(&owner).await, 2, "another key is another request");
        learn(&owner, "t").await.ok();
        assert_eq!(patterns(&owner).await, 3, "without a key nothing is remembered");

        let records = json!({ "records": [record("patterns/a", "ta", 5.0), record("patterns/b", "tb", 5.0)] });
        let first = owner.post("/v1/import", &records).header(HEADER, "three").await;
        assert_eq!(first.ok()["imported"], 2);
        assert_replayed(&first, &owner.post("/v1/import", &records).header(HEADER, "three").await);

        let delete = || owner.delete("/v1/patterns/patterns/a").header(HEADER, "four");
        let first = delete().await;
        first.ok();
        assert_replayed(&first, &delete().await);
    }
}

#[tokio::test]
async fn a_job_is_queued_once() {
    for (app, _database) in both(async |setup| setup.without_worker()).await {
        let owner = app.owner();
        let submit = || owner.call(Method::POST, "/v1/aging").header("prefer", "respond-async").header(HEADER, "k");
        let first = submit().await;
        assert_eq!(first.status, 202);
        assert_replayed(&first, &submit().await);
        let jobs = owner.get("/v1/jobs").await.ok();
        assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(1), "{jobs}");
    }
}

#[tokio::test]
async fn a_key_is_for_one_request() {
    let app = TestApp::start().await;
    let owner = app.owner();
    learn(&owner, "t").header(HEADER, "k").await.ok();
    let others = [
        learn(&owner, "another task"),
        owner.post("/v1/learn?x=1", &run("t", "code", 5.0)),
        owner.post("/v1/import", &json!({ "records": [] })),
        owner.delete("/v1/patterns/patterns/x"),
    ];
    for other in others {
        let body = other.header(HEADER, "k").await.problem(422, "VALIDATION_ERROR");
        assert_eq!(body["detail"][0]["loc"], json!(["header", HEADER]));
    }
    assert_eq!(patterns(&owner).await, 1);
}

#[tokio::test]
async fn keys_are_checked_where_they_are_heeded() {
    let app = TestApp::start().await;
    let owner = app.owner();
    for bad in ["", "a b", "ž", &"k".repeat(256)] {
        let body = learn(&owner, "t").header(HEADER, bad).await.problem(422, "VALIDATION_ERROR");
        assert_eq!(body["detail"][0]["loc"], json!(["header", HEADER]));
        // What changes nothing does not look at it.
        owner.post("/v1/recall", &json!({ "task": "t" })).header(HEADER, bad).await.ok();
        owner.get("/v1/health").header(HEADER, bad).await.ok();
    }
    learn(&owner, "t").header(HEADER, "a").header(HEADER, "a").await.problem(422, "VALIDATION_ERROR");
    learn(&owner, "t").header(HEADER, "k".repeat(255)).await.ok();
    learn(&app.anonymous(), "t").header(HEADER, "").await.problem(401, "UNAUTHORIZED");
    learn(&app.holder_of("nobody's"), "t").header(HEADER, "k").await.problem(401, "UNAUTHORIZED");
    owner.send("/v1/nowhere", "{}").header(HEADER, "k").await.problem(404, "NOT_FOUND");
    assert_eq!(patterns(&owner).await, 1);
}

#[tokio::test]
async fn what_was_refused_may_be_sent_again() {
    for (app, _database) in both(async |setup| setup.var("ENGRAMIA_MAX_BODY_SIZE", "1024").keyed().await).await {
        let (owner, reader) = (app.owner(), app.of_role("reader"));
        owner.post("/v1/learn", &json!({ "task": "t" })).header(HEADER, "k").await.problem(422, "VALIDATION_ERROR");
        owner.send("/v1/learn", "x".repeat(1025)).header(HEADER, "k").await.problem(413, "PAYLOAD_TOO_LARGE");
        let outcome = owner.post("/v1/patterns/patterns/x/outcome", &json!({ "success": true })).header(HEADER, "k");
        outcome.await.problem(404, "NOT_FOUND");
        owner
            .post("/v1/evaluate", &json!({ "task": "t", "code": "c" }))
            .header(HEADER, "k")
            .await
            .problem(501, "PROVIDER_NOT_CONFIGURED");
        learn(&owner, "t").header(HEADER, "k").await.ok();
        for _ in 0..2 {
            learn(&reader, "t").header(HEADER, "k").await.problem(403, "FORBIDDEN");
        }
        assert_eq!(patterns(&owner).await, 1);
        // An import may be larger than other bodies, also with a key.
        let mut large = record("patterns/a", "t", 5.0);
        large["data"]["design"]["code"] = json!("x".repeat(10_000));
        let import = || owner.post("/v1/import", &json!({ "records": [large] })).header(HEADER, "large");
        let first = import().await;
        first.ok();
        assert_replayed(&first, &import().await);
    }
}

#[tokio::test]
async fn a_request_that_panicked_may_be_sent_again() {
    let app = Setup::new().embedder(Arc::new(Panicking)).start().await;
    for _ in 0..2 {
        let body = app.owner().post("/v1/recall", &json!({ "task": "t" })).await;
        assert_eq!(body.status, 500);
        learn(&app.owner(), "t").header(HEADER, "k").await.problem(500, "INTERNAL_ERROR");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_equal_requests_one_is_carried_out() {
    for (app, _database) in both(async |setup| setup).await {
        let owner = app.owner();
        let calls = (0..100).map(|_| tokio::spawn(learn(&owner, "t").header(HEADER, "k").into_future()));
        let answers = join_all(calls.collect::<Vec<_>>()).await;
        let answers: Vec<Answer> = answers.into_iter().map(|answer| answer.expect("no panic")).collect();
        let first: Vec<&Answer> = answers
            .iter()
            .filter(|answer| answer.status == 200 && answer.header("idempotent-replayed").is_none())
            .collect();
        assert_eq!(first.len(), 1);
        for answer in &answers {
            if answer.status == 200 {
                assert_eq!(answer.text(), first[0].text());
            } else {
                answer.problem(409, "ERROR");
                assert_eq!(answer.header("retry-after"), Some("1"));
            }
        }
        assert_eq!(patterns(&owner).await, 1);
        assert_replayed(first[0], &learn(&owner, "t").header(HEADER, "k").await);
    }
}

#[tokio::test]
async fn a_key_is_free_again_after_a_day() {
    let clock = Arc::new(StoppedClock::new());
    for (app, _database) in both(async |setup| setup.clock(clock.clone())).await {
        let owner = app.owner();
        let first = learn(&owner, "t").header(HEADER, "k").await;
        clock.pass(TimeDelta::hours(24) - TimeDelta::seconds(1));
        assert_replayed(&first, &learn(&owner, "t").header(HEADER, "k").await);
        clock.pass(TimeDelta::seconds(1));
        assert_eq!(learn(&owner, "another task").header(HEADER, "k").await.header("idempotent-replayed"), None);
        assert_eq!(patterns(&owner).await, 2);
    }
}

#[tokio::test]
async fn the_key_of_a_server_that_was_lost_opens_after_its_lease() {
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let (clock, embedder) = (Arc::new(StoppedClock::new()), Arc::new(Gated::default()));
        let app = setup.clock(clock.clone()).embedder(embedder.clone()).start().await;
        let owner = app.owner();
        // Imports of the same text do not share its embedding.
        let body = json!({ "records": [record("patterns/a", "t", 5.0)], "overwrite": true });
        let import = || owner.post("/v1/import", &body).header(HEADER, "k");
        let lost = tokio::spawn(import().into_future());
        embedder.arrived.notified().await;
        clock.pass(TimeDelta::seconds(29));
        let busy = import().await;
        busy.problem(409, "ERROR");
        assert_eq!(busy.header("retry-after"), Some("1"));
        clock.pass(TimeDelta::seconds(1));
        let second = tokio::spawn(import().into_future());
        embedder.arrived.notified().await;
        embedder.gate.0.add_permits(100);
        let (lost, second) = (lost.await.expect("no panic"), second.await.expect("no panic"));
        lost.ok();
        assert_eq!((second.ok(), second.header("idempotent-replayed")), (json!({ "imported": 1, "total": 1 }), None));
        assert_replayed(&second, &import().await);
    }
}

#[tokio::test]
async fn an_answer_outlives_the_server() {
    let app = TestApp::start().await;
    let first = learn(&app.owner(), "t").header(HEADER, "k").await;
    let app = Setup::on(app.stop().await).start().await;
    assert_replayed(&first, &learn(&app.owner(), "t").header(HEADER, "k").await);
}

#[tokio::test]
async fn a_key_belongs_to_its_caller() {
    let second = api_key("second", Scope::default(), Role::Owner);
    let stranger = api_key("stranger", Scope::verified("other", "default"), Role::Owner);
    let setup = async |setup: Setup| {
        setup
            .keyed()
            .await
            .prepare(async |store| {
                for key in [&second, &stranger] {
                    store_key(store, key).await;
                }
            })
            .await
    };
    for (app, _database) in both(setup).await {
        for person in [app.owner(), app.of_role("admin"), app.holder_of("second"), app.holder_of("stranger")] {
            let first = learn(&person, "t").header(HEADER, "k").await;
            assert_replayed(&first, &learn(&person, "t").header(HEADER, "k").await);
        }
        assert_eq!((patterns(&app.owner()).await, patterns(&app.holder_of("stranger")).await), (3, 1));
        // A key that opens nothing any more is told nothing.
        let id = json!(second.id);
        app.owner().delete(&format!("/v1/keys/{}", id.as_str().expect("an id"))).await.ok();
        learn(&app.holder_of("second"), "t").header(HEADER, "k").await.problem(401, "UNAUTHORIZED");
    }
}

#[tokio::test]
async fn projects_have_keys_of_their_own() {
    for setup in [Setup::new(), Setup::new().open()] {
        let app = setup.start().await;
        for project in ["a", "b"] {
            let call = || learn(&app.owner(), "t").header("x-project-id", project).header(HEADER, "k");
            let first = call().await;
            assert_replayed(&first, &call().await);
        }
    }
}

#[tokio::test]
async fn a_repetition_counts_once_against_the_limit_of_its_key() {
    let app = Setup::new().var("ENGRAMIA_RATE_LIMIT_PER_KEY", "3").start().await;
    let call = || learn(&app.owner(), "t").header(HEADER, "k");
    let first = call().await;
    assert_replayed(&first, &call().await);
    assert_replayed(&first, &call().await);
    call().await.problem(429, "RATE_LIMITED");
}

#[tokio::test]
async fn nobody_reads_a_secret_from_the_store() {
    for (app, database) in both(async |setup| setup.keyed().await).await {
        let create = || {
            let body = json!({ "name": "aname-nobody-else-has", "role": "reader" });
            app.owner().post("/v1/keys", &body).header(HEADER, "akey-nobody-else-has")
        };
        let first = create().await;
        assert_eq!(first.status, 201, "{}", first.text());
        assert_replayed(&first, &create().await);
        let secret = first.json()["key"].as_str().expect("a secret").to_owned();
        app.holder_of(&secret).get("/v1/health").await.ok();
        let keys = app.owner().get("/v1/keys").await.ok();
        assert_eq!(keys["keys"].as_array().map(Vec::len), Some(5), "one was made: {keys}");
        match &database {
            Some(database) => {
                let mut connection = database.connect().await;
                assert_eq!(
                    numbers(&mut connection, "select count(*) from idempotency_keys where answer is not null").await,
                    [1]
                );
                for text in [secret.as_str(), "nobody-else-has", "key_prefix"] {
                    let sql = format!(
                        "select count(*) from idempotency_keys k where encode(answer, 'hex') like '%{0}%' \
                         or encode(request, 'hex') like '%{0}%' or encode(name, 'hex') like '%{0}%' \
                         or k::text like '%{text}%'",
                        hex::encode(text)
                    );
                    assert_eq!(numbers(&mut connection, &sql).await, [0], "{text}");
                }
            }
            None => {
                // The name of the key is data; the secret and the idempotency key are nowhere.
                for entry in fs::read_dir(app.root()).expect("a directory") {
                    let bytes = fs::read(entry.expect("an entry").path()).expect("a file");
                    for text in [secret.as_str(), "akey-nobody-else-has"] {
                        assert_eq!(memchr::memmem::find(&bytes, text.as_bytes()), None, "{text}");
                    }
                }
            }
        }
    }
}

/// One request of a client, and which of its earlier ones it repeats afterwards.
type Step = (u8, u8, Vec<prop::sample::Index>);

/// A request that changes something.
fn request(person: &Person, project: &str, (kind, word, _): &Step) -> Call {
    let task = format!("task{word}");
    let call = match kind {
        0 | 1 => learn(person, &task),
        2 => {
            let body = json!({ "records": [record(&format!("patterns/{word}"), &task, 5.0)], "overwrite": true });
            person.post("/v1/import", &body)
        }
        3 => person.post(&format!("/v1/patterns/patterns/{word}/outcome"), &json!({ "success": true })),
        _ => person.delete(&format!("/v1/patterns/patterns/{word}")),
    };
    call.header("x-project-id", project)
}

/// What a project holds, but for the names that the time gives.
async fn contents(person: &Person, project: &str) -> BTreeSet<String> {
    let export = person.get("/v1/export").header("x-project-id", project).await.ok();
    let records: &Vec<Value> = export["records"].as_array().expect("records");
    records.iter().enumerate().map(|(at, record)| format!("{at} {}", record["data"])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_sequence_of_duplicates_equals_single_delivery() {
    for (app, _database) in both(async |setup| setup.clock(Arc::new(StoppedClock::new()))).await {
        let step = (0..5u8, 0..3u8, prop::collection::vec(any::<prop::sample::Index>(), 0..4));
        let mut runner = TestRunner::new(Config { cases: 16, failure_persistence: None, ..Config::default() });
        let (case, handle, owner) = (Cell::new(0), Handle::current(), app.owner());
        let outcome = block_in_place(|| {
            runner.run(&prop::collection::vec(step, 1..12), |steps| {
                case.set(case.get() + 1);
                handle.block_on(deliver(&owner, case.get(), &steps));
                Ok(())
            })
        });
        outcome.expect("every case holds");
    }
}

async fn deliver(owner: &Person, case: u32, steps: &[Step]) {
    let (once, often) = (format!("once{case}"), format!("often{case}"));
    let mut answers: Vec<(usize, Answer)> = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let single = request(owner, &once, step).await;
        let key = |number: usize| format!("{case}-{number}");
        let first = request(owner, &often, step).header(HEADER, key(number)).await;
        assert_eq!(single.status, first.status);
        // A failure is not kept: to send it again is to send it later.
        if first.status.is_success() {
            answers.push((number, first));
        }
        for index in step.2.iter().filter(|_| !answers.is_empty()) {
            let (number, first) = index.get(&answers);
            assert_replayed(first, &request(owner, &often, &steps[*number]).header(HEADER, key(*number)).await);
        }
    }
    assert_eq!(contents(owner, &once).await, contents(owner, &often).await);
}

#[tokio::test]
async fn a_request_of_a_client_that_hung_up_is_answered_to_its_repetition() {
    let embedder = Arc::new(Gated::default());
    let app = Setup::new().embedder(embedder.clone()).start().await;
    let owner = app.owner();
    let abandoned = tokio::spawn(learn(&owner, "t").header(HEADER, "k").into_future());
    embedder.arrived.notified().await;
    abandoned.abort();
    learn(&owner, "t").header(HEADER, "k").await.problem(409, "ERROR");
    embedder.gate.0.add_permits(100);
    let again = eventually("the answer is kept", async || {
        let answer = learn(&owner, "t").header(HEADER, "k").await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(patterns(&owner).await, 1);
}
