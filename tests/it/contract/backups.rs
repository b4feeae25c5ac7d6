//! Turns of what one of all servers does once in so long a time.

use chrono::TimeDelta;
use engramia::domain::Timestamp;
use engramia::store::backup::Due;

use super::{Db, at};

const DUE: Due = Due { every: TimeDelta::seconds(100), again: TimeDelta::seconds(10) };

async fn turn(db: &Db, now: Timestamp) -> bool {
    db.store().backups().take_turn("backup", DUE, now).await.expect("asked")
}

async fn ended(db: &Db) {
    db.store().backups().end_turn("backup").await.expect("ended");
}

pub(super) async fn a_turn_is_taken_once_in_its_time(db: Db) {
    assert!(turn(&db, at(0)).await, "the first one at once");
    ended(&db).await;
    for second in [0, 50, 99] {
        assert!(!turn(&db, at(second)).await, "{second}");
    }
    assert!(turn(&db, at(100)).await);
    ended(&db).await;
    // The clock of another server is a little behind, and that of a third one was far ahead.
    assert!(!turn(&db, at(99)).await);
    assert!(db.store().backups().take_turn("other", DUE, at(1_000)).await.expect("asked"));
    assert!(db.store().backups().take_turn("other", DUE, at(200)).await.expect("asked"));
}

pub(super) async fn a_turn_that_nobody_ended_is_due_again_soon(db: Db) {
    assert!(turn(&db, at(0)).await);
    assert!(!turn(&db, at(9)).await);
    assert!(turn(&db, at(10)).await);
    ended(&db).await;
    assert!(!turn(&db, at(20)).await);
}

pub(super) async fn of_many_at_once_one_has_the_turn(db: Db) {
    let asked = futures_util::future::join_all((0..8).map(|_| turn(&db, at(0)))).await;
    assert_eq!(asked.into_iter().filter(|taken| *taken).count(), 1);
}
