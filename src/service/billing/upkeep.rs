//! What time brings, looked for now and then by every worker: warnings that access ends, months that have ended, bills
//! that are not delivered. Whoever comes first does it; the others find it done.

use super::super::{Result, Services, again};
use crate::domain::Scope;
use crate::domain::subscription::Standing;

/// Tenants a page.
const PAGE: u32 = 100;
/// Warnings begin so many days before access ends: from the fifth day on.
const WARNED_DAYS: i64 = 2;

impl Services {
    /// Looks at every tenant that has something to pay.
    ///
    /// # Errors
    /// When the tenants cannot be listed; what fails of one of them is logged, and tried at the next look.
    pub async fn look_after_accounts(&self) -> Result<()> {
        let mut after: Option<String> = None;
        loop {
            let tenants = self.store.payment_feed().watched(after.as_deref(), PAGE).await?;
            let Some(last) = tenants.last() else { return Ok(()) };
            after = Some(last.clone());
            for tenant in tenants {
                let looked = async {
                    self.look_after(&tenant).await?;
                    self.deliver_bills(&tenant).await
                };
                if let Err(error) = looked.await {
                    tracing::warn!(tenant, %error, "looking after an account");
                }
            }
        }
    }

    async fn look_after(&self, tenant: &str) -> Result<()> {
        let scope = &Scope::of_tenant(tenant);
        let days_left = again(|| async move {
            let now = self.clock.now();
            let mut work = self.store.begin(scope).await?;
            let subscription = work.billing().subscription().await?;
            let mut changed = self.note_month(work.as_mut(), &subscription).await?;
            changed |= self.bill_ended_months(work.as_mut(), None).await?;
            let mut warned = None;
            if let Standing::Grace { days_left } = subscription.standing(now)
                && days_left <= WARNED_DAYS
                && work.payments().claim_warning(now.date_naive()).await?
            {
                (changed, warned) = (true, Some(days_left));
            }
            if changed {
                work.commit().await?;
            }
            Ok(warned)
        })
        .await?;
        if let Some(days_left) = days_left {
            tracing::warn!(
                tenant_id = tenant,
                dunning_event = "access_expiring_soon",
                days_remaining = days_left,
                "DUNNING_EVENT dunning_event=access_expiring_soon tenant={tenant} days_remaining={days_left}"
            );
        }
        Ok(())
    }
}
