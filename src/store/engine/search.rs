//! Looks into an index, and what results are made of; the same for both databases.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Ready, RowMeta, ScopeIndex};
use crate::compute::ComputePool;
use crate::domain::PatternId;
use crate::ports::Priority;
use crate::store::Result;
use crate::store::memory::{KEYWORD_WEIGHT, Mark, Nearest, NearestQuery, Ranking};
use crate::vector::{self, Candidate, Ranked};

/// Scans of more rows than this leave the async threads (about 50 microseconds).
const INLINE_ROWS: usize = 2_048;
/// Most words of a query that the text index is asked for.
const MAX_TERMS: usize = 64;
/// Rows that a keyword search considers at least.
pub(in crate::store) const KEYWORD_POOL: usize = 200;
/// Every row as it is.
const UNWEIGHED: vector::Weight = vector::Weight { factor: 1.0, bonus: 0.0 };

/// What a look found.
pub(in crate::store) enum Found {
    /// The vectors were at hand.
    Ranked(Vec<Ranked<RowMeta>>),
    /// The vectors must be read from their rows.
    Candidates(Vec<Candidate<RowMeta>>),
}

/// Ids with their cosines, and the mark for the next look.
type Looked = (Vec<(i64, f64)>, Mark);

/// The distinct words of a text as the text index is asked for them: lower case, letters and digits only.
pub(in crate::store) fn query_words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let word = word.to_lowercase();
        if !words.contains(&word) {
            words.push(word);
        }
        if words.len() == MAX_TERMS {
            break;
        }
    }
    words
}

/// Scans for the best rows of a query; `keywords` are keyword scores by id, in [0, 1].
pub(in crate::store) async fn look(
    compute: &ComputePool,
    entry: &Arc<ScopeIndex>,
    query: &NearestQuery,
    keywords: &Arc<HashMap<i64, f64>>,
) -> Result<Found> {
    let scan = {
        let (entry, values, limit) = (Arc::clone(entry), Arc::clone(&query.vector.values), query.limit);
        let (filter, ranking, keywords) = (query.filter, query.ranking, Arc::clone(keywords));
        move || {
            let weigh = |id: i64, meta: &RowMeta| {
                let bonus = keywords.get(&id).copied().unwrap_or(0.0);
                meta.weight(&filter, &ranking, KEYWORD_WEIGHT * bonus)
            };
            entry.read(|ready| scan(ready, &values, limit, weigh)).unwrap_or(Found::Ranked(Vec::new()))
        }
    };
    off_the_async_threads(compute, entry.len(), scan).await
}

fn scan(ready: &Ready, query: &[f32], limit: usize, weigh: impl Fn(i64, &RowMeta) -> Option<vector::Weight>) -> Found {
    let Some(index) = ready.comparable(query) else { return Found::Ranked(Vec::new()) };
    let candidates = index.candidates(query, limit, weigh);
    let at_hand = candidates.first().is_none_or(|candidate| index.vector(candidate.id).is_some());
    if at_hand {
        Found::Ranked(vector::rescore(query, candidates, limit, |id| index.vector(id)))
    } else {
        Found::Candidates(candidates)
    }
}

/// Every row of about this cosine at least among the best `limit`, or among those inserted after `since`.
pub(in crate::store) async fn close_rows(
    compute: &ComputePool,
    entry: &Arc<ScopeIndex>,
    query: &Arc<[f32]>,
    (least, limit): (f64, usize),
    since: Option<Mark>,
) -> Result<Looked> {
    let scan = {
        let (entry, values) = (Arc::clone(entry), Arc::clone(query));
        move || {
            let near = entry.read(|ready| {
                let near = ready.comparable(&values).map(|index| match since {
                    Some(mark) => {
                        let near = index.near(&values, least as f32, mark.0);
                        near.iter().map(|row| (row.id, f64::from(row.cosine))).collect::<Vec<_>>()
                    }
                    None => {
                        let best = index.candidates(&values, limit, |_, _| Some(UNWEIGHED));
                        let within = best.iter().filter(|row| f64::from(row.estimate + row.error) >= least);
                        within.map(|row| (row.id, f64::from(row.estimate))).collect()
                    }
                });
                (near.unwrap_or_default(), ready.mark())
            });
            near.unwrap_or_default()
        }
    };
    // After a mark there are only a few rows.
    off_the_async_threads(compute, if since.is_none() { entry.len() } else { 0 }, scan).await
}

async fn off_the_async_threads<T: Send + 'static>(
    compute: &ComputePool,
    rows: usize,
    scan: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    if rows <= INLINE_ROWS { Ok(scan()) } else { Ok(compute.run(Priority::Interactive, scan).await?) }
}

/// Ranked rows as results, best first.
pub(in crate::store) fn assemble(
    ranked: Vec<Ranked<RowMeta>>,
    keywords: &HashMap<i64, f64>,
    ranking: &Ranking,
) -> Vec<Nearest> {
    let mut nearest: Vec<Nearest> = ranked
        .into_iter()
        .map(|row| {
            let keyword = keywords.get(&row.id).copied().unwrap_or(0.0);
            scored(row.id, f64::from(row.similarity), keyword, &row.attributes, ranking)
        })
        .collect();
    sort(&mut nearest);
    nearest
}

/// One result with its score.
pub(in crate::store) fn scored(id: i64, similarity: f64, keyword: f64, meta: &RowMeta, ranking: &Ranking) -> Nearest {
    let (quality, recency) = meta.factors(ranking);
    let score = (similarity + KEYWORD_WEIGHT * keyword) * quality * recency;
    Nearest { id: PatternId(id), similarity, keyword, quality, recency, score }
}

/// Best first, equal ones by id.
pub(in crate::store) fn sort(rows: &mut [Nearest]) {
    rows.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
}
