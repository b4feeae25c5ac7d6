//! What the payment service knows of a tenant.

use async_trait::async_trait;
use chrono::NaiveDate;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::unit::{PostgresWork, Statement};
use crate::domain::overage::OveragePeriod;
use crate::domain::payment::{Bought, PaymentEvent, PaymentKind};
use crate::domain::{Month, Timestamp};
use crate::store::Result;
use crate::store::engine::{column, corrupt, count};
use crate::store::payments::{Link, PaymentLedger};

/// Columns of [`period`], in its order.
macro_rules! period_columns {
    () => {
        "year, month, state, included, block, price_cents, cap_cents, excess, amount_cents, invoice_id, item_id, \
         attempted_at"
    };
}

/// Stores an event; [`bound`] binds it.
macro_rules! insert_event {
    () => {
        "insert into stripe_events (customer_id, id, created, kind, subscription_id, status, billing_interval, \
         price_id, plan_tier, period_start, period_end, received_at) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) on conflict (customer_id, id) do nothing"
    };
}
pub(super) use insert_event;

#[async_trait]
impl PaymentLedger for PostgresWork {
    async fn link(&mut self, customer: &str, at: Timestamp) -> Result<Link> {
        let tenant = self.scope.tenant().to_owned();
        let query = sqlx::query("select tenant_id from stripe_customers where customer_id = $1");
        let row = query.bind(customer.to_owned()).fetch_optional(self.connection().await?).await?;
        let known: Option<String> = row.map(|row| row.try_get(0)).transpose()?.flatten();
        if let Some(known) = known {
            return Ok(if known == tenant { Link::Was } else { Link::Refused });
        }
        // From here on its row is locked: an event that nobody could place waits, and then sees whose it is.
        let query = sqlx::query(
            "insert into stripe_customers (customer_id, tenant_id, created_at) select $2, $1, $3 \
             where not exists (select 1 from stripe_customers where tenant_id = $1 and customer_id <> $2) \
             on conflict (customer_id) do update \
             set tenant_id = coalesce(stripe_customers.tenant_id, excluded.tenant_id) returning tenant_id",
        );
        let query = query.bind(tenant.clone()).bind(customer.to_owned()).bind(at);
        let row = query.fetch_optional(self.connection().await?).await?;
        let owner: Option<String> = row.map(|row| row.try_get(0)).transpose()?.flatten();
        Ok(if owner == Some(tenant) { Link::Made } else { Link::Refused })
    }

    async fn record(&mut self, customer: &str, event: &PaymentEvent, at: Timestamp) -> Result<bool> {
        let query = bound(sqlx::query(insert_event!()), customer, event, at);
        Ok(query.execute(self.connection().await?).await?.rows_affected() > 0)
    }

    async fn events(&mut self, customer: &str) -> Result<Vec<PaymentEvent>> {
        let query = sqlx::query(
            "select id, created, kind, subscription_id, status, billing_interval, price_id, plan_tier, period_start, \
             period_end from stripe_events where customer_id = $1",
        );
        let rows = query.bind(customer.to_owned()).fetch_all(self.connection().await?).await?;
        rows.iter().map(event).collect()
    }

    async fn claim_warning(&mut self, day: NaiveDate) -> Result<bool> {
        let query = sqlx::query(
            "insert into dunning_warnings (tenant_id, day) values ($1, $2) \
             on conflict (tenant_id) do update set day = excluded.day where dunning_warnings.day < excluded.day",
        );
        let query = query.bind(self.scope.tenant().to_owned()).bind(day);
        Ok(query.execute(self.connection().await?).await?.rows_affected() > 0)
    }

    async fn period(&mut self, month: Month) -> Result<Option<OveragePeriod>> {
        let query = sqlx::query(concat!(
            "select ",
            period_columns!(),
            " from overage_periods where tenant_id = $1 and year = $2 and month = $3"
        ));
        let query = query.bind(self.scope.tenant().to_owned()).bind(month.year()).bind(month.number() as i32);
        query.fetch_optional(self.connection().await?).await?.as_ref().map(period).transpose()
    }

    async fn put_period(&mut self, period: &OveragePeriod) -> Result<()> {
        let query = sqlx::query(
            "insert into overage_periods (tenant_id, year, month, state, included, block, price_cents, cap_cents, \
             excess, amount_cents, invoice_id, item_id, attempted_at) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
             on conflict (tenant_id, year, month) do update set state = excluded.state, included = excluded.included, \
             block = excluded.block, price_cents = excluded.price_cents, cap_cents = excluded.cap_cents, \
             excess = excluded.excess, amount_cents = excluded.amount_cents, invoice_id = excluded.invoice_id, \
             item_id = excluded.item_id, attempted_at = excluded.attempted_at",
        );
        let query = query
            .bind(self.scope.tenant().to_owned())
            .bind(period.month.year())
            .bind(period.month.number() as i32)
            .bind(period.state.as_str())
            .bind(column(period.included))
            .bind(column(period.block))
            .bind(column(period.price_cents))
            .bind(period.cap_cents.map(column))
            .bind(column(period.excess))
            .bind(column(period.amount_cents))
            .bind(period.invoice_id.clone())
            .bind(period.item_id.clone())
            .bind(period.attempted_at);
        query.execute(self.connection().await?).await?;
        Ok(())
    }

    async fn unsettled(&mut self) -> Result<Vec<OveragePeriod>> {
        let query = sqlx::query(concat!(
            "select ",
            period_columns!(),
            " from overage_periods where tenant_id = $1 and state in ('open', 'pending', 'unclear') \
             order by year, month"
        ));
        let rows = query.bind(self.scope.tenant().to_owned()).fetch_all(self.connection().await?).await?;
        rows.iter().map(period).collect()
    }
}

/// [`insert_event`] with its values.
pub(super) fn bound(query: Statement, customer: &str, event: &PaymentEvent, at: Timestamp) -> Statement {
    let bought = event.bought.as_ref();
    query
        .bind(customer.to_owned())
        .bind(event.id.clone())
        .bind(event.created)
        .bind(event.kind.as_str())
        .bind(bought.map(|bought| bought.subscription_id.clone()))
        .bind(bought.map(|bought| bought.status.clone()))
        .bind(bought.and_then(|bought| bought.interval).map(|interval| interval.as_str()))
        .bind(bought.and_then(|bought| bought.price_id.clone()))
        .bind(bought.and_then(|bought| bought.plan).map(|plan| plan.as_str()))
        .bind(bought.and_then(|bought| bought.period_start))
        .bind(bought.and_then(|bought| bought.period_end))
        .bind(at)
}

fn event(row: &PgRow) -> Result<PaymentEvent> {
    let corrupt = |error| corrupt("stripe_events", &error);
    let kind: PaymentKind = row.try_get::<&str, _>(2)?.parse().map_err(corrupt)?;
    let subscription: Option<String> = row.try_get(3)?;
    let bought = match subscription {
        None => None,
        Some(subscription_id) => Some(Bought {
            subscription_id,
            status: row.try_get::<Option<String>, _>(4)?.unwrap_or_default(),
            interval: row.try_get::<Option<&str>, _>(5)?.map(str::parse).transpose().map_err(corrupt)?,
            price_id: row.try_get(6)?,
            plan: row.try_get::<Option<&str>, _>(7)?.map(str::parse).transpose().map_err(corrupt)?,
            period_start: row.try_get(8)?,
            period_end: row.try_get(9)?,
        }),
    };
    Ok(PaymentEvent { id: row.try_get(0)?, created: row.try_get(1)?, kind, bought })
}

fn period(row: &PgRow) -> Result<OveragePeriod> {
    let (year, number): (i32, i32) = (row.try_get(0)?, row.try_get(1)?);
    let month = u32::try_from(number).ok().and_then(|number| Month::new(year, number));
    Ok(OveragePeriod {
        month: month.ok_or_else(|| corrupt("overage_periods", &"no such month"))?,
        state: row.try_get::<&str, _>(2)?.parse().map_err(|error| corrupt("overage_periods", &error))?,
        included: count(row.try_get(3)?),
        block: count(row.try_get(4)?),
        price_cents: count(row.try_get(5)?),
        cap_cents: row.try_get::<Option<i64>, _>(6)?.map(count),
        excess: count(row.try_get(7)?),
        amount_cents: count(row.try_get(8)?),
        invoice_id: row.try_get(9)?,
        item_id: row.try_get(10)?,
        attempted_at: row.try_get(11)?,
    })
}
