//! What the original's rows about billing mean (`spec/engramia/50`, tables): they become the account of their tenant, where
//! it has none yet. What cannot be read is left as the carried row that it is.

use serde_json::Value;

use crate::domain::subscription::Overage;
use crate::domain::time::parse_iso;
use crate::domain::{Month, Plan, Subscription, Timestamp};
use crate::store::copy::CarriedRow;
use crate::store::{Result, Work};

/// What the original counts evaluations as.
const EVAL_RUNS: &str = "eval_runs";

/// Takes a row over into the account of the tenant of a unit of work.
pub(super) async fn adopt(work: &mut dyn Work, row: &CarriedRow) -> Result<()> {
    let Ok(data) = serde_json::from_str::<Value>(&row.data) else { return Ok(()) };
    match row.source.as_str() {
        "billing_subscriptions" => {
            let known = work.billing().subscription().await?;
            if let Some(subscription) = subscription(&data).filter(|_| known == Subscription::none()) {
                work.billing().put_subscription(&subscription).await?;
            }
        }
        "overage_settings" if data["metric"] == EVAL_RUNS => {
            let mut known = work.billing().subscription().await?;
            let overage = Overage { enabled: data["enabled"] == true, cap_cents: data["budget_cap_cents"].as_u64() };
            let may_be = known.plan.terms().overage.is_some_and(|terms| terms.uncapped || overage.cap_cents.is_some());
            if may_be && known.overage == Overage::default() {
                known.overage = overage;
                work.billing().put_subscription(&known).await?;
            }
        }
        "usage_counters" if data["metric"] == EVAL_RUNS => {
            let year = data["year"].as_i64().and_then(|year| year.try_into().ok());
            let month = data["month"].as_u64().and_then(|month| month.try_into().ok());
            let month = year.zip(month).and_then(|(year, month)| Month::new(year, month));
            if let Some((month, runs)) = month.zip(data["count"].as_u64()) {
                work.billing().adopt_runs(month, runs).await?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn subscription(data: &Value) -> Option<Subscription> {
    let text = |name: &str| data[name].as_str().map(str::to_owned);
    let time = |name: &str| -> Option<Timestamp> { parse_iso(data[name].as_str()?) };
    let plan: Plan = data["plan_tier"].as_str()?.parse().ok()?;
    let status = text("status").unwrap_or_else(|| Subscription::ACTIVE.to_owned());
    let subscription = Subscription {
        interval: data["billing_interval"]
            .as_str()
            .and_then(|word| word.parse().ok())
            .unwrap_or(Subscription::none().interval),
        customer_id: text("stripe_customer_id"),
        ..Subscription::none()
    };
    // The original locks out whoever has cancelled; here that is the Sandbox.
    if status == "canceled" {
        return Some(Subscription { canceled_at: time("updated_at"), ..subscription });
    }
    Some(Subscription {
        plan,
        status,
        subscription_id: text("stripe_subscription_id"),
        period_start: time("current_period_start"),
        period_end: time("current_period_end"),
        past_due_since: time("past_due_since"),
        ..subscription
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_says_what_was_bought() {
        let data = json!({
            "plan_tier": "team", "status": "past_due", "billing_interval": "year", "stripe_customer_id": "cus_1",
            "stripe_subscription_id": "sub_1", "current_period_end": "2026-05-01T00:00:00Z",
            "past_due_since": "2026-04-02T00:00:00Z",
        });
        let read = subscription(&data).expect("a subscription");
        assert_eq!((read.plan, read.status.as_str(), read.interval.as_str()), (Plan::Team, "past_due", "year"));
        assert_eq!(read.past_due_since, parse_iso("2026-04-02T00:00:00Z"));
        let gone = subscription(&json!({ "plan_tier": "pro", "status": "canceled", "stripe_customer_id": "cus_1" }));
        let gone = gone.expect("a subscription");
        assert_eq!(
            (gone.plan, gone.status.as_str(), gone.customer_id.as_deref()),
            (Plan::Sandbox, "active", Some("cus_1"))
        );
        assert_eq!(subscription(&json!({ "plan_tier": "gold" })), None);
    }
}
