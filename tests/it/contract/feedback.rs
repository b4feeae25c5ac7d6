//! Recurring issues.

use engramia::domain::{Feedback, Scope};

use super::{Db, at};

pub(super) fn issue(text: &str, count: u32, score: f64) -> Feedback {
    let late = at(7) + chrono::Duration::microseconds(1);
    Feedback { text: text.into(), count, score, last_seen: at(5), decayed_at: late }
}

async fn replace(db: &Db, issues: &[Feedback]) {
    let mut work = db.begin().await;
    work.feedback().replace(issues).await.expect("replaced");
    work.commit().await.expect("committed");
}

async fn all(db: &Db) -> Vec<Feedback> {
    db.read().await.feedback().all().await.expect("read")
}

async fn top(db: &Db, least: u32, containing: Option<&str>, offset: u32, limit: u32) -> Vec<String> {
    let found = db.read().await.feedback().top(least, containing, offset, limit).await.expect("read");
    found.into_iter().map(|issue| issue.text).collect()
}

pub(super) async fn issues_are_replaced(mut db: Db) {
    assert_eq!(all(&db).await, []);
    let issues = [issue("Add error handling", 3, 0.7), issue("Check \"inputs\"; drop table", 1, 0.125)];
    replace(&db, &issues).await;
    assert_eq!(all(&db).await, issues);
    db.reopen().await;
    assert_eq!(all(&db).await, issues);
    replace(&db, &issues[1..]).await;
    assert_eq!(all(&db).await, issues[1..]);
    let mut elsewhere = db.store().begin(&Scope::verified("acme", "other")).await.expect("a unit of work");
    elsewhere.feedback().replace(&[]).await.expect("replaced");
    elsewhere.commit().await.expect("committed");
    assert_eq!(all(&db).await.len(), 1, "the other scope has none");
    let mut work = db.begin().await;
    work.feedback().replace(&[]).await.expect("replaced");
    drop(work);
    assert_eq!(all(&db).await.len(), 1, "dropped");
    replace(&db, &[]).await;
    assert_eq!(all(&db).await, []);
}

pub(super) async fn the_top_is_ordered_and_bounded(db: Db) {
    let issues = [
        issue("once", 1, 1.0),
        issue("twice", 2, 0.5),
        issue("often but old", 9, 0.1),
        issue("best", 4, 0.9),
        issue("also twice", 2, 0.5),
    ];
    replace(&db, &issues).await;
    assert_eq!(top(&db, 2, None, 0, 9).await, ["best", "also twice", "twice", "often but old"], "ties by text");
    assert_eq!(top(&db, 2, None, 1, 2).await, ["also twice", "twice"]);
    assert_eq!(top(&db, 2, None, 9, 2).await, [""; 0]);
    assert_eq!(top(&db, 0, None, 0, 0).await, [""; 0]);
    assert_eq!(top(&db, 1, Some("once"), 0, 9).await, ["once"]);
    assert_eq!(top(&db, 2, Some("twice"), 1, 9).await, ["twice"], "the filter comes before the page");
}

pub(super) async fn any_case_is_contained(db: Db) {
    replace(&db, &[issue("Add 100% ERROR_handling", 2, 0.5), issue("Žluťoučký kůň", 2, 0.4)]).await;
    for found in ["error_", "100%", "ADD", ""] {
        assert_eq!(top(&db, 2, Some(found), 0, 9).await[0], "Add 100% ERROR_handling", "{found}");
    }
    for absent in ["error%", "addx", "%", "_h_"].into_iter().filter(|text| *text != "%") {
        assert_eq!(top(&db, 2, Some(absent), 0, 9).await, [""; 0], "{absent}");
    }
    assert_eq!(top(&db, 2, Some("%"), 0, 9).await.len(), 1, "no wildcard");
    assert_eq!(top(&db, 2, Some("žLUŤ"), 0, 9).await, ["Žluťoučký kůň"]);
}
