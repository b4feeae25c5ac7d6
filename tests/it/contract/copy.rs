//! Everything that a store holds, to be read and written as it is.

use engramia::domain::audit::{AuditAction, AuditEvent, ChainHead};
use engramia::domain::{EvidenceKind, Pattern, Role, Scope, Skill};
use engramia::ports::{Space, Vector};
use engramia::store::ApiKey;
use engramia::store::copy::{CarriedRow, Registered, WholePattern};
use engramia::store::memory::{Evaluation, ScopeStatistics};
use serde_json::Map;

use super::{Db, at, home, pattern, space, vector};

fn evaluation(number: u8) -> Evaluation {
    Evaluation {
        id: format!("0be2046e-0000-7000-8000-0000000000{number:02}"),
        kind: EvidenceKind::Evaluation,
        score: f64::from(number) / 3.0,
        weight: 0.5,
        run_id: (number == 2).then(|| "run \0 \u{E000}".to_owned()),
        note: (number == 1).then(|| "well done".to_owned()),
        at: at(i64::from(number)),
    }
}

pub(super) async fn whole_patterns_come_in_the_order_of_their_ids(db: Db) {
    let other = Vector { space: Space("test/other".into()), values: [0.1f32, -0.0, f32::MIN_POSITIVE].into() };
    let (mut last, plain) = (pattern("a", "the last one"), pattern("z", "the first one"));
    last.extra.data.insert("legacy".into(), serde_json::json!([1.5, null]));
    let skills = Skill::distinct(["csv", "stats"]);
    let mut work = db.begin().await;
    let first = work.patterns().insert(&plain, None).await.expect("inserted").expect("free");
    let second = work.patterns().insert(&last, Some(&other)).await.expect("inserted").expect("free");
    for number in [2, 1] {
        work.patterns().record_evaluation(second, &evaluation(number)).await.expect("recorded");
    }
    work.skills().set(second, &skills, at(7)).await.expect("set");
    work.patterns().count_reuse(&[(second, 3)]).await.expect("counted");
    work.commit().await.expect("committed");
    db.insert_in(&Scope::verified("acme", "other"), &pattern("x", "of another project"), None).await;

    last.reuse_count = 3;
    let expected = [
        WholePattern {
            pattern: Pattern { id: first, body: plain },
            vector: None,
            evaluations: Vec::new(),
            skills: Vec::new(),
            tagged_at: None,
        },
        WholePattern {
            pattern: Pattern { id: second, body: last },
            vector: Some(other.clone()),
            evaluations: vec![evaluation(1), evaluation(2)],
            skills,
            tagged_at: Some(at(7)),
        },
    ];
    let mut work = db.read().await;
    let found = work.copying().patterns(None, 10).await.expect("read");
    assert_eq!(found, expected);
    let bits = |vector: &Vector| vector.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(found[1].vector.as_ref().map(bits), Some(bits(&other)), "zero has a sign");
    assert_eq!(work.copying().patterns(None, 1).await.expect("read"), expected[..1]);
    assert_eq!(work.copying().patterns(Some(first), 1).await.expect("read"), expected[1..]);
    assert!(work.copying().patterns(Some(second), 1).await.expect("read").is_empty());
}

pub(super) async fn counters_are_set(db: Db) {
    db.insert(&pattern("a", "t"), None).await;
    let of = |runs: u64, recent_scores: Vec<f64>| ScopeStatistics {
        patterns: 1,
        runs,
        successes: 2,
        recalls: 3,
        recall_hits: 4,
        recent_scores,
    };
    for wanted in [of(9, vec![0.1, 9.75]), of(5, Vec::new())] {
        let mut work = db.begin().await;
        // Patterns are counted with their rows.
        work.copying().set_statistics(&ScopeStatistics { patterns: 77, ..wanted.clone() }).await.expect("set");
        work.commit().await.expect("committed");
        assert_eq!(db.read().await.statistics().get().await.expect("read"), wanted);
    }
}

pub(super) async fn keys_are_put_in_place(db: Db) {
    let mut key = ApiKey {
        id: "0be2046e-0000-7000-8000-000000000001".into(),
        scope: home(),
        name: "CI\0".into(),
        prefix: "engramia-01234567...".into(),
        hash: [7; 32],
        role: Role::Editor,
        max_patterns: Some(5),
        created_at: at(1),
        last_used_at: None,
        revoked_at: None,
        expires_at: Some(at(900)),
    };
    for change in 0..2 {
        if change == 1 {
            key = ApiKey { hash: [8; 32], role: Role::Reader, revoked_at: Some(at(3)), max_patterns: None, ..key };
        }
        let mut work = db.begin().await;
        work.copying().put_key(&key).await.expect("put");
        work.commit().await.expect("committed");
        assert_eq!(db.read().await.keys().list().await.expect("read"), [key.clone()]);
    }
    assert_eq!(db.store().api_keys().find(&[7; 32]).await.expect("read"), None);
    assert_eq!(db.store().api_keys().find(&[8; 32]).await.expect("read"), Some(key));
}

pub(super) async fn a_project_keeps_its_first_registration(db: Db) {
    assert_eq!(db.read().await.copying().registered().await.expect("read"), None);
    let named = |tenant: &str, seconds: i64| Registered {
        tenant_name: tenant.into(),
        tenant_created_at: at(seconds),
        name: "Web".into(),
        created_at: at(seconds + 1),
    };
    for tenant in ["Acme Corp", "Somebody else"] {
        let mut work = db.begin().await;
        work.copying().register(&named(tenant, tenant.len() as i64)).await.expect("registered");
        work.commit().await.expect("committed");
        assert_eq!(db.read().await.copying().registered().await.expect("read"), Some(named("Acme Corp", 9)));
    }
    assert!(db.read().await.projects().is_known().await.expect("read"));
}

pub(super) async fn entries_are_written_as_they_are(db: Db) {
    let event = |nonce: u8| AuditEvent {
        at: at(1),
        action: AuditAction::KeyCreated,
        actor: None,
        resource_type: None,
        resource_id: None,
        ip: Some("192.0.2.1".into()),
        detail: Map::new(),
        nonce: [nonce; 16],
    };
    for (project, nonce) in [("web", 1), ("api", 2)] {
        let mut work = db.store().begin(&Scope::verified("acme", project)).await.expect("a unit of work");
        work.audit().append(&event(nonce)).await.expect("appended");
        work.commit().await.expect("committed");
    }
    let mut work = db.read().await;
    let (mut entries, head) = (work.audit().chain(0, 9).await.expect("read"), work.audit().head().await.expect("read"));
    drop(work);
    // Scrubbed, and of another tenant's name: nothing is checked here.
    entries[0].ip = Some("[REDACTED]".into());
    entries[0].nonce = None;
    let other = Scope::verified("copy", "web");
    let mut work = db.store().begin(&other).await.expect("a unit of work");
    work.copying().put_entries(&entries[..1], &ChainHead::default()).await.expect("written");
    work.copying().put_entries(&entries[1..], &head).await.expect("written");
    work.commit().await.expect("committed");
    let mut work = db.store().read(&other).await.expect("a unit of work");
    assert_eq!(work.audit().chain(0, 9).await.expect("read"), entries);
    assert_eq!(work.audit().head().await.expect("read"), head);
    assert_eq!(db.store().audited_tenants(None, 9).await.expect("read"), ["acme", "copy"]);
}

pub(super) async fn carried_rows_are_kept_once(db: Db) {
    let row =
        |source: &str, id: &str, data: &str| CarriedRow { source: source.into(), id: id.into(), data: data.into() };
    let rows = [row("a", "1", "{}"), row("b", "1", "{\"n\": 1.50}"), row("b", "2", "[]")];
    let tenant = Scope::of_tenant("acme");
    for new in [3, 0] {
        let mut work = db.store().begin(&tenant).await.expect("a unit of work");
        assert_eq!(work.copying().put_carried(&rows).await.expect("put"), new);
        work.commit().await.expect("committed");
    }
    let mut work = db.store().begin(&tenant).await.expect("a unit of work");
    assert_eq!(work.copying().put_carried(&[row("a", "1", "other")]).await.expect("put"), 0, "the first one stays");
    assert_eq!(work.copying().carried(None, 2).await.expect("read"), rows[..2]);
    assert_eq!(work.copying().carried(Some(&rows[1]), 9).await.expect("read"), rows[2..]);
    drop(work);
    let mut other = db.store().read(&Scope::of_tenant("other")).await.expect("a unit of work");
    assert!(other.copying().carried(None, 9).await.expect("read").is_empty());
}

pub(super) async fn every_scope_is_listed(db: Db) {
    assert!(db.store().scopes(None, 9).await.expect("read").is_empty());
    let scopes = [("a", ""), ("a", "Z"), ("a", "b"), ("b", "a"), ("č", "x")].map(|(t, p)| Scope::verified(t, p));
    db.insert_in(&scopes[2], &pattern("x", "t"), None).await;
    for (number, scope) in scopes.iter().enumerate() {
        let mut work = db.store().begin(scope).await.expect("a unit of work");
        match number {
            0 => {
                let row = CarriedRow { source: "s".into(), id: "i".into(), data: "{}".into() };
                work.copying().put_carried(&[row]).await.expect("put");
            }
            1 => drop(work.projects().register("Z", None, at(0)).await.expect("registered")),
            2 => assert!(work.patterns().delete(&super::key("x")).await.expect("deleted"), "it stays listed"),
            3 => work.statistics().count_recalls(1, 0).await.expect("counted"),
            _ => work.feedback().put(&super::feedback::issue("t", 1, 0.5), None).await.expect("stored"),
        }
        work.commit().await.expect("committed");
    }
    assert_eq!(db.store().scopes(None, 9).await.expect("read"), scopes);
    assert_eq!(db.store().scopes(Some(&scopes[0]), 2).await.expect("read"), scopes[1..3]);
    assert!(db.store().scopes(scopes.last(), 9).await.expect("read").is_empty());
}

pub(super) async fn spaces_and_marks_are_listed(db: Db) {
    let inventory = db.store().inventory();
    let other = Space("another".into());
    db.insert(&pattern("x", "t"), Some(&vector(&[1.0, 0.0]))).await;
    for (space, dimensions) in [(&other, 3), (&other, 2), (&space(), 2), (&other, 3)] {
        inventory.add_space(space, dimensions).await.expect("made");
    }
    let expected = [(space(), 2), (other.clone(), 3), (other, 2)];
    assert_eq!(inventory.spaces().await.expect("read"), expected, "in the order in which they were made");
    for name in ["b", "a", "a"] {
        db.store().set_mark(name, at(name.len() as i64)).await.expect("set");
    }
    let mark = |name: &str| (name.to_owned(), at(1));
    assert_eq!(inventory.marks().await.expect("read"), [mark("a"), mark("b")]);
    for _ in 0..2 {
        inventory.remove_mark("a").await.expect("removed");
        assert_eq!(inventory.marks().await.expect("read"), [mark("b")]);
    }
}
