//! API keys.

use std::sync::Arc;

use engramia::domain::{Role, Scope};
use engramia::store::{ApiKey, Store};

use super::{Db, at, home};

fn key(number: u8) -> ApiKey {
    ApiKey {
        id: format!("00000000-0000-7000-8000-0000000000{number:02}"),
        scope: home(),
        name: "Owner 'key'".into(),
        prefix: "engramia_sk_abc...".into(),
        hash: [number; 32],
        role: Role::Editor,
        max_patterns: None,
        created_at: at(i64::from(number)),
        last_used_at: None,
        revoked_at: None,
        expires_at: None,
    }
}

/// With everything that may be absent.
fn full_key(number: u8) -> ApiKey {
    ApiKey {
        max_patterns: Some(1_000_000),
        last_used_at: Some(at(5)),
        revoked_at: Some(at(6)),
        expires_at: Some(at(7)),
        ..key(number)
    }
}

/// Whether the key was the first.
async fn insert_first(store: &dyn Store, key: &ApiKey) -> bool {
    let mut work = store.begin(&key.scope).await.expect("a unit of work");
    let first = work.keys().insert_first(key).await.expect("no failure");
    if first {
        work.commit().await.expect("committed");
    }
    first
}

async fn insert(db: &Db, key: &ApiKey) {
    let mut work = db.store().begin(&key.scope).await.expect("a unit of work");
    work.keys().insert(key).await.expect("stored");
    work.commit().await.expect("committed");
}

async fn find(db: &Db, hash: u8) -> Option<ApiKey> {
    db.store().api_keys().find(&[hash; 32]).await.expect("read")
}

pub(super) async fn a_key_is_found_by_its_hash(mut db: Db) {
    assert!(!db.store().api_keys().any().await.expect("read"));
    assert_eq!(find(&db, 1).await, None);
    insert(&db, &key(1)).await;
    insert(&db, &full_key(2)).await;
    for _ in 0..2 {
        assert!(db.store().api_keys().any().await.expect("read"));
        assert_eq!(find(&db, 1).await, Some(key(1)));
        assert_eq!(find(&db, 2).await, Some(full_key(2)), "in whatever state");
        assert_eq!(find(&db, 0).await, None);
        let mut work = db.read().await;
        assert_eq!(work.keys().get(&key(2).id).await.expect("read"), Some(full_key(2)));
        assert_eq!(work.keys().get(&key(3).id).await.expect("read"), None);
        drop(work);
        db.reopen().await;
    }
    let mut work = db.begin().await;
    let twin = ApiKey { hash: [1; 32], ..key(3) };
    assert!(work.keys().insert(&twin).await.is_err(), "a hash belongs to one key");
}

pub(super) async fn only_one_key_is_the_first(db: Db) {
    let tasks: Vec<_> = (1..=8)
        .map(|number| {
            let store = Arc::clone(db.store());
            let scope = Scope::verified(&format!("tenant{number}"), "web");
            tokio::spawn(async move { insert_first(store.as_ref(), &ApiKey { scope, ..key(number) }).await })
        })
        .collect();
    let mut first = 0;
    for task in tasks {
        first += usize::from(task.await.expect("joined"));
    }
    assert_eq!(first, 1);
    let mut found = 0;
    for number in 1..=8 {
        found += usize::from(find(&db, number).await.is_some());
    }
    assert_eq!(found, 1);
    assert!(!insert_first(db.store().as_ref(), &key(9)).await);
}

pub(super) async fn keys_are_listed_by_project(db: Db) {
    let scopes = [Scope::verified("acme", "other"), Scope::verified("other", "web")];
    for (number, scope) in (11..).zip(&scopes) {
        insert(&db, &ApiKey { scope: scope.clone(), ..key(number) }).await;
    }
    for number in [2, 3, 1] {
        insert(&db, &full_key(number)).await;
    }
    let listed = db.read().await.keys().list().await.expect("read");
    assert_eq!(listed, [full_key(3), full_key(2), full_key(1)], "the newest first, revoked ones too");
    for (number, scope) in (11..).zip(&scopes) {
        let mut work = db.store().read(scope).await.expect("a unit of work");
        assert_eq!(work.keys().list().await.expect("read"), [ApiKey { scope: scope.clone(), ..key(number) }]);
        assert_eq!(work.keys().get(&key(1).id).await.expect("read"), None, "of another project");
    }
}

/// A scope that must not change the keys of [`home`].
fn stranger() -> Scope {
    Scope::verified("acme", "stranger")
}

pub(super) async fn a_revoked_key_stays_and_says_so(mut db: Db) {
    insert(&db, &key(1)).await;
    let mut work = db.store().begin(&stranger()).await.expect("a unit of work");
    work.keys().revoke(&key(1).id, at(50)).await.expect("nothing to revoke");
    work.commit().await.expect("committed");
    assert_eq!(find(&db, 1).await, Some(key(1)));

    let mut work = db.begin().await;
    assert_eq!(work.keys().get(&key(1).id).await.expect("read"), Some(key(1)));
    work.keys().revoke(&key(1).id, at(60)).await.expect("revoked");
    work.keys().revoke(&key(2).id, at(60)).await.expect("an unknown id is skipped");
    work.commit().await.expect("committed");
    db.reopen().await;
    assert_eq!(find(&db, 1).await, Some(ApiKey { revoked_at: Some(at(60)), ..key(1) }));
    assert!(!insert_first(db.store().as_ref(), &key(2)).await, "a revoked key is a key");
}

pub(super) async fn a_rotated_key_has_another_hash(mut db: Db) {
    insert(&db, &full_key(1)).await;
    let mut work = db.store().begin(&stranger()).await.expect("a unit of work");
    work.keys().rotate(&key(1).id, "stolen", &[9; 32]).await.expect("nothing to rotate");
    work.commit().await.expect("committed");
    assert_eq!(find(&db, 9).await, None);

    let mut work = db.begin().await;
    work.keys().rotate(&key(1).id, "new...", &[2; 32]).await.expect("rotated");
    work.keys().rotate(&key(3).id, "new...", &[3; 32]).await.expect("an unknown id is skipped");
    work.commit().await.expect("committed");
    db.reopen().await;
    assert_eq!(find(&db, 1).await, None);
    let rotated = ApiKey { hash: [2; 32], prefix: "new...".into(), last_used_at: None, ..full_key(1) };
    assert_eq!(find(&db, 2).await, Some(rotated));
}

pub(super) async fn uses_are_noted_and_never_moved_back(mut db: Db) {
    let elsewhere = ApiKey { scope: Scope::verified("other", "there"), ..key(2) };
    insert(&db, &key(1)).await;
    insert(&db, &elsewhere).await;
    let used = |seconds: i64| {
        let ids = [key(1).id, "00000000-0000-7000-8000-000000000099".to_owned(), elsewhere.id.clone()];
        ids.map(|id| (id, at(seconds)))
    };
    for (seconds, expected) in [(100, 100), (50, 100), (100, 100), (150, 150)] {
        db.store().api_keys().touch(&used(seconds)).await.expect("noted");
        assert_eq!(find(&db, 1).await.expect("there").last_used_at, Some(at(expected)));
        assert_eq!(find(&db, 2).await.expect("there").last_used_at, Some(at(expected)), "in any scope");
    }
    db.store().api_keys().touch(&[]).await.expect("nothing to note");
    db.reopen().await;
    assert_eq!(find(&db, 1).await, Some(ApiKey { last_used_at: Some(at(150)), ..key(1) }));
}

pub(super) async fn a_key_of_a_dropped_unit_is_gone(db: Db) {
    let mut work = db.begin().await;
    assert!(work.keys().insert_first(&key(1)).await.expect("no failure"));
    drop(work);
    let mut work = db.begin().await;
    work.keys().insert(&key(2)).await.expect("stored");
    drop(work);
    assert!(!db.store().api_keys().any().await.expect("read"));
    assert!(insert_first(db.store().as_ref(), &key(3)).await);
}
