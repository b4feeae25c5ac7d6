//! Requests of people whose personal data a tenant holds.

use std::io;
use std::sync::{Arc, Mutex};

use axum::http::Method;
use chrono::TimeDelta;
use engramia::domain::{Role, Scope};
use engramia::ports::Clock;
use engramia::store::Sweep;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp, api_key, store_key};
use crate::support::eventually;
use crate::support::fakes::StoppedClock;
use crate::support::people::{Call, Person};
use crate::support::postgres::Database;

const PATH: &str = "/v1/governance/dsr";

fn create(person: &Person, body: &Value) -> Call {
    person.post(PATH, body)
}

async fn created(person: &Person) -> Value {
    let answer = create(person, &json!({ "request_type": "access", "subject_email": "x@y.z" })).await;
    assert_eq!(answer.status.as_u16(), 201, "{}", answer.text());
    answer.json()
}

fn update(person: &Person, id: &str, body: &Value) -> Call {
    person.call(Method::PATCH, &format!("{PATH}/{id}")).body(body.to_string())
}

fn id(request: &Value) -> String {
    request["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_request_goes_from_its_arrival_to_its_answer() {
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let clock = Arc::new(StoppedClock::new());
        let app = setup.clock(clock.clone()).var("ENGRAMIA_DSR_SLA_DAYS", "10").start().await;
        let owner = app.owner();
        let body =
            json!({ "request_type": "erasure", "subject_email": " jana@example.org ", "handler_notes": "by mail" });
        let answer = create(&owner, &body).await;
        assert_eq!(answer.status.as_u16(), 201, "{}", answer.text());
        let made = answer.json();
        let expected = json!({
            "id": id(&made), "tenant_id": "default", "request_type": "erasure", "subject_email": "jana@example.org",
            "status": "pending", "created_at": "2025-06-15T15:06:40.000000+00:00",
            "due_at": "2025-06-25T15:06:40.000000+00:00", "updated_at": "2025-06-15T15:06:40.000000+00:00",
            "completed_at": null, "handler_notes": "by mail", "overdue": false
        });
        assert_eq!(made, expected);
        clock.pass(TimeDelta::days(11));
        // Another project of the tenant sees it as well.
        let shown = owner.get(&format!("{PATH}/{}", id(&made))).header("x-project-id", "other").await.ok();
        assert_eq!((&shown["overdue"], &shown["status"]), (&json!(true), &json!("pending")));
        let begun = update(&owner, &id(&made), &json!({ "status": "in_progress" })).await.ok();
        assert_eq!((&begun["handler_notes"], &begun["completed_at"]), (&json!("by mail"), &Value::Null));
        assert_eq!(begun["overdue"], true);
        let done = update(&owner, &id(&made), &json!({ "status": "completed", "handler_notes": "sent" })).await.ok();
        assert_eq!(done["handler_notes"], "by mail\nsent");
        assert_eq!(done["completed_at"], "2025-06-26T15:06:40.000000+00:00");
        assert_eq!((&done["overdue"], &done["updated_at"]), (&json!(false), &done["completed_at"]));
        let again = update(&owner, &id(&made), &json!({ "status": "pending" })).await.ok();
        assert_eq!(again["completed_at"], Value::Null);
        let events = owner.get("/v1/audit").header("x-project-id", "").await;
        assert_eq!(events.status.as_u16(), 403, "the tenant itself is no project");
    }
}

#[tokio::test]
async fn lists_are_filtered_and_counts_are_not() {
    let clock = Arc::new(StoppedClock::new());
    let app = Setup::new().clock(clock.clone()).start().await;
    let owner = app.owner();
    let first = created(&owner).await;
    clock.pass(TimeDelta::days(20));
    let second = created(&owner).await;
    update(&owner, &id(&second), &json!({ "status": "in_progress" })).await.ok();
    let third = created(&owner).await;
    update(&owner, &id(&third), &json!({ "status": "rejected" })).await.ok();
    clock.pass(TimeDelta::days(11));
    let list = async |query: &str| {
        let answer = owner.get(&format!("{PATH}?{query}")).await.ok();
        let requests = answer["requests"].as_array().expect("a list");
        assert_eq!(answer["total"], requests.len());
        assert_eq!(answer["pending_counts"], json!({ "pending": 1, "in_progress": 1, "overdue": 1 }), "{query}");
        requests.iter().map(id).collect::<Vec<_>>()
    };
    // The second and the third came at the same moment.
    let mut all = list("").await;
    assert_eq!(all.pop(), Some(id(&first)));
    assert_eq!((all.len(), all.contains(&id(&second)), all.contains(&id(&third))), (2, true, true));
    assert_eq!(list("limit=1").await.len(), 1);
    assert_eq!(list("status=rejected").await, [id(&third)]);
    assert_eq!(list("overdue_only=true").await, [id(&first)]);
    assert_eq!(list("overdue_only=true&status=in_progress").await, Vec::<String>::new());
    for bad in ["limit=0", "limit=501", "status=open", "overdue_only=maybe"] {
        owner.get(&format!("{PATH}?{bad}")).await.problem(422, "VALIDATION_ERROR");
    }
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_is_stored() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let good = json!({ "request_type": "access", "subject_email": "x@y.z" });
    for (name, bad) in [
        ("request_type", json!("deletion")),
        ("request_type", json!(null)),
        ("subject_email", json!("nobody")),
        ("subject_email", json!("x@y")),
        ("subject_email", json!(["x@y.z"])),
        ("subject_email", json!(format!("{}@y.z", "x".repeat(317)))),
        ("handler_notes", json!("x".repeat(10_001))),
    ] {
        let mut body = good.clone();
        body[name] = bad;
        let refused = create(&owner, &body).await.problem(422, "VALIDATION_ERROR");
        assert_eq!(refused["detail"][0]["loc"], json!(["body", name]), "{body}");
        assert_eq!(refused["detail"].as_array().map(Vec::len), Some(1));
    }
    assert_eq!(owner.get(PATH).await.ok()["total"], 0);
    let made = created(&owner).await;
    for bad in [json!({}), json!({ "status": "done" }), json!({ "status": null }), json!([])] {
        update(&owner, &id(&made), &bad).await.problem(422, "VALIDATION_ERROR");
    }
    let long = json!({ "status": "in_progress", "handler_notes": "x".repeat(10_000) });
    let mut told = 0;
    let refused = loop {
        let answer = update(&owner, &id(&made), &long).await;
        if answer.status.as_u16() != 200 {
            break answer.problem(422, "VALIDATION_ERROR");
        }
        told += 1;
    };
    assert_eq!((told, &refused["detail"][0]["loc"]), (9, &json!(["body", "handler_notes"])));
    for unknown in ["0be2046e-0000-7000-8000-000000000000", "x", "%FF", "a%00b"] {
        update(&owner, unknown, &json!({ "status": "rejected" })).await.problem(404, "NOT_FOUND");
        owner.get(&format!("{PATH}/{unknown}")).await.problem(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn another_tenant_learns_nothing_of_it_and_the_log_nothing_of_the_subject() {
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let app = setup
            .stored_keys()
            .prepare(async |store| {
                for (secret, tenant) in [("ours", "acme"), ("theirs", "other")] {
                    store_key(store, &api_key(secret, Scope::verified(tenant, "one"), Role::Owner)).await;
                }
            })
            .await
            .start()
            .await;
        let (ours, theirs) = (app.holder_of("ours"), app.holder_of("theirs"));
        let made = created(&ours).await;
        let foreign = theirs.get(&format!("{PATH}/{}", id(&made))).await.problem(404, "NOT_FOUND");
        let unknown = theirs.get(&format!("{PATH}/0be2046e-0000-7000-8000-000000000000")).await.json();
        assert_eq!(foreign["detail"], unknown["detail"]);
        update(&theirs, &id(&made), &json!({ "status": "rejected" })).await.problem(404, "NOT_FOUND");
        let list = theirs.get(PATH).await.ok();
        assert_eq!((&list["total"], &list["pending_counts"]["pending"]), (&json!(0), &json!(0)));
        assert_eq!(ours.get(PATH).await.ok()["requests"][0]["status"], "pending");
        // The person who handles it finds it in the log of the project that she works in.
        let events = ours.get("/v1/audit?action=dsr_created").await.ok();
        assert_eq!(events["total"], 1, "{events}");
        assert_eq!(events["events"][0]["resource_id"], made["id"]);
        assert!(!events.to_string().contains("x@y.z"));
    }
}

/// Where the log goes.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_is_due_soon_is_brought_to_mind_once_a_day() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    // Of this thread, which runs the whole test.
    let _guard = tracing::subscriber::set_default(subscriber);
    let clock = Arc::new(StoppedClock::new());
    let setup = Setup::new().clock(clock.clone()).without_worker().prepare(async |store| {
        // As if a server had run before.
        let sweep = Sweep { name: "subject-requests", every: TimeDelta::hours(24), limit: 500 };
        store.sweep(&sweep, clock.now()).await.expect("begun");
    });
    let app = setup.await.start().await;
    let soon = created(&app.owner()).await;
    clock.pass(TimeDelta::days(22));
    let later = created(&app.owner()).await;
    let answered = created(&app.owner()).await;
    update(&app.owner(), &id(&answered), &json!({ "status": "completed" })).await.ok();
    clock.pass(TimeDelta::days(2));
    let mut root = app.stop().await;
    for days in [0, 0, 24] {
        clock.pass(TimeDelta::days(days));
        let app = Setup::on(root).clock(clock.clone()).start().await;
        let said = || lines.text().matches("must be answered").count();
        let expected = if days == 0 { 1 } else { 3 };
        eventually("the reminder", async || (said() >= expected).then_some(())).await;
        root = app.stop().await;
        assert_eq!(said(), expected, "once a day, whoever asks");
    }
    let text = lines.text();
    let about: Vec<&str> = text.lines().filter(|line| line.contains("must be answered")).collect();
    assert!(about[0].contains(&id(&soon)) && about[0].contains("overdue=false"), "{about:?}");
    assert!(about[1..].iter().any(|line| line.contains(&id(&soon)) && line.contains("overdue=true")), "{about:?}");
    assert!(about[1..].iter().any(|line| line.contains(&id(&later))), "{about:?}");
    assert!(!text.contains(&id(&answered)) && !about.concat().contains("x@y.z"), "{about:?}");
}
