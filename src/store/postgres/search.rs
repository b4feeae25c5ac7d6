//! Search by meaning, by both, and by words: in memory where the scope is loaded, else in SQL.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::index::{self, Place};
use super::patterns::column_vector;
use super::rows;
use super::unit::{Access, PostgresWork};
use super::words;
use crate::domain::PatternId;
use crate::domain::text::WordSet;
use crate::ports::Vector;
use crate::store::Result;
use crate::store::engine::{Found, KEYWORD_POOL, assemble, close_rows, column, look, scored, sort};
use crate::store::memory::{Filter, Mark, Nearest, NearestQuery, Ranking};
use crate::vector;

/// The best rows of a query.
pub(super) async fn nearest(work: &mut PostgresWork, query: &NearestQuery) -> Result<Vec<Nearest>> {
    if !work.inner.indexes.holds(&query.vector.space) {
        return Ok(Vec::new());
    }
    let keywords = match &query.keywords {
        Some(text) => keyword_scores(work, text, query.limit).await?,
        None => HashMap::new(),
    };
    match place_of(work, query.vector.values.len()).await? {
        Place::Memory(entry) => {
            let keywords = Arc::new(keywords);
            let ranked = match look(&Arc::clone(&work.inner).compute, &entry, query, &keywords).await? {
                Found::Ranked(ranked) => ranked,
                Found::Candidates(candidates) => {
                    let ids = candidates.iter().map(|candidate| candidate.id).collect();
                    let vectors = stored_vectors(work, ids).await?;
                    vector::rescore(&query.vector.values, candidates, query.limit, |id| vectors.get(&id))
                }
            };
            Ok(assemble(ranked, &keywords, &query.ranking))
        }
        Place::Database { patterns } => {
            let candidates = super::ann::candidates(work, query, patterns).await?;
            exact(work, query, &keywords, candidates).await
        }
    }
}

/// A writer searches the database: it must see its own changes, which no index has.
async fn place_of(work: &mut PostgresWork, dimensions: usize) -> Result<Place> {
    match work.access {
        Access::Read(_) => index::place(work, dimensions).await,
        Access::Write(_) => Ok(Place::Database { patterns: 0 }),
    }
}

/// Scores every row of the scope, or only `among` them, in SQL. `+ 0` would be no help against an approximate index
/// here, and none is needed: the order is not one that an index could give.
async fn exact(
    work: &mut PostgresWork,
    query: &NearestQuery,
    keywords: &HashMap<i64, f64>,
    among: Option<Vec<i64>>,
) -> Result<Vec<Nearest>> {
    let vector = &query.vector;
    let dimensions = i32::try_from(vector.values.len()).unwrap_or(i32::MAX);
    let inner = Arc::clone(&work.inner);
    let Some(space) = inner.indexes.space(&vector.space, dimensions, work.connection().await?).await? else {
        return Ok(Vec::new());
    };
    let (filter, ranking) = (query.filter, query.ranking);
    // Both sides of the join are the whole scope: a nested loop, which the planner takes where statistics are missing, is
    // several times slower.
    nested_loops(work, "off").await?;
    let (scored_ids, scores): (Vec<i64>, Vec<f64>) = keywords.iter().map(|(id, score)| (*id, *score)).unzip();
    let (statement, connection) = work
        .scoped(
            "with keywords as materialized (select * from unnest($13::bigint[], $14::double precision[]) k (id, score)) \
             select p.id, s.similarity, coalesce(k.score, 0), p.classification, p.source, p.success_score, \
                 p.evidence_weight, p.evidence_sum, p.created_at \
             from vectors v join patterns p on p.tenant_id = $1 and p.project_id = $2 and p.id = v.pattern_id \
             left join keywords k on k.id = p.id \
             cross join lateral (select greatest(0, least(1, -(v.vector <#> $3))) as similarity) s \
             where v.tenant_id = $1 and v.project_id = $2 and v.space_id = $4 \
                 and ($5::text is null or p.classification = $5) and ($6::text is null or p.source = $6) \
                 and ($7::double precision is null or p.success_score >= $7) \
                 and ($15::bigint[] is null or v.pattern_id = any($15)) \
             order by (s.similarity + 0.2 * coalesce(k.score, 0)) \
                 * case when $8 then 0.5 + 0.05 * greatest(0, least(10, (5 + p.evidence_sum) / (1 + p.evidence_weight))) \
                   else 1 end \
                 * (1 - $9 + $9 * power(0.5::double precision, \
                     least(1000, greatest(0, extract(epoch from $10 - p.created_at)::double precision / 86400 / $11)))) \
                 desc, p.id \
             limit $12",
        )
        .await?;
    let recency = ranking.recency;
    let rows = statement
        .bind(column_vector(vector))
        .bind(space)
        .bind(filter.classification.map(|word| word.as_str()))
        .bind(filter.source.map(|word| word.as_str()))
        .bind(filter.min_score)
        .bind(ranking.quality)
        .bind(recency.map_or(0.0, |recency| recency.weight))
        .bind(recency.map_or(chrono::DateTime::UNIX_EPOCH, |recency| recency.now))
        .bind(recency.map_or(1.0, |recency| recency.half_life_days))
        .bind(column(query.limit as u64))
        .bind(scored_ids)
        .bind(scores)
        .bind(among)
        .fetch_all(connection)
        .await?;
    nested_loops(work, "on").await?;
    let mut nearest = rows
        .iter()
        .map(|row| Ok(scored(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, &rows::meta(row, 3)?, &ranking)))
        .collect::<Result<Vec<_>>>()?;
    sort(&mut nearest);
    Ok(nearest)
}

/// Says whether this transaction may join by nested loops.
async fn nested_loops(work: &mut PostgresWork, switch: &'static str) -> Result<()> {
    let connection = work.connection().await?;
    sqlx::query("select set_config('enable_nestloop', $1, true)").bind(switch).execute(connection).await?;
    Ok(())
}

async fn stored_vectors(work: &mut PostgresWork, ids: Vec<i64>) -> Result<HashMap<i64, Vec<f32>>> {
    let (query, connection) = work
        .scoped(
            "select pattern_id, vector from vectors \
             where tenant_id = $1 and project_id = $2 and pattern_id = any($3)",
        )
        .await?;
    let rows = query.bind(ids).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get::<pgvector::Vector, _>(1)?.to_vec()))).collect()
}

pub(super) async fn near(
    work: &mut PostgresWork,
    query: &Vector,
    least: f64,
    limit: usize,
    since: Option<Mark>,
) -> Result<(Vec<PatternId>, Mark)> {
    if !work.inner.indexes.holds(&query.space) {
        return Ok((Vec::new(), Mark::default()));
    }
    if since.is_none()
        && let Place::Memory(entry) = place_of(work, query.values.len()).await?
    {
        let mark = Mark(entry.read(|ready| ready.seen).map_or(0, |seen| u64::try_from(seen).unwrap_or(0)));
        let inner = Arc::clone(&work.inner);
        let (mut found, _) = close_rows(&inner.compute, &entry, &query.values, (least, limit), None).await?;
        found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        found.truncate(limit);
        return Ok((found.into_iter().map(|(id, _)| PatternId(id)).collect(), mark));
    }
    near_rows(work, query, least, limit, since).await
}

/// In SQL: of the whole scope, or of what was written after a mark.
async fn near_rows(
    work: &mut PostgresWork,
    query: &Vector,
    least: f64,
    limit: usize,
    since: Option<Mark>,
) -> Result<(Vec<PatternId>, Mark)> {
    let dimensions = i32::try_from(query.values.len()).unwrap_or(i32::MAX);
    let inner = Arc::clone(&work.inner);
    let mark = match &work.access {
        // What this unit of work writes has its own revision: the next look must find it.
        Access::Write(writing) => writing.revision - 1,
        Access::Read(_) => revision(work).await?,
    };
    let mark = Mark(u64::try_from(mark).unwrap_or(0));
    let Some(space) = inner.indexes.space(&query.space, dimensions, work.connection().await?).await? else {
        return Ok((Vec::new(), mark));
    };
    let since = since.map_or(-1, |mark| column(mark.0));
    let (statement, connection) = work
        .scoped(
            "select v.pattern_id from patterns p \
             join vectors v on v.tenant_id = $1 and v.project_id = $2 and v.pattern_id = p.id \
             where p.tenant_id = $1 and p.project_id = $2 and p.revision > $3 and v.space_id = $4 \
                 and -(v.vector <#> $5) >= $6 \
             order by v.vector <#> $5, v.pattern_id limit $7",
        )
        .await?;
    let rows = statement
        .bind(since)
        .bind(space)
        .bind(column_vector(query))
        .bind(least)
        .bind(column(limit as u64))
        .fetch_all(connection)
        .await?;
    let ids = rows.iter().map(|row| Ok(PatternId(row.try_get(0)?))).collect::<Result<_>>()?;
    Ok((ids, mark))
}

async fn revision(work: &mut PostgresWork) -> Result<i64> {
    let (query, connection) =
        work.scoped("select revision from scopes where tenant_id = $1 and project_id = $2").await?;
    let row = query.fetch_optional(connection).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or(0))
}

/// BM25 of the best rows over the best BM25, by id.
async fn keyword_scores(work: &mut PostgresWork, text: &str, limit: usize) -> Result<HashMap<i64, f64>> {
    let Some(wanted) = words::wanted(text) else { return Ok(HashMap::new()) };
    let token = words::token(&work.scope);
    let (query, connection) = work
        .scoped("select pattern_id, score from keyword_scores($1, $2, $3, $4) order by score desc, pattern_id limit $5")
        .await?;
    let pool = column((limit * 4).max(KEYWORD_POOL) as u64);
    let rows = query.bind(token).bind(wanted).bind(pool).fetch_all(connection).await?;
    let best = rows.first().map_or(Ok(1.0), |row| row.try_get::<f64, _>(1))?.max(f64::MIN_POSITIVE);
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get::<f64, _>(1)?.max(0.0) / best))).collect()
}

pub(super) async fn matching(
    work: &mut PostgresWork,
    text: &str,
    filter: &Filter,
    ranking: &Ranking,
    limit: usize,
) -> Result<Vec<Nearest>> {
    let Some(words) = words::wanted(text) else { return Ok(Vec::new()) };
    let token = words::token(&work.scope);
    let waiting_for = filter.waiting.then(|| work.inner.indexes.space_name().to_owned());
    let (query, connection) = work
        .scoped(
            "select p.id, p.task, p.classification, p.source, p.success_score, p.evidence_weight, p.evidence_sum, \
                 p.created_at \
             from keyword_scores($1, $2, $3, $4) k \
             join patterns p on p.tenant_id = $1 and p.project_id = $2 and p.id = k.pattern_id \
             where ($5::text is null or p.classification = $5) and ($6::text is null or p.source = $6) \
                 and ($7::double precision is null or p.success_score >= $7) \
                 and ($8::text is null \
                      or p.space_id <> coalesce((select max(id) from spaces where name = $8), 0) or p.space_id = 0) \
             order by k.score desc, p.id limit $9",
        )
        .await?;
    let rows = query
        .bind(token)
        .bind(words)
        .bind(filter.classification.map(|word| word.as_str()))
        .bind(filter.source.map(|word| word.as_str()))
        .bind(filter.min_score)
        .bind(waiting_for)
        .bind(column((limit * 4).max(KEYWORD_POOL) as u64))
        .fetch_all(connection)
        .await?;
    let wanted = WordSet::of_words(text);
    let mut nearest = rows.iter().map(|row| found_by_words(row, &wanted, ranking)).collect::<Result<Vec<_>>>()?;
    sort(&mut nearest);
    nearest.truncate(limit);
    Ok(nearest)
}

fn found_by_words(row: &PgRow, wanted: &WordSet, ranking: &Ranking) -> Result<Nearest> {
    let similarity = wanted.jaccard(&WordSet::of_words(&rows::text(row.try_get(1)?)));
    Ok(scored(row.try_get(0)?, similarity, 0.0, &rows::meta(row, 2)?, ranking))
}
