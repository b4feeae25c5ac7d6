//! What a tenant has subscribed to, and what it uses of it.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::unit::PostgresWork;
use crate::domain::subscription::Overage;
use crate::domain::{Month, Subscription, Timestamp};
use crate::store::Result;
use crate::store::billing::{Billing, Held, Reservation};
use crate::store::engine::{column, corrupt, count};

/// What evaluations are counted as.
const EVAL_RUNS: &str = "eval_runs";

#[async_trait]
impl Billing for PostgresWork {
    async fn subscription(&mut self) -> Result<Subscription> {
        let query = sqlx::query(
            "select plan_tier, status, billing_interval, customer_id, subscription_id, price_id, period_start, \
             period_end, past_due_since, canceled_at, overage_enabled, overage_cap_cents \
             from billing_subscriptions where tenant_id = $1",
        );
        let query = query.bind(self.scope.tenant().to_owned());
        let row = query.fetch_optional(self.connection().await?).await?;
        row.map_or_else(|| Ok(Subscription::none()), |row| subscription(&row))
    }

    async fn put_subscription(&mut self, subscription: &Subscription) -> Result<()> {
        let query = sqlx::query(
            "insert into billing_subscriptions (tenant_id, plan_tier, status, billing_interval, customer_id, \
             subscription_id, price_id, period_start, period_end, past_due_since, canceled_at, overage_enabled, \
             overage_cap_cents) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
             on conflict (tenant_id) do update set plan_tier = excluded.plan_tier, status = excluded.status, \
             billing_interval = excluded.billing_interval, customer_id = excluded.customer_id, \
             subscription_id = excluded.subscription_id, price_id = excluded.price_id, \
             period_start = excluded.period_start, period_end = excluded.period_end, \
             past_due_since = excluded.past_due_since, canceled_at = excluded.canceled_at, \
             overage_enabled = excluded.overage_enabled, overage_cap_cents = excluded.overage_cap_cents",
        );
        let Subscription { plan, status, interval, overage, .. } = subscription;
        let query = query
            .bind(self.scope.tenant().to_owned())
            .bind(plan.as_str())
            .bind(status.clone())
            .bind(interval.as_str())
            .bind(subscription.customer_id.clone())
            .bind(subscription.subscription_id.clone())
            .bind(subscription.price_id.clone())
            .bind(subscription.period_start)
            .bind(subscription.period_end)
            .bind(subscription.past_due_since)
            .bind(subscription.canceled_at)
            .bind(overage.enabled)
            .bind(overage.cap_cents.map(column));
        query.execute(self.connection().await?).await?;
        Ok(())
    }

    async fn runs(&mut self, month: Month) -> Result<u64> {
        let query = sqlx::query(
            "select count from usage_counters where tenant_id = $1 and metric = $2 and year = $3 and month = $4",
        );
        let query = query.bind(self.scope.tenant().to_owned()).bind(EVAL_RUNS).bind(month.year()).bind(number(month));
        let row = query.fetch_optional(self.connection().await?).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?.map_or(0, count))
    }

    async fn reserve_run(&mut self, reservation: &Reservation, most: u64, now: Timestamp) -> Result<Option<u64>> {
        let Reservation { id, month, expires_at } = reservation;
        let tenant = self.scope.tenant().to_owned();
        // Its row is locked from here on: nobody else takes a place before this unit ends.
        let done = self.add_runs(*month, 0).await?;
        let query = sqlx::query("delete from usage_reservations where tenant_id = $1 and expires_at <= $2");
        query.bind(tenant.clone()).bind(now).execute(self.connection().await?).await?;
        let query =
            sqlx::query("select count(*) from usage_reservations where tenant_id = $1 and year = $2 and month = $3");
        let query = query.bind(tenant.clone()).bind(month.year()).bind(number(*month));
        let taken = done + count(query.fetch_one(self.connection().await?).await?.try_get(0)?);
        if taken >= most {
            return Ok(Some(taken));
        }
        let query = sqlx::query(
            "insert into usage_reservations (tenant_id, id, year, month, expires_at) values ($1, $2, $3, $4, $5)",
        );
        let query = query.bind(tenant).bind(id.clone()).bind(month.year()).bind(number(*month));
        query.bind(*expires_at).execute(self.connection().await?).await?;
        Ok(None)
    }

    async fn release_run(&mut self, id: &str) -> Result<()> {
        let query = sqlx::query("delete from usage_reservations where tenant_id = $1 and id = $2");
        let query = query.bind(self.scope.tenant().to_owned()).bind(id.to_owned());
        query.execute(self.connection().await?).await?;
        Ok(())
    }

    async fn count_run(&mut self, month: Month, reservation: Option<&str>) -> Result<()> {
        self.add_runs(month, 1).await?;
        if let Some(id) = reservation {
            self.release_run(id).await?;
        }
        Ok(())
    }

    async fn adopt_runs(&mut self, month: Month, runs: u64) -> Result<()> {
        if self.add_runs(month, 0).await? == 0 {
            self.add_runs(month, column(runs)).await?;
        }
        Ok(())
    }

    async fn held(&mut self) -> Result<Held> {
        let query = sqlx::query("select held.patterns, held.projects from held_by($1) as held");
        let row = query.bind(self.scope.tenant().to_owned()).fetch_one(self.connection().await?).await?;
        Ok(Held { patterns: count(row.try_get(0)?), projects: count(row.try_get(1)?) })
    }

    async fn alone(&mut self) -> Result<()> {
        let query = sqlx::query(
            "insert into usage_counters (tenant_id, metric, year, month, count) values ($1, 'patterns', 0, 0, 0) \
             on conflict (tenant_id, metric, year, month) do update set count = 0",
        );
        query.bind(self.scope.tenant().to_owned()).execute(self.connection().await?).await?;
        Ok(())
    }
}

impl PostgresWork {
    /// Adds to the evaluations of a month, whose row nobody else changes until the end of this unit; how many it are
    /// now.
    async fn add_runs(&mut self, month: Month, more: i64) -> Result<u64> {
        let query = sqlx::query(
            "insert into usage_counters (tenant_id, metric, year, month, count) values ($1, $2, $3, $4, $5) \
             on conflict (tenant_id, metric, year, month) do update set \
             count = usage_counters.count + excluded.count returning count",
        );
        let query = query.bind(self.scope.tenant().to_owned()).bind(EVAL_RUNS).bind(month.year()).bind(number(month));
        Ok(count(query.bind(more).fetch_one(self.connection().await?).await?.try_get(0)?))
    }
}

fn number(month: Month) -> i32 {
    month.number() as i32
}

fn subscription(row: &PgRow) -> Result<Subscription> {
    let corrupt = |error| corrupt("billing_subscriptions", &error);
    Ok(Subscription {
        plan: row.try_get::<&str, _>(0)?.parse().map_err(corrupt)?,
        status: row.try_get(1)?,
        interval: row.try_get::<&str, _>(2)?.parse().map_err(corrupt)?,
        customer_id: row.try_get(3)?,
        subscription_id: row.try_get(4)?,
        price_id: row.try_get(5)?,
        period_start: row.try_get(6)?,
        period_end: row.try_get(7)?,
        past_due_since: row.try_get(8)?,
        canceled_at: row.try_get(9)?,
        overage: Overage { enabled: row.try_get(10)?, cap_cents: row.try_get::<Option<i64>, _>(11)?.map(count) },
    })
}
