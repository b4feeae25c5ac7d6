//! Search by meaning, by both, and by words.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::Row;

use super::patterns::json_ids;
use super::{Access, SqliteWork, rows};
use crate::domain::text::WordSet;
use crate::domain::{PatternId, Scope};
use crate::ports::Vector;
use crate::store::Result;
use crate::store::engine::{Found, KEYWORD_POOL, assemble, close_rows, look, query_words, scored, sort};
use crate::store::memory::{Filter, Mark, Nearest, NearestQuery, Ranking};
use crate::vector;

/// What the text index knows a scope by: one word that no stemmer touches.
pub(super) fn scope_token(scope: &Scope) -> String {
    let digest = crate::domain::text::digest(&format!("{}\0{}", scope.tenant(), scope.project()));
    let mut half = [0; 8];
    half.copy_from_slice(&digest[..8]);
    format!("s{}", u64::from_le_bytes(half))
}

/// Quotes user text for the text index: any of its words, in this scope.
fn match_expression(scope: &Scope, text: &str) -> Option<String> {
    let words = query_words(text);
    // Words are alphanumeric only, so that a quote can never end early.
    (!words.is_empty())
        .then(|| format!("scope : \"{}\" AND task : (\"{}\")", scope_token(scope), words.join("\" OR \"")))
}

pub(super) async fn nearest(work: &mut SqliteWork, query: &NearestQuery) -> Result<Vec<Nearest>> {
    let keywords = match &query.keywords {
        Some(text) => keyword_scores(work, text, query.limit).await?,
        None => HashMap::new(),
    };
    if !work.indexes.holds(&query.vector.space) {
        return Ok(Vec::new());
    }
    let entry = work.index().await?;
    let keywords = Arc::new(keywords);
    let ranked = match look(&work.compute, &entry, query, &keywords).await? {
        Found::Ranked(ranked) => ranked,
        Found::Candidates(candidates) => {
            let vectors = stored_vectors(work, candidates.iter().map(|candidate| candidate.id)).await?;
            vector::rescore(&query.vector.values, candidates, query.limit, |id| vectors.get(&id))
        }
    };
    Ok(assemble(ranked, &keywords, &query.ranking))
}

async fn stored_vectors(work: &mut SqliteWork, ids: impl Iterator<Item = i64>) -> Result<HashMap<i64, Vec<f32>>> {
    let rows = sqlx::query(
        "select v.pattern_id, v.vector from json_each($1) wanted cross join vectors v on v.pattern_id = wanted.value",
    )
    .bind(json_ids(ids.map(PatternId)))
    .fetch_all(work.connection().await?)
    .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, rows::vector_from_bytes(row.try_get(1)?)?))).collect()
}

pub(super) async fn near(
    work: &mut SqliteWork,
    query: &Vector,
    least: f64,
    limit: usize,
    since: Option<Mark>,
) -> Result<(Vec<PatternId>, Mark)> {
    if !work.indexes.holds(&query.space) {
        return Ok((Vec::new(), Mark::default()));
    }
    let entry = work.index().await?;
    let (mut found, mark) = close_rows(&work.compute, &entry, &query.values, (least, limit), since).await?;
    if let Access::Write(turn) = &work.access {
        found.extend(turn.pending().filter_map(|change| {
            let (id, values) = change.put_in(&work.scope)?;
            let cosine = (values.len() == query.values.len()).then(|| f64::from(vector::dot(values, &query.values)))?;
            (cosine >= least).then_some((id, cosine))
        }));
    }
    found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    found.dedup_by_key(|(id, _)| *id);
    found.truncate(limit);
    Ok((found.into_iter().map(|(id, _)| PatternId(id)).collect(), mark))
}

/// BM25 of the best rows over the best BM25, by id.
async fn keyword_scores(work: &mut SqliteWork, text: &str, limit: usize) -> Result<HashMap<i64, f64>> {
    let Some(expression) = match_expression(&work.scope, text) else { return Ok(HashMap::new()) };
    let rows = sqlx::query("select rowid, -rank from pattern_text where pattern_text match $1 order by rank limit $2")
        .bind(expression)
        .bind(rows::column((limit * 4).max(KEYWORD_POOL) as u64))
        .fetch_all(work.connection().await?)
        .await?;
    let mut scores = HashMap::with_capacity(rows.len());
    let mut best = f64::MIN_POSITIVE;
    for row in rows {
        let score = row.try_get::<f64, _>(1)?.max(0.0);
        best = best.max(score);
        scores.insert(row.try_get(0)?, score);
    }
    scores.values_mut().for_each(|score| *score /= best);
    Ok(scores)
}

pub(super) async fn matching(
    work: &mut SqliteWork,
    text: &str,
    filter: &Filter,
    ranking: &Ranking,
    limit: usize,
) -> Result<Vec<Nearest>> {
    let Some(expression) = match_expression(&work.scope, text) else { return Ok(Vec::new()) };
    let waiting_for = filter.waiting.then(|| work.indexes.space_name().to_owned());
    let (query, connection) = work
        .scoped(
            "select p.id, p.task, p.classification, p.source, p.success_score, p.evidence_weight, p.evidence_sum, \
         p.created_at from pattern_text t join patterns p on p.id = t.rowid \
         where p.tenant_id = $1 and p.project_id = $2 and t.pattern_text match $3 \
         and ($4 is null or p.classification = $4) and ($5 is null or p.source = $5) \
         and ($6 is null or p.success_score >= $6) \
         and ($7 is null or p.space_id is not (select coalesce(max(id), 0) from spaces where name = $7)) \
         order by t.rank limit $8",
        )
        .await?;
    let rows = query
        .bind(expression)
        .bind(filter.classification.map(|word| word.as_str()))
        .bind(filter.source.map(|word| word.as_str()))
        .bind(filter.min_score)
        .bind(waiting_for)
        .bind(rows::column((limit * 4).max(KEYWORD_POOL) as u64))
        .fetch_all(connection)
        .await?;
    let wanted = WordSet::of_words(text);
    let mut nearest = Vec::with_capacity(rows.len());
    for row in rows {
        let similarity = wanted.jaccard(&WordSet::of_words(row.try_get(1)?));
        nearest.push(scored(row.try_get(0)?, similarity, 0.0, &rows::meta(&row, 2)?, ranking));
    }
    sort(&mut nearest);
    nearest.truncate(limit);
    Ok(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn user_text_never_escapes_its_quotes(text in ".{0,200}") {
            let scope = Scope::default();
            if let Some(expression) = match_expression(&scope, &text) {
                let inner: String = expression.split('"').skip(1).step_by(2).collect();
                prop_assert!(inner.chars().all(char::is_alphanumeric));
                prop_assert_eq!(expression.matches('"').count() % 2, 0);
            }
        }
    }
}
