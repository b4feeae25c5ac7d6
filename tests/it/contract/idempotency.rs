//! Requests that may be repeated: who gets a place, and for how long.

use std::sync::Arc;

use engramia::domain::Scope;
use engramia::store::idempotency::{Application, Hold, Place};

use super::{Db, at, home};

fn hold(name: u8, holder: &str) -> Hold {
    Hold { name: [name; 32], holder: holder.into() }
}

/// Somebody asks at a second for a minute at most, and holds it for ten seconds.
fn application(hold: Hold, request: u8, seconds: i64) -> Application {
    let (now, lease_until, expires_at) = (at(seconds), at(seconds + 10), at(seconds + 60));
    Application { hold, request: [request; 32], now, lease_until, expires_at }
}

async fn take_in(db: &Db, scope: &Scope, application: Application) -> Place {
    db.store().repeatable().take(scope, &application).await.expect("no failure")
}

async fn take(db: &Db, application: Application) -> Place {
    take_in(db, &home(), application).await
}

async fn keep(db: &Db, hold: &Hold, answer: Option<&[u8]>) {
    db.store().repeatable().keep(&home(), hold, answer).await.expect("no failure");
}

pub(super) async fn a_place_is_held_then_answered_for_its_time(mut db: Db) {
    let first = hold(1, "a");
    assert_eq!(take(&db, application(first.clone(), 7, 0)).await, Place::Free);
    assert_eq!(take(&db, application(hold(1, "b"), 7, 1)).await, Place::Held);
    assert_eq!(take(&db, application(hold(1, "b"), 8, 1)).await, Place::Taken);
    assert_eq!(take(&db, application(hold(2, "b"), 8, 1)).await, Place::Free, "another name");
    keep(&db, &first, Some(b"answer\0")).await;
    keep(&db, &first, Some(b"another answer")).await;
    db.store().repeatable().release(&home(), &first).await.expect("no failure");
    db.reopen().await;
    assert_eq!(take(&db, application(hold(1, "b"), 7, 59)).await, Place::Done(Some(b"answer\0".to_vec())));
    assert_eq!(take(&db, application(hold(1, "b"), 8, 59)).await, Place::Taken);
    keep(&db, &hold(1, "b"), Some(b"of nobody")).await;
    assert_eq!(take(&db, application(hold(1, "b"), 7, 59)).await, Place::Done(Some(b"answer\0".to_vec())));
    assert_eq!(take(&db, application(hold(1, "b"), 8, 60)).await, Place::Free, "its time is over");
    keep(&db, &hold(1, "b"), None).await;
    assert_eq!(take(&db, application(hold(1, "c"), 8, 61)).await, Place::Done(None), "the old answer is gone");
}

pub(super) async fn a_lease_that_is_over_opens_the_place(db: Db) {
    let lost = hold(1, "lost");
    assert_eq!(take(&db, application(lost.clone(), 7, 0)).await, Place::Free);
    db.store().repeatable().renew(&home(), &lost, at(15)).await.expect("no failure");
    assert_eq!(take(&db, application(hold(1, "next"), 7, 14)).await, Place::Held);
    assert_eq!(take(&db, application(hold(1, "next"), 7, 15)).await, Place::Free);
    // Whoever was believed lost changes nothing any more.
    db.store().repeatable().renew(&home(), &lost, at(50)).await.expect("no failure");
    db.store().repeatable().release(&home(), &lost).await.expect("no failure");
    keep(&db, &lost, Some(b"late")).await;
    assert_eq!(take(&db, application(hold(1, "third"), 7, 24)).await, Place::Held);
    keep(&db, &hold(1, "next"), Some(b"in time")).await;
    assert_eq!(take(&db, application(hold(1, "third"), 7, 40)).await, Place::Done(Some(b"in time".to_vec())));
}

pub(super) async fn a_place_that_is_given_back_is_free(db: Db) {
    assert_eq!(take(&db, application(hold(1, "a"), 7, 0)).await, Place::Free);
    db.store().repeatable().release(&home(), &hold(1, "b")).await.expect("no failure");
    assert_eq!(take(&db, application(hold(1, "b"), 7, 1)).await, Place::Held);
    db.store().repeatable().release(&home(), &hold(1, "a")).await.expect("no failure");
    assert_eq!(take(&db, application(hold(1, "b"), 8, 1)).await, Place::Free);
}

pub(super) async fn of_many_at_once_one_gets_the_place(db: Db) {
    for round in 0..3 {
        let tasks = (0..100).map(|number| {
            let store = Arc::clone(db.store());
            tokio::spawn(async move {
                let application = application(hold(round, &number.to_string()), 7, 0);
                store.repeatable().take(&home(), &application).await.expect("no failure")
            })
        });
        let places = futures_util::future::join_all(tasks.collect::<Vec<_>>()).await;
        let free = places.into_iter().filter(|place| *place.as_ref().expect("no panic") == Place::Free).count();
        assert_eq!(free, 1);
    }
}

pub(super) async fn places_of_other_scopes_are_others(db: Db) {
    for scope in [home(), Scope::verified("acme", "other"), Scope::verified("other", "web")] {
        assert_eq!(take_in(&db, &scope, application(hold(1, scope.tenant()), 7, 0)).await, Place::Free);
    }
    db.store().repeatable().release(&Scope::verified("acme", "other"), &hold(1, "acme")).await.expect("no failure");
    assert_eq!(take(&db, application(hold(1, "x"), 7, 1)).await, Place::Held);
}

pub(super) async fn places_whose_time_is_over_are_forgotten(db: Db) {
    for name in 0..5 {
        assert_eq!(take(&db, application(hold(name, "a"), 7, i64::from(name))).await, Place::Free);
    }
    keep(&db, &hold(0, "a"), Some(b"answer")).await;
    let forget = async |seconds, limit| db.store().repeatable().forget(at(seconds), limit).await.expect("no failure");
    assert_eq!(forget(59, 9).await, 0);
    assert_eq!(forget(63, 3).await, 3);
    assert_eq!(forget(63, 3).await, 1);
    assert_eq!(forget(63, 3).await, 0);
    let late = Application { now: at(5), ..application(hold(4, "b"), 7, 5) };
    assert_eq!(take(&db, late).await, Place::Held, "its time is not over");
}
