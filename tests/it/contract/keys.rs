//! API keys.

use engramia::domain::{Role, Scope};
use engramia::store::ApiKey;

use super::{Db, at};

fn key(number: u8) -> ApiKey {
    ApiKey {
        id: format!("00000000-0000-7000-8000-0000000000{number:02}"),
        scope: Scope::verified("acme", "web"),
        name: "Owner 'key'".into(),
        prefix: "engramia_sk_abc".into(),
        hash: [number; 32],
        role: Role::Editor,
        created_at: at(i64::from(number)),
    }
}

pub(super) async fn a_key_is_found_by_its_hash(mut db: Db) {
    assert!(!db.store().api_keys().any().await.expect("read"));
    assert!(db.store().api_keys().find(&[1; 32]).await.expect("read").is_none());
    assert!(db.store().api_keys().insert_first(&key(1)).await.expect("stored"));
    for _ in 0..2 {
        let keys = db.store().api_keys();
        assert!(keys.any().await.expect("read"));
        let found = keys.find(&[1; 32]).await.expect("read").expect("there");
        assert_eq!(format!("{found:?}"), format!("{:?}", key(1)));
        assert!(keys.find(&[0; 32]).await.expect("read").is_none());
        db.reopen().await;
    }
}

pub(super) async fn only_one_key_is_the_first(db: Db) {
    let tasks: Vec<_> = (1..=8)
        .map(|number| {
            let store = std::sync::Arc::clone(db.store());
            tokio::spawn(async move { store.api_keys().insert_first(&key(number)).await.expect("no failure") })
        })
        .collect();
    let mut first = 0;
    for task in tasks {
        first += usize::from(task.await.expect("joined"));
    }
    assert_eq!(first, 1);
    let mut found = 0;
    for number in 1..=8 {
        found += usize::from(db.store().api_keys().find(&[number; 32]).await.expect("read").is_some());
    }
    assert_eq!(found, 1);
    assert!(!db.store().api_keys().insert_first(&key(9)).await.expect("no failure"));
}
