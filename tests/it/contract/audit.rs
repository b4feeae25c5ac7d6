//! The audit log.

use std::sync::Arc;

use engramia::domain::Scope;
use engramia::domain::audit::{AuditAction, AuditEntry, AuditEvent, ChainHead};
use engramia::store::{AuditQuery, Store};
use serde_json::{Map, json};

use super::{Db, at, home};

fn event(number: u8) -> AuditEvent {
    AuditEvent {
        at: at(i64::from(number)),
        action: AuditAction::AuthFailure,
        actor: None,
        resource_type: None,
        resource_id: None,
        ip: None,
        detail: Map::new(),
        nonce: [number; 16],
    }
}

fn full_event() -> AuditEvent {
    let event = AuditEvent { actor: Some("a key".into()), ip: Some("2001:db8::1".into()), ..event(9) };
    event.on("api_key", "k'1").with("z", "ž").with("a", json!({ "n": [1, 2.5, null] }))
}

async fn append(store: &dyn Store, scope: &Scope, event: &AuditEvent) {
    let mut work = store.begin(scope).await.expect("a unit of work");
    work.audit().append(event).await.expect("appended");
    work.commit().await.expect("committed");
}

async fn page(db: &Db, query: AuditQuery) -> Vec<AuditEntry> {
    db.read().await.audit().page(&query).await.expect("read")
}

fn all() -> AuditQuery {
    AuditQuery { limit: 1000, ..AuditQuery::default() }
}

fn numbers(entries: &[AuditEntry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.sequence).collect()
}

/// The whole chain, verified up to its recorded end.
async fn chain(db: &Db, tenant: &str) -> Vec<AuditEntry> {
    let mut work = db.store().read(&Scope::verified(tenant, "any")).await.expect("a unit of work");
    let mut entries: Vec<AuditEntry> = Vec::new();
    let mut head = ChainHead::default();
    loop {
        let page = work.audit().chain(head.sequence, 7).await.expect("read");
        assert!(page.len() <= 7);
        if page.is_empty() {
            break;
        }
        for entry in page {
            head = entry.verify(&head, tenant).unwrap_or_else(|link| panic!("{link:?} at {}", entry.sequence));
            entries.push(entry);
        }
    }
    assert_eq!(work.audit().head().await.expect("read"), head);
    entries
}

pub(super) async fn every_field_of_an_entry_comes_back(mut db: Db) {
    append(db.store().as_ref(), &home(), &event(1)).await;
    append(db.store().as_ref(), &home(), &full_event()).await;
    let first = AuditEntry::after(&ChainHead::default(), "acme", "web", &event(1));
    let head = ChainHead { sequence: 1, hash: first.hash };
    let second = AuditEntry::after(&head, "acme", "web", &full_event());
    assert_eq!(second.detail.as_deref(), Some(r#"{"a":{"n":[1,2.5,null]},"z":"ž"}"#));
    for _ in 0..2 {
        assert_eq!(chain(&db, "acme").await, [first.clone(), second.clone()]);
        assert_eq!(page(&db, all()).await, [second.clone(), first.clone()]);
        db.reopen().await;
    }
}

pub(super) async fn pages_are_filtered_and_go_back_in_time(db: Db) {
    let mut work = db.begin().await;
    for number in 1..=6 {
        let by_one = AuditEvent { actor: Some("one".into()), action: AuditAction::KeyCreated, ..event(number) };
        let made = if number % 2 == 0 { by_one } else { event(number) };
        work.audit().append(&made).await.expect("appended");
    }
    work.commit().await.expect("committed");
    let found = async |query: AuditQuery| numbers(&page(&db, query).await);
    assert_eq!(found(all()).await, [6, 5, 4, 3, 2, 1]);
    assert_eq!(found(AuditQuery { limit: 2, ..all() }).await, [6, 5]);
    assert_eq!(found(AuditQuery { limit: 2, before: Some(5), ..all() }).await, [4, 3]);
    assert_eq!(found(AuditQuery { before: Some(1), ..all() }).await, [0; 0]);
    assert_eq!(found(AuditQuery { since: Some(at(5)), ..all() }).await, [6, 5], "at or after");
    assert_eq!(found(AuditQuery { until: Some(at(3)), ..all() }).await, [2, 1], "before");
    assert_eq!(found(AuditQuery { action: Some("key_created".into()), ..all() }).await, [6, 4, 2]);
    assert_eq!(found(AuditQuery { actor: Some("one".into()), before: Some(4), ..all() }).await, [2]);
    for other in ["One", "on", "", "one' or '1'='1"] {
        assert_eq!(found(AuditQuery { actor: Some(other.into()), ..all() }).await, [0; 0], "{other}");
    }
}

pub(super) async fn a_tenant_has_one_chain_and_a_project_its_pages(db: Db) {
    let (other, foreign) = (Scope::verified("acme", "other"), Scope::verified("other", "web"));
    for (number, scope) in [(1, home()), (2, other.clone()), (3, foreign.clone()), (4, home())] {
        append(db.store().as_ref(), &scope, &event(number)).await;
    }
    let projects: Vec<_> = chain(&db, "acme").await.into_iter().map(|entry| entry.project).collect();
    assert_eq!(projects, ["web", "other", "web"]);
    assert_eq!(chain(&db, "other").await.len(), 1);
    assert_eq!(chain(&db, "nobody").await, []);
    for (scope, expected) in [(home(), vec![3, 1]), (other, vec![2]), (foreign, vec![1])] {
        let mut work = db.store().read(&scope).await.expect("a unit of work");
        assert_eq!(numbers(&work.audit().page(&all()).await.expect("read")), expected, "{scope:?}");
    }
}

pub(super) async fn appends_at_once_make_one_chain(mut db: Db) {
    let tasks: Vec<_> = (0..40)
        .map(|number| {
            let store = Arc::clone(db.store());
            let scope = Scope::verified("acme", if number % 2 == 0 { "web" } else { "other" });
            tokio::spawn(async move { append(store.as_ref(), &scope, &event(number)).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("joined");
    }
    for _ in 0..2 {
        let entries = chain(&db, "acme").await;
        assert_eq!(numbers(&entries), (1..=40).collect::<Vec<_>>());
        let mut nonces: Vec<_> = entries.iter().filter_map(|entry| entry.nonce).map(|nonce| nonce[0]).collect();
        nonces.sort_unstable();
        assert_eq!(nonces, (0..40).collect::<Vec<_>>(), "each once");
        assert_eq!(page(&db, all()).await.len(), 20);
        db.reopen().await;
    }
}

pub(super) async fn a_dropped_unit_leaves_no_gap(db: Db) {
    append(db.store().as_ref(), &home(), &event(1)).await;
    let mut work = db.begin().await;
    work.audit().append(&event(2)).await.expect("appended");
    assert_eq!(work.audit().head().await.expect("read").sequence, 2, "inside the unit it is there");
    drop(work);
    append(db.store().as_ref(), &home(), &event(3)).await;
    let entries = chain(&db, "acme").await;
    assert_eq!(entries.iter().map(|entry| entry.at).collect::<Vec<_>>(), [at(1), at(3)]);
}

pub(super) async fn tenants_with_a_log_are_listed(db: Db) {
    let listed = async |after: Option<&str>, limit| db.store().audited_tenants(after, limit).await.expect("read");
    assert_eq!(listed(None, 9).await, [""; 0]);
    for tenant in ["b", "a", "B", "a.b"] {
        append(db.store().as_ref(), &Scope::verified(tenant, "p"), &event(1)).await;
        append(db.store().as_ref(), &Scope::verified(tenant, "q"), &event(2)).await;
    }
    assert_eq!(listed(None, 9).await, ["B", "a", "a.b", "b"], "in the order of their bytes");
    assert_eq!(listed(None, 2).await, ["B", "a"]);
    assert_eq!(listed(Some("a"), 9).await, ["a.b", "b"]);
    assert_eq!(listed(Some("z"), 9).await, [""; 0]);
}
