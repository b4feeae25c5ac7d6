//! Traits of what the payment service tells: events of customers, whoever they are, and what a tenant has to pay.

use async_trait::async_trait;
use chrono::NaiveDate;

use super::Result;
use crate::domain::overage::OveragePeriod;
use crate::domain::payment::PaymentEvent;
use crate::domain::{Month, Timestamp};

/// What became of an event of a customer that nobody knew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// It is there, now or before.
    Stored,
    /// It is not: the customer belongs to this tenant by now.
    Belongs(String),
}

/// Whose a customer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// This tenant's, as it was before.
    Was,
    /// This tenant's from now on.
    Made,
    /// Another tenant's, or this tenant is another customer.
    Refused,
}

/// Customers of all tenants and of none.
#[async_trait]
pub trait PaymentFeed: Send + Sync {
    /// Whose a customer is; `None` where nobody knows.
    async fn tenant_of(&self, customer: &str) -> Result<Option<String>>;
    /// Whether there is a tenant: one that is registered, or that something was written for.
    async fn is_tenant(&self, tenant: &str) -> Result<bool>;
    /// Keeps an event of a customer that nobody knows, until somebody does.
    async fn keep(&self, customer: &str, event: &PaymentEvent, at: Timestamp) -> Result<Kept>;
    /// Tenants with a payment that is due, with overage, or with a month that is not settled; in order after one.
    async fn watched(&self, after: Option<&str>, limit: u32) -> Result<Vec<String>>;
}

/// What the payment service knows of this unit's tenant.
#[async_trait]
pub trait PaymentLedger: Send {
    /// Makes a customer this tenant's. A tenant is one customer, and a customer one tenant, for good.
    async fn link(&mut self, customer: &str, at: Timestamp) -> Result<Link>;
    /// Records an event of a customer of this tenant; `false` if it is there already.
    async fn record(&mut self, customer: &str, event: &PaymentEvent, at: Timestamp) -> Result<bool>;
    /// Every event of a customer, in no order.
    async fn events(&mut self, customer: &str) -> Result<Vec<PaymentEvent>>;
    /// Notes that the tenant is warned on this day; `false` if it was warned then or later.
    async fn claim_warning(&mut self, day: NaiveDate) -> Result<bool>;
    /// What is known of a month; `None` if the tenant had no overage in it.
    async fn period(&mut self, month: Month) -> Result<Option<OveragePeriod>>;
    /// Stores what is known of a month in place of what was known before.
    async fn put_period(&mut self, period: &OveragePeriod) -> Result<()>;
    /// Months that are neither invoiced nor free, the oldest first.
    async fn unsettled(&mut self) -> Result<Vec<OveragePeriod>>;
}
