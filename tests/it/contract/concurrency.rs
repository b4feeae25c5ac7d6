//! Many units of work at once: group commit, cancellation, readers beside a writer.

use std::sync::Arc;
use std::time::Duration;

use engramia::domain::{PatternId, Scope};
use engramia::store::Store;
use tokio::sync::Barrier;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{Db, angle, east, home, key, pattern, query, vector};

/// Far longer than anything here takes, and less than a test may.
const LONG: Duration = Duration::from_secs(20);

/// Commits one pattern with a vector of its own.
async fn learn(store: &dyn Store, tail: &str) -> PatternId {
    let mut work = store.begin(&home()).await.expect("a unit of work");
    let number = tail.bytes().fold(1.0, |sum, byte| sum * 3.0 % 101.0 + f32::from(byte));
    let made = vector(&[number, 1.0, 2.0, 3.0]);
    let id = work.patterns().insert(&pattern(tail, tail), Some(&made)).await.expect("inserted").expect("a free key");
    work.statistics().count_runs(1, 1, &[5.0]).await.expect("counted");
    work.commit().await.expect("committed");
    id
}

fn spawn_learn(db: &Db, tail: String) -> JoinHandle<PatternId> {
    let store = Arc::clone(db.store());
    tokio::spawn(async move { learn(store.as_ref(), &tail).await })
}

/// Every id of the scope, as rows, as vectors, and as texts.
async fn everywhere(db: &Db) -> Vec<PatternId> {
    let mut work = db.read().await;
    let rows = work.patterns().page(None, 10_000).await.expect("read");
    let mut ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    let mut found: Vec<_> = work.patterns().nearest(&query(&east(), 10_000)).await.expect("searched");
    found.sort_unstable_by_key(|row| row.id);
    assert_eq!(found.iter().map(|row| row.id).collect::<Vec<_>>(), ids, "as many vectors as rows");
    for row in rows.iter().step_by(7) {
        assert_eq!(db.matching(&row.body.task).await, [row.id], "its text is found");
    }
    assert_eq!(work.statistics().get().await.expect("read").patterns, ids.len() as u64);
    ids
}

pub(super) async fn all_units_of_a_batch_are_durable(mut db: Db) {
    everywhere(&db).await;
    let tasks: Vec<_> = (0..100).map(|number| spawn_learn(&db, format!("p{number}"))).collect();
    let mut ids = Vec::new();
    for task in tasks {
        ids.push(timeout(LONG, task).await.expect("in time").expect("committed"));
    }
    ids.sort_unstable();
    for _ in 0..2 {
        assert_eq!(everywhere(&db).await, ids);
        assert_eq!(db.read().await.statistics().get().await.expect("read").runs, 100, "no update is lost");
        db.reopen().await;
    }
}

pub(super) async fn a_failed_unit_spares_the_others(mut db: Db) {
    let start = Arc::new(Barrier::new(60));
    let tasks: Vec<_> = (0..60)
        .map(|number| {
            let (store, start) = (Arc::clone(db.store()), Arc::clone(&start));
            tokio::spawn(async move {
                start.wait().await;
                if number % 3 != 0 {
                    return Some(learn(store.as_ref(), &format!("p{number}")).await);
                }
                let mut work = store.begin(&home()).await.expect("a unit of work");
                let lost = pattern(&format!("lost{number}"), "lost");
                work.patterns().insert(&lost, Some(&east())).await.expect("inserted");
                if number % 2 == 0 {
                    let nobody = PatternId(i64::MAX);
                    let tags = engramia::domain::Skill::distinct(["x"]);
                    drop(work.skills().set(nobody, &tags, super::at(0)).await);
                }
                None
            })
        })
        .collect();
    let mut ids = Vec::new();
    for task in tasks {
        ids.extend(timeout(LONG, task).await.expect("in time").expect("no failure of its own"));
    }
    ids.sort_unstable();
    assert_eq!(ids.len(), 40);
    for _ in 0..2 {
        assert_eq!(everywhere(&db).await, ids);
        db.reopen().await;
    }
}

/// A client that goes away cancels its request anywhere: before, in and after its commit.
pub(super) async fn cancelled_tasks_do_no_harm(mut db: Db) {
    everywhere(&db).await;
    let (mut acknowledged, mut cancelled) = (Vec::new(), 0);
    for round in 0u64..40 {
        let steady: Vec<_> = (0..6).map(|number| spawn_learn(&db, format!("steady{round}x{number}"))).collect();
        let fickle: Vec<_> = (0..6).map(|number| spawn_learn(&db, format!("fickle{round}x{number}"))).collect();
        for (number, task) in fickle.iter().enumerate() {
            sleep(Duration::from_micros((round * 37 + number as u64 * 101) % 400)).await;
            task.abort();
        }
        for task in steady {
            let id = timeout(LONG, task).await.expect("the writer is free").expect("others' work is not lost");
            acknowledged.push(id);
        }
        for task in fickle {
            match timeout(LONG, task).await.expect("the writer is free") {
                Ok(id) => acknowledged.push(id),
                Err(error) => {
                    assert!(error.is_cancelled(), "{error}");
                    cancelled += 1;
                }
            }
        }
    }
    assert!(cancelled > 0, "some were cancelled");
    for _ in 0..2 {
        let ids = everywhere(&db).await;
        assert!(acknowledged.iter().all(|id| ids.contains(id)), "what was acknowledged is there");
        db.reopen().await;
    }
    timeout(LONG, learn(db.store().as_ref(), "after")).await.expect("the writer is free");
}

pub(super) async fn readers_do_not_wait_for_a_writer(db: Db) {
    let id = db.insert(&pattern("a", "task"), Some(&east())).await;
    let mut work = db.begin().await;
    work.patterns().insert(&pattern("b", "task"), Some(&east())).await.expect("inserted");
    let reading = async {
        for _ in 0..20 {
            assert_eq!(db.nearest(&east(), 9).await, [id]);
            assert_eq!(db.matching("task").await, [id]);
            assert!(db.find("b").await.is_none());
            db.store().totals().await.expect("read");
            db.store().ping().await.expect("answers");
        }
    };
    timeout(LONG, reading).await.expect("although a unit of work is open");
    work.commit().await.expect("committed");
    assert!(db.find("b").await.is_some());
}

/// The first search of a scope loads its index; that must not need what the waiting searches hold.
pub(super) async fn many_first_searches_at_once(mut db: Db) {
    let scopes: Vec<_> = (0..4).map(|number| Scope::verified("acme", &format!("p{number}"))).collect();
    for scope in &scopes {
        db.insert_in(scope, &pattern("a", "task"), Some(&east())).await;
    }
    db.reopen().await;
    let tasks: Vec<_> = (0..24)
        .map(|number| {
            let (store, scope) = (Arc::clone(db.store()), scopes[number % scopes.len()].clone());
            tokio::spawn(async move {
                let mut work = store.read(&scope).await.expect("a unit of work");
                work.statistics().get().await.expect("read");
                // Time for the others to begin theirs.
                sleep(Duration::from_millis(20)).await;
                work.patterns().nearest(&query(&east(), 9)).await.expect("searched").len()
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(timeout(LONG, task).await.expect("in time").expect("no failure"), 1);
    }
}

pub(super) async fn equal_inserts_leave_one(db: Db) {
    let tasks: Vec<_> = (0..30)
        .map(|_| {
            let store = Arc::clone(db.store());
            tokio::spawn(async move {
                let mut work = store.begin(&home()).await.expect("a unit of work");
                let body = pattern("a", "task");
                let twins = work.patterns().same_task(&body.fingerprint(), 9).await.expect("read");
                let id = work.patterns().insert(&body, Some(&east())).await.expect("no failure");
                assert_eq!(id.is_none(), !twins.is_empty(), "the look and the insert agree");
                work.commit().await.expect("committed");
                id
            })
        })
        .collect();
    let mut inserted = Vec::new();
    for task in tasks {
        inserted.extend(timeout(LONG, task).await.expect("in time").expect("no failure"));
    }
    assert_eq!(everywhere(&db).await, inserted);
    assert_eq!(inserted.len(), 1);
}

/// A duplicate check must see what is released but perhaps not durable yet; if it gives up, that work stays.
pub(super) async fn the_next_in_line_sees_the_released_unit(mut db: Db) {
    let (_, mark) = db.read().await.patterns().near(&east(), 0.98, 9, None).await.expect("searched");
    let body = pattern("a", "task");
    let mut first = db.begin().await;
    let id = first.patterns().insert(&body, Some(&angle(1.0))).await.expect("inserted").expect("a free key");
    let next = tokio::spawn({
        let (store, body) = (Arc::clone(db.store()), body.clone());
        async move {
            let mut work = store.begin(&home()).await.expect("a unit of work");
            let near = work.patterns().near(&east(), 0.98, 9, Some(mark)).await.expect("searched").0;
            let twins = work.patterns().same_task(&body.fingerprint(), 9).await.expect("read");
            work.patterns().delete(&key("a")).await.expect("deleted");
            (near, twins.iter().map(|twin| twin.id).collect::<Vec<_>>())
        }
    });
    sleep(Duration::from_millis(20)).await;
    assert!(!next.is_finished(), "one writer at a time");
    timeout(LONG, first.commit()).await.expect("in time").expect("committed");
    let (near, twins) = timeout(LONG, next).await.expect("in time").expect("no failure");
    assert_eq!((near, twins), (vec![id], vec![id]));
    for _ in 0..2 {
        assert_eq!(everywhere(&db).await, [id], "the dropped unit took nothing with it");
        db.reopen().await;
    }
}
