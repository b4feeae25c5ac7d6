//! What was learned and recalled.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::rows::{column_text, text};
use super::unit::PostgresWork;
use crate::domain::analytics::{Event, Rollup, Window};
use crate::domain::{PatternKey, ReuseTier, Timestamp};
use crate::store::engine::{column, count, key, word};
use crate::store::{Analytics, Result};

#[async_trait]
impl Analytics for PostgresWork {
    async fn append(&mut self, events: &[Event]) -> Result<()> {
        self.written()?;
        let (query, connection) = self
            .scoped(
                "insert into analytics_events (tenant_id, project_id, created_at, id, kind, eval_score, similarity, \
                 tier, pattern_key) \
                 select $1, $2, e.* from unnest($3::timestamptz[], $4::text[], $5::text[], $6::float8[], $7::float8[], \
                 $8::text[], $9::text[]) e on conflict do nothing",
            )
            .await?;
        let tiers: Vec<_> = events.iter().map(|event| event.tier.map(ReuseTier::as_str)).collect();
        let keys = events.iter().map(|event| event.pattern_key.as_ref().map(PatternKey::as_str).map(column_text));
        query
            .bind(events.iter().map(|event| event.at).collect::<Vec<_>>())
            .bind(events.iter().map(|event| event.id.clone()).collect::<Vec<_>>())
            .bind(events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>())
            .bind(events.iter().map(|event| event.eval_score).collect::<Vec<_>>())
            .bind(events.iter().map(|event| event.similarity).collect::<Vec<_>>())
            .bind(tiers)
            .bind(keys.collect::<Vec<_>>())
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn newest(&mut self, since: Option<Timestamp>, limit: u32) -> Result<Vec<Event>> {
        let (query, connection) = self
            .scoped(
                "select id, created_at, kind, eval_score, similarity, tier, pattern_key from analytics_events \
                 where tenant_id = $1 and project_id = $2 and created_at >= coalesce($3, '-infinity'::timestamptz) \
                 order by created_at desc, id desc limit $4",
            )
            .await?;
        let rows = query.bind(since).bind(i64::from(limit)).fetch_all(connection).await?;
        rows.iter().map(event).collect()
    }

    async fn total(&mut self, since: Option<Timestamp>) -> Result<u64> {
        let (query, connection) = self
            .scoped(
                "select count(*) from analytics_events \
                 where tenant_id = $1 and project_id = $2 and created_at >= coalesce($3, '-infinity'::timestamptz)",
            )
            .await?;
        Ok(count(query.bind(since).fetch_one(connection).await?.try_get(0)?))
    }

    async fn trim(&mut self, keep: u32) -> Result<()> {
        self.written()?;
        let (query, connection) = self
            .scoped(
                "delete from analytics_events where tenant_id = $1 and project_id = $2 and (created_at, id) <= ( \
                     select created_at, id from analytics_events where tenant_id = $1 and project_id = $2 \
                     order by created_at desc, id desc limit 1 offset $3)",
            )
            .await?;
        query.bind(i64::from(keep)).execute(connection).await?;
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
            recalls: count(row.try_get(0)?),
            duplicate_hits: count(row.try_get(1)?),
            adapt_hits: count(row.try_get(2)?),
            fresh_misses: count(row.try_get(3)?),
            avg_similarity: row.try_get(4)?,
            learns: count(row.try_get(5)?),
            avg_score: row.try_get(6)?,
            p50_score: row.try_get(7)?,
            p90_score: row.try_get(8)?,
            computed_at: row.try_get(9)?,
        }))
    }

    async fn put_rollup(&mut self, rollup: &Rollup) -> Result<()> {
        self.written()?;
        let (query, connection) = self
            .scoped(
                "insert into analytics_rollups (tenant_id, project_id, period, recalls, duplicate_hits, adapt_hits, \
                 fresh_misses, avg_similarity, learns, avg_score, p50_score, p90_score, computed_at) \
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
                 on conflict (tenant_id, project_id, period) do update set recalls = excluded.recalls, \
                 duplicate_hits = excluded.duplicate_hits, adapt_hits = excluded.adapt_hits, \
                 fresh_misses = excluded.fresh_misses, avg_similarity = excluded.avg_similarity, \
                 learns = excluded.learns, avg_score = excluded.avg_score, p50_score = excluded.p50_score, \
                 p90_score = excluded.p90_score, computed_at = excluded.computed_at",
            )
            .await?;
        query
            .bind(rollup.window.as_str())
            .bind(column(rollup.recalls))
            .bind(column(rollup.duplicate_hits))
            .bind(column(rollup.adapt_hits))
            .bind(column(rollup.fresh_misses))
            .bind(rollup.avg_similarity)
            .bind(column(rollup.learns))
            .bind(rollup.avg_score)
            .bind(rollup.p50_score)
            .bind(rollup.p90_score)
            .bind(rollup.computed_at)
            .execute(connection)
            .await?;
        Ok(())
    }
}

fn event(row: &PgRow) -> Result<Event> {
    let pattern_key = row.try_get::<Option<String>, _>(6)?.map(|column| key(&text(column))).transpose()?;
    Ok(Event {
        id: row.try_get(0)?,
        at: row.try_get(1)?,
        kind: word(row.try_get(2)?)?,
        eval_score: row.try_get(3)?,
        similarity: row.try_get(4)?,
        tier: row.try_get::<Option<&str>, _>(5)?.map(word).transpose()?,
        pattern_key,
    })
}
