//! Counters of a scope: one row, changed in the transaction that it counts.

use async_trait::async_trait;
use sqlx::{Row, SqliteConnection};

use super::{SqliteWork, rows};
use crate::store::memory::ScopeStatistics;
use crate::store::{Result, Statistics, Totals};

#[async_trait]
impl Statistics for SqliteWork {
    async fn get(&mut self) -> Result<ScopeStatistics> {
        let (query, connection) = self
            .scoped(
                "select patterns, runs, successes, recalls, recall_hits, recent_scores from scope_statistics \
             where tenant_id = $1 and project_id = $2",
            )
            .await?;
        let row = query.fetch_optional(connection).await?;
        let Some(row) = row else { return Ok(ScopeStatistics::default()) };
        Ok(ScopeStatistics {
            patterns: rows::count(row.try_get(0)?),
            runs: rows::count(row.try_get(1)?),
            successes: rows::count(row.try_get(2)?),
            recalls: rows::count(row.try_get(3)?),
            recall_hits: rows::count(row.try_get(4)?),
            recent_scores: recent(row.try_get(5)?)?,
        })
    }

    async fn count_runs(&mut self, runs: u64, successes: u64, scores: &[f64]) -> Result<()> {
        let mut recent = self.statistics_of_scope().await?;
        recent.extend_from_slice(scores);
        recent.drain(..recent.len().saturating_sub(ScopeStatistics::RECENT));
        let recent = serde_json::to_string(&recent).map_err(|e| rows::corrupt("scope_statistics", &e))?;
        let (query, connection) = self
            .scoped(
                "insert into scope_statistics (tenant_id, project_id, runs, successes, recent_scores) \
             values ($1, $2, $3, $4, $5) on conflict (tenant_id, project_id) do update set \
             runs = runs + excluded.runs, successes = successes + excluded.successes, \
             recent_scores = excluded.recent_scores",
            )
            .await?;
        query.bind(rows::column(runs)).bind(rows::column(successes)).bind(recent).execute(connection).await?;
        Ok(())
    }

    async fn count_recalls(&mut self, recalls: u64, hits: u64) -> Result<()> {
        let (query, connection) = self
            .scoped(
                "insert into scope_statistics (tenant_id, project_id, recalls, recall_hits) values ($1, $2, $3, $4) \
             on conflict (tenant_id, project_id) do update set \
             recalls = recalls + excluded.recalls, recall_hits = recall_hits + excluded.recall_hits",
            )
            .await?;
        query.bind(rows::column(recalls)).bind(rows::column(hits)).execute(connection).await?;
        Ok(())
    }
}

impl SqliteWork {
    async fn statistics_of_scope(&mut self) -> Result<Vec<f64>> {
        Ok(Statistics::get(self).await?.recent_scores)
    }

    /// Adds to the number of stored patterns.
    pub(super) async fn count_patterns(&mut self, change: i64) -> Result<()> {
        let (query, connection) = self
            .scoped(
                "insert into scope_statistics (tenant_id, project_id, patterns) values ($1, $2, $3) \
             on conflict (tenant_id, project_id) do update set patterns = patterns + excluded.patterns",
            )
            .await?;
        query.bind(change).execute(connection).await?;
        Ok(())
    }
}

/// Sums over all scopes.
pub(super) async fn totals(connection: &mut SqliteConnection) -> Result<Totals> {
    let rows =
        sqlx::query("select patterns, runs, successes, recalls, recall_hits, recent_scores from scope_statistics")
            .fetch_all(connection)
            .await?;
    let (mut totals, mut sum, mut scopes) = (Totals::default(), 0.0, 0u32);
    for row in rows {
        totals.patterns += rows::count(row.try_get(0)?);
        totals.runs += rows::count(row.try_get(1)?);
        totals.successes += rows::count(row.try_get(2)?);
        totals.recalls += rows::count(row.try_get(3)?);
        totals.recall_hits += rows::count(row.try_get(4)?);
        let recent = ScopeStatistics { recent_scores: recent(row.try_get(5)?)?, ..Default::default() };
        if let Some(average) = recent.average_score() {
            sum += average;
            scopes += 1;
        }
    }
    totals.scored = scopes.into();
    totals.average_score = (scopes > 0).then(|| sum / f64::from(scopes));
    Ok(totals)
}

fn recent(json: &str) -> Result<Vec<f64>> {
    serde_json::from_str(json).map_err(|e| rows::corrupt("scope_statistics", &e))
}
