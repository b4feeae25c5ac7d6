//! Erasing projects and tenants over HTTP: who may, what is answered, what is left, and what becomes of keys, jobs and
//! names.

use std::sync::Arc;

use axum::http::Method;
use engramia::domain::{Role, Scope};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::app::{BOOTSTRAP_TOKEN, Setup, TestApp, api_key, store_key};
use crate::support::fakes::Gated;
use crate::support::issuer::{Issuer, Key};
use crate::support::people::Person;
use crate::support::postgres::Database;
use crate::support::{eventually, keys, record, run};

fn project(name: &str) -> String {
    format!("/v1/governance/projects/{name}")
}

fn tenant(name: &str) -> String {
    format!("/v1/governance/tenants/{name}")
}

/// A tenant with two projects and an owner and an admin in each; another tenant with a project of the same name.
async fn house(setup: Setup) -> TestApp {
    let prepared = setup.stored_keys().prepare(async |store| {
        for (tenant, project) in [("acme", "one"), ("acme", "two"), ("other", "one")] {
            for role in [Role::Owner, Role::Admin] {
                let secret = format!("{tenant}-{project}-{}", role.as_str());
                store_key(store, &api_key(&secret, Scope::verified(tenant, project), role)).await;
            }
        }
    });
    let app = prepared.await.start().await;
    for project in ["acme-one", "acme-two", "other-one"] {
        for task in ["read a table", "write a table", "sort a list"] {
            app.holder_of(&format!("{project}-owner")).post("/v1/learn", &run(task, "c", 8.0)).await.ok();
        }
    }
    app
}

async fn stores() -> (Database, [Setup; 2]) {
    let database = Database::new().await;
    let setups = [Setup::new(), Setup::new().postgres(&database)];
    (database, setups)
}

/// What somebody has.
async fn possessions(person: &Person) -> Vec<Value> {
    let mut all = Vec::new();
    for path in ["/v1/export", "/v1/health", "/v1/metrics", "/v1/keys", "/v1/analytics/events", "/v1/jobs"] {
        let mut found = person.get(path).await.ok();
        for key in found["keys"].as_array_mut().into_iter().flatten() {
            // Noted in the background.
            key["last_used_at"].take();
        }
        all.push(found);
    }
    all
}

/// Asserts that the digest is the one of everything else.
fn certified(certificate: &Value) {
    let mut rest = certificate.clone();
    let digest = rest.as_object_mut().and_then(|members| members.remove("sha256")).expect("a digest");
    assert_eq!(digest, hex::encode(Sha256::digest(rest.to_string())));
}

#[tokio::test]
async fn a_project_goes_with_its_keys_and_the_others_stay_as_they_are() {
    let (_database, setups) = stores().await;
    for setup in setups {
        let app = house(setup).await;
        let [owner, sibling, stranger] =
            ["acme-one-owner", "acme-two-owner", "other-one-owner"].map(|k| app.holder_of(k));
        let before = (possessions(&sibling).await, possessions(&stranger).await);
        let answer = owner.delete(&project("one")).await.ok();
        for (member, expected) in [
            ("tenant_id", json!("acme")),
            ("project_id", json!("one")),
            ("patterns_deleted", json!(3)),
            ("jobs_deleted", json!(0)),
            ("keys_revoked", json!(2)),
            ("projects_deleted", json!(1)),
        ] {
            assert_eq!(answer[member], expected, "{member}: {answer}");
        }
        let certificate = &answer["certificate"];
        certified(certificate);
        assert_eq!(certificate["scope"], json!({ "tenant_id": "acme", "project_id": "one" }));
        assert_eq!((&certificate["tables"]["patterns"], &certificate["tables"]["vectors"]), (&json!(3), &json!(3)));
        assert_eq!(certificate["requested_by"], json!(api_key("acme-one-owner", Scope::default(), Role::Owner).id));
        for key in ["acme-one-owner", "acme-one-admin"] {
            app.holder_of(key).get("/v1/health").await.problem(401, "UNAUTHORIZED");
        }
        let refused = sibling.get("/v1/health").header("x-project-id", "one").await.problem(403, "FORBIDDEN");
        assert_eq!(refused["detail"], "The tenant of this key has no such project.");
        assert_eq!((possessions(&sibling).await, possessions(&stranger).await), before);
        let again = sibling.delete(&project("one")).await.ok();
        assert_eq!((&again["projects_deleted"], &again["certificate"]), (&json!(0), &json!(null)));
    }
}

#[tokio::test]
async fn admins_erase_their_own_project_and_owners_any_of_their_tenant() {
    let (_database, setups) = stores().await;
    for setup in setups {
        let app = house(setup).await;
        let admin = app.holder_of("acme-one-admin");
        let text = "Role 'admin' may only delete its own project. Cross-project deletion requires the 'owner' role.";
        for foreign in ["two", "none", "%00", "%ff"] {
            assert_eq!(admin.delete(&project(foreign)).await.problem(403, "FORBIDDEN")["detail"], text, "{foreign}");
        }
        let owner = app.holder_of("acme-two-owner");
        for strange in ["none", "%00", "%ff", "a%20b", "..%2Ftwo", "TWO", "%C3%BC", &"x".repeat(101), "*"] {
            let answer = owner.delete(&project(strange)).await.ok();
            let counts = ["patterns_deleted", "jobs_deleted", "keys_revoked", "projects_deleted"];
            assert!(counts.iter().all(|member| answer[member] == 0), "{strange}: {answer}");
            assert_eq!(answer["certificate"], json!(null));
        }
        for foreign in ["other", "none", "%00", "*"] {
            let refused = owner.delete(&tenant(foreign)).await.problem(403, "FORBIDDEN");
            assert_eq!(refused["detail"], "You can only delete your own tenant.");
        }
        admin.delete(&tenant("acme")).await.problem(403, "FORBIDDEN");
        assert_eq!(owner.get("/v1/health").await.ok()["pattern_count"], 3);

        assert_eq!(admin.delete(&project("one")).await.ok()["patterns_deleted"], 3);
        let audit = owner.get("/v1/audit?action=scope_deleted").await.ok();
        assert_eq!(audit["events"], json!([]), "it is recorded where the admin was");
        assert_eq!(app.holder_of("other-one-owner").get("/v1/health").await.ok()["pattern_count"], 3);
    }
}

#[tokio::test]
async fn the_end_of_another_project_is_recorded_in_the_own_log_and_the_chain_holds() {
    let (_database, setups) = stores().await;
    for setup in setups {
        let app = house(setup).await;
        let owner = app.holder_of("acme-two-owner");
        app.holder_of("acme-one-admin").get("/v1/export").await.ok();
        app.holder_of("acme-one-admin").get("/v1/audit").await.ok();
        let answer = owner.delete(&project("one")).await.ok();
        assert_eq!(answer["certificate"]["scrubbed"]["audit_log"], 1, "{answer}");
        let events = owner.get("/v1/audit?action=scope_deleted").await.ok()["events"].clone();
        assert_eq!(events.as_array().map(Vec::len), Some(1), "{events}");
        assert_eq!((&events[0]["resource_type"], &events[0]["resource_id"]), (&json!("project"), &json!("one")));
        assert_eq!(events[0]["detail"]["certificate"], answer["certificate"]);
        assert_eq!(events[0]["detail"]["patterns_deleted"], 3);
        // An owner may use the name again: for a new, empty project.
        let made = owner.post("/v1/keys", &json!({ "name": "n", "role": "admin", "project_id": "one" })).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let newcomer = app.holder_of(made.json()["key"].as_str().expect("a key"));
        assert_eq!(newcomer.get("/v1/health").await.ok()["pattern_count"], 0);
        assert_eq!(newcomer.get("/v1/keys").await.ok()["keys"].as_array().map(Vec::len), Some(1));
        assert_eq!(newcomer.get("/v1/analytics/events").await.ok()["total"], 0);
        let log = newcomer.get("/v1/audit").await.ok();
        let scrubbed = log["events"].as_array().expect("a list").iter().find(|e| e["action"] == "data_exported");
        let scrubbed = scrubbed.expect("its entry stays");
        assert_eq!((&scrubbed["ip"], &scrubbed["detail"]), (&json!(null), &json!(null)));
        app.holder_of("acme-one-owner").get("/v1/health").await.problem(401, "UNAUTHORIZED");
        assert_eq!(newcomer.post("/v1/learn", &run("read a table", "c", 8.0)).await.ok()["stored"], true);
    }
}

#[tokio::test]
async fn a_tenant_goes_with_all_its_projects() {
    let (_database, setups) = stores().await;
    for setup in setups {
        let app = house(setup).await;
        let stranger = app.holder_of("other-one-owner");
        let before = possessions(&stranger).await;
        let answer = app.holder_of("acme-one-owner").delete(&tenant("acme")).await.ok();
        certified(&answer["certificate"]);
        assert_eq!(
            [&answer["tenant_id"], &answer["project_id"], &answer["patterns_deleted"], &answer["keys_revoked"]],
            [&json!("acme"), &json!("*"), &json!(6), &json!(4)]
        );
        assert_eq!(answer["projects_deleted"], 2);
        for key in ["acme-one-owner", "acme-two-owner", "acme-two-admin"] {
            app.holder_of(key).get("/v1/health").await.problem(401, "UNAUTHORIZED");
        }
        assert_eq!(possessions(&stranger).await, before);
    }
}

#[tokio::test]
async fn whoever_has_erased_everything_begins_anew_with_a_first_key() {
    let (_database, setups) = stores().await;
    for setup in setups {
        let app = setup.keyed().await.start().await;
        let founding = json!({ "token": BOOTSTRAP_TOKEN });
        app.anonymous().post("/v1/keys/bootstrap", &founding).await.problem(409, "ERROR");
        app.owner().post("/v1/learn", &run("t", "c", 5.0)).await.ok();
        assert_eq!(app.owner().delete(&tenant("default")).await.ok()["keys_revoked"], 4);
        app.owner().get("/v1/health").await.problem(401, "UNAUTHORIZED");
        let first = app.anonymous().post("/v1/keys/bootstrap", &founding).await;
        assert_eq!(first.status, 201, "{}", first.text());
        let owner = app.holder_of(first.json()["key"].as_str().expect("a key"));
        assert_eq!(owner.get("/v1/health").await.ok()["pattern_count"], 0);
        app.anonymous().post("/v1/keys/bootstrap", &founding).await.problem(409, "ERROR");
        let log = owner.get("/v1/audit?action=scope_deleted").await.ok();
        assert_eq!(log["events"][0]["resource_type"], "tenant", "the proof stays");
    }
}

#[tokio::test]
async fn a_static_key_finds_its_project_empty_and_goes_on() {
    let (_database, setups) = stores().await;
    for setup in setups {
        let app = setup.start().await;
        let owner = app.owner();
        for (path, number) in [(project("default"), 1), (tenant("default"), 1)] {
            owner.post("/v1/learn", &run("read a table", "c", 8.0)).await.ok();
            owner.post("/v1/recall", &json!({ "task": "read a table" })).await.ok();
            let answer = owner.delete(&path).await.ok();
            assert_eq!((&answer["patterns_deleted"], &answer["projects_deleted"]), (&json!(1), &json!(number)));
            assert_eq!(owner.get("/v1/export").await.ok()["count"], 0);
            assert_eq!(owner.get("/v1/metrics").await.ok()["runs"], 0);
            assert!(keys(&owner.post("/v1/recall", &json!({ "task": "read a table" })).await.ok()).is_empty());
            let log = owner.get("/v1/audit?action=scope_deleted&limit=1").await.ok();
            assert_eq!(log["events"][0]["detail"]["certificate"], answer["certificate"]);
        }
        // Another name of the same tenant, chosen by a header.
        owner.post("/v1/learn", &run("t", "c", 8.0)).header("x-project-id", "a.b").await.ok();
        owner.post("/v1/learn", &run("t", "c", 8.0)).header("x-project-id", "a_b").await.ok();
        assert_eq!(owner.delete(&project("a.b")).await.ok()["projects_deleted"], 1);
        let left = owner.get("/v1/health").header("x-project-id", "a_b").await.ok();
        assert_eq!(left["pattern_count"], 1);
        assert_eq!(owner.get("/v1/health").header("x-project-id", "a.b").await.ok()["pattern_count"], 0);
    }
}

#[tokio::test]
async fn a_running_job_writes_nothing_any_more() {
    let (_database, setups) = stores().await;
    for setup in setups {
        let embedder = Arc::new(Gated::default());
        let app = setup.embedder(embedder.clone()).start().await;
        let owner = app.owner();
        let records: Vec<Value> = (0..3).map(|n| record(&format!("patterns/{n}"), &format!("task {n}"), 5.0)).collect();
        let submitted =
            owner.post("/v1/import", &json!({ "records": records })).header("prefer", "respond-async").await;
        let id = submitted.json()["job_id"].as_str().expect("an id").to_owned();
        embedder.arrived.notified().await;
        eventually("it runs", async || {
            (owner.get(&format!("/v1/jobs/{id}")).await.ok()["status"] == "running").then_some(())
        })
        .await;
        // A request that is under way as well.
        let learning = tokio::spawn({
            let owner = owner.clone();
            async move { owner.post("/v1/learn", &run("another task", "c", 5.0)).await }
        });
        embedder.arrived.notified().await;
        let answer = owner.delete(&project("default")).await.ok();
        assert_eq!(answer["jobs_deleted"], 1, "{answer}");
        embedder.gate.0.add_permits(1_000);
        // It came after the end, into a project that is empty.
        assert_eq!(learning.await.expect("joined").ok()["pattern_count"], 1);
        owner.get(&format!("/v1/jobs/{id}")).await.problem(404, "NOT_FOUND");
        assert_eq!(owner.get("/v1/jobs").await.ok(), json!({ "jobs": [] }));
        // The slot is free again.
        let next = owner.call(Method::POST, "/v1/aging").header("prefer", "respond-async").await.json();
        let next = next["job_id"].as_str().expect("an id").to_owned();
        eventually("the next one runs", async || {
            (owner.get(&format!("/v1/jobs/{next}")).await.ok()["status"] == "completed").then_some(())
        })
        .await;
        assert_eq!(owner.get("/v1/health").await.ok()["pattern_count"], 1);
    }
}

#[tokio::test]
async fn a_request_under_way_with_a_dead_key_is_refused() {
    let (_database, setups) = stores().await;
    for setup in setups {
        let embedder = Arc::new(Gated::default());
        let app = setup.embedder(embedder.clone()).keyed().await.start().await;
        let owner = app.owner();
        let learning = tokio::spawn({
            let owner = owner.clone();
            async move { owner.post("/v1/learn", &run("a task", "c", 5.0)).await }
        });
        embedder.arrived.notified().await;
        assert_eq!(owner.delete(&project("default")).await.ok()["keys_revoked"], 4);
        embedder.gate.0.add_permits(1_000);
        let refused = learning.await.expect("joined").problem(409, "ERROR");
        assert_eq!(refused["detail"], "The project is being erased, or has been.");
    }
}

#[tokio::test]
async fn nothing_that_is_learned_meanwhile_survives() {
    let (_database, setups) = stores().await;
    for setup in setups {
        let app = house(setup).await;
        let learners = (0..4).map(|learner| {
            let person = app.holder_of("acme-one-owner");
            tokio::spawn(async move {
                let mut stored = 0;
                for number in 0.. {
                    let task = format!("task {number} of {learner}");
                    let answer = person.post("/v1/learn", &run(&task, &task, 5.0)).await;
                    match answer.status.as_u16() {
                        // What is about equal to another becomes one with it.
                        200 => stored += u64::from(answer.json()["stored"] == true),
                        401 | 409 => break,
                        other => panic!("{other}: {}", answer.text()),
                    }
                }
                stored
            })
        });
        let learners: Vec<_> = learners.collect();
        let owner = app.holder_of("acme-two-owner");
        eventually("they learn", async || {
            let health = owner.get("/v1/health").header("x-project-id", "one").await.ok();
            (health["pattern_count"].as_u64() > Some(20)).then_some(())
        })
        .await;
        let answer = owner.delete(&project("one")).await.ok();
        let mut learned = 3;
        for learner in learners {
            learned += learner.await.expect("joined");
        }
        assert_eq!(answer["patterns_deleted"], learned, "what was acknowledged was erased");
        let made = owner.post("/v1/keys", &json!({ "name": "n", "project_id": "one" })).await.json();
        let newcomer = app.holder_of(made["key"].as_str().expect("a key"));
        assert_eq!(newcomer.get("/v1/health").await.ok()["pattern_count"], 0);
        assert_eq!(newcomer.get("/v1/metrics").await.ok()["runs"], 0);
    }
}

#[tokio::test]
async fn a_token_finds_its_project_empty_and_goes_on() {
    let (_database, setups) = stores().await;
    for setup in setups {
        let key = Key::rsa("first", jsonwebtoken::Algorithm::RS256);
        let issuer = Issuer::publishing(&[&key]).await;
        let setup = setup.issuer(&issuer.uri()).clock(issuer.clock.clone());
        let app = setup.var("ENGRAMIA_OIDC_PROJECT_CLAIM", "project").start().await;
        let person = |changes: Value| app.holder_of(&key.sign(&issuer.claims(changes)));
        let [one, two, stranger] = [("acme", "one"), ("acme", "two"), ("other", "one")]
            .map(|(tenant, project)| person(json!({ "org": tenant, "project": project, "engramia_role": "owner" })));
        for somebody in [&one, &two, &stranger] {
            somebody.post("/v1/learn", &run("t", "c", 5.0)).await.ok();
        }
        let answer = one.delete(&project("one")).await.ok();
        assert_eq!((&answer["patterns_deleted"], &answer["projects_deleted"]), (&json!(1), &json!(1)));
        for (somebody, left) in [(&one, 0), (&two, 1), (&stranger, 1)] {
            assert_eq!(somebody.get("/v1/export").await.ok()["count"], left);
        }
        assert_eq!(one.post("/v1/learn", &run("t", "c", 5.0)).await.ok()["pattern_count"], 1);
        assert_eq!(two.delete(&tenant("acme")).await.ok()["patterns_deleted"], 2);
        for (somebody, left) in [(&one, 0), (&two, 0), (&stranger, 1)] {
            assert_eq!(somebody.get("/v1/export").await.ok()["count"], left);
        }
    }
}
