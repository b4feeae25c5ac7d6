//! What the payment service tells of a customer, and what follows from all of it.
//!
//! Events come twice, late and in any order. The state of an account is therefore never changed by an event: it is
//! worked out from all events of the customer, in an order that depends on the events alone ([`fold`]).

use std::collections::BTreeMap;

use super::plan::Plan;
use super::subscription::{Interval, Overage, Subscription};
use super::{Timestamp, words};

words! {
    /// What an event says.
    PaymentKind {
        SubscriptionCreated = "subscription_created",
        SubscriptionUpdated = "subscription_updated",
        SubscriptionDeleted = "subscription_deleted",
        PaymentFailed = "payment_failed",
        Paid = "paid"
    }
}

/// An event of a customer, without anything that the account does not need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentEvent {
    /// Its id at the payment service.
    pub id: String,
    /// When it happened, to the second.
    pub created: Timestamp,
    /// What happened.
    pub kind: PaymentKind,
    /// The subscription after it; in events about subscriptions.
    pub bought: Option<Bought>,
}

/// A subscription as an event shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bought {
    /// Its id.
    pub subscription_id: String,
    /// Its status, in the words of the payment service.
    pub status: String,
    /// How often it is paid.
    pub interval: Option<Interval>,
    /// What is bought.
    pub price_id: Option<String>,
    /// The plan that its metadata name, if they name one.
    pub plan: Option<Plan>,
    /// Begin of the period that is paid.
    pub period_start: Option<Timestamp>,
    /// End of the period that is paid.
    pub period_end: Option<Timestamp>,
}

/// Plans by the ids of their prices.
pub type Prices = BTreeMap<String, Plan>;

/// What follows from the events of a customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The subscription that counts, if there is one.
    pub bought: Option<Bought>,
    /// What it gives.
    pub plan: Plan,
    /// Since when a payment is due.
    pub past_due_since: Option<Timestamp>,
    /// When a subscription was cancelled last.
    pub canceled_at: Option<Timestamp>,
    /// Whether an event says anything about subscriptions, and about payments.
    told: (bool, bool),
}

impl Bought {
    /// Whether it gives its plan: it was paid for once. A first payment that is under way gives nothing yet.
    fn is_entitled(&self) -> bool {
        matches!(self.status.as_str(), "active" | "trialing" | "past_due" | "unpaid")
    }

    /// Whether it has come to its end.
    fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "canceled" | "incomplete_expired")
    }

    /// By its price, else by its metadata. What neither of them names is no paid plan.
    fn plan(&self, prices: &Prices) -> Plan {
        let by_price = self.price_id.as_ref().and_then(|price| prices.get(price)).copied();
        by_price.or(self.plan).unwrap_or(Plan::Sandbox)
    }
}

impl PaymentEvent {
    /// Place in the order of events: what happened in the same second goes by what must come first, then by the id.
    fn order(&self) -> (Timestamp, u8, &str) {
        let begins = self.kind == PaymentKind::SubscriptionCreated;
        let incomplete = self.bought.as_ref().is_some_and(|bought| bought.status == "incomplete");
        (
            self.created,
            if begins {
                0
            } else if incomplete {
                1
            } else {
                2
            },
            &self.id,
        )
    }
}

/// The account of a customer after these events, whatever their order; an event that comes twice counts once.
pub fn fold(events: &[PaymentEvent], prices: &Prices) -> Account {
    let mut events: Vec<&PaymentEvent> = events.iter().collect();
    events.sort_by_key(|event| event.order());
    events.dedup_by_key(|event| &event.id);
    // Subscriptions that are not over, in the order of their newest events.
    let mut live: Vec<&Bought> = Vec::new();
    let (mut due, mut canceled_at) = (None, None);
    let is_about_payment = |event: &&PaymentEvent| matches!(event.kind, PaymentKind::PaymentFailed | PaymentKind::Paid);
    let told = (!events.iter().all(is_about_payment), events.iter().any(is_about_payment));
    for event in events {
        match (event.kind, &event.bought) {
            (PaymentKind::PaymentFailed, _) => due = due.or(Some(event.created)),
            (PaymentKind::Paid, _) => due = None,
            (kind, Some(bought)) => {
                live.retain(|other| other.subscription_id != bought.subscription_id);
                if kind == PaymentKind::SubscriptionDeleted || bought.status == "canceled" {
                    canceled_at = Some(event.created);
                } else if !bought.is_over() {
                    live.push(bought);
                    match bought.status.as_str() {
                        "active" | "trialing" => due = None,
                        "past_due" | "unpaid" => due = due.or(Some(event.created)),
                        _ => {}
                    }
                }
                if live.is_empty() {
                    due = None;
                }
            }
            (_, None) => {}
        }
    }
    // Whoever pays for two has the greater one. The sort is stable: of equal ones the one that changed last counts.
    live.sort_by_key(|bought| bought.is_entitled().then(|| bought.plan(prices)));
    let bought = live.pop().cloned();
    let entitled = bought.as_ref().filter(|bought| bought.is_entitled());
    let plan = entitled.map_or(Plan::Sandbox, |bought| bought.plan(prices));
    let past_due_since = if told.0 { entitled.and(due) } else { due };
    Account { plan, past_due_since, bought, canceled_at, told }
}

impl Account {
    /// Whether something is paid for that gives no plan.
    pub fn pays_for_nothing(&self) -> bool {
        self.plan == Plan::Sandbox && self.bought.as_ref().is_some_and(Bought::is_entitled)
    }

    /// The subscription of a tenant that is this customer.
    pub fn subscription(self, customer_id: &str, before: &Subscription) -> Subscription {
        let customer = Some(customer_id.to_owned());
        let Self { bought, plan, past_due_since, canceled_at, told } = self;
        if !told.0 {
            // Subscribed before anybody listened to events: they only tell of payments.
            let before = Subscription { customer_id: customer, ..before.clone() };
            let past_due_since = past_due_since.filter(|_| before.plan != Plan::Sandbox);
            return match (told.1, past_due_since) {
                (false, _) => before,
                (true, Some(_)) => Subscription { status: Subscription::PAST_DUE.to_owned(), past_due_since, ..before },
                (true, None) => Subscription { status: Subscription::ACTIVE.to_owned(), past_due_since, ..before },
            };
        }
        let status = match &bought {
            _ if past_due_since.is_some() => Subscription::PAST_DUE,
            // Paid again: the payment service says so of the subscription a moment later.
            Some(bought) if bought.is_entitled() && bought.status != "trialing" => Subscription::ACTIVE,
            Some(bought) => &bought.status,
            None => Subscription::ACTIVE,
        };
        Subscription {
            plan,
            status: status.to_owned(),
            interval: bought.as_ref().and_then(|bought| bought.interval).unwrap_or(Interval::Month),
            customer_id: customer,
            past_due_since,
            canceled_at: canceled_at.or(before.canceled_at),
            period_start: bought.as_ref().and_then(|bought| bought.period_start),
            period_end: bought.as_ref().and_then(|bought| bought.period_end),
            subscription_id: bought.as_ref().map(|bought| bought.subscription_id.clone()),
            price_id: bought.and_then(|bought| bought.price_id),
            overage: overage_under(plan, before.overage),
        }
    }
}

/// What is left of a tenant's wish under a plan: nothing where the plan has no overage, or asks for a cap that is not
/// there.
fn overage_under(plan: Plan, wish: Overage) -> Overage {
    match plan.terms().overage {
        Some(terms) if terms.uncapped || wish.cap_cents.is_some() => wish,
        _ => Overage::default(),
    }
}

#[cfg(test)]
mod tests;
