//! Who may do what: every operation of the OpenAPI document against the table of the specification.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use engramia::domain::{Role, Scope};
use serde_json::json;

use crate::support::app::{Setup, TestApp, api_key, store_key};
use crate::support::operations::{Operation, operations};
use crate::support::people::Person;
use crate::support::{keys, run};

const ROLES: [&str; 4] = ["reader", "editor", "admin", "owner"];

/// Operation, what a refused role is told, the least role. No permission: everybody, without a key.
const TABLE: &[(&str, Option<&str>, &str)] = &[
    ("version", None, "reader"),
    ("health", Some("health"), "reader"),
    ("health_deep", Some("health"), "reader"),
    ("metrics", Some("metrics"), "reader"),
    ("recall", Some("recall"), "reader"),
    ("feedback", Some("feedback:read"), "reader"),
    ("search_skills", Some("skills:search"), "reader"),
    ("list_jobs", Some("jobs:list"), "reader"),
    ("get_job", Some("jobs:read"), "reader"),
    ("cancel_job", Some("jobs:cancel"), "editor"),
    ("learn", Some("learn"), "editor"),
    ("record_outcome", Some("learn"), "editor"),
    ("evaluate", Some("evaluate"), "editor"),
    ("compose", Some("compose"), "editor"),
    ("evolve", Some("evolve"), "editor"),
    ("register_skills", Some("skills:register"), "editor"),
    ("aging", Some("aging"), "editor"),
    ("feedback_decay", Some("feedback:decay"), "editor"),
    ("analyze_failures", Some("analyze_failures"), "editor"),
    ("rollup", Some("analytics:rollup"), "editor"),
    ("last_rollup", Some("analytics:read"), "reader"),
    ("events", Some("analytics:read"), "reader"),
    // An editor may delete its own; who may delete nothing is told the greater permission.
    ("delete_pattern", Some("patterns:delete"), "editor"),
    ("import", Some("import"), "admin"),
    ("export", Some("export"), "admin"),
    // It asks for a token of its own.
    ("bootstrap", None, "reader"),
    ("create_key", Some("keys:create"), "admin"),
    ("list_keys", Some("keys:list"), "admin"),
    ("revoke_key", Some("keys:revoke"), "admin"),
    ("rotate_key", Some("keys:rotate"), "admin"),
    ("audit", Some("audit:read"), "admin"),
    ("billing_status", Some("billing:read"), "reader"),
    ("checkout", Some("billing:manage"), "admin"),
    ("portal", Some("billing:manage"), "admin"),
    ("overage", Some("billing:manage"), "admin"),
    // It asks for a signature.
    ("billing_webhook", None, "reader"),
    ("get_retention", Some("governance:read"), "admin"),
    ("set_retention", Some("governance:write"), "admin"),
    ("apply_retention", Some("governance:admin"), "admin"),
    ("classify", Some("governance:write"), "admin"),
    ("governance_export", Some("export"), "admin"),
    ("create_dsr", Some("governance:write"), "admin"),
    ("list_dsr", Some("governance:read"), "admin"),
    ("get_dsr", Some("governance:read"), "admin"),
    ("update_dsr", Some("governance:write"), "admin"),
    ("erase_project", Some("governance:delete"), "admin"),
    ("erase_tenant", Some("*"), "owner"),
];

fn rank(role: &str) -> usize {
    ROLES.iter().position(|known| *known == role).expect("a role")
}

fn row(operation: &Operation) -> (Option<&'static str>, &'static str) {
    let row = TABLE.iter().find(|(id, ..)| *id == operation.id);
    let (_, permission, least) = row.unwrap_or_else(|| panic!("{} has no row in the table", operation.id));
    (*permission, least)
}

#[test]
fn the_table_knows_every_operation_and_no_other() {
    let mut documented: Vec<String> = operations().into_iter().map(|operation| operation.id).collect();
    let mut listed: Vec<String> = TABLE.iter().map(|(id, ..)| (*id).to_owned()).collect();
    documented.sort();
    listed.sort();
    assert_eq!(documented, listed);
}

#[tokio::test]
async fn without_a_valid_key_only_open_operations_answer() {
    let app = Setup::new().keyed().await.start().await;
    for operation in operations() {
        let strangers = [
            (app.anonymous(), "Missing or malformed Authorization header. Expected: Bearer <key>"),
            (app.holder_of("wrong"), "Invalid API key."),
        ];
        for (stranger, text) in strangers {
            let answer = operation.valid(&stranger).await;
            if row(&operation).0.is_none() {
                assert!(![401, 403].contains(&answer.status.as_u16()), "{}: {}", operation.id, answer.text());
                continue;
            }
            let body = answer.problem(401, "UNAUTHORIZED");
            assert_eq!(body["detail"], text, "{}", operation.id);
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
}

#[tokio::test]
async fn every_role_may_do_what_the_table_says_and_nothing_else() {
    let app = Setup::new().keyed().await.start().await;
    for role in ROLES {
        for operation in operations() {
            let answer = operation.valid(&app.of_role(role)).await;
            let (permission, least) = row(&operation);
            let place = format!("{role} {}", operation.id);
            if rank(role) >= rank(least) {
                // The project and the tenant that these requests name are not the caller's own.
                let foreign = matches!((role, operation.id.as_str()), ("admin", "erase_project") | (_, "erase_tenant"));
                if foreign {
                    answer.problem(403, "FORBIDDEN");
                    continue;
                }
                let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&answer.status);
                assert!(
                    !refused && (answer.status.as_u16() < 500 || answer.status == 501 || operation.needs_payments()),
                    "{place}: {}",
                    answer.text()
                );
            } else {
                let permission = permission.expect("only operations with a permission can be refused");
                let text = format!("Role '{role}' does not have permission '{permission}'.");
                assert_eq!(answer.problem(403, "FORBIDDEN")["detail"], text, "{place}");
            }
        }
    }
}

#[tokio::test]
async fn who_is_asking_is_settled_before_what_is_asked() {
    let app = Setup::new().role("reader").start().await;
    for operation in operations().into_iter().filter(|operation| operation.has_body() && !operation.is_public()) {
        for body in ["{", "[]", "", "{\"nothing\":\"of use\"}"] {
            let send = |person: Person| person.call(operation.method.clone(), &operation.path).body(body);
            send(app.anonymous()).await.problem(401, "UNAUTHORIZED");
            let expected = match row(&operation).1 {
                "reader" => (422, "VALIDATION_ERROR"),
                _ => (403, "FORBIDDEN"),
            };
            send(app.owner()).await.problem(expected.0, expected.1);
        }
    }
    app.anonymous().delete("/v1/patterns/no-key").await.problem(401, "UNAUTHORIZED");
    app.owner().delete("/v1/patterns/no-key").await.problem(403, "FORBIDDEN");
}

#[tokio::test]
async fn an_editor_deletes_its_own_patterns_and_no_others() {
    let app = Setup::new().start().await;
    let own = app.owner().post("/v1/learn", &run("own task", "own()", 8.0)).await.ok()["pattern_key"].clone();
    let foreign = |key: &str, author: serde_json::Value| json!({ "version": 1, "key": key, "data": { "task": key, "_author_key_id": author } });
    let records = json!({ "records": [
        foreign("patterns/foreign", json!("somebody else")),
        foreign("patterns/nobody", json!(null)),
    ] });
    app.owner().post("/v1/import", &records).await.ok();

    let app = Setup::on(app.stop().await).role("editor").start().await;
    let delete = |key: &str| app.owner().delete(&format!("/v1/patterns/{key}"));
    for key in ["patterns/foreign", "patterns/nobody"] {
        let refusal = delete(key).await.problem(403, "FORBIDDEN");
        assert_eq!(refusal["detail"], "Editors can only delete patterns they created.");
    }
    assert_eq!(app.owner().get("/v1/health").await.ok()["pattern_count"], 3);
    assert_eq!(delete(own.as_str().expect("a key")).await.ok()["deleted"], true);
    assert_eq!(delete("patterns/unknown").await.ok()["deleted"], false);

    let app = Setup::on(app.stop().await).role("admin").start().await;
    assert_eq!(app.owner().delete("/v1/patterns/patterns/foreign").await.ok()["deleted"], true);
    assert_eq!(app.owner().get("/v1/health").await.ok()["pattern_count"], 1);
}

#[tokio::test]
async fn the_first_start_makes_one_owner_key_and_keeps_it() {
    let app = Setup::new().stored_keys().start().await;
    let key = app.key().to_owned();
    assert!(key.starts_with("engramia_sk_"), "{key}");
    assert_eq!(app.owner().get("/v1/export").await.ok()["count"], 0);
    app.holder_of(&key[..key.len() - 1]).get("/v1/health").await.problem(401, "UNAUTHORIZED");

    let root = app.stop().await;
    let kept = std::fs::read_to_string(root.path().join(engramia::app::OWNER_KEY_FILE)).expect("the kept key");
    assert_eq!(kept.trim(), key);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let file = std::fs::metadata(root.path().join(engramia::app::OWNER_KEY_FILE)).expect("the kept key");
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }
    let app = Setup::on(root).stored_keys().start().await;
    app.holder_of(&key).get("/v1/health").await.ok();
}

#[tokio::test]
async fn a_stored_key_opens_its_project_and_only_an_owner_may_name_another() {
    for (role, refusal) in [
        (Role::Editor, "This key is bound to another project."),
        (Role::Admin, "This key is bound to another project."),
        (Role::Owner, "The tenant of this key has no such project."),
    ] {
        let prepared = Setup::new().stored_keys().prepare(async |store| {
            store_key(store, &api_key("secret", Scope::verified("acme", "mine"), role)).await;
            store_key(store, &api_key("second", Scope::verified("acme", "second"), Role::Reader)).await;
            store_key(store, &api_key("foreign", Scope::verified("other", "foreign"), Role::Owner)).await;
        });
        let app = prepared.await.start().await;
        let holder = app.holder_of("secret");
        let in_project = |project: &str| holder.post("/v1/learn", &run("t", "c", 5.0)).header("x-project-id", project);

        assert_eq!(holder.post("/v1/learn", &run("t", "c", 5.0)).await.ok()["pattern_count"], 1);
        assert_eq!(in_project("mine").await.ok()["stored"], false, "the same memory");
        if role == Role::Owner {
            assert_eq!(in_project("second").await.ok()["stored"], true, "another memory");
        } else {
            assert_eq!(in_project("second").await.problem(403, "FORBIDDEN")["detail"], refusal);
        }
        for project in ["foreign", "nowhere", "default"] {
            assert_eq!(in_project(project).await.problem(403, "FORBIDDEN")["detail"], refusal, "{role:?} {project}");
        }
    }
}

#[tokio::test]
async fn projects_of_a_static_key_share_nothing() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let learn = |project: &'static str, task: &str| {
        owner.post("/v1/learn", &run(task, "c", 5.0)).header("x-project-id", project)
    };
    learn("one", "sort a list").await.ok();
    let two = learn("two", "sort a list").await.ok();
    assert_eq!((two["stored"].as_bool(), two["pattern_count"].as_u64()), (Some(true), Some(1)));

    let recall = |project: &'static str| {
        owner.post("/v1/recall", &json!({ "task": "sort a list" })).header("x-project-id", project)
    };
    assert_eq!(keys(&recall("two").await.ok()).len(), 1);
    assert!(keys(&recall("three").await.ok()).is_empty());
    let key = two["pattern_key"].as_str().expect("a key");
    let deleted = owner.delete(&format!("/v1/patterns/{key}")).header("x-project-id", "three").await.ok();
    assert_eq!(deleted["deleted"], false);
    let counts: BTreeMap<&str, _> = BTreeMap::from([("one", 1), ("two", 1), ("three", 0)]);
    for (project, count) in counts {
        let health = owner.get("/v1/health").header("x-project-id", project).await.ok();
        assert_eq!(health["pattern_count"], count, "{project}");
    }
    assert_eq!(owner.get("/v1/export").await.ok()["count"], 0, "the default project");
}
