//! What was learned and recalled, and its roll-ups.

use engramia::domain::analytics::{Event, Rollup, Window};
use engramia::domain::{ReuseTier, Scope, Timestamp};

use super::{Db, at, key};

fn learned(id: &str, seconds: i64) -> Event {
    Event::learned(id.into(), at(seconds), 8.123_456, key("x"))
}

async fn append(db: &Db, events: &[Event]) {
    let mut work = db.begin().await;
    work.analytics().append(events).await.expect("appended");
    work.commit().await.expect("committed");
}

async fn newest(db: &Db, since: Option<Timestamp>, limit: u32) -> Vec<String> {
    let found = db.read().await.analytics().newest(since, limit).await.expect("read");
    found.into_iter().map(|event| event.id).collect()
}

async fn total(db: &Db, since: Option<Timestamp>) -> u64 {
    db.read().await.analytics().total(since).await.expect("read")
}

pub(super) async fn events_come_newest_first(mut db: Db) {
    assert_eq!((newest(&db, None, 9).await, total(&db, None).await), (Vec::<String>::new(), 0));
    append(&db, &[]).await;
    let best = Some((0.123_456, ReuseTier::Adapt, key("y")));
    let events = [learned("a", 5), Event::recalled("b".into(), at(7), best), Event::recalled("c".into(), at(7), None)];
    append(&db, &events).await;
    append(&db, &[learned("d", 1)]).await;
    db.reopen().await;
    assert_eq!(newest(&db, None, 9).await, ["c", "b", "a", "d"], "ties by id");
    assert_eq!(newest(&db, None, 2).await, ["c", "b"]);
    assert_eq!(newest(&db, Some(at(5)), 9).await, ["c", "b", "a"], "from this time on");
    assert_eq!((total(&db, None).await, total(&db, Some(at(6))).await), (4, 2));
    let mut found = db.read().await.analytics().newest(Some(at(5)), 9).await.expect("read");
    found.reverse();
    assert_eq!(found, events, "every field");
    let mut elsewhere = db.store().read(&Scope::verified("acme", "other")).await.expect("a unit of work");
    assert_eq!(elsewhere.analytics().total(None).await.expect("read"), 0);
}

pub(super) async fn an_event_is_appended_once(db: Db) {
    append(&db, &[learned("a", 1)]).await;
    append(&db, &[learned("a", 1), learned("b", 1)]).await;
    assert_eq!(newest(&db, None, 9).await, ["b", "a"]);
    let mut work = db.begin().await;
    work.analytics().append(&[learned("c", 1)]).await.expect("appended");
    drop(work);
    assert_eq!(total(&db, None).await, 2, "dropped");
}

pub(super) async fn only_the_newest_events_stay(db: Db) {
    let events: Vec<Event> = (0..40).map(|n| learned(&format!("{n:02}"), n / 4)).collect();
    append(&db, &events).await;
    for (keep, left) in [(50, 40), (40, 40), (7, 7), (7, 7), (0, 0)] {
        let mut work = db.begin().await;
        work.analytics().trim(keep).await.expect("trimmed");
        work.commit().await.expect("committed");
        let kept = newest(&db, None, 99).await;
        let expected: Vec<String> = events.iter().rev().take(left).map(|event| event.id.clone()).collect();
        assert_eq!(kept, expected);
    }
}

pub(super) async fn the_last_rollup_stays(mut db: Db) {
    let of = async |db: &Db, window| db.read().await.analytics().rollup(window).await.expect("read");
    assert_eq!(of(&db, Window::Daily).await, None);
    let events = [learned("a", 1), Event::recalled("b".into(), at(2), Some((1.0, ReuseTier::Duplicate, key("x"))))];
    let (first, second) = (Rollup::of(Window::Daily, &events[..1], at(3)), Rollup::of(Window::Daily, &events, at(4)));
    for rollup in [&first, &second] {
        let mut work = db.begin().await;
        work.analytics().put_rollup(rollup).await.expect("stored");
        work.commit().await.expect("committed");
        db.reopen().await;
        assert_eq!(of(&db, Window::Daily).await.as_ref(), Some(rollup));
    }
    assert_eq!(of(&db, Window::Hourly).await, None, "each window has its own");
}
