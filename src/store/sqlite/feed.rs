//! Customers of all tenants and of none, as the payment service tells of them.

use async_trait::async_trait;
use sqlx::Row;

use super::SqliteStore;
use super::payments::{bound, insert_event};
use crate::domain::payment::PaymentEvent;
use crate::domain::{Scope, Timestamp};
use crate::store::payments::{Kept, PaymentFeed};
use crate::store::{Result, Work};

#[async_trait]
impl PaymentFeed for SqliteStore {
    async fn tenant_of(&self, customer: &str) -> Result<Option<String>> {
        // Who subscribed before anybody listened to events is known by its subscription alone.
        let query = sqlx::query(
            "select tenant_id from (select tenant_id, 0 as place from stripe_customers where customer_id = $1 union all \
             select tenant_id, 1 from billing_subscriptions where customer_id = $1) as known \
             where tenant_id is not null order by place limit 1",
        );
        let row = query.bind(customer.to_owned()).fetch_optional(&self.readers).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?.flatten())
    }

    async fn is_tenant(&self, tenant: &str) -> Result<bool> {
        let query = sqlx::query(
            "select not exists (select 1 from erasures where tenant_id = $1 and project_id = '') \
             and (exists (select 1 from tenants where id = $1) \
             or exists (select 1 from scope_statistics where tenant_id = $1))",
        );
        Ok(query.bind(tenant.to_owned()).fetch_one(&self.readers).await?.try_get(0)?)
    }

    async fn keep(&self, customer: &str, event: &PaymentEvent, at: Timestamp) -> Result<Kept> {
        let mut work = self.writing(&Scope::default()).await?;
        let query = sqlx::query(
            "insert into stripe_customers (customer_id, created_at) values ($1, $2) \
             on conflict (customer_id) do update set customer_id = excluded.customer_id returning tenant_id",
        );
        let query = query.bind(customer.to_owned()).bind(at.timestamp_micros());
        let row = query.fetch_one(work.connection().await?).await?;
        if let Some(tenant) = row.try_get::<Option<String>, _>(0)? {
            return Ok(Kept::Belongs(tenant));
        }
        bound(sqlx::query(insert_event!()), customer, event, at).execute(work.connection().await?).await?;
        work.commit().await?;
        Ok(Kept::Stored)
    }

    async fn watched(&self, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
        let query = sqlx::query(
            "select tenant_id from billing_subscriptions \
             where (past_due_since is not null or overage_enabled) and tenant_id > $1 union \
             select tenant_id from overage_periods \
             where state in ('open', 'pending', 'unclear') and tenant_id > $1 order by 1 limit $2",
        );
        let query = query.bind(after.unwrap_or_default().to_owned()).bind(limit);
        let rows = query.fetch_all(&self.readers).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}
