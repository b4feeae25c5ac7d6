//! Events of the payment service: whose they are, and what follows from all of a customer's.
//!
//! An event is recorded in the same unit of work in which the subscription is worked out anew, so that both happen or
//! neither; when that fails the payment service sends it again. An event that comes twice changes nothing.

mod read;

use super::super::audit::commit;
use super::super::{Result, ServiceError, Services, again};
use super::signature;
use crate::domain::audit::AuditAction;
use crate::domain::payment::{PaymentKind, fold};
use crate::domain::{Scope, Subscription};
use crate::store::Work;
use crate::store::payments::{Kept, Link};

use read::Notice;

/// Where an event of a customer can go that others are just finding out about.
const PLACES: usize = 3;

impl Services {
    /// Takes an event as it was sent; its type.
    ///
    /// # Errors
    /// When it is not signed as it should be, cannot be read, or cannot be recorded.
    pub async fn take_notice(&self, body: &[u8], signature: Option<&str>) -> Result<String> {
        let secret = self.billing.webhook_secret.as_ref().ok_or(ServiceError::NoPayments)?;
        let signature = signature.ok_or(ServiceError::InvalidNotice("Missing Stripe-Signature header."))?;
        if !signature::is_valid(signature, body, secret, self.clock.now()) {
            return Err(ServiceError::InvalidNotice("Invalid webhook signature."));
        }
        let notice = read::notice(body).ok_or(ServiceError::InvalidNotice("The event cannot be read."))?;
        if let Some(customer) = &notice.customer {
            self.place(customer, &notice).await?;
        }
        Ok(notice.kind)
    }

    /// Gives an event to the tenant that its customer is, or keeps it until somebody knows.
    async fn place(&self, customer: &str, notice: &Notice) -> Result<()> {
        let feed = self.store.payment_feed();
        let mut tenant = feed.tenant_of(customer).await?;
        if tenant.is_none()
            && let Some(named) = &notice.tenant
        {
            if !feed.is_tenant(named).await? {
                // Erased, or of another installation: nothing of it is kept.
                tracing::error!(customer, named, "an event is about a tenant that is not here");
                return Ok(());
            }
            tenant = Some(named.clone());
        }
        for _ in 0..PLACES {
            if let Some(tenant) = &tenant
                && self.account_for(tenant, customer, notice).await?
            {
                return Ok(());
            }
            let Some(event) = &notice.event else { return Ok(()) };
            match feed.keep(customer, event, self.clock.now()).await? {
                Kept::Stored => {
                    tracing::warn!(customer, event = event.id, "an event is about a customer that is no tenant");
                    return Ok(());
                }
                Kept::Belongs(owner) => tenant = Some(owner),
            }
        }
        Err(ServiceError::Busy { retry_after: std::time::Duration::from_secs(1) })
    }

    /// Records an event and works out the tenant's subscription anew; `false` if the customer is not this tenant.
    async fn account_for(&self, tenant: &str, customer: &str, notice: &Notice) -> Result<bool> {
        let scope = &Scope::of_tenant(tenant);
        let (linked, is_new) = again(|| async move {
            let now = self.clock.now();
            let mut work = self.store.begin(scope).await?;
            let link = work.payments().link(customer, now).await?;
            if link == Link::Refused {
                return Ok((false, false));
            }
            let is_new = match &notice.event {
                Some(event) => work.payments().record(customer, event, now).await?,
                None => false,
            };
            if is_new || link == Link::Made {
                let events = work.payments().events(customer).await?;
                let before = work.billing().subscription().await?;
                let account = fold(&events, &self.billing.prices);
                if account.pays_for_nothing() {
                    tracing::error!(customer, "a subscription names no plan: see ENGRAMIA_STRIPE_PRICES");
                }
                let after = account.subscription(customer, &before);
                self.bill_ended_months(work.as_mut(), notice.draft.as_deref()).await?;
                self.change_subscription(work, scope, &before, &after).await?;
            } else if notice.draft.is_some() && self.bill_ended_months(work.as_mut(), notice.draft.as_deref()).await? {
                work.commit().await?;
            }
            Ok((true, is_new))
        })
        .await?;
        if linked {
            self.plans.forget(tenant);
        }
        if notice.draft.is_some() {
            self.billing.bell.notify_one();
        }
        if is_new && notice.event.as_ref().is_some_and(|event| event.kind == PaymentKind::PaymentFailed) {
            tracing::warn!(
                tenant_id = tenant,
                dunning_event = "payment_failed",
                "DUNNING_EVENT dunning_event=payment_failed tenant={tenant}"
            );
        }
        Ok(linked)
    }

    /// Stores what a tenant has subscribed to, with everything else of the unit of work.
    async fn change_subscription(
        &self,
        mut work: Box<dyn Work>,
        scope: &Scope,
        before: &Subscription,
        after: &Subscription,
    ) -> Result<()> {
        if after != before {
            work.billing().put_subscription(after).await?;
            self.note_month(work.as_mut(), after).await?;
        }
        if (after.plan, &after.status) == (before.plan, &before.status) {
            return Ok(work.commit().await?);
        }
        let event = self.audit.event(AuditAction::SubscriptionChanged, None, None);
        let event = event.with("plan", after.plan.as_str()).with("status", after.status.as_str());
        let event = event.with("plan_before", before.plan.as_str()).with("status_before", before.status.as_str());
        Ok(commit(work, scope, &event).await?)
    }
}
