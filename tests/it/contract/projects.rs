//! Projects of a tenant.

use std::sync::Arc;

use engramia::domain::Scope;
use engramia::store::{Registration, Store};

use super::{Db, at, home};

/// Registers the project of a scope, and keeps it if it was made.
async fn register(store: &dyn Store, scope: &Scope, most: Option<u32>) -> Registration {
    let mut work = store.begin(scope).await.expect("a unit of work");
    let registered = work.projects().register("a name", most, at(0)).await.expect("no failure");
    if registered == Registration::Made {
        work.commit().await.expect("committed");
    }
    registered
}

async fn is_known(db: &Db, scope: &Scope) -> bool {
    db.store().read(scope).await.expect("a unit of work").projects().is_known().await.expect("read")
}

fn project(name: &str) -> Scope {
    Scope::verified("acme", name)
}

pub(super) async fn a_project_is_registered_once(mut db: Db) {
    let store = Arc::clone(db.store());
    assert!(!is_known(&db, &home()).await);
    assert_eq!(register(store.as_ref(), &home(), None).await, Registration::Made);
    assert_eq!(register(store.as_ref(), &home(), None).await, Registration::Known);
    let twin = Scope::verified("other", home().project());
    assert!(!is_known(&db, &twin).await, "of another tenant");
    assert_eq!(register(store.as_ref(), &twin, None).await, Registration::Made);
    assert_eq!(register(store.as_ref(), &project("second"), None).await, Registration::Made);
    drop(store);
    db.reopen().await;
    for (scope, known) in [(home(), true), (twin, true), (project("second"), true), (project("third"), false)] {
        assert_eq!(is_known(&db, &scope).await, known, "{scope:?}");
    }
    let mut work = db.begin().await;
    assert!(work.projects().is_known().await.expect("read"), "a unit that writes may ask too");
}

pub(super) async fn a_full_tenant_gets_no_more(db: Db) {
    let store = db.store().as_ref();
    for name in ["one", "two"] {
        assert_eq!(register(store, &project(name), Some(2)).await, Registration::Made);
    }
    assert_eq!(register(store, &project("three"), Some(2)).await, Registration::Full { current: 2 });
    assert_eq!(register(store, &project("three"), Some(1)).await, Registration::Full { current: 2 });
    assert!(!is_known(&db, &project("three")).await);
    assert_eq!(register(store, &project("one"), Some(2)).await, Registration::Known, "what is there stays");
    assert_eq!(register(store, &Scope::verified("other", "three"), Some(1)).await, Registration::Made);
    assert_eq!(register(store, &project("three"), Some(3)).await, Registration::Made);
}

pub(super) async fn many_at_once_never_exceed_the_limit(db: Db) {
    let tasks: Vec<_> = (0..12)
        .map(|number| {
            let store = Arc::clone(db.store());
            // Each twice.
            let scope = project(&format!("p{}", number / 2));
            tokio::spawn(async move { register(store.as_ref(), &scope, Some(3)).await })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += usize::from(task.await.expect("joined") == Registration::Made);
    }
    assert_eq!(made, 3);
    let mut known = 0;
    for number in 0..6 {
        known += usize::from(is_known(&db, &project(&format!("p{number}"))).await);
    }
    assert_eq!(known, 3);
}

pub(super) async fn a_project_of_a_dropped_unit_is_gone(db: Db) {
    let mut work = db.begin().await;
    assert_eq!(work.projects().register("a name", Some(1), at(0)).await.expect("no failure"), Registration::Made);
    assert!(work.projects().is_known().await.expect("read"), "inside the unit it is there");
    drop(work);
    assert!(!is_known(&db, &home()).await);
    assert_eq!(register(db.store().as_ref(), &project("other"), Some(1)).await, Registration::Made);
}
