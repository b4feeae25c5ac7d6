//! Random operations against a naive memory that keeps everything in lists.

use std::collections::BTreeMap;

use chrono::Duration;
use engramia::domain::evidence::Evidence;
use engramia::domain::text::{WordSet, normalized};
use engramia::domain::{Classification, NewPattern, Pattern, PatternId, PatternKey, Skill, Source};
use engramia::ports::Vector;
use engramia::store::Work;
use engramia::store::memory::{Filter, Nearest, NearestQuery, Ranking, Recency, ScoreRow};

use super::{Db, assert_close, at, key, pattern, space, vector};

const SEEDS: [u64; 3] = [1, 2, 3];
const STEPS: usize = 250;
/// No word is the stem of another.
const WORDS: [&str; 8] = ["alpha", "bravo", "delta", "golf", "hotel", "lima", "tango", "zulu"];
const TAGS: [&str; 4] = ["csv", "json", "stats", "web"];

/// A small generator of pseudo-random numbers (xorshift).
struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 20) % limit as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// One to four words.
    fn text(&mut self) -> String {
        let words: Vec<&str> = (0..=self.below(4)).map(|_| self.pick(&WORDS)).collect();
        words.join(self.pick(&[" ", "  ", "\n"]))
    }

    fn vector(&mut self) -> Vector {
        vector(&std::array::from_fn::<f32, 6, _>(|_| self.below(2001) as f32 / 1000.0 - 0.9995))
    }

    fn tags(&mut self) -> Vec<Skill> {
        let tags: Vec<&str> = TAGS.into_iter().filter(|_| self.coin()).collect();
        Skill::distinct(tags)
    }

    fn body(&mut self) -> NewPattern {
        let score = self.below(11) as f64;
        NewPattern {
            code: self.pick(&[None, Some("one".into()), Some("two".into())]),
            classification: self.pick(&[Classification::Public, Classification::Internal]),
            source: self.pick(&[Source::Api, Source::Cli]),
            success_score: score,
            created_at: at(0) - Duration::days(self.below(100) as i64),
            evidence: Evidence::of_sums(self.below(5) as f64, score),
            ..pattern(&format!("k{}", self.below(14)), &self.text())
        }
    }

    fn filter(&mut self) -> Filter {
        Filter {
            classification: self.pick(&[None, Some(Classification::Public)]),
            source: self.pick(&[None, None, Some(Source::Cli)]),
            min_score: self.pick(&[None, Some(5.0)]),
            waiting: false,
        }
    }

    fn ranking(&mut self) -> Ranking {
        let recency = Recency { weight: 0.5, half_life_days: 20.0, now: at(0) };
        Ranking { quality: self.coin(), recency: self.pick(&[None, Some(recency)]) }
    }
}

/// What the store should hold.
#[derive(Clone, Default)]
struct Model {
    rows: BTreeMap<PatternId, Row>,
    runs: u64,
    recent: Vec<f64>,
}

#[derive(Clone)]
struct Row {
    body: NewPattern,
    vector: Option<Vector>,
    tags: Vec<Skill>,
    tagged: i64,
}

impl Model {
    fn by_key(&self, key: &PatternKey) -> Option<PatternId> {
        self.rows.iter().find(|(_, row)| row.body.key == *key).map(|(id, _)| *id)
    }

    /// An id that exists, if any does, or sometimes one that does not.
    fn any_id(&self, noise: &mut Noise) -> PatternId {
        let ids: Vec<_> = self.rows.keys().copied().chain([PatternId(1 << 40)]).collect();
        noise.pick(&ids)
    }

    /// Every row that the filter lets through, best first.
    fn ranked(&self, filter: &Filter, ranking: &Ranking, similarity: impl Fn(&Row) -> Option<f64>) -> Vec<Nearest> {
        let passes = |body: &NewPattern| {
            filter.classification.is_none_or(|wanted| wanted == body.classification)
                && filter.source.is_none_or(|wanted| wanted == body.source)
                && filter.min_score.is_none_or(|least| body.success_score >= least)
        };
        let mut ranked: Vec<_> = self
            .rows
            .iter()
            .filter(|(_, row)| passes(&row.body))
            .filter_map(|(id, row)| {
                let similarity = similarity(row)?;
                let quality = if ranking.quality { row.body.evidence.multiplier() } else { 1.0 };
                let recency = ranking.recency.map_or(1.0, |recency| recency.factor(row.body.created_at));
                let score = similarity * quality * recency;
                Some(Nearest { id: *id, similarity, keyword: 0.0, quality, recency, score })
            })
            .collect();
        ranked.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        ranked
    }
}

pub(super) async fn random_operations_agree_with_a_naive_memory(mut db: Db) {
    for seed in SEEDS {
        clear(&db).await;
        let mut noise = Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let counted = db.read().await.statistics().get().await.expect("read");
        let mut model = Model { runs: counted.runs, recent: counted.recent_scores, ..Model::default() };
        for step in 0..STEPS {
            if noise.below(40) == 0 {
                db.reopen().await;
            }
            let mut work = db.begin().await;
            let mut after = model.clone();
            for _ in 0..=noise.below(3) {
                change(work.as_mut(), &mut after, &mut noise).await;
            }
            if noise.below(5) == 0 {
                drop(work);
            } else {
                work.commit().await.expect("committed");
                model = after;
            }
            println!("seed {seed}, step {step}: {} patterns", model.rows.len());
            compare(&db, &model, &mut noise).await;
        }
    }
}

async fn clear(db: &Db) {
    let mut work = db.begin().await;
    for row in work.patterns().page(None, 1000).await.expect("read") {
        assert!(work.patterns().delete(&row.body.key).await.expect("deleted"));
    }
    work.commit().await.expect("committed");
}

async fn change(work: &mut dyn Work, model: &mut Model, noise: &mut Noise) {
    let id = model.any_id(noise);
    match noise.below(10) {
        0..=3 => insert(work, model, noise).await,
        4 => update(work, model, id, noise).await,
        5 => {
            let key = key(&format!("k{}", noise.below(14)));
            let known = model.by_key(&key);
            assert_eq!(work.patterns().delete(&key).await.expect("deleted"), known.is_some());
            if let Some(id) = known {
                model.rows.remove(&id);
            }
        }
        6 => {
            let (task, made) = (noise.text(), noise.vector());
            let own = model.rows.get(&id).filter(|_| noise.coin()).map(|row| row.body.task.clone());
            let task = own.unwrap_or(task);
            work.patterns().attach(&[(id, &task, &made)]).await.expect("attached");
            if let Some(row) = model.rows.get_mut(&id).filter(|row| row.body.task == task) {
                row.vector = Some(made);
            }
        }
        7 => {
            let (score, seconds) = (noise.below(100) as f64 / 10.0, noise.below(1000) as i64);
            let row = ScoreRow { id, key: key("any"), success_score: score, decayed_at: at(seconds) };
            work.patterns().set_scores(&[row]).await.expect("set");
            if let Some(row) = model.rows.get_mut(&id) {
                (row.body.success_score, row.body.decayed_at) = (score, at(seconds));
            }
        }
        8 => {
            let count = noise.below(5) as u32;
            work.patterns().count_reuse(&[(id, count), (PatternId(1 << 41), 1)]).await.expect("counted");
            if let Some(row) = model.rows.get_mut(&id) {
                row.body.reuse_count += u64::from(count);
            }
            work.statistics().count_runs(1, 0, &[f64::from(count)]).await.expect("counted");
            model.runs += 1;
            model.recent.push(f64::from(count));
            model.recent.drain(..model.recent.len().saturating_sub(10));
        }
        _ => {
            let (tags, seconds) = (noise.tags(), noise.below(1000) as i64);
            work.skills().set(id, &tags, at(seconds)).await.expect("tagged");
            if let Some(row) = model.rows.get_mut(&id) {
                (row.tags, row.tagged) = (tags, seconds);
            }
        }
    }
}

async fn insert(work: &mut dyn Work, model: &mut Model, noise: &mut Noise) {
    let body = noise.body();
    let made = noise.coin().then(|| noise.vector());
    let id = work.patterns().insert(&body, made.as_ref()).await.expect("no failure");
    assert_eq!(id.is_none(), model.by_key(&body.key).is_some());
    if let Some(id) = id {
        let old = model.rows.insert(id, Row { body, vector: made, tags: Vec::new(), tagged: 0 });
        assert!(old.is_none(), "a new number");
    }
}

async fn update(work: &mut dyn Work, model: &mut Model, id: PatternId, noise: &mut Noise) {
    let mut body = noise.body();
    let row = model.rows.get_mut(&id);
    if let Some(row) = &row {
        body.key = row.body.key.clone();
        if noise.coin() {
            body.task = row.body.task.clone();
        }
    }
    let made = noise.coin().then(|| noise.vector());
    work.patterns().update(&Pattern { id, body: body.clone() }, made.as_ref()).await.expect("updated");
    if let Some(row) = row {
        row.vector = made.or_else(|| row.vector.take().filter(|_| row.body.task == body.task));
        row.body = body;
    }
}

/// Every read agrees with its definition.
async fn compare(db: &Db, model: &Model, noise: &mut Noise) {
    let mut work = db.read().await;
    let mut expected: Vec<_> = model.rows.iter().map(|(id, row)| Pattern { id: *id, body: row.body.clone() }).collect();
    let ids: Vec<_> = model.rows.keys().copied().collect();
    assert_eq!(work.patterns().get(&ids).await.expect("read"), expected);
    let scores = work.patterns().scores(None, 1000).await.expect("read");
    assert_eq!(scores.iter().map(|row| row.id).collect::<Vec<_>>(), ids);
    let body = noise.body();
    let mut twins: Vec<_> =
        expected.iter().filter(|row| normalized(&row.body.task) == normalized(&body.task)).cloned().collect();
    twins.sort_by_key(|row| {
        (row.body.code.clone().unwrap_or_default() != body.code.clone().unwrap_or_default(), -row.id.0)
    });
    assert_eq!(work.patterns().same_task(&body.fingerprint(), 1000).await.expect("read"), twins);
    expected.sort_by(|a, b| a.body.key.cmp(&b.body.key));
    assert_eq!(work.patterns().page(None, 1000).await.expect("read"), expected);
    let after = expected.get(noise.below(expected.len() + 1));
    let rest: Vec<_> = expected
        .iter()
        .filter(|row| after.is_none_or(|after| row.body.key > after.body.key))
        .take(3)
        .cloned()
        .collect();
    assert_eq!(work.patterns().page(after.map(|row| &row.body.key), 3).await.expect("read"), rest);
    let counted = work.statistics().get().await.expect("read");
    assert_eq!((counted.patterns, counted.runs), (model.rows.len() as u64, model.runs));
    assert_eq!(counted.recent_scores, model.recent);
    let waiting: Vec<_> = ids.iter().copied().filter(|id| model.rows[id].vector.is_none()).collect();
    assert_eq!(db.unembedded(&space()).await, waiting);
    compare_tags(work.as_mut(), model, noise).await;
    compare_search(work.as_mut(), model, noise).await;
}

async fn compare_tags(work: &mut dyn Work, model: &Model, noise: &mut Noise) {
    let (wanted, all) = (noise.tags(), noise.coin());
    let mut tagged: Vec<_> = model
        .rows
        .iter()
        .filter(|(_, row)| {
            let mut shared = wanted.iter().map(|tag| row.tags.contains(tag));
            !wanted.is_empty() && if all { shared.all(|has| has) } else { shared.any(|has| has) }
        })
        .map(|(id, row)| (row.tagged, *id))
        .collect();
    tagged.sort_unstable();
    let tagged: Vec<_> = tagged.into_iter().map(|(_, id)| id).collect();
    assert_eq!(work.skills().search(&wanted, all, 1000).await.expect("read"), tagged);
    for (id, row) in &model.rows {
        assert_eq!(work.skills().count(*id).await.expect("read"), row.tags.len());
    }
}

async fn compare_search(work: &mut dyn Work, model: &Model, noise: &mut Noise) {
    let (filter, ranking, limit) = (noise.filter(), noise.ranking(), noise.pick(&[1, 3, 100]));
    let wanted = noise.vector();
    let expected = model.ranked(&filter, &ranking, |row| {
        let made = row.vector.as_ref()?;
        let cosine: f64 = made.values.iter().zip(&*wanted.values).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        Some(cosine.clamp(0.0, 1.0))
    });
    let search = NearestQuery { vector: wanted, keywords: None, filter, ranking, limit };
    agree(&work.patterns().nearest(&search).await.expect("searched"), &expected, limit);

    let text = noise.text();
    let words = WordSet::of_words(&text);
    let by_words = model.ranked(&filter, &ranking, |row| {
        Some(words.jaccard(&WordSet::of_words(&row.body.task))).filter(|similarity| *similarity > 0.0)
    });
    agree(&work.patterns().matching(&text, &filter, &ranking, limit).await.expect("searched"), &by_words, limit);
    let waiting = Filter { waiting: true, ..filter };
    let found = work.patterns().matching(&text, &waiting, &ranking, limit).await.expect("searched");
    let without: Vec<_> = by_words.into_iter().filter(|row| model.rows[&row.id].vector.is_none()).collect();
    agree(&found, &without, limit);

    let hybrid = NearestQuery { keywords: Some(text), limit: 1000, ..search };
    let all = work.patterns().nearest(&hybrid).await.expect("searched");
    for row in &all {
        assert_close(row.score, (row.similarity + 0.2 * row.keyword) * row.quality * row.recency);
        let shares = words.jaccard(&WordSet::of_words(&model.rows[&row.id].body.task)) > 0.0;
        assert_eq!(row.keyword > 0.0, shares);
    }
    assert_eq!(all.len(), expected.len());
    let page = work.patterns().nearest(&NearestQuery { limit, ..hybrid }).await.expect("searched");
    agree(&page, &all, limit);
}

/// The same scores in the same places; rows whose scores are equal but for rounding may change places.
fn agree(found: &[Nearest], expected: &[Nearest], limit: usize) {
    assert_eq!(found.len(), expected.len().min(limit));
    assert!(found.is_sorted_by(|a, b| (b.score, a.id) <= (a.score, b.id)), "best first, then by id");
    for (row, place) in found.iter().zip(expected) {
        assert_close(row.score, place.score);
        let definition = expected.iter().find(|other| other.id == row.id).expect("a row that may be found");
        assert_close(row.similarity, definition.similarity);
        assert_close(row.quality, definition.quality);
        assert_close(row.recency, definition.recency);
    }
}
