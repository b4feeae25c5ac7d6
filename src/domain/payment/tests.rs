//! The fold over events: what single stories mean, and that their order of arrival means nothing.

use chrono::{DateTime, TimeDelta};
use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_790_000_000 + second)
}

fn event(number: i64, second: i64, kind: PaymentKind) -> PaymentEvent {
    PaymentEvent { id: format!("evt_{number:04}"), created: at(second), kind, bought: None }
}

fn bought(status: &str, plan: Option<Plan>) -> Bought {
    Bought {
        subscription_id: "sub_1".into(),
        status: status.into(),
        interval: Some(Interval::Month),
        price_id: Some("price_1".into()),
        plan,
        period_start: None,
        period_end: None,
    }
}

fn changed(number: i64, second: i64, kind: PaymentKind, bought: Bought) -> PaymentEvent {
    PaymentEvent { bought: Some(bought), ..event(number, second, kind) }
}

use PaymentKind::{Paid, PaymentFailed, SubscriptionCreated, SubscriptionDeleted, SubscriptionUpdated};

fn state(events: &[PaymentEvent]) -> Subscription {
    fold(events, &Prices::new()).subscription("cus_1", &Subscription::none())
}

#[test]
fn a_purchase_a_failure_and_a_cancellation_are_told_as_the_guide_tells_them() {
    let mut events = vec![changed(1, 0, SubscriptionCreated, bought("active", Some(Plan::Pro)))];
    assert_eq!((state(&events).plan, state(&events).status.as_str()), (Plan::Pro, "active"));
    events.push(event(2, 10, PaymentFailed));
    events.push(changed(3, 10, SubscriptionUpdated, bought("past_due", Some(Plan::Pro))));
    events.push(event(4, 99, PaymentFailed));
    let due = state(&events);
    assert_eq!((due.status.as_str(), due.past_due_since), ("past_due", Some(at(10))), "since the first failure");
    let paid = state(&[&events[..], &[event(5, 100, Paid)]].concat());
    assert_eq!((paid.status.as_str(), paid.past_due_since), ("active", None));
    events.push(changed(6, 200, SubscriptionDeleted, bought("canceled", Some(Plan::Pro))));
    let over = state(&events);
    assert_eq!((over.plan, over.status.as_str()), (Plan::Sandbox, "active"), "a Sandbox that can be used");
    assert_eq!((over.canceled_at, over.past_due_since), (Some(at(200)), None));
    events.push(changed(7, 300, SubscriptionCreated, bought("active", Some(Plan::Team))));
    assert_eq!((state(&events).plan, state(&events).canceled_at), (Plan::Team, Some(at(200))));
}

#[test]
fn a_first_payment_that_fails_blocks_nobody() {
    let events =
        [changed(1, 0, SubscriptionCreated, bought("incomplete", Some(Plan::Team))), event(2, 1, PaymentFailed)];
    let waiting = state(&events);
    assert_eq!((waiting.plan, waiting.status.as_str()), (Plan::Sandbox, "incomplete"));
    assert_eq!(waiting.past_due_since, None);
    let expired = changed(3, 2, SubscriptionUpdated, bought("incomplete_expired", Some(Plan::Team)));
    assert_eq!(state(&[&events[..], &[expired]].concat()).status, "active");
}

#[test]
fn a_status_that_says_past_due_starts_the_clock_by_itself() {
    let events = [changed(1, 5, SubscriptionUpdated, bought("past_due", Some(Plan::Pro)))];
    assert_eq!(state(&events).past_due_since, Some(at(5)));
    let active = changed(2, 6, SubscriptionUpdated, bought("active", Some(Plan::Pro)));
    assert_eq!(state(&[&events[..], &[active]].concat()).status, "active");
}

#[test]
fn the_price_decides_then_the_metadata_and_nothing_is_guessed() {
    let events = |plan| [changed(1, 0, SubscriptionCreated, bought("active", plan))];
    let prices = Prices::from([("price_1".to_owned(), Plan::Team)]);
    assert_eq!(fold(&events(Some(Plan::Pro)), &prices).plan, Plan::Team);
    assert_eq!(fold(&events(Some(Plan::Pro)), &Prices::new()).plan, Plan::Pro);
    assert_eq!(fold(&events(None), &Prices::new()).plan, Plan::Sandbox);
}

#[test]
fn an_older_subscription_that_ends_leaves_the_newer_one() {
    let newer = Bought { subscription_id: "sub_2".into(), ..bought("active", Some(Plan::Team)) };
    let events = [
        changed(1, 0, SubscriptionCreated, bought("active", Some(Plan::Pro))),
        changed(2, 10, SubscriptionCreated, newer),
        changed(3, 20, SubscriptionDeleted, bought("canceled", Some(Plan::Pro))),
    ];
    assert_eq!((state(&events).plan, state(&events).subscription_id.as_deref()), (Plan::Team, Some("sub_2")));
}

#[test]
fn a_subscription_that_is_older_than_the_events_stays() {
    let before = Subscription { plan: Plan::Pro, ..Subscription::none() };
    let after = |events: &[PaymentEvent]| fold(events, &Prices::new()).subscription("cus_1", &before);
    assert_eq!(after(&[]), Subscription { customer_id: Some("cus_1".into()), ..before.clone() });
    let failed = after(&[event(1, 5, PaymentFailed)]);
    assert_eq!((failed.plan, failed.status.as_str(), failed.past_due_since), (Plan::Pro, "past_due", Some(at(5))));
    let paid = after(&[event(1, 5, PaymentFailed), event(2, 6, Paid)]);
    assert_eq!((paid.plan, paid.status.as_str(), paid.past_due_since), (Plan::Pro, "active", None));
}

#[test]
fn a_wish_for_overage_does_not_outlive_what_allows_it() {
    let wish = Overage { enabled: true, cap_cents: None };
    assert_eq!(overage_under(Plan::Team, wish), wish);
    assert_eq!(overage_under(Plan::Pro, wish), Overage::default());
    let capped = Overage { enabled: true, cap_cents: Some(500) };
    assert_eq!(overage_under(Plan::Pro, capped), capped);
    assert_eq!(overage_under(Plan::Sandbox, capped), Overage::default());
}

/// A story in the order in which it happened; some things happen in the same second.
fn stories() -> impl Strategy<Value = Vec<PaymentEvent>> {
    let statuses =
        ["active", "trialing", "past_due", "unpaid", "incomplete", "incomplete_expired", "canceled", "paused"];
    let plans = [None, Some(Plan::Sandbox), Some(Plan::Pro), Some(Plan::Team), Some(Plan::Enterprise)];
    let step = (0i64..3, 0usize..5, 0usize..statuses.len(), 0usize..plans.len(), 1u8..3);
    prop::collection::vec(step, 0..14).prop_map(move |steps| {
        let mut second = 0;
        let events = steps.into_iter().enumerate().map(|(number, (later, kind, status, plan, subscription))| {
            second += later;
            let number = number as i64;
            match [PaymentFailed, Paid, SubscriptionUpdated, SubscriptionDeleted, SubscriptionCreated][kind] {
                kind @ (PaymentFailed | Paid) => event(number, second, kind),
                kind => {
                    let bought = bought(statuses[status], plans[plan]);
                    changed(number, second, kind, Bought { subscription_id: format!("sub_{subscription}"), ..bought })
                }
            }
        });
        events.collect()
    })
}

/// A story, and the places of its events in the order in which they are delivered, each once and some again.
fn deliveries() -> impl Strategy<Value = (Vec<PaymentEvent>, Vec<usize>)> {
    stories().prop_flat_map(|story| {
        let count = story.len();
        let again = prop::collection::vec(0..count.max(1), 0..6);
        again.prop_flat_map(move |again| {
            let places: Vec<usize> = (0..count).chain(again.into_iter().filter(|place| *place < count)).collect();
            (Just(story.clone()), Just(places).prop_shuffle())
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_final_state_is_that_of_one_delivery_in_order((story, places) in deliveries()) {
        let delivered: Vec<PaymentEvent> = places.iter().map(|place| story[*place].clone()).collect();
        prop_assert_eq!(state(&delivered), state(&story));
    }
}
