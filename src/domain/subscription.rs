//! What a tenant has subscribed to, and whether it is paid for (guide §6, `spec/engramia/40` §3 and §6).

use chrono::{Datelike, Months, NaiveDate, TimeDelta};

use super::plan::{OverageTerms, Plan};
use super::{Timestamp, words};

words! {
    /// How often it is paid.
    Interval { Month = "month", Year = "year" }
}

/// The subscription of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The plan.
    pub plan: Plan,
    /// In the words of the payment service; `active` without one.
    pub status: String,
    /// How often it is paid.
    pub interval: Interval,
    /// The tenant as a customer of the payment service.
    pub customer_id: Option<String>,
    /// Id of the subscription there.
    pub subscription_id: Option<String>,
    /// What is bought there.
    pub price_id: Option<String>,
    /// Begin of the period that is paid.
    pub period_start: Option<Timestamp>,
    /// End of the period that is paid.
    pub period_end: Option<Timestamp>,
    /// Since when a payment is due.
    pub past_due_since: Option<Timestamp>,
    /// When it was cancelled last.
    pub canceled_at: Option<Timestamp>,
    /// Evaluations beyond the plan's limit.
    pub overage: Overage,
}

/// Whether a tenant pays for evaluations beyond its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overage {
    /// Whether it does.
    pub enabled: bool,
    /// The most it pays a month, in cents; `None` for no cap.
    pub cap_cents: Option<u64>,
}

/// Whether a subscription is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Good,
    /// It is not, and everything still works.
    Grace {
        /// Full days left until it does not, rounded up.
        days_left: i64,
    },
    /// It is not, for too long.
    Unpaid,
}

/// How many evaluations a tenant may begin in a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunLimit {
    /// In all.
    pub most: u64,
    /// Of these, within the plan.
    pub included: u64,
    /// Whether a budget cap is what ends it.
    pub by_cap: bool,
}

impl Subscription {
    /// Status of a payment that is due.
    pub const PAST_DUE: &'static str = "past_due";
    /// Status of a subscription that works.
    pub const ACTIVE: &'static str = "active";
    /// Days that a payment may be due before access ends.
    pub const GRACE_DAYS: i64 = 7;

    /// Of a tenant that has subscribed to nothing.
    pub fn none() -> Self {
        Self {
            plan: Plan::Sandbox,
            status: Self::ACTIVE.to_owned(),
            interval: Interval::Month,
            customer_id: None,
            subscription_id: None,
            price_id: None,
            period_start: None,
            period_end: None,
            past_due_since: None,
            canceled_at: None,
            overage: Overage::default(),
        }
    }

    /// Whether it is paid for. One that is past due for an unknown time is unpaid.
    pub fn standing(&self, now: Timestamp) -> Standing {
        if self.status != Self::PAST_DUE {
            return Standing::Good;
        }
        let Some(since) = self.past_due_since else { return Standing::Unpaid };
        let left = since + TimeDelta::days(Self::GRACE_DAYS) - now;
        if left <= TimeDelta::zero() {
            return Standing::Unpaid;
        }
        let days_left = left.num_days() + i64::from(left > TimeDelta::days(left.num_days()));
        Standing::Grace { days_left: days_left.min(Self::GRACE_DAYS) }
    }

    /// How many evaluations may begin in a month; `None` for no limit.
    pub fn run_limit(&self) -> Option<RunLimit> {
        let included = self.plan.terms().eval_runs?;
        let Some(terms) = self.overage_terms() else {
            return Some(RunLimit { most: included, included, by_cap: false });
        };
        let most = included.saturating_add(terms.within(self.overage.cap_cents?));
        Some(RunLimit { most, included, by_cap: true })
    }

    /// What evaluations beyond the limit cost, if the tenant wishes them and its plan has them.
    pub fn overage_terms(&self) -> Option<OverageTerms> {
        self.plan.terms().overage.filter(|_| self.overage.enabled)
    }
}

/// A calendar month, UTC: what evaluations are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    first: NaiveDate,
}

impl Month {
    /// The month of a time.
    pub fn of(at: Timestamp) -> Self {
        let day = at.date_naive();
        Self { first: day.with_day(1).unwrap_or(day) }
    }

    /// A month of a year, 1 to 12.
    pub fn new(year: i32, number: u32) -> Option<Self> {
        Some(Self { first: NaiveDate::from_ymd_opt(year, number, 1)? })
    }

    /// Year of the common era.
    pub fn year(self) -> i32 {
        self.first.year()
    }

    /// 1 to 12.
    pub fn number(self) -> u32 {
        self.first.month()
    }

    /// The first day of the next month.
    pub fn next_begins(self) -> NaiveDate {
        self.first + Months::new(1)
    }

    /// The month before.
    pub fn before(self) -> Self {
        Self { first: self.first - Months::new(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn access_ends_seven_full_days_after_a_payment_was_due() {
        let due = at("2026-03-01T12:00:00Z");
        let past_due = Subscription { status: "past_due".into(), past_due_since: Some(due), ..Subscription::none() };
        for (now, standing) in [
            ("2026-03-01T12:00:00Z", Standing::Grace { days_left: 7 }),
            ("2026-03-06T12:00:00Z", Standing::Grace { days_left: 2 }),
            ("2026-03-08T11:59:59Z", Standing::Grace { days_left: 1 }),
            ("2026-03-08T12:00:00Z", Standing::Unpaid),
            ("2026-02-28T00:00:00Z", Standing::Grace { days_left: 7 }),
        ] {
            assert_eq!(past_due.standing(at(now)), standing, "{now}");
        }
        assert_eq!(Subscription { past_due_since: None, ..past_due.clone() }.standing(due), Standing::Unpaid);
        for status in ["active", "trialing", "unpaid", "incomplete"] {
            let other = Subscription { status: status.into(), ..past_due.clone() };
            assert_eq!(other.standing(at("2027-01-01T00:00:00Z")), Standing::Good);
        }
    }

    #[test]
    fn overage_raises_the_limit_up_to_its_cap_where_the_plan_has_it() {
        let of = |plan, enabled, cap_cents| {
            Subscription { plan, overage: Overage { enabled, cap_cents }, ..Subscription::none() }.run_limit()
        };
        let limit = |most, included, by_cap| Some(RunLimit { most, included, by_cap });
        assert_eq!(of(Plan::Sandbox, true, None), limit(500, 500, false));
        assert_eq!(of(Plan::Pro, false, Some(5_000)), limit(3_000, 3_000, false));
        assert_eq!(of(Plan::Pro, true, Some(5_000)), limit(8_000, 3_000, true));
        assert_eq!(of(Plan::Pro, true, Some(0)), limit(3_000, 3_000, true));
        assert_eq!(of(Plan::Team, true, None), None);
        assert_eq!(of(Plan::Team, true, Some(u64::MAX)), limit(u64::MAX, 15_000, true));
        assert_eq!(of(Plan::Enterprise, false, None), None);
    }

    #[test]
    fn months_follow_each_other() {
        let december = Month::of(at("2026-12-31T23:59:59Z"));
        assert_eq!((december.year(), december.number()), (2026, 12));
        assert_eq!(december.next_begins().to_string(), "2027-01-01");
        assert_eq!(Month::of(at("2027-01-01T00:00:00Z")).before(), december);
    }
}
