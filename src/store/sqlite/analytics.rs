//! What was learned and recalled.

use async_trait::async_trait;
use serde_json::json;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{SqliteWork, rows};
use crate::domain::Timestamp;
use crate::domain::analytics::{Event, Rollup, Window};
use crate::store::{Analytics, Result};

#[async_trait]
impl Analytics for SqliteWork {
    async fn append(&mut self, events: &[Event]) -> Result<()> {
        let row = |event: &Event| {
            json!([
                event.at.timestamp_micros(),
                event.id,
                event.kind.as_str(),
                event.eval_score,
                event.similarity,
                event.tier.map(crate::domain::ReuseTier::as_str),
                event.pattern_key.as_ref().map(crate::domain::PatternKey::as_str),
            ])
        };
        let rows: Vec<_> = events.iter().map(row).collect();
        let (query, connection) = self
            .scoped(
                "insert into analytics_events (tenant_id, project_id, created_at, id, kind, eval_score, similarity, \
                 tier, pattern_key) \
                 select $1, $2, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, \
                 value ->> 6 from json_each($3) where true on conflict do nothing",
            )
            .await?;
        query.bind(json!(rows).to_string()).execute(connection).await?;
        Ok(())
    }

    async fn newest(&mut self, since: Option<Timestamp>, limit: u32) -> Result<Vec<Event>> {
        let (query, connection) = self
            .scoped(
                "select id, created_at, kind, eval_score, similarity, tier, pattern_key from analytics_events \
                 where tenant_id = $1 and project_id = $2 and created_at >= $3 \
                 order by created_at desc, id desc limit $4",
            )
            .await?;
        let rows = query.bind(micros(since)).bind(limit).fetch_all(connection).await?;
        rows.iter().map(event).collect()
    }

    async fn total(&mut self, since: Option<Timestamp>) -> Result<u64> {
        let (query, connection) = self
            .scoped(
                "select count(*) from analytics_events \
                 where tenant_id = $1 and project_id = $2 and created_at >= $3",
            )
            .await?;
        Ok(rows::count(query.bind(micros(since)).fetch_one(connection).await?.try_get(0)?))
    }

    async fn trim(&mut self, keep: u32) -> Result<()> {
        let (query, connection) = self
            .scoped(
                "delete from analytics_events where tenant_id = $1 and project_id = $2 and (created_at, id) <= ( \
                     select created_at, id from analytics_events where tenant_id = $1 and project_id = $2 \
                     order by created_at desc, id desc limit 1 offset $3)",
            )
            .await?;
        query.bind(keep).execute(connection).await?;
        Ok(())
    }

    async fn rollup(&mut self, window: Window) -> Result<Option<Rollup>> {
        let (query, connection) = self
            .scoped(
                "select recalls, duplicate_hits, adapt_hits, fresh_misses, avg_similarity, learns, avg_score, \
                 p50_score, p90_score, computed_at from analytics_rollups \
                 where tenant_id = $1 and project_id = $2 and period = $3",
            )
            .await?;
        let Some(row) = query.bind(window.as_str()).fetch_optional(connection).await? else { return Ok(None) };
        Ok(Some(Rollup {
            window,
            recalls: rows::count(row.try_get(0)?),
            duplicate_hits: rows::count(row.try_get(1)?),
            adapt_hits: rows::count(row.try_get(2)?),
            fresh_misses: rows::count(row.try_get(3)?),
            avg_similarity: row.try_get(4)?,
            learns: rows::count(row.try_get(5)?),
            avg_score: row.try_get(6)?,
            p50_score: row.try_get(7)?,
            p90_score: row.try_get(8)?,
            computed_at: rows::time(row.try_get(9)?)?,
        }))
    }

    async fn put_rollup(&mut self, rollup: &Rollup) -> Result<()> {
        let (query, connection) = self
            .scoped(
                "insert or replace into analytics_rollups (tenant_id, project_id, period, recalls, duplicate_hits, \
                 adapt_hits, fresh_misses, avg_similarity, learns, avg_score, p50_score, p90_score, computed_at) \
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            )
            .await?;
        query
            .bind(rollup.window.as_str())
            .bind(rows::column(rollup.recalls))
            .bind(rows::column(rollup.duplicate_hits))
            .bind(rows::column(rollup.adapt_hits))
            .bind(rows::column(rollup.fresh_misses))
            .bind(rollup.avg_similarity)
            .bind(rows::column(rollup.learns))
            .bind(rollup.avg_score)
            .bind(rollup.p50_score)
            .bind(rollup.p90_score)
            .bind(rollup.computed_at.timestamp_micros())
            .execute(connection)
            .await?;
        Ok(())
    }
}

fn micros(since: Option<Timestamp>) -> i64 {
    since.map_or(i64::MIN, |at| at.timestamp_micros())
}

fn event(row: &SqliteRow) -> Result<Event> {
    Ok(Event {
        id: row.try_get(0)?,
        at: rows::time(row.try_get(1)?)?,
        kind: rows::word(row.try_get(2)?)?,
        eval_score: row.try_get(3)?,
        similarity: row.try_get(4)?,
        tier: row.try_get::<Option<&str>, _>(5)?.map(rows::word).transpose()?,
        pattern_key: row.try_get::<Option<&str>, _>(6)?.map(rows::key).transpose()?,
    })
}
