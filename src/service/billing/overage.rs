//! Evaluations beyond the limit: whether a tenant wishes them, and the months in which it pays for them.

use chrono::{NaiveTime, TimeDelta};

use super::super::audit::commit;
use super::super::{Result, ServiceError, Services, again};
use crate::domain::audit::AuditAction;
use crate::domain::overage::{OveragePeriod, PeriodState};
use crate::domain::subscription::Overage;
use crate::domain::{Caller, Month, Scope, Subscription};
use crate::ports::{Charge, PaymentError};
use crate::store::Work;

/// After the end of a month, evaluations that began in it may still be under way.
const LATE: TimeDelta = TimeDelta::hours(1);
/// The payment service remembers for a day at least what it was told; later the same would be billed twice.
const REMEMBERED: TimeDelta = TimeDelta::hours(20);

/// What a caller says of the budget cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cap {
    /// Nothing.
    Unsaid,
    /// There shall be none.
    Off,
    /// This many cents a month.
    Cents(u64),
}

impl Services {
    /// Sets whether the caller's tenant pays for evaluations beyond its limit, and how much at most.
    ///
    /// # Errors
    /// When its plan has no such thing, or asks for a cap.
    pub async fn set_overage(&self, caller: &Caller, enabled: bool, cap: Cap) -> Result<Overage> {
        let scope = &Scope::of_tenant(caller.scope.tenant());
        again(|| async move {
            let mut work = self.store.begin(scope).await?;
            let mut subscription = work.billing().subscription().await?;
            let before = subscription.overage.cap_cents;
            let terms = subscription.plan.terms().overage.ok_or(ServiceError::InvalidOverage)?;
            let cap_cents = match cap {
                Cap::Cents(cents) => Some(cents),
                Cap::Off if terms.uncapped => None,
                // Who stops paying need not think of a cap.
                Cap::Off if enabled => return Err(ServiceError::InvalidOverage),
                Cap::Off | Cap::Unsaid => before,
            };
            if enabled && cap_cents.is_none() && !terms.uncapped {
                return Err(ServiceError::InvalidOverage);
            }
            let overage = Overage { enabled, cap_cents };
            if overage != subscription.overage {
                subscription.overage = overage;
                work.billing().put_subscription(&subscription).await?;
                self.note_month(work.as_mut(), &subscription).await?;
                let event = self.audit.event_of(AuditAction::OverageChanged, caller).with("enabled", enabled);
                commit(work, scope, &event.with("budget_cap_cents", cap_cents)).await?;
            }
            Ok(overage)
        })
        .await
    }

    /// Notes the terms of this month, if there is overage in it. Who switches it off later still pays for the month.
    pub(super) async fn note_month(&self, work: &mut dyn Work, subscription: &Subscription) -> Result<bool> {
        let month = Month::of(self.clock.now());
        let before = work.payments().period(month).await?;
        let runs = work.billing().runs(month).await?;
        let Some(now) = OveragePeriod::under(subscription, month, before.as_ref(), runs) else { return Ok(false) };
        if before.as_ref() == Some(&now) {
            return Ok(false);
        }
        work.payments().put_period(&now).await?;
        Ok(true)
    }

    /// Bills every month that has ended, once: on the draft of an invoice, if there is one. Whether there was any.
    pub(super) async fn bill_ended_months(&self, work: &mut dyn Work, draft: Option<&str>) -> Result<bool> {
        // A draft is closed soon: it cannot wait for evaluations that are late.
        let now = if draft.is_some() { self.clock.now() } else { self.clock.now() - LATE };
        let mut any = false;
        for period in work.payments().unsettled().await? {
            let end = period.month.next_begins().and_time(NaiveTime::MIN).and_utc();
            if period.state == PeriodState::Open && end <= now {
                let runs = work.billing().runs(period.month).await?;
                work.payments().put_period(&period.closed(runs, draft)).await?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Delivers the bills of a tenant that the payment service does not have yet.
    pub(super) async fn deliver_bills(&self, tenant: &str) -> Result<()> {
        let scope = &Scope::of_tenant(tenant);
        let mut work = self.store.read(scope).await?;
        let bills = work.payments().unsettled().await?;
        let customer = work.billing().subscription().await?.customer_id;
        drop(work);
        for bill in bills {
            match (bill.state, &customer) {
                (PeriodState::Pending, Some(customer)) => self.deliver(scope, customer, bill).await?,
                (PeriodState::Pending, None) => {
                    tracing::error!(tenant, month = bill.name(), "a bill has no customer");
                }
                (PeriodState::Unclear, _) => {
                    tracing::error!(tenant, month = bill.name(), "look at Stripe whether this overage was billed");
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn deliver(&self, scope: &Scope, customer_id: &str, bill: OveragePeriod) -> Result<()> {
        let Some(payments) = self.billing.payments.as_deref() else { return Ok(()) };
        let now = self.clock.now();
        // The mark first: after a crash nobody knows whether the payment service was told.
        let earlier = bill.attempted_at;
        let attempted_at = Some(bill.attempted_at.unwrap_or(now));
        if bill.attempted_at.is_some_and(|at| now - at > REMEMBERED) {
            let unclear = OveragePeriod { state: PeriodState::Unclear, ..bill };
            tracing::error!(tenant = scope.tenant(), month = unclear.name(), "nobody knows whether this was billed");
            return self.put_bill(scope, &unclear).await;
        }
        let bill = OveragePeriod { attempted_at, ..bill };
        self.put_bill(scope, &bill).await?;
        let (month, text) = (bill.name(), bill.text());
        let charge = Charge {
            customer_id,
            tenant: scope.tenant(),
            month: &month,
            amount_cents: i64::try_from(bill.amount_cents).unwrap_or(i64::MAX),
            text: &text,
            invoice_id: bill.invoice_id.as_deref(),
        };
        let outcome = payments.charge(&charge, &once(scope.tenant(), &bill)).await;
        let after = match outcome {
            Ok(item_id) => {
                tracing::info!(tenant = scope.tenant(), month, cents = bill.amount_cents, item_id, "overage is billed");
                OveragePeriod { state: PeriodState::Invoiced, item_id: Some(item_id), ..bill }
            }
            Err(error @ PaymentError::Silent(_)) => {
                tracing::warn!(tenant = scope.tenant(), month, ?error, "a bill may have been delivered or not");
                return Ok(());
            }
            // The draft may be closed by now: then on the next invoice.
            Err(error) => {
                tracing::warn!(tenant = scope.tenant(), month, ?error, "a bill could not be delivered");
                let is_refused = matches!(error, PaymentError::Refused { .. });
                let invoice_id = bill.invoice_id.clone().filter(|_| !is_refused);
                // An earlier attempt without an answer stays in doubt, unless Stripe has understood and refused this one.
                let attempted_at = earlier.filter(|_| !is_refused);
                OveragePeriod { attempted_at, invoice_id, ..bill }
            }
        };
        self.put_bill(scope, &after).await
    }

    async fn put_bill(&self, scope: &Scope, bill: &OveragePeriod) -> Result<()> {
        again(|| async move {
            let mut work = self.store.begin(scope).await?;
            // Another server may have delivered it meanwhile.
            let current = work.payments().period(bill.month).await?;
            if current.is_none_or(|current| current.state == PeriodState::Pending) {
                work.payments().put_period(bill).await?;
                work.commit().await?;
            }
            Ok(())
        })
        .await
    }
}

/// The key under which the payment service takes a bill once.
fn once(tenant: &str, bill: &OveragePeriod) -> String {
    let tenant = &hex::encode(crate::domain::text::digest(tenant))[..32];
    let place = if bill.invoice_id.is_some() { "draft" } else { "next" };
    format!("engramia-overage-{tenant}-{}-{place}", bill.name())
}
