//! Search by meaning, by both, and by words; and the look for near-duplicates.

use chrono::Duration;
use engramia::domain::evidence::Evidence;
use engramia::domain::{Classification, NewPattern, PatternId, Scope, Source};
use engramia::ports::{Space, Vector};
use engramia::store::memory::{Filter, KEYWORD_WEIGHT, Nearest, NearestQuery, Ranking, Recency};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::{Db, angle, assert_close, at, east, pattern, query, vector};

async fn nearest(db: &Db, query: &NearestQuery) -> Vec<Nearest> {
    db.read().await.patterns().nearest(query).await.expect("searched")
}

async fn matching(db: &Db, text: &str, filter: &Filter, ranking: &Ranking, limit: usize) -> Vec<Nearest> {
    db.read().await.patterns().matching(text, filter, ranking, limit).await.expect("searched")
}

fn ids(rows: &[Nearest]) -> Vec<PatternId> {
    rows.iter().map(|row| row.id).collect()
}

/// The definition, in f64.
fn cosine(a: &Vector, b: &Vector) -> f64 {
    a.values.iter().zip(&*b.values).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

pub(super) async fn nearest_finds_what_a_naive_search_finds(mut db: Db) {
    let mut runner = TestRunner::deterministic();
    let any_vector = prop::collection::vec(-1.0f32..1.0, 24).prop_map(|values| vector(&values));
    let mut draw = || any_vector.new_tree(&mut runner).expect("a value").current();
    let mut rows = Vec::new();
    let mut work = db.begin().await;
    for number in 0..300 {
        let made = draw();
        let body = pattern(&format!("p{number}"), &format!("task {number}"));
        rows.push((work.patterns().insert(&body, Some(&made)).await.expect("inserted").expect("free"), made));
    }
    work.commit().await.expect("committed");
    for limit in [1, 7, 50, 300, 1000] {
        let wanted = draw();
        let mut expected: Vec<_> = rows.iter().map(|(id, made)| (*id, cosine(&wanted, made).clamp(0.0, 1.0))).collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let found = nearest(&db, &query(&wanted, limit)).await;
        assert_eq!(found.len(), limit.min(300));
        for (row, (id, similarity)) in found.iter().zip(expected) {
            assert_close(row.similarity, similarity);
            assert!(row.id == id || similarity > 0.0, "rows at zero are all equal and go by id");
            assert_eq!((row.keyword, row.quality, row.recency, row.score), (0.0, 1.0, 1.0, row.similarity));
        }
        db.reopen().await;
    }
}

pub(super) async fn equal_scores_go_by_id(db: Db) {
    let mut expected = Vec::new();
    for number in 0..6 {
        expected.push(db.insert(&pattern(&format!("p{number}"), "task"), Some(&angle(40.0))).await);
    }
    let opposite = db.insert(&pattern("opposite", "task"), Some(&angle(180.0))).await;
    let away = db.insert(&pattern("away", "task"), Some(&angle(100.0))).await;
    assert_eq!(db.nearest(&east(), 4).await, expected[..4]);
    let found = nearest(&db, &query(&east(), 9)).await;
    assert_eq!(ids(&found)[6..], [opposite, away], "a cosine below zero is zero");
    assert!(found[6].similarity.abs() < f64::EPSILON && found[7].similarity.abs() < f64::EPSILON);
    assert_eq!(db.nearest(&east(), 0).await, []);
}

/// One pattern for every combination of what filters look at; the better score is further away.
async fn mixed(db: &Db) -> Vec<(PatternId, NewPattern)> {
    let mut rows = Vec::new();
    for classification in [Classification::Public, Classification::Internal, Classification::Confidential] {
        for source in [Source::Api, Source::Import] {
            for success_score in [2.0, 7.5] {
                let number = rows.len();
                let body = NewPattern {
                    classification,
                    source,
                    success_score,
                    ..pattern(&format!("p{number}"), &format!("shared word{number}"))
                };
                let id = db.insert(&body, Some(&angle(5.0 * number as f64))).await;
                rows.push((id, body));
            }
        }
    }
    rows
}

fn filters() -> Vec<Filter> {
    let mut filters = Vec::new();
    for classification in [None, Some(Classification::Public), Some(Classification::Confidential)] {
        for source in [None, Some(Source::Import), Some(Source::Cli)] {
            for min_score in [None, Some(7.5), Some(8.0)] {
                filters.push(Filter { classification, source, min_score, waiting: false });
            }
        }
    }
    filters
}

fn passes(filter: &Filter, body: &NewPattern) -> bool {
    filter.classification.is_none_or(|wanted| wanted == body.classification)
        && filter.source.is_none_or(|wanted| wanted == body.source)
        && filter.min_score.is_none_or(|least| body.success_score >= least)
}

pub(super) async fn filters_are_part_of_the_search(db: Db) {
    let rows = mixed(&db).await;
    for filter in filters() {
        let expected: Vec<_> = rows.iter().filter(|(_, body)| passes(&filter, body)).map(|(id, _)| *id).collect();
        let search = NearestQuery { filter, ..query(&east(), 20) };
        assert_eq!(ids(&nearest(&db, &search).await), expected, "{filter:?}");
        let mut by_words = ids(&matching(&db, "shared", &filter, &Ranking::default(), 20).await);
        by_words.sort_unstable();
        assert_eq!(by_words, expected, "{filter:?}");
    }
}

pub(super) async fn a_page_is_short_only_at_its_end(db: Db) {
    let rows = mixed(&db).await;
    let filter = Filter { classification: Some(Classification::Confidential), ..Filter::default() };
    let found = nearest(&db, &NearestQuery { filter, ..query(&east(), 3) }).await;
    let expected: Vec<_> = rows[8..11].iter().map(|(id, _)| *id).collect();
    assert_eq!(ids(&found), expected, "although eight others are nearer");
}

pub(super) async fn quality_and_age_change_the_order(db: Db) {
    let body = |tail: &str, evidence, age| NewPattern {
        evidence,
        created_at: at(0) - Duration::days(age),
        ..pattern(tail, &format!("the task {tail}"))
    };
    let poor = db.insert(&body("poor", Evidence::of_sums(9.0, 0.0), 0), Some(&angle(10.0))).await;
    let good = db.insert(&body("good", Evidence::of_sums(9.0, 90.0), 60), Some(&angle(20.0))).await;
    let future = db.insert(&body("future", Evidence::default(), -5), Some(&angle(30.0))).await;
    let recency = |weight| Some(Recency { weight, half_life_days: 30.0, now: at(0) });
    let multipliers = [0.5 + 0.05 * 0.5, 0.5 + 0.05 * 9.5, 0.75];
    for (quality, recency, order) in [
        (false, None, [poor, good, future]),
        (true, None, [good, future, poor]),
        (false, recency(1.0), [poor, future, good]),
        (true, recency(1.0), [future, poor, good]),
        (true, recency(0.25), [good, future, poor]),
    ] {
        let ranking = Ranking { quality, recency };
        let found = nearest(&db, &NearestQuery { ranking, ..query(&east(), 9) }).await;
        assert_eq!(ids(&found), order, "{ranking:?}");
        for row in found {
            let at = [poor, good, future].iter().position(|id| *id == row.id).expect("one of the three");
            let faded = recency.map_or(1.0, |recency| [1.0, 1.0 - recency.weight * 0.75, 1.0][at]);
            assert_close(row.similarity, (10.0 * (at + 1) as f64).to_radians().cos());
            assert_close(row.quality, if quality { multipliers[at] } else { 1.0 });
            assert_close(row.recency, faded);
            assert_close(row.score, row.similarity * row.quality * row.recency);
        }
    }
}

pub(super) async fn keywords_join_the_rank(db: Db) {
    let plain = db.insert(&pattern("plain", "alpha bravo"), Some(&angle(25.0))).await;
    let both = db.insert(&pattern("both", "charlie delta"), Some(&angle(30.0))).await;
    let one = db.insert(&pattern("one", "charlie echo"), Some(&angle(30.0))).await;
    db.insert(&pattern("none", "charlie delta"), None).await;
    let search = NearestQuery { keywords: Some("Charlie, delta?".into()), ..query(&east(), 9) };
    let found = nearest(&db, &search).await;
    assert_eq!(ids(&found), [both, one, plain], "rows without a vector are not there");
    assert_close(found[0].keyword, 1.0);
    assert!((0.0..1.0).contains(&found[1].keyword) && found[2].keyword.abs() < f64::EPSILON);
    for row in &found {
        assert_close(row.score, row.similarity + KEYWORD_WEIGHT * row.keyword);
    }
    let best = nearest(&db, &NearestQuery { limit: 1, ..search.clone() }).await;
    assert_eq!(best, found[..1], "a smaller page is the beginning of a larger one");
    let nothing = nearest(&db, &NearestQuery { keywords: Some("?!".into()), ..query(&east(), 9) }).await;
    assert_eq!(ids(&nothing), [plain, both, one]);
}

pub(super) async fn other_spaces_are_never_compared(mut db: Db) {
    let foreign = |degrees| Vector { space: Space("test/two".into()), ..angle(degrees) };
    db.nearest(&east(), 9).await;
    let ours = db.insert(&pattern("ours", "task"), Some(&angle(60.0))).await;
    let theirs = db.insert(&pattern("theirs", "task"), Some(&foreign(0.0))).await;
    for _ in 0..2 {
        assert_eq!(db.nearest(&east(), 9).await, [ours]);
        assert_eq!(db.nearest(&foreign(0.0), 9).await, [], "the store is open for another space");
        let near = db.read().await.patterns().near(&foreign(0.0), 0.1, 9, None).await.expect("searched");
        assert_eq!(near.0, []);
        db.reopen().await;
    }
    db.reopen_for(foreign(0.0).space).await;
    assert_eq!(db.nearest(&foreign(0.0), 9).await, [theirs]);
}

pub(super) async fn near_finds_what_is_about_equal(db: Db) {
    let mut close = Vec::new();
    for (number, degrees) in [2.0, 0.5, 1.0, 80.0].into_iter().enumerate() {
        close.push(db.insert(&pattern(&format!("p{number}"), "task"), Some(&angle(degrees))).await);
    }
    let mut work = db.read().await;
    let (found, mark) = work.patterns().near(&east(), 0.98, 9, None).await.expect("searched");
    let order: Vec<_> = found.iter().filter(|id| close[..3].contains(id)).copied().collect();
    assert_eq!(order.len(), 3, "none above the bound is missing");
    assert!(!found.contains(&close[3]), "what is far away is left out");
    assert_eq!(work.patterns().near(&east(), 0.98, 2, None).await.expect("searched").0.len(), 2);
    let (_, again) = work.patterns().near(&east(), 0.98, 9, Some(mark)).await.expect("searched");
    assert_eq!(again, mark, "nothing came since");
    let nobody = db.store().read(&Scope::verified("acme", "empty")).await.expect("a unit of work");
    let mut nobody = nobody;
    assert_eq!(nobody.patterns().near(&east(), 0.0, 9, None).await.expect("searched").0, []);
}

pub(super) async fn near_sees_work_before_its_commit(db: Db) {
    let other = Scope::verified("acme", "other");
    db.insert_in(&other, &pattern("p", "task"), Some(&east())).await;
    let mut work = db.begin().await;
    let (_, mark) = work.patterns().near(&east(), 0.98, 9, None).await.expect("searched");
    let id = work.patterns().insert(&pattern("p", "task"), Some(&angle(1.0))).await.expect("inserted");
    let far = work.patterns().insert(&pattern("q", "task"), Some(&angle(50.0))).await.expect("inserted");
    for since in [None, Some(mark)] {
        let (found, _) = work.patterns().near(&east(), 0.98, 9, since).await.expect("searched");
        assert_eq!(found, Vec::from_iter(id), "its own row and none of another scope");
    }
    assert!(far.is_some());
    drop(work);
    assert_eq!(db.begin().await.patterns().near(&east(), 0.98, 9, None).await.expect("searched").0, []);
}

pub(super) async fn near_after_a_mark_finds_what_came_since(db: Db) {
    let before = db.insert(&pattern("before", "task"), Some(&east())).await;
    let (found, mark) = db.read().await.patterns().near(&east(), 0.98, 9, None).await.expect("searched");
    assert_eq!(found, [before]);
    let since = db.insert(&pattern("since", "task"), Some(&angle(1.0))).await;
    let waits = db.insert(&pattern("waits", "task w"), None).await;
    let mut work = db.begin().await;
    let (found, later) = work.patterns().near(&east(), 0.98, 9, Some(mark)).await.expect("searched");
    assert!(found.contains(&since) && later > mark);
    work.patterns().attach(&[(waits, "task w", &angle(1.5))]).await.expect("attached");
    let (found, _) = work.patterns().near(&east(), 0.98, 9, Some(later)).await.expect("searched");
    assert!(found.contains(&waits));
    work.commit().await.expect("committed");
}

pub(super) async fn words_are_found(db: Db) {
    let a = db.insert(&pattern("a", "Parsing CSV files quickly"), None).await;
    let b = db.insert(&pattern("b", "parse Žluťoučký JSON"), None).await;
    let c = db.insert(&pattern("c", "csv"), None).await;
    assert_eq!(db.matching("csv").await, [c, a], "by the share of common words");
    assert_eq!(db.matching("PARSE the file").await, [b, a], "stems count, and `parse` is a common word of one");
    assert_eq!(db.matching("zlutoucky").await, [b], "without its accents");
    assert_eq!(db.matching("nothing").await, []);
    let rows = matching(&db, "csv FILES", &Filter::default(), &Ranking::default(), 9).await;
    assert_eq!(ids(&rows), [a, c]);
    assert_close(rows[0].similarity, 0.5);
    assert_eq!((rows[0].keyword, rows[0].quality, rows[0].recency), (0.0, 1.0, 1.0));
    let elsewhere = Scope::verified("acme", "other");
    let mut work = db.store().read(&elsewhere).await.expect("a unit of work");
    let found = work.patterns().matching("csv parse", &Filter::default(), &Ranking::default(), 9).await;
    assert_eq!(found.expect("searched"), []);
}

pub(super) async fn user_text_is_no_syntax(db: Db) {
    let id = db.insert(&pattern("a", "alpha near bravo and not or"), Some(&east())).await;
    db.insert_in(&Scope::verified("acme", "other"), &pattern("b", "task scope alpha"), Some(&east())).await;
    let texts = [
        "alpha\" OR \"scope",
        "\"alpha",
        "alpha*",
        "alpha AND NOT bravo",
        "NEAR(alpha bravo)",
        "^alpha",
        "task : alpha",
        "{scope task} : alpha",
        "-alpha",
        "(alpha",
        "alpha)",
        "alpha'; drop table patterns; --",
        "alpha\0bravo",
        "%alpha_",
    ];
    for text in texts {
        assert_eq!(db.matching(text).await, [id], "{text}");
    }
    for text in ["", " \t\n", "\"", "*", "()", "\0", "'--", "AND", "\u{24b6} \u{bd}"] {
        let found = db.matching(text).await;
        assert!(found.is_empty() || text == "AND" && found == [id], "{text:?}");
    }
    let mut runner = TestRunner::deterministic();
    for _ in 0..200 {
        let text = "[\"'()*^: ANDORT\\PC]{0,30}".new_tree(&mut runner).expect("a value").current();
        let found = db.matching(&text).await;
        assert!(found.is_empty() || found == [id], "{text:?}");
        let search = NearestQuery { keywords: Some(text), ..query(&east(), 9) };
        assert_eq!(ids(&nearest(&db, &search).await), [id]);
    }
    let long = "alpha ".repeat(20_000) + "bravo";
    assert_eq!(db.matching(&long).await, [id]);
}

pub(super) async fn word_filters_and_ranking(db: Db) {
    let body = |tail: &str, task: &str, evidence, age| NewPattern {
        evidence,
        created_at: at(0) - Duration::days(age),
        ..pattern(tail, task)
    };
    let old = db.insert(&body("old", "alpha bravo", Evidence::of_sums(9.0, 90.0), 300), None).await;
    let poor = db.insert(&body("poor", "alpha bravo", Evidence::of_sums(9.0, 0.0), 0), None).await;
    let recency = Some(Recency { weight: 1.0, half_life_days: 30.0, now: at(0) });
    for (ranking, order) in [
        (Ranking::default(), [old, poor]),
        (Ranking { quality: true, recency: None }, [old, poor]),
        (Ranking { quality: true, recency }, [poor, old]),
    ] {
        let rows = matching(&db, "alpha bravo charlie", &Filter::default(), &ranking, 9).await;
        assert_eq!(ids(&rows), order, "{ranking:?}");
        for row in &rows {
            assert_close(row.score, row.similarity * row.quality * row.recency);
        }
        let one = matching(&db, "alpha bravo charlie", &Filter::default(), &ranking, 1).await;
        assert_eq!(one, rows[..1]);
    }
}

pub(super) async fn words_of_what_waits_for_its_vector(mut db: Db) {
    let waiting = Filter { waiting: true, ..Filter::default() };
    let waits = db.insert(&pattern("waits", "alpha bravo"), None).await;
    assert_eq!(ids(&matching(&db, "alpha", &waiting, &Ranking::default(), 9).await), [waits], "no vector at all");
    let embedded = db.insert(&pattern("embedded", "alpha"), Some(&east())).await;
    assert_eq!(ids(&matching(&db, "alpha", &waiting, &Ranking::default(), 9).await), [waits]);
    let public = Filter { classification: Some(Classification::Public), ..waiting };
    assert_eq!(matching(&db, "alpha", &public, &Ranking::default(), 9).await, []);
    db.reopen_for(Space("test/two".into())).await;
    assert_eq!(ids(&matching(&db, "alpha", &waiting, &Ranking::default(), 9).await), [embedded, waits]);
}

/// How rare a scope is in the database says nothing about its rows.
pub(super) async fn other_scopes_do_not_blur_keywords(db: Db) {
    db.insert(&pattern("best", "alpha bravo charlie delta"), Some(&east())).await;
    let poor = db.insert(&pattern("poor", "alpha echo foxtrot golf"), Some(&east())).await;
    let search = NearestQuery { keywords: Some("alpha bravo charlie delta".into()), ..query(&east(), 9) };
    let other = Scope::verified("acme", "other");
    let mut work = db.store().begin(&other).await.expect("a unit of work");
    for number in 0..300 {
        let body = pattern(&format!("p{number}"), &format!("hotel india juliet{number}"));
        work.patterns().insert(&body, None).await.expect("inserted");
    }
    work.commit().await.expect("committed");
    let rows = nearest(&db, &search).await;
    assert_eq!(rows[1].id, poor);
    assert!(rows[1].keyword < 0.3, "one word of four: {}", rows[1].keyword);
}
