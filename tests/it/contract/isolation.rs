//! No scope sees, changes or removes what belongs to another.

use std::cell::Cell;

use engramia::domain::{Evidence, EvidenceKind, Feedback, NewPattern, Pattern, PatternId, Ratings, Scope, Skill};
use engramia::store::memory::{Evaluation, Filter, Ranking, ScoreRow};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use super::{Db, angle, at, east, key, pattern, query};

/// Two tenants with two projects each; the names are chosen so that no joining of them may be mistaken.
fn scopes(case: u32) -> Vec<Scope> {
    let tenant = |name: &str| format!("{name}{case}");
    vec![
        Scope::verified(&tenant("a"), "b"),
        Scope::verified(&tenant("a"), "b.b"),
        Scope::verified(&tenant("b.a"), "b"),
        Scope::verified(&tenant("b"), &tenant("a")),
    ]
}

/// What is written: which scope, which key, and whether it has a vector.
type Writes = Vec<(usize, u8, bool)>;

/// The mark of a scope in its texts.
fn sign(scope: usize) -> String {
    format!("sign{scope}")
}

pub(super) async fn no_scope_sees_another(db: Db) {
    let writes = prop::collection::vec((0..4usize, 0..6u8, any::<bool>()), 1..30);
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let (case, handle) = (Cell::new(0), Handle::current());
    let outcome = block_in_place(|| {
        runner.run(&writes, |writes| {
            case.set(case.get() + 1);
            handle.block_on(check(&db, &scopes(case.get()), &writes));
            Ok(())
        })
    });
    outcome.expect("every case holds");
}

async fn check(db: &Db, scopes: &[Scope], writes: &Writes) {
    let mut stored: Vec<Vec<(PatternId, NewPattern, bool)>> = vec![Vec::new(); scopes.len()];
    for (number, (at_scope, tail, embedded)) in writes.iter().enumerate() {
        let mut work = db.store().begin(&scopes[*at_scope]).await.expect("a unit of work");
        let mut body = pattern(&format!("k{tail}"), &format!("shared task {tail}"));
        body.code = Some(sign(*at_scope));
        body.author = Some(sign(*at_scope));
        let made = angle(f64::from(*tail));
        let id = work.patterns().insert(&body, embedded.then_some(&made)).await.expect("no failure");
        let known = stored[*at_scope].iter().any(|(_, known, _)| known.key == body.key);
        assert_eq!(id.is_none(), known, "only a key of the same scope is taken");
        if let Some(id) = id {
            let tags = Skill::distinct(["shared"]);
            work.skills().set(id, &tags, at(0)).await.expect("tagged");
            work.patterns().record_evaluation(id, &evaluation(&format!("e{number}"))).await.expect("recorded");
            work.statistics().count_runs(1, 1, &[*at_scope as f64]).await.expect("counted");
            work.statistics().count_recalls(1, 1).await.expect("counted");
            work.feedback().put(&issue(*at_scope), None).await.expect("stored");
            stored[*at_scope].push((id, body, *embedded));
        }
        work.commit().await.expect("committed");
    }
    let everybody: Vec<PatternId> = stored.iter().flatten().map(|(id, ..)| *id).collect();
    for (number, scope) in scopes.iter().enumerate() {
        check_scope(db, scope, number, &stored[number], &everybody).await;
    }
}

fn evaluation(id: &str) -> Evaluation {
    let kind = EvidenceKind::Reported;
    Evaluation { id: id.into(), kind, score: 1.0, weight: 1.0, run_id: None, note: None, at: at(0) }
}

fn issue(scope: usize) -> Feedback {
    Feedback {
        text: sign(scope),
        count: 2,
        score: 0.5,
        ratings: Ratings::default(),
        last_seen: at(0),
        decayed_at: at(0),
    }
}

/// Every read of every trait.
async fn check_scope(
    db: &Db,
    scope: &Scope,
    number: usize,
    stored: &[(PatternId, NewPattern, bool)],
    everybody: &[PatternId],
) {
    let mut own: Vec<PatternId> = stored.iter().map(|(id, ..)| *id).collect();
    own.sort_unstable();
    let mut embedded: Vec<PatternId> = stored.iter().filter(|(.., vector)| *vector).map(|(id, ..)| *id).collect();
    embedded.sort_unstable();
    let sorted = |mut ids: Vec<PatternId>| {
        ids.sort_unstable();
        ids
    };
    for writing in [false, true] {
        let work = if writing { db.store().begin(scope).await } else { db.store().read(scope).await };
        let mut work = work.expect("a unit of work");
        let patterns = work.patterns();
        for rows in [patterns.page(None, 100).await.expect("read"), patterns.get(everybody).await.expect("read")] {
            assert!(rows.iter().all(|row| row.body.code == Some(sign(number))), "{scope:?}");
            assert_eq!(sorted(rows.iter().map(|row| row.id).collect()), own);
        }
        let tasks = patterns.tasks(everybody).await.expect("read");
        assert_eq!(sorted(tasks.iter().map(|row| row.id).collect()), own);
        let scores = patterns.scores(None, 100).await.expect("read");
        assert_eq!(scores.iter().map(|row| row.id).collect::<Vec<_>>(), own);
        for tail in 0..6 {
            let mine = stored.iter().find(|(_, body, _)| body.key == key(&format!("k{tail}")));
            let mine: Vec<Pattern> =
                mine.map(|(id, body, _)| Pattern { id: *id, body: body.clone() }).into_iter().collect();
            assert_eq!(Vec::from_iter(patterns.find(&key(&format!("k{tail}"))).await.expect("read")), mine);
            let twin = pattern("x", &format!("shared task {tail}")).fingerprint();
            assert_eq!(patterns.same_task(&twin, 9).await.expect("read"), mine);
            let mut equal = pattern("x", &format!("shared task {tail}"));
            equal.code = Some(sign((number + 1) % 4));
            assert_eq!(patterns.equal(&equal.fingerprint()).await.expect("read"), None);
        }
        let near = patterns.near(&east(), 0.5, 100, None).await.expect("searched").0;
        assert_eq!(sorted(near), embedded);
        let mut search = query(&east(), 100);
        search.keywords = Some("shared task".into());
        let found = patterns.nearest(&search).await.expect("searched");
        assert_eq!(sorted(found.iter().map(|row| row.id).collect()), embedded);
        let found = patterns.matching("shared", &Filter::default(), &Ranking::default(), 100).await.expect("searched");
        assert_eq!(sorted(found.iter().map(|row| row.id).collect()), own);
        let tagged = work.skills().search(&Skill::distinct(["shared"]), false, 100).await.expect("read");
        assert_eq!(sorted(tagged), own);
        for id in everybody {
            let tags = work.skills().count(*id).await.expect("read");
            assert_eq!(tags, usize::from(own.contains(id)));
        }
        let issues = Vec::from_iter((!own.is_empty()).then(|| issue(number)));
        assert_eq!(work.feedback().all().await.expect("read"), issues);
        assert_eq!(work.feedback().top(1, None, 0, 100).await.expect("read"), issues);
        let counted = work.statistics().get().await.expect("read");
        let count = own.len() as u64;
        assert_eq!(
            (counted.patterns, counted.runs, counted.recalls, counted.recall_hits),
            (count, count, count, count)
        );
        assert!(counted.recent_scores.iter().all(|score| *score == number as f64));
    }
}

pub(super) async fn foreign_ids_change_nothing(mut db: Db) {
    let (ours, theirs) = (Scope::verified("acme", "ours"), Scope::verified("acme", "theirs"));
    let body = NewPattern { author: Some("them".into()), ..pattern("a", "their words") };
    let id = db.insert_in(&theirs, &body, Some(&east())).await;
    let waits = db.insert_in(&theirs, &pattern("b", "waits"), None).await;
    let tags = Skill::distinct(["csv"]);
    let mut work = db.store().begin(&ours).await.expect("a unit of work");
    let stolen = Pattern { id, body: pattern("a", "our words") };
    work.patterns().update(&stolen, Some(&angle(90.0))).await.expect("nothing to update");
    work.patterns().update(&stolen, None).await.expect("nothing to update");
    work.patterns().count_reuse(&[(id, 5)]).await.expect("nothing to count");
    work.patterns().attach(&[(waits, "waits", &east())]).await.expect("nothing to attach to");
    let row = ScoreRow { id, key: key("a"), success_score: 0.0, decayed_at: at(9) };
    work.patterns().set_scores(&[row]).await.expect("nothing to set");
    assert!(!work.patterns().delete(&key("a")).await.expect("nothing to delete"));
    work.skills().set(id, &tags, at(0)).await.expect("nothing to tag");
    work.patterns().record_evaluation(id, &evaluation("e")).await.expect("nothing to judge");
    work.patterns().set_evidence(id, &Evidence::of_sums(50.0, 500.0)).await.expect("nothing to set");
    assert_eq!(work.patterns().evaluations(id, 9).await.expect("read"), []);
    work.commit().await.expect("committed");
    for _ in 0..2 {
        let mut reading = db.store().read(&ours).await.expect("a unit of work");
        assert_eq!(reading.skills().search(&tags, true, 9).await.expect("read"), []);
        let words = reading.patterns().matching("our words", &Filter::default(), &Ranking::default(), 9).await;
        assert_eq!(words.expect("searched"), []);
        assert_eq!(reading.patterns().nearest(&query(&east(), 9)).await.expect("searched"), []);
        assert_eq!(reading.statistics().get().await.expect("read").patterns, 0);
        drop(reading);
        let mut reading = db.store().read(&theirs).await.expect("a unit of work");
        assert_eq!(reading.skills().count(id).await.expect("read"), 0);
        let kept = reading.patterns().find(&key("a")).await.expect("read");
        assert_eq!(kept, Some(Pattern { id, body: body.clone() }));
        let words = reading.patterns().matching("words", &Filter::default(), &Ranking::default(), 9).await;
        assert_eq!(words.expect("searched").len(), 1);
        let found = reading.patterns().nearest(&query(&east(), 9)).await.expect("searched");
        assert_eq!(found.iter().map(|row| row.id).collect::<Vec<_>>(), [id]);
        super::assert_close(found[0].similarity, 1.0);
        assert_eq!(db.unembedded(&super::space()).await, [waits]);
        drop(reading);
        db.reopen().await;
    }
}
