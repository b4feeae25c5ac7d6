//! What evaluations beyond the limit cost in one calendar month: the terms while it lasts, the bill when it is over.

use super::subscription::{Month, Subscription};
use super::{Timestamp, words};

words! {
    /// How far a month is.
    PeriodState {
        /// It lasts, or was not looked at since it ended.
        Open = "open",
        /// There is nothing to pay.
        Free = "free",
        /// There is something to pay, which the payment service does not know yet.
        Pending = "pending",
        /// The payment service has it.
        Invoiced = "invoiced",
        /// The payment service was told and did not answer, too long ago to tell it again: somebody has to look.
        Unclear = "unclear"
    }
}

/// A month in which a tenant pays for evaluations beyond the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OveragePeriod {
    /// Which.
    pub month: Month,
    /// How far it is.
    pub state: PeriodState,
    /// Evaluations that the plan includes.
    pub included: u64,
    /// Evaluations of a block.
    pub block: u64,
    /// Price of a block in cents.
    pub price_cents: u64,
    /// The most to pay.
    pub cap_cents: Option<u64>,
    /// Evaluations beyond the limit; once it is over.
    pub excess: u64,
    /// What is to be paid; once it is over.
    pub amount_cents: u64,
    /// The draft of an invoice that it shall stand on.
    pub invoice_id: Option<String>,
    /// Id of the invoice item at the payment service.
    pub item_id: Option<String>,
    /// When the payment service was told first without an answer that settles it.
    pub attempted_at: Option<Timestamp>,
}

impl OveragePeriod {
    /// More evaluations than a month can have; as both stores can keep it.
    const UNLIMITED: u64 = i64::MAX as u64;

    /// The month under the terms of a subscription, after so many evaluations; `None` where there is nothing to note. More
    /// than one plan in a month: the limit is the greatest of them, the rest goes by the newest; what earlier terms have
    /// cost so far is owed whatever the new cap says. A month that is over stays as it is.
    pub fn under(subscription: &Subscription, month: Month, before: Option<&Self>, runs: u64) -> Option<Self> {
        if before.is_some_and(|before| before.state != PeriodState::Open) {
            return None;
        }
        let included = subscription.plan.terms().eval_runs.unwrap_or(Self::UNLIMITED);
        let included = before.map_or(included, |before| before.included.max(included));
        let Some(terms) = subscription.overage_terms() else {
            return before.map(|before| Self { included, ..before.clone() });
        };
        let owed = before.map_or(0, |before| before.clone().closed(runs, None).amount_cents);
        Some(Self {
            month,
            state: PeriodState::Open,
            included,
            block: terms.block,
            price_cents: terms.price_cents,
            cap_cents: subscription.overage.cap_cents.map(|cap| cap.max(owed)),
            excess: 0,
            amount_cents: 0,
            invoice_id: None,
            item_id: None,
            attempted_at: None,
        })
    }

    /// The month after its end, with so many evaluations: whole blocks, at most the cap.
    pub fn closed(self, runs: u64, invoice_id: Option<&str>) -> Self {
        let excess = runs.saturating_sub(self.included);
        let cost = (excess / self.block.max(1)).saturating_mul(self.price_cents);
        let amount_cents = self.cap_cents.map_or(cost, |cap| cost.min(cap));
        let state = if amount_cents == 0 { PeriodState::Free } else { PeriodState::Pending };
        Self { state, excess, amount_cents, invoice_id: invoice_id.map(str::to_owned), ..self }
    }

    /// What stands on the invoice.
    pub fn text(&self) -> String {
        let (excess, block) = (self.excess, self.block);
        format!("Engramia overage: {excess} eval runs ({} x {block} run blocks)", excess / block.max(1))
    }

    /// `2026-10`.
    pub fn name(&self) -> String {
        format!("{:04}-{:02}", self.month.year(), self.month.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::plan::Plan;
    use crate::domain::subscription::Overage;

    fn subscribed(plan: Plan, cap_cents: Option<u64>) -> Subscription {
        Subscription { plan, overage: Overage { enabled: true, cap_cents }, ..Subscription::none() }
    }

    #[test]
    fn whole_blocks_are_billed_and_no_more_than_the_cap() {
        let month = Month::of(Timestamp::UNIX_EPOCH);
        let period = OveragePeriod::under(&subscribed(Plan::Pro, Some(1_200)), month, None, 0).expect("overage");
        let bill = |runs| {
            let closed = period.clone().closed(runs, None);
            (closed.state, closed.amount_cents)
        };
        assert_eq!(bill(0), (PeriodState::Free, 0));
        assert_eq!(bill(3_499), (PeriodState::Free, 0), "no whole block");
        assert_eq!(bill(3_500), (PeriodState::Pending, 500));
        assert_eq!(bill(4_600), (PeriodState::Pending, 1_200), "the cap");
        let closed = period.closed(4_600, Some("in_1"));
        assert_eq!(closed.text(), "Engramia overage: 1600 eval runs (3 x 500 run blocks)");
        assert_eq!((closed.name().as_str(), closed.invoice_id.as_deref()), ("1970-01", Some("in_1")));
    }

    #[test]
    fn a_month_with_two_plans_has_the_greater_limit() {
        let month = Month::of(Timestamp::UNIX_EPOCH);
        let team = OveragePeriod::under(&subscribed(Plan::Team, None), month, None, 0).expect("overage");
        let pro = OveragePeriod::under(&subscribed(Plan::Pro, Some(500)), month, Some(&team), 0).expect("overage");
        assert_eq!((pro.included, pro.block, pro.cap_cents), (15_000, 500, Some(500)));
        assert!(OveragePeriod::under(&subscribed(Plan::Sandbox, None), month, None, 0).is_none());
        let off = Subscription { overage: Overage::default(), ..subscribed(Plan::Pro, Some(500)) };
        assert!(OveragePeriod::under(&off, month, None, 0).is_none());
    }

    #[test]
    fn a_larger_plan_without_overage_raises_the_limit_of_the_month() {
        let month = Month::of(Timestamp::UNIX_EPOCH);
        let pro = OveragePeriod::under(&subscribed(Plan::Pro, Some(5_000)), month, None, 0).expect("overage");
        let after = |plan| {
            let off = Subscription { overage: Overage::default(), ..subscribed(plan, None) };
            OveragePeriod::under(&off, month, Some(&pro), 0).expect("noted")
        };
        assert_eq!(after(Plan::Sandbox), pro);
        assert_eq!(after(Plan::Team).included, 15_000);
        assert_eq!(after(Plan::Enterprise).closed(9_000_000, None).state, PeriodState::Free);
    }

    #[test]
    fn a_lower_cap_does_not_take_back_what_is_owed() {
        let month = Month::of(Timestamp::UNIX_EPOCH);
        let before = OveragePeriod::under(&subscribed(Plan::Pro, Some(5_000)), month, None, 0).expect("overage");
        let lowered = |cap, runs| OveragePeriod::under(&subscribed(Plan::Pro, Some(cap)), month, Some(&before), runs);
        assert_eq!(lowered(0, 4_000).expect("noted").cap_cents, Some(1_000));
        assert_eq!(lowered(0, 99_000).expect("noted").cap_cents, Some(5_000), "no more than it was");
        assert_eq!(lowered(9_000, 4_000).expect("noted").cap_cents, Some(9_000));
        let over = before.clone().closed(4_000, None);
        assert_eq!(OveragePeriod::under(&subscribed(Plan::Pro, Some(0)), month, Some(&over), 4_000), None);
    }
}
