//! What an event says, of which only a few members matter. Everything else may be there or not: the payment service adds
//! and moves members from version to version.

use serde_json::Value;

use crate::domain::Timestamp;
use crate::domain::payment::{Bought, PaymentEvent, PaymentKind};

/// Longest id or word.
const LONGEST: usize = 255;

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Notice {
    /// Its type.
    pub(super) kind: String,
    /// The customer that it is about, if it matters here.
    pub(super) customer: Option<String>,
    /// The tenant that it names.
    pub(super) tenant: Option<String>,
    /// What is recorded of it.
    pub(super) event: Option<PaymentEvent>,
    /// Id of the draft of an invoice that begins a new period.
    pub(super) draft: Option<String>,
}

/// Reads an event; `None` if it is none, or lacks what one of its type must have.
pub(super) fn notice(body: &[u8]) -> Option<Notice> {
    let event: Value = serde_json::from_slice(body).ok()?;
    let kind = word(&event["type"])?;
    let known = match kind.as_str() {
        "customer.subscription.created" => Some(PaymentKind::SubscriptionCreated),
        "customer.subscription.updated" => Some(PaymentKind::SubscriptionUpdated),
        "customer.subscription.deleted" => Some(PaymentKind::SubscriptionDeleted),
        "invoice.payment_failed" => Some(PaymentKind::PaymentFailed),
        "invoice.paid" => Some(PaymentKind::Paid),
        "invoice.created" | "checkout.session.completed" => None,
        _ => return Some(Notice { kind, customer: None, tenant: None, event: None, draft: None }),
    };
    let object = event["data"]["object"].as_object().map(|_| &event["data"]["object"])?;
    // A purchase without a customer is not ours.
    let customer = word(&object["customer"]).or_else(|| word(&object["customer"]["id"]));
    if customer.is_none() && known.is_some() {
        return None;
    }
    let recorded = match known {
        None => None,
        Some(kind) => Some(PaymentEvent {
            id: word(&event["id"])?,
            created: time(&event["created"])?,
            kind,
            bought: match kind {
                PaymentKind::PaymentFailed | PaymentKind::Paid => None,
                _ => Some(bought(object)?),
            },
        }),
    };
    let is_draft = kind == "invoice.created" && object["billing_reason"] == "subscription_cycle";
    Some(Notice {
        customer,
        // Not `client_reference_id`: whoever buys by a link of Stripe's own chooses that.
        tenant: word(&object["metadata"]["tenant_id"]),
        event: recorded,
        draft: if is_draft { word(&object["id"]) } else { None },
        kind,
    })
}

fn bought(subscription: &Value) -> Option<Bought> {
    let item = &subscription["items"]["data"][0];
    let (price, plan) = (&item["price"], &item["plan"]);
    let first = |places: &[&Value]| places.iter().find_map(|value| word(value));
    let period = |name: &str| time(&item[name]).or_else(|| time(&subscription[name]));
    // The price before the subscription: a change of plan in the portal leaves the metadata of the subscription.
    let named = first(&[
        &price["metadata"]["plan_tier"],
        &subscription["metadata"]["plan_tier"],
        &plan["metadata"]["plan_tier"],
    ]);
    let interval = first(&[&price["recurring"]["interval"], &plan["interval"], &subscription["plan"]["interval"]]);
    Some(Bought {
        subscription_id: word(&subscription["id"])?,
        status: word(&subscription["status"])?,
        interval: interval.and_then(|interval| interval.parse().ok()),
        price_id: first(&[&price["id"], &plan["id"], &subscription["plan"]["id"]]),
        plan: named.and_then(|plan| plan.parse().ok()),
        period_start: period("current_period_start"),
        period_end: period("current_period_end"),
    })
}

/// A short text of printable ASCII: ids, types and words.
fn word(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let sound = (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    sound.then(|| text.to_owned())
}

/// Seconds since the epoch, in years that both stores can hold.
fn time(value: &Value) -> Option<Timestamp> {
    let seconds = value.as_i64().filter(|seconds| (0..=253_402_300_799).contains(seconds))?;
    Timestamp::from_timestamp(seconds, 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::Plan;
    use crate::domain::subscription::Interval;

    fn read(value: &Value) -> Option<Notice> {
        notice(value.to_string().as_bytes())
    }

    fn subscription() -> Value {
        json!({
            "id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "active",
            "metadata": { "tenant_id": "acme", "plan_tier": "pro" },
            "items": { "data": [{
                "current_period_start": 1_700_000_000, "current_period_end": 1_702_592_000,
                "price": { "id": "price_1", "recurring": { "interval": "year" }, "metadata": { "plan_tier": "team" } },
            }] },
        })
    }

    fn event(kind: &str, object: Value) -> Value {
        json!({ "id": "evt_1", "type": kind, "created": 1_700_000_001, "data": { "object": object } })
    }

    #[test]
    fn a_subscription_is_read_from_its_first_item() {
        let notice = read(&event("customer.subscription.updated", subscription())).expect("readable");
        assert_eq!((notice.customer.as_deref(), notice.tenant.as_deref()), (Some("cus_1"), Some("acme")));
        let bought = notice.event.expect("recorded").bought.expect("a subscription");
        assert_eq!((bought.plan, bought.interval), (Some(Plan::Team), Some(Interval::Year)));
        assert_eq!(bought.period_end.map(|end| end.timestamp()), Some(1_702_592_000));
        assert_eq!(bought.price_id.as_deref(), Some("price_1"));
    }

    #[test]
    fn older_versions_have_the_period_at_the_root_and_a_plan_instead_of_a_price() {
        let mut old = subscription();
        old["items"] = json!({ "data": [{ "plan": { "id": "price_0", "interval": "month" } }] });
        old["current_period_end"] = json!(1_702_592_000);
        old["customer"] = json!({ "id": "cus_1", "object": "customer" });
        let notice = read(&event("customer.subscription.created", old)).expect("readable");
        let bought = notice.event.expect("recorded").bought.expect("a subscription");
        assert_eq!((bought.price_id.as_deref(), bought.plan), (Some("price_0"), Some(Plan::Pro)));
        assert_eq!((bought.interval, notice.customer.as_deref()), (Some(Interval::Month), Some("cus_1")));
        assert!(bought.period_end.is_some() && bought.period_start.is_none());
    }

    #[test]
    fn a_plan_of_an_unknown_name_is_none() {
        let mut odd = subscription();
        odd["items"]["data"][0]["price"]["metadata"]["plan_tier"] = json!("gold");
        let notice = read(&event("customer.subscription.updated", odd)).expect("readable");
        assert_eq!(notice.event.and_then(|event| event.bought).expect("a subscription").plan, None);
    }

    #[test]
    fn purchases_and_new_periods_are_told_apart_from_the_rest() {
        let session = json!({ "customer": "cus_1", "metadata": { "tenant_id": "acme" } });
        let notice = read(&event("checkout.session.completed", session)).expect("readable");
        assert_eq!((notice.tenant.as_deref(), &notice.event), (Some("acme"), &None));
        let session = read(&event("checkout.session.completed", json!({ "customer": null }))).expect("readable");
        assert_eq!(session.customer, None);
        let invoice = |reason| json!({ "id": "in_1", "customer": "cus_1", "billing_reason": reason });
        let cycle = read(&event("invoice.created", invoice("subscription_cycle"))).expect("readable");
        assert_eq!(cycle.draft.as_deref(), Some("in_1"));
        assert_eq!(read(&event("invoice.created", invoice("manual"))).expect("readable").draft, None);
        assert_eq!(read(&json!({ "type": "ping" })).expect("readable").customer, None);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let mut wrong = vec![json!([]), json!({}), json!({ "type": 5 }), json!({ "type": "" })];
        for (name, value) in [
            ("id", json!(null)),
            ("id", json!("a\u{0}b")),
            ("id", json!("x".repeat(256))),
            ("created", json!("now")),
            ("created", json!(-1)),
            ("created", json!(1e40)),
            ("data", json!([])),
            ("data", json!({ "object": "x" })),
        ] {
            let mut event = event("customer.subscription.updated", subscription());
            event[name] = value;
            wrong.push(event);
        }
        for (name, value) in
            [("customer", json!(5)), ("id", json!("")), ("status", json!(null)), ("status", json!("\u{1}"))]
        {
            let mut odd = subscription();
            odd[name] = value;
            wrong.push(event("customer.subscription.updated", odd));
        }
        wrong.push(event("invoice.paid", json!({ "customer": null })));
        for event in wrong {
            assert_eq!(read(&event), None, "{event}");
        }
        for bytes in [&b"{"[..], b"", b"\xff", b"null"] {
            assert_eq!(notice(bytes), None);
        }
    }
}
