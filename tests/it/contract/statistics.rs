//! Counters of a scope, and their sums.

use engramia::domain::Scope;
use engramia::store::Totals;
use engramia::store::memory::ScopeStatistics;

use super::{Db, home, key, pattern};

async fn of(db: &Db, scope: &Scope) -> ScopeStatistics {
    let mut work = db.store().read(scope).await.expect("a unit of work");
    work.statistics().get().await.expect("read")
}

async fn count_runs(db: &Db, scope: &Scope, runs: u64, successes: u64, scores: &[f64]) {
    let mut work = db.store().begin(scope).await.expect("a unit of work");
    work.statistics().count_runs(runs, successes, scores).await.expect("counted");
    work.commit().await.expect("committed");
}

pub(super) async fn counters_add_up(mut db: Db) {
    assert_eq!(of(&db, &home()).await, ScopeStatistics::default(), "zeros without rows");
    count_runs(&db, &home(), 1, 1, &[8.25]).await;
    count_runs(&db, &home(), 3, 2, &[]).await;
    let mut work = db.begin().await;
    work.statistics().count_recalls(5, 4).await.expect("counted");
    work.statistics().count_recalls(2, 0).await.expect("counted");
    assert_eq!(work.statistics().get().await.expect("read").recalls, 7, "a unit of work sees its own");
    work.commit().await.expect("committed");
    for _ in 0..2 {
        let expected = ScopeStatistics {
            patterns: 0,
            runs: 4,
            successes: 3,
            recalls: 7,
            recall_hits: 4,
            recent_scores: vec![8.25],
        };
        assert_eq!(of(&db, &home()).await, expected);
        db.reopen().await;
    }
}

pub(super) async fn only_the_newest_scores_stay(db: Db) {
    let scores: Vec<f64> = (0..8).map(f64::from).collect();
    count_runs(&db, &home(), 8, 0, &scores).await;
    assert_eq!(of(&db, &home()).await.recent_scores, scores);
    count_runs(&db, &home(), 3, 0, &[8.0, 9.0, 10.0]).await;
    let newest: Vec<f64> = (1..=10).map(f64::from).collect();
    assert_eq!(of(&db, &home()).await.recent_scores, newest, "the oldest went first");
    assert_eq!(of(&db, &home()).await.average_score(), Some(5.5));
    let many: Vec<f64> = (0..25).map(|n| f64::from(n) / 4.0).collect();
    count_runs(&db, &home(), 25, 0, &many).await;
    assert_eq!(of(&db, &home()).await.recent_scores, many[15..]);
}

pub(super) async fn patterns_are_counted_with_their_rows(db: Db) {
    db.insert(&pattern("a", "task"), None).await;
    db.insert(&pattern("b", "task"), None).await;
    let mut work = db.begin().await;
    work.patterns().insert(&pattern("a", "taken"), None).await.expect("no failure");
    work.patterns().delete(&key("b")).await.expect("deleted");
    work.patterns().delete(&key("b")).await.expect("gone already");
    work.patterns().insert(&pattern("c", "task"), None).await.expect("inserted");
    assert_eq!(work.statistics().get().await.expect("read").patterns, 2);
    work.commit().await.expect("committed");
    assert_eq!(of(&db, &home()).await.patterns, 2);
    drop(db.begin().await.patterns().insert(&pattern("d", "dropped"), None).await);
    assert_eq!(of(&db, &home()).await.patterns, 2);
}

pub(super) async fn totals_cover_every_scope(db: Db) {
    assert_eq!(db.store().totals().await.expect("read"), Totals::default());
    let other = Scope::verified("other", "web");
    count_runs(&db, &home(), 2, 1, &[4.0, 5.0]).await;
    count_runs(&db, &other, 1, 1, &[9.0]).await;
    count_runs(&db, &Scope::verified("other", "unjudged"), 1, 0, &[]).await;
    db.insert(&pattern("a", "task"), None).await;
    db.insert_in(&other, &pattern("a", "task"), None).await;
    let mut work = db.begin().await;
    work.statistics().count_recalls(3, 2).await.expect("counted");
    work.commit().await.expect("committed");
    let expected = Totals {
        patterns: 2,
        runs: 4,
        successes: 2,
        recalls: 3,
        recall_hits: 2,
        average_score: Some((4.5 + 9.0) / 2.0),
        scored: 2,
        ann_recall: None,
    };
    assert_eq!(db.store().totals().await.expect("read"), expected);
}
