//! Recurring issues.

use engramia::domain::{Feedback, Ratings, Scope};
use engramia::ports::{Space, Vector};
use engramia::store::memory::IssueTask;

use super::{Db, angle, at, east};

pub(super) fn issue(text: &str, count: u32, score: f64) -> Feedback {
    let late = at(7) + chrono::Duration::microseconds(1);
    Feedback { text: text.into(), count, score, ratings: Ratings::default(), last_seen: at(5), decayed_at: late }
}

async fn put(db: &Db, issues: &[Feedback]) {
    let mut work = db.begin().await;
    for issue in issues {
        work.feedback().put(issue, None).await.expect("stored");
    }
    work.commit().await.expect("committed");
}

async fn all(db: &Db) -> Vec<Feedback> {
    db.read().await.feedback().all().await.expect("read")
}

async fn top(db: &Db, least: u32, containing: Option<&str>, offset: u32, limit: u32) -> Vec<String> {
    let found = db.read().await.feedback().top(least, containing, offset, limit).await.expect("read");
    found.into_iter().map(|issue| issue.text).collect()
}

pub(super) async fn issues_are_stored_by_their_text(mut db: Db) {
    assert_eq!(all(&db).await, []);
    let rated = Feedback { ratings: Ratings { count: 2, sum: 7.25 }, ..issue("Add error handling", 3, 0.7) };
    let issues = [rated, issue("Check \"inputs\"; drop table", 1, 0.125)];
    put(&db, &issues).await;
    assert_eq!(all(&db).await, issues);
    db.reopen().await;
    assert_eq!(all(&db).await, issues);
    let grown = Feedback { count: 4, ratings: Ratings { count: 3, sum: 9.5 }, ..issues[0].clone() };
    put(&db, std::slice::from_ref(&grown)).await;
    assert_eq!(all(&db).await, [grown, issues[1].clone()], "in place of the one with its text");
    let mut elsewhere = db.store().begin(&Scope::verified("acme", "other")).await.expect("a unit of work");
    assert!(!elsewhere.feedback().remove(&issues[1].text).await.expect("read"), "the other scope has none");
    elsewhere.commit().await.expect("committed");
    let mut work = db.begin().await;
    assert!(work.feedback().remove(&issues[1].text).await.expect("removed"));
    drop(work);
    assert_eq!(all(&db).await.len(), 2, "dropped");
    let mut work = db.begin().await;
    assert!(work.feedback().remove(&issues[1].text).await.expect("removed"));
    assert!(!work.feedback().remove(&issues[1].text).await.expect("none left"));
    work.commit().await.expect("committed");
    assert_eq!(all(&db).await.len(), 1);
}

fn task(text: &str, seconds: i64) -> IssueTask {
    IssueTask { text: text.into(), vector: None, seen_at: at(seconds) }
}

async fn tasks(db: &Db) -> Vec<(String, String)> {
    let found = db.read().await.feedback().tasks().await.expect("read");
    found.into_iter().map(|(issue, task)| (issue, task.text)).collect()
}

pub(super) async fn only_the_newest_tasks_of_an_issue_stay(db: Db) {
    put(&db, &[issue("a", 1, 0.5), issue("b", 1, 0.5)]).await;
    let mut work = db.begin().await;
    for n in 0..12 {
        work.feedback().note_tasks("a", &[task(&format!("task {n:02}"), n)]).await.expect("noted");
    }
    work.feedback().note_tasks("a", &[task("task 05", 20)]).await.expect("noted");
    work.feedback().note_tasks("b", &[task("task 00", 0), task("Another", 1)]).await.expect("noted");
    work.feedback().note_tasks("unknown", &[task("lost", 0)]).await.expect("skipped");
    work.commit().await.expect("committed");
    let of = async |issue: &str| {
        tasks(&db).await.into_iter().filter(|(of, _)| of == issue).map(|(_, task)| task).collect::<Vec<_>>()
    };
    let kept = of("a").await;
    assert_eq!(kept, ["task 05", "task 11", "task 10", "task 09", "task 08", "task 07", "task 06", "task 04"]);
    assert_eq!(of("b").await, ["Another", "task 00"]);
    assert_eq!(top(&db, 1, Some("ANOTHER"), 0, 9).await, ["b"], "an issue is found by its tasks");
    assert_eq!(top(&db, 1, Some("task 0"), 0, 9).await, ["a", "b"], "once");
    let mut work = db.begin().await;
    work.feedback().remove("a").await.expect("removed");
    work.commit().await.expect("committed");
    assert_eq!(tasks(&db).await.len(), 2, "its tasks went with it");
    put(&db, &[issue("a", 1, 0.5)]).await;
    assert_eq!(tasks(&db).await.len(), 2, "and do not come back");
}

pub(super) async fn vectors_stay_until_they_are_replaced(mut db: Db) {
    put(&db, &[issue("a", 1, 0.5), issue("b", 1, 0.5)]).await;
    let mut work = db.begin().await;
    work.feedback().put(&issue("a", 2, 0.5), Some(&angle(30.0))).await.expect("stored");
    work.feedback().put(&issue("a", 3, 0.5), None).await.expect("stored");
    let noted = IssueTask { vector: Some(angle(60.0)), ..task("t", 0) };
    work.feedback().note_tasks("a", std::slice::from_ref(&noted)).await.expect("noted");
    work.feedback().note_tasks("a", &[task("t", 3)]).await.expect("noted");
    work.feedback().attach("unknown", &east()).await.expect("skipped");
    work.commit().await.expect("committed");
    db.reopen().await;
    let mut work = db.read().await;
    assert_eq!(work.feedback().vectors().await.expect("read"), [("a".to_owned(), angle(30.0))]);
    let noted = IssueTask { seen_at: at(3), ..noted };
    assert_eq!(work.feedback().tasks().await.expect("read"), [("a".to_owned(), noted)]);
    drop(work);

    let other = Vector::normalized(Space("test/two".into()), vec![1.0, 2.0]).expect("a direction");
    let mut work = db.begin().await;
    work.feedback().attach("a", &other).await.expect("stored");
    work.feedback().attach("b", &east()).await.expect("stored");
    work.commit().await.expect("committed");
    let found = db.read().await.feedback().vectors().await.expect("read");
    assert_eq!(found, [("a".to_owned(), other), ("b".to_owned(), east())]);
}

pub(super) async fn the_top_is_ordered_and_bounded(db: Db) {
    let issues = [
        issue("once", 1, 1.0),
        issue("twice", 2, 0.5),
        issue("often but old", 9, 0.1),
        issue("best", 4, 0.9),
        issue("also twice", 2, 0.5),
    ];
    put(&db, &issues).await;
    assert_eq!(top(&db, 2, None, 0, 9).await, ["best", "also twice", "twice", "often but old"], "ties by text");
    assert_eq!(top(&db, 2, None, 1, 2).await, ["also twice", "twice"]);
    assert_eq!(top(&db, 2, None, 9, 2).await, [""; 0]);
    assert_eq!(top(&db, 0, None, 0, 0).await, [""; 0]);
    assert_eq!(top(&db, 1, Some("once"), 0, 9).await, ["once"]);
    assert_eq!(top(&db, 2, Some("twice"), 1, 9).await, ["twice"], "the filter comes before the page");
}

pub(super) async fn any_case_is_contained(db: Db) {
    put(&db, &[issue("Add 100% ERROR_handling", 2, 0.5), issue("Žluťoučký kůň", 2, 0.4)]).await;
    for found in ["error_", "100%", "ADD", ""] {
        assert_eq!(top(&db, 2, Some(found), 0, 9).await[0], "Add 100% ERROR_handling", "{found}");
    }
    for absent in ["error%", "addx", "%", "_h_"].into_iter().filter(|text| *text != "%") {
        assert_eq!(top(&db, 2, Some(absent), 0, 9).await, [""; 0], "{absent}");
    }
    assert_eq!(top(&db, 2, Some("%"), 0, 9).await.len(), 1, "no wildcard");
    assert_eq!(top(&db, 2, Some("žLUŤ"), 0, 9).await, ["Žluťoučký kůň"]);
}
