//! Capability tags.

use engramia::domain::{PatternId, Skill};

use super::{Db, at, key, pattern};

fn tags(words: &[&str]) -> Vec<Skill> {
    Skill::distinct(words.iter().copied())
}

async fn set(db: &Db, id: PatternId, words: &[&str], seconds: i64) {
    let mut work = db.begin().await;
    work.skills().set(id, &tags(words), at(seconds)).await.expect("tagged");
    work.commit().await.expect("committed");
}

async fn search(db: &Db, words: &[&str], all: bool, limit: u32) -> Vec<PatternId> {
    db.read().await.skills().search(&tags(words), all, limit).await.expect("read")
}

pub(super) async fn tags_are_replaced_and_counted(mut db: Db) {
    let id = db.insert(&pattern("a", "task"), None).await;
    for words in [&["csv", "stats", "žluť"][..], &["csv"], &[], &["json", "stats"]] {
        set(&db, id, words, 0).await;
        assert_eq!(db.read().await.skills().count(id).await.expect("read"), words.len());
    }
    assert_eq!(search(&db, &["csv"], true, 9).await, []);
    db.reopen().await;
    assert_eq!(search(&db, &["json"], true, 9).await, [id]);
    assert_eq!(db.read().await.skills().count(PatternId(999)).await.expect("read"), 0);
}

pub(super) async fn tags_are_searched(db: Db) {
    let a = db.insert(&pattern("a", "task"), None).await;
    let b = db.insert(&pattern("b", "task"), None).await;
    let c = db.insert(&pattern("c", "task"), None).await;
    set(&db, c, &["csv", "stats"], 1).await;
    set(&db, a, &["csv"], 2).await;
    set(&db, b, &["csv", "stats", "json"], 2).await;
    assert_eq!(search(&db, &["csv"], true, 9).await, [c, a, b], "in order of registration, then of ids");
    assert_eq!(search(&db, &["stats", "csv"], true, 9).await, [c, b]);
    assert_eq!(search(&db, &["stats", "json"], false, 9).await, [c, b]);
    assert_eq!(search(&db, &["stats", "missing"], true, 9).await, []);
    assert_eq!(search(&db, &["stats", "missing"], false, 9).await, [c, b]);
    assert_eq!(search(&db, &["csv"], true, 2).await, [c, a]);
    assert_eq!(search(&db, &[], true, 9).await, []);
    assert_eq!(search(&db, &[], false, 9).await, []);
    assert_eq!(search(&db, &["cs"], false, 9).await, [], "whole tags only");
    set(&db, c, &["csv"], 3).await;
    assert_eq!(search(&db, &["csv"], true, 9).await, [a, b, c], "tagged anew is registered anew");
}

pub(super) async fn tags_of_what_is_gone(db: Db) {
    let id = db.insert(&pattern("a", "task"), None).await;
    set(&db, id, &["csv"], 0).await;
    let mut work = db.begin().await;
    work.patterns().delete(&key("a")).await.expect("deleted");
    work.skills().set(id, &tags(&["csv"]), at(0)).await.expect("nothing to tag");
    work.commit().await.expect("committed");
    assert_eq!(search(&db, &["csv"], false, 9).await, []);
    assert_eq!(db.read().await.skills().count(id).await.expect("read"), 0);
}
