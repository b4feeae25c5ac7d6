//! Counters of a scope: in the scope's own row, changed in the transaction that they count.

use async_trait::async_trait;
use sqlx::{PgConnection, Row};

use super::unit::PostgresWork;
use crate::store::engine::{column, count};
use crate::store::memory::ScopeStatistics;
use crate::store::{Result, Statistics, Totals};

#[async_trait]
impl Statistics for PostgresWork {
    async fn get(&mut self) -> Result<ScopeStatistics> {
        let (query, connection) = self
            .scoped(
                "select patterns, runs, successes, recalls, recall_hits, recent_scores from scopes \
                 where tenant_id = $1 and project_id = $2",
            )
            .await?;
        let row = query.fetch_optional(connection).await?;
        let Some(row) = row else { return Ok(ScopeStatistics::default()) };
        Ok(ScopeStatistics {
            patterns: count(row.try_get(0)?),
            runs: count(row.try_get(1)?),
            successes: count(row.try_get(2)?),
            recalls: count(row.try_get(3)?),
            recall_hits: count(row.try_get(4)?),
            recent_scores: row.try_get(5)?,
        })
    }

    async fn count_runs(&mut self, runs: u64, successes: u64, scores: &[f64]) -> Result<()> {
        self.written()?;
        let newest = &scores[scores.len().saturating_sub(ScopeStatistics::RECENT)..];
        let (query, connection) = self
            .scoped(
                "update scopes set runs = runs + $3, successes = successes + $4, \
                 recent_scores = (recent_scores || $5) \
                     [greatest(1, cardinality(recent_scores) + cardinality($5::float8[]) - $6 + 1):] \
                 where tenant_id = $1 and project_id = $2",
            )
            .await?;
        query
            .bind(column(runs))
            .bind(column(successes))
            .bind(newest.to_vec())
            .bind(ScopeStatistics::RECENT as i32)
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn count_recalls(&mut self, recalls: u64, hits: u64) -> Result<()> {
        self.written()?;
        let (query, connection) = self
            .scoped(
                "update scopes set recalls = recalls + $3, recall_hits = recall_hits + $4 \
                 where tenant_id = $1 and project_id = $2",
            )
            .await?;
        query.bind(column(recalls)).bind(column(hits)).execute(connection).await?;
        Ok(())
    }
}

/// Sums over all scopes; one row a scope.
pub(super) async fn totals(connection: &mut PgConnection) -> Result<Totals> {
    let row = sqlx::query(
        "select coalesce(sum(patterns), 0)::bigint, coalesce(sum(runs), 0)::bigint, \
         coalesce(sum(successes), 0)::bigint, coalesce(sum(recalls), 0)::bigint, \
         coalesce(sum(recall_hits), 0)::bigint, \
         avg((select round(avg(score)::numeric, 2)::double precision from unnest(recent_scores) score)), \
         count(*) filter (where recent_scores <> '{}') from scopes",
    )
    .fetch_one(connection)
    .await?;
    Ok(Totals {
        patterns: count(row.try_get(0)?),
        runs: count(row.try_get(1)?),
        successes: count(row.try_get(2)?),
        recalls: count(row.try_get(3)?),
        recall_hits: count(row.try_get(4)?),
        average_score: row.try_get(5)?,
        scored: count(row.try_get(6)?),
        ann_recall: None,
    })
}
