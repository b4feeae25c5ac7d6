//! Customers of all tenants and of none, as the payment service tells of them.

use async_trait::async_trait;
use sqlx::Row;

use super::PostgresStore;
use super::payments::{bound, insert_event};
use crate::domain::Timestamp;
use crate::domain::payment::PaymentEvent;
use crate::store::Result;
use crate::store::payments::{Kept, PaymentFeed};

#[async_trait]
impl PaymentFeed for PostgresStore {
    async fn tenant_of(&self, customer: &str) -> Result<Option<String>> {
        let mut transaction = self.inner.system().await?;
        // Who subscribed before anybody listened to events is known by its subscription alone.
        let query = sqlx::query(
            "select tenant_id from (select tenant_id, 0 as place from stripe_customers where customer_id = $1 union all \
             select tenant_id, 1 from billing_subscriptions where customer_id = $1) as known \
             where tenant_id is not null order by place limit 1",
        );
        let row = query.bind(customer.to_owned()).fetch_optional(&mut *transaction).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?.flatten())
    }

    async fn is_tenant(&self, tenant: &str) -> Result<bool> {
        let mut transaction = self.inner.system().await?;
        let query = sqlx::query(
            "select exists (select from tenants where id = $1 and closed_at is null) \
             or exists (select from scopes where tenant_id = $1 and closed_at is null)",
        );
        Ok(query.bind(tenant.to_owned()).fetch_one(&mut *transaction).await?.try_get(0)?)
    }

    async fn keep(&self, customer: &str, event: &PaymentEvent, at: Timestamp) -> Result<Kept> {
        let mut transaction = self.inner.system_writing().await?;
        // Locks its row: nobody finds out whose it is meanwhile.
        let query = sqlx::query(
            "insert into stripe_customers (customer_id, created_at) values ($1, $2) \
             on conflict (customer_id) do update set customer_id = excluded.customer_id returning tenant_id",
        );
        let row = query.bind(customer.to_owned()).bind(at).fetch_one(&mut *transaction).await?;
        if let Some(tenant) = row.try_get::<Option<String>, _>(0)? {
            return Ok(Kept::Belongs(tenant));
        }
        bound(sqlx::query(insert_event!()), customer, event, at).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Kept::Stored)
    }

    async fn watched(&self, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
        let mut transaction = self.inner.system().await?;
        let query = sqlx::query(
            "select tenant_id from billing_subscriptions \
             where (past_due_since is not null or overage_enabled) and tenant_id > $1 union \
             select tenant_id from overage_periods \
             where state in ('open', 'pending', 'unclear') and tenant_id > $1 order by 1 limit $2",
        );
        let query = query.bind(after.unwrap_or_default().to_owned()).bind(i64::from(limit));
        let rows = query.fetch_all(&mut *transaction).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}
