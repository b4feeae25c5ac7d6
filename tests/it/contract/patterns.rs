//! Patterns: what goes in comes out, conflicts, order, and what a unit of work leaves behind.

use engramia::domain::pattern::{Extra, Fingerprint};
use engramia::domain::text::WordSet;
use engramia::domain::{Classification, Evidence, EvidenceKind, NewPattern, Pattern, PatternId, Skill, Source};
use engramia::ports::{Space, Vector};
use engramia::store::memory::{Evaluation, Filter, NearestQuery, Ranking, ScoreRow, TaskRow};
use serde_json::json;

use super::{Db, angle, at, east, key, pattern, space, vector};

/// A pattern with nothing left at its default.
fn full(tail: &str) -> NewPattern {
    let mut extra = Extra::default();
    extra.data.insert("legacy".into(), json!([1, null, {"a": "ž"}]));
    extra.design.insert("workflow".into(), json!({"steps": 3}));
    NewPattern {
        key: key(tail),
        task: "Parse 'CSV' — žluťoučký \"kůň\"\n🦀".into(),
        code: Some("print(1)\n\t".into()),
        output: Some(String::new()),
        classification: Classification::Confidential,
        source: Source::Sdk,
        run_id: Some("run-1".into()),
        author: Some("key-1".into()),
        redacted: true,
        success_score: 7.123_456_789,
        reuse_count: 41,
        created_at: at(10) + chrono::Duration::microseconds(123_457),
        decayed_at: at(20),
        evidence: Evidence { weight: 2.5, sum: 17.25, count: 3, variance: 0.125, seen_at: Some(at(30)) },
        extra,
    }
}

pub(super) async fn every_field_comes_back(mut db: Db) {
    let body = full("a/b c");
    let id = db.insert(&body, Some(&east())).await;
    let expected = Pattern { id, body };
    assert_eq!(db.find("a/b c").await.as_ref(), Some(&expected));
    db.reopen().await;
    assert_eq!(db.find("a/b c").await, Some(expected));
}

pub(super) async fn a_taken_key_is_not_inserted(db: Db) {
    let id = db.insert(&pattern("a", "the first"), Some(&east())).await;
    let mut work = db.begin().await;
    let again = work.patterns().insert(&pattern("a", "another"), Some(&angle(90.0))).await.expect("no failure");
    assert_eq!(again, None);
    let other = work.patterns().insert(&pattern("b", "the unit of work goes on"), None).await.expect("inserted");
    work.commit().await.expect("committed");
    assert!(other.is_some_and(|other| other > id));
    assert_eq!(db.find("a").await.expect("still there").body.task, "the first");
    assert_eq!(db.matching("another").await, []);
    assert_eq!(db.nearest(&angle(90.0), 9).await, [id], "the vector is the first one");
}

pub(super) async fn what_is_not_there_is_absent(db: Db) {
    let nobody = PatternId(77);
    let mut work = db.begin().await;
    let patterns = work.patterns();
    assert_eq!(patterns.find(&key("a")).await.expect("read"), None);
    assert_eq!(patterns.get(&[nobody]).await.expect("read"), []);
    assert_eq!(patterns.get(&[]).await.expect("read"), []);
    assert_eq!(patterns.tasks(&[nobody]).await.expect("read"), []);
    assert_eq!(patterns.page(None, 10).await.expect("read"), []);
    assert_eq!(patterns.scores(None, 10).await.expect("read"), []);
    assert!(!patterns.delete(&key("a")).await.expect("nothing to delete"));
    let ghost = Pattern { id: nobody, body: pattern("a", "ghost") };
    patterns.update(&ghost, Some(&east())).await.expect("nothing to update");
    patterns.count_reuse(&[(nobody, 3)]).await.expect("nothing to count");
    patterns.attach(&[(nobody, "ghost", &east())]).await.expect("nothing to attach to");
    let row = ScoreRow { id: nobody, key: key("a"), success_score: 1.0, decayed_at: at(0) };
    patterns.set_scores(&[row]).await.expect("nothing to set");
    work.commit().await.expect("committed");
    assert_eq!(db.find("a").await, None);
    assert_eq!(db.matching("ghost").await, []);
    assert_eq!(db.nearest(&east(), 9).await, []);
}

pub(super) async fn an_update_replaces_everything_but_the_key(mut db: Db) {
    let id = db.insert(&pattern("a", "short words"), Some(&east())).await;
    let body = full("a");
    let mut work = db.begin().await;
    work.patterns().update(&Pattern { id, body: body.clone() }, Some(&angle(90.0))).await.expect("updated");
    work.commit().await.expect("committed");
    for _ in 0..2 {
        assert_eq!(db.find("a").await, Some(Pattern { id, body: body.clone() }));
        assert_eq!(db.matching("words").await, [], "the old text is gone");
        assert_eq!(db.matching("parse").await, [id]);
        let mut work = db.read().await;
        let found = work.patterns().nearest(&super::query(&angle(90.0), 9)).await.expect("searched");
        assert_eq!(found.len(), 1);
        super::assert_close(found[0].similarity, 1.0);
        let twins = work.patterns().same_task(&body.fingerprint(), 9).await.expect("read");
        assert_eq!(twins.len(), 1, "the digests follow the text");
        drop(work);
        db.reopen().await;
    }
}

pub(super) async fn a_task_that_changes_loses_its_vector(mut db: Db) {
    let id = db.insert(&pattern("a", "one task"), Some(&east())).await;
    let update = async |db: &Db, task: &str| {
        let mut work = db.begin().await;
        let mut body = pattern("a", task);
        body.success_score = 9.0;
        work.patterns().update(&Pattern { id, body }, None).await.expect("updated");
        work.commit().await.expect("committed");
    };
    update(&db, "one task").await;
    assert_eq!(db.nearest(&east(), 9).await, [id], "the vector still fits");
    update(&db, "another task").await;
    for _ in 0..2 {
        assert_eq!(db.nearest(&east(), 9).await, [], "the vector is that of another text");
        assert_eq!(db.unembedded(&space()).await, [id]);
        db.reopen().await;
    }
}

pub(super) async fn a_deleted_pattern_leaves_nothing(mut db: Db) {
    let body = pattern("a", "some words");
    let id = db.insert(&body, Some(&east())).await;
    let tags = Skill::distinct(["csv"]);
    let mut work = db.begin().await;
    work.skills().set(id, &tags, at(0)).await.expect("tagged");
    work.patterns().record_evaluation(id, &evaluation(1)).await.expect("recorded");
    work.commit().await.expect("committed");
    let mut work = db.begin().await;
    assert!(work.patterns().delete(&key("a")).await.expect("deleted"));
    assert!(!work.patterns().delete(&key("a")).await.expect("gone already"));
    work.commit().await.expect("committed");
    for _ in 0..2 {
        assert_eq!(db.find("a").await, None);
        assert_eq!(db.nearest(&east(), 9).await, []);
        assert_eq!(db.matching("some words").await, []);
        assert_eq!(db.unembedded(&space()).await, []);
        let mut work = db.read().await;
        assert_eq!(work.skills().search(&tags, true, 9).await.expect("read"), []);
        assert_eq!(work.skills().count(id).await.expect("read"), 0);
        assert_eq!(work.patterns().same_task(&body.fingerprint(), 9).await.expect("read"), []);
        drop(work);
        db.reopen().await;
    }
    let again = db.insert(&body, None).await;
    assert_ne!(again, id, "numbers are never used twice");
    assert_eq!(db.read().await.skills().count(again).await.expect("read"), 0);
}

fn evaluation(number: u32) -> Evaluation {
    Evaluation {
        id: format!("evaluation-{number}"),
        kind: EvidenceKind::Outcome,
        score: 5.0,
        weight: 1.0,
        run_id: Some("r".into()),
        note: Some("it \0 \u{E000} works".into()),
        at: at(0),
    }
}

/// Patterns `a`, `b`, ... with ids in that order.
async fn some(db: &Db, count: u8) -> Vec<PatternId> {
    let mut ids = Vec::new();
    for letter in (b'a'..).take(count.into()).map(char::from) {
        ids.push(db.insert(&pattern(&letter.to_string(), &format!("task {letter}")), None).await);
    }
    ids
}

pub(super) async fn get_keeps_the_order_it_is_asked_in(db: Db) {
    let ids = some(&db, 4).await;
    let wanted = [ids[2], PatternId(9999), ids[0], ids[3]];
    let mut work = db.read().await;
    for wanted in [&wanted[..], &wanted[2..], &wanted[2..]] {
        let got: Vec<_> = work.patterns().get(wanted).await.expect("read").iter().map(|p| p.id).collect();
        let there: Vec<_> = wanted.iter().copied().filter(|id| ids.contains(id)).collect();
        assert_eq!(got, there);
    }
    let row = |id: PatternId, task: &str| TaskRow { id, words: WordSet::of_words(task), success_score: 5.0 };
    let tasks = work.patterns().tasks(&wanted).await.expect("read");
    assert_eq!(tasks, [row(ids[2], "task c"), row(ids[0], "task a"), row(ids[3], "task d")]);
}

pub(super) async fn pages_follow_the_keys(db: Db) {
    for tail in ["b", "B", "a/z", "a", "č", "10", "9"] {
        db.insert(&pattern(tail, "t"), None).await;
    }
    let mut work = db.read().await;
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = work.patterns().page(after.as_ref(), 3).await.expect("read");
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 3);
        after = Some(last.body.key.clone());
        seen.extend(page.into_iter().map(|p| p.body.key));
    }
    let mut sorted: Vec<_> = ["b", "B", "a/z", "a", "č", "10", "9"].map(key).into();
    sorted.sort();
    assert_eq!(seen, sorted, "byte order, each once");
    assert_eq!(work.patterns().page(Some(&key("a~")), 1).await.expect("read")[0].body.key, key("b"));
    assert_eq!(work.patterns().page(None, 0).await.expect("read"), []);
}

pub(super) async fn scores_follow_the_ids(db: Db) {
    let ids = some(&db, 5).await;
    let mut work = db.read().await;
    let mut after = None;
    for expected in [&ids[..2], &ids[2..4], &ids[4..], &[]] {
        let rows = work.patterns().scores(after, 2).await.expect("read");
        assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), expected);
        after = rows.last().map(|row| row.id).or(after);
    }
    let first = work.patterns().scores(None, 1).await.expect("read");
    assert_eq!(first, [ScoreRow { id: ids[0], key: key("a"), success_score: 5.0, decayed_at: at(0) }]);
}

pub(super) async fn faded_scores_are_set(mut db: Db) {
    let kept = db.insert(&pattern("a", "task"), Some(&east())).await;
    let faded = db.insert(&pattern("b", "task"), Some(&east())).await;
    db.nearest(&east(), 9).await;
    let row = ScoreRow { id: faded, key: key("b"), success_score: 1.25, decayed_at: at(99) };
    let mut work = db.begin().await;
    work.patterns().set_scores(std::slice::from_ref(&row)).await.expect("set");
    work.commit().await.expect("committed");
    for _ in 0..2 {
        let mut work = db.read().await;
        assert_eq!(work.patterns().scores(Some(kept), 9).await.expect("read"), std::slice::from_ref(&row));
        let body = work.patterns().get(&[faded]).await.expect("read").remove(0).body;
        assert_eq!((body.success_score, body.decayed_at, body.created_at), (1.25, at(99), at(0)));
        assert_eq!(body.evidence, Evidence::of_sums(1.0, 5.0), "fading is no evidence");
        let mut search = super::query(&east(), 9);
        search.filter.min_score = Some(2.0);
        let found = work.patterns().nearest(&search).await.expect("searched");
        assert_eq!(found.iter().map(|row| row.id).collect::<Vec<_>>(), [kept], "filters know the new score");
        drop(work);
        db.reopen().await;
    }
}

pub(super) async fn reuse_is_counted(db: Db) {
    let ids = some(&db, 2).await;
    for _ in 0..2 {
        let mut work = db.begin().await;
        let counts = [(ids[1], 3), (PatternId(9999), 5), (ids[0], 0), (ids[1], u32::MAX)];
        work.patterns().count_reuse(&counts).await.expect("unknown ids are skipped");
        work.commit().await.expect("committed");
    }
    assert_eq!(db.find("a").await.expect("there").body.reuse_count, 0);
    assert_eq!(db.find("b").await.expect("there").body.reuse_count, 2 * (3 + u64::from(u32::MAX)));
}

pub(super) async fn the_same_task_is_found_by_its_digest(db: Db) {
    let mut ids = Vec::new();
    for (tail, task, code) in [
        ("a", "Parse CSV!", "one"),
        ("b", "parse: csv", "t w o"),
        ("c", "parse csv files", "two"),
        ("d", "PARSE csv", "three"),
        ("e", "parse csv", "two"),
    ] {
        let body = NewPattern { code: Some(code.into()), ..pattern(tail, task) };
        ids.push(db.insert(&body, None).await);
    }
    let wanted = NewPattern { code: Some("two".into()), ..pattern("x", "Parse  CSV") };
    let found = async |fingerprint: Fingerprint, limit| {
        let found = db.read().await.patterns().same_task(&fingerprint, limit).await.expect("read");
        found.iter().map(|pattern| pattern.id).collect::<Vec<_>>()
    };
    let order = [ids[4], ids[1], ids[3], ids[0]];
    assert_eq!(found(wanted.fingerprint(), 9).await, order, "equal code first, then the newest");
    assert_eq!(found(wanted.fingerprint(), 3).await, order[..3]);
    assert_eq!(found(pattern("x", "parse").fingerprint(), 9).await, []);
}

pub(super) async fn an_equal_pattern_is_found(db: Db) {
    let body = |tail: &str, code: &str| NewPattern { code: Some(code.into()), ..pattern(tail, "parse csv") };
    db.insert(&body("a", "t w o"), None).await;
    let newest = db.insert(&body("b", "two"), None).await;
    db.insert(&body("c", "three"), None).await;
    let mut work = db.begin().await;
    let equal = |found: Option<Pattern>| found.map(|pattern| pattern.id);
    let found = work.patterns().equal(&body("x", "tw o").fingerprint()).await.expect("read");
    assert_eq!(equal(found), Some(newest));
    let found = work.patterns().equal(&body("x", "four").fingerprint()).await.expect("read");
    assert_eq!(equal(found), None);
    let fresh = work.patterns().insert(&body("d", "four"), None).await.expect("inserted");
    let found = work.patterns().equal(&body("x", "four").fingerprint()).await.expect("read");
    assert_eq!(equal(found), fresh, "a unit of work sees its own rows");
}

pub(super) async fn vectors_are_attached_to_their_text(mut db: Db) {
    let body = NewPattern { classification: Classification::Public, ..pattern("a", "task a") };
    let (a, b) = (db.insert(&body, None).await, db.insert(&pattern("b", "task b"), None).await);
    assert_eq!(db.nearest(&east(), 9).await, [], "nothing has a vector");
    let mut work = db.begin().await;
    work.patterns().attach(&[(a, "task a", &east()), (b, "an older text", &east())]).await.expect("attached");
    work.commit().await.expect("committed");
    for _ in 0..2 {
        assert_eq!(db.unembedded(&space()).await, [b]);
        let mut search = super::query(&east(), 9);
        search.filter.classification = Some(Classification::Public);
        let found = db.read().await.patterns().nearest(&search).await.expect("searched");
        assert_eq!(found.iter().map(|row| row.id).collect::<Vec<_>>(), [a]);
        db.reopen().await;
    }
}

pub(super) async fn patterns_without_a_vector_of_the_space_are_listed(mut db: Db) {
    let ids = some(&db, 3).await;
    let waiting = db.store().unembedded(&space(), None, 2).await.expect("read");
    let shown: Vec<_> = waiting.iter().map(|row| (row.scope.clone(), row.id, row.task.as_str())).collect();
    assert_eq!(shown, [(super::home(), ids[0], "task a"), (super::home(), ids[1], "task b")], "the oldest first");
    let rest = db.store().unembedded(&space(), Some(ids[1]), 2).await.expect("read");
    assert_eq!(rest.iter().map(|row| row.id).collect::<Vec<_>>(), ids[2..]);
    assert!(db.store().unembedded(&space(), Some(ids[2]), 2).await.expect("read").is_empty());
    let embedded = db.insert(&pattern("x", "task x"), Some(&east())).await;
    assert_eq!(db.unembedded(&space()).await, ids);
    let other = Space("test/two".into());
    db.reopen_for(other.clone()).await;
    assert_eq!(db.unembedded(&other).await, [&ids[..], &[embedded]].concat(), "a new space begins empty");
    let made = Vector::normalized(other.clone(), vec![0.0, 1.0]).expect("a direction");
    let mut work = db.begin().await;
    work.patterns().attach(&[(embedded, "task x", &made)]).await.expect("attached");
    work.commit().await.expect("committed");
    assert_eq!(db.unembedded(&other).await, ids);
    assert_eq!(db.nearest(&made, 9).await, [embedded]);
}

pub(super) async fn evaluations_belong_to_a_pattern(db: Db) {
    let id = db.insert(&pattern("a", "task"), None).await;
    let mut work = db.begin().await;
    work.patterns().record_evaluation(id, &evaluation(1)).await.expect("recorded");
    work.patterns().record_evaluation(id, &Evaluation { run_id: None, ..evaluation(2) }).await.expect("recorded");
    work.commit().await.expect("committed");
    let mut refused = db.begin().await;
    assert!(refused.patterns().record_evaluation(id, &evaluation(1)).await.is_err(), "an id is used once");
    drop(refused);

    let other = db.insert(&pattern("b", "task"), None).await;
    let mut work = db.begin().await;
    let plain = Evaluation { kind: EvidenceKind::Correction, run_id: None, note: None, ..evaluation(3) };
    for (id, evaluation) in [(id, &plain), (other, &evaluation(4))] {
        work.patterns().record_evaluation(id, evaluation).await.expect("recorded");
    }
    work.commit().await.expect("committed");
    let mut work = db.read().await;
    let second = Evaluation { run_id: None, ..evaluation(2) };
    assert_eq!(work.patterns().evaluations(id, 9).await.expect("read"), [evaluation(1), second.clone(), plain.clone()]);
    assert_eq!(work.patterns().evaluations(id, 2).await.expect("read"), [second, plain], "the newest");
    assert_eq!(work.patterns().evaluations(PatternId(77), 9).await.expect("read"), []);
}

pub(super) async fn evidence_is_set_and_counts_in_the_next_search(mut db: Db) {
    let (a, b) =
        (db.insert(&pattern("a", "one"), Some(&east())).await, db.insert(&pattern("b", "two"), Some(&east())).await);
    let by_quality = NearestQuery {
        vector: east(),
        keywords: None,
        filter: Filter::default(),
        ranking: Ranking { quality: true, recency: None },
        limit: 9,
    };
    let found = db.read().await.patterns().nearest(&by_quality).await.expect("searched");
    assert_eq!(found.iter().map(|row| row.id).collect::<Vec<_>>(), [a, b]);
    let good = Evidence { weight: 30.0, sum: 285.0, count: 31, variance: 0.5, seen_at: Some(at(77)) };
    let mut work = db.begin().await;
    work.patterns().set_evidence(b, &good).await.expect("set");
    work.patterns().set_evidence(PatternId(77), &good).await.expect("nothing to set");
    work.commit().await.expect("committed");
    for _ in 0..2 {
        let mut work = db.read().await;
        let found = work.patterns().nearest(&by_quality).await.expect("searched");
        assert_eq!(found.iter().map(|row| row.id).collect::<Vec<_>>(), [b, a]);
        assert!((found[0].quality - good.multiplier()).abs() < 1e-6);
        let mut expected = pattern("b", "two");
        expected.evidence = good;
        assert_eq!(work.patterns().get(&[b]).await.expect("read"), [Pattern { id: b, body: expected }]);
        drop(work);
        db.reopen().await;
    }
}

pub(super) async fn a_dropped_unit_of_work_leaves_nothing(mut db: Db) {
    let kept = db.insert(&pattern("kept", "kept words"), Some(&east())).await;
    db.nearest(&east(), 9).await;
    let mut work = db.begin().await;
    work.patterns().insert(&pattern("lost", "lost words"), Some(&east())).await.expect("inserted");
    work.patterns().delete(&key("kept")).await.expect("deleted");
    work.statistics().count_runs(5, 5, &[1.0]).await.expect("counted");
    drop(work);
    for _ in 0..2 {
        assert!(db.find("lost").await.is_none() && db.find("kept").await.is_some());
        assert_eq!(db.nearest(&east(), 9).await, [kept]);
        assert_eq!(db.matching("words").await, [kept]);
        assert_eq!(db.read().await.statistics().get().await.expect("read").runs, 0);
        db.reopen().await;
    }
    let again = db.insert(&pattern("lost", "now it stays"), Some(&vector(&[0.9, 0.1, 0.0, 0.0]))).await;
    assert_eq!(db.nearest(&east(), 9).await, [kept, again]);
}

pub(super) async fn a_committed_unit_of_work_is_durable(mut db: Db) {
    let a = db.insert(&pattern("a", "first words"), Some(&east())).await;
    assert_eq!(db.nearest(&east(), 9).await, [a], "the next read sees it");
    let b = db.insert(&pattern("b", "second words"), Some(&angle(30.0))).await;
    for _ in 0..2 {
        assert_eq!(db.nearest(&east(), 9).await, [a, b]);
        assert_eq!(db.matching("second").await, [b]);
        assert_eq!(db.find("b").await.expect("there").id, b);
        db.reopen().await;
    }
}

pub(super) async fn a_reader_cannot_write(db: Db) {
    let mut work = db.read().await;
    assert!(work.patterns().insert(&pattern("a", "task"), None).await.is_err());
    assert!(work.commit().await.is_err(), "there is nothing to commit");
    assert_eq!(db.find("a").await, None);
}

pub(super) async fn marks_stay(mut db: Db) {
    assert!(!db.store().has_mark("import").await.expect("read"));
    for seconds in [0, 5] {
        db.store().set_mark("import", at(seconds)).await.expect("marked");
        assert!(db.store().has_mark("import").await.expect("read"));
        db.reopen().await;
    }
    assert!(!db.store().has_mark("other").await.expect("read"));
}

pub(super) async fn it_answers(db: Db) {
    db.store().ping().await.expect("the database answers");
    assert!(["json", "postgres"].contains(&db.store().name()));
    db.store().close().await;
    assert!(db.store().ping().await.is_err() && db.store().begin(&super::home()).await.is_err());
}
